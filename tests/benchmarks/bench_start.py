"""How long it takes from the call to the first trial, with and without a server.

    python tests/benchmarks/bench_start.py

Each number is from a process of its own that has imported everything: `optimize`, a bare Prefect
flow with one task, and `study.optimize`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows.temporary_server import BACKGROUND_HOME

PROGRAM = """
import sys, time
import optuna
from prefect import flow, task
from prefect_optuna.flows import optimize

def objective(trial):
    print(time.perf_counter() - begun, flush=True)
    return trial.suggest_float("x", 0, 1)

@task
def one():
    print(time.perf_counter() - begun, flush=True)

@flow
def bare():
    one()

if __name__ == "__main__":
    begun = time.perf_counter()
    if sys.argv[1] == "optimize":
        optimize(objective, n_trials=1)
    elif sys.argv[1] == "a bare Prefect flow":
        bare()
    else:
        optuna.create_study(storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend("plain.journal")
        )).optimize(objective, n_trials=1)
"""


def measured(ways: dict[str, tuple[str, str | None]], folder: Path, rounds: int = 7) -> None:
    """Print the time from the call to the first trial for each way, taken in turn.

    The first round is not counted: it makes Prefect's database, in which all others begin.
    """
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-1, rounds):
        for name, (what, api_url) in ways.items():
            program = folder / f"{name.replace(' ', '-')}-{number}.py"
            program.write_text(PROGRAM, encoding="utf-8")
            named = {} if api_url is None else {"PREFECT_API_URL": api_url}
            result = subprocess.run(
                [sys.executable, program.name, what],
                cwd=folder,
                env={**os.environ, "PREFECT_HOME": f"{folder}/home", **named},
                capture_output=True,
                text=True,
                check=True,
            )
            if number >= 0:
                took[name].append(float(result.stdout.split()[0]))
    bare = statistics.median(took["a bare Prefect flow"])
    for name, seconds in took.items():
        median = statistics.median(seconds)
        print(f"  {name:<42} {median:7.3f}  {median / bare:5.2f} x a bare flow")


def main() -> None:
    """Print the table."""
    bare = "a bare Prefect flow"
    with tempfile.TemporaryDirectory() as one, LocalServer(f"{one}/{BACKGROUND_HOME}") as server:
        print("seconds from the call to the first trial, with a server that runs")
        measured(
            {
                "optimize finds that of the directory": ("optimize", None),
                "optimize is told it by PREFECT_API_URL": ("optimize", server.api_url),
                bare: (bare, server.api_url),
                "study.optimize": ("study.optimize", None),
            },
            Path(one),
        )
    with tempfile.TemporaryDirectory() as one:
        print("without one: Prefect starts a temporary one")
        measured({"optimize": ("optimize", None), bare: (bare, None)}, Path(one), rounds=3)


if __name__ == "__main__":
    main()
