"""What a person may write for a storage and for an artifact filesystem."""

from __future__ import annotations

import traceback
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    GrpcStudyStorage,
    InMemoryStudyStorage,
    JournalStudyStorage,
    OptunaSettings,
    PrefectOptunaError,
    RedisStudyStorage,
    SQLStudyStorage,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.errors import InvalidSettingError

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_block_is_returned_as_it_is() -> None:
    storage, artifacts = InMemoryStudyStorage(), ArtifactFileSystem(url="memory://x")
    assert as_study_storage(storage) is storage
    assert as_artifact_filesystem(artifacts) is artifacts


@pytest.mark.parametrize(
    ("value", "kind", "location"),
    [
        ("sqlite:///s.db", SQLStudyStorage, "sqlite:///{cwd}/s.db"),
        ("sqlite:////data/s.db", SQLStudyStorage, "sqlite:////data/s.db"),
        ("postgresql://host/db", SQLStudyStorage, "postgresql+psycopg://host/db"),
        ("postgresql+psycopg://host/db", SQLStudyStorage, "postgresql+psycopg://host/db"),
        ("mysql://host/db", SQLStudyStorage, "mysql+pymysql://host/db"),
        ("journal:///a/s.log", JournalStudyStorage, "journal:///{cwd}/a/s.log"),
        ("journal:////data/s.log", JournalStudyStorage, "journal:////data/s.log"),
        (Path("s.log"), JournalStudyStorage, "journal:///{cwd}/s.log"),
        ("memory://", InMemoryStudyStorage, "memory://default"),
        ("memory://name", InMemoryStudyStorage, "memory://name"),
        ("grpc://host:13000", GrpcStudyStorage, "grpc://host:13000"),
        ("grpc://[::1]:13000", GrpcStudyStorage, "grpc://[::1]:13000"),
        ("redis://host", RedisStudyStorage, "redis://host"),
        (f"rediss://me:{SECRET}@host:1/2?timeout=3", RedisStudyStorage, "rediss://host:1/2"),
        ("unix:///run/redis.sock", RedisStudyStorage, "unix:///run/redis.sock"),
        ("redis+sentinel://a:1,b/lab/0", RedisStudyStorage, "redis+sentinel://a:1,b/lab/0"),
        ("redis+cluster://host:7000", RedisStudyStorage, "redis+cluster://host:7000"),
        (None, JournalStudyStorage, "journal:///{cwd}/.prefect-optuna/studies.journal"),
    ],
)
def test_every_form_of_a_storage(
    value: str | Path | None, kind: type[StudyStorage], location: str, folder: Path
) -> None:
    storage = as_study_storage(value)
    assert type(storage) is kind
    assert storage.location == location.format(cwd=folder)


def test_a_location_without_password_names_the_same_storage_again() -> None:
    urls = "sqlite:///s.db journal:///s.log memory://name grpc://[::1]:1 redis://h:1/2"
    for value in (*urls.split(), None):
        storage = as_study_storage(value)
        assert as_study_storage(storage.location) == storage


@pytest.mark.parametrize(
    "value",
    [
        "",
        "study.db",
        "./studies.journal",
        "/data/studies.journal",
        "unknown-slug/name",
        "sql-study-storage",
        "sql-study-storage/",
        f"oracle://me:{SECRET}@host/db",
        f"http://me:{SECRET}@host",
        "journal://studies.journal",
        "journal:///",
        3,
    ],
)
def test_what_names_no_storage_is_an_error_that_lists_the_forms(value: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        as_study_storage(value)
    forms = "sqlite:/// postgresql:// redis:// journal:/// memory:// grpc:// slug/name"
    for form in forms.split():
        assert form in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("value", ["grpc://", "grpc://host", "grpc://host:port", "grpc://h:1/x"])
def test_a_grpc_url_needs_a_host_and_a_port(value: str) -> None:
    with pytest.raises(InvalidSettingError, match="grpc://host:port"):
        as_study_storage(value)


@pytest.mark.parametrize(
    "value",
    [
        f"postgresql://me:{SECRET}@host:x/db",
        "sqlite://",
        f"redis+socket://me:{SECRET}@host",
        f"redis://me:{SECRET}@host:x/0",
    ],
)
def test_a_bad_url_is_one_error_of_ours(value: str) -> None:
    with pytest.raises(InvalidSettingError, match="is not valid") as caught:
        as_study_storage(value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@given(st.text())
def test_any_text_is_a_storage_or_an_error_of_ours(value: str) -> None:
    with suppress(PrefectOptunaError):
        assert isinstance(as_study_storage(value), StudyStorage)


def test_the_settings_say_what_none_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_STORAGE", f"mysql://me:{SECRET}@host/db")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARTIFACTS", "memory://from-settings")
    assert as_study_storage(None).location == "mysql+pymysql://me:***@host/db"
    assert as_artifact_filesystem(None).location() == "memory://from-settings"
    assert SECRET not in repr(OptunaSettings())


@pytest.mark.parametrize(
    ("value", "location"),
    [
        (None, "{cwd}/.prefect-optuna/artifacts"),
        ("folder", "{cwd}/folder"),
        ("some/folder", "{cwd}/some/folder"),
        (Path("some/folder"), "{cwd}/some/folder"),
        ("./artifact-file-system/x", "{cwd}/artifact-file-system/x"),
        ("/data/artifacts", "/data/artifacts"),
        ("file:///data/artifacts", "/data/artifacts"),
        ("memory://x", "memory://x"),
        ("memory://", "memory://"),
        ("s3://bucket/some/prefix", "s3://bucket/some/prefix"),
        ("sftp://lab@host/data", "sftp://lab@host/data"),
    ],
)
def test_every_form_of_an_artifact_filesystem(
    value: str | Path | None, location: str, folder: Path
) -> None:
    artifacts = as_artifact_filesystem(value)
    assert artifacts.location() == location.format(cwd=folder)
    assert as_artifact_filesystem(artifacts.location()) == artifacts


@pytest.mark.parametrize("value", ["", "ftp://host/x", "memory://a/../b", "a\0b", 3])
def test_what_names_no_artifact_filesystem_is_an_error(value: str) -> None:
    with pytest.raises(InvalidSettingError):
        as_artifact_filesystem(value)


@pytest.mark.parametrize("slip", ["s3:/bucket/x", "s3:bucket/x", "S3:/bucket/x", "memory:x"])
def test_a_slip_of_the_finger_makes_no_folder(slip: str, folder: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"two slashes after the colon: (s3|memory)://"):
        as_artifact_filesystem(slip)
    assert as_artifact_filesystem(f"./{slip}").location() == str(folder / slip)


@pytest.mark.parametrize("slip", [f"s3//key:{SECRET}@b", "S3//b/x", "memory//x", "sftp//me@b"])
def test_a_url_without_its_colon_makes_no_folder(slip: str, folder: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"a colon before the slashes: \w+://") as caught:
        as_artifact_filesystem(slip)
    assert SECRET not in str(caught.value)
    assert as_artifact_filesystem(f"./{slip}").location() == str(folder / slip)


@pytest.mark.parametrize("login", ["me:{}@host", ":{}@host", "me%20too:{}@host", "me:{}\n@host"])
@pytest.mark.parametrize("start", ["", "file://", "FILE://", "local://"])
def test_a_login_is_no_name_of_a_folder(start: str, login: str) -> None:
    with pytest.raises(InvalidSettingError, match="may be a user and a password") as caught:
        as_artifact_filesystem(f"{start}{login.format(SECRET)}/data")
    assert SECRET not in str(caught.value)
