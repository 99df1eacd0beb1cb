"""A program of the tests: studies that all hang in their third trial, until it is killed.

python resume_cells.py CELLS, which is JSON: a list of [study name, storage, runner, kind].
With HANG_FOLDER in its environment, each study leaves a file there when it hangs.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import optuna

from prefect_optuna.flows import Problem, optimize


def value_of(x: float) -> float:
    """What a trial comes to."""
    return (x - 0.3) ** 2


def hang(study: str, number: int) -> None:
    """Hang in the third trial, where that is wanted."""
    folder = os.environ.get("HANG_FOLDER")
    if folder and number == 2:
        (Path(folder) / study).touch()
        time.sleep(600)


def objective(trial: optuna.Trial) -> float:
    """A plain objective."""
    x = trial.suggest_float("x", 0, 1)
    hang(trial.study.study_name, trial.number)
    return value_of(x)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """The same in parts."""
    x = trial.suggest_float("x", 0, 1)
    return {"x": x, "study": trial.study.study_name, "number": trial.number}


def run(params: dict[str, Any]) -> dict[str, Any]:
    """The second part."""
    hang(params["study"], params["number"])
    return {"x": params["x"], "series": [params["x"], 0.0]}


def evaluate(result: dict[str, Any]) -> float:
    """The third part."""
    return value_of(result["x"])


KINDS: dict[str, Any] = {
    "objective": objective,
    "problem": Problem(suggest=suggest, run=run, evaluate=evaluate),
}


def optimize_cell(study: str, storage: str, runner: Any, kind: str, n_trials: int) -> None:
    """Run a study, or go on with it."""
    optimize(
        KINDS[kind],
        study_name=study,
        storage=storage,
        n_trials=n_trials,
        n_jobs=2 if runner == "threads" else 1,
        task_runner=None if runner == "here" else runner,
        progress=False,
    )


def main(cells: list[list[str]]) -> None:
    """Run all these studies at once."""
    dask: Any = None
    if any(runner == "dask" for _, _, runner, _ in cells):
        from distributed import LocalCluster
        from prefect_dask import DaskTaskRunner

        cluster = LocalCluster(n_workers=1, threads_per_worker=len(cells), dashboard_address=None)
        dask = DaskTaskRunner(address=cluster.scheduler_address)
    threads = [
        threading.Thread(
            target=optimize_cell, args=(study, storage, dask if r == "dask" else r, kind, 5)
        )
        for study, storage, r, kind in cells
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
