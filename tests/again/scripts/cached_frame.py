from functools import lru_cache, partial, wraps
import time
import pandas as pd
import numpy as np
from sklearn import datasets
from sklearn.linear_model import ElasticNet
from sklearn.model_selection import KFold
from prefect_optuna import optimize

CACHE = {}


@lru_cache(maxsize=None)
def data():
    d = datasets.load_diabetes(as_frame=True)
    return d.frame


def timed(f):
    @wraps(f)
    def inner(*a, **k):
        t = time.perf_counter()
        try:
            return f(*a, **k)
        finally:
            CACHE[f.__name__] = CACHE.get(f.__name__, 0) + time.perf_counter() - t

    return inner


@timed
def fold_score(model, frame, tr, te):
    tr, te = frame.iloc[tr], frame.iloc[te]
    model.fit(tr.drop(columns="target"), tr.target)
    return ((model.predict(te.drop(columns="target")) - te.target) ** 2).mean()


def objective(trial, n_splits=5, *, shuffle=True):
    frame = data()
    if "mean" not in CACHE:
        CACHE["mean"] = frame.target.mean()
    m = ElasticNet(
        alpha=trial.suggest_float("alpha", 1e-3, 1, log=True),
        l1_ratio=trial.suggest_float("l1", 0, 1),
        selection="random",
    )
    s = [fold_score(m, frame, a, b) for a, b in KFold(n_splits, shuffle=shuffle).split(frame)]
    trial.set_user_attr("scores", [float(x) for x in s])
    trial.set_user_attr("np", float(np.std(s)))
    return np.mean(s)


optimize(partial(objective, n_splits=3), study_name="again", n_trials=4)
