import multiprocessing as mp
import random
import numpy as np
from prefect_optuna import optimize


def work(args):
    x, i = args
    random.seed(i)
    return (x - i) ** 2 + random.random()


def walk(n):
    return float(np.random.randn(n).sum()) + random.random()


def objective(trial):
    x = trial.suggest_float("x", -3, 3)
    with mp.Pool(2) as pool:
        a = sum(pool.map(work, [(x, i) for i in range(4)]))
        b = pool.map(walk, [10])
    return a + b[0]


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=3)
