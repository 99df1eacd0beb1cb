"""What it costs that trials run again: their seeds, and their packages.

The aim is at most 100 µs a trial for `random` and NumPy: they are kept, seeded and put back. It is
the time of this process, whatever else the machine does. Saving a
sampler's state shall take 3 % of the time at most. An environment with what this package needs,
which is what the demo needs, shall be there within 60 s where uv has nothing in its cache,
and a trial in it within 3 s from then on. That takes the network. Noting which files a trial reads
shall take 2 % of the time at most, and 100 trials of 10 ms, run again in a fresh process, 1.3 times
what they took, beside its start.

    python tests/benchmarks/bench_again.py
"""

import importlib
import importlib.util
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.flows.session import Session
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.tasks import OptunaArchive, Problem, seeded
from prefect_optuna.tasks.archive import Capture, Environment
from prefect_optuna.tasks.environments import needed_here, prepare_environment
from prefect_optuna.tasks.inputs import files_read, flush_inputs, note_inputs
from prefect_optuna.tasks.reevaluation.rerun import ArchivedTrial, RerunRequest, rerun
from prefect_optuna.tasks.sampling import STATE, Asks
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


def same(params: dict[str, float]) -> float:
    return params["x"]


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def environments(table: Table) -> None:
    """Build one in an empty folder, with an empty cache, and run a trial there."""
    pins = dict(pin.split("==") for pin in needed_here().values())
    then = replace(Environment.capture(), distributions=pins, sources={})
    capture = Capture.of(Problem(suggest=suggest, run=same))
    here = RerunRequest(capture, then, [ArchivedTrial(0, {"x": 0.5})])
    there = replace(here, packages="recorded")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UV_CACHE_DIR"] = f"{folder}/uv"
        os.environ["PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS"] = f"{folder}/environments"
        cold = seconds(lambda: prepare_environment(then))
        table.add_row(f"environment cold, {len(pins)} packages", f"{cold:.1f}", "")
        table.add_row("the first trial in it", f"{seconds(lambda: rerun(there)):.1f}", "")
        for what, request in (("environment warm, a trial", there), ("the same here", here)):
            found = [seconds(lambda request=request: rerun(request)) for _ in range(ROUNDS)]
            table.add_row(what, f"{statistics.median(found):.1f}", f"{min(found):.1f}")
        kept = [seconds(lambda: prepare_environment(then)) for _ in range(ROUNDS)]
        table.add_row(
            "of that, the environment", f"{statistics.median(kept):.3f}", f"{min(kept):.3f}"
        )


def slow(params: dict[str, float]) -> float:
    time.sleep(0.01)
    return params["x"]


def fresh_process(table: Table, n_trials: int = 100) -> None:
    """Run trials once, and again in a process that has to be started."""
    environment = Environment.capture()
    capture = Capture.of(Problem(suggest=suggest, run=slow))
    trials = [ArchivedTrial(number, {"x": 0.5}) for number in range(n_trials)]
    many = RerunRequest(capture, environment, trials)
    found: list[list[float]] = []
    for _ in range(ROUNDS):
        once = seconds(lambda: [slow(trial.params) for trial in trials])
        start = seconds(lambda: rerun(replace(many, trials=trials[:1])))
        again = seconds(lambda: rerun(many))
        found.append([once, start, again, (again - start) / once * n_trials / (n_trials - 1)])
    names = (
        f"{n_trials} trials of 10 ms, once",
        "one of them, again",
        "all of them, again",
        "beside the start, times once",
    )
    for name, one in zip(names, zip(*found, strict=True), strict=True):
        table.add_row(name, f"{statistics.median(one):.2f}", f"{min(one):.2f}")


def reading(n_files: int = 5, bytes_of_each: int = 1_000_000) -> Table:
    """Read files in trials of 10 ms, with a note of them and without."""
    table = Table(title=f"A trial of 10 ms that reads {n_files} files of 1 MB, ms of the processor")
    for heading in ("what", "median", "% of the time"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.csv") for number in range(n_files)]
        for path in paths:
            path.write_bytes(b"1" * bytes_of_each)
        study = as_study_storage(f"journal:///{folder}/a.journal").create_study("reading")
        archive = OptunaArchive(study, artifacts=f"{folder}/artifacts")
        archive.save_problem(Problem(suggest=suggest, run=same))
        writer = archive.writer()

        def trial() -> None:
            time.sleep(0.01)
            for path in paths:
                path.read_bytes()

        def noted() -> None:
            with files_read() as read:
                trial()
            note_inputs(writer, read)

        times: dict[str, list[float]] = {"read": [], "read and noted": []}
        walls: list[float] = []
        for _ in range(TRIALS // 10):
            for name, work in (("read", trial), ("read and noted", noted)):
                wall, began = time.perf_counter(), time.process_time()
                work()
                times[name].append(time.process_time() - began)
                walls.append(time.perf_counter() - wall)
        flush_inputs()
    plain, ours = (statistics.median(found) for found in times.values())
    table.add_row("read", f"{plain * 1e3:.2f}", "")
    share = 100 * (ours - plain) / statistics.median(walls)
    table.add_row("read and noted", f"{ours * 1e3:.2f}", f"{share:.1f}")
    return table


def share_of_the_state(name: str, url: str, n_trials: int = 300, seconds: float = 0.01) -> float:
    """How much of the time of a study it takes to save its sampler's state, in percent."""
    block = as_study_storage(url)
    block.create_study(name)
    study = FlowStudy.open(name, block.get_storage(), name, "none", seed=1)
    asks = Asks(study.sampler, alone=True)
    asks.open(study.storage, study._study_id, "first", None, others=False)  # pyright: ignore[reportPrivateUsage]
    session = Session(study, study.storage, seed=1)
    session.asks = asks
    saving, began = 0.0, time.perf_counter()
    for _ in range(n_trials):
        trial = session.ask(study)
        for parameter in "abcde":
            trial.suggest_float(parameter, 0, 1)
        time.sleep(seconds)
        started = time.perf_counter()
        study.storage.set_trial_system_attr(trial._trial_id, STATE, asks.told())  # pyright: ignore[reportPrivateUsage]
        saving += time.perf_counter() - started
        trial.study.tell(trial, sum(trial.params.values()))
    return 100 * saving / (time.perf_counter() - began)


def states() -> Table:
    """The same for each sampler that needs no more than this package does."""
    table = Table(title="Saving a sampler's state, % of the time, 300 trials of 10 ms")
    table.add_column("sampler")
    for scheme in ("journal", "sqlite"):
        table.add_column(scheme, justify="right")
    for name in ("tpe", "random", "cmaes", "qmc", "nsgaii", "nsgaiii"):
        with tempfile.TemporaryDirectory() as folder:
            urls = [f"journal:///{folder}/a.journal", f"sqlite:///{folder}/a.db"]
            table.add_row(name, *(f"{share_of_the_state(name, url):.1f}" for url in urls))
    return table


def main() -> None:
    table = Table(title=f"Seeding a trial, µs, {ROUNDS} rounds of {TRIALS}")
    for heading in ("what", "median", "best"):
        table.add_column(heading, justify="left" if heading == "what" else "right")

    def row(what: str, found: list[float]) -> None:
        table.add_row(what, f"{statistics.median(found):.0f}", f"{min(found):.0f}")

    row("random and NumPy", microseconds(around_nothing))
    row("the same with get_state and set_state", microseconds(by_hand))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    Console().print(states())
    alone = optuna.create_study()
    row("study.ask() in memory", microseconds(alone.ask))
    row("study.ask() and seeded(trial)", microseconds(in_a_loop_of_ones_own(optuna.create_study())))
    if importlib.util.find_spec("torch") is not None:
        importlib.import_module("torch")
        row("random, NumPy and PyTorch", microseconds(around_nothing))
    Console().print(table)
    table = Table(title=f"An environment again, s, {ROUNDS} rounds")
    for heading in ("what", "median", "best"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    environments(table)
    fresh_process(table)
    Console().print(table)
    Console().print(reading())


if __name__ == "__main__":
    main()
