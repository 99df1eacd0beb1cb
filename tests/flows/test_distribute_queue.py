"""The queue between a parent and its workers, without the processes around it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.context import FlowRunContext
from prefect.exceptions import CancelledRun
from prefect.states import Crashed, Running, Scheduled
from servers import wait_until

from prefect_optuna.blocks import (
    InMemoryStudyStorage,
    JournalStudyStorage,
    SQLStudyStorage,
    StudyNotFoundError,
)
from prefect_optuna.deployments import deploy_worker, make_process_pool
from prefect_optuna.errors import (
    ArchiveError,
    ArchiveSignatureError,
    InvalidSettingError,
    ServerUnavailableError,
)
from prefect_optuna.flows import Problem, _worker_runs, distribute, session
from prefect_optuna.flows.distribute_flow import _Queue
from prefect_optuna.flows.session import Session
from prefect_optuna.flows.study import FlowStudy, Sampler
from prefect_optuna.flows.work import CANCELLED, type_names, work
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive


@pytest.fixture(params=["memory", "journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    if request.param == "memory":
        return InMemoryStudyStorage(name=str(tmp_path)).get_storage()
    if request.param == "journal":
        return JournalStudyStorage(path=tmp_path / "studies.journal").get_storage()
    return SQLStudyStorage(url=f"sqlite:///{tmp_path}/studies.db").get_storage()


@pytest.fixture
def study(storage: BaseStorage) -> FlowStudy:
    optuna.create_study(study_name="s", storage=storage)
    return FlowStudy.open("s", storage, RandomSampler(seed=0), optuna.pruners.NopPruner())


@pytest.fixture
def parent(study: FlowStudy, storage: BaseStorage) -> Generator[Session]:
    opened = Session(study, storage)
    opened.open()
    yield opened
    opened.close()


def test_each_released_trial_is_taken_by_one_worker(
    study: FlowStudy, storage: BaseStorage, parent: Session
) -> None:
    parent.release(30)
    together = threading.Barrier(4)

    def take() -> list[int]:
        worker = Session(study, storage)
        together.wait()
        taken = iter(lambda: worker.take(study, released_by=parent.id), None)
        return [trial.number for trial in taken]

    with ThreadPoolExecutor(4) as pool:
        taken = [n for future in [pool.submit(take) for _ in range(4)] for n in future.result()]

    assert sorted(taken) == list(range(30))


def test_what_waits_already_is_released_first_and_no_more_than_is_asked_for(
    study: FlowStudy, storage: BaseStorage, parent: Session
) -> None:
    for x in (1.0, 2.0, 3.0):
        study.enqueue_trial({"x": x})
    worker = Session(study, storage)

    def take() -> list[float]:
        taken = iter(lambda: worker.take(study, released_by=parent.id), None)
        return [trial.suggest_float("x", 0, 9) for trial in taken]

    assert take() == []
    parent.release(2)
    assert take() == [1.0, 2.0]
    parent.release(3)
    assert parent.under_way(study.trials) == (2, 3)
    assert take()[0] == 3.0
    assert len(study.trials) == 5


def leave_dead(study: FlowStudy, storage: BaseStorage, **changes: object) -> Session:
    """A session whose process is gone without a word."""
    gone = Session(study, storage)
    gone.say()
    study_id = storage.get_study_id_from_name("s")
    key = f"prefect_optuna:session:{gone.id}"
    record = {**storage.get_study_system_attrs(study_id)[key], **changes}
    storage.set_study_system_attr(study_id, key, record)
    return gone


def test_a_trial_is_not_taken_from_a_worker_that_is_about_to_mark_it(
    study: FlowStudy, storage: BaseStorage, parent: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_dead(study, storage, process_started=0.0)
    worker = Session(study, storage)
    worker.open()
    study.ask()  # taken, and not marked yet

    assert parent.recover() == []
    monkeypatch.setattr(session, "CLAIM_SECONDS", 0.0)
    assert parent.recover() == [0]  # after all that time it never will

    worker.close()


def test_a_worker_of_another_machine_that_is_known_to_be_dead_is_not_waited_for(
    study: FlowStudy, storage: BaseStorage, parent: Session
) -> None:
    gone = leave_dead(study, storage, place="elsewhere")
    parent.release(1)
    assert gone.take(study, released_by=parent.id) is not None
    assert parent.recover() == []

    parent.declare_dead(gone.id)

    assert parent.recover() == [0]
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]


def test_a_worker_that_may_be_taken_for_dead_shows_life_before_it_takes_a_trial(
    study: FlowStudy, storage: BaseStorage, parent: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Session(study, storage)
    worker.open()

    def renewed() -> float:
        return parent.records()[worker.id]["renewed"]

    parent.release(2)
    first = renewed()
    assert worker.take(study, released_by=parent.id) is not None
    assert renewed() == first
    now = session._uptime()
    monkeypatch.setattr(session, "_uptime", lambda: now + 1000)  # the machine has slept
    assert worker.take(study, released_by=parent.id) is not None
    assert renewed() > first
    second = renewed()
    monkeypatch.setattr(session, "_uptime", lambda: now + 2000)
    assert worker.ask(study).number == 2  # a new one
    assert renewed() > second
    worker.close()


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_worker_that_was_missed_and_is_back_keeps_its_trials_and_runs_for_the_server_too() -> (
    None
):
    storage = InMemoryStudyStorage(name="back").get_storage()
    optuna.create_study(study_name="s", storage=storage)
    study = FlowStudy.open("s", storage, RandomSampler(seed=0), optuna.pruners.NopPruner())
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(work, parameters={}, state=Running())
        own = client.create_flow_run(work, parameters={}, state=Running())

        def state() -> str:
            return client.read_flow_run(flow_run.id).state_name

        parent = Session(study, study.storage)
        log = logging.getLogger("back")
        runs = _worker_runs.WorkerRuns("work/back", "back", "s", lambda _: {}, own.id, log)
        runs._runs[flow_run.id] = _worker_runs._Run(flow_run, 0.0)
        queue = _Queue(study, parent, runs, 1, 1, None, None, [], log)
        parent.open()
        details = {"place": "elsewhere", "parent": parent.id, "flow_run": str(flow_run.id)}
        worker = leave_dead(study, storage, **details, lease=0.3)

        def renews(**changes: object) -> None:
            key, of = f"prefect_optuna:session:{worker.id}", study._study_id
            record = storage.get_study_system_attrs(of)[key]
            changes = {"renewed": time.time(), "closed": False, **changes}
            storage.set_study_system_attr(of, key, {**record, **changes})

        with runs:
            queue._look_at_sessions()
            wait_until(lambda: not queue._look_at_sessions(), what="it is missed", every=0.1)
            wait_until(lambda: state() == "Crashed", what="the server hears that it is gone")

            renews(lease=60.0)
            parent.release(1)
            taken = worker.take(study, released_by=parent.id)
            assert taken is not None
            for _ in range(3):
                assert queue._look_at_sessions()  # it lives,
                renews(lease=60.0)
            assert study.trials[taken.number].state == TrialState.RUNNING  # and its trial is its
            wait_until(lambda: state() == "Running", what="the server hears that it is back")

            # And when it really ends, that is seen as before.
            client.set_flow_run_state(flow_run.id, Crashed(), force=True)
            wait_until(lambda: str(flow_run.id) in runs.ended, what="its end is seen")
            queue._look_at_sessions()
            assert study.trials[taken.number].state == TrialState.FAIL
        parent.close()


@pytest.mark.usefixtures("prefect_server")
def test_whoever_leads_after_a_dead_run_tells_the_server_that_it_is_dead(tmp_path: Path) -> None:
    storage = JournalStudyStorage(path=tmp_path / "studies.journal").get_storage()
    optuna.create_study(study_name="s", storage=storage)
    study = FlowStudy.open("s", storage, RandomSampler(seed=0), optuna.pruners.NopPruner())
    with get_client(sync_client=True) as client:
        dead, own = (client.create_flow_run(work, parameters={}, state=Running()) for _ in "12")
        others = {"study_name": "of somebody else"}
        foreign = client.create_flow_run(work, parameters=others, state=Running())
        # Its own: run again, as Prefect does. Storages say what somebody wrote there.
        for name in (str(dead.id), str(own.id), str(foreign.id), "no id at all", None):
            details = {"place": "elsewhere", "flow_run": name, "workers": 1, "leads": True}
            leave_dead(study, storage, **details, lease=0.3)
        log = logging.getLogger("led")
        runs = _worker_runs.WorkerRuns("work/led", "led", "s", lambda _: {}, own.id, log)
        parent = Session(study, study.storage, {"flow_run": str(own.id), "workers": 1})
        _Queue(study, parent, runs, 1, 1, None, 3.0, [], log).run()
        assert client.read_flow_run(dead.id).state_name == "Crashed"
        assert client.read_flow_run(own.id).state_name == "Running"
        assert client.read_flow_run(foreign.id).state_name == "Running"


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("storage", ["journal"], indirect=True)
@pytest.mark.parametrize(
    ("term", "is_older"), [(2, False), (1, True)], ids=["took over", "at the same moment"]
)
def test_a_leader_that_stood_still_follows_whoever_took_over(
    study: FlowStudy, storage: BaseStorage, term: int, is_older: bool
) -> None:
    log = logging.getLogger("led")
    of = {"workers": 1}
    first, other = (Session(study, storage, of) for _ in range(2))
    own = other if is_older else first
    other = first if is_older else other
    runs = _worker_runs.WorkerRuns("work/led", "led", "s", lambda _: {}, uuid4(), log)

    def says(**what: object) -> bool:
        record = own.records().get(own.id, {})
        return what.items() <= record.items()

    with ThreadPoolExecutor(1) as pool:
        leads = pool.submit(_Queue(study, own, runs, 1, 1, 1, 60.0, [], log).run)
        wait_until(lambda: says(leads=1) and len(study.trials) == 1, what="it leads")
        # A leader of an earlier term wakes up: it is for that one to follow.
        woken = Session(study, storage, {**of, "leads": 1})
        woken.open()
        time.sleep(1.5)  # longer than between two looks
        assert says(leads=1)
        woken.close()

        other.open()
        other.say(leads=term)
        wait_until(lambda: says(leads=0, over=True), what="it follows")
        other.release(2)
        assert len(study.trials) == 2  # what waited is let out by whoever leads, and one more
        other.close()
        wait_until(lambda: says(leads=term + 1, over=False), what="it leads again")

        worker, taken = Session(study, storage), []

        def take() -> list[optuna.Trial]:
            taken.extend(filter(None, [worker.take(study, released_by=own.id)]))
            return taken

        wait_until(take, what="a trial")
        study.tell(taken[0], 1.0)
        leads.result(60)


@pytest.mark.usefixtures("prefect_server")
def test_a_run_that_a_busy_server_made_without_saying_so_is_called_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = logging.getLogger("led")
    monkeypatch.setattr(_worker_runs, "_LOOK_SECONDS", 0.1)
    refused = iter([ConnectionError("it is busy still")])
    ask = _worker_runs.WorkerRuns._unknown

    def busy_once(runs: Any, client: Any) -> Any:
        if error := next(refused, None):
            raise error
        return ask(runs, client)

    monkeypatch.setattr(_worker_runs.WorkerRuns, "_unknown", busy_once)

    @flow
    def leads() -> tuple[str, str]:
        with get_client(sync_client=True) as client:
            own = FlowRunContext.get().flow_run
            task_run = client.create_task_run(
                task=task(lambda: None), flow_run_id=own.id, dynamic_key="worker"
            )
            of_it = {"parameters": {}, "parent_task_run_id": task_run.id}
            stray = client.create_flow_run(work, **of_it, state=Scheduled())
            begun = client.create_flow_run(work, **of_it, state=Running())
            with _worker_runs.WorkerRuns("work/led", "led", "s", lambda _: {}, own.id, log):
                pass
            return tuple(str(client.read_flow_run(one.id).state_name) for one in (stray, begun))

    assert leads() == ("Cancelled", "Running")


# -- a worker's flow, in a thread -----------------------------------------------------------------


class OutOfRangeError(ValueError):
    pass


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1), "number": trial.number}


def run(params: dict[str, Any]) -> float:
    if params["number"] == 2:
        raise OutOfRangeError("two is too much")
    return params["x"]


@dataclass
class Lab:
    """A study with its archive, its parent's session, and how a worker is started."""

    study: FlowStudy
    parent: Session
    common: dict[str, Any]
    pool: ThreadPoolExecutor

    def start(self, **more: Any) -> Future[int]:
        return self.pool.submit(lambda: work("s", **{**self.common, **more}))

    def finished(self) -> int:
        return sum(t.state.is_finished() for t in self.study.get_trials(deepcopy=False))

    def worker_record(self) -> dict[str, Any]:
        return next(r for r in self.parent.records().values() if "parent" in r)


@pytest.fixture
def lab(tmp_path: Path, prefect_server: object) -> Generator[Lab]:
    block = JournalStudyStorage(path=tmp_path / "studies.journal")
    block.create_study("s")
    sampler = RandomSampler()
    study = FlowStudy.open("s", block.get_storage(), sampler, optuna.pruners.NopPruner())
    archive = OptunaArchive(study, artifacts=tmp_path / "artifacts")
    archive.save_problem(Problem(suggest=suggest, run=run))
    assert archive.manifest is not None
    parent = Session(study, block.get_storage())
    parent.open()
    common = {
        "parent": parent.id,
        "version": archive.manifest.versions[-1].id,
        "storage": block,
        "artifacts": str(tmp_path / "artifacts"),
        "sampler": Sampler(name="random"),
    }
    with ThreadPoolExecutor(2) as pool:
        yield Lab(study, parent, common, pool)
        parent.close()


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_worker_runs_what_its_parent_releases_and_ends_with_it(lab: Lab, n_jobs: int) -> None:
    lab.parent.release(2)
    worker = lab.start(n_jobs=n_jobs, catch=["builtins.ValueError"])
    wait_until(lambda: lab.finished() == 2, what="two trials")
    lab.parent.release(3)
    wait_until(lambda: lab.finished() == 5, what="five trials")
    assert not worker.done()

    lab.parent.say(over=True)

    assert worker.result(30) == 5
    states = [t.state for t in lab.study.trials]
    assert states.count(TrialState.COMPLETE) == 4
    assert states[2] == TrialState.FAIL  # the archived exception is caught by its base's name
    assert lab.worker_record()["task_runs"] >= 1


def test_a_worker_whose_parent_is_gone_ends_and_takes_nothing_more(lab: Lab) -> None:
    lab.parent.release(1)
    worker = lab.start()
    wait_until(lambda: lab.finished() == 1, what="a trial")
    lab.parent.close()
    lab.parent.release(1)
    assert worker.result(30) <= 2  # it looks twice a second


def test_a_worker_that_starts_after_its_study_was_cancelled_is_cancelled_too(lab: Lab) -> None:
    # Prefect sets a Cancelled run to Running when its process, which had begun to start, is there.
    lab.parent.release(1)
    lab.parent.say(over=CANCELLED)

    with pytest.raises(CancelledRun):
        lab.start(number=0).result(60)

    assert [t.state for t in lab.study.trials] == [TrialState.WAITING]


def test_what_catch_does_not_name_stops_the_study_and_the_parent_is_told(lab: Lab) -> None:
    lab.parent.release(5)
    worker = lab.start(catch=["builtins.KeyError"])
    with pytest.raises(ValueError, match="two is too much"):
        worker.result(30)
    record = lab.worker_record()
    assert "trial 2 failed: OutOfRangeError: two is too much" in record["error"]
    assert not record["alive"]
    assert lab.finished() == 3


def test_a_worker_runs_no_other_version_than_the_one_that_its_parent_has_archived(lab: Lab) -> None:
    with pytest.raises(ArchiveError, match="no version 'abc'"):
        lab.start(version="abc").result(30)
    assert lab.worker_record()["refused"]
    assert lab.finished() == 0


def test_with_a_key_a_worker_signs_its_trials_and_runs_no_archive_that_was_changed(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", "a key for the tests alone")
    lab: Lab = request.getfixturevalue("lab")
    lab.parent.release(2)
    worker = lab.start()
    wait_until(lambda: lab.finished() == 2, what="two trials")
    lab.parent.say(over=True)
    assert worker.result(30) == 2
    places = {key: lab.common[key] for key in ("storage", "artifacts")}
    archived = ArchivedStudy.load("s", **places)
    archived.require_trust()
    archived.verify_trials(archived.study.trials)

    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", "another key for the tests")
    with pytest.raises(ArchiveSignatureError):
        lab.start().result(30)


def test_exceptions_are_named_as_in_the_script_also_where_the_script_is_archived() -> None:
    assert f"{__name__}.OutOfRangeError" in type_names(OutOfRangeError)
    assert "builtins.Exception" in type_names(OutOfRangeError)


# -- bad input ------------------------------------------------------------------------------------


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"workers": 0}, InvalidSettingError, "`workers` is 1 or more"),
        ({"n_jobs": -1}, InvalidSettingError, "each worker runs at once"),
        ({"n_trials": None}, InvalidSettingError, "`timeout`"),
        ({"sampler": RandomSampler()}, InvalidSettingError, "makes its own sampler"),
        ({"deployment": "nowhere"}, InvalidSettingError, "deploy-worker --pool nowhere"),
        ({"storage": InMemoryStudyStorage(name="x")}, InvalidSettingError, "one process"),
        ({"storage": "postgresql://me:hunter2@db/s"}, InvalidSettingError, r'save\("lab"\)'),
    ],
    ids=["workers", "n_jobs", "endless", "sampler", "deployment", "memory", "password"],
)
def test_what_cannot_work_is_refused_before_anything_exists(
    prefect_server: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {"study_name": "s", **arguments}
    with pytest.raises(error, match=words) as raised:
        distribute.fn(objective, **given)
    assert "hunter2" not in str(raised.value)
    assert list(tmp_path.rglob("*")) == []


def test_without_a_server_that_workers_can_reach_it_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ServerUnavailableError, match="prefect-optuna serve"),
    ):
        distribute.fn(objective, study_name="s")


@pytest.mark.slow
def test_a_pool_without_a_worker_is_named_in_the_report_with_the_command_that_helps(
    prefect_server: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker_runs, "_LATE_SECONDS", 0.0)
    make_process_pool("deserted")
    deploy_worker("deserted")
    block = SQLStudyStorage(url=f"sqlite:///{tmp_path}/studies.db")
    block.save("deserted")
    with ThreadPoolExecutor(1) as pool:
        study = pool.submit(
            lambda: distribute(
                objective,
                study_name="deserted",
                workers=1,
                deployment="deserted",
                storage=block,
                artifacts=tmp_path / "artifacts",
                timeout=60,  # should this test fail
                progress=False,
            )
        )

        def report() -> str:
            wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["study-deserted"]))
            with get_client(sync_client=True) as client:
                found = client.read_artifacts(artifact_filter=wanted)
            return str(found[-1].data) if found else ""

        wait_until(lambda: "prefect worker start" in report(), what="a note", every=0.5)
        # And a study that somebody deletes while it runs is an error that says so.
        optuna.delete_study(study_name="deserted", storage=block.get_storage())
        with pytest.raises(StudyNotFoundError, match="deleted while it ran"):
            study.result(60)
