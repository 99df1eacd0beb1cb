from catboost import CatBoostRegressor, Pool, cv
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from prefect_optuna import optimize

X, y = load_diabetes(return_X_y=True, as_frame=True)
X["sex"] = (X["sex"] > 0).map({True: "m", False: "f"})


class Objective(object):
    def __init__(self, X, y, cat_features=("sex",)):
        self.X, self.y, self.cat_features = X, y, list(cat_features)

    def __call__(self, trial):
        a, b, c, d = train_test_split(self.X, self.y, random_state=trial.number)
        p = {
            "iterations": 30,
            "learning_rate": trial.suggest_float("lr", 0.01, 0.5, log=True),
            "depth": trial.suggest_int("depth", 2, 5),
            "verbose": 0,
            "bootstrap_type": trial.suggest_categorical("bt", ["Bayesian", "Bernoulli", "MVS"]),
            "thread_count": 2,
        }
        m = CatBoostRegressor(**p)
        m.fit(
            Pool(a, c, cat_features=self.cat_features),
            eval_set=Pool(b, d, cat_features=self.cat_features),
            early_stopping_rounds=5,
        )
        return m.best_score_["validation"]["RMSE"]


optimize(Objective(X, y), study_name="again", n_trials=3)
