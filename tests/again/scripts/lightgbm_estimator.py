"""LightGBM through its estimator, in a callable object, with a split that is a global."""

import lightgbm as lgb
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from prefect_optuna.flows import optimize

X_train, X_valid, y_train, y_valid = train_test_split(
    *load_breast_cancer(return_X_y=True, as_frame=True)
)


class Objective(object):
    def __init__(self, **fixed):
        self.fixed = fixed
        self.base = lgb.LGBMClassifier(n_estimators=10, verbose=-1)

    def __call__(self, trial):
        p = dict(
            self.fixed,
            num_leaves=trial.suggest_int("num_leaves", 2, 40),
            subsample=trial.suggest_float("subsample", 0.5, 1),
            subsample_freq=1,
        )
        m = self.base.set_params(**p)
        m.fit(X_train, y_train)
        return log_loss(y_valid, m.predict_proba(X_valid))


optimize(Objective(min_child_samples=5), study_name="again", n_trials=4)
