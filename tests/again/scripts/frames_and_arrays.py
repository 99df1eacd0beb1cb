import numpy as np, pandas as pd, polars as pl
import scipy.sparse as sp
from sklearn.datasets import load_iris, fetch_california_housing, make_moons
from sklearn.model_selection import KFold, ShuffleSplit, cross_val_score, RandomizedSearchCV
from sklearn.preprocessing import *
from prefect_optuna import optimize

iris = load_iris(as_frame=True)
df = iris.frame
df["cat"] = pd.Categorical(np.where(df.target == 1, "one", "other"))
df["when"] = pd.date_range("2020-01-01", periods=len(df), freq="h")
df["obj"] = [None if i % 7 else "x" for i in range(len(df))]
df["int8"] = df.target.astype("Int64")
midx = df.groupby(["cat", "target"], observed=True).mean(numeric_only=True)
ser = df["sepal length (cm)"]
pdf = pl.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})
csr = sp.csr_matrix(np.eye(3))
coo = sp.coo_array(np.eye(3))
ma = np.ma.masked_array([1, 2, 3], mask=[0, 1, 0])
rec = np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)])
mat = np.matrix([[1, 2]])
ts = pd.Timestamp("2020-02-02")
td = pd.Timedelta("3h")
iv = pd.Interval(0, 1)
per = pd.Period("2020-01")
idx = df.index
mi = midx.index
gb = list(df.groupby("target"))
folds = list(KFold(3, shuffle=True).split(df))
dt = np.dtype("f4")
f32 = np.float32(2.5)
dt64 = np.datetime64("2020-01-01")
ufn = np.add
sl = slice(0, 10)
el = Ellipsis
cplx = 1 + 2j


def objective(trial):
    a = trial.suggest_float("a", 0, 1)
    s = df.sample(10)
    v = (
        s["sepal length (cm)"].mean()
        + midx.iloc[0, 0]
        + ser.iloc[0]
        + pdf["a"].sum()
        + csr.sum()
        + coo.sum()
        + ma.sum()
        + rec.b[0]
        + mat.sum()
        + ts.day
        + td.total_seconds()
        + iv.length
        + per.month
        + len(idx)
        + len(mi)
        + gb[0][1].shape[0]
        + folds[0][0][0]
        + np.zeros(1, dt).itemsize
        + f32
        + dt64.astype(int)
        + ufn(1, 2)
        + len(range(20)[sl])
        + cplx.imag
        + len(df.dtypes.unique())
        + df["int8"].sum()
    )
    return float(v) + a + np.random.rand()


optimize(objective, study_name="again", n_trials=2)
