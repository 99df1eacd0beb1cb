import numpy as np
import statsmodels.api as sm
from prefect_optuna.flows import optimize

data = sm.datasets.longley.load()


def objective(trial):
    X = sm.add_constant(data.exog)
    idx = np.random.choice(len(X), 12, replace=False)
    m = sm.OLS(data.endog.iloc[idx], X.iloc[idx]).fit_regularized(
        alpha=trial.suggest_float("a", 1e-4, 1, log=True), L1_wt=trial.suggest_float("l", 0, 1)
    )
    return float(((m.predict(X) - data.endog) ** 2).mean())


optimize(objective, study_name="again", n_trials=4)
