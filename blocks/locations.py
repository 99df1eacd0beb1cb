"""Blocks from what a person writes: a URL, a path or a saved block's name."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import SecretStr

from prefect_optuna.blocks._secrets import scheme_of
from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.grpc_study_storage import GrpcStudyStorage
from prefect_optuna.blocks.in_memory_study_storage import InMemoryStudyStorage
from prefect_optuna.blocks.journal_study_storage import JournalStudyStorage
from prefect_optuna.blocks.redis_study_storage import RedisStudyStorage
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.sql_study_storage import SQLStudyStorage
from prefect_optuna.blocks.study_storage import StudyStorage
from prefect_optuna.errors import (
    InvalidLocationError,
    InvalidSettingError,
    StorageUnavailableError,
)

B = TypeVar("B", bound=Block)

_DEFAULT_JOURNAL = Path(".prefect-optuna", "studies.journal")

_STORAGES: dict[str, type[StudyStorage]] = {
    block.get_block_type_slug(): block
    for block in (
        SQLStudyStorage,
        JournalStudyStorage,
        InMemoryStudyStorage,
        GrpcStudyStorage,
        RedisStudyStorage,
    )
}
_FILESYSTEMS: dict[str, type[ArtifactFileSystem]] = {
    ArtifactFileSystem.get_block_type_slug(): ArtifactFileSystem
}

_FORMS = """Expected one of:
  sqlite:///study.db                     (sqlite:////absolute/study.db)
  postgresql://user:password@host/name   (or mysql://)
  redis://user:password@host:6379/0      (or rediss://, redis+sentinel://, redis+cluster://)
  journal:///studies.journal             (journal:////absolute/studies.journal)
  memory://name                          (or memory://)
  grpc://host:port
  slug/name of a saved block, such as sql-study-storage/production"""


def as_study_storage(value: StudyStorage | str | Path | None = None) -> StudyStorage:
    """Make a storage block of whatever names one.

    As in SQLAlchemy's SQLite URLs, three slashes come before a path relative to the current
    directory, and four before an absolute one: `journal:///studies.journal`,
    `journal:////data/studies.journal`.

    Args:
        value: a block, which is returned as it is; a URL; the `"slug/name"` of a saved block; a
            `Path`, which is a journal's; or `None` for the default: the setting
            `PREFECT_INTEGRATIONS_OPTUNA_STORAGE`, and without it the journal
            `.prefect-optuna/studies.journal` below the current directory.

    Returns:
        The block. It is not opened yet.

    Raises:
        InvalidLocationError: the value is none of these; says what is accepted.
        StorageUnavailableError: no block of that name is saved.

    Example:
        >>> from prefect_optuna.blocks import as_study_storage
        >>> as_study_storage("memory://docs").location
        'memory://docs'
        >>> as_study_storage("postgresql://me:secret@db.example.org/studies").location
        'postgresql+psycopg://me:***@db.example.org/studies'
    """
    if value is None:
        setting = OptunaSettings.here().storage
        value = setting.get_secret_value() if setting else _DEFAULT_JOURNAL
    if isinstance(value, StudyStorage):
        return value
    if isinstance(value, Path):
        return JournalStudyStorage(path=value)
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidLocationError(f"A {type(value).__name__} is no study storage. {_FORMS}")
    if block := _load(value, _STORAGES):
        return block
    scheme, separator, rest = value.partition("://")
    if not separator:
        # It may be a URL with a password and a typo: none of it is quoted.
        raise InvalidLocationError(f"This text is no study storage. {_FORMS}")
    if scheme_of(value) is None:
        raise InvalidLocationError(f"What is before the :// is no kind of storage. {_FORMS}")
    try:
        return _from_url(scheme.lower(), rest, value)
    except InvalidSettingError as error:
        raise InvalidLocationError(
            f"This {scheme}:// URL is not valid: {_reasons(error)}"
        ) from None


def _from_url(scheme: str, rest: str, url: str) -> StudyStorage:
    dialect = scheme.partition("+")[0]
    if dialect in ("sqlite", "postgresql", "mysql", "mariadb"):
        return SQLStudyStorage(url=SecretStr(url))
    if scheme == "journal" and rest.startswith("/") and rest != "/":
        return JournalStudyStorage(path=Path(rest[1:]))
    if scheme == "memory":
        return InMemoryStudyStorage(name=rest) if rest else InMemoryStudyStorage()
    if scheme == "grpc":
        return _grpc(url)
    if dialect in ("redis", "rediss", "unix"):
        return RedisStudyStorage(url=SecretStr(url))
    # Only the scheme is quoted, as the rest may hold a password.
    raise InvalidLocationError(f"A {scheme}:// URL of this form is no study storage. {_FORMS}")


def _grpc(url: str) -> GrpcStudyStorage:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    except ValueError:
        host = port = more = None
    if host is None or port is None or more:
        raise InvalidLocationError(
            "Expected grpc://host:port, such as grpc://localhost:13000, and nothing else: "
            "the proxy knows no users and no passwords."
        )
    return GrpcStudyStorage(host=host, port=port)


def as_artifact_filesystem(
    value: ArtifactFileSystem | str | Path | None = None,
) -> ArtifactFileSystem:
    """Make an artifact filesystem of whatever names one.

    Args:
        value: a block, which is returned as it is; a URL, such as `s3://bucket/prefix`,
            `gs://bucket/prefix`, `abfs://container/prefix`, `sftp://user@host/path`,
            `memory://demo` or `file:///data/artifacts`, whose client finds its credentials where
            it always does; a path, relative to the current directory or absolute; the saved
            block `"artifact-file-system/name"` (any other text with a slash is a path: write
            `./artifact-file-system/name` for a folder of that name); or `None` for the setting
            `PREFECT_INTEGRATIONS_OPTUNA_ARTIFACTS`, whose default is the folder
            `.prefect-optuna/artifacts` below the current directory.

    Returns:
        The block. Nothing is read or written yet.

    Raises:
        InvalidLocationError: the value is none of these.
        StorageUnavailableError: no block of that name is saved.

    Example:
        >>> from prefect_optuna.blocks import as_artifact_filesystem
        >>> as_artifact_filesystem("memory://demo").location()
        'memory://demo'
    """
    if value is None:
        value = OptunaSettings.here().artifacts
    if isinstance(value, ArtifactFileSystem):
        return value
    if not isinstance(value, (str, Path)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidLocationError(
            f"A {type(value).__name__} is no artifact filesystem. Expected a path, a URL such as "
            "s3://bucket/prefix or memory://demo, or a saved block's 'artifact-file-system/name'."
        )
    if isinstance(value, str) and (block := _load(value, _FILESYSTEMS)):
        return block
    try:
        return ArtifactFileSystem(url=str(value))
    except InvalidSettingError as error:
        raise InvalidLocationError(f"This is no artifact filesystem: {_reasons(error)}") from None


def _reasons(error: InvalidSettingError) -> str:
    return str(error).partition("settings: ")[2]


def _load(value: str, blocks: dict[str, type[B]]) -> B | None:
    slug, _, name = value.partition("/")
    if slug not in blocks or not name:
        return None
    try:
        return blocks[slug].load(name, _sync=True)  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise StorageUnavailableError(
            f"No block {value!r} could be loaded from Prefect: {error} "
            "`prefect block ls` lists the saved ones."
        ) from error
