import statsmodels.formula.api as smf, statsmodels.api as sm
import numpy as np, pandas as pd
from statsmodels.tsa.arima.model import ARIMA
from prefect_optuna import optimize
import warnings

warnings.simplefilter("ignore")

co2 = sm.datasets.co2.load_pandas().data["co2"].resample("YS").mean().dropna()
star = sm.datasets.star98.load_pandas()
df = star.data


def objective(trial):
    p, d, q = (
        trial.suggest_int("p", 0, 2),
        trial.suggest_int("d", 0, 1),
        trial.suggest_int("q", 0, 1),
    )
    res = ARIMA(co2[:-5], order=(p, d, q)).fit()
    boot = df.sample(frac=0.5)
    g = smf.ols("NABOVE ~ LOWINC + PERASIAN", boot).fit()
    return (
        float(((res.forecast(5) - co2[-5:]) ** 2).mean())
        + g.rsquared
        + res.simulate(3, anchor="end").sum()
    )


optimize(objective, study_name="again", n_trials=3)
