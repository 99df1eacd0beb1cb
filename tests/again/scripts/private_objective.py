import threading
from collections import namedtuple

import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from tqdm import tqdm

from prefect_optuna import optimize

_Split = namedtuple("Split", "x y")


class Split(_Split):
    def head(self, n):
        return Split(self.x[:n], self.y[:n])


class Search:
    def __init__(self, split):
        self.split = split
        self.lock = threading.Lock()
        self.bar = tqdm(total=5, disable=True)
        self.seen = {}

    def __objective(self, trial):
        alpha = trial.suggest_float("alpha", 1e-3, 10, log=True)
        with self.lock:
            self.bar.update()
            self.seen[trial.number] = alpha
        part = self.split.head(trial.suggest_int("rows", 100, 170))
        noise = np.random.normal(0, 0.01, part.x.shape)
        return cross_val_score(Ridge(alpha), part.x + noise, part.y, cv=3).mean()

    def run(self):
        return optimize(self.__objective, study_name="again", n_trials=5, direction="maximize")


if __name__ == "__main__":
    rng = np.random.permutation(178)
    x, y = load_wine(return_X_y=True)
    Search(Split(x[rng], y[rng])).run()
