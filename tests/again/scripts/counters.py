import itertools
from prefect_optuna import optimize

CNT = itertools.count(5)


def counter():
    n = 0

    def inc():
        nonlocal n
        n += 1
        return n

    return inc


inc = counter()
calls = []
total = 0


def objective(trial):
    global total
    calls.append(trial.number)
    total += 1
    return trial.suggest_float("x", 0, 1) + inc() + len(calls) + total


optimize(objective, study_name="again", n_trials=3)
