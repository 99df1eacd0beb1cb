"""Optuna example that optimizes a classifier configuration for Iris dataset using sklearn."""

import sklearn.datasets
import sklearn.ensemble
import sklearn.model_selection
import sklearn.svm
from prefect_optuna import optimize


def objective(trial):
    iris = sklearn.datasets.load_iris()
    x, y = iris.data, iris.target
    if trial.suggest_categorical("classifier", ["SVC", "RandomForest"]) == "SVC":
        clf = sklearn.svm.SVC(C=trial.suggest_float("svc_c", 1e-10, 1e10, log=True), gamma="auto")
    else:
        depth = trial.suggest_int("rf_max_depth", 2, 32, log=True)
        clf = sklearn.ensemble.RandomForestClassifier(max_depth=depth, n_estimators=10)
    return sklearn.model_selection.cross_val_score(clf, x, y, n_jobs=-1, cv=3).mean()


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=5, direction="maximize")
