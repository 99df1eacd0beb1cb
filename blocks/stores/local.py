"""Artifacts on a local disk."""

# Calls of os and not of pathlib, whose overhead would show in a write of 50 microseconds.
# ruff: noqa: PTH103, PTH105, PTH108, PTH112, PTH113, PTH114, PTH116, PTH118, PTH120, PTH123, PTH208

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import BinaryIO

from prefect_optuna.blocks._artifact_paths import TEMPORARY_PREFIX
from prefect_optuna.blocks.errors import ArtifactPathError
from prefect_optuna.blocks.stores.protocol import ArtifactInfo

__all__ = ["LocalStore"]


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

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        return {path: self.read(path) for path in paths}

    def write(self, path: str, content: bytes) -> None:
        target = self._inside(path)
        with _unfinished(target, _writer(content)) as temporary:
            os.replace(temporary, target)

    def create(self, path: str, content: bytes, token: str) -> bool:
        target = self._inside(path)
        if os.path.lexists(target):
            return False
        with _unfinished(target, _writer(content)) as temporary:
            return _link(temporary, target)

    def scratch(self, path: str) -> str:
        # In the target's folder, so that putting it in place is a rename.
        folder = os.path.dirname(self._inside(path))
        os.makedirs(folder, exist_ok=True)
        return folder

    def put(self, file: str, path: str, token: str | None) -> bool:
        target = self._inside(path)
        if token is not None:
            return _link(file, target)
        os.replace(file, target)
        return True

    def copy(self, source: str, target: str) -> None:
        origin = self._inside(source)
        place = self._inside(target)
        with _unfinished(place, lambda temporary: shutil.copyfile(origin, temporary)) as temporary:
            os.replace(temporary, place)

    def info(self, path: str) -> ArtifactInfo:
        status = os.stat(self._inside(path))
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return _info(path, status)

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

    def unfinished(self) -> Iterator[ArtifactInfo]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    place = os.path.join(folder, name)
                    with suppress(FileNotFoundError):  # finished meanwhile
                        path = os.path.relpath(place, self.root).replace(os.sep, "/")
                        yield _info(path, os.stat(place))

    def rm(self, path: str, recursive: bool) -> None:
        place = self._inside(path)
        if recursive and os.path.isdir(place) and not os.path.islink(place):
            shutil.rmtree(place)
        elif os.path.isdir(place):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), place)
        else:
            os.unlink(place)

    def root_is_there(self) -> bool:
        return True  # it is made by the first write


def _info(path: str, status: os.stat_result) -> ArtifactInfo:
    modified = datetime.fromtimestamp(status.st_mtime, tz=UTC)
    return ArtifactInfo(path, status.st_size, modified)


def _link(temporary: str, target: str) -> bool:
    try:
        # A hard link, because unlike a rename it fails if the target exists.
        os.link(temporary, target)
    except FileExistsError:
        return False
    return True


_PIECE = 1 << 19


def _writer(content: bytes) -> Callable[[str], None]:
    def write(temporary: str) -> None:
        with open(temporary, "xb", buffering=0) as file:
            view = memoryview(content)
            while view:  # some kernels take ten times as long for larger pieces
                view = view[file.write(view[:_PIECE]) :]

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
