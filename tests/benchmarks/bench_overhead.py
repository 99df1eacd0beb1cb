"""What orchestration, archive and report cost: `optimize` against bare `study.optimize`.

Aims, on the same storage, imports and server start not counted: at most 1.30 times the wall time
for 1,000 trials of 1 ms, and at most 1.10 times for trials of 20 ms. The naive way, one Prefect
task run for each trial, stands beside it. Everything is interleaved in one run; the ratios are
medians over the rounds. By default on the default storage, a journal file; some ten minutes.

    python tests/benchmarks/bench_overhead.py [journal|sqlite|memory ...]
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
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import StudyStorage, as_study_storage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import Problem, optimize

ROUNDS = 3
TRIALS = 1000
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

    ways = {
        "bare study.optimize": bare,
        "optimize, plain objective": lambda: of(objective, "objective"),
        "optimize, problem with archived series": lambda: of(problem, "problem"),
        "naive: a task run for each trial": lambda: naive(
            storage.create_study(f"naive-{tag}", sampler=sampler()), problem, n_trials
        ),
    }
    seconds = {}
    for name, way in ways.items():
        started = time.perf_counter()
        way()
        seconds[name] = time.perf_counter() - started
    return seconds


def main() -> None:
    """Measure, and print the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("prefect").setLevel(logging.WARNING)
    table = Table(title=f"bench_overhead: wall time, medians of {ROUNDS} interleaved rounds")
    for column in ("storage", "trials", "way", "seconds", "ms a trial", "ratio", "aim"):
        table.add_column(column, justify="left" if column in ("storage", "way") else "right")
    kinds = sys.argv[1:] or ["journal"]
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
                for milliseconds, aim in ((1, "1.30"), (20, "1.10")):
                    n_trials = TRIALS
                    rounds = [
                        measure(storage, folder, milliseconds, n_trials, f"{milliseconds}-{i}")
                        for i in range(ROUNDS)
                    ]
                    base = [r["bare study.optimize"] for r in rounds]
                    for way in rounds[0]:
                        seconds = [r[way] for r in rounds]
                        ratio = statistics.median(s / b for s, b in zip(seconds, base, strict=True))
                        middle = statistics.median(seconds)
                        table.add_row(
                            kind,
                            f"{n_trials} x {milliseconds} ms",
                            way,
                            f"{middle:.2f}",
                            f"{middle / n_trials * 1e3:.2f}",
                            f"{ratio:.2f}",
                            aim if way.startswith("optimize") else "",
                        )
                    table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
