"""Artifacts on filesystems of fsspec: in memory, and in object stores."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

from prefect_optuna.blocks.stores.failures import translated
from prefect_optuna.blocks.stores.protocol import ArtifactInfo

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_CONCURRENT_REQUESTS = 16


class FsspecStore:
    """The part that all filesystems of fsspec have in common."""

    def __init__(self, filesystem: AbstractFileSystem, root: str, url: str) -> None:
        self._fs: Any = filesystem
        self._root = root
        self._url = url

    def location(self, path: str) -> str:
        return f"{self._url}/{path}" if path else self._url

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _relative(self, full: str) -> str:
        return full.rstrip("/")[len(self._root) + 1 :]

    def read(self, path: str) -> bytes:
        with translated():
            return bytes(self._fs.cat_file(self._full(path)))

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        # In threads and not by the filesystem's `cat`, which takes '*' in a name for a wildcard.
        paths = list(paths)
        if len(paths) < 2:
            return {path: self.read(path) for path in paths}
        with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
            return dict(zip(paths, pool.map(self.read, paths), strict=True))

    def scratch(self, path: str) -> str | None:
        return None

    def info(self, path: str) -> ArtifactInfo:
        with translated():
            details: Mapping[str, Any] = self._fs.info(self._full(path))
        if details["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return ArtifactInfo(path, int(details["size"] or 0), _modified(details))

    def is_file(self, path: str) -> bool:
        with translated():
            try:
                return self._fs.info(self._full(path))["type"] == "file"
            except FileNotFoundError:
                return False

    def ls(self, path: str) -> list[str]:
        with translated():
            try:
                names = self._fs.ls(self._full(path), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                names = []
        # Some stores list the directory itself, where there is a marker for it.
        entries = [name for name in map(self._relative, names) if name and name != path]
        if not entries and path and self.is_file(path):
            return [path]
        if not entries and not self.root_is_there():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._root)
        return entries

    def walk(self, path: str) -> Iterator[str]:
        with translated():
            for name in self._fs.find(self._full(path)):
                yield self._relative(name)

    def unfinished(self) -> Iterator[ArtifactInfo]:
        return iter(())

    def root_is_there(self) -> bool:
        return True


class MemoryStore(FsspecStore):
    """Artifacts of this process: one dictionary, which fsspec looks into before it writes."""

    _lock = threading.Lock()

    def open(self, path: str) -> BinaryIO:
        # All who open one file of the memory filesystem would share one position in it.
        return BytesIO(self.read(path))

    def write(self, path: str, content: bytes) -> None:
        full = self._full(path)
        with self._lock:
            if self._fs.isdir(full):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            self._fs.pipe_file(full, bytes(content))

    def create(self, path: str, content: bytes, token: str) -> bool:
        full = self._full(path)
        with self._lock:
            if self._fs.exists(full):
                return False
            self._fs.pipe_file(full, bytes(content))
        return True

    def put(self, file: str, path: str, token: str | None) -> bool:
        with open(file, "rb") as source:  # noqa: PTH123 - the protocol's paths are strings
            content = source.read()
        if token is not None:
            return self.create(path, content, token)
        self.write(path, content)
        return True

    def copy(self, source: str, target: str) -> None:
        self.write(target, self.read(source))

    def rm(self, path: str, recursive: bool) -> None:
        full = self._full(path)
        with self._lock:
            if not self._fs.isdir(full):
                self._fs.rm_file(full)
            elif recursive:
                # One by one: fsspec's own rm would take '*' in a name for a wildcard.
                for name in self._fs.find(full):
                    self._fs.rm_file(name)
            else:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


class ObjectStore(FsspecStore):
    """Artifacts in S3, Google Cloud Storage or Azure: every object appears whole or not at all.

    `mode="create"` is the store's own conditional request (If-None-Match, ifGenerationMatch).
    There are no directories: one object may be called `a` and another `a/b`.
    """

    def open(self, path: str) -> BinaryIO:
        with translated():
            return self._fs.open(self._full(path), "rb")

    def write(self, path: str, content: bytes) -> None:
        with translated():
            self._fs.pipe_file(self._full(path), _bytes(content))

    def create(self, path: str, content: bytes, token: str) -> bool:
        full = self._full(path)
        with translated():
            try:
                self._fs.pipe_file(full, _bytes(content), mode="create", **self._signed(token))
            except FileExistsError:
                return self._writer_of(full) == token
        return True

    def put(self, file: str, path: str, token: str | None) -> bool:
        full = self._full(path)
        with translated():
            if token is None:
                self._fs.put_file(file, full)
                return True
            try:
                self._fs.put_file(file, full, mode="create", **self._signed(token))
            except FileExistsError:
                return self._writer_of(full) == token
        return True

    def _signed(self, token: str) -> dict[str, Any]:
        """Arguments that write the token beside the object, in the store's own words."""
        if "s3" in self._fs.protocol:
            return {"Metadata": {"writer": token}}
        if "gs" in self._fs.protocol:
            return {"metadata": {"writer": token}}
        return {}

    def _writer_of(self, full: str) -> str | None:
        if "s3" in self._fs.protocol:
            return self._fs.metadata(full).get("writer")
        if "gs" in self._fs.protocol:
            return (self._fs.info(full).get("metadata") or {}).get("writer")
        return None

    def copy(self, source: str, target: str) -> None:
        with translated():
            self._fs.cp_file(self._full(source), self._full(target))

    def rm(self, path: str, recursive: bool) -> None:
        with translated():
            if self.is_file(path):
                self._fs.rm_file(self._full(path))
                if not recursive:
                    return
            names = self._fs.find(self._full(path)) if recursive else self._fs.ls(self._full(path))
            if not recursive and names:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            # Not the filesystem's own `rm`, which takes '*' in a name for a wildcard.
            with ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
                list(pool.map(self._fs.rm_file, names))

    def root_is_there(self) -> bool:
        with translated():
            return self._fs.exists(self._root.partition("/")[0])


def _bytes(content: bytes) -> bytes:
    return bytes(memoryview(content))  # a TypeError for text, before anything is sent


def _modified(found: Mapping[str, Any]) -> datetime:
    for key in ("LastModified", "mtime", "updated", "last_modified", "created"):
        value = found.get(key)
        if isinstance(value, str):
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            return value.astimezone(UTC)
    raise OSError(errno.ENOTSUP, "the filesystem does not say when a file was written")
