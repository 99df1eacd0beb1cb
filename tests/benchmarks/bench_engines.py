"""What the default storage could be kept in: a file that is appended to, SQLite, LMDB, or Redis.

Each engine keeps what a trial is for a storage: a record when it is asked, which every process sees
and a power cut may take, and one of 1.5 kB when it is told, which is on the disk when the call
returns. Nothing of Optuna runs, so these are the least times that a storage in that engine can
have. `raw` is the physical floor: one write and one fsync for each trial, by one process.

    python tests/benchmarks/bench_engines.py [--trials 2000]
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import redis
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from servers import redis_server

ASKED, TOLD = b"a" * 250 + b"\n", b"t" * 1500 + b"\n"
ROUNDS, PROCESSES, KEPT = 3, 4, 10_000
Write = Callable[[bytes, bool], None]  # a record, and whether it is to be on the disk


def raw(place: str) -> Write:
    """Write, and synchronize what is told; nobody else writes."""
    file = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(record: bytes, safe: bool) -> None:
        if safe:
            os.write(file, record)
            os.fsync(file)

    return write


def appended(place: str) -> Write:
    """A file that is appended to under the kernel's lock, as the journal."""

    def write(record: bytes, safe: bool) -> None:
        lock = os.open(f"{place}.flock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            file = os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.fstat(file)  # has anybody written since?
            os.write(file, record)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)
        if safe:
            os.fsync(file)
        os.close(file)

    return write


def sqlite(place: str) -> Write:
    """SQLite in WAL mode, with a table of our own."""
    connection = sqlite3.connect(place, isolation_level=None, timeout=60)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS records (id INTEGER PRIMARY KEY, record BLOB)")

    def write(record: bytes, safe: bool) -> None:
        connection.execute(f"PRAGMA synchronous={'FULL' if safe else 'OFF'}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO records (record) VALUES (?)", (record,))
        connection.execute("COMMIT")

    return write


def lightning(place: str) -> Write:
    """LMDB, synchronized for what is told."""
    environment = lmdb.open(place, map_size=1 << 30, subdir=False, sync=False)

    def write(record: bytes, safe: bool) -> None:
        with environment.begin(write=True) as transaction:
            count = transaction.stat()["entries"]
            transaction.put(count.to_bytes(8), record, append=True)
        if safe:
            environment.sync(True)

    return write


def server(place: str) -> Write:
    """Valkey or Redis on this machine, which synchronizes each write."""
    client = redis.Redis.from_url(place)

    def write(record: bytes, safe: bool) -> None:
        client.rpush("records", record)

    return write


ENGINES: dict[str, Callable[[str], Write]] = {
    "raw": raw,
    "a file, appended to": appended,
    "SQLite, WAL": sqlite,
    "LMDB": lightning,
    "Redis beside it": server,
}


def run(engine: str, place: str, trials: int) -> None:
    """Write that many trials."""
    write = ENGINES[engine](place)
    for _ in range(trials):
        write(ASKED, False)
        write(TOLD, True)


def read(engine: str, place: str) -> int:
    """Read everything, and return how many records there are."""
    if engine == "SQLite, WAL":
        return len(sqlite3.connect(place).execute("SELECT record FROM records").fetchall())
    if engine == "LMDB":
        with lmdb.open(place, subdir=False, readonly=True).begin() as transaction:
            return len([bytes(record) for _, record in transaction.cursor()])
    if engine == "Redis beside it":
        return len(redis.Redis.from_url(place).lrange("records", 0, -1))
    return len(Path(place).read_bytes().splitlines())


@contextmanager
def place_for(engine: str, folder: Path) -> Iterator[str]:
    """Where an engine keeps its records."""
    folder.mkdir()
    if engine != "Redis beside it":
        yield str(folder / "records")
        return
    with redis_server(folder) as url:
        client = redis.Redis.from_url(url)
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "always")
        yield url


def measure(engine: str, folder: Path, trials: int) -> tuple[float, float, float]:
    """Microseconds of a trial by one process, by several, and milliseconds to read 10,000."""
    with place_for(engine, folder) as place:
        run(engine, place, 20)
        begun = time.perf_counter()
        run(engine, place, trials)
        alone = (time.perf_counter() - begun) / trials
        together = float("nan")
        if engine != "raw":
            spawn = multiprocessing.get_context("fork")
            workers = [
                spawn.Process(target=run, args=(engine, place, trials // PROCESSES))
                for _ in range(PROCESSES)
            ]
            begun = time.perf_counter()
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            together = (time.perf_counter() - begun) / trials
        begun = time.perf_counter()
        count = read(engine, place)
        reading = (time.perf_counter() - begun) / count * 2 * KEPT
        if engine != "raw":
            assert count == 2 * (20 + trials + trials // PROCESSES * PROCESSES), count
    return alone * 1e6, together * 1e6, reading * 1e3


def main() -> None:
    """Measure in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    found: dict[str, list[tuple[float, float, float]]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as name:
        for turn in range(ROUNDS):
            for number, engine in enumerate(ENGINES):
                found[engine].append(measure(engine, Path(name) / f"{turn}-{number}", trials))
    table = Table(title=f"bench_engines: {trials} trials, medians of {ROUNDS} rounds in turn")
    table.add_column("engine")
    for title in ("one process, µs", f"{PROCESSES} processes, µs", "reading 10,000 anew, ms"):
        table.add_column(title, justify="right")
    for engine, figures in found.items():
        middle: list[Any] = [statistics.median(column) for column in zip(*figures, strict=True)]
        alone, together, reading = middle
        shared = "" if engine == "raw" else f"{together:,.0f}"
        table.add_row(engine, f"{alone:,.0f}", shared, "" if engine == "raw" else f"{reading:,.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
