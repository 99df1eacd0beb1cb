"""Every way to a server: one, behind TLS, with users, by a socket, a Sentinel's, a cluster."""

from __future__ import annotations

import pickle
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import redis
from redis.cluster import RedisCluster
from redis.sentinel import Sentinel
from redis_servers import (
    RedisServer,
    TlsProxy,
    make_user,
    redis_cluster,
    redis_sentinel,
)

from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.blocks.redis_storage.server import acl_rules
from prefect_optuna.errors import InvalidSettingError, StorageUnavailableError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), password="s3cret") as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as url:
        yield url


def works(target: Any, namespace: str = "lab", **options: Any) -> RedisStorage:
    """Run a study with attributes, a queue and a second client, and delete it."""
    with (
        RedisStorage(target, namespace=namespace, retry_limit=5, **options) as storage,
        RedisStorage(target, namespace=namespace, retry_limit=5, **options) as reader,
    ):
        study = optuna.create_study(storage=storage, study_name="works")
        study.set_user_attr("note", "å" * 3000)
        study.enqueue_trial({"x": 0.5})
        study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=3)
        seen = optuna.load_study(storage=reader, study_name="works")
        assert seen.trials == study.trials
        assert seen.trials[0].params == {"x": 0.5}
        assert seen.user_attrs == {"note": "å" * 3000}
        assert [s.study_name for s in reader.get_all_studies()] == ["works"]
        optuna.delete_study(storage=storage, study_name="works")
        assert reader.get_all_studies() == []
    return storage


def test_a_url_with_a_password(server: RedisServer) -> None:
    storage = works(server.url)
    assert storage.location == f"redis://127.0.0.1:{server.port}/0"
    assert "s3cret" not in repr(storage)


def test_a_password_among_the_options(server: RedisServer) -> None:
    works(f"redis://127.0.0.1:{server.port}", connection_options={"password": "s3cret"})


def test_a_unix_socket(server: RedisServer) -> None:
    storage = works(f"unix://:s3cret@{server.unix_socket}?db=1")
    assert storage.location == f"unix://{server.unix_socket}"


def test_tls_with_a_certificate_of_ones_own(server: RedisServer, tmp_path: Path) -> None:
    with TlsProxy(tmp_path, server.port) as proxy:
        url = f"rediss://:s3cret@127.0.0.1:{proxy.port}/0"
        storage = works(f"{url}?ssl_ca_certs={proxy.certificate}")
        assert storage.location == f"rediss://127.0.0.1:{proxy.port}/0"
        with pytest.raises(StorageUnavailableError, match="certificate that is not trusted") as e:
            RedisStorage(url, retry_limit=60)
        assert "s3cret" not in str(e.value)


def test_a_user_with_no_more_rights_than_the_rules_give(server: RedisServer) -> None:
    namespace = "odd*name?[1]"
    works(make_user(server, "lab", "pw", acl_rules(namespace)), namespace=namespace)


def test_a_client_of_redis_py(server: RedisServer) -> None:
    with closing(server.client(decode_responses=True)) as client:
        storage = works(client)
        assert storage.location == f"redis://localhost:{server.port}/0"
        assert client.ping(), "closing the storage has closed somebody else's client"


@pytest.mark.slow
def test_a_sentinel_leads_to_the_primary_also_after_it_has_changed(tmp_path: Path) -> None:
    with redis_sentinel(tmp_path) as setup:
        works(setup.url)
        sentinel = Sentinel([("127.0.0.1", setup.sentinel_port)])
        with closing(sentinel.master_for("lab")) as client:
            works(client)
        sentinel.sentinels[0].close()
        with RedisStorage(setup.url) as storage:
            study = optuna.create_study(storage=storage, study_name="s")
            study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=2)
            with setup.primary.client() as client:
                client.wait(1, 5000)
            setup.fail_over()
            study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=2)
            assert [t.state.name for t in study.trials] == ["COMPLETE"] * 4


def test_a_cluster(cluster: str) -> None:
    assert works(cluster).location == cluster


def test_a_client_of_a_cluster(cluster: str) -> None:
    with closing(RedisCluster.from_url(cluster.replace("redis+cluster", "redis"))) as client:
        works(client)


def test_studies_of_a_cluster_are_on_several_nodes(cluster: str) -> None:
    with RedisStorage(cluster, namespace="spread") as storage:
        for number in range(8):
            study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], f"{number}")
            storage.create_new_trial(study)
        assert len(storage.get_all_studies()) == 8
        slots = {storage.client.keyslot(f"{{spread:{n}}}:meta") for n in range(1, 9)}
        nodes = {storage.client.nodes_manager.get_node_from_slot(slot).name for slot in slots}
        assert len(nodes) > 1


def test_a_pickle_opens_connections_of_its_own(server: RedisServer) -> None:
    with RedisStorage(server.url, namespace="pickle", heartbeat_interval=5) as storage:
        study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE])
        trial = storage.create_new_trial(study)
        storage.set_trial_user_attr(trial, "note", "sent before it is pickled")
        with pickle.loads(pickle.dumps(storage)) as copy:
            assert copy.get_trial(trial) == storage.get_trial(trial)
            assert copy.get_heartbeat_interval() == 5
            assert copy.create_new_trial(study) != storage.create_new_trial(study)


def test_a_storage_with_a_client_refuses_to_be_pickled(server: RedisServer) -> None:
    with (
        closing(server.client()) as client,
        RedisStorage(client) as storage,
        pytest.raises(InvalidSettingError, match="Make it with a URL"),
    ):
        pickle.dumps(storage)


def test_namespaces_on_one_server_do_not_meet(server: RedisServer) -> None:
    with (
        RedisStorage(server.url, namespace="one") as one,
        RedisStorage(server.url, namespace="two") as two,
    ):
        one.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
        two.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s")
        assert one.get_study_directions(1) != two.get_study_directions(1)


def test_redis_py_itself_never_sends_a_script_twice(server: RedisServer) -> None:
    with closing(redis.Redis(port=server.port, password="s3cret")) as client:
        assert client.connection_pool.connection_kwargs["retry"].get_retries() > 0
        with RedisStorage(client) as storage:
            assert storage.client.connection_pool.connection_kwargs["retry"].get_retries() == 0
