import lightgbm as lgb, numpy as np, optuna
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import StratifiedKFold
from prefect_optuna import optimize

data = load_breast_cancer(as_frame=True)
X, y = data.data, data.target
folds = StratifiedKFold(n_splits=3, shuffle=True, random_state=42)
train = lgb.Dataset(X, label=y, free_raw_data=False)
evals = {}


def objective(trial):
    params = {
        "objective": "binary",
        "metric": "binary_logloss",
        "verbosity": -1,
        "boosting_type": "gbdt",
        "num_threads": 2,
        "lambda_l1": trial.suggest_float("lambda_l1", 1e-8, 10.0, log=True),
        "feature_fraction": trial.suggest_float("ff", 0.4, 1.0),
        "bagging_fraction": 0.7,
        "bagging_freq": 3,
        "num_leaves": trial.suggest_int("num_leaves", 2, 64),
    }
    oof = np.zeros(len(y))
    for a, b in folds.split(X, y):
        m = lgb.LGBMClassifier(**params, n_estimators=50)
        m.fit(
            X.iloc[a],
            y.iloc[a],
            eval_set=[(X.iloc[b], y.iloc[b])],
            callbacks=[lgb.early_stopping(5, verbose=False), lgb.record_evaluation(evals)],
        )
        oof[b] = m.predict_proba(X.iloc[b])[:, 1]
    cv = lgb.cv(params, train, nfold=3, num_boost_round=20, return_cvbooster=False)
    return float(np.mean((oof - y) ** 2)) + min(cv["valid binary_logloss-mean"])


optimize(objective, study_name="again", n_trials=3, n_jobs=1)
