"""The Prefect block around RedisStorage: its fields arrive, and it says what it stands on."""

from __future__ import annotations

import multiprocessing
import pickle
import traceback
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import optuna
import pytest
from redis_servers import (
    RedisServer,
    TlsProxy,
    make_user,
    redis_cluster,
    redis_sentinel,
)

from prefect_optuna.blocks import (
    InvalidSettingError,
    RedisStorage,
    RedisStudyStorage,
    StorageUnavailableError,
    as_study_storage,
)

SECRET = "hunter2"


@pytest.fixture
def block(redis_server: str) -> Generator[RedisStudyStorage]:
    block = RedisStudyStorage(url=redis_server, namespace=f"block-{uuid4()}")
    yield block
    block.get_storage().close()


def run_a_trial(block: RedisStudyStorage) -> None:
    with closing(block.get_storage()):
        study = block.create_study("s", load_if_exists=True)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        assert block.study_names() == ["s"]


def test_the_fields_of_the_block_are_those_of_the_storage(redis_server: str) -> None:
    block = RedisStudyStorage(
        url=redis_server,
        namespace=f"fields-{uuid4()}",
        write_mode="fast",
        heartbeat_interval=60,
        grace_period=150,
        timeout=3,
        retry_limit=4,
    )
    with closing(block.get_storage()) as storage:
        assert isinstance(storage, RedisStorage)
        assert storage.write_mode == "fast"
        assert storage.get_heartbeat_interval() == 60
        assert storage.grace_period == 150
        assert storage.namespace == block.namespace
        assert (storage._timeout, storage._retry_limit) == (3, 4)


def test_studies_of_different_namespaces_do_not_meet(redis_server: str) -> None:
    one, other = (RedisStudyStorage(url=redis_server, namespace=str(uuid4())) for _ in range(2))
    run_a_trial(one)
    assert other.study_names() == []
    other.get_storage().close()


def test_a_url_is_a_block_with_what_else_has_a_default(redis_server: str) -> None:
    block = as_study_storage(redis_server)
    assert isinstance(block, RedisStudyStorage)
    assert (block.namespace, block.write_mode) == ("optuna", "buffered")
    assert block.location == redis_server


def _count_in_a_process(block: RedisStudyStorage) -> int:
    with closing(block.get_storage()):
        block.load_study("s").optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        return len(block.load_study("s").trials)


@pytest.mark.slow
def test_a_pickled_block_works_in_another_process(block: RedisStudyStorage) -> None:
    block.create_study("s")
    assert pickle.loads(pickle.dumps(block)) == block
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        assert pool.submit(_count_in_a_process, block).result() == 1
    assert len(block.load_study("s").trials) == 1


def test_user_and_password_are_fields_or_in_the_url(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password=SECRET) as server:
        url = f"redis://127.0.0.1:{server.port}/0"
        run_a_trial(RedisStudyStorage(url=url, password=SECRET))
        run_a_trial(RedisStudyStorage(url=server.url))
        make_user(server, "lab", "p@ss/word", ["~*", "&*", "+@all"])
        run_a_trial(RedisStudyStorage(url=url, username="lab", password="p@ss/word"))
        for wrong in (
            RedisStudyStorage(url=url, password="wrong-" + SECRET),
            RedisStudyStorage(url=f"redis://:wrong-{SECRET}@127.0.0.1:{server.port}/0"),
        ):
            for what in (wrong.get_storage, wrong.describe):
                with pytest.raises(
                    StorageUnavailableError, match=r"127\.0\.0\.1.*password"
                ) as caught:
                    what()
                assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_the_tls_fields_reach_a_server_behind_tls(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server, TlsProxy(tmp_path / "tls", server.port) as tls:
        url = f"rediss://127.0.0.1:{tls.port}/0"
        run_a_trial(RedisStudyStorage(url=url, tls_ca_file=tls.certificate))
        untrusting = RedisStudyStorage(url=url, retry_limit=0)
        with pytest.raises(StorageUnavailableError, match="certificate"):
            untrusting.get_storage()


def test_a_block_describes_a_server_that_keeps_nothing(block: RedisStudyStorage) -> None:
    assert block.describe().studies == 0
    study = block.create_study("s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    block.create_study("t")
    found = block.describe()
    assert (found.studies, found.trials) == (2, 4)
    assert found.bytes
    assert 500 < found.bytes < 50_000
    assert found.server in ("Redis", "Valkey")
    assert found.mode == "standalone"
    assert int(found.version.split(".")[0]) >= 6
    assert found.persistence == "nothing"
    assert found.warning
    assert "loses every study" in found.warning
    for part in (block.location, block.namespace, found.version, "2 studies, 4 trials", "Warning"):
        assert part in str(found)


def test_describing_writes_nothing_and_needs_no_namespace(redis_server: str) -> None:
    import redis

    block = RedisStudyStorage(url=redis_server, namespace=f"never-{uuid4()}")
    found = block.describe()
    assert (found.studies, found.trials, found.bytes) == (0, 0, 0)
    with closing(redis.Redis.from_url(redis_server)) as client:
        assert client.keys(f"*{block.namespace}*") == []


def test_a_block_describes_what_is_kept_on_disk(tmp_path: Path) -> None:
    with RedisServer(tmp_path, append_only=True) as server, server.client() as client:
        block = RedisStudyStorage(url=server.url)
        assert block.describe().persistence == "append-only file, written to disk always"
        assert block.describe().warning is None
        client.config_set("appendfsync", "no")
        assert "appendfsync" in (block.describe().warning or "")
        client.config_set("appendonly", "no")
        client.config_set("save", "3600 1")
        assert block.describe().persistence == "snapshots (save 3600 1)"
        assert "since the last snapshot" in (block.describe().warning or "")


@pytest.mark.slow
def test_a_user_who_may_not_ask_gets_what_is_not_secret(tmp_path: Path) -> None:
    rules = ["~*", "&*", "+@all", "-config", "-memory"]
    with RedisServer(tmp_path) as server:
        block = RedisStudyStorage(url=make_user(server, "lab", SECRET, rules))
        run_a_trial(block)
        found = block.describe()
        assert (found.studies, found.trials, found.bytes) == (1, 1, None)
        assert "unknown bytes" in str(found)
        assert "nothing is known" in found.persistence
        assert found.warning
        with server.client() as client:
            client.config_set("appendonly", "yes")
        assert block.describe().persistence.startswith("append-only file")
        assert SECRET not in str(block.describe())


def test_a_block_describes_a_cluster(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as url:
        block = RedisStudyStorage(url=url)
        run_a_trial(block)
        found = block.describe()
        assert (found.mode, found.studies, found.trials) == ("cluster", 1, 1)
        assert found.bytes
        assert found.persistence == "nothing"


@pytest.mark.slow
def test_a_block_describes_what_a_sentinel_knows(tmp_path: Path) -> None:
    with redis_sentinel(tmp_path) as setup:
        block = RedisStudyStorage(url=setup.url)
        run_a_trial(block)
        found = block.describe()
        assert (found.mode, found.studies, found.trials) == ("sentinel", 1, 1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"url": f"postgresql://me:{SECRET}@host"}, "redis://localhost"),
        ({"url": f"redis://me:{SECRET}@host", "password": SECRET}, "one place"),
        ({"url": f"redis://:{SECRET}@host", "username": "me"}, "one place"),
        ({"url": "redis://host", "tls_ca_file": "ca.pem"}, "rediss://"),
        ({"url": "redis://host", "sentinel_password": SECRET}, "redis\\+sentinel://"),
        ({"url": "redis://host", "namespace": ""}, "at least 1 character"),
        ({"url": "redis://host", "write_mode": "careless"}, "buffered"),
    ],
)
def test_fields_that_do_not_fit_are_refused_without_showing_secrets(
    fields: dict, reason: str
) -> None:
    with pytest.raises(InvalidSettingError, match=reason) as caught:
        RedisStudyStorage(**fields)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_url_that_is_wrong_is_an_error_of_ours_without_its_password() -> None:
    with pytest.raises(InvalidSettingError) as caught:
        as_study_storage(f"redis+sentinels://me:{SECRET}@host/lab")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_no_text_of_a_block_shows_a_secret() -> None:
    block = RedisStudyStorage(
        url="rediss+sentinel://host:1,host:2/lab/3",
        password=SECRET,
        tls_key_password=SECRET,
        sentinel_password=SECRET,
    )
    assert block.location == "rediss+sentinel://host:1,host:2/lab/3"
    assert SECRET not in f"{block!r} {block} {block.location} {block.model_dump()}"
    other = RedisStudyStorage(url=f"redis://me:{SECRET}@host/1?password={SECRET}")
    assert other.location == "redis://host/1"
    assert SECRET not in f"{other!r} {other} {other.location} {other.model_dump()}"


def test_paths_are_made_absolute_when_the_block_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert RedisStudyStorage(url="rediss://host", tls_ca_file="ca.pem").tls_ca_file == (
        tmp_path / "ca.pem"
    )


@pytest.mark.slow
def test_the_sentinels_get_a_login_of_their_own(tmp_path: Path) -> None:
    with redis_sentinel(tmp_path) as setup:
        import redis

        with redis.Redis(port=setup.sentinel_port) as sentinel:
            sentinel.execute_command(
                "ACL", "SETUSER", "watch", "on", f">{SECRET}", "+@all", "~*", "&*"
            )
            sentinel.execute_command("ACL", "SETUSER", "default", "off")
        block = RedisStudyStorage(
            url=setup.url, sentinel_username="watch", sentinel_password=SECRET, retry_limit=1
        )
        run_a_trial(block)
        stranger = RedisStudyStorage(url=setup.url, retry_limit=1)
        with pytest.raises(StorageUnavailableError):
            stranger.get_storage()
