"""One study on real workers: a server, a process pool, and whoever is killed on the way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
import servers
from optuna.trial import TrialState
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import CancelledRun
from prefect.states import Cancelling
from pydantic import SecretStr
from servers import Cable, prefect_home, without_prefect

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    JournalStudyStorage,
    RedisStudyStorage,
    SQLStudyStorage,
    StudyNotFoundError,
    StudyStorage,
)
from prefect_optuna.deployments import LocalServer, LocalWorker, deploy_worker, make_process_pool
from prefect_optuna.deployments.cli import main
from prefect_optuna.flows import Problem, distribute, optimize
from prefect_optuna.flows.session import Session, is_lost, state_of
from prefect_optuna.tasks import ArchivedStudy

# Processes start and import in all of these, which a busy machine takes its time for.
pytestmark = [pytest.mark.usefixtures("lab")]


def wait_until(condition: Callable[[], object], *, what: str) -> None:
    """Not so often that looking takes the workers' time."""
    servers.wait_until(condition, what=what, every=0.2)


SCRIPT = """
    import os
    import time
    from pathlib import Path
    from prefect_optuna.flows import Problem, distribute

    LOG = {log!r}

    def suggest(trial):
        return {{"x": trial.suggest_float("x", 0, 1), "number": trial.number}}

    def run(params):
        with Path(LOG).open("a") as log:
            print(params["number"], os.getpid(), file=log, flush=True)
        time.sleep(0.3)
        return {{"series": [params["x"]] * 10}}

    def evaluate(result):
        return result["series"][0]

    if __name__ == "__main__":
        distribute(Problem(suggest=suggest, run=run, evaluate=evaluate), study_name="hurt",
                   n_trials={trials}, workers=2, deployment="distributed", seed=1, progress=False,
                   storage={storage!r}, artifacts="artifact-file-system/distributed")
"""


@pytest.fixture(scope="module")
def lab(
    prefect_server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> Generator[LocalWorker]:
    """A pool of processes with its worker, and what studies are kept in, saved as blocks."""
    folder = tmp_path_factory.mktemp("lab")
    make_process_pool("distributed")
    deploy_worker("distributed")
    JournalStudyStorage(path=folder / "studies.journal").save("distributed")
    SQLStudyStorage(url=f"sqlite:///{folder}/studies.db").save("distributed")
    ArtifactFileSystem(url=str(folder / "artifacts")).save("distributed")
    # Not where the tests are: a worker has nothing of the user's.
    before = Path.cwd()
    os.chdir(folder)
    try:
        with LocalWorker("distributed", folder / "worker.log", query=1.0) as worker:
            yield worker
    finally:
        os.chdir(before)


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.1)
    return {"series": [params["x"]] * 10}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["series"][0])


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate)


class InBackground:
    """A call in a thread, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001
            self.error = error

    def wait(self, timeout: float = 60) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def in_background(name: str, storage: StudyStorage | str, **more: Any) -> InBackground:
    return InBackground(
        lambda: distribute(
            PROBLEM,
            study_name=name,
            storage=storage,
            artifacts="artifact-file-system/distributed",
            deployment="distributed",
            progress=False,
            **more,
        )
    )


def sessions(block: StudyStorage, name: str) -> dict[str, dict[str, Any]]:
    try:
        return Session(block.load_study(name), block.get_storage()).records()
    except LookupError:
        return {}


def workers_of(block: StudyStorage, name: str) -> list[dict[str, Any]]:
    return [r for r in sessions(block, name).values() if "parent" in r and r["alive"]]


def finished(block: StudyStorage, name: str) -> list[optuna.trial.FrozenTrial]:
    try:
        trials = block.load_study(name).get_trials(deepcopy=False)
    except LookupError:
        return []
    return [t for t in trials if t.state.is_finished() and not is_lost(t)]


def flow_runs(name: str) -> list[FlowRun]:
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(
            flow_run_filter=FlowRunFilter(name=FlowRunFilterName(like_=name))
        )


def report_of(key: str) -> str:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        )
    return str(found[-1].data) if found else ""


@pytest.mark.slow
def test_kill_9_of_a_worker_and_then_of_the_parent_loses_nothing_and_runs_nothing_twice(
    tmp_path: Path,
) -> None:
    n_trials = 90  # of 0.3 s: the dead one is looked for every ten seconds
    log, output = tmp_path / "log.txt", tmp_path / "output.txt"
    name = "journal-study-storage/distributed"
    block = JournalStudyStorage.load("distributed")
    assert isinstance(block, JournalStudyStorage)
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(SCRIPT).format(log=str(log), storage=name, trials=n_trials))

    def start() -> subprocess.Popen[bytes]:
        with output.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, str(script)], cwd=tmp_path, stdout=out, stderr=out
            )

    parent = start()
    try:
        wait_until(
            lambda: (
                parent.poll() is not None
                or (len(workers_of(block, "hurt")) == 2 and len(finished(block, "hurt")) >= 4)
            ),
            what="two workers at work",
        )
        assert parent.poll() is None, output.read_text()
        # In the midst of a trial: between two there would be nothing to recover.
        begun = len(log.read_text().splitlines())
        servers.wait_until(lambda: len(log.read_text().splitlines()) > begun, what="a trial begins")
        pid = int(log.read_text().split()[-1])
        os.kill(pid, signal.SIGKILL)
        [victim] = [r for r in sessions(block, "hurt").values() if r.get("pid") == pid]
        wait_until(
            lambda: any(is_lost(t) for t in block.load_study("hurt").trials),
            what="the trial of the killed worker is recovered",
        )
        [killed] = [r for r in flow_runs("hurt-worker") if str(r.id) == victim["flow_run"]]
        before = len(finished(block, "hurt"))
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        wait_until(lambda: not workers_of(block, "hurt"), what="workers without a parent end")
        left = len(finished(block, "hurt"))
        assert before <= left < n_trials
        parent = start()
        assert parent.wait(90) == 0, output.read_text()
    finally:
        parent.kill()
        parent.wait()

    trials = block.load_study("hurt").trials
    counted = [t for t in trials if not is_lost(t) and t.state.is_finished()]
    assert len(counted) == n_trials
    assert not [t for t in trials if t.state == TrialState.RUNNING]
    # Each point was finished once, and the lost ones were asked again with the same parameters.
    assert len({t.params["x"] for t in counted}) == n_trials
    lost = [t for t in trials if is_lost(t)]
    assert lost
    for trial in (t for t in lost if t.params):
        assert [t.params for t in counted].count(trial.params) == 1
    started = Counter(log.read_text().split()[::2])
    assert max(started.values()) == 1
    # The server knows what became of the killed one.
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(killed.id).state_type == StateType.CRASHED
    archived = ArchivedStudy.load(
        "hurt", storage=name, artifacts="artifact-file-system/distributed"
    )
    assert archived.result(counted[7].number)["series"] == [counted[7].params["x"]] * 10


@pytest.mark.slow
def test_workers_name_the_code_that_they_run_also_for_trials_that_were_queued_before() -> None:
    block = JournalStudyStorage.load("distributed")
    assert isinstance(block, JournalStudyStorage)
    artifacts = "artifact-file-system/distributed"
    before = Problem(suggest=suggest, run=lambda params: params["x"])
    optimize(before, study_name="changed", n_trials=1, storage=block, artifacts=artifacts)
    study = block.load_study("changed")
    study.enqueue_trial({"x": 0.25})
    study.enqueue_trial({"x": 0.75})

    in_background("changed", block, n_trials=4, workers=2).wait(120)

    archived = ArchivedStudy.load("changed", storage=block, artifacts=artifacts)
    assert [archived.version_of(number) for number in range(4)] == [0, 1, 1, 1]
    assert archived.result(1)["series"] == [0.25] * 10


@pytest.mark.slow
def test_cancelled_in_the_ui_its_workers_are_cancelled_and_their_trials_wait_again() -> None:
    block = SQLStudyStorage.load("distributed")
    assert isinstance(block, SQLStudyStorage)
    study = in_background("cancelled", block, n_trials=1000)
    wait_until(lambda: len(finished(block, "cancelled")) > 2, what="some trials")
    [parent] = [r for r in flow_runs("cancelled") if r.name == "cancelled"]

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(parent.id, Cancelling())
    with pytest.raises(CancelledRun):
        study.wait()

    trials = block.load_study("cancelled").trials
    assert not [t for t in trials if t.state == TrialState.RUNNING]
    for lost in (t for t in trials if is_lost(t)):
        again = [t for t in trials if t.system_attrs.get("failed_trial") == lost.number]
        assert [t.state for t in again] == [TrialState.WAITING]
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(parent.id).state_type == StateType.CANCELLED
    wait_until(
        lambda: {r.state_type for r in flow_runs("cancelled-worker-")} == {StateType.CANCELLED},
        what="the flow runs of its workers are cancelled",
    )


@pytest.mark.heavy
def test_a_server_that_is_away_does_not_stop_the_study_and_the_report_catches_up(
    prefect_server: LocalServer, redis_server: str
) -> None:
    block = RedisStudyStorage(url=SecretStr(redis_server), namespace="away")
    block.save("distributed-away")
    study = in_background("away", block, n_trials=120, n_jobs=2)
    wait_until(lambda: len(finished(block, "away")) > 5, what="some trials")
    assert prefect_server.pid is not None
    server = psutil.Process(prefect_server.pid)
    processes = [server, *server.children(recursive=True)]
    try:
        for process in processes:
            process.suspend()
        reached = len(finished(block, "away"))
        wait_until(
            lambda: len(finished(block, "away")) >= min(reached + 60, 120), what="60 more trials"
        )
    finally:
        for process in processes:
            process.resume()

    result = study.wait()

    assert result.n_trials == 120
    assert len(finished(block, "away")) == 120
    wait_until(lambda: "120 of 120" in report_of("study-away"), what="the last report")


@pytest.mark.heavy
def test_workers_and_their_parent_go_on_when_the_server_forgets_all_about_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database is reset."""
    monkeypatch.chdir(tmp_path)
    block = JournalStudyStorage(path=tmp_path / "studies.journal")
    with LocalServer(prefect_home(tmp_path / "prefect")) as server:
        make_process_pool("forgotten")
        deploy_worker("forgotten")
        block.save("forgotten")
        ArtifactFileSystem(url=str(tmp_path / "artifacts")).save("forgotten")
        with LocalWorker("forgotten", tmp_path / "worker.log", query=1.0):
            study = InBackground(
                lambda: distribute(
                    PROBLEM,
                    study_name="forgotten",
                    n_trials=200,
                    workers=2,
                    storage="journal-study-storage/forgotten",
                    artifacts="artifact-file-system/forgotten",
                    deployment="forgotten",
                    progress=False,
                )
            )
            begun = lambda: len(finished(block, "forgotten")) > 5  # noqa: E731
            wait_until(begun, what="some trials")
            with without_prefect(server, reset=True):
                assert len(finished(block, "forgotten")) < 150
            result = study.wait(240)
        wait_until(lambda: "200 of 200" in report_of("study-forgotten"), what="its report")
    assert result.states == {"complete": 200, "pruned": 0, "failed": 0}
    assert len(block.load_study("forgotten").trials) == 200


@pytest.mark.heavy
def test_workers_and_their_parent_wait_for_a_storage_that_is_away(redis_server: str) -> None:
    with Cable(int(redis_server.rsplit(":", 1)[1].split("/")[0])) as cable:
        url = SecretStr(f"redis://127.0.0.1:{cable.port}/0")
        block = RedisStudyStorage(url=url, namespace="cable", retry_limit=0.2)
        block.save("distributed-cable")
        study = in_background("cable", block, n_trials=40, workers=2)
        wait_until(lambda: len(finished(block, "cable")) > 5, what="some trials")
        with cable.out():
            time.sleep(5)

        result = study.wait(120)

        trials = block.load_study("cable").trials
        block.get_storage().close()
    assert result.states["complete"] == 40
    # A worker that asked for a trial, and whose answer was cut off, does not know that it has it:
    # nobody begins that one, and it is asked again.
    lost = [t for t in trials if t.state == TrialState.FAIL]
    assert all(is_lost(t) and not t.params for t in lost)
    assert len(trials) == 40 + len(lost) <= 42


def _workers_of(block: StudyStorage, study_name: str) -> int:
    """How many sessions of workers live."""
    with contextlib.suppress(StudyNotFoundError):
        records = Session(block.load_study(study_name), block.get_storage()).records()
        return sum(one["alive"] and "parent" in one for one in records.values())
    return 0


@pytest.mark.heavy
def test_a_running_study_gets_more_workers_and_fewer(capsys: pytest.CaptureFixture[str]) -> None:
    block = JournalStudyStorage.load("distributed")
    assert isinstance(block, JournalStudyStorage)
    place = ["--storage", "journal-study-storage/distributed"]
    study = InBackground(
        lambda: distribute(
            PROBLEM,
            study_name="scaled",
            n_trials=1200,
            workers=1,
            deployment="distributed",
            storage="journal-study-storage/distributed",
            artifacts="artifact-file-system/distributed",
        )
    )
    wait_until(lambda: _workers_of(block, "scaled") == 1, what="a worker")
    assert main(["scale", "scaled", "--workers", "3", *place]) == 0
    assert "scaled: 3 workers, in place of 1." in capsys.readouterr().out
    wait_until(lambda: _workers_of(block, "scaled") == 3, what="three workers")
    assert main(["scale", "scaled", "--workers", "1", *place]) == 0
    wait_until(lambda: _workers_of(block, "scaled") == 1, what="one worker again")
    n_trials = len(finished(block, "scaled"))
    wait_until(lambda: len(finished(block, "scaled")) > n_trials + 5, what="it goes on")
    assert main(["scale", "scaled", "--workers", "4", *place]) == 0
    assert study.wait(200).n_trials == 1200
    assert len(finished(block, "scaled")) == 1200
    assert main(["scale", "scaled", "--workers", "2", *place]) == 1
    assert "no `distribute` runs 'scaled'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_on_workers_pauses_goes_on_and_stops_when_it_is_asked_to(
    capsys: pytest.CaptureFixture[str],
) -> None:
    block = JournalStudyStorage.load("distributed")
    assert isinstance(block, JournalStudyStorage)
    place = ["--storage", "journal-study-storage/distributed"]
    study = in_background(
        "asked", "journal-study-storage/distributed", n_trials=5000, workers=2, n_jobs=2
    )
    wait_until(lambda: len(finished(block, "asked")) > 5, what="some trials")
    wait_until(lambda: len(workers_of(block, "asked")) == 2, what="two workers")

    def running() -> int:
        return sum(t.state == TrialState.RUNNING for t in block.load_study("asked").trials)

    def state() -> str:
        loaded = block.load_study("asked")
        return state_of(loaded, loaded.trials)

    assert main(["pause", "asked", *place]) == 0
    assert "waits for `prefect-optuna resume`" in capsys.readouterr().out
    wait_until(lambda: state() == "paused" and not running(), what="all wait")
    n_trials = len(finished(block, "asked"))
    time.sleep(3)
    assert len(finished(block, "asked")) == n_trials
    assert len(workers_of(block, "asked")) == 2
    assert main(["resume", "asked", *place]) == 0
    wait_until(lambda: len(finished(block, "asked")) > n_trials + 5, what="it goes on")
    assert state() == "running"
    assert main(["stop", "asked", *place]) == 0
    result = study.wait(120)
    assert n_trials + 5 < result.n_trials < 5000
    assert state() == "stopped"
    assert workers_of(block, "asked") == []
    assert running() == 0
    assert not [t for t in block.load_study("asked").trials if t.state == TrialState.FAIL]
    runs = flow_runs("asked")
    # A busy server may have made one more than it said, which is called off.
    states = {run.state_type for run in runs}
    assert StateType.COMPLETED in states, [run.state for run in runs]
    assert states <= {StateType.COMPLETED, StateType.CANCELLED}, [run.state for run in runs]
    capsys.readouterr()
    assert main(["stop", "asked", *place]) == 1
    assert "Nobody runs asked" in capsys.readouterr().err


@pytest.mark.heavy
def test_of_two_parents_one_leads_and_the_other_follows() -> None:
    block = JournalStudyStorage.load("distributed")
    assert isinstance(block, JournalStudyStorage)
    parents = [
        InBackground(
            lambda: distribute(
                PROBLEM,
                study_name="two-parents",
                n_trials=60,
                workers=2,
                deployment="distributed",
                storage="journal-study-storage/distributed",
                artifacts="artifact-file-system/distributed",
            )
        )
        for _ in range(2)
    ]
    assert [parent.wait(200).n_trials for parent in parents] == [60, 60]
    trials = block.load_study("two-parents").trials
    assert Counter(t.state for t in trials if not is_lost(t)) == {TrialState.COMPLETE: 60}
    assert len(flow_runs("two-parents-worker-")) == 2  # one parent's
