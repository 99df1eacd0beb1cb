"""What a trial costs as a study grows: time, memory, bytes on the disk and files.

Each figure is from a process of its own. A trial returns 20 numbers, which are archived; its
parameters are drawn at random. Aims for `optimize` on the default storage: at most 400 bytes of
archive and 0.02 files a trial, at most 3 kB of memory, and a time that does not grow. Beside it,
bare `study.optimize` on the same storage, whose trials have no results, and on Optuna's own
`JournalFileBackend`, which keeps the numbers as a user attribute.

    python tests/benchmarks/bench_growth.py [--trials 1000 10000 100000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from optuna.samplers import RandomSampler
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import JournalStudyStorage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import optimize
from prefect_optuna.tasks import ArchivedStudy, Problem

WAYS = ("optimize", "bare, our journal", "bare, Optuna's JournalFileBackend")
NUMBERS = 20


def suggest(trial: optuna.Trial) -> dict[str, float]:
    """Two parameters."""
    return {"x": trial.suggest_float("x", -5, 5), "y": trial.suggest_float("y", -5, 5)}


def run(params: dict[str, float]) -> dict[str, np.ndarray]:
    """Twenty numbers that no compression makes shorter."""
    return {"curve": np.sin(params["x"] * np.arange(1.0, NUMBERS + 1)) + params["y"]}


def evaluate(result: dict[str, np.ndarray]) -> float:
    """One of them."""
    return float(result["curve"][0])


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate)


def objective(trial: optuna.Trial) -> float:
    """The same for `study.optimize`, its numbers kept as people do."""
    result = run(suggest(trial))
    trial.set_user_attr("curve", result["curve"].tolist())
    return evaluate(result)


def plain(trial: optuna.Trial) -> float:
    """The same, and nothing kept."""
    return evaluate(run(suggest(trial)))


def size(folder: Path) -> tuple[int, int]:
    """The bytes of disk blocks, and the number of files, below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files), len(files)


def measure(way: str, trials: int) -> dict[str, Any]:
    """Run one study in this process, below the current folder."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = Path("study.journal")
    block = JournalStudyStorage(path=journal)
    places: dict[str, Any] = {"storage": block, "artifacts": "archive"}
    if way == "optimize":  # what is imported and started once does not count
        optimize(PROBLEM, study_name="warm", n_trials=20, sampler="random", **places)
    before, begun = psutil.Process().memory_info().rss, time.perf_counter()
    start = journal.stat().st_size if journal.exists() else 0
    archive = size(Path("archive"))
    if way == "optimize":
        optimize(PROBLEM, study_name="grown", n_trials=trials, sampler="random", **places)
    else:
        ours = way == WAYS[1]
        storage = (
            block.get_storage()
            if ours
            else optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        )
        study = optuna.create_study(storage=storage, study_name="grown", sampler=RandomSampler())
        study.optimize(plain if ours else objective, n_trials=trials)
    seconds = time.perf_counter() - begun
    memory = psutil.Process().memory_info().rss - before
    grown = [now - then for now, then in zip(size(Path("archive")), archive, strict=True)]
    found = {
        "us": seconds / trials * 1e6,
        "memory": memory / trials,
        "journal": (journal.stat().st_size - start) / trials,
        "archive": grown[0] / trials,
        "files": grown[1] / trials,
    }
    if way == "optimize":
        archived = ArchivedStudy.load("grown", **places)
        archived.timeseries("curve", trials=0)  # imports pandas, where it is there
        begun = time.perf_counter()
        assert archived.timeseries("curve").num_rows == trials * NUMBERS
        found["read"] = (time.perf_counter() - begun) / trials * 1e6
    return found


def main() -> None:
    """Measure, each in its own process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--one", nargs=2)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], int(given.one[1]))))
        return
    table = Table(title="bench_growth: a trial of 20 numbers, default storage")
    for title in ("trials", "way", "us", "memory", "journal", "archive", "files", "read, us"):
        table.add_column(title, justify="left" if title == "way" else "right")
    with tempfile.TemporaryDirectory() as folder, LocalServer(f"{folder}/server") as server:
        for trials in given.trials:
            for number, way in enumerate(WAYS):
                place = Path(folder) / f"{trials}-{number}"
                place.mkdir()
                done = subprocess.run(
                    [sys.executable, str(Path(__file__).resolve()), "--one", way, str(trials)],
                    cwd=place,
                    env={
                        **os.environ,
                        "PREFECT_API_URL": server.api_url,
                        "PREFECT_HOME": f"{folder}/home",
                        "PREFECT_LOGGING_LEVEL": "ERROR",
                    },
                    stdout=subprocess.PIPE,
                    check=True,
                )
                found = json.loads(done.stdout.splitlines()[-1])
                table.add_row(
                    f"{trials:,}",
                    way,
                    f"{found['us']:,.0f}",
                    f"{found['memory']:,.0f} B",
                    f"{found['journal']:,.0f} B",
                    f"{found['archive']:,.0f} B",
                    f"{found['files']:.4f}",
                    f"{found['read']:,.0f}" if "read" in found else "",
                )
    table.caption = "aims for optimize: archive <= 400 B beside bare, files <= 0.02, memory <= 3 kB"
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
