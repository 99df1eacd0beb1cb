"""Artifacts on another machine, by SFTP."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from fsspec.asyn import sync

from prefect_optuna.blocks._artifact_paths import TEMPORARY_PREFIX
from prefect_optuna.blocks.stores.failures import translated
from prefect_optuna.blocks.stores.fsspec_store import FsspecStore
from prefect_optuna.blocks.stores.protocol import ArtifactInfo
from prefect_optuna.errors import InvalidLocationError

if TYPE_CHECKING:
    from asyncssh import SFTPClient

T = TypeVar("T")


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
                    yield ArtifactInfo(self._relative(name), details["size"], details["mtime"])

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
            raise InvalidLocationError(
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
