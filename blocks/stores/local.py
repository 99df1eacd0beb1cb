"""Artifacts on a local disk."""

# Calls of os and not of pathlib, whose overhead would show in a write of 50 microseconds.
# ruff: noqa: PTH103, PTH112, PTH114, PTH118, PTH120, PTH123, PTH206

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from prefect_optuna.blocks.stores.protocol import TEMPORARY_PREFIX, ArtifactInfo
from prefect_optuna.errors import InvalidSettingError

# Where folders can be opened, swapping one for a link cannot lead a call out of the root.
_BY_FOLDER = {os.open, os.stat, os.mkdir, os.unlink} <= os.supports_dir_fd
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)
_PASSING = getattr(os, "O_PATH", os.O_RDONLY) | _FOLDER  # needs no right to list it
# A FIFO without a writer would block.
_FILE = _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_LINKS = 40  # on the way to a path, as Linux has it
_STEPS = 1000


class _Place(NamedTuple):
    """A name in a folder that is open; without such folders, a path and no folder."""

    name: str
    folder: int | None


class LocalStore:
    """Files below a local folder, by the operating system's own calls.

    A write goes to a new file beside the target, which then takes the target's place in one
    step. It is not forced to the disk: a crash of the process loses nothing, a power cut may.

    No call follows a symbolic link: the folders on the way are opened one in the other, and
    where one is a link within the root, its target is walked to in the same way.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def location(self, path: str) -> str:
        return os.path.join(self.root, *path.split("/")) if path else self.root

    def open(self, path: str) -> BinaryIO:
        # By `open`, so that the file knows its name.
        return open(self.location(path), "rb", opener=lambda _, __: self._descriptor(path))

    def read(self, path: str) -> bytes:
        with os.fdopen(self._descriptor(path), "rb", buffering=0) as file:
            return file.readall()

    def read_many(self, paths: Iterable[str]) -> dict[str, bytes]:
        return {path: self.read(path) for path in paths}

    def write(self, path: str, content: bytes) -> None:
        with self._place(path, make=True) as place, _unfinished(place, content) as temporary:
            _put(temporary, place, replace=True)

    def create(self, path: str, content: bytes, token: str) -> bool:
        with self._place(path, make=True) as place:
            if _status(place) is not None:
                return False
            with _unfinished(place, content) as temporary:
                return _put(temporary, place, replace=False)

    def scratch(self, path: str) -> str:
        # In the root, so that putting it in place is a rename, and the folder cannot be swapped.
        with self._place(path, make=True):
            return self.root

    def put(self, file: str, path: str, token: str | None) -> bool:
        with self._place(path, make=True) as place:
            try:
                return _put(_Place(file, None), place, replace=token is None)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            # Something else is mounted within the root.
            with open(file, "rb") as source, _unfinished(place, source) as temporary:
                return _put(temporary, place, replace=token is None)

    def copy(self, source: str, target: str) -> None:
        with (
            self.open(source) as file,
            self._place(target, make=True) as place,
            _unfinished(place, file) as temporary,
        ):
            _put(temporary, place, replace=True)

    def info(self, path: str) -> ArtifactInfo:
        with self._place(path) as place:
            status = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return _info(path, status)

    def is_file(self, path: str) -> bool:
        try:
            with self._place(path) as place:
                status = _status(place)
        except OSError:
            return False
        return status is not None and stat.S_ISREG(status.st_mode)

    def ls(self, path: str) -> list[str]:
        try:
            return [name for name, _ in self._entries(path)]
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            return [path] if self.is_file(path) else []

    def walk(self, path: str) -> Iterator[str]:
        try:
            entries = self._entries(path)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            entries = [(path, False)] if self.is_file(path) else []
        for name, is_folder in entries:
            if is_folder:
                yield from self.walk(name)
            else:
                yield name

    def unfinished(self) -> Iterator[ArtifactInfo]:
        # It does not follow links to folders.
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX):
                    place = os.path.join(folder, name)
                    with suppress(FileNotFoundError):  # finished meanwhile
                        path = os.path.relpath(place, self.root).replace(os.sep, "/")
                        yield _info(path, os.lstat(place))

    def rm(self, path: str, recursive: bool) -> None:
        with self._place(path, links=False) as place:
            status = os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):  # it goes, and its target stays
                self._behind(path, path.count("/"))
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(place.name, dir_fd=place.folder)
            elif recursive:
                shutil.rmtree(place.name, dir_fd=place.folder)
            else:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    def rm_files(self, paths: Iterable[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError):
                self.rm(path, False)

    def root_is_there(self) -> bool:
        return True  # it is made by the first write

    def _descriptor(self, path: str) -> int:
        """Open a file to be read."""
        with self._place(path) as place:
            descriptor = os.open(place.name, os.O_RDONLY | _FILE, dir_fd=place.folder)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return descriptor

    def _entries(self, path: str) -> list[tuple[str, bool]]:
        """The paths in a folder, and whether each is a folder."""
        if not path:
            return _listed(self.root, "")
        with self._place(path) as place:
            if place.folder is None:
                return _listed(place.name, f"{path}/")
            flags = os.O_RDONLY | _FOLDER | _NO_LINK
            folder = os.open(place.name, flags, dir_fd=place.folder)
        try:
            return _listed(folder, f"{path}/")
        finally:
            os.close(folder)

    @contextmanager
    def _place(self, path: str, *, make: bool = False, links: bool = True) -> Generator[_Place]:
        """Resolve a path in a folder that stays the same even if it is renamed meanwhile."""
        for _ in range(_LINKS):
            try:
                place = self._walked(path.split("/"), make=make, links=links)
            except _LinkError as error:
                path = self._behind(path, error.depth)
                continue
            try:
                yield place
            finally:
                if place.folder is not None:
                    os.close(place.folder)
            return
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _walked(self, names: list[str], *, make: bool, links: bool) -> _Place:
        if not _BY_FOLDER:
            return self._walked_by_path(names, make=make, links=links)
        if make and not os.path.isdir(self.root):
            os.makedirs(self.root, exist_ok=True)
        folder = os.open(self.root, _PASSING)
        try:
            for depth, name in enumerate(names[:-1]):
                inner = _opened(folder, name, depth, make=make)
                os.close(folder)
                folder = inner
            place = _Place(names[-1], folder)
            status = _status(place) if links else None
            if status is not None and stat.S_ISLNK(status.st_mode):
                raise _LinkError(len(names) - 1)
        except BaseException:
            os.close(folder)
            raise
        return place

    def _walked_by_path(self, names: list[str], *, make: bool, links: bool) -> _Place:
        place = self.root
        for depth, name in enumerate(names):
            place = f"{place}{os.sep}{name}"
            if os.path.islink(place) and (links or depth < len(names) - 1):
                raise _LinkError(depth)
        if make:
            os.makedirs(os.path.dirname(place), exist_ok=True)
        return _Place(place, None)

    def _behind(self, path: str, depth: int) -> str:
        """The path without the link that one of its names is.

        What is found here may have changed when it is walked to, which does not trust it.
        """
        names = path.split("/")
        link = os.path.join(self.root, *names[: depth + 1])
        root, target = os.path.realpath(self.root), os.path.realpath(link)
        if target == root or os.path.commonpath([root, target]) != root:
            raise InvalidSettingError(
                f"{path!r} is no artifact path: the symbolic link {link} leads out of "
                f"the artifact root {self.root}. Remove the link, or copy its target in."
            )
        return "/".join([*os.path.relpath(target, root).split(os.sep), *names[depth + 1 :]])


class _LinkError(Exception):
    """One of the names of a path is a link."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.depth = depth


def _opened(folder: int, name: str, depth: int, *, make: bool) -> int:
    """Open a folder in an open folder."""
    try:
        return os.open(name, _PASSING | _NO_LINK, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return _opened(folder, name, depth, make=False)
    except OSError as error:
        status = _status(_Place(name, folder))
        if status is not None and stat.S_ISLNK(status.st_mode):
            raise _LinkError(depth) from error
        raise


def _status(place: _Place) -> os.stat_result | None:
    """Return the status of a file, also if it is a link that leads nowhere."""
    try:
        return os.stat(place.name, dir_fd=place.folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _info(path: str, status: os.stat_result) -> ArtifactInfo:
    modified = datetime.fromtimestamp(status.st_mtime, tz=UTC)
    return ArtifactInfo(path, status.st_size, modified)


def _listed(folder: int | str, start: str) -> list[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        return [
            (start + entry.name, entry.is_dir(follow_symlinks=False))
            for entry in entries
            if not entry.name.startswith(TEMPORARY_PREFIX)
        ]


def _put(source: _Place, target: _Place, *, replace: bool) -> bool:
    # A hard link, because unlike a rename it fails if the target exists.
    move = os.replace if replace else os.link
    try:
        move(source.name, target.name, src_dir_fd=source.folder, dst_dir_fd=target.folder)
    except FileExistsError:
        if replace:
            raise
        return False
    return True


_PIECE = 1 << 19


@contextmanager
def _unfinished(target: _Place, content: bytes | BinaryIO) -> Generator[_Place]:
    """Fill a new file in the target's folder, and remove it unless it has been renamed."""
    folder, _ = os.path.split(target.name)
    name = f"{TEMPORARY_PREFIX}{os.urandom(12).hex()}"
    temporary = _Place(os.path.join(folder, name), target.folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE
    descriptor = os.open(temporary.name, flags, 0o666, dir_fd=temporary.folder)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            source = (
                content if isinstance(content, io.IOBase) else io.BytesIO(cast("bytes", content))
            )
            while piece := source.read(_PIECE):  # larger ones take some kernels ten times as long
                while piece:
                    piece = piece[file.write(piece) :]
        yield temporary
    finally:
        with suppress(OSError):
            os.unlink(temporary.name, dir_fd=temporary.folder)


def is_private(path: Path) -> bool:
    """Tell whether a path is this user's, is no link, and nobody else may write there."""
    try:
        status = path.lstat()
    except OSError:
        return False
    if not hasattr(os, "getuid"):  # Windows
        return not path.is_symlink()
    is_mine = status.st_uid == os.getuid() and not stat.S_ISLNK(status.st_mode)
    return is_mine and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def shared_part(path: Path) -> Path | None:
    """Find the first folder or link on a path that somebody else may write to or replace."""
    names, place, seen = [*reversed(path.absolute().parts)], Path(), 0
    while names and hasattr(os, "getuid"):
        inner, seen = place / names.pop(), seen + 1
        try:
            status = inner.lstat()
        except OSError:
            return inner
        if not _is_out_of_reach(status) or seen > _STEPS:
            return inner
        if stat.S_ISLNK(status.st_mode):
            names += reversed(inner.readlink().parts)
        else:
            place = place.parent if inner.name == ".." else inner
    place = place if hasattr(os, "getuid") else path
    return None if is_private(place) else place


def _is_out_of_reach(status: os.stat_result) -> bool:
    """Tell whether only this user and the system's may change a folder's content, or a link."""
    system = Path("/").stat()  # in a container, its user may have any number
    if status.st_uid not in (os.getuid(), system.st_uid):
        return False
    # Of others in a folder such as /tmp, whatever they own is found by its owner.
    if stat.S_ISLNK(status.st_mode) or status.st_mode & stat.S_ISVTX:
        return True
    of_group = status.st_mode & stat.S_IWGRP and status.st_gid != system.st_gid
    return not status.st_mode & stat.S_IWOTH and not (of_group and _has_others(status.st_gid))


def _has_others(group: int) -> bool:
    """Tell whether a group is not the private one that most Linux systems make for each user."""
    import grp
    import pwd

    try:
        me, record = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
    except KeyError:
        return True
    return record.gr_name != me.pw_name or bool({*record.gr_mem} - {me.pw_name})
