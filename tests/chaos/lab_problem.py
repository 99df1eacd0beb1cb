"""What the lab's workers run: it sleeps, and writes down on its machine what it has computed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import optuna

from prefect_optuna.flows import Problem

SECONDS = 2.0  # of a trial


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1), "number": trial.number}


def run(params: dict[str, Any]) -> dict[str, Any]:
    time.sleep(SECONDS)
    line = {"kind": "computed", "at": time.time(), "number": params["number"], "x": params["x"]}
    with Path("~/notes.jsonl").expanduser().open("a", encoding="utf-8") as notes:
        notes.write(json.dumps(line) + "\n")
    return {"series": [params["x"]] * 600}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["series"][0])


problem = Problem(suggest=suggest, run=run, evaluate=evaluate)
