import xgboost as xgb, numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from prefect_optuna import optimize

X, y = load_diabetes(return_X_y=True)
Xtr, Xte, ytr, yte = train_test_split(X, y, test_size=0.2)
dtrain = xgb.DMatrix(Xtr, label=ytr)


def objective(trial):
    reg = xgb.XGBRegressor(
        n_estimators=20,
        subsample=0.6,
        colsample_bytree=0.7,
        max_depth=trial.suggest_int("md", 1, 6),
        early_stopping_rounds=5,
    )
    reg.fit(Xtr, ytr, eval_set=[(Xte, yte)], verbose=False)
    h = xgb.cv({"max_depth": 2, "subsample": 0.5}, dtrain, num_boost_round=5, nfold=3)
    return float(np.sqrt(((reg.predict(Xte) - yte) ** 2).mean())) + h.iloc[-1, 0]


optimize(objective, study_name="again", n_trials=2)
