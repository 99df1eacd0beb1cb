"""A Bunch as a module global."""

from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score
from prefect_optuna.flows import optimize

data = load_wine()


def objective(trial):
    clf = RandomForestClassifier(
        n_estimators=trial.suggest_int("n", 2, 20), max_depth=trial.suggest_int("d", 1, 8)
    )
    return cross_val_score(clf, data.data, data.target, cv=3).mean()


optimize(objective, study_name="again", n_trials=4, directions=["maximize"])
