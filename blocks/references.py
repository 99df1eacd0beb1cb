"""References that a deployment stores: a saved block's name, or a URL without secrets.

A deployment's parameters are shown to everybody who may open Prefect's UI, and are copied to each
of its flow runs. So a password stays in the block, which the worker loads by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from prefect.blocks.core import Block

from prefect_optuna.blocks._secrets import (
    SecretVariables,
    has_credentials,
    has_secret_urls,
    scheme_of,
    secrets_in,
)
from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.in_memory_study_storage import InMemoryStudyStorage
from prefect_optuna.blocks.journal_study_storage import JournalStudyStorage
from prefect_optuna.blocks.locations import as_artifact_filesystem, as_study_storage
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.sql_study_storage import SQLStudyStorage
from prefect_optuna.blocks.study_storage import StudyStorage
from prefect_optuna.errors import InvalidLocationError

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
        >>> from prefect_optuna.blocks.references import storage_reference
        >>> storage_reference("postgresql://db.example.org/studies")
        'postgresql://db.example.org/studies'
    """
    if storage is None and (setting := OptunaSettings.here().storage):
        storage = setting.get_secret_value()
    block = as_study_storage(storage)
    if isinstance(block, InMemoryStudyStorage):
        raise InvalidLocationError(
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
        >>> from prefect_optuna.blocks.references import artifacts_reference
        >>> artifacts_reference("s3://lab/studies")
        's3://lab/studies'
    """
    block = as_artifact_filesystem(artifacts)
    if saved := _saved_name(block):
        return saved
    if isinstance(artifacts, ArtifactFileSystem):
        raise _unsaved(block, "artifacts")
    if block.url.startswith("memory://"):
        raise InvalidLocationError(
            "Artifacts in memory are seen by one process only, and a worker is another one. Name "
            "a place that both reach: a saved block, s3://bucket/prefix, or a folder."
        )
    return _without_secrets(block.url, block)


def public_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a flow as everybody may read them: those that are places, by references.

    Example:
        >>> from prefect_optuna.blocks.references import public_parameters
        >>> public_parameters({"study_name": "lynx", "storage": "postgresql://me:pw@host/db"})
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidLocationError: A postgresql:// URL with a password ...
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
        >>> from prefect_optuna.blocks.references import check_public
        >>> check_public("scope", {"api_key": "x7Kw92"})
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidLocationError: `scope` holds a URL with a password ...
    """
    source = SecretVariables.here().name_in(value)
    what = f"the value of {source}" if source else "a URL with a password or a token, or a secret"
    if source or secrets_in(value) or any(map(has_secret_urls, _texts(value))):
        raise InvalidLocationError(
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
    raise InvalidLocationError(
        f"A {scheme_of(url)}:// URL with a password or with options would be readable for "
        f"everybody who sees the deployment. {_how_to_save(block)}"
    )


def _unsaved(block: Block, argument: str) -> InvalidLocationError:
    return InvalidLocationError(
        f"`{argument}` is a {type(block).__name__} that is not saved, and a worker loads it from "
        f"Prefect by its name. {_how_to_save(block)}"
    )


def _how_to_save(block: Block) -> str:
    return (
        f'Save it once, {type(block).__name__}(...).save("lab"), and name it '
        f'"{block.get_block_type_slug()}/lab".'
    )
