import itertools, numpy as np, random
from prefect_optuna import optimize

CNT = itertools.count(5)
CYC = itertools.cycle([1, 2, 3])
rng = np.random.default_rng()
rs = np.random.RandomState()
pr = random.Random()


def objective(trial):
    return (
        trial.suggest_float("x", 0, 1)
        + rng.normal()
        + rs.rand()
        + pr.random()
        + next(CNT)
        + next(CYC)
    )


optimize(objective, study_name="again", n_trials=3)
