"""What one more trial costs beside many others, by the sampler that is asked for it.

TPE looks at all trials for each, which takes nearly all of the time from some thousand trials on,
in Optuna as in `optimize`; `max_trials` has it look at the newest. A trial has five parameters; the
figures are medians of the time from one trial's objective to the next one's.

    python tests/benchmarks/bench_asking.py [--trials 1000 10000 100000]
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import tempfile
import time
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import InMemoryStudyStorage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import Sampler, optimize

MORE = 12  # trials that are asked
NAMES = "abcde"
RANGE: dict[str, Any] = {name: FloatDistribution(0, 1) for name in NAMES}
WAYS: dict[str, Any] = {
    "tpe, bare study.optimize": None,
    "tpe, optimize": "tpe",
    "tpe of the newest 2,000, optimize": Sampler(name="tpe", options={"max_trials": 2000}),
    "random, optimize": "random",
}


def measure(way: str, trials: int) -> float:
    """Return the milliseconds of one more trial beside that many."""
    draw = random.Random(1).random
    block = InMemoryStudyStorage(name=f"{way} {trials}")
    study = block.create_study("grown", sampler=optuna.samplers.TPESampler(seed=1))
    study.add_trials(
        create_trial(params={n: draw() for n in NAMES}, distributions=RANGE, value=draw())
        for _ in range(trials)
    )
    begun: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        begun.append(time.perf_counter())
        return sum(trial.suggest_float(name, 0, 1) for name in NAMES)

    if WAYS[way] is None:
        study.optimize(objective, n_trials=MORE)
    else:
        optimize(
            objective,
            study_name="grown",
            n_trials=trials + MORE,
            storage=block,
            artifacts="memory://asking",
            sampler=WAYS[way],
        )
    seconds = [later - earlier for earlier, later in itertools.pairwise(begun)]
    return statistics.median(seconds[1:]) * 1e3  # before the second, all trials are read once


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table(title="bench_asking: milliseconds of one more trial beside ...")
    table.add_column("sampler")
    for trials in given.trials:
        table.add_column(f"{trials:,}", justify="right")
    with tempfile.TemporaryDirectory() as folder, LocalServer(f"{folder}/server"):
        for way in WAYS:
            table.add_row(way, *(f"{measure(way, trials):.1f}" for trials in given.trials))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
