"""Workers that die: their trials are failed, and tried again once."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Generator

import optuna
import pytest
from optuna.storages import fail_stale_trials
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from servers import wait_until

from prefect_optuna.blocks.redis_storage import RedisStorage

Open = Callable[..., RedisStorage]
MINIMIZE = [StudyDirection.MINIMIZE]


@pytest.fixture(autouse=True)
def optuna_calls_heartbeats_experimental() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def age(storage: RedisStorage, number: int, seconds: float) -> None:
    """Make the last heartbeat of a trial look older."""
    key = f"{{{storage.namespace}:1}}:heartbeats"
    assert storage.client.zscore(key, number) is not None, "it has no heartbeat"
    storage.client.zincrby(key, -1000 * seconds, number)


def test_a_trial_goes_stale_after_the_grace_period_of_silence(open_storage: Open) -> None:
    storage = open_storage(heartbeat_interval=10, grace_period=30)
    study = storage.create_new_study(MINIMIZE)
    trial = storage.create_new_trial(study)
    assert storage._get_stale_trial_ids(study) == [], "a trial without heartbeats is never stale"
    storage.record_heartbeat(trial)
    age(storage, 0, 29)
    assert storage._get_stale_trial_ids(study) == []
    age(storage, 0, 2)
    assert storage._get_stale_trial_ids(study) == [trial]
    storage.record_heartbeat(trial)
    assert storage._get_stale_trial_ids(study) == []


def test_the_grace_period_is_twice_the_interval_by_default(open_storage: Open) -> None:
    storage = open_storage(heartbeat_interval=10)
    study = storage.create_new_study(MINIMIZE)
    trial = storage.create_new_trial(study)
    storage.record_heartbeat(trial)
    age(storage, 0, 19)
    assert storage._get_stale_trial_ids(study) == []
    age(storage, 0, 2)
    assert storage._get_stale_trial_ids(study) == [trial]


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.WAITING])
def test_a_trial_that_does_not_run_is_never_stale(open_storage: Open, state: TrialState) -> None:
    storage = open_storage(heartbeat_interval=1)
    study = storage.create_new_study(MINIMIZE)
    trial = storage.create_new_trial(study)
    storage.record_heartbeat(trial)
    storage.set_trial_state_values(trial, state, [1.0])
    storage.record_heartbeat(trial)
    assert storage.client.zcard(f"{{{storage.namespace}:1}}:heartbeats") == 0


@pytest.mark.parametrize("queued", [False, True])
def test_a_worker_that_is_killed_has_its_trial_failed_and_tried_again_once(
    open_storage: Open, queued: bool
) -> None:
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1)
    storage = open_storage(heartbeat_interval=60, heartbeat_stale_trial_callback=retry)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
    if queued:
        study.enqueue_trial({"x": 0.5})

    def die(trial: optuna.Trial) -> float:
        trial.suggest_float("x", 0, 1)
        trial.report(1.0, 1)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    if (pid := os.fork()) == 0:
        study.optimize(die, n_trials=1)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    (running,) = study.trials
    assert running.state == TrialState.RUNNING
    age(storage, 0, 121)
    others = [
        optuna.load_study(storage=open_storage(heartbeat_interval=60), study_name=study.study_name)
        for _ in range(2)
    ]
    for one in (study, *others):
        fail_stale_trials(one)
    failed, again = study.trials
    assert (failed.state, failed.params) == (TrialState.FAIL, running.params)
    assert (again.state, again.params) == (TrialState.WAITING, running.params)
    assert again.system_attrs["failed_trial"] == 0


def test_a_trial_of_optimize_has_a_heartbeat_from_its_first_moment(open_storage: Open) -> None:
    storage = open_storage(heartbeat_interval=60)
    study = storage.create_new_study(MINIMIZE)
    lost = storage.create_new_trial(study, create_trial(state=TrialState.WAITING))
    taken = storage.create_new_trial(study, create_trial(state=TrialState.WAITING))
    beats = f"{{{storage.namespace}:1}}:heartbeats"
    # As Study.optimize does, when another worker is faster with one of the two:
    storage._get_stale_trial_ids(study)
    open_storage().set_trial_state_values(lost, TrialState.RUNNING)
    assert not storage.set_trial_state_values(lost, TrialState.RUNNING)
    assert storage.set_trial_state_values(taken, TrialState.RUNNING)
    assert storage.client.zrange(beats, 0, -1) == [b"1"]
    storage.create_new_trial(study)
    assert storage.client.zcard(beats) == 1, "what ask() makes has no heartbeat by itself"
    storage._get_stale_trial_ids(study)
    storage.create_new_trial(study)
    assert storage.client.zrange(beats, 0, -1) == [b"1", b"3"]


def test_heartbeats_of_optimize_arrive(open_storage: Open) -> None:
    storage = open_storage(heartbeat_interval=1)
    study = optuna.create_study(storage=storage)
    beats = f"{{{storage.namespace}:1}}:heartbeats"

    def objective(trial: optuna.Trial) -> float:
        first = storage.client.zscore(beats, trial.number)
        assert first is not None
        wait_until(lambda: storage.client.zscore(beats, trial.number) > first, what="another beat")
        return 1.0

    study.optimize(objective, n_trials=1)
    assert study.best_value == 1.0
    assert storage.client.zcard(beats) == 0


def test_the_callback_has_the_name_that_optuna_gives_it(open_storage: Open) -> None:
    storage = open_storage(heartbeat_interval=1, heartbeat_stale_trial_callback=print)
    assert storage.get_heartbeat_stale_trial_callback() is print
    assert storage.get_heartbeat_interval() == 1
