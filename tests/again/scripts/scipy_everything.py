import numpy as np
from scipy import stats, optimize as opt, sparse, spatial, signal
from scipy.integrate import solve_ivp
from scipy.stats import qmc
import prefect_optuna as po

T = np.linspace(0, 10, 50)
OBS = 3 * np.exp(-0.3 * T) + stats.norm.rvs(0, 0.05, size=50, random_state=3)
K = sparse.random(30, 30, density=0.2, random_state=0, format="csr")
tree = spatial.cKDTree(np.random.RandomState(0).rand(50, 2))
B, A = signal.butter(3, 0.2)
prior = stats.gamma(2.0)
poly = np.poly1d([1, 2, 3])
kde = stats.gaussian_kde(OBS)


def rhs(t, y, k):
    return -k * y


def objective(trial):
    k = trial.suggest_float("k", 0.01, 1, log=True)
    sol = solve_ivp(rhs, (0, 10), [3.0], t_eval=T, args=(k,))
    pts = qmc.Sobol(2).random(8)
    near = tree.query(pts)[0].sum()
    de = opt.differential_evolution(
        lambda p: (p[0] - k) ** 2 + p[1] ** 2, [(-1, 1)] * 2, maxiter=5, tol=1e-3
    )
    return (
        ((sol.y[0] - OBS) ** 2).sum()
        + prior.rvs()
        + near
        + de.fun
        + signal.lfilter(B, A, OBS)[-1]
        + K.sum()
        + poly(k)
        + stats.bootstrap((OBS,), np.mean, n_resamples=50).standard_error
        + float(kde(1.0)[0])
        + kde.resample(3).sum()
    )


po.optimize(objective, study_name="again", n_trials=3)
