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

ROUNDS = 3
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


def seconds(what: str, folder: str, **environment: str) -> float:
    """The time from the call to the first trial."""
    found: list[float] = []
    for number in range(ROUNDS):
        below = Path(folder) / f"{what.replace(' ', '-')}-{number}-{len(environment)}"
        below.mkdir()
        (below / "program.py").write_text(PROGRAM, encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "program.py", what],
            cwd=below,
            env={**os.environ, "PREFECT_HOME": f"{folder}/home", **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(float(result.stdout.split()[0]))
    return statistics.median(found)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        with LocalServer(f"{folder}/server") as server:
            print("seconds from the call to the first trial, with a server that runs")
            bare = seconds("a bare Prefect flow", folder, PREFECT_API_URL=server.api_url)
            ours = seconds("optimize", folder, PREFECT_API_URL=server.api_url)
            plain = seconds("study.optimize", folder, PREFECT_API_URL=server.api_url)
        for name, value in (("optimize", ours), ("a bare flow", bare), ("study.optimize", plain)):
            print(f"  {name:<16} {value:7.3f}  {value / bare:5.2f} x a bare flow")
        print("without one: Prefect starts a temporary one")
        bare, ours = seconds("a bare Prefect flow", folder), seconds("optimize", folder)
        for name, value in (("optimize", ours), ("a bare flow", bare)):
            print(f"  {name:<16} {value:7.3f}  {value / bare:5.2f} x a bare flow")


if __name__ == "__main__":
    main()
