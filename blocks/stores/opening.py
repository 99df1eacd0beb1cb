"""Stores of what a URL names: fsspec's filesystems and SFTP, asked again when they fail."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from prefect_optuna.blocks.stores.local import LocalStore
from prefect_optuna.blocks.stores.protocol import (
    TEMPORARY_PREFIX,
    ArtifactInfo,
    ArtifactStore,
    is_transient,
    translated,
    wrong_options,
)
from prefect_optuna.errors import InvalidSettingError, PrefectOptunaError, StorageUnavailableError

if TYPE_CHECKING:
    from asyncssh import SFTPClient
    from fsspec import AbstractFileSystem

# A store on a network, which is asked again when it fails for a moment.


T = TypeVar("T")

_ATTEMPTS = 6
_SECONDS = 30.0  # after this long, the one attempt under way is the last
_FIRST_WAIT, _LONGEST_WAIT, _JITTER = 0.1, 5.0, 0.5  # seconds


class RetryingStore:
    """Calls a store, and again after a transient failure; all else is raised at once.

    Waits of 0.1 s, doubled each time, with up to 0.5 s of jitter, so that a hundred workers do
    not come back in the same instant. Each repetition is logged, by the logger `stamina`, and
    begins with a new connection where the kind of store keeps one.
    """

    def __init__(self, url: str, connect: Callable[[], ArtifactStore]) -> None:
        self._url = url
        self._connect = connect
        self._connected: ArtifactStore | None = None
        self._worked = False

    @property
    def _store(self) -> ArtifactStore:
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    def _again(self, call: Callable[[], T]) -> T:
        import stamina

        def fails_for_a_moment(error: Exception) -> bool:
            transient = is_transient(error)
            if transient:
                self._connected = None
            return transient

        for attempt in stamina.retry_context(
            on=fails_for_a_moment,
            attempts=_ATTEMPTS,
            timeout=_SECONDS,
            wait_initial=_FIRST_WAIT,
            wait_max=_LONGEST_WAIT,
            wait_jitter=_JITTER,
        ):
            with attempt:
                try:
                    result = call()
                except (TypeError, AttributeError) as error:
                    if self._worked or isinstance(error, PrefectOptunaError):
                        raise
                    # Some clients look at their options when they are first used.
                    raise wrong_options(self._url) from None
                self._worked = True
                return result
        raise AssertionError("unreachable")

    def open(self, path: str) -> BinaryIO:
        return self._again(lambda: self._store.open(path))

    def read(self, path: str) -> bytes:
        return self._again(lambda: self._store.read(path))

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        paths = list(paths)
        return self._again(lambda: self._store.read_many(paths))

    def write(self, path: str, content: bytes) -> None:
        self._again(lambda: self._store.write(path, content))

    def create(self, path: str, content: bytes, token: str) -> bool:
        return self._again(lambda: self._store.create(path, content, token))

    def scratch(self, path: str) -> str | None:
        return None

    def put(self, file: str, path: str, token: str | None) -> bool:
        return self._again(lambda: self._store.put(file, path, token))

    def copy(self, source: str, target: str) -> None:
        self._again(lambda: self._store.copy(source, target))

    def info(self, path: str) -> ArtifactInfo:
        return self._again(lambda: self._store.info(path))

    def is_file(self, path: str) -> bool:
        return self._again(lambda: self._store.is_file(path))

    def ls(self, path: str) -> list[str]:
        return self._again(lambda: self._store.ls(path))

    def walk(self, path: str) -> Iterator[str]:
        return iter(self._again(lambda: list(self._store.walk(path))))

    def unfinished(self) -> Iterator[ArtifactInfo]:
        return iter(self._again(lambda: list(self._store.unfinished())))

    def rm(self, path: str, recursive: bool) -> None:
        asked = False

        def remove() -> None:
            nonlocal asked
            first, asked = not asked, True
            try:
                self._store.rm(path, recursive)
            except FileNotFoundError:
                if first:
                    raise  # else it went away with the reply that was lost

        self._again(remove)

    def rm_files(self, paths: Iterable[str]) -> None:
        paths = list(paths)
        self._again(lambda: self._store.rm_files(paths))

    def root_is_there(self) -> bool:
        return self._again(self._store.root_is_there)

    def location(self, path: str) -> str:
        return f"{self._url}/{path}" if path else self._url


# Artifacts on filesystems of fsspec: in memory, and in object stores.


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

    def rm(self, path: str, recursive: bool) -> None:
        raise NotImplementedError

    def rm_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self.rm(path, False)

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

    def rm_files(self, paths: Iterable[str]) -> None:
        # Without asking first whether each is there, as `rm` does.
        def remove(path: str) -> None:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._full(path))

        with translated(), ThreadPoolExecutor(_CONCURRENT_REQUESTS) as pool:
            list(pool.map(remove, paths))

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
            # Earlier versions of sshfs say it in UTC, without a zone.
            return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)
    raise OSError(errno.ENOTSUP, "the filesystem does not say when a file was written")


# Artifacts on another machine, by SFTP.


class SftpStore(FsspecStore):
    """Files of an SSH server, put in place as on a local disk.

    sshfs keeps the connections. What fsspec has no name for, renaming over a file and linking
    only if there is none, is asked of the server by its own names; OpenSSH's server has both.
    """

    def open(self, path: str) -> BinaryIO:
        with self._no_directory(path) as full:
            return self._fs.open(full, "rb")

    def read(self, path: str) -> bytes:
        with self._no_directory(path) as full:
            return bytes(self._fs.cat_file(full))

    @contextmanager
    def _no_directory(self, path: str) -> Generator[str]:
        """Servers differ in what they say when a directory is read."""
        full = self._full(path)
        with translated():
            try:
                yield full
            except Exception as error:
                if self._fs.isdir(full):
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from error
                raise

    def write(self, path: str, content: bytes) -> None:
        self._upload(path, lambda sftp, name: _fill(sftp, name, content), exclusive=False)

    def create(self, path: str, content: bytes, token: str) -> bool:
        return self._upload(path, lambda sftp, name: _fill(sftp, name, content), exclusive=True)

    def put(self, file: str, path: str, token: str | None) -> bool:
        return self._upload(path, lambda sftp, name: sftp.put(file, name), token is not None)

    def copy(self, source: str, target: str) -> None:
        with TemporaryDirectory() as folder, translated():
            file = os.path.join(folder, "copy")  # noqa: PTH118 - sshfs takes strings
            self._fs.get_file(self._full(source), file)
            self.put(file, target, None)

    def unfinished(self) -> Iterator[ArtifactInfo]:
        with translated():
            for name, details in self._fs.find(self._root, detail=True).items():
                if posixpath.basename(name).startswith(TEMPORARY_PREFIX):
                    yield ArtifactInfo(self._relative(name), details["size"], _modified(details))

    def ls(self, path: str) -> list[str]:
        return [name for name in super().ls(path) if not _is_temporary(name)]

    def walk(self, path: str) -> Iterator[str]:
        return (name for name in super().walk(path) if not _is_temporary(name))

    def rm(self, path: str, recursive: bool) -> None:
        full = self._full(path)

        async def remove(sftp: SFTPClient) -> None:
            if not stat.S_ISDIR((await sftp.lstat(full)).permissions or 0):
                await sftp.unlink(full)
            elif recursive:
                await sftp.rmtree(full)
            else:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

        self._run(remove)

    def _full(self, path: str) -> str:
        """The path on the server, once no symbolic link on the way leads out of the root."""
        if not path:
            return self._root
        full = super()._full(path)

        async def real(sftp: SFTPClient, place: str) -> str:
            # Of what is not there yet, the nearest directory that is.
            while not await sftp.lexists(place):
                place = posixpath.dirname(place)
            return str(await sftp.realpath(place))

        async def leads_out(sftp: SFTPClient) -> bool:
            root, place = await real(sftp, self._root), await real(sftp, full)
            return place != root and not place.startswith(root.rstrip("/") + "/")

        if self._run(leads_out):
            raise InvalidSettingError(
                f"{path!r} is no artifact path: a symbolic link on the way to it leads out of the "
                f"artifact root {self._url}. Remove the link, or copy its target in."
            )
        return full

    def _upload(
        self, path: str, fill: Callable[[SFTPClient, str], Awaitable[object]], exclusive: bool
    ) -> bool:
        target = self._full(path)
        folder = posixpath.dirname(target)
        temporary = f"{folder}/{TEMPORARY_PREFIX}{os.urandom(12).hex()}"

        async def upload(sftp: SFTPClient) -> bool:
            await _make_folder(sftp, folder)
            if exclusive and await sftp.lexists(target):
                return False
            try:
                await fill(sftp, temporary)
                if not exclusive:
                    if await sftp.isdir(target):
                        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
                    await sftp.posix_rename(temporary, target)
                    return True
                return await _link(sftp, temporary, target)
            finally:
                if await sftp.lexists(temporary):
                    await sftp.unlink(temporary)

        return self._run(upload)

    def _run(self, work: Callable[[SFTPClient], Awaitable[T]]) -> T:
        async def on_a_channel() -> T:
            async with self._fs._pool.get() as sftp:
                return await work(sftp)

        with translated():
            result: Any = sync(self._fs.loop, on_a_channel)
        return result


async def _fill(sftp: SFTPClient, name: str, content: bytes) -> None:
    view = memoryview(content)
    async with sftp.open(name, "xb") as file:
        for start in range(0, len(view), 1 << 22):
            await file.write(bytes(view[start : start + (1 << 22)]))


async def _make_folder(sftp: SFTPClient, folder: str) -> None:
    try:
        await sftp.makedirs(folder, exist_ok=True)
    except Exception as error:
        place = folder
        while place not in ("", "/") and not await sftp.lexists(place):
            place = posixpath.dirname(place)
        if await sftp.lexists(place) and not await sftp.isdir(place):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), place) from error
        raise


async def _link(sftp: SFTPClient, temporary: str, target: str) -> bool:
    try:
        await sftp.link(temporary, target)
    except Exception:
        # SFTP 3 has one word, failure, for all that goes wrong.
        if await sftp.lexists(target):
            return False
        raise
    return True


def _is_temporary(path: str) -> bool:
    return posixpath.basename(path).startswith(TEMPORARY_PREFIX)


REMOTE = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "sftp": "sftp",
    "ssh": "sftp",
}
"""The protocols of other machines, and the extra that brings each one's client."""

_DEFAULTS: dict[str, dict[str, Any]] = {
    "s3": {
        # Listings come from the store, and not from what this process remembers of it.
        "use_listings_cache": False,
        # One layer of repetitions is enough: RetryingStore's.
        "config_kwargs": {
            "connect_timeout": 10,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        },
    },
    "gcs": {"use_listings_cache": False},
    "azure": {"use_listings_cache": False},
    # sshfs would talk to any server. This is asyncssh's own default: ~/.ssh/known_hosts.
    "sftp": {"known_hosts": ()},
}


def open_store(url: str, options: Mapping[str, Any]) -> ArtifactStore:
    """The store of a checked URL; a path without a protocol is a local folder.

    Nothing is connected yet: that is part of the first call, and of each repetition.
    """
    # Without urlsplit, which reads a bracket in the name of a memory as half an address.
    protocol = url.partition("://")[0].lower() if "://" in url else ""
    if not protocol:
        return LocalStore(url)
    if protocol == "memory":
        filesystem, root = fsspec.url_to_fs(url, **options)
        return MemoryStore(filesystem, root, url)
    extra = REMOTE[protocol]
    options = {**_DEFAULTS[extra], **options}
    return RetryingStore(url, lambda: _connect(url, protocol, extra, options))


def _connect(url: str, protocol: str, extra: str, options: Mapping[str, Any]) -> ArtifactStore:
    try:
        with translated():
            if extra == "sftp":
                return _sftp(url, options)
            filesystem, root = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise StorageUnavailableError(
            f"{protocol}:// needs a library that is not installed ({error}). Install it: "
            f'pip install "prefect-optuna[{extra}]"'
        ) from error
    except (TypeError, ValueError, AttributeError, LookupError):
        # Their own message may quote a value, which may be a secret.
        raise wrong_options(url) from None
    return ObjectStore(filesystem, root, url)


def _sftp(url: str, options: Mapping[str, Any]) -> ArtifactStore:
    from sshfs import SSHFileSystem

    parts = urlsplit(url)
    address = {"host": parts.hostname, "port": parts.port, "username": parts.username}
    given: dict[str, Any] = {name: value for name, value in address.items() if value is not None}
    # fsspec would hand out the same one again, also after its connection has gone.
    filesystem = SSHFileSystem(**{**given, **options}, skip_instance_cache=True)
    return SftpStore(filesystem, parts.path.rstrip("/"), url)
