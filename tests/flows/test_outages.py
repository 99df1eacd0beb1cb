"""A storage that is away for a while costs a study time, and no trial."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import optuna
import pytest
from filesystems import s3_filesystem
from optuna.trial import TrialState
from redis_servers import RedisServer, redis_sentinel
from servers import BusyStore, Cable, wait_until
from storages_under_test import PostgresServer

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    JournalStudyStorage,
    RedisStudyStorage,
    SQLStudyStorage,
    StorageUnavailableError,
    StudyStorage,
    log_artifact,
)
from prefect_optuna.flows import Problem, optimize
from prefect_optuna.flows.session import is_lost
from prefect_optuna.tasks import ArchivedStudy

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set"),
]

N_TRIALS = 12
AWAY = 2.0  # seconds, longer than the storages' own patience below


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@contextmanager
def restarted(server: RedisServer | PostgresServer) -> Generator[None]:
    server.kill()
    try:
        yield
    finally:
        server.start()


@contextmanager
def redis_cut(folder: Path) -> Generator[tuple[StudyStorage, Callable[[], Any]]]:
    with RedisServer(folder / "redis") as server, Cable(server.port) as cable:
        yield RedisStudyStorage(url=f"redis://127.0.0.1:{cable.port}/0", retry_limit=0.2), cable.out


@contextmanager
def redis_killed(folder: Path) -> Generator[tuple[StudyStorage, Callable[[], Any]]]:
    with RedisServer(folder / "redis", append_only=True) as server:
        yield RedisStudyStorage(url=server.url, retry_limit=0.2), lambda: restarted(server)


@contextmanager
def redis_told(
    folder: Path, then: list[str], again: list[str]
) -> Generator[tuple[StudyStorage, Callable[[], Any]]]:
    """One that is told something, and then that it is over."""
    with RedisServer(folder / "redis") as server, server.client() as client:

        @contextmanager
        def told() -> Generator[None]:
            client.execute_command(*then)
            try:
                yield
            finally:
                client.execute_command(*again)

        yield RedisStudyStorage(url=server.url, retry_limit=0.2), told


@contextmanager
def redis_failover(folder: Path) -> Generator[tuple[StudyStorage, Callable[[], Any]]]:
    """One whose primary dies for good, so that Sentinel makes the replica the primary."""
    with redis_sentinel(folder) as setup:

        @contextmanager
        def dead() -> Generator[None]:
            setup.primary.kill()
            yield

        yield RedisStudyStorage(url=setup.url, retry_limit=0.2), dead


@contextmanager
def journal_full(folder: Path) -> Generator[tuple[StudyStorage, Callable[[], Any]]]:
    """A file on a small disk, which somebody else fills."""
    (disk := folder / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)

    @contextmanager
    def full() -> Generator[None]:
        with (disk / "others").open("wb", buffering=0) as others, suppress(OSError):
            while True:
                others.write(b"x" * 4096)
        try:
            yield
        finally:
            (disk / "others").unlink()

    try:
        yield JournalStudyStorage(path=disk / "s.journal"), full
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


REDIS_TOLD = {
    "redis full": (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
    "redis read-only": (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]),
}


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    # As root it runs as another user, who may not look into pytest's folders.
    with TemporaryDirectory() as folder, PostgresServer(Path(folder)) as server:
        yield server


@contextmanager
def postgresql_cut(server: PostgresServer) -> Generator[tuple[StudyStorage, Callable[[], Any]]]:
    with Cable(server.port) as cable:
        block = SQLStudyStorage(url=server.new_url(cable.port))
        yield block, cable.out


@contextmanager
def postgresql_killed(server: PostgresServer) -> Generator[tuple[StudyStorage, Callable[[], Any]]]:
    yield SQLStudyStorage(url=server.new_url()), lambda: restarted(server)


@pytest.fixture
def storage(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Generator[tuple[StudyStorage, Callable[[], Any]]]:
    """A storage, and what keeps it away within a block."""
    if request.param == "journal full":
        opened = journal_full(tmp_path)
    elif request.param == "redis failover":
        opened = redis_failover(tmp_path)
    elif request.param in REDIS_TOLD:
        opened = redis_told(tmp_path, *REDIS_TOLD[request.param])
    elif request.param.startswith("redis"):
        opened = redis_cut(tmp_path) if "cut" in request.param else redis_killed(tmp_path)
    else:
        server = request.getfixturevalue("postgres")
        opened = postgresql_cut(server) if "cut" in request.param else postgresql_killed(server)
    with opened as found:
        yield found


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1), "number": trial.number}


def run(params: dict[str, Any]) -> dict[str, Any]:
    with Path("started.txt").open("a", encoding="utf-8") as log:
        print(params["number"], file=log)
    time.sleep(0.05)
    return {"series": [params["x"]] * 600}  # too many for an attribute


def evaluate(result: dict[str, Any]) -> float:
    return float(result["series"][0])


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate)


def short_run(params: dict[str, Any]) -> dict[str, Any]:
    return {"series": run(params)["series"][:10]}


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    with Path("started.txt").open("a", encoding="utf-8") as log:
        print(trial.number, file=log)
    for step in range(5):
        trial.report(x, step)
        time.sleep(0.02)
    trial.set_user_attr("of", x)
    return x


def started() -> Counter[str]:
    log = Path("started.txt")
    return Counter(log.read_text(encoding="utf-8").split() if log.exists() else ())


@contextmanager
def away_in_mid_study(cut: Callable[[], Any], *, for_good: bool = False) -> Generator[None]:
    """After the third trial has begun, the storage is away for a while, or until the end."""
    over = threading.Event()

    def cut_and_mend() -> None:
        wait_until(lambda: len(started()) >= 3, what="three trials")
        with cut():
            over.wait(None if for_good else AWAY)

    thread = threading.Thread(target=cut_and_mend)
    thread.start()
    try:
        yield
    finally:
        if for_good:
            over.set()
        thread.join()


CELLS = list(
    itertools.product(
        ["redis cut", "redis killed", "postgresql cut", "postgresql killed"],
        [1, 3],
        [PROBLEM, objective],
    )
)
# Each storage, each kind of target and each number of jobs; and the same where a cable is cut.
IN_EACH_RUN = {4: [], 15: [pytest.mark.slow], 2: [pytest.mark.slow], 9: [pytest.mark.slow]}
CELLS += list(
    itertools.product([*REDIS_TOLD, "redis failover", "journal full"], [1, 3], [PROBLEM, objective])
)


@pytest.mark.parametrize(
    ("storage", "n_jobs", "target"),
    [
        pytest.param(*cell, marks=IN_EACH_RUN.get(place, pytest.mark.heavy))
        for place, cell in enumerate(CELLS)
    ],
    ids=[
        "-".join([cell[0], str(cell[1]), "problem" if cell[2] is PROBLEM else "objective"])
        for cell in CELLS
    ],
    indirect=["storage"],
)
def test_a_study_waits_for_its_storage_and_every_trial_is_run_once(
    storage: tuple[StudyStorage, Callable[[], Any]], n_jobs: int, target: Any
) -> None:
    block, cut = storage
    with away_in_mid_study(cut):
        began = time.monotonic()
        optimize(target, study_name="s", n_trials=N_TRIALS, n_jobs=n_jobs, storage=block)
    assert time.monotonic() - began > AWAY
    trials = block.load_study("s").trials
    assert Counter(t.state for t in trials) == {TrialState.COMPLETE: N_TRIALS}
    assert max(started().values()) == 1
    if target is PROBLEM:
        archived = ArchivedStudy.load("s", storage=block)
        for trial in trials:
            assert archived.result(trial.number)["series"] == [trial.params["x"]] * 600
    else:
        assert all(trial.user_attrs["of"] == trial.params["x"] for trial in trials)
        assert all(len(trial.intermediate_values) == 5 for trial in trials)


@pytest.mark.slow
def test_a_study_in_processes_waits_for_its_storage(postgres: PostgresServer) -> None:
    with postgresql_cut(postgres) as (block, cut):
        with away_in_mid_study(cut):
            optimize(
                objective,
                study_name="s",
                n_trials=N_TRIALS,
                n_jobs=2,
                storage=block,
                task_runner="processes",
            )
        trials = block.load_study("s").trials
        assert Counter(t.state for t in trials) == {TrialState.COMPLETE: N_TRIALS}
        assert max(started().values()) == 1


@pytest.fixture
def artifacts_behind_a_cable(s3_server: str) -> Generator[tuple[ArtifactFileSystem, Cable]]:
    with ExitStack() as stack:
        cable = stack.enter_context(Cable(int(s3_server.rsplit(":", 1)[1])))
        name = f"outage-{uuid4().hex[:8]}"
        s3_filesystem(s3_server)  # makes the bucket
        options = {"connect_timeout": 1, "read_timeout": 1, "retries": {"max_attempts": 1}}
        yield (
            s3_filesystem(f"http://127.0.0.1:{cable.port}", name, config_kwargs=options),
            cable,
        )


@pytest.mark.slow
def test_a_study_whose_picture_cannot_be_kept_is_whole(
    artifacts_behind_a_cable: tuple[ArtifactFileSystem, Cable],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    artifacts, cable = artifacts_behind_a_cable
    monkeypatch.setattr("prefect_optuna.blocks.stores.opening._SECONDS", 0.5)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_PATIENCE", "0.3")
    problem = Problem(suggest=suggest, run=short_run, evaluate=evaluate)
    with away_in_mid_study(cable.out, for_good=True):
        result = optimize(
            problem,
            study_name="s",
            n_trials=6,
            storage=JournalStudyStorage(path="s.journal"),
            artifacts=artifacts,
        )
    assert result.n_trials == 6
    assert result.picture is None
    assert "The best trial's picture is not archived" in caplog.text


def each_has_its_result(block: StudyStorage, artifacts: ArtifactFileSystem) -> None:
    trials = block.load_study("s").trials
    assert Counter(t.state for t in trials) == {TrialState.COMPLETE: 6}
    assert max(started().values()) == 1
    archived = ArchivedStudy.load("s", storage=block, artifacts=artifacts)
    assert all(archived.result(n)["series"] == [trials[n].params["x"]] * 600 for n in range(6))


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_a_result_waits_for_the_place_of_its_archive(
    artifacts_behind_a_cable: tuple[ArtifactFileSystem, Cable],
    monkeypatch: pytest.MonkeyPatch,
    n_jobs: int,
) -> None:
    artifacts, cable = artifacts_behind_a_cable
    monkeypatch.setattr("prefect_optuna.blocks.stores.opening._SECONDS", 0.5)
    monkeypatch.setattr("prefect_optuna.tasks.archive.series.blobs._WRITTEN_IN", 0.1)
    block = JournalStudyStorage(path="s.journal")
    places: dict[str, Any] = {"storage": block, "artifacts": artifacts}
    with away_in_mid_study(cable.out):
        optimize(PROBLEM, study_name="s", n_trials=6, n_jobs=n_jobs, **places)
    each_has_its_result(block, artifacts)


@pytest.mark.slow
def test_a_result_waits_for_a_store_that_is_too_busy(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 503 to everything."""
    monkeypatch.setattr("prefect_optuna.blocks.stores.opening._SECONDS", 0.5)
    block = JournalStudyStorage(path="s.journal")
    s3_filesystem(s3_server)  # makes the bucket
    with BusyStore(int(s3_server.rpartition(":")[2])) as store:
        artifacts = s3_filesystem(
            f"http://127.0.0.1:{store.port}", config_kwargs={"retries": {"max_attempts": 1}}
        )
        with away_in_mid_study(store.busy):
            optimize(PROBLEM, study_name="s", n_trials=6, storage=block, artifacts=artifacts)
        each_has_its_result(block, artifacts)
    assert store.refused > 0


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_a_study_goes_on_with_a_store_that_takes_twenty_seconds_a_call(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "AWAY", 45.0)
    block = JournalStudyStorage(path="s.journal")
    s3_filesystem(s3_server)  # makes the bucket
    with Cable(int(s3_server.rpartition(":")[2])) as cable:
        artifacts = s3_filesystem(f"http://127.0.0.1:{cable.port}")
        # Ten seconds for what is asked, and ten for the answer.
        with away_in_mid_study(lambda: cable.slow(10.0)):
            optimize(
                PROBLEM, study_name="s", n_trials=6, n_jobs=2, storage=block, artifacts=artifacts
            )
        each_has_its_result(block, artifacts)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_when_patience_ends_no_trial_has_failed_and_the_next_run_goes_on(
    artifacts_behind_a_cable: tuple[ArtifactFileSystem, Cable],
    monkeypatch: pytest.MonkeyPatch,
    n_jobs: int,
) -> None:
    artifacts, cable = artifacts_behind_a_cable
    monkeypatch.setattr("prefect_optuna.blocks.stores.opening._SECONDS", 0.5)
    block = JournalStudyStorage(path="s.journal")
    arguments: dict[str, Any] = {"study_name": "s", "n_trials": 6, "storage": block}
    arguments |= {"artifacts": artifacts, "n_jobs": n_jobs}
    with monkeypatch.context() as impatient:
        impatient.setenv("PREFECT_INTEGRATIONS_OPTUNA_PATIENCE", "0.3")
        with away_in_mid_study(cable.out, for_good=True), pytest.raises(StorageUnavailableError):
            optimize(PROBLEM, catch=Exception, **arguments)
    trials = block.load_study("s").trials
    assert not [t for t in trials if t.state == TrialState.FAIL and not is_lost(t)]
    lost = [t for t in trials if is_lost(t)]
    assert lost

    optimize(PROBLEM, **arguments)

    counted = [t for t in block.load_study("s").trials if not is_lost(t)]
    assert Counter(t.state for t in counted) == {TrialState.COMPLETE: 6}
    assert all(
        [t.params for t in counted].count(trial.params) == 1 for trial in lost if trial.params
    )


@pytest.mark.slow
def test_what_an_objective_logs_waits_as_well(
    artifacts_behind_a_cable: tuple[ArtifactFileSystem, Cable], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts, cable = artifacts_behind_a_cable
    monkeypatch.setattr("prefect_optuna.blocks.stores.opening._SECONDS", 0.5)

    name = f"outage-{uuid4().hex[:8]}"
    artifacts.save(name)
    place = f"artifact-file-system/{name}"

    def logs(trial: optuna.Trial) -> float:
        x = objective(trial)
        log_artifact(trial, "note", {"x": x}, artifacts=place)
        return x

    block = JournalStudyStorage(path="s.journal")
    with away_in_mid_study(cable.out):
        optimize(logs, study_name="s", n_trials=6, storage=block, artifacts=artifacts)
    trials = block.load_study("s").trials
    assert Counter(t.state for t in trials) == {TrialState.COMPLETE: 6}
    assert max(started().values()) == 1


SCRIPT = """
    from test_outages import PROBLEM
    from prefect_optuna.blocks import RedisStudyStorage
    from prefect_optuna.flows import optimize

    block = RedisStudyStorage(url="redis://127.0.0.1:{port}/0", retry_limit=0.2)
    optimize(PROBLEM, study_name="s", n_trials=100, n_jobs={n_jobs}, storage=block)
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_does_not_wait_for_a_storage_that_is_away(n_jobs: int, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server, Cable(server.port) as cable:
        script = textwrap.dedent(SCRIPT).format(port=cable.port, n_jobs=n_jobs)
        here = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
        }
        with Path("output.txt").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", script],
                env=here,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            wait_until(lambda: len(started()) >= 3, what="three trials")
            with cable.out():
                time.sleep(1)
                os.kill(process.pid, signal.SIGINT)
                process.wait(20)
        finally:
            process.kill()
            process.wait()
        assert process.returncode not in (0, -signal.SIGKILL), Path("output.txt").read_text("utf-8")
        block = RedisStudyStorage(url=server.url)
        optimize(PROBLEM, study_name="s", n_trials=20, storage=block)
        trials = block.load_study("s").trials
        assert not [t for t in trials if t.state == TrialState.FAIL and not is_lost(t)]
        assert sum(not is_lost(t) for t in trials) == 20
