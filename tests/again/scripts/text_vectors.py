"""A fitted vectorizer and a sparse matrix in a closure."""

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.model_selection import KFold, cross_val_score
from prefect_optuna.flows import optimize

texts = ["good fast nice", "bad slow", "nice good", "slow awful bad", "fast good", "awful"] * 5
labels = [1, 0, 1, 0, 1, 0] * 5
vec = TfidfVectorizer()
X = vec.fit_transform(texts)


def make(matrix, labels):
    y = np.array(labels)

    def objective(trial):
        a = trial.suggest_float("alpha", 1e-3, 10, log=True)
        noise = np.random.default_rng().normal(0, 0.1)
        return (
            cross_val_score(MultinomialNB(alpha=a), matrix, y, cv=KFold(3, shuffle=True)).mean()
            + noise
            + vec.transform(["good"]).sum()
        )

    return objective


optimize(make(X, labels), study_name="again", n_trials=4, directions=["maximize"])
