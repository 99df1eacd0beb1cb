import numpy as np
import optuna
import sklearn.datasets, sklearn.metrics
from sklearn.model_selection import train_test_split
import xgboost as xgb
from prefect_optuna.flows import optimize


def objective(trial):
    (data, target) = sklearn.datasets.load_breast_cancer(return_X_y=True)
    train_x, valid_x, train_y, valid_y = train_test_split(data, target, test_size=0.25)
    dtrain = xgb.DMatrix(train_x, label=train_y)
    dvalid = xgb.DMatrix(valid_x, label=valid_y)
    param = {
        "verbosity": 0,
        "objective": "binary:logistic",
        "eval_metric": "auc",
        "booster": trial.suggest_categorical("booster", ["gbtree", "dart"]),
        "subsample": trial.suggest_float("subsample", 0.3, 1.0),
        "eta": trial.suggest_float("eta", 1e-4, 1.0, log=True),
    }
    cb = optuna.integration.XGBoostPruningCallback(trial, "validation-auc")
    bst = xgb.train(
        param, dtrain, num_boost_round=20, evals=[(dvalid, "validation")], callbacks=[cb]
    )
    return sklearn.metrics.accuracy_score(valid_y, np.rint(bst.predict(dvalid)))


if __name__ == "__main__":
    optimize(
        objective,
        study_name="again",
        n_trials=10,
        directions=["maximize"],
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
    )
