import numpy as np
from joblib import Parallel, delayed
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier, ExtraTreesClassifier
from sklearn.model_selection import cross_val_score
from prefect_optuna import optimize

X, y = make_classification(200, 10)


def bootstrap(seed_less, depth):
    idx = np.random.choice(len(X), len(X))
    m = ExtraTreesClassifier(10, max_depth=depth).fit(X[idx], y[idx])
    return m.score(X, y)


def objective(trial):
    d = trial.suggest_int("depth", 1, 8)
    scores = Parallel(n_jobs=2, prefer="threads")(
        delayed(cross_val_score)(RandomForestClassifier(5, max_depth=d, random_state=i), X, y, cv=3)
        for i in range(3)
    )
    m = RandomForestClassifier(20, max_depth=d, n_jobs=2).fit(X, y)
    return (
        float(np.mean(scores))
        + m.score(X, y)
        + cross_val_score(RandomForestClassifier(5), X, y, n_jobs=2, cv=3).mean()
    )


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=3, direction="maximize")
