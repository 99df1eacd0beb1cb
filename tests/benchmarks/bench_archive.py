"""What an archive costs: time series against JSON in attributes, and the capture of code.

The way to compare with flattens the values of a series to a list in a trial's user attribute, on
SQLite. A series here has 100,000 steps and three columns. Aims:

- written and read 40 times as fast as that, with at most 0.45 of its bytes; written in at most
  2.5 times what the same arrays take as a raw Arrow IPC file. Either way a small attribute is
  written to the database, too, so that there are rows with what comes on top of that;
- a fresh process that loads a study with 1,000 such trials, asks and suggests: at most 1.2 times
  the time and the memory of the same study without series;
- 20 series of the best 20 of 1,000 trials at once: at most 3 times what one Arrow file with these
  columns takes to be read;
- capture of a problem that reaches 30 functions in 5 modules: under 100 ms;
- `optimize` and `reevaluate` with a key for signing: at most 1.1 times what they take without one.

Both sides of a row are interleaved in one run; a ratio is the median over the rounds.

    python tests/benchmarks/bench_archive.py
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import optimize, reevaluate
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.record.manifest import KEY_VARIABLES

STEPS, COLUMNS = 100_000, ("hare", "lynx", "grass")
TRIALS, BEST = 1000, 20
SIGNED = 100
ROUNDS = 7
SHORT = 16  # rounds of what is signed

STARTED = """
import sys, time
import optuna, psutil
started = time.perf_counter()
study = optuna.load_study(study_name="study", storage=sys.argv[1])
trial = study.ask()
trial.suggest_float("x", 0, 1)
seconds = time.perf_counter() - started
print(seconds, psutil.Process().memory_info().rss)
"""


def series(seed: int) -> np.ndarray:
    """The values of one trial: a random walk for each column."""
    return np.random.default_rng(seed).normal(size=(STEPS, len(COLUMNS))).cumsum(axis=0)


def seconds_of(call: Callable[[], Any]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def interleaved(ways: Mapping[str, Callable[[int], Any]], rounds: int = ROUNDS) -> dict[str, Any]:
    """The seconds of each way in each round, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            taken = seconds_of(lambda way=way, number=number: way(number))
            if number:
                seconds[name].append(taken)
    return seconds


def ratio(ones: list[float], others: list[float]) -> float:
    """The median of the ratios of the rounds."""
    return statistics.median(one / other for one, other in zip(ones, others, strict=True))


def sqlite_study(path: Path) -> optuna.Study:
    """A study in a database of its own."""
    return optuna.create_study(study_name="study", storage=f"sqlite:///{path}")


def write_and_read(folder: Path, table: Table) -> None:
    """One trial, written and read back."""
    values = series(0)
    plain = sqlite_study(folder / "plain.db")
    study = sqlite_study(folder / "series.db")
    files = sqlite_study(folder / "files.db")
    archive = OptunaArchive(study, artifacts=folder / "artifacts")
    archive.study_add_axis("t", np.arange(STEPS) * 0.01)
    archive.save_problem(Problem(objective=objective))
    (folder / "raw").mkdir()

    trials: dict[str, list[optuna.Trial]] = {
        "plain": [plain.ask() for _ in range(ROUNDS + 1)],
        "series": [study.ask() for _ in range(ROUNDS + 1)],
        "files": [files.ask() for _ in range(ROUNDS + 1)],
    }

    def as_json(number: int) -> None:
        trials["plain"][number].set_user_attr("timeseries:pop", values.ravel().tolist())

    def as_series(number: int) -> None:
        trial = trials["series"][number]
        archive.trial_add_timeseries(trial, "pop", values, ["t"], columns=COLUMNS)

    def raw_file(number: int) -> None:
        path = folder / "raw" / f"{number}.arrow"
        columns = [pa.array(np.ascontiguousarray(values[:, i])) for i in range(len(COLUMNS))]
        batch = pa.RecordBatch.from_arrays(columns, names=list(COLUMNS))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write(batch)

    def raw_file_and_path(number: int) -> None:
        raw_file(number)
        trials["files"][number].set_user_attr("timeseries:pop", f"raw/{number}.arrow")

    def small_attribute(number: int) -> None:
        trials["files"][number].set_user_attr("small", f"raw/{number}.arrow")

    wrote = interleaved(
        {
            "json": as_json,
            "series": as_series,
            "raw": raw_file,
            "raw+path": raw_file_and_path,
            "small": small_attribute,
        }
    )
    small = statistics.median(wrote["small"])
    on_top = {name: [one - small for one in wrote[name]] for name in ("json", "series")}
    for own, numbers in ((plain, trials["plain"]), (study, trials["series"])):
        for trial in numbers:
            own.tell(trial, 0.0)

    # In studies that have just been opened, because Optuna keeps trials that it has read.
    opened = [
        optuna.load_study(study_name="study", storage=f"sqlite:///{folder}/plain.db")
        for _ in range(ROUNDS + 1)
    ]
    archives = [
        ArchivedStudy.load(
            "study", storage=f"sqlite:///{folder}/series.db", artifacts=folder / "artifacts"
        )
        for _ in range(ROUNDS + 1)
    ]

    def read_json(number: int) -> None:
        trial = opened[number].trials[number]
        np.array(trial.user_attrs["timeseries:pop"]).reshape(STEPS, -1)

    def read_one_json(number: int) -> None:
        storage, trial_id = plain._storage._backend, trials["plain"][number]._trial_id
        values = storage.get_trial(trial_id).user_attrs["timeseries:pop"]
        np.array(values).reshape(STEPS, -1)

    def read_series(number: int) -> None:
        archives[number].timeseries("pop", trials=number)

    def read_opened(number: int) -> None:
        archives[0].timeseries("pop", trials=number)

    read = interleaved(
        {"json": read_json, "one": read_one_json, "series": read_series, "opened": read_opened}
    )
    size = folder.joinpath("plain.db").stat().st_size / (ROUNDS + 1)
    reference = study.trials[0].user_attrs["timeseries:pop"]
    bytes_ = reference["bytes"] + folder.joinpath("series.db").stat().st_size / (ROUNDS + 1)
    ours, theirs = wrote["series"], wrote["json"]
    show(table, "write: series against JSON", ours, theirs, "40 x", inverse=True)
    ours, theirs = on_top["series"], on_top["json"]
    show(table, "  on top of a small attribute", ours, theirs, "40 x", inverse=True)
    ours, theirs = read["series"], read["json"]
    show(table, f"read, by study.trials, of {ROUNDS + 1}", ours, theirs, "40 x", inverse=True)
    show(table, "  by get_trial(id), past the study", ours, read["one"], "40 x", inverse=True)
    ours = read["opened"]
    show(table, "  the same, both opened before", ours, read["one"], "40 x", inverse=True)
    table.add_row(
        "bytes: series against JSON",
        f"{bytes_ / 1e6:.2f} MB",
        f"{size / 1e6:.2f} MB",
        f"{bytes_ / size:.2f}",
        "0.45",
    )
    ours = on_top["series"]
    show(table, "write, on top: against raw Arrow IPC", ours, wrote["raw"], "2.5")
    ours = wrote["series"]
    show(table, "write: against that and its path", ours, wrote["raw+path"], "2.5")


def show(
    table: Table,
    what: str,
    ours: list[float],
    theirs: list[float],
    aim: str,
    *,
    inverse: bool = False,
) -> None:
    """Add a row of times."""
    found = ratio(theirs, ours) if inverse else ratio(ours, theirs)
    table.add_row(
        what,
        f"{statistics.median(ours) * 1e3:.1f} ms",
        f"{statistics.median(theirs) * 1e3:.1f} ms",
        f"{found:.0f} x" if inverse else f"{found:.2f}",
        aim,
    )


def objective(trial: optuna.Trial) -> float:
    """Something to archive."""
    return trial.suggest_float("x", 0, 1)


def thousand_trials(folder: Path, table: Table) -> None:
    """A study with many series: loaded by a fresh process, and its best ones read."""
    urls = {name: f"sqlite:///{folder / name}.db" for name in ("bare", "full")}
    studies = {name: sqlite_study(folder / f"{name}.db") for name in urls}
    artifacts = folder / "artifacts"
    archive = OptunaArchive(studies["full"], artifacts=artifacts)
    archive.study_add_axis("t", np.arange(STEPS) * 0.01)
    archive.save_problem(Problem(objective=objective))
    values = [series(seed) for seed in range(BEST)]
    for study in studies.values():
        study.sampler = optuna.samplers.RandomSampler(seed=1)
    for number in range(TRIALS):
        for name, study in studies.items():
            trial = study.ask()
            value = objective(trial)
            if name == "full":
                # Another file each, or a filesystem would keep one.
                values[number % BEST][0, 0] = number
                archive.trial_add_timeseries(
                    trial, "pop", values[number % BEST], ["t"], columns=COLUMNS
                )
            study.tell(trial, value)

    loads: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
    for number in range(ROUNDS + 1):
        for name, url in urls.items():
            output = subprocess.run(
                [sys.executable, "-c", STARTED, url], capture_output=True, check=True, text=True
            ).stdout
            took, memory = map(float, output.split())
            if number:
                loads[name].append((took, memory))
    times = {name: [one for one, _ in both] for name, both in loads.items()}
    memory = {name: statistics.median(other for _, other in both) for name, both in loads.items()}
    show(table, "load 1,000 trials, ask, suggest: time", times["full"], times["bare"], "1.2")
    table.add_row(
        "load 1,000 trials, ask, suggest: memory",
        f"{memory['full'] / 1e6:.1f} MB",
        f"{memory['bare'] / 1e6:.1f} MB",
        f"{memory['full'] / memory['bare']:.2f}",
        "1.2",
    )

    archived = ArchivedStudy.load("study", storage=urls["full"], artifacts=artifacts)
    best = archived.timeseries("pop", trials=f"best:{BEST}")
    one_file = folder / "one.arrow"
    with pa.OSFile(str(one_file), "wb") as sink, pa.ipc.new_file(sink, best.schema) as writer:
        writer.write_table(best)

    def read_one(number: int) -> None:
        del number
        with pa.OSFile(str(one_file)) as source:
            assert pa.ipc.open_file(source).read_all().num_rows == best.num_rows

    def read_best(number: int) -> None:
        del number
        assert archived.timeseries("pop", trials=f"best:{BEST}").num_rows == best.num_rows

    read = interleaved({"best": read_best, "one": read_one})
    show(table, "20 series of the best 20, against one file", read["best"], read["one"], "3")


def captures(folder: Path, table: Table) -> None:
    """A problem whose functions call thirty others, in five modules."""
    for module in range(5):
        lines = ["import math", f"SCALE = {module + 1}.5"]
        for number in range(6):
            after = f"part_{number + 1}(x)" if number < 5 else "x * SCALE"
            lines.append(f"def part_{number}(x):\n    return math.sin(x) + {after}\n")
        (folder / f"bench_part_{module}.py").write_text("\n".join(lines))
    body = [f"import bench_part_{module}" for module in range(5)]
    calls = " + ".join(f"bench_part_{module}.part_0(params['x'])" for module in range(5))
    body += [f"def run(params):\n    return {calls}\n"]
    body += ["def suggest(trial):\n    return {'x': trial.suggest_float('x', 0, 1)}\n"]
    (folder / "bench_problem.py").write_text("\n".join(body))
    sys.path.insert(0, str(folder))
    module: Any = importlib.import_module("bench_problem")
    problem = Problem(suggest=module.suggest, run=module.run)
    first = seconds_of(lambda: Capture.of(problem))
    again = interleaved({"capture": lambda number: Capture.of(problem)})["capture"]
    functions = [s for s in Capture.of(problem).document["symbols"] if s["mode"] == "source"]
    assert len(functions) == 32
    table.add_row("capture of 30 functions in 5 modules, first", f"{first * 1e3:.1f} ms", "", "",
                  "100 ms")  # fmt: skip
    middle = statistics.median(again)
    table.add_row("the same, again", f"{middle * 1e3:.1f} ms", "", "", "100 ms")


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """Of the problem that is signed."""
    return {"x": trial.suggest_float("x", 0, 1), "y": trial.suggest_float("y", 0, 1)}


def run(params: Mapping[str, Any]) -> dict[str, Any]:
    """Some series, as simulations have them."""
    times = np.linspace(0, 10, 500)
    return {"hare": np.sin(params["x"] * times), "lynx": np.cos(params["y"] * times)}


def evaluate(result: Mapping[str, Any]) -> float:
    """Their distance."""
    return float(((result["hare"] - result["lynx"]) ** 2).sum())


def signatures(folder: Path, table: Table) -> None:
    """Studies with a key for signing and without, made, read and run again."""
    problem = Problem(suggest=suggest, run=run, evaluate=evaluate)
    where: dict[str, Any] = {"artifacts": folder / "artifacts"}
    where["storage"] = f"journal:///{folder / 'studies.journal'}"
    key = {KEY_VARIABLES[0]: "0123456789abcdef0123456789abcdef"}

    def made(name: str, number: int) -> None:
        options: dict[str, Any] = {"n_trials": SIGNED, "seed": 1, "progress": False}
        here = {**where, "storage": f"journal:///{folder / name}-{number}.journal"}
        optimize(problem, study_name="study", sampler="random", **options, **here)

    def loaded(name: str, number: int) -> None:
        here = {**where, "storage": f"journal:///{folder / name}-{number % SHORT}.journal"}
        archived = ArchivedStudy.load("study", **here)
        assert archived.signatures.holds == (name == "signed")
        assert len(archived.study.get_trials(deepcopy=False)) == SIGNED

    def again(name: str, number: int) -> None:
        here = {**where, "storage": f"journal:///{folder / name}-{number % SHORT}.journal"}
        found = reevaluate("study", trials="best:5", trusted=name != "signed", **here)
        assert found.reproduced

    logging.disable(logging.WARNING)
    with LocalServer(folder / "prefect"):
        for what, way, rounds, aim in (
            (f"optimize, {SIGNED} trials: with a key", made, SHORT, "1.1"),
            ("reevaluate of the best 5", again, ROUNDS, "1.1"),
            (f"load and read {SIGNED} trials, each checked", loaded, 10 * SHORT, ""),
        ):
            wall, processor = alternating(way, key, rounds)
            show(table, what, wall["signed"], wall["plain"], aim)
            ours, theirs = (processor[name] for name in ("signed", "plain"))
            # Others on the machine only add to it, so that the least is what it takes.
            table.add_row(
                "  its processor time, the least",
                f"{min(ours) * 1e3:.1f} ms",
                f"{min(theirs) * 1e3:.1f} ms",
                f"{min(ours) / min(theirs):.2f}",
                aim,
            )


def processor_seconds() -> float:
    """What this process has taken of the processor, and those that it started and that ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def alternating(
    way: Callable[[str, int], None], key: Mapping[str, str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The seconds, and those of the processor, with a key and without, in either order in turn."""
    wall: dict[str, list[float]] = {"signed": [], "plain": []}
    processor: dict[str, list[float]] = {"signed": [], "plain": []}
    for number in range(rounds + 1):  # the first one is not counted
        for name in sorted(wall, reverse=number % 2 == 0):
            with patch.dict(os.environ, key if name == "signed" else {}):
                gc.collect()
                before = processor_seconds()
                taken = seconds_of(partial(way, name, number))
                spent = processor_seconds() - before
            if number:
                wall[name].append(taken)
                processor[name].append(spent)
    return wall, processor


def main() -> None:
    """Measure, and print the table."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table(title=f"bench_archive: medians of {ROUNDS} interleaved rounds")
    for column in ("what", "archive", "compared with", "ratio", "aim"):
        table.add_column(column, justify="left" if column == "what" else "right")
    parts = {
        "write": write_and_read,
        "capture": captures,
        "many": thousand_trials,
        "signing": signatures,
    }
    for part in sys.argv[1:] or parts:
        with tempfile.TemporaryDirectory() as name:
            parts[part](Path(name), table)
        table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
