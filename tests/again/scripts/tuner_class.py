import numpy as np, pandas as pd, logging
from sklearn.datasets import load_iris
from prefect_optuna import optimize


class Tuner:
    def __init__(self, df, n=3):
        self.df = df
        self.n = n
        self.logger = logging.getLogger("tuner")
        self.results = {}
        self.transforms = {"sq": np.square, "log": lambda v: np.log1p(np.abs(v)), "self": self.tr}

    def tr(self, v):
        return v * 2

    def objective(self, trial):
        f = self.transforms[trial.suggest_categorical("t", list(self.transforms))]
        s = self.df.sample(20)
        self.results[trial.number] = s
        return float(f(s.iloc[:, 0]).mean())

    def run(self):
        return optimize(self.objective, study_name="again", n_trials=4)


if __name__ == "__main__":
    Tuner(load_iris(as_frame=True).frame).run()
