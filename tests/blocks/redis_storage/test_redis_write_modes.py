"""What is on the server, and when; how often it is asked; how old a read may be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState
from redis_servers import RedisServer
from servers import wait_until

from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.blocks.redis_storage import storage as storage_module
from prefect_optuna.errors import AttributeEncodingError, StorageUnavailableError

Open = Callable[..., RedisStorage]
UNIT = FloatDistribution(0, 1)


def new_trial(storage: RedisStorage) -> int:
    return storage.create_new_trial(storage.create_new_study([StudyDirection.MINIMIZE]))


def flusher_of(storage: RedisStorage) -> object:
    return storage._flusher._thread


@pytest.fixture
def own_server(tmp_path: Path) -> Generator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def test_in_the_strict_mode_every_call_is_on_the_server_when_it_returns(open_storage: Open) -> None:
    writer, reader = open_storage(write_mode="strict"), open_storage()
    trial = new_trial(writer)
    writer.set_trial_param(trial, "x", 0.5, UNIT)
    assert reader.get_trial(trial).params == {"x": 0.5}
    writer.set_trial_user_attr(trial, "note", [1, "two"])
    assert reader.get_trial(trial).user_attrs == {"note": [1, "two"]}
    writer.set_trial_intermediate_value(trial, 3, 0.25)
    assert reader.get_trial(trial).intermediate_values == {3: 0.25}


@pytest.mark.parametrize("mode", ["buffered", "fast"])
def test_what_is_buffered_is_on_the_server_soon_without_another_call(
    open_storage: Open, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        storage_module, "_FLUSH_AFTER", 0.5
    )  # longer than a busy machine takes to look
    writer, reader = open_storage(write_mode=mode), open_storage()
    trial = new_trial(writer)
    writer.set_trial_user_attr(trial, "note", "good")
    assert "note" not in reader.get_trial(trial).user_attrs
    wait_until(
        lambda: reader.get_trial(trial).user_attrs == {"note": "good"}, what="it is sent", timeout=5
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda storage, trial: storage.get_trial(trial),
        lambda storage, trial: storage.set_trial_intermediate_value(trial, 0, 1.0),
        lambda storage, trial: storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0]),
        lambda storage, trial: storage.get_all_trials(1),
        lambda storage, trial: storage.remove_session(),
        lambda storage, trial: storage.close(),
    ],
    ids=["read", "report", "state", "read all", "remove_session", "close"],
)
def test_what_is_buffered_travels_with_the_next(
    open_storage: Open, monkeypatch: pytest.MonkeyPatch, call: Callable[[RedisStorage, int], None]
) -> None:
    writer, reader = open_storage(), open_storage()
    trial = new_trial(writer)
    monkeypatch.setattr(writer._flusher, "wake", lambda: None)
    writer.set_trial_param(trial, "x", 0.5, UNIT)  # goes at once: its kind may be refused
    writer.set_trial_user_attr(trial, "note", "good")
    call(writer, trial)
    assert reader.get_trial(trial).user_attrs == {"note": "good"}


def test_a_read_right_after_the_trial_was_made_takes_a_write_along(
    open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, reader = open_storage(), open_storage()
    monkeypatch.setattr(writer._flusher, "wake", lambda: None)
    for _ in range(20):  # the read that Optuna makes of a new trial is spared for a millisecond
        trial = new_trial(writer)
        writer.set_trial_user_attr(trial, "note", "good")
        writer.get_trial(trial)
        assert reader.get_trial(trial).user_attrs == {"note": "good"}


def test_a_writer_reads_what_it_has_buffered(open_storage: Open) -> None:
    storage = open_storage(write_mode="fast")
    trial = new_trial(storage)
    storage.set_trial_user_attr(trial, 'a "quoted"\tname\n', {"tuple": (1, 2)})
    storage.set_trial_intermediate_value(trial, 1, float("inf"))
    read = storage.get_all_trials(1)[0]
    assert read.user_attrs == {'a "quoted"\tname\n': {"tuple": [1, 2]}}
    assert read.intermediate_values == {1: float("inf")}


@pytest.mark.parametrize("mode", ["buffered", "strict", "fast"])
def test_a_state_is_on_the_server_when_the_call_returns(open_storage: Open, mode: str) -> None:
    writer, reader = open_storage(write_mode=mode), open_storage()
    trial = new_trial(writer)
    writer.set_trial_param(trial, "x", 0.5, UNIT)
    writer.set_trial_state_values(trial, TrialState.COMPLETE, [2.0])
    read = reader.get_trial(trial)
    assert (read.state, read.values, read.params) == (TrialState.COMPLETE, [2.0], {"x": 0.5})


@pytest.mark.parametrize("mode", ["buffered", "strict", "fast"])
def test_a_parameter_of_another_kind_is_refused_by_the_call_that_sets_it(
    open_storage: Open, mode: str
) -> None:
    first, second = open_storage(write_mode=mode), open_storage(write_mode=mode)
    study = first.create_new_study([StudyDirection.MINIMIZE])
    theirs, ours = first.create_new_trial(study), second.create_new_trial(study)
    first.set_trial_param(theirs, "x", 0.5, UNIT)
    with pytest.raises(ValueError, match="'x' has another kind"):
        second.set_trial_param(ours, "x", 0, CategoricalDistribution(["a", "b"]))
    second.set_trial_param(ours, "x", 0.25, FloatDistribution(0, 9))
    second.set_trial_state_values(ours, TrialState.COMPLETE, [1.0])
    # In the fast mode, a read may be 1 ms old.
    wait_until(
        lambda: first.get_trial(ours).params == {"x": 0.25},
        what="the other client sees what is set",
    )


def test_nothing_of_a_value_that_is_no_json_is_kept(open_storage: Open) -> None:
    storage = open_storage()
    trial = new_trial(storage)
    with pytest.raises(AttributeEncodingError, match=r"'bad'.*set") as caught:
        storage.set_trial_user_attr(trial, "bad", {1, 2})
    assert isinstance(caught.value, TypeError)
    with pytest.warns(UserWarning, match="Choices for a categorical"):
        choices = CategoricalDistribution([b"raw"])  # type: ignore[list-item]
    with pytest.raises(AttributeEncodingError, match="choices"):
        storage.set_trial_param(trial, "c", 0, choices)
    read = storage.get_trial(trial)
    assert (read.user_attrs, read.params) == ({}, {})


def test_the_flusher_ends_by_itself_and_by_close(open_storage: Open) -> None:
    storage = open_storage()
    trial = new_trial(storage)
    storage.set_trial_user_attr(trial, "note", 1)
    thread = flusher_of(storage)
    assert isinstance(thread, threading.Thread)
    assert thread.daemon
    wait_until(lambda: not thread.is_alive(), what="the idle thread ends")
    storage.set_trial_user_attr(trial, "note", 2)
    another = flusher_of(storage)
    assert isinstance(another, threading.Thread)
    storage.close()
    assert not another.is_alive()
    assert storage.get_trial(trial).user_attrs == {"note": 2}, "a closed storage opens again"


def test_what_the_flusher_could_not_send_is_raised_by_the_next_call_and_sent_later(
    own_server: RedisServer,
) -> None:
    with RedisStorage(own_server.url, retry_limit=0.05, timeout=0.5) as storage:
        trial = new_trial(storage)
        own_server.pause()
        try:
            storage.set_trial_user_attr(trial, "note", "kept")
            wait_until(lambda: storage._failure is not None, what="the flusher fails")
            with pytest.raises(StorageUnavailableError, match=str(own_server.port)):
                storage.get_trial(trial)
        finally:
            own_server.resume()
        storage._failure = None  # it may have failed once more in the meantime
        wait_until(lambda: not storage._waiting, what="it is sent")
        with RedisStorage(own_server.url) as reader:
            assert reader.get_trial(trial).user_attrs == {"note": "kept"}


def test_writes_to_a_trial_that_another_worker_has_finished_are_refused_and_dropped(
    open_storage: Open,
) -> None:
    loser, winner = open_storage(), open_storage()
    trial = new_trial(loser)
    winner.set_trial_state_values(trial, TrialState.FAIL)
    loser.set_trial_user_attr(trial, "note", "late")
    wait_until(lambda: not loser._waiting, what="the flusher gives up")
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        loser.set_trial_user_attr(trial, "note", "later")
    assert loser.get_trial(trial).user_attrs == {}
    assert loser.get_trial(trial).state == TrialState.FAIL


@pytest.mark.parametrize(("mode", "most"), [("buffered", 4), ("fast", 2), ("strict", 9)])
def test_a_trial_takes_few_round_trips(
    open_storage: Open, monkeypatch: pytest.MonkeyPatch, mode: str, most: int
) -> None:
    # A busy machine may take longer than the millisecond that is a moment on a free one.
    monkeypatch.setattr("prefect_optuna.blocks.redis_storage.storage._FRESH_FOR", 60)
    monkeypatch.setattr("prefect_optuna.blocks.redis_storage.storage._FLUSH_AFTER", 60)
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # or each trial logs the best one
    storage = open_storage(write_mode=mode)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))

    def objective(trial: optuna.Trial) -> float:
        return sum(trial.suggest_float(f"x{i}", 0, 1) for i in range(5))

    study.optimize(objective, n_trials=1)  # the first loads, and settles the parameters' kinds
    round_trips, send = 0, storage._server._send

    def counting(commands: Any) -> Any:
        nonlocal round_trips
        round_trips += 1
        return send(commands)

    monkeypatch.setattr(storage._server, "_send", counting)
    study.optimize(objective, n_trials=10)
    assert round_trips == 10 * most
    optuna.logging.set_verbosity(optuna.logging.INFO)


def test_reads_of_two_clients_are_fresh_right_after_a_trial_was_made(open_storage: Open) -> None:
    ours, theirs = open_storage(), open_storage()
    trial = new_trial(ours)
    theirs.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    assert ours.get_trial(trial).state == TrialState.COMPLETE


def test_what_was_handed_out_stays_as_it_was(open_storage: Open) -> None:
    ours, theirs = open_storage(), open_storage(write_mode="strict")
    study = ours.create_new_study([StudyDirection.MINIMIZE])
    trial = ours.create_new_trial(study)
    before, all_before = ours.get_trial(trial), ours.get_all_trials(study, deepcopy=False)
    attributes = ours.get_study_user_attrs(study)
    theirs.set_trial_param(trial, "x", 0.5, UNIT)
    theirs.set_study_user_attr(study, "k", 1)
    ours.set_trial_user_attr(trial, "k", 1)
    after = ours.get_trial(trial)
    assert (before.params, before.user_attrs, attributes) == ({}, {}, {})
    assert (all_before[0].params, all_before[0].user_attrs) == ({}, {})
    after.params["x"] = 9  # as Optuna's Trial does
    assert ours.get_trial(trial).params == {"x": 0.5}
