import math
import optuna
from prefect_optuna.flows import optimize


def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    trial.study.set_user_attr("last", trial.number)
    done = trial.study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    best = trial.study.best_value if done else math.inf
    value = (x - 2) ** 2
    if value < best:
        trial.set_user_attr("improved", True)
        trial.study.set_user_attr("best_so_far", value)
    trial.set_user_attr("n_before", len(done))
    assert trial.study.study_name
    trial.storage.get_n_trials(trial.study._study_id)
    return value


optimize(objective, study_name="again", n_trials=6)
