import random
import numpy as np
from scipy.optimize import dual_annealing
from scipy.interpolate import interp1d
from scipy.stats import norm
from prefect_optuna.flows import optimize

xs = np.linspace(0, 3, 500)
curve = interp1d(xs, np.sin(xs))
dist = norm(0, 0.1)


def objective(trial):
    w = trial.suggest_float("w", 0.1, 3)
    noise = dist.rvs()
    r = dual_annealing(
        lambda p: float((curve(w) - p[0]) ** 2) + np.cos(5 * p[0]), [(-2, 2)], maxiter=20
    )
    return r.fun + noise + random.random()


optimize(objective, study_name="again", n_trials=4)
