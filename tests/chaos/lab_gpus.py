"""What runs in containers of the lab that have GPUs: it says which one it sees."""

from __future__ import annotations

import os
import time
from typing import Any

import optuna

from prefect_optuna.flows import Problem

SECONDS = 2.0  # of a trial


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params: dict[str, Any]) -> dict[str, Any]:
    time.sleep(SECONDS)
    return {"series": [params["x"]] * 600, "gpus": os.environ["CUDA_VISIBLE_DEVICES"].split(",")}


def evaluate(result: dict[str, Any]) -> float:
    (gpu,) = result["gpus"]
    return float(gpu.removeprefix("GPU-"))


problem = Problem(suggest=suggest, run=run, evaluate=evaluate)
