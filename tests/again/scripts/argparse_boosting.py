import argparse
import logging
import sys
import warnings
import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from prefect_optuna import optimize

warnings.filterwarnings("ignore")
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
log = logging.getLogger(__name__)


def parse():
    p = argparse.ArgumentParser()
    p.add_argument("--cv", type=int, default=3)
    p.add_argument("--subsample", type=float, default=0.5)
    return p.parse_args()


def objective(trial):
    X, y = load_wine(return_X_y=True)
    clf = GradientBoostingClassifier(
        n_estimators=trial.suggest_int("n", 5, 20), subsample=args.subsample, max_features="sqrt"
    )
    score = cross_val_score(clf, X, y, cv=args.cv).mean()
    log.info("score %.3f", score)
    return score


if __name__ == "__main__":
    args = parse()
    optimize(objective, study_name="again", n_trials=4, direction="maximize")
