"""Connections that fail, servers that restart or go back in time: nothing is done twice or lost."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from redis_servers import RedisServer
from servers import FaultyNetwork

from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.errors import StorageUnavailableError

MINIMIZE = [StudyDirection.MINIMIZE]
DONE = create_trial(value=1.0, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def network(server: RedisServer) -> Generator[FaultyNetwork]:
    with FaultyNetwork(server.port) as network:
        yield network


@pytest.fixture
def storage(network: FaultyNetwork, namespace: str) -> Generator[RedisStorage]:
    url = f"redis://127.0.0.1:{network.port}"
    with RedisStorage(url, namespace=namespace, write_mode="strict", timeout=5) as storage:
        yield storage


CALLS: dict[str, Callable[[RedisStorage], object]] = {
    # Of a study whose reply is lost, an id may be left unused.
    "create a study": lambda s: s.get_study_name_from_id(s.create_new_study(MINIMIZE, "new")),
    "delete a study": lambda s: s.delete_study(1),
    "set a study's attribute": lambda s: s.set_study_user_attr(1, "k", 1),
    "create a trial": lambda s: s.create_new_trial(1),
    "create a finished trial": lambda s: s.create_new_trial(1, DONE),
    "set a parameter": lambda s: s.set_trial_param(2, "x", 0.5, FloatDistribution(0, 1)),
    "set an attribute": lambda s: s.set_trial_user_attr(2, "k", "v"),
    "report": lambda s: s.set_trial_intermediate_value(2, 0, 0.5),
    "take a waiting trial": lambda s: s.set_trial_state_values(18, TrialState.RUNNING),
    "finish a trial": lambda s: s.set_trial_state_values(2, TrialState.COMPLETE, [1.0]),
    "read a trial": lambda s: s.get_trial(2).state,
    "read all trials": lambda s: len(s.get_all_trials(1)),
    "list the studies": lambda s: len(s.get_all_studies()),
    "a heartbeat": lambda s: s.record_heartbeat(2),
}


def contents(storage: RedisStorage) -> list[object]:
    """What is in the storage, but for the times."""
    found: list[object] = []
    for study in storage.get_all_studies():
        found.append((study.study_name, study.user_attrs))
        for t in storage.get_all_trials(study._study_id):
            found += [t.number, t.state, t.values, t.params, t.user_attrs, t.intermediate_values]
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_reply_that_is_lost_changes_neither_the_answer_nor_what_is_stored(
    server: RedisServer, storage: RedisStorage, network: FaultyNetwork, namespace: str, name: str
) -> None:
    outcomes: list[object] = []
    for cut in (0, 1):
        ours = (
            storage
            if cut
            else RedisStorage(server.url, namespace=namespace + "whole", write_mode="strict")
        )
        study = ours.create_new_study(MINIMIZE, "s")
        ours.create_new_trial(study)
        ours.create_new_trial(study, create_trial(state=TrialState.WAITING))
        network.cut_replies = cut
        answer = CALLS[name](ours)
        assert network.cut_replies == 0, "nothing was cut"
        outcomes.append((answer, contents(ours)))
        if not cut:
            ours.close()
    assert outcomes[0] == outcomes[1]


def test_a_request_that_is_lost_is_sent_again(
    storage: RedisStorage, network: FaultyNetwork
) -> None:
    study = storage.create_new_study(MINIMIZE)
    network.cut_requests = 1
    storage.set_study_user_attr(study, "k", "v" * 2000)
    assert network.cut_requests == 0, "nothing was cut"
    assert storage.get_study_user_attrs(study) == {"k": "v" * 2000}


def test_idle_connections_that_are_killed_are_replaced(
    server: RedisServer, storage: RedisStorage
) -> None:
    study = storage.create_new_study(MINIMIZE)
    with server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    trial = storage.create_new_trial(study)
    assert [t._trial_id for t in storage.get_all_trials(study)] == [trial]


def test_a_server_that_is_killed_and_comes_back_has_every_told_trial(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, append_only=True) as server,
        RedisStorage(server.url, retry_limit=20) as storage,
    ):
        study = optuna.create_study(storage=storage)
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=5)
        before = study.trials
        server.kill()
        server.start(wait=False)  # it refuses connections, then it is loading; no script is there
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=2)
        assert study.trials[:5] == before
        assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 7


def test_a_server_that_stays_away_is_an_error_in_time(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path) as server,
        RedisStorage(server.url, retry_limit=0.3) as storage,
    ):
        study = storage.create_new_study(MINIMIZE)
        server.kill()
        with pytest.raises(StorageUnavailableError, match="tried again for 0") as caught:
            storage.create_new_trial(study)
        assert isinstance(caught.value, ConnectionError)


def put_back(server: RedisServer, action: Callable[[], None]) -> None:
    """Let something happen, and then put the server back to where it was before."""
    with server.client() as client:
        saved = {key: client.dump(key) for key in client.keys("*")}
        action()
        client.flushall()
        for key, value in saved.items():
            client.restore(key, 0, value)


@pytest.mark.parametrize("others", [0, 3, 30], ids="then {} trials of others".format)
def test_a_server_that_is_put_back_is_noticed(tmp_path: Path, others: int) -> None:
    with (
        RedisServer(tmp_path) as server,
        RedisStorage(server.url) as storage,
        RedisStorage(server.url) as other,
    ):
        study = storage.create_new_study(MINIMIZE)
        for _ in range(5):
            storage.create_new_trial(study, DONE)
        lost: list[int] = []

        def work() -> None:
            lost.extend(storage.create_new_trial(study, DONE) for _ in range(9))
            lost.append(storage.create_new_trial(study))

        put_back(server, work)
        for number in range(others):
            made = other.create_new_trial(study)
            other.set_trial_state_values(made, TrialState.COMPLETE, [float(number)])
        trials = storage.get_all_trials(study)
        assert trials == other.get_all_trials(study)
        assert len(trials) == 5 + others
        with pytest.raises((KeyError, optuna.exceptions.UpdateFinishedTrialError)):
            storage.set_trial_state_values(lost[-1], TrialState.COMPLETE, [9.0])


def test_a_trial_that_was_lost_is_not_mixed_up_with_its_successor(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path) as server,
        RedisStorage(server.url) as storage,
        RedisStorage(server.url) as other,
    ):
        study = storage.create_new_study(MINIMIZE)
        put_back(
            server, lambda: storage.set_trial_user_attr(storage.create_new_trial(study), "k", 1)
        )
        successor = other.create_new_trial(study)
        with pytest.raises(KeyError):
            storage.set_trial_state_values(successor, TrialState.COMPLETE, [1.0])
        assert other.get_trial(successor).state == TrialState.RUNNING
        assert storage.get_trial(successor) == other.get_trial(successor)


def test_a_client_that_was_away_for_long_catches_up(server: RedisServer, namespace: str) -> None:
    with (
        RedisStorage(server.url, namespace=namespace) as sleeper,
        RedisStorage(server.url, namespace=namespace) as other,
    ):
        study = sleeper.create_new_study(MINIMIZE)
        first = sleeper.create_new_trial(study)
        for _ in range(3):
            other.create_new_trial(study, DONE)
        other.set_trial_user_attr(first, "k", "v")
        other.set_study_user_attr(study, "k", 1)
        other.flush()
        with server.client() as client:
            client.ltrim(f"{{{namespace}:1}}:log", -1, -1)
        assert sleeper.get_all_trials(study) == other.get_all_trials(study)
        assert sleeper.get_study_user_attrs(study) == {"k": 1}


def test_what_cannot_be_known_is_not_guessed(
    server: RedisServer, storage: RedisStorage, network: FaultyNetwork, namespace: str
) -> None:
    study = storage.create_new_study(MINIMIZE)
    storage.create_new_trial(study)
    send, attempts = storage._server._send, 0

    def forgetful(commands: object) -> object:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            with server.client() as client:  # so much has happened that the log forgot it
                client.rpush(f"{{{namespace}:1}}:log", "other\ts1")
                client.ltrim(f"{{{namespace}:1}}:log", -1, -1)
                client.hincrby(f"{{{namespace}:1}}:meta", "version", 1)
                client.hset(f"{{{namespace}:1}}:meta", "tip", "other")
        return send(commands)  # type: ignore[arg-type]

    storage._server._send = forgetful  # type: ignore[method-assign, assignment]
    network.cut_replies = 1
    with pytest.raises(StorageUnavailableError, match="cannot be known"):
        storage.create_new_trial(study)
    assert len(storage.get_all_trials(study)) == 2
