"""`persisted`: what makes the results of a task files of their own, in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from prefect.cache_policies import CachePolicy
from prefect.serializers import Serializer

from prefect_optuna.blocks import ArtifactFileSystem, as_artifact_filesystem
from prefect_optuna.errors import InvalidLocationError
from prefect_optuna.tasks.persistence.cache_policy import PersistenceCachePolicy
from prefect_optuna.tasks.persistence.info import ensure_persistence_class
from prefect_optuna.tasks.persistence.places import Storage, is_folder
from prefect_optuna.tasks.persistence.serializer import PersistenceSerializer


class PersistedOptions(TypedDict):
    """The options of a task, for `@task(**persisted(...))`."""

    persist_result: bool
    result_storage: Any
    result_serializer: Serializer[Any]
    cache_policy: CachePolicy
    cache_result_in_memory: bool


def persisted(
    cls: type,
    storage: Storage | None = None,
    *,
    code: bool = False,
    dependencies: tuple[str, ...] = (),
    compression: int | None = None,
    lazy: bool = False,
) -> PersistedOptions:
    """The options of a task that returns objects of a persistence class.

    Each object is saved as a file of its own name. A run whose parameters have the values of the
    keys of a file takes the object from there and does not compute, in whichever process; if the
    class counts, from the newest. Parameters that are no keys of the class do not count. A file
    that is damaged, of older fields or of other validated values is computed anew. If the object
    cannot be saved, the run fails.

    Beside these options, a task takes all others, such as `retries`, `cache_expiration` and
    `refresh_cache`.

    Args:
        cls: the persistence class.
        storage: where to: `"artifact-file-system/name"`, a saved `ArtifactFileSystem`, or a
            folder; by default, where artifacts go.
        code: whether a file is used only if the task had the same source code.
        dependencies: distributions, such as `("numpy",)`, of which it must have had the same
            versions.
        compression: a level of zstd, such as -1 or 3, to compress the files; by default they
            are not.
        lazy: whether arrays of a file that is used again are read when they are asked for.

    Returns:
        The options.

    Raises:
        InvalidPersistenceClassError: `cls` is no persistence class.
        InvalidLocationError: the storage is none, or is remote and not a saved block, so that
            others would not find it.

    Example:
        >>> from prefect import flow, task
        >>> from prefect_optuna.tasks.persistence import field, persisted, persistence_class
        >>> @persistence_class
        ... class Spectrum:
        ...     animal: str = field(validator=True, filename=True)
        ...     power: list[float]
        >>> @task(**persisted(Spectrum, storage="lab"))
        ... def analyse(animal):
        ...     print("computes")
        ...     return Spectrum(animal, power=[0.5, 0.25])
        >>> @flow
        ... def study():
        ...     return [analyse("lynx").power, analyse("lynx").power]
        >>> study()
        computes
        [[0.5, 0.25], [0.5, 0.25]]
    """
    ensure_persistence_class(cls)
    return PersistedOptions(
        persist_result=True,
        result_storage=_result_storage(storage),
        result_serializer=PersistenceSerializer(module=cls.__module__),
        cache_policy=PersistenceCachePolicy(
            data_cls=cls,
            compression=compression,
            lazy=lazy,
            code=code,
            dependencies=tuple(dependencies),
        ),
        cache_result_in_memory=False,
    )


def _result_storage(storage: Storage | None) -> Any:
    """Return what Prefect takes: the name of a saved block, the block, or a folder."""
    slug = ArtifactFileSystem.get_block_type_slug()
    if isinstance(storage, str) and storage.startswith(f"{slug}/"):
        return storage  # loaded when the task runs
    artifacts = as_artifact_filesystem(storage)
    if getattr(artifacts, "_block_document_id", None) is not None:
        return artifacts
    if is_folder(artifacts):
        return Path(artifacts.url)
    raise InvalidLocationError(
        f"Expected a saved block or a folder as the storage of a persisted task, found "
        f"{artifacts.location()}. Save it once, block.save('lab'), and pass storage='{slug}/lab'."
    )
