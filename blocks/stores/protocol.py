"""The protocol that the artifact filesystem asks of a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Protocol


@dataclass(frozen=True)
class ArtifactInfo:
    """A filesystem's information about an artifact, known without reading it.

    Attributes:
        path: its path, relative to the root of its filesystem.
        size: its length in bytes.
        modified: when it was written, in UTC, by the clock of the filesystem.
    """

    path: str
    size: int
    modified: datetime


class ArtifactStore(Protocol):
    """Takes checked paths, raises `OSError`s. A write is seen whole or not at all.

    The block on top explains the errors to people. A `token` names one attempt to create an
    artifact, so that a repetition after a lost reply recognizes its own work.
    """

    def open(self, path: str) -> BinaryIO: ...

    def read(self, path: str) -> bytes: ...

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]: ...

    def write(self, path: str, content: bytes) -> None: ...

    def create(self, path: str, content: bytes, token: str) -> bool: ...

    def scratch(self, path: str) -> str | None:
        """A folder of this machine to collect a write in; `None` for the system's own."""
        ...

    def put(self, file: str, path: str, token: str | None) -> bool:
        """Turn a file of this machine into an artifact; with a token, only if there is none."""
        ...

    def copy(self, source: str, target: str) -> None: ...

    def info(self, path: str) -> ArtifactInfo: ...

    def is_file(self, path: str) -> bool: ...

    def ls(self, path: str) -> list[str]: ...

    def walk(self, path: str) -> Iterator[str]: ...

    def unfinished(self) -> Iterator[ArtifactInfo]:
        """Yield what killed writers have left behind."""
        ...

    def rm(self, path: str, recursive: bool) -> None: ...

    def root_is_there(self) -> bool:
        """Tell whether the root must be made by the storage's owner: a bucket, a server."""
        ...

    def location(self, path: str) -> str: ...
