"""Where a file is: paths, URLs and blocks, all as an artifact filesystem and a path in it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from prefect_optuna.blocks import ArtifactFileSystem, as_artifact_filesystem
from prefect_optuna.blocks.errors import ArtifactNotFoundError, ArtifactPathError
from prefect_optuna.tasks.persistence.errors import (
    PersistenceIsDirectoryError,
    PersistenceNotFoundError,
)

Storage = ArtifactFileSystem | str | Path


def is_folder(artifacts: ArtifactFileSystem) -> bool:
    """Whether the artifacts are files of this machine."""
    return "://" not in artifacts.url


def placed(path: str | Path, storage: Storage | None = None) -> tuple[ArtifactFileSystem, str]:
    """The artifact filesystem of a file, and its path there."""
    if storage is not None:
        return as_artifact_filesystem(storage), str(path)
    if isinstance(path, str) and "://" in path:
        folder, _, name = path.rpartition("/")
        if folder.endswith(":/"):  # memory://name
            folder, name = f"{folder}/", name
        return _filesystem(folder), name
    place = Path(path).expanduser().absolute()
    return _filesystem(str(place.parent)), place.name


@lru_cache(maxsize=16)
def _filesystem(folder: str) -> ArtifactFileSystem:
    """Made once for many files: a block takes longer than writing a small one."""
    return as_artifact_filesystem(folder)


def located(artifacts: ArtifactFileSystem, name: str) -> Path | str:
    """Where a file is, to open it: a path on this machine, else a URL."""
    location = artifacts.location(name)
    return Path(location) if is_folder(artifacts) else location


@contextmanager
def explained(artifacts: ArtifactFileSystem, name: str, what: str) -> Generator[None]:
    """Say which object it is about when its file is not there, or is a folder."""
    try:
        yield
    except ArtifactNotFoundError as error:
        raise PersistenceNotFoundError(
            f"No {what} has been saved as {name!r} in {artifacts.location()}."
        ) from error
    except ArtifactPathError as error:
        if is_folder(artifacts) and name and Path(artifacts.location(name)).is_dir():
            raise PersistenceIsDirectoryError(
                f"Expected the file of a {what}, found the folder {artifacts.location(name)}. Name "
                "a file in it."
            ) from error
        raise
