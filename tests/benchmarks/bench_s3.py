"""Results in a bucket beside results on a local disk, with a network of 30 ms between.

Ten trials of 50 ms run at once, each with a result of 20 numbers, which is in the trial itself, or
of 6,400, which is 50 kB. The server speaks the protocol of S3 (moto's), and takes turns with the
trials for the processor; in front of it is a proxy that holds each request back. Aim: with the
network, the trials take at most 1.10 times what they take on a local disk. The whole also has what
is written before the first trial and after the last one.

    python tests/benchmarks/bench_s3.py [--trials 400]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import optuna
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from filesystems import s3_filesystem
from servers import s3_server
from slow_network import slow_port

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import optimize
from prefect_optuna.tasks import ArchivedStudy, Problem

DELAY, SECONDS, JOBS, ROUNDS = 0.03, 0.05, 10, 3


def make_problem(numbers: int, begun: list[float]) -> Problem:
    """A problem whose trials wait, and return that many numbers."""

    def run(params: dict[str, float]) -> dict[str, np.ndarray]:
        begun.append(time.perf_counter())
        time.sleep(SECONDS)
        return {"curve": np.sin(params["x"] * np.arange(1.0, numbers + 1))}

    return Problem(
        suggest=lambda trial: {"x": trial.suggest_float("x", -5, 5)},
        run=run,
        evaluate=lambda result: float(result["curve"][0]),
    )


def measure(name: str, numbers: int, trials: int, places: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds from the first trial to the last one told, and of the whole."""
    begun: list[float] = []
    told: list[float] = []
    started = time.perf_counter()
    optimize(
        make_problem(numbers, begun),
        study_name=name,
        n_trials=trials,
        n_jobs=JOBS,
        sampler="random",
        callbacks=[lambda *_: told.append(time.perf_counter())],
        **places,
    )
    whole = time.perf_counter() - started
    archived = ArchivedStudy.load(name, **places)
    assert len(archived.result(trials - 1)["curve"]) == numbers
    return max(told) - min(begun), whole


def floor(archive: ArtifactFileSystem, trials: int) -> float:
    """Return the seconds of as many files of 50 kB by ten threads, with nothing else."""
    content = np.random.default_rng(1).bytes(8 * 6400)
    begun = time.perf_counter()
    with ThreadPoolExecutor(JOBS) as pool:
        for made in [pool.submit(archive.create, f"floor/{n}", content) for n in range(trials)]:
            made.result()
    return time.perf_counter() - begun


def main() -> None:
    """Measure in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("prefect").setLevel(logging.WARNING)
    table = Table(title=f"bench_s3: {trials} trials of 50 ms, ten at once; medians of {ROUNDS}")
    table.add_column("result")
    table.add_column("archive")
    for title in ("trials, s", "x local disk", "aim", "whole, s"):
        table.add_column(title, justify="right")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(LocalServer(folder / "prefect"))
        url = stack.enter_context(s3_server(folder))
        port = stack.enter_context(slow_port(urlsplit(url).port or 80, DELAY))
        ways: dict[str, Callable[[str], ArtifactFileSystem]] = {
            "a local disk": lambda name: ArtifactFileSystem(url=str(folder / name)),
            "S3": lambda _: s3_filesystem(url),
            "S3 behind 30 ms": lambda _: s3_filesystem(f"http://127.0.0.1:{port}"),
        }
        for numbers in (20, 6400):
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for turn in range(ROUNDS + 1):  # the first one warms up
                for way, archive in ways.items():
                    name = f"{way.replace(' ', '-')}-{numbers}-{turn}"
                    places = {"storage": folder / "studies.journal", "artifacts": archive(name)}
                    figures = measure(name, numbers, trials if turn else 20, places)
                    if turn:
                        found[way].append(figures)
            local = found["a local disk"]
            for way, figures in found.items():
                ratios = [here[0] / there[0] for here, there in zip(figures, local, strict=True)]
                table.add_row(
                    f"{numbers:,} numbers",
                    way,
                    f"{statistics.median(f[0] for f in figures):.2f}",
                    f"{statistics.median(ratios):.2f}",
                    "1.10" if "ms" in way else "",
                    f"{statistics.median(f[1] for f in figures):.2f}",
                )
            table.add_section()
        limit = {way: floor(archive(f"floor-{way}"), trials) for way, archive in ways.items()}
    words = ", ".join(f"{way} {seconds:.2f} s" for way, seconds in limit.items())
    table.caption = (
        f"limits: waiting {trials * SECONDS / JOBS:.2f} s; writing {trials} files of 50 kB by ten "
        f"threads, with nothing else: {words}"
    )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
