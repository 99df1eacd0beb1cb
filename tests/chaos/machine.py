"""One machine of a storm: a program that runs a study until it is over, whatever happens to it.

Started by storm.py, with a folder of its own for its home, its spool and its notes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

if "FAKETIME_TIMESTAMP_FILE" in os.environ:
    # libfaketime 0.9.10 refuses clock_nanosleep(), by which Python sleeps.
    def _sleep(seconds: Any) -> None:
        threading.Event().wait(seconds)

    time.sleep = _sleep

import optuna

from prefect_optuna.blocks import ArtifactFileSystem, RedisStudyStorage
from prefect_optuna.flows import Problem, optimize


def note(kind: str, **facts: Any) -> None:
    """Write down what happened, in a line that is whole or not there."""
    line = json.dumps({"kind": kind, "at": time.monotonic(), **facts}) + "\n"
    with Path("notes.jsonl").open("a", encoding="utf-8") as file:
        file.write(line)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1), "number": trial.number}


def run(params: dict[str, Any]) -> dict[str, Any]:
    note("began", number=params["number"])
    # No time.sleep(), which is another function on some machines: their code would differ.
    threading.Event().wait(float(os.environ["STORM_SECONDS"]))
    result = {"series": [params["x"]] * 600}
    note("computed", number=params["number"], x=params["x"])
    return result


def evaluate(result: dict[str, Any]) -> float:
    return float(result["series"][0])


def told(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    note("told", number=trial.number, value=trial.value, state=trial.state.name)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    note("started")
    optimize(
        Problem(suggest=suggest, run=run, evaluate=evaluate),
        study_name="storm",
        n_trials=given["n_trials"],
        n_jobs=given["n_jobs"],
        storage=RedisStudyStorage(url=given["redis"], retry_limit=1.0),
        artifacts=ArtifactFileSystem(url="s3://tests/storm", options=given["s3"]),
        sampler="random",
        callbacks=[told],
        progress=False,
    )
    note("ended")
