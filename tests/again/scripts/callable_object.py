import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
import optuna
from prefect_optuna.flows import optimize


class Objective:
    def __init__(self, data):
        self.data = data
        self.best = None

    def __call__(self, trial):
        x, y = self.data.data, self.data.target
        x_train, x_valid, y_train, y_valid = train_test_split(x, y)
        clf = SGDClassifier(alpha=trial.suggest_float("alpha", 1e-5, 1e-1, log=True))
        for step in range(10):
            clf.partial_fit(x_train, y_train, np.unique(y))
            v = clf.score(x_valid, y_valid)
            trial.report(v, step)
            if trial.should_prune():
                raise optuna.TrialPruned()
        return v


objective = Objective(load_breast_cancer())
optimize(
    objective,
    study_name="again",
    n_trials=8,
    directions=["maximize"],
    pruner=optuna.pruners.MedianPruner(n_startup_trials=2),
)
