"""What it costs that trials run again: their seeds.

The aim is at most 100 µs a trial for `random` and NumPy: they are kept, seeded and put back. It is
the time of this process, whatever else the machine does.

    python tests/benchmarks/bench_again.py
"""

import importlib
import importlib.util
import random
import statistics
import time
from collections.abc import Callable

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from prefect_optuna.tasks import seeded
from prefect_optuna.tasks.seeding import seeding

ROUNDS = 7
TRIALS = 2000


def microseconds(work: Callable[[], object]) -> list[float]:
    """How long it takes, in each round."""
    work()
    found: list[float] = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(TRIALS):
            work()
        found.append((time.process_time() - started) / TRIALS * 1e6)
    return found


def around_nothing() -> None:
    with seeding(7):
        pass


def by_hand() -> None:
    """The naive way."""
    states = random.getstate(), np.random.get_state()
    random.seed(7)
    np.random.seed(7)
    random.setstate(states[0])
    np.random.set_state(states[1])


def in_a_loop_of_ones_own(study: optuna.Study) -> Callable[[], None]:
    def trial() -> None:
        with seeded(study.ask()):
            pass

    return trial


def main() -> None:
    table = Table(title=f"Seeding a trial, µs, {ROUNDS} rounds of {TRIALS}")
    for heading in ("what", "median", "best"):
        table.add_column(heading, justify="left" if heading == "what" else "right")

    def row(what: str, found: list[float]) -> None:
        table.add_row(what, f"{statistics.median(found):.0f}", f"{min(found):.0f}")

    row("random and NumPy", microseconds(around_nothing))
    row("the same with get_state and set_state", microseconds(by_hand))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    alone = optuna.create_study()
    row("study.ask() in memory", microseconds(alone.ask))
    row("study.ask() and seeded(trial)", microseconds(in_a_loop_of_ones_own(optuna.create_study())))
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch")
        row("random, NumPy and PyTorch", microseconds(around_nothing))
    Console().print(table)


if __name__ == "__main__":
    main()
