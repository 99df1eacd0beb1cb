"""A script with scikit-learn, which the lab's workers do not have: neither it nor the package."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import sklearn
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

from prefect_optuna.flows import Problem

SECONDS = 1.0  # of a trial, beside what it computes


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -3, 3), "number": trial.number}


def run(params: dict[str, Any]) -> dict[str, Any]:
    time.sleep(SECONDS)
    flowers = load_iris(return_X_y=True)
    scores = cross_val_score(SVC(C=10 ** params["x"]), *flowers, cv=5)
    line = {
        "kind": "computed",
        "at": time.time(),
        "number": params["number"],
        "x": params["x"],
        "prefix": sys.prefix,
        "python": sys.version.split()[0],
        "sklearn": sklearn.__version__,
    }
    with Path("~/notes.jsonl").expanduser().open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(line) + "\n")
    return {"series": [params["x"]] * 600, "scores": scores}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["scores"].mean())


problem = Problem(suggest=suggest, run=run, evaluate=evaluate, directions=["maximize"])
