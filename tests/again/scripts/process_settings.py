import decimal, numpy as np, sys, warnings, os
import pandas as pd
import sklearn
from sklearn.preprocessing import StandardScaler
from prefect_optuna import optimize

decimal.getcontext().prec = 50
np.seterr(all="raise")
sys.setrecursionlimit(5000)
sklearn.set_config(transform_output="pandas")
os.environ["MY_MODE"] = "fast"
warnings.simplefilter("error", RuntimeWarning)


def rec(n):
    return 0 if n == 0 else 1 + rec(n - 1)


def objective(trial):
    x = decimal.Decimal(trial.suggest_float("x", 1, 2))
    v = float(str(1 / x)[-3:])
    try:
        np.float64(1) / np.float64(0)
    except FloatingPointError:
        v += 1
    v += rec(3000)
    s = StandardScaler().fit_transform(pd.DataFrame({"a": [1.0, 2, 3]}))
    v += 10000 * isinstance(s, pd.DataFrame)
    v += 100000 * (os.environ.get("MY_MODE") == "fast")
    try:
        warnings.warn("x", RuntimeWarning)
    except RuntimeWarning:
        v += 1e6
    return v


optimize(objective, study_name="again", n_trials=2)
