import os, tempfile
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from prefect_optuna import optimize

os.makedirs("figs", exist_ok=True)
rng = np.random.default_rng(12)
X = np.linspace(0, 5, 40)[:, None]
y = np.sin(X[:, 0]) + rng.normal(0, 0.1, 40)


def objective(trial):
    k = RBF(trial.suggest_float("l", 0.1, 3)) + WhiteKernel(
        trial.suggest_float("n", 1e-3, 1, log=True)
    )
    gp = GaussianProcessRegressor(k, n_restarts_optimizer=2)
    idx = np.random.permutation(40)
    gp.fit(X[idx[:30]], y[idx[:30]])
    fig, ax = plt.subplots()
    ax.plot(X, y, ".")
    ax.plot(X, gp.predict(X))
    fig.savefig(f"figs/{trial.number}.png")
    plt.close(fig)
    with open("log.txt", "a") as f:
        f.write(f"{trial.number}\n")
    return -gp.score(X[idx[30:]], y[idx[30:]])


optimize(objective, study_name="again", n_trials=4)
