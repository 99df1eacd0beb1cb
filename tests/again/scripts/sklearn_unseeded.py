"""scikit-learn: unseeded train_test_split, unseeded classifier, dataset loaded in the objective."""

import sklearn.datasets
import sklearn.ensemble
import sklearn.model_selection
import sklearn.svm
from prefect_optuna.flows import optimize


def objective(trial):
    iris = sklearn.datasets.load_iris()
    x, y = iris.data, iris.target
    x_train, x_valid, y_train, y_valid = sklearn.model_selection.train_test_split(
        x, y, test_size=0.4
    )
    classifier_name = trial.suggest_categorical("classifier", ["SVC", "RandomForest"])
    if classifier_name == "SVC":
        svc_c = trial.suggest_float("svc_c", 1e-10, 1e10, log=True)
        clf = sklearn.svm.SVC(C=svc_c, gamma="auto")
    else:
        depth = int(trial.suggest_float("rf_max_depth", 2, 32, log=True))
        clf = sklearn.ensemble.RandomForestClassifier(max_depth=depth, n_estimators=10)
    clf.fit(x_train, y_train)
    return clf.score(x_valid, y_valid)


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=6, directions=["maximize"])
