import os
import numpy as np
import pandas as pd
from sklearn.linear_model import Lasso
from sklearn.model_selection import cross_val_score
from prefect_optuna.flows import optimize

if not os.path.exists("data.csv"):
    r = np.random.RandomState(0)
    pd.DataFrame({"a": r.rand(100), "b": r.rand(100), "y": r.rand(100)}).to_csv(
        "data.csv", index=False
    )


def objective(trial):
    df = pd.read_csv("data.csv").sample(frac=0.8)
    return cross_val_score(
        Lasso(trial.suggest_float("alpha", 1e-4, 1)),
        df[["a", "b"]],
        df.y,
        scoring="neg_mean_squared_error",
    ).mean()


optimize(objective, study_name="again", n_trials=4, directions=["maximize"])
