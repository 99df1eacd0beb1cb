#!/usr/bin/env python
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from helpers import load, CONFIG
import pkg.models as models
from pkg import metrics
from prefect_optuna import optimize

HERE = Path(__file__).resolve().parent


def objective(trial):
    from pkg.extra import jitter

    df = load(HERE / "people.csv")
    model = models.build(trial, **CONFIG)
    return metrics.evaluate(model, df) + jitter()


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=4, direction="maximize")
