"""What a trial costs as a study grows: time, memory, bytes on the disk and files.

Each figure is from a process of its own. A trial returns 20 numbers, which are archived; its
parameters are drawn at random. Aims for `optimize` on the default storage: at most 400 bytes of
archive and 0.02 files a trial, at most 3 kB of memory, and a time that does not grow. Beside it,
bare `study.optimize` on the same storage, whose trials have no results, and for the default one on
Optuna's own `JournalFileBackend` and on Rustuna's journal, where it is installed, which keep the
numbers as a user attribute. The limit: the bytes of a trial's journal written and synchronized with
nothing else, and on a server a round trip for asking and one for telling.

    python tests/benchmarks/bench_growth.py [--trials 1000 10000] [--storages default redis]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import redis
from optuna.samplers import RandomSampler
from optuna.storages.journal import JournalFileBackend
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from redis_servers import RedisServer
from storages_under_test import PostgresServer

from prefect_optuna.blocks import (
    JournalStudyStorage,
    RedisStudyStorage,
    SQLStudyStorage,
    StudyStorage,
)
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import optimize
from prefect_optuna.tasks import ArchivedStudy, Problem

WAYS = {
    "default": [
        "optimize",
        "bare, our journal",
        "bare, Optuna's JournalFileBackend",
        *["Rustuna's journal"] * (find_spec("rustuna") is not None),
    ],
    "redis": ["optimize", "bare, the same storage"],
    "postgres": ["optimize", "bare, the same storage"],
}
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


def block_of(url: str) -> StudyStorage:
    """The storage at a URL, or the default one, a journal in this folder."""
    if url.startswith("redis"):
        return RedisStudyStorage(url=SecretStr(url))
    if url:
        return SQLStudyStorage(url=SecretStr(url))
    return JournalStudyStorage(path=Path("study.journal"))


def held(url: str) -> int:
    """The bytes that the storage at a URL holds, in memory or on the disk."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            info: Any = client.info("memory")
            return info["used_memory_dataset"]
    if url:
        import psycopg

        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            return 0 if row is None else row[0]
    return sum(path.stat().st_size for path in Path().glob("study.*") if path.is_file())


def bare(way: str, block: StudyStorage, trials: int) -> None:
    """Run the study without this package."""
    storage: Any = block.get_storage()
    if way.startswith("Rustuna"):
        import rustuna  # pyright: ignore[reportMissingImports]

        theirs: Any = rustuna
        study = theirs.create_study(
            study_name="grown",
            storage=theirs.storages.JournalFileStorage("study.rustuna"),
            sampler=theirs.samplers.RandomSampler(),
        )
        study.optimize(objective, n_trials=trials)
        return
    if "JournalFileBackend" in way:
        storage = optuna.storages.JournalStorage(JournalFileBackend("study.journal"))
    study = optuna.create_study(storage=storage, study_name="grown", sampler=RandomSampler())
    study.optimize(objective if "JournalFileBackend" in way else plain, n_trials=trials)


def measure(way: str, url: str, trials: int) -> dict[str, Any]:
    """Run one study in this process, below the current folder."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    block = block_of(url)
    places: dict[str, Any] = {"storage": block, "artifacts": "archive"}
    if way == "optimize":  # what is imported and started once does not count
        optimize(PROBLEM, study_name="warm", n_trials=20, sampler="random", **places)
    before, start, archive = psutil.Process().memory_info().rss, held(url), size(Path("archive"))
    begun = time.perf_counter()
    if way == "optimize":
        optimize(PROBLEM, study_name="grown", n_trials=trials, sampler="random", **places)
    else:
        bare(way, block, trials)
    seconds = time.perf_counter() - begun
    memory = psutil.Process().memory_info().rss - before
    grown = [now - then for now, then in zip(size(Path("archive")), archive, strict=True)]
    found = {
        "us": seconds / trials * 1e6,
        "memory": memory / trials,
        "storage": (held(url) - start) / trials,
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


def limit(url: str, size: int) -> float:
    """Return the microseconds that no storage of this kind can be below for such a trial."""
    rounds, begun = 200, time.perf_counter()
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            for _ in range(2 * rounds):
                client.set("limit", bytes(size // 2))
    elif url:
        import psycopg

        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS floor (content bytea)")
            for _ in range(2 * rounds):
                connection.execute("INSERT INTO floor VALUES (%s)", (bytes(size // 2),))
    else:
        with Path("limit").open("wb", buffering=0) as file:
            for _ in range(rounds):
                file.write(bytes(size))
                os.fsync(file.fileno())
    return (time.perf_counter() - begun) / rounds * 1e6


def emptied(url: str) -> str:
    """The URL of a Redis that was emptied."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


def each(
    trials: int, ways: Iterable[str], fresh: Callable[[], str], place: Path, api: str
) -> list[list[str]]:
    """Measure each way in a process of its own, on an empty storage; the rows of the table."""
    rows: list[list[str]] = []
    for number, way in enumerate(ways):
        folder = place / f"{trials}-{number}"
        folder.mkdir(parents=True)
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "--one", way, fresh(), str(trials)],
            cwd=folder,
            env={
                **os.environ,
                "PREFECT_API_URL": api,
                "PREFECT_HOME": str(place / "home"),
                "PREFECT_LOGGING_LEVEL": "ERROR",
            },
            stdout=subprocess.PIPE,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            [
                f"{trials:,}",
                way,
                f"{found['us']:,.0f}",
                f"{found['limit']:,.0f}",
                f"{found['memory']:,.0f} B",
                f"{found['storage']:,.0f} B",
                f"{found['archive']:,.0f} B",
                f"{found['files']:.4f}",
                f"{found['read']:,.1f}" if "read" in found else "",
            ]
        )
    return rows


def main() -> None:
    """Measure, each in its own process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--storages", nargs="+", choices=[*WAYS], default=[*WAYS])
    parser.add_argument("--one", nargs=3)
    given = parser.parse_args()
    if given.one:
        way, url, trials = given.one
        found = measure(way, url, int(trials))
        print(json.dumps({**found, "limit": limit(url, int(found["storage"]))}))
        return
    titles = ("trials", "way", "us", "limit", "memory", "storage", "archive", "files", "read, us")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(LocalServer(folder / "server")).api_url
        for storage in given.storages:
            fresh: Callable[[], str] = str
            if storage == "redis":
                fresh = partial(emptied, stack.enter_context(RedisServer(folder / "redis")).url)
            elif storage == "postgres":
                fresh = stack.enter_context(PostgresServer(folder / "postgres")).new_url
            table = Table(title=f"bench_growth: a trial of 20 numbers, storage: {storage}")
            for title in titles:
                table.add_column(title, justify="left" if title == "way" else "right")
            for trials in given.trials:
                for row in each(trials, WAYS[storage], fresh, folder / storage, api):
                    table.add_row(*row)
            table.caption = "aims: archive <= 400 B beside bare, files <= 0.02, memory <= 3 kB"
            Console(width=140).print(table)


if __name__ == "__main__":
    main()
