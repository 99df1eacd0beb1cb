"""What logging an artifact costs, against lazyscribe and the repository's own size.

Aims: logging one artifact costs the same whether 1, 1,000 or 10,000 versions are there (at most
1.5 times), and is at least 50 times faster than lazyscribe's open, log and save with 1,000
experiments; 100 small JSON artifacts are logged and saved at least 5 times faster; a handler is
found in less than 5 microseconds. Everything is interleaved in one run, on a local disk; the
figures are medians, and so are the ratios. lazyscribe is given what it needs and no more: one
artifact of JSON, in a project or repository file of its own.

    python tests/benchmarks/bench_artifacts.py
"""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lazyscribe
from handler_lookups import handler_rows
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository

ROUNDS = 40
SLOW_ROUNDS = 5
PLACES = 4
BURST = 4
SIZES = (1, 1_000, 10_000)
BATCH = 100

_count = itertools.count()


def value() -> dict[str, object]:
    """A small artifact that has not been logged before."""
    return {"x": 0.5, "layers": [3, 5, 8], "name": f"candidate {next(_count)}"}


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def place(folder: Path) -> ArtifactFileSystem:
    """A new place, with all the directories that it will have when it is large."""
    root = folder / f"place {next(_count)}"
    for number in range(256):
        (root / "objects" / f"{number:02x}").mkdir(parents=True)
    return ArtifactFileSystem(url=str(root))


def log_anew(filesystem: ArtifactFileSystem) -> None:
    """What a new process does that logs one artifact: nothing is known yet."""
    ArtifactRepository(filesystem).log("model", value())


def fill_lazyscribe_project(path: Path, experiments: int) -> None:
    """A project with so many experiments, of a parameter and a metric each."""
    project = lazyscribe.Project(path, mode="w")
    for number in range(experiments):
        with project.log(f"experiment {number}") as experiment:
            experiment.log_parameter("x", number)
            experiment.log_metric("loss", 0.5)
    project.save()


def open_log_save_project(path: Path) -> None:
    """One more experiment with one artifact."""
    project = lazyscribe.Project(path, mode="a")
    with project.log("one more") as experiment:
        experiment.log_artifact("model", value(), handler="json")
    project.save()


def fill_lazyscribe_repository(path: Path, versions: int) -> None:
    """A repository with so many versions. They share one file, for all are of one second."""
    repository = lazyscribe.Repository(path, mode="w")
    for _ in range(versions):
        repository.log_artifact("model", value(), handler="json")
    repository.save()


def open_log_save_repository(path: Path) -> None:
    """One more version."""
    repository = lazyscribe.Repository(path, mode="w+")
    repository.log_artifact("model", value(), handler="json")
    repository.save()


def log_batch(folder: Path) -> None:
    """A batch of artifacts of different names, into an empty place."""
    repository = ArtifactRepository(folder)
    for number in range(BATCH):
        repository.log(f"artifact {number}", value())


def log_and_save_lazyscribe_batch(folder: Path) -> None:
    """The same with lazyscribe."""
    project = lazyscribe.Project(folder / "project.json", mode="w")
    with project.log("experiment") as experiment:
        for number in range(BATCH):
            experiment.log_artifact(f"artifact {number}", value(), handler="json")
    project.save()


def measure_one(folder: Path) -> list[tuple[str, str, str, str]]:
    """Rows on logging one artifact."""
    # More than one, as it matters where on the disk the filesystem puts a directory. What is
    # logged in the small ones makes them larger, so each round has one of its own.
    places = {
        size: [place(folder) for _ in range(ROUNDS if size == 1 else PLACES)] for size in SIZES
    }
    warm: dict[str, ArtifactRepository] = {}
    for size, filesystems in places.items():
        for filesystem in filesystems:
            warm[filesystem.url] = ArtifactRepository(filesystem)
            for _ in range(size):
                warm[filesystem.url].log("model", value())

    times: dict[tuple[str, int], list[float]] = {}
    order = random.Random(0)
    for number in range(ROUNDS):
        for size in order.sample(SIZES, len(SIZES)):
            filesystem = places[size][number % len(places[size])]
            for way, act in (
                ("warm", lambda one=filesystem: warm[one.url].log("model", value())),
                ("anew", lambda one=filesystem: log_anew(one)),
            ):
                act()  # what came before has left the processor's caches to somebody else
                times.setdefault((way, size), []).extend(seconds(act) for _ in range(BURST))

    project, index = folder / "project" / "project.json", folder / "repository" / "repository.json"
    fill_lazyscribe_project(project, 1_000)
    fill_lazyscribe_repository(index, 1_000)
    pristine = {path: path.read_bytes() for path in (project, index)}
    slow: dict[str, list[float]] = {"project": [], "repository": [], "anew": []}
    for _ in range(SLOW_ROUNDS):
        for path, content in pristine.items():
            path.write_bytes(content)
        slow["project"].append(seconds(lambda: open_log_save_project(project)))
        slow["repository"].append(seconds(lambda: open_log_save_repository(index)))
        filesystem = places[1_000][0]
        log_anew(filesystem)
        slow["anew"].append(
            statistics.median(seconds(lambda one=filesystem: log_anew(one)) for _ in range(BURST))
        )

    rows: list[tuple[str, str, str, str]] = []
    for way, name in (("warm", "the same repository object"), ("anew", "opened anew each time")):
        for size in SIZES:
            found, base = times[way, size], times[way, 1]
            ratio = statistics.median(found) / statistics.median(base)
            rows.append(
                (
                    f"log one, {size:,} versions there, {name}",
                    micro(found),
                    "" if size == 1 else f"{ratio:.2f} x that of 1",
                    "" if size == 1 else "at most 1.5",
                )
            )
    for key, name in (
        ("project", "a project of 1,000 experiments"),
        ("repository", "a repository of 1,000 versions"),
    ):
        pairs = zip(slow[key], slow["anew"], strict=True)
        ratio = statistics.median(theirs / ours for theirs, ours in pairs)
        rows.append(
            (
                f"lazyscribe: open, log, save, {name}",
                micro(slow[key]),
                f"{ratio:.0f} x ours, opened anew",
                "at least 50",
            )
        )
    return rows


def measure_batch(folder: Path) -> list[tuple[str, str, str, str]]:
    """Rows on logging a hundred artifacts."""
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(SLOW_ROUNDS):
        ours.append(seconds(lambda number=number: log_batch(folder / f"ours {number}")))
        place = folder / f"lazyscribe {number}"
        theirs.append(seconds(lambda place=place: log_and_save_lazyscribe_batch(place)))
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    return [
        (f"log {BATCH} artifacts of JSON", micro(ours), "", ""),
        (
            f"lazyscribe: log {BATCH} artifacts of JSON, save",
            micro(theirs),
            f"{ratio:.1f} x ours",
            "at least 5",
        ),
    ]


def micro(found: list[float]) -> str:
    """The median, in microseconds."""
    return f"{statistics.median(found) * 1e6:,.0f} µs"


def main() -> None:
    """Measure, and print the table."""
    gc.disable()  # nobody pays for what another has left
    table = Table(title="bench_artifacts: medians of interleaved rounds, on a local disk")
    for column in ("what", "time", "ratio", "aim"):
        table.add_column(column, justify="left" if column == "what" else "right")
    with tempfile.TemporaryDirectory() as name:
        for rows in (measure_one(Path(name, "one")), measure_batch(Path(name, "batch"))):
            for row in rows:
                table.add_row(*row)
            table.add_section()
    for way, microseconds, faster, aim in handler_rows():
        table.add_row(f"find a handler: {way}", f"{microseconds} µs", f"{faster} x", aim)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
