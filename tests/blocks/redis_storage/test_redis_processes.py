"""One storage in many threads and processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.blocks.redis_storage.layout import StudyKeys

Open = Callable[..., RedisStorage]
MINIMIZE = [StudyDirection.MINIMIZE]


def in_child(work: Callable[[], object]) -> int:
    """Run something in a forked child; its pid."""
    if pid := os.fork():
        return pid
    try:
        work()
    except BaseException:  # noqa: BLE001 (a child of pytest must not come back)
        os._exit(1)
    os._exit(0)


def test_a_storage_goes_on_in_forked_children(open_storage: Open) -> None:
    storage = open_storage()
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    mine = study.ask()
    mine.set_user_attr("note", "of the parent, and not sent yet")

    def work() -> None:
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=5)
        storage.close()

    for pid in [in_child(work) for _ in range(4)]:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    study.tell(mine, 1.0)
    trials = study.trials
    assert [t.number for t in trials] == list(range(22))
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert trials[mine.number].user_attrs == {"note": "of the parent, and not sent yet"}


def test_a_fork_while_another_thread_is_at_work_does_not_hang(open_storage: Open) -> None:
    storage = open_storage()
    study = storage.create_new_study(MINIMIZE)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            trial = storage.create_new_trial(study)
            storage.set_trial_user_attr(trial, "k", 1)
            storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(5):
            pid = in_child(lambda: (storage.create_new_trial(study), storage.get_all_trials(study)))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()


def test_threads_share_a_storage(open_storage: Open) -> None:
    storage = open_storage()
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
    for number in range(20):
        study.enqueue_trial({"x": number / 20})

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("number", trial.number)
        trial.report(0.5, 1)
        return trial.suggest_float("x", 0, 1)

    study.optimize(objective, n_trials=40, n_jobs=4)
    trials = open_storage().get_all_trials(1)
    assert [t.user_attrs["number"] for t in trials] == list(range(40))
    assert {t.state for t in trials} == {TrialState.COMPLETE}
    assert [t.params["x"] for t in trials[:20]] == [number / 20 for number in range(20)]
    assert storage.get_all_trials(1) == trials


def test_writes_of_many_threads_to_one_trial_arrive(open_storage: Open) -> None:
    storage = open_storage()
    trial = storage.create_new_trial(storage.create_new_study(MINIMIZE))

    def write(number: int) -> None:
        storage.set_trial_user_attr(trial, f"k{number}", number)
        assert storage.get_trial(trial).user_attrs[f"k{number}"] == number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(100)))
    storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    assert open_storage().get_trial(trial).user_attrs == {f"k{n}": n for n in range(100)}


def test_many_create_the_same_study_and_one_wins(open_storage: Open) -> None:
    def create(_: int) -> object:
        storage = open_storage()
        try:
            return storage.create_new_study(MINIMIZE, "s")
        except optuna.exceptions.DuplicatedStudyError:
            return storage.get_study_id_from_name("s")

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(create, range(8)))
    assert len(ids) == 1
    assert len(open_storage().get_all_studies()) == 1


@pytest.mark.slow
def test_what_is_buffered_when_the_interpreter_ends_is_sent(
    open_storage: Open, redis_server: str, namespace: str
) -> None:
    program = f"""
from prefect_optuna.blocks.redis_storage import RedisStorage
storage = RedisStorage({redis_server!r}, namespace={namespace!r})
storage._flusher.wake = lambda: None
trial = storage.create_new_trial(storage.create_new_study([0]))
storage.set_trial_user_attr(trial, "last", "words")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert open_storage().get_trial(2).user_attrs == {"last": "words"}


def test_a_study_that_is_deleted_while_somebody_looks_for_it_is_gone_and_not_damaged(
    open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, deleting = open_storage(), open_storage()
    study = looking.create_new_study(MINIMIZE)
    looking.create_new_trial(study)
    # The first step of the other process; the rest of it comes between two looks of this one.
    looking.client.hset(StudyKeys(looking.namespace, study).meta, "deleted", "1")
    read, looks = looking._server.read, 0

    def read_and_be_overtaken(commands: Sequence[Sequence[Any]]) -> list[Any]:
        nonlocal looks
        found, looks = read(commands), looks + 1
        if looks == 1:
            deleting.delete_study(study)
        return found

    monkeypatch.setattr(looking._server, "read", read_and_be_overtaken)
    with pytest.raises(KeyError, match="No study with the id"):
        looking.get_all_trials(study)
    assert looks == 2
