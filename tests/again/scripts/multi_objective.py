import numpy as np, optuna
from optuna.samplers import TPESampler
from prefect_optuna import optimize
import random

random.seed(3)
np.random.seed(42)
noise = np.random.randn(5)


def objective(trial):
    x = trial.suggest_float("x", 0, 5)
    y = trial.suggest_int("y", 0, 3)
    if trial.suggest_categorical("flag", [True, False]):
        z = trial.suggest_float("z", 0, 1, step=0.1)
    else:
        z = random.choice(noise)
    trial.set_user_attr("arr", noise.tolist())
    trial.set_user_attr("npv", float(np.float64(x)))
    trial.set_constraint = None
    c = x + y - 6
    trial.set_user_attr("c", (c,))
    return 4 * x**2 + y + np.random.rand(), (x - 5) ** 2 + z


def con(t):
    return t.user_attrs["c"]


optimize(
    objective,
    study_name="again",
    n_trials=6,
    directions=["minimize", "maximize"],
    sampler=TPESampler(constraints_func=con),
)
