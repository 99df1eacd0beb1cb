import numpy as np
from joblib import Parallel, delayed
from sklearn.datasets import make_classification
from sklearn.ensemble import ExtraTreesClassifier
from prefect_optuna import optimize

X, y = make_classification(200, 10)


def bootstrap(depth):
    idx = np.random.choice(len(X), len(X))
    return ExtraTreesClassifier(10, max_depth=depth).fit(X[idx], y[idx]).score(X, y)


def objective(trial):
    d = trial.suggest_int("depth", 1, 8)
    return float(np.mean(Parallel(n_jobs=2)(delayed(bootstrap)(d) for _ in range(4))))


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=3, direction="maximize")
