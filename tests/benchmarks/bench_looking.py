"""What looking at a large study on Redis takes: `studies`, `show`, `trials` and `report`.

Aims beside 1,000,000 trials: 3 s, 3 s, the first page at once, 5 s. The limit is what every command
takes, `import prefect, optuna` in a fresh interpreter, and for the report its pictures, which is
what the smallest study takes. Beside them, the time to read all trials, as a program would that
uses Optuna alone. Medians of rounds, each of all rows.

    python tests/benchmarks/bench_looking.py [--trials 1000 20000] [--rounds 3]

A million trials take some ten minutes to make, and 1 GB of memory on the server.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna
from bench_growth import PROBLEM
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import RedisStorage
from prefect_optuna.flows import optimize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redis_servers import RedisServer

STUDY = "grown"
COMMANDS = {
    "studies": (["studies"], "3"),
    "show": (["show", STUDY], "3"),
    "trials": (["trials", STUDY], ""),
    "report": (["report", STUDY, "--output", "report.html"], "5"),
}
ARCHIVED = 200  # trials that `optimize` runs; the others are like them


def grow(url: str, n_trials: int) -> None:
    """Make a study of so many archived trials, each of two parameters and twenty numbers."""
    places = {"storage": url, "artifacts": "archive"}
    optimize(PROBLEM, study_name=STUDY, n_trials=ARCHIVED, sampler="random", **places)
    storage = RedisStorage(url)
    study = optuna.load_study(study_name=STUDY, storage=storage)
    like, random = study.trials, np.random.default_rng(1)
    for number in range(ARCHIVED, n_trials):
        one = like[number % ARCHIVED]
        trial = FrozenTrial(
            number=-1,
            state=TrialState.COMPLETE,
            value=float(random.normal()),
            datetime_start=one.datetime_start,
            datetime_complete=one.datetime_complete,
            params={name: float(random.uniform(-5, 5)) for name in one.params},
            distributions=one.distributions,
            user_attrs=one.user_attrs,
            system_attrs=one.system_attrs,
            intermediate_values={},
            trial_id=-1,
        )
        storage.create_new_trial(study._study_id, trial)


def seconds(arguments: list[str]) -> float:
    """The time that a fresh interpreter takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(url: str, rounds: int) -> dict[str, float]:
    """The seconds of each command, and of what they stand on."""
    program = ["-m", "prefect_optuna.deployments.cli"]
    where = ["--storage", url, "--artifacts", "archive"]
    everything = (
        "import sys, optuna; from prefect_optuna.blocks import as_study_storage; "
        "as_study_storage(sys.argv[1]).load_study(sys.argv[2]).get_trials(deepcopy=False)"
    )
    rows = {"import prefect, optuna": ["-c", "import prefect, optuna"]}
    rows |= {name: [*program, *words, *where] for name, (words, _) in COMMANDS.items()}
    rows["all trials"] = ["-c", everything, url, STUDY]
    times: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, arguments in rows.items():
            times[name].append(seconds(arguments))
    return {name: statistics.median(measured) for name, measured in times.items()}


def main() -> None:
    """Grow a study, look at it, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
    columns: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = f"{folder}/home"
        for n_trials in given.trials:
            place = Path(folder) / str(n_trials)
            place.mkdir()
            os.chdir(place)
            with RedisServer(place) as server:
                grow(server.url, n_trials)
                columns[n_trials] = measure(server.url, given.rounds)
        os.chdir("/")
    table = Table(title=f"bench_looking: seconds, medians of {given.rounds}")
    table.add_column("command")
    for n_trials in columns:
        table.add_column(f"{n_trials:,} trials", justify="right")
    table.add_column("aim at 1,000,000", justify="right")
    for name in columns[given.trials[0]]:
        cells = [f"{column[name]:.2f}" for column in columns.values()]
        table.add_row(name, *cells, COMMANDS.get(name, ([], ""))[1])
    Console().print(table)


if __name__ == "__main__":
    main()
