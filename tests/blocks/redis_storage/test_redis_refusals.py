"""Bad input and bad servers: each a clear error, with host and namespace, without the password."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from redis_servers import RedisServer, make_user, redis_cluster
from servers import free_port, wait_until

from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.blocks.redis_storage.server import acl_rules
from prefect_optuna.errors import (
    DamagedStorageError,
    InvalidSettingError,
    PrefectOptunaError,
    StorageFormatError,
    StoragePermissionError,
    StorageUnavailableError,
)

Open = Callable[..., RedisStorage]
MINIMIZE = [StudyDirection.MINIMIZE]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), password="s3cret") as server:
        yield server


def refused(kind: type[PrefectOptunaError], url: str, match: str, **options: Any) -> None:
    with pytest.raises(kind, match=match) as caught:
        RedisStorage(url, namespace="lab", **{"retry_limit": 0.1, "timeout": 2, **options})
    message = str(caught.value)
    assert "s3cret" not in message
    assert "127.0.0.1" in message
    assert "namespace 'lab'" in message


def test_no_server(tmp_path: Path) -> None:
    refused(StorageUnavailableError, f"redis://:s3cret@127.0.0.1:{free_port()}", "be reached")


def test_no_cluster() -> None:
    url = f"redis+cluster://:s3cret@127.0.0.1:{free_port()}"
    refused(StorageUnavailableError, url, "be reached")


def test_a_cluster_that_goes(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as url:
        storage = RedisStorage(url, namespace="lab", retry_limit=0.1, timeout=2)
        storage.create_new_study(MINIMIZE)
    with pytest.raises(StorageUnavailableError, match="namespace 'lab'"):
        storage.create_new_study(MINIMIZE)


def test_a_server_that_hangs(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        server.pause()
        start = time.monotonic()
        refused(StorageUnavailableError, server.url, "be reached", timeout=0.3)
        assert time.monotonic() - start < 5


def test_a_wrong_password(server: RedisServer) -> None:
    url = f"redis://:wrong@127.0.0.1:{server.port}"
    refused(StoragePermissionError, url, "does not let this user in", retry_limit=60)


def test_no_password(server: RedisServer) -> None:
    url = f"redis://127.0.0.1:{server.port}"
    refused(StoragePermissionError, url, "does not let this user in", retry_limit=60)


def test_a_user_who_may_not_run_scripts(server: RedisServer) -> None:
    rules = [rule for rule in acl_rules("lab") if "eval" not in rule]
    url = make_user(server, "reader", "s3cret2", rules)
    refused(StoragePermissionError, url, "acl_rules", retry_limit=60)


def test_a_user_of_another_namespace(server: RedisServer) -> None:
    url = make_user(server, "other", "s3cret3", acl_rules("elsewhere"))
    refused(StoragePermissionError, url, "acl_rules", retry_limit=60)


def test_a_server_without_scripting(tmp_path: Path) -> None:
    without = ("--rename-command", "EVALSHA", "", "--rename-command", "EVAL", "")
    with RedisServer(tmp_path, *without) as server:
        refused(StorageUnavailableError, server.url, "scripting", retry_limit=60)


@pytest.mark.slow
def test_a_read_only_replica(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path / "primary") as primary,
        RedisServer(
            tmp_path / "replica", *("--replicaof", "127.0.0.1", str(primary.port))
        ) as replica,
    ):
        with replica.client() as client:
            wait_until(
                lambda: client.info("replication")["master_link_status"] == "up",
                what="the replica is in step",
            )
        refused(StoragePermissionError, replica.url, "read-only replica")


def test_a_full_memory_leaves_nothing_half_done(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path) as server,
        RedisStorage(server.url, namespace="lab", retry_limit=60) as storage,
        server.client() as client,
    ):
        study = storage.create_new_study(MINIMIZE)
        trial = storage.create_new_trial(study)
        client.config_set("maxmemory", "100kb")
        with pytest.raises(StorageUnavailableError, match=r"no memory left.*Nothing was written"):
            storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
        with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1"):
            storage.set_study_user_attr(study, "k", 1)
        assert storage.get_trial(trial).state == TrialState.RUNNING
        client.config_set("maxmemory", "0")
        assert storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])


def test_a_newer_format_is_refused_and_left_alone(server: RedisServer) -> None:
    with server.client() as client:
        client.hset("{lab}", mapping={"format": 2, "next": 7})
        refused(StorageFormatError, server.url, "format 2.*knows 1.*Update", retry_limit=60)
        assert client.hgetall("{lab}") == {b"format": b"2", b"next": b"7"}
        client.delete("{lab}")


@pytest.mark.parametrize("kind", ["string", "hash", "list"])
def test_a_namespace_that_holds_something_else_is_left_alone(
    server: RedisServer, kind: str
) -> None:
    with server.client() as client:
        if kind == "string":
            client.set("{lab}", "mine")
        elif kind == "hash":
            client.hset("{lab}", "mine", 1)
        else:
            client.rpush("{lab}", "mine")
        before = client.dump("{lab}")
        refused(StorageFormatError, server.url, "something else.*another namespace")
        assert client.dump("{lab}") == before
        client.delete("{lab}")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "localhost:6379",
        "redis:/localhost",
        "",
        "redis+sentinel://:s3cret@localhost:26379",
        "redis+sentinel://localhost/service/x",
        "redis+cluster://localhost/3",
        "redis://:s3cret@localhost:port/0",
    ],
)
def test_a_url_that_names_no_server(url: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"expected|database 0 only") as caught:
        RedisStorage(url)
    assert isinstance(caught.value, ValueError)
    assert "s3cret" not in str(caught.value)


def test_a_target_that_is_no_client() -> None:
    with pytest.raises(InvalidSettingError, match="found int"):
        RedisStorage(6379)


@pytest.mark.parametrize(
    "setting",
    [
        {"namespace": ""},
        {"namespace": "a{b}"},
        {"namespace": "a\nb"},
        {"write_mode": "sloppy"},
        {"heartbeat_interval": 0},
        {"grace_period": -1},
        {"timeout": 0},
        {"retry_limit": -1},
    ],
    ids=str,
)
def test_a_setting_that_cannot_work_is_refused_before_anything_is_opened(
    setting: dict[str, Any],
) -> None:
    with pytest.raises(InvalidSettingError, match=r"expected|two names"):
        RedisStorage(f"redis://127.0.0.1:{free_port()}", **setting)


@pytest.mark.parametrize("study_id", [0, -1, 99, True, "1", 1.0, None])
def test_a_study_that_is_not_there_is_a_key_error(open_storage: Open, study_id: Any) -> None:
    storage = open_storage()
    storage.create_new_study(MINIMIZE)
    for call in (
        storage.get_all_trials,
        storage.delete_study,
        storage.create_new_trial,
        storage.get_study_name_from_id,
    ):
        with pytest.raises(KeyError):
            call(study_id)


@pytest.mark.parametrize("trial_id", [-1, 0, 1, 15, 16, 2**80])
def test_a_trial_that_is_not_there_is_a_key_error(open_storage: Open, trial_id: int) -> None:
    storage = open_storage()
    study = storage.create_new_study(MINIMIZE)
    assert storage.create_new_trial(study) == 2
    for call in (
        storage.get_trial,
        lambda of: storage.set_trial_user_attr(of, "k", 1),
        lambda of: storage.set_trial_state_values(of, TrialState.FAIL),
    ):
        with pytest.raises(KeyError):
            call(trial_id)


PARTS = ("meta", "live", "log", "finished", "distributions", "user", "trial:1")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["missing", "another type", "garbage"])
def test_no_damage_to_a_key_makes_a_reader_hang_or_miss_finished_trials_silently(
    open_storage: Open, namespace: str, part: str, damage: str
) -> None:
    writer = open_storage(write_mode="strict")
    study = writer.create_new_study(MINIMIZE)
    writer.set_study_user_attr(study, "k", 1)
    for _ in range(2):
        trial = writer.create_new_trial(study)
        writer.set_trial_param(trial, "x", 0.5, FloatDistribution(0, 1))
        if trial == 2:
            writer.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    finished = writer.get_trial(2)
    key, client = f"{{{namespace}:1}}:{part}", writer.client
    kind = client.type(key)
    if damage == "missing" or damage == "another type":
        client.delete(key)
        if damage == "another type":
            client.set(key, "garbage")
    elif kind == b"hash":
        for field in client.hkeys(key):
            client.hset(key, field, b"\xffgarbage")
    else:
        for index in range(client.llen(key)):
            client.lset(key, index, b"\xffgarbage")

    start, error, seen = time.monotonic(), None, list[FrozenTrial]()
    try:
        seen = open_storage().get_all_trials(study)
    except DamagedStorageError as raised:
        error = str(raised)
    assert time.monotonic() - start < 5
    if error is None:
        assert finished in seen
        assert damage == "missing" or part == "log"
    else:
        assert f"{{{namespace}:1}}" in error or "another type" in error


@pytest.mark.parametrize(
    ("damage", "call"),
    [
        (("HSET", "{ns}:names", "s", b"\xff"), lambda s: s.get_study_id_from_name("s")),
        (("DEL", "{ns}:names"), lambda s: s.get_study_id_from_name("s")),
        (("DEL", "{ns}:names"), lambda s: s.create_new_study(MINIMIZE, "s")),
        (("HSET", "{ns}", "next", b"\xff"), lambda s: s.create_new_study(MINIMIZE, "t")),
        (("HSET", "{ns:1}:kinds", '"px"', b"\xff"), lambda s: s.get_all_trials(1)),
        (("HSET", "{ns:1}:meta", "version", b"\xff"), lambda s: s.get_all_trials(1)),
        (("HSET", "{ns:1}:user", "k", b"\xff"), lambda s: s.get_all_studies()),
        (("DEL", "{ns:1}:meta"), lambda s: s.get_all_studies()),
    ],
    ids=lambda part: " ".join(map(str, part)) if isinstance(part, tuple) else "",
)
def test_a_damaged_registry_is_said_to_be_damaged(
    open_storage: Open, namespace: str, damage: tuple[Any, ...], call: Callable[[Any], object]
) -> None:
    writer = open_storage()
    writer.create_new_trial(writer.create_new_study(MINIMIZE, "s"))
    reader = open_storage()
    command, key, *rest = damage
    writer.client.execute_command(command, key.replace("ns", namespace), *rest)
    with pytest.raises(DamagedStorageError, match="check"):
        call(reader)
    assert len(writer.client.keys(f"{{{namespace}:[2-9]}}*")) == 0, "nothing was left half made"
