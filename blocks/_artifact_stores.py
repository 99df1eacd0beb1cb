"""How bytes are kept: on a local disk, or on any filesystem of fsspec.

A store takes checked paths and raises `OSError`s; the block on top explains them to people.
"""

# Calls of os and not of pathlib, whose overhead would show in a write of 50 microseconds.
# ruff: noqa: PTH103, PTH105, PTH108, PTH112, PTH113, PTH114, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Protocol

from prefect_optuna.blocks._artifact_paths import TEMPORARY_PREFIX
from prefect_optuna.blocks.errors import ArtifactPathError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

__all__ = ["ArtifactStore", "FsspecStore", "LocalStore"]


class ArtifactStore(Protocol):
    """What the block asks of a store. A write is seen whole or not at all."""

    def open(self, path: str) -> BinaryIO: ...

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, content: bytes) -> None: ...

    def create(self, path: str, content: bytes) -> bool: ...

    def copy(self, source: str, target: str) -> None: ...

    def is_file(self, path: str) -> bool: ...

    def ls(self, path: str) -> list[str]: ...

    def walk(self, path: str) -> Iterator[str]: ...

    def rm(self, path: str, recursive: bool) -> None: ...

    def location(self, path: str) -> str: ...


class LocalStore:
    """Files below a local folder, by the operating system's own calls.

    A write goes to a new file beside the target, which then takes the target's place in one
    step. It is not forced to the disk: a crash of the process loses nothing, a power cut may.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def location(self, path: str) -> str:
        return os.path.join(self.root, *path.split("/")) if path else self.root

    def _inside(self, path: str) -> str:
        """The path on disk, once no symbolic link on the way to it leads out of the root."""
        place = self.root
        for name in path.split("/"):
            place = f"{place}{os.sep}{name}"
            if os.path.islink(place):
                real_root = os.path.realpath(self.root)
                if os.path.commonpath([real_root, os.path.realpath(place)]) != real_root:
                    raise ArtifactPathError(
                        f"{path!r} is no artifact path: the symbolic link {place} leads out of "
                        f"the artifact root {self.root}. Remove the link, or copy its target in."
                    )
        return place

    def open(self, path: str) -> BinaryIO:
        return open(self._inside(path), "rb")

    def read(self, path: str) -> bytes:
        with open(self._inside(path), "rb", buffering=0) as file:
            return file.readall()

    def write(self, path: str, content: bytes) -> None:
        target = self._inside(path)
        with _unfinished(target, _writer(content)) as temporary:
            os.replace(temporary, target)

    def create(self, path: str, content: bytes) -> bool:
        target = self._inside(path)
        if os.path.lexists(target):
            return False
        with _unfinished(target, _writer(content)) as temporary:
            try:
                # A hard link, because unlike a rename it fails if the target exists.
                os.link(temporary, target)
            except FileExistsError:
                return False
        return True

    def copy(self, source: str, target: str) -> None:
        origin = self._inside(source)
        place = self._inside(target)
        with _unfinished(place, lambda temporary: shutil.copyfile(origin, temporary)) as temporary:
            os.replace(temporary, place)

    def is_file(self, path: str) -> bool:
        return os.path.isfile(self._inside(path))

    def ls(self, path: str) -> list[str]:
        try:
            names = os.listdir(self._inside(path) if path else self.root)
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            return [path] if self.is_file(path) else []
        start = f"{path}/" if path else ""
        return [start + name for name in names if not name.startswith(TEMPORARY_PREFIX)]

    def walk(self, path: str) -> Iterator[str]:
        for name in self.ls(path):
            place = os.path.join(self.root, name)
            if name != path and os.path.isdir(place) and not os.path.islink(place):
                yield from self.walk(name)
            else:
                yield name

    def rm(self, path: str, recursive: bool) -> None:
        place = self._inside(path)
        if recursive and os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        elif os.path.isdir(place):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place)
        else:
            os.unlink(place)


def _writer(content: bytes) -> Callable[[str], object]:
    def write(temporary: str) -> None:
        with open(temporary, "xb", buffering=0) as file:
            view = memoryview(content)
            while view:  # one call writes at most 2 GiB
                view = view[file.write(view) :]

    return write


@contextmanager
def _unfinished(target: str, fill: Callable[[str], object]) -> Generator[str]:
    """Fill a new file in the target's folder, and remove it unless it has been renamed."""
    folder = os.path.dirname(target)
    temporary = f"{folder}{os.sep}{TEMPORARY_PREFIX}{os.urandom(12).hex()}"
    try:
        try:
            fill(temporary)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            fill(temporary)
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary)


# fsspec's memory filesystem is one dictionary for the process, and looks before it writes.
_memory = threading.Lock()


class FsspecStore:
    """Files of an fsspec filesystem whose writes are seen whole or not at all, as objects are."""

    def __init__(self, filesystem: AbstractFileSystem, root: str, url: str) -> None:
        self._fs = filesystem
        self._root = root
        self._url = url

    def location(self, path: str) -> str:
        return f"{self._url}/{path}" if path else self._url

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _relative(self, full: str) -> str:
        return full[len(self._root) + 1 :]

    def open(self, path: str) -> BinaryIO:
        # All who open one file of the memory filesystem would share one position in it.
        return BytesIO(self.read(path))

    def read(self, path: str) -> bytes:
        return bytes(self._fs.cat_file(self._full(path)))  # pyright: ignore[reportArgumentType]

    def write(self, path: str, content: bytes) -> None:
        full = self._full(path)
        with _memory:
            if self._fs.isdir(full):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._fs.pipe_file(full, bytes(content))

    def create(self, path: str, content: bytes) -> bool:
        full = self._full(path)
        with _memory:
            if self._fs.exists(full):
                return False
            self._fs.pipe_file(full, bytes(content))
        return True

    def copy(self, source: str, target: str) -> None:
        self.write(target, self.read(source))

    def is_file(self, path: str) -> bool:
        return self._fs.isfile(self._full(path))

    def ls(self, path: str) -> list[str]:
        try:
            names = self._fs.ls(self._full(path), detail=False)
        except FileNotFoundError:
            return []
        return [self._relative(name) for name in names]

    def walk(self, path: str) -> Iterator[str]:
        for name in self._fs.find(self._full(path)):
            yield self._relative(name)

    def rm(self, path: str, recursive: bool) -> None:
        full = self._full(path)
        with _memory:
            if not self._fs.isdir(full):
                self._fs.rm_file(full)
            elif recursive:
                # One by one: fsspec's own rm would take '*' in a name for a wildcard.
                for name in self._fs.find(full):
                    self._fs.rm_file(name)
            else:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
