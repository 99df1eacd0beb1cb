import random, argparse
from prefect_optuna import optimize


class CFG:
    lr = 0.1
    epochs = 5
    debug = False
    offset = random.random()
    names = ["a"]


p = argparse.ArgumentParser()
p.add_argument("--lr", type=float, default=0.5)
a = p.parse_args()
CFG.lr = a.lr
CFG.extra = {"k": 3}
CFG.names.append("b")


def objective(trial):
    return trial.suggest_float("x", 0, 1) * CFG.lr + CFG.extra["k"] + CFG.offset + len(CFG.names)


optimize(objective, study_name="again", n_trials=2)
