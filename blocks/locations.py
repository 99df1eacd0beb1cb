"""Blocks from what a person writes, and what a deployment stores in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from prefect_optuna.blocks._secrets import (
    SecretVariables,
    has_credentials,
    has_secret_urls,
    scheme_of,
    secrets_in,
)
from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.redis_study_storage import RedisStudyStorage
from prefect_optuna.blocks.settings import LOGO_URL, OptunaSettings, page
from prefect_optuna.blocks.study_storage import (
    GrpcStudyStorage,
    InMemoryStudyStorage,
    JournalStudyStorage,
    SQLStudyStorage,
    StudyStorage,
)
from prefect_optuna.errors import InvalidSettingError, StorageUnavailableError

# A captured problem on its way from whoever deploys a study to the study's archive.


class DeployedProblem(Block):
    """A captured problem that goes to the workers with a deployment; `deploy` saves it.

    A parameter would be copied to each flow run, and Prefect takes 512 kB of parameters at the
    most. A block is there once, is loaded by whoever runs the study, and is called by the digest
    of the code that is in it.

    Example:
        >>> from prefect_optuna.blocks.locations import DeployedProblem
        >>> DeployedProblem(content="eJw=").signature is None
        True
    """

    _block_type_name = "Deployed Problem"
    _block_type_slug = "deployed-problem"
    _documentation_url = page("howto/any-worker")
    _logo_url = LOGO_URL

    # It holds no secret. But what is one is left out where blocks are listed, and this is long.
    content: SecretStr = Field(description="The packed problem, in base64.")
    signature: dict[str, str] | None = Field(
        default=None, description="Of the content, where whoever deployed it has a key."
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
        InvalidSettingError: the value is none of these; says what is accepted.
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
        raise InvalidSettingError(f"A {type(value).__name__} is no study storage. {_FORMS}")
    if block := _load(value, _STORAGES):
        return block
    scheme, separator, rest = value.partition("://")
    if not separator:
        # It may be a URL with a password and a typo: none of it is quoted.
        raise InvalidSettingError(f"This text is no study storage. {_FORMS}")
    if scheme_of(value) is None:
        raise InvalidSettingError(f"What is before the :// is no kind of storage. {_FORMS}")
    try:
        return _from_url(scheme.lower(), rest, value)
    except InvalidSettingError as error:
        raise InvalidSettingError(f"This {scheme}:// URL is not valid: {_reasons(error)}") from None


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
    raise InvalidSettingError(f"a URL of this form is no study storage. {_FORMS}")


def _grpc(url: str) -> GrpcStudyStorage:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
    except ValueError:
        host = port = more = None
    if host is None or port is None or more:
        raise InvalidSettingError(
            "expected grpc://host:port, such as grpc://localhost:13000, and nothing else: "
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
        InvalidSettingError: the value is none of these.
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
        raise InvalidSettingError(
            f"A {type(value).__name__} is no artifact filesystem. Expected a path, a URL such as "
            "s3://bucket/prefix or memory://demo, or a saved block's 'artifact-file-system/name'."
        )
    if isinstance(value, str) and (block := _load(value, _FILESYSTEMS)):
        return block
    try:
        return ArtifactFileSystem(url=str(value))
    except InvalidSettingError as error:
        raise InvalidSettingError(f"This is no artifact filesystem: {_reasons(error)}") from None


def _reasons(error: InvalidSettingError) -> str:
    return str(error).rpartition("settings: ")[2]


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


# References that a deployment stores: a saved block's name, or a URL without secrets.
#
# A deployment's parameters are shown to everybody who may open Prefect's UI, and are copied to
# each of its flow runs. So a password stays in the block, which the worker loads by its name.


Storage: TypeAlias = StudyStorage | str | Path | None
"""Where studies are kept: a saved block or its `"slug/name"`, a URL without secrets, a path of a
journal, or `None` for the default of whoever deploys."""

Artifacts: TypeAlias = ArtifactFileSystem | str | Path | None
"""Where archives are kept: a saved block or its `"slug/name"`, a URL without secrets, a path, or
`None` for the default of whoever deploys."""


def storage_reference(storage: Storage) -> str:
    """The text by which a worker finds a study storage.

    Relative paths become absolute, as the worker's directory is another one.

    Example:
        >>> from prefect_optuna.blocks.locations import storage_reference
        >>> storage_reference("postgresql://db.example.org/studies")
        'postgresql://db.example.org/studies'
    """
    if storage is None and (setting := OptunaSettings.here().storage):
        storage = setting.get_secret_value()
    block = as_study_storage(storage)
    if isinstance(block, InMemoryStudyStorage):
        raise InvalidSettingError(
            "A study in memory is seen by one process only, and a worker is another one. Name a "
            "storage that both reach: a saved block, a database, or a file on this machine."
        )
    if saved := _saved_name(block):
        return saved
    if isinstance(storage, StudyStorage):
        raise _unsaved(block, "storage")
    if isinstance(block, (JournalStudyStorage, SQLStudyStorage)) and _is_file(block):
        return block.location
    return _without_secrets(str(storage), block)


def artifacts_reference(artifacts: Artifacts) -> str:
    """The text by which a worker finds an artifact filesystem.

    Example:
        >>> from prefect_optuna.blocks.locations import artifacts_reference
        >>> artifacts_reference("s3://lab/studies")
        's3://lab/studies'
    """
    block = as_artifact_filesystem(artifacts)
    if saved := _saved_name(block):
        return saved
    if isinstance(artifacts, ArtifactFileSystem):
        raise _unsaved(block, "artifacts")
    if block.url.startswith("memory://"):
        raise InvalidSettingError(
            "Artifacts in memory are seen by one process only, and a worker is another one. Name "
            "a place that both reach: a saved block, s3://bucket/prefix, or a folder."
        )
    return _without_secrets(block.url, block)


def public_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a flow as everybody may read them: those that are places, by references.

    Example:
        >>> from prefect_optuna.blocks.locations import public_parameters
        >>> public_parameters({"study_name": "lynx", "storage": "postgresql://me:pw@host/db"})
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidSettingError: A postgresql:// URL with a password ...
    """
    public: dict[str, Any] = {}
    for name, value in parameters.items():
        if name in _REFERENCES and not (isinstance(value, Mapping) or _is_template(value)):
            public[name] = _references(_REFERENCES[name], value)
            continue
        check_public(name, value)
        public[name] = value
    return public


def check_public(name: str, value: Any) -> None:
    """Refuse what holds a secret, before everybody may read it.

    Example:
        >>> from prefect_optuna.blocks.locations import check_public
        >>> check_public("scope", {"api_key": "x7Kw92"})
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidSettingError: `scope` holds a URL with a password ...
    """
    source = SecretVariables.here().name_in(value)
    what = f"the value of {source}" if source else "a URL with a password or a token, or a secret"
    if source or secrets_in(value) or any(map(has_secret_urls, _texts(value))):
        raise InvalidSettingError(
            f"`{name}` holds {what}, and would be readable for everybody who may open "
            "Prefect's UI. Save a block with it once, as in Secret(value=...).save('lab'), "
            "and load that where it is needed; or have the workers read it from their "
            "environment."
        )


_REFERENCES: dict[str, Any] = {"storage": storage_reference, "artifacts": artifacts_reference}


def _references(reference: Any, value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_references(reference, item) for item in value]
    return None if value is None else reference(value)


def _is_template(value: Any) -> bool:
    return isinstance(value, str) and "{{" in value and not has_credentials(value)


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for item in value.items() for part in item for text in _texts(part)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [text for part in value for text in _texts(part)]
    return [str(value)] if isinstance(value, (str, Path)) else []


def _saved_name(block: Block) -> str | None:
    name = block._block_document_name  # pyright: ignore[reportPrivateUsage]
    return f"{block.get_block_type_slug()}/{name}" if name else None


def _is_file(block: StudyStorage) -> bool:
    return isinstance(block, JournalStudyStorage) or (
        block.location.startswith("sqlite") and "?" not in block.location
    )


def _without_secrets(url: str, block: Block) -> str:
    """The URL itself, where nothing in it could be a secret; options could."""
    if not has_credentials(url):
        return url
    raise InvalidSettingError(
        f"A {scheme_of(url)}:// URL with a password or with options would be readable for "
        f"everybody who sees the deployment. {_how_to_save(block)}"
    )


def _unsaved(block: Block, argument: str) -> InvalidSettingError:
    return InvalidSettingError(
        f"`{argument}` is a {type(block).__name__} that is not saved, and a worker loads it from "
        f"Prefect by its name. {_how_to_save(block)}"
    )


def _how_to_save(block: Block) -> str:
    return (
        f'Save it once, {type(block).__name__}(...).save("lab"), and name it '
        f'"{block.get_block_type_slug()}/lab".'
    )
