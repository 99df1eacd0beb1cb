"""Databases: their URLs, their secrets, and what happens when they cannot be reached."""

from __future__ import annotations

import sqlite3
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path

import pytest
from servers import free_port

from prefect_optuna.blocks import SQLStudyStorage, StorageUnavailableError, as_study_storage

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("sqlite:////data/studies.db", "sqlite:////data/studies.db"),
        ("postgresql://me@host/db", "postgresql+psycopg://me@host/db"),
        ("postgresql+psycopg2://me@host/db", "postgresql+psycopg2://me@host/db"),
        ("mysql://me@host/db", "mysql+pymysql://me@host/db"),
        ("mysql+mysqldb://me@host/db", "mysql+mysqldb://me@host/db"),
        ("mariadb://me@host/db", "mysql+pymysql://me@host/db"),
        (f"postgresql://me:{SECRET}@host:1/db", "postgresql+psycopg://me:***@host:1/db"),
        (f"postgresql://host/db?password={SECRET}&host=h", "postgresql+psycopg://host/db?host=h"),
    ],
)
def test_the_location_names_the_driver_and_no_secret(url: str, location: str) -> None:
    assert SQLStudyStorage(url=url).location == location


def test_a_password_with_special_characters_stays_what_it_is() -> None:
    url = "postgresql://me:p%40ss%2Fw%3Ard@host/db"
    assert SQLStudyStorage(url=url).url.get_secret_value() == (
        "postgresql+psycopg://me:p%40ss%2Fw%3Ard@host/db"
    )


def test_a_relative_file_is_made_absolute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = SQLStudyStorage(url="sqlite:///deep/studies.db")
    monkeypatch.chdir("/")
    block.create_study("tuning")
    assert (tmp_path / "deep" / "studies.db").is_file()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_sqlite_in_memory_is_refused_with_what_to_use(url: str) -> None:
    with pytest.raises(ValueError, match="InMemoryStudyStorage"):
        SQLStudyStorage(url=url)


def texts(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    "url",
    [
        f"oracle://me:{SECRET}@host/db",
        f"postgresql://me:{SECRET}@host:port/db",
        f"postgresql:/me:{SECRET}@host",
        f"no url, but {SECRET}",
    ],
)
def test_a_bad_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ValueError, match="expected a") as caught:
        SQLStudyStorage(url=url)
    assert SECRET not in texts(caught.value)


def test_secrets_are_in_no_text_of_the_block() -> None:
    block = SQLStudyStorage(
        url=f"postgresql://me:{SECRET}@host/db",
        engine_options={"connect_args": {"options": SECRET}},
    )
    assert SECRET not in f"{block} {block!r} {block.location} {block.model_dump_json()}"


def test_nobody_listening_is_an_error_with_the_host_and_without_the_password() -> None:
    port = free_port()
    block = SQLStudyStorage(url=f"postgresql://me:{SECRET}@127.0.0.1:{port}/studies")
    with pytest.raises(StorageUnavailableError) as caught:
        block.get_storage()
    assert f"127.0.0.1:{port}/studies" in str(caught.value)
    assert SECRET not in texts(caught.value)


def test_a_missing_driver_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    block = SQLStudyStorage(url=f"postgresql://me:{SECRET}@host/db")
    with pytest.raises(StorageUnavailableError) as caught:
        block.get_storage()
    assert 'pip install "prefect-optuna[postgresql]"' in str(caught.value)
    assert SECRET not in texts(caught.value)


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    block = SQLStudyStorage(url=f"sqlite:///{tmp_path}/file/studies.db")
    with pytest.raises(StorageUnavailableError, match="folder that this user may write") as caught:
        block.get_storage()
    assert f"{tmp_path}/file/studies.db" in str(caught.value)


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 100)
    with pytest.raises(StorageUnavailableError, match="not a database"):
        SQLStudyStorage(url=f"sqlite:///{path}").get_storage()


def test_wrong_engine_options_are_an_error_that_names_them(tmp_path: Path) -> None:
    block = SQLStudyStorage(url=f"sqlite:///{tmp_path}/s.db", engine_options={"pool_sice": 3})
    with pytest.raises(StorageUnavailableError, match="pool_sice"):
        block.get_storage()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_fields_reach_the_engine(tmp_path: Path) -> None:
    block = SQLStudyStorage(
        url=f"sqlite:///{tmp_path}/s.db",
        engine_options={"pool_size": 7},
        heartbeat_interval=30,
        grace_period=90,
    )
    storage = block.get_storage()
    assert storage.get_heartbeat_interval() == 30
    assert storage.grace_period == 90
    assert storage.engine.pool.size() == 7
    storage.engine.dispose()


def test_a_locked_file_is_waited_for_as_long_as_the_timeout_says(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    block = SQLStudyStorage(
        url=f"sqlite:///{path}", engine_options={"connect_args": {"timeout": 0.1}}
    )
    with pytest.raises(StorageUnavailableError, match="locked"):
        block.get_storage()
    other.execute("COMMIT")
    other.close()
    block.create_study("tuning")
    block.get_storage().engine.dispose()


CREATE = """
import sys
import sqlalchemy
from prefect_optuna.blocks import as_study_storage
print("ready", flush=True)
sys.stdin.readline()
as_study_storage(sys.argv[1]).create_study("shared", load_if_exists=True)
print("created", flush=True)
"""


@pytest.mark.slow
def test_many_processes_open_a_new_database_at_the_same_moment(child, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    with ExitStack() as stack:
        children = [stack.enter_context(child(CREATE, url)) for _ in range(4)]
        for process in children:
            process.stdin.write("go\n")
            process.stdin.flush()
        assert [process.stdout.readline() for process in children] == ["created\n"] * 4
    block = as_study_storage(url)
    assert block.study_names() == ["shared"]
    block.get_storage().engine.dispose()
