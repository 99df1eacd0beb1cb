import optuna
from prefect_optuna.flows import optimize


def objective(trial):
    x = trial.suggest_float("x", -15, 30)
    y = trial.suggest_float("y", -15, 30)
    c0 = (x - 5) ** 2 + y**2 - 25
    c1 = -((x - 8) ** 2) - (y + 3) ** 2 + 7.7
    trial.set_user_attr("constraint", (c0, c1))
    return 4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2


def constraints(trial):
    return trial.user_attrs["constraint"]


optimize(
    objective,
    study_name="again",
    n_trials=8,
    directions=["minimize", "minimize"],
    sampler=optuna.samplers.NSGAIISampler(constraints_func=constraints),
)
