"""What orchestration, archive and report cost: `optimize` against bare `study.optimize`.

Aims, on the same storage, imports and server start not counted: at most 1.30 times the wall time
for 1,000 trials of 1 ms, and at most 1.10 times for trials of 20 ms. The naive way, one Prefect
task run for each trial, stands beside it. Everything is interleaved in one run; the ratios are
medians over the rounds. By default on the default storage, a journal file; some ten minutes.
There, bare `study.optimize` on Optuna's own `JournalFileBackend` is compared with, too: the aim is
to be orchestrated, archived and faster than that.

    python tests/benchmarks/bench_overhead.py [--quick] [journal|sqlite|memory ...]
"""

import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import JournalStudyStorage, StudyStorage, as_study_storage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import Problem, optimize

QUICK = "--quick" in sys.argv  # trials of 1 ms only, and not the naive way
ROUNDS = 3
TRIALS = 1000
BARE = "bare study.optimize"
OPTUNAS = "bare study.optimize, Optuna's JournalFileBackend"
STEPS = np.arange(21.0)


def work(milliseconds: float) -> None:
    """Keep the processor busy, as a simulation does."""
    end = time.perf_counter() + milliseconds / 1e3
    while time.perf_counter() < end:
        pass


def make_problem(milliseconds: float) -> Problem:
    """A problem whose result, two series of 21 steps, is archived with each trial."""

    def suggest(trial: optuna.Trial) -> dict[str, float]:
        return {"x": trial.suggest_float("x", -5, 5), "y": trial.suggest_float("y", -5, 5)}

    def run(params: dict[str, float]) -> dict[str, np.ndarray]:
        work(milliseconds)
        return {"a": params["x"] * STEPS, "b": params["y"] * STEPS}

    def evaluate(result: dict[str, np.ndarray]) -> float:
        return float(result["a"][1] ** 2 + result["b"][1] ** 2)

    return Problem(suggest=suggest, run=run, evaluate=evaluate)


def make_objective(milliseconds: float) -> Callable[[optuna.Trial], float]:
    """The same without results."""

    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
        work(milliseconds)
        return x**2 + y**2

    return objective


@flow(log_prints=False)
def naive(study: optuna.Study, problem: Problem, n_trials: int) -> None:
    """One task run for each trial."""
    run = task(problem.run, cache_policy=NO_CACHE, persist_result=False)
    for _ in range(n_trials):
        trial = study.ask()
        study.tell(trial, problem.call("evaluate", run(problem.call("suggest", trial))))


def measure(
    storage: StudyStorage, folder: Path, milliseconds: float, n_trials: int, tag: str
) -> dict[str, float]:
    """The seconds of each way, one after the other."""
    objective, problem = make_objective(milliseconds), make_problem(milliseconds)
    sampler = lambda: optuna.samplers.TPESampler(seed=1)  # noqa: E731

    def bare() -> None:
        storage.create_study(f"bare-{tag}", sampler=sampler()).optimize(
            objective, n_trials=n_trials
        )

    def of(what: object, name: str) -> None:
        optimize(
            what,
            study_name=f"{name}-{tag}",
            n_trials=n_trials,
            storage=storage,
            artifacts=folder / "artifacts",
            sampler=sampler(),
        )

    def optunas() -> None:
        path = str(folder / "optuna.log")
        storage = optuna.storages.JournalStorage(JournalFileBackend(path))
        optuna.create_study(storage=storage, study_name=f"bare-{tag}", sampler=sampler()).optimize(
            objective, n_trials=n_trials
        )

    ways = {
        BARE: bare,
        "optimize, plain objective": lambda: of(objective, "objective"),
        "optimize, problem with archived series": lambda: of(problem, "problem"),
        "naive: a task run for each trial": lambda: naive(
            storage.create_study(f"naive-{tag}", sampler=sampler()), problem, n_trials
        ),
    }
    if isinstance(storage, JournalStudyStorage):
        ways[OPTUNAS] = optunas
    if QUICK:
        del ways["naive: a task run for each trial"]
    seconds = {}
    for name, way in ways.items():
        started = time.perf_counter()
        way()
        seconds[name] = time.perf_counter() - started
    return seconds


def ratio(rounds: list[dict[str, float]], way: str, base: str) -> str:
    """How many times as long as another way; the median over the rounds."""
    if base not in rounds[0]:
        return ""
    return f"{statistics.median(r[way] / r[base] for r in rounds):.2f}"


def main() -> None:
    """Measure, and print the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("prefect").setLevel(logging.WARNING)
    table = Table(title=f"bench_overhead: wall time, medians of {ROUNDS} interleaved rounds")
    for column in ("storage", "trials", "way", "seconds", "ms a trial"):
        table.add_column(column, justify="left" if column in ("storage", "way") else "right")
    for column in ("x bare", "aim", "x Optuna's journal", "aim"):
        table.add_column(column, justify="right")
    kinds = [argument for argument in sys.argv[1:] if argument != "--quick"] or ["journal"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        urls = {
            "journal": f"journal:///{folder}/studies.journal",
            "sqlite": f"sqlite:///{folder}/studies.db",
            "memory": "memory://bench",
        }
        with LocalServer(folder / "prefect"):
            for kind in kinds:
                storage = as_study_storage(urls[kind])
                measure(storage, folder, 1, 20, f"warm-{kind}")
                for milliseconds, aim in ((1, "1.30"), (20, "1.10"))[: 1 if QUICK else 2]:
                    rounds = [
                        measure(storage, folder, milliseconds, TRIALS, f"{milliseconds}-{i}")
                        for i in range(ROUNDS)
                    ]
                    for way in rounds[0]:
                        middle = statistics.median(r[way] for r in rounds)
                        ours = way.startswith("optimize")
                        table.add_row(
                            kind,
                            f"{TRIALS} x {milliseconds} ms",
                            way,
                            f"{middle:.2f}",
                            f"{middle / TRIALS * 1e3:.2f}",
                            ratio(rounds, way, BARE),
                            aim if ours else "",
                            ratio(rounds, way, OPTUNAS),
                            "1.00" if ours and OPTUNAS in rounds[0] else "",
                        )
                    table.add_section()
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
