import lightgbm as lgb
import numpy as np
import optuna
import sklearn.datasets
import sklearn.metrics
from sklearn.model_selection import train_test_split
from optuna_integration import LightGBMPruningCallback
from prefect_optuna.flows import optimize


def objective(trial):
    data, target = sklearn.datasets.load_breast_cancer(return_X_y=True)
    train_x, valid_x, train_y, valid_y = train_test_split(data, target, test_size=0.25)
    dtrain = lgb.Dataset(train_x, label=train_y)
    dvalid = lgb.Dataset(valid_x, label=valid_y)
    param = {
        "objective": "binary",
        "metric": "auc",
        "verbosity": -1,
        "num_leaves": trial.suggest_int("num_leaves", 2, 64),
        "bagging_fraction": trial.suggest_float("bagging_fraction", 0.4, 1.0),
        "bagging_freq": 1,
        "learning_rate": trial.suggest_float("lr", 1e-4, 0.5, log=True),
    }
    cb = LightGBMPruningCallback(trial, "auc")
    gbm = lgb.train(param, dtrain, valid_sets=[dvalid], callbacks=[cb], num_boost_round=30)
    preds = np.rint(gbm.predict(valid_x))
    return sklearn.metrics.accuracy_score(valid_y, preds)


if __name__ == "__main__":
    optimize(
        objective,
        study_name="again",
        n_trials=12,
        directions=["maximize"],
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=2),
    )
