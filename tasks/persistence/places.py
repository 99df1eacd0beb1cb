"""Places of files: paths, URLs and blocks, as an artifact filesystem and a path in it; names."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from prefect_optuna.blocks import ArtifactFileSystem, as_artifact_filesystem
from prefect_optuna.errors import (
    ArtifactNotFoundError,
    InvalidLocationError,
    PersistenceIsDirectoryError,
    PersistenceNotFoundError,
)

Storage = ArtifactFileSystem | str | Path

MAX_NAME = 255  # bytes, the limit of common filesystems

# What separates folders, is a wildcard, or is not allowed in a name on some system. The percent
# sign is among them, so that different values stay different.
_SPECIAL = re.compile(r'[%/\\*?\[\]:"<>|\x00-\x1f\x7f]')
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


def is_folder(artifacts: ArtifactFileSystem) -> bool:
    """Tell whether the artifacts are files of this machine."""
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
    """Return the place of a file, to open it: a path on this machine, else a URL."""
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
    except InvalidLocationError as error:
        if is_folder(artifacts) and name and Path(artifacts.location(name)).is_dir():
            raise PersistenceIsDirectoryError(
                f"Expected the file of a {what}, found the folder {artifacts.location(name)}. Name "
                "a file in it."
            ) from error
        raise


def escaped(text: str) -> str:
    """Write a text so that it is a part of one name, and no pattern: `a/b` as `a%2Fb`.

    Different texts have different results.

    Example:
        >>> from prefect_optuna.tasks.persistence.places import escaped
        >>> escaped("2026-01-02"), escaped("a/b*")
        ('2026-01-02', 'a%2Fb%2A')
    """
    return _SPECIAL.sub(lambda match: f"%{ord(match[0]):02X}", text)


def leads_elsewhere(text: str) -> str | None:
    """Say why a text must not be a part of a file name; `None` if it may.

    Example:
        >>> from prefect_optuna.tasks.persistence.places import leads_elsewhere
        >>> leads_elsewhere("../x")
        "it has the part '..', which leads out of the folder"
    """
    if "\0" in text:
        return "it has a NUL character"
    if text.startswith(("/", "\\")) or _DRIVE.match(text):
        return "it is an absolute path"
    if ".." in re.split(r"[/\\]", text):
        return "it has the part '..', which leads out of the folder"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it has characters that UTF-8 cannot encode"
    return None
