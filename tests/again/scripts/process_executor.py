import concurrent.futures as cf, random, numpy as np, subprocess, sys
from prefect_optuna import optimize


def w(i):
    return float(np.random.default_rng(i).normal())


def u(i):
    return random.random() + float(np.random.rand())


def objective(trial):
    with cf.ProcessPoolExecutor(1) as ex:
        a = sum(ex.map(w, range(3)))
        b = sum(ex.map(u, range(3)))
    c = float(
        subprocess.run([sys.executable, "-c", "print(1.5)"], capture_output=True, text=True).stdout
    )
    return trial.suggest_float("x", 0, 1) + a + b + c


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=2)
