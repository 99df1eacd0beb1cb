"""Keeps a journal file whole when its writers crash.

Optuna's lock files outlive a killed holder and then block everybody for 30 seconds. And a last
line that a power cut or a full disk has torn makes Optuna's reader fail for ever, once another
line is appended to it. Here the kernel holds the lock, and whoever takes it cuts a torn line off
before anything is appended.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import sys
import threading
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

# Not exported by Optuna, and yet the declared type of `JournalFileBackend(lock_obj=...)`.
from optuna.storages.journal._file import BaseJournalFileLock

from prefect_optuna.blocks._json import encode

if sys.platform != "win32":
    import fcntl

__all__ = [
    "JournalFile",
    "MendingLock",
    "NotAJournalError",
    "PortableLock",
    "check_last_line",
    "damaged_line",
    "os_lock",
]

_logger = logging.getLogger(__name__)

_RECORD_START = b'{"op_code"'
# Not Optuna's ".lock": this file stays, and Optuna takes a file of that name for a held lock.
_SUFFIX = ".flock"


class NotAJournalError(ValueError):
    """The file has content, and the content is not an Optuna journal."""


class _OSLock(BaseJournalFileLock):
    """A lock of the operating system, which releases it when its holder dies.

    Each acquisition opens the file anew, so that threads and forked children exclude each other
    as processes do. A pickle, which travels to another process, holds nothing.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._path = f"{journal}{_SUFFIX}"
        self._held = threading.local()

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return type(self), (self._journal,)


class PortableLock(_OSLock):
    """By the `filelock` library, for systems without `fcntl`: it polls, and costs 0.1 ms."""

    def acquire(self) -> bool:
        from filelock import FileLock

        lock = FileLock(self._path)
        lock.acquire(poll_interval=0.001)
        self._held.lock = lock
        return True

    def release(self) -> None:
        self._held.lock.release()


if sys.platform != "win32":

    class KernelLock(_OSLock):
        """By `flock`, which waits in the kernel and costs a few microseconds."""

        def acquire(self) -> bool:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except BaseException:
                os.close(descriptor)
                raise
            self._held.descriptor = descriptor
            return True

        def release(self) -> None:
            # Unlock before closing: a child forked meanwhile has the file open too, and a lock
            # lasts until it is unlocked or everybody has closed it.
            fcntl.flock(self._held.descriptor, fcntl.LOCK_UN)
            os.close(self._held.descriptor)


def os_lock(path: Path) -> BaseJournalFileLock:
    """Return the operating system's lock for a journal."""
    return PortableLock(path) if sys.platform == "win32" else KernelLock(path)


class JournalFile(JournalFileBackend):
    """A journal file that takes attributes with arrays in them, and names those it cannot."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records; nothing of them is written if one cannot be."""
        try:
            super().append_logs(logs)
        except TypeError:
            super().append_logs([_plain(log) for log in logs])


def _plain(log: dict[str, Any]) -> dict[str, Any]:
    return {
        field: {name: json.loads(encode(one, name)) for name, one in value.items()}
        if field.startswith(("user_attr", "system_attr"))
        else json.loads(encode(value, field))
        for field, value in log.items()
    }


class MendingLock(BaseJournalFileLock):
    """Any lock, which mends the journal each time that it is taken.

    Everybody appends under the lock and ends with a newline. So whoever takes the lock and finds
    no newline at the end has found what is left of a crash, which nobody was told is stored.
    """

    def __init__(self, path: Path, lock: BaseJournalFileLock) -> None:
        self._path = path
        self._lock = lock

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _cut_torn_line(self._path)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _cut_torn_line(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size == 0:
            return
        os.lseek(descriptor, 0, os.SEEK_SET)
        head = os.read(descriptor, len(_RECORD_START))
        if not _RECORD_START.startswith(head):
            raise NotAJournalError(f"The file {path} begins with {head!r}.")
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) == b"\n":
            return
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
            whole = content.rfind(b"\n") + 1
        os.ftruncate(descriptor, whole)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    _logger.warning(
        "Cut an unfinished last line of %d bytes off the journal %s: its writer died or the disk "
        "was full before it was stored. All finished lines are kept.",
        size - whole,
        path,
    )


def check_last_line(path: Path) -> None:
    """Raise `ValueError` if the last line is no record: Optuna notices once another follows it."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                json.loads(content[content.rfind(b"\n", 0, len(content) - 1) + 1 :])


def damaged_line(path: Path) -> int | None:
    """Return the number of the first line that is no record, counted from 1."""
    with path.open("rb") as lines:
        return next((n for n, line in enumerate(lines, start=1) if not _is_json(line)), None)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
