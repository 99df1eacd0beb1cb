"""What saving and loading an object costs, against NumPy and against `neuralib`, in the same run.

Aims, for an object with 10^6 floats: save and load take at most 1.3 times what `np.save` and
`np.load` take, and at most what neuralib's PickleHandler takes; with zstd, on rounded data, a
save takes at most a fifteenth of what its GzipHandler takes, at a similar size. A save that
counts takes less than twice as long beside 1,000 files of 8 MB as beside none; it is measured
also for when others save into the folder, which then is listed each time. Each write goes to
a name of its own; ratios are medians of interleaved rounds. The second load also sums the array,
for ours is mapped and is read when it is looked at.

`neuralib` is PyPI's `neura-library`, which brings a gigabyte of other things along, and so has an
environment of its own, `.cache/neuralib`, which `make bench` makes. Without it, or another
interpreter that is named here, it is left out:

    python tests/benchmarks/bench_persistence.py [python-with-neuralib]
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from prefect_optuna.tasks.persistence import (
    ArrowHandler,
    ZstdHandler,
    autoinc_field,
    field,
    load,
    persistence_class,
)

NEURALIB_PYTHON = Path(__file__).parents[2] / ".cache" / "neuralib" / "bin" / "python"
ROUNDS = 25
SIZE = 10**6
FILES = 1000
FILE_SIZE = 8_000_000

# Runs in the other interpreter: lines of `save|load handler path` in, seconds out.
NEURALIB = """
import sys, time, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import numpy as np
from neuralib.persistence import GzipHandler, PickleHandler, field, persistence_class

@persistence_class
class Spectrum:
    animal: str = field(validator=True, filename=True)
    power: np.ndarray

spectrum = Spectrum("lynx")
spectrum.power = np.load(sys.argv[1])
handlers = {"pickle": PickleHandler, "gzip": GzipHandler}
print("ready", flush=True)
for line in sys.stdin:
    action, kind, path = line.split()
    handler, path = handlers[kind](Spectrum, Path(path).parent), Path(path)
    start = time.perf_counter()
    if action == "save":
        handler.save_persistence(spectrum, path)
    else:
        found = handler.load_persistence(path).power
        if action == "sum":
            found.sum()
    print(time.perf_counter() - start, flush=True)
"""

Timed = Callable[[], float]


@persistence_class
class Spectrum:
    """What is saved."""

    animal: str = field(validator=True, filename=True)
    power: np.ndarray


@persistence_class
class Count:
    """What is saved beside others."""

    key: str = field(validator=True, filename=True)
    run: int = autoinc_field()
    value: float


def timed(work: Callable[[], object]) -> Timed:
    """A call that returns its own seconds."""

    def seconds() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return seconds


@contextmanager
def neuralib(python: str | None, data: Path) -> Generator[Callable[[str, str, Path], float] | None]:
    """A call that has the other interpreter save or load, and returns the seconds."""
    if python is None:
        yield None
        return
    with subprocess.Popen(
        [python, "-c", NEURALIB, str(data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None
        assert answers.readline().strip() == "ready", "neuralib cannot be imported there"

        def ask(action: str, kind: str, path: Path) -> float:
            print(action, kind, path, file=requests, flush=True)
            return float(answers.readline())

        yield ask
        requests.close()


def rounds(ways: dict[str, Timed], count: int = ROUNDS) -> dict[str, list[float]]:
    """The seconds of each way, interleaved, once each is warm."""
    for way in ways.values():
        way()
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(count):
        for name, way in ways.items():
            measured[name].append(way())
    return measured


def rows(
    title: str, measured: dict[str, list[float]], against: dict[str, str], sizes: dict[str, int]
) -> Generator[list[str]]:
    """Lines of the table: milliseconds, the ratio to each base, the aims."""
    for name, seconds in measured.items():
        ratios = [
            f"{statistics.median(s / b for s, b in zip(seconds, measured[base], strict=True)):.2f}"
            f" x {base} (aim {aim})"
            for base, aim in against.items()
            if base in measured and name.startswith("prefect_optuna")
        ]
        size = f"{sizes[name] / 1e6:.2f}" if name in sizes else ""
        middle = f"{statistics.median(seconds) * 1e3:.2f}"
        yield [title, name, middle, size, "; ".join(ratios)]


def arrays(python: str | None, folder: Path, kind: str, power: np.ndarray) -> Generator[list[str]]:
    """Saving and loading one object."""
    spectrum = Spectrum("lynx", power=power)
    np.save(folder / "data.npy", power)
    arrow, zstd = ArrowHandler(Spectrum, folder), ZstdHandler(Spectrum, folder)
    small = ZstdHandler(Spectrum, folder, compression=3)
    numbers = itertools.count()
    last: dict[str, Path] = {}

    def fresh(way: str) -> Path:
        """A new name, once the file before is gone, which is not measured."""
        if way in last:
            last[way].unlink()
        last[way] = folder / f"{way}-{next(numbers)}.{'npy' if way == 'np.save' else 'arrow'}"
        return last[way]

    def saving(way: str, save: Callable[[Path], object]) -> Timed:
        def seconds() -> float:
            path = fresh(way)
            return timed(lambda: save(path))()

        return seconds

    with neuralib(python, folder / "data.npy") as other:
        saves: dict[str, Timed] = {
            "np.save": saving("np.save", lambda path: np.save(path, power)),
            "prefect_optuna ArrowHandler": saving(
                "arrow", lambda path: arrow.save_persistence(spectrum, path)
            ),
        }
        if other is not None:
            saves["neuralib PickleHandler"] = lambda: other("save", "pickle", fresh("pickle"))
        measured = rounds(saves)
        sizes = {
            "np.save": last["np.save"].stat().st_size,
            "prefect_optuna ArrowHandler": last["arrow"].stat().st_size,
        }
        aims = {"np.save": "1.3", "neuralib PickleHandler": "1"}
        yield from rows(f"save, {kind}", measured, aims, sizes)

        for title, also in (("load", False), ("load and sum", True)):
            loads: dict[str, Timed] = {
                "np.load": timed(lambda also=also: _looked_at(np.load(last["np.save"]), also=also)),
                "prefect_optuna load": timed(
                    lambda also=also: _looked_at(load(Spectrum, last["arrow"]).power, also=also)
                ),
                "prefect_optuna ArrowHandler": timed(
                    lambda also=also: _looked_at(
                        arrow.load_persistence(last["arrow"]).power, also=also
                    )
                ),
            }
            if other is not None:
                action = "sum" if also else "load"
                loads["neuralib PickleHandler"] = lambda action=action: other(
                    action, "pickle", last["pickle"]
                )
            aims = {"np.load": "1.3", "neuralib PickleHandler": "1"}
            yield from rows(f"{title}, {kind}", rounds(loads), aims, {})

        packed: dict[str, Timed] = {
            "prefect_optuna ZstdHandler": saving(
                "zstd", lambda path: zstd.save_persistence(spectrum, path)
            ),
            "prefect_optuna ZstdHandler, level 3": saving(
                "small", lambda path: small.save_persistence(spectrum, path)
            ),
        }
        if other is not None:
            packed["neuralib GzipHandler"] = lambda: other("save", "gzip", fresh("gzip"))
        measured = rounds(packed, 5)
        sizes = {
            "prefect_optuna ZstdHandler": last["zstd"].stat().st_size,
            "prefect_optuna ZstdHandler, level 3": last["small"].stat().st_size,
        }
        if other is not None:
            sizes["neuralib GzipHandler"] = last["gzip"].stat().st_size
        aims = {"neuralib GzipHandler": "0.067"} if kind == "rounded" else {}
        yield from rows(f"save packed, {kind}", measured, aims, sizes)


def _looked_at(array: np.ndarray, *, also: bool) -> object:
    return array.sum() if also else array


def counting(folder: Path) -> Generator[list[str]]:
    """Saves that count, beside many files and beside none."""
    empty, full = folder / "empty", folder / "full"
    empty.mkdir()
    full.mkdir()
    content = bytes(FILE_SIZE)
    for number in range(FILES):
        (full / f"cache-Count-k-{number}.arrow").write_bytes(content)

    def save(place: Path, *, changed: bool) -> float:
        if changed:  # by somebody else, so that the folder is listed
            (place / "other").touch()
            (place / "other").unlink()
        count = Count("k", value=0.5)
        seconds = timed(lambda: ArrowHandler(Count, place).save_persistence(count))()
        if place == empty:
            (place / f"cache-Count-k-{count.run}.arrow").unlink()
        return seconds

    for title, changed in (("alone", False), ("after somebody else", True)):
        measured = rounds(
            {
                "beside none": lambda changed=changed: save(empty, changed=changed),
                f"prefect_optuna beside {FILES} of 8 MB": lambda changed=changed: save(
                    full, changed=changed
                ),
            },
            200,
        )
        yield from rows(f"count, {title}", measured, {"beside none": "2"}, {})


def main() -> None:
    """Measure, and print the table."""
    python = sys.argv[1] if len(sys.argv) > 1 else None
    if python is None and NEURALIB_PYTHON.exists():
        python = str(NEURALIB_PYTHON)
    table = Table(title=f"bench_persistence: medians of {ROUNDS} interleaved rounds")
    for column in ("what", "way", "ms", "MB", "ratio"):
        table.add_column(column, justify="right" if column in ("ms", "MB") else "left")
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, power in (
            ("random", generator.normal(size=SIZE)),
            ("rounded", np.round(np.cumsum(generator.normal(size=SIZE)), 3)),
        ):
            for row in arrays(python, folder, kind, power):
                table.add_row(*row)
            table.add_section()
        for row in counting(folder):
            table.add_row(*row)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
