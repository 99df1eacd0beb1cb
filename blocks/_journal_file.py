"""Keeps a journal file whole when its writers crash.

Optuna's lock files outlive a killed holder and then block everybody for 30 seconds. And a last
line that a power cut or a full disk has torn makes Optuna's reader fail for ever, once another
line is appended to it. Here the kernel holds the lock, and whoever takes it cuts a torn line off
before anything is appended.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO

# Not exported by Optuna, and yet the declared type of `JournalFileBackend(lock_obj=...)`.
from optuna.storages.journal._file import BaseJournalFileLock

from prefect_optuna.errors import StorageFormatError

# Writes or sends what has been waiting too long, from a thread of its own.


_EVERY = 0.02  # seconds
_IDLE_ROUNDS = 50


class Flusher:
    """Calls a function again and again, from the first `wake` until there is nothing to do.

    The thread ends by itself after a second without work, so that it keeps nothing alive.

    Example:
        >>> from prefect_optuna.blocks._journal_file import Flusher
        >>> flusher = Flusher(lambda: False, "idle")
        >>> flusher.wake()
        >>> flusher.close()
    """

    def __init__(self, flush: Callable[[], bool], name: str) -> None:
        self._flush = flush
        self._name = name
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.running: bool = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Start the thread, if it does not run; cheap if it does."""
        if self.running:
            return
        with self._lock:
            if not self.running and not self._ended.is_set():
                self.running = True
                self._thread = threading.Thread(
                    target=self._work, name=f"{self._name} flusher", daemon=True
                )
                self._thread.start()

    def _work(self) -> None:
        idle = 0
        while not self._ended.wait(_EVERY):
            idle = 0 if self._flush() else idle + 1
            if idle > _IDLE_ROUNDS:
                with self._lock:
                    # A writer that has added something since then finds it running, or wakes it.
                    self.running = False
                if not self._flush():
                    return
                with self._lock:
                    if self.running:
                        return  # another one has been started
                    self.running, idle = True, 0

    def close(self) -> None:
        """End the thread, and never start it again."""
        with self._lock:
            self._ended.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()


if sys.platform != "win32":
    import fcntl

_logger = logging.getLogger(__name__)

_RECORD_START = b'{"op_code"'
# Not Optuna's ".lock": this file stays, and Optuna takes a file of that name for a held lock.
_SUFFIX = ".flock"
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_CHUNK = 1 << 23  # bytes that are read at once
_REMEMBERED = 128  # bytes, which have a time or a writer in them


class ReplacedError(Exception):
    """The file is not the one that was read until now."""


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
    """A lock by the `filelock` library, for systems without `fcntl`: polls, and costs 0.1 ms."""

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
        """Lock by `flock`, which waits in the kernel and costs a few microseconds."""

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


class JournalFile:
    """A journal that is read on from where the last reading ended, and appended to.

    Its user lets one thread at a time in, and holds the lock while it calls `append` and `mend`.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self._name = str(path)
        self.rewind()

    def rewind(self) -> None:
        """Read everything again, from the first line on."""
        self.read_to: int = 0
        """Bytes, up to the end of a line."""
        self.last: bytes = b""
        """The last ones of them, to be found there again."""
        self.torn: bool = False
        """True while the last line that was found has no end yet."""
        self._place: int | None = None

    def news(self) -> bool:
        """Tell cheaply whether there is something that has not been read."""
        status = os.stat(self._name)  # noqa: PTH116 (a microsecond, at every call of a storage)
        if status.st_size == self.read_to and status.st_ino == self._place:
            self.torn = False
            return False
        if self._place is None:
            self._place = status.st_ino
        if status.st_ino != self._place or status.st_size < self.read_to:
            raise ReplacedError
        return True

    def read(self) -> Generator[list[Any]]:
        """Read the records that others have finished since, many at a time."""
        with self.path.open("rb") as file:
            if self.read_to == 0:
                _check_head(self.path, file.read(len(_RECORD_START)))
            if not _ends_so(file, self.read_to, self.last):
                raise ReplacedError
            rest = b""
            while chunk := file.read(_CHUNK):
                lines, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline:
                    self.last = lines[-_REMEMBERED:] + newline
                    self.read_to += len(lines) + 1
                    yield records_of(lines)
            self.torn = bool(rest)

    def ends_so(self, read_to: int, last: bytes) -> bool:
        """Tell whether these are its last bytes up to a place, which is the end of a line."""
        with self.path.open("rb") as file:
            return last.endswith(b"\n") and _ends_so(file, read_to, last)

    def mend(self) -> None:
        """Cut off a last line without an end, once everything before it has been read.

        Everybody appends under the lock and ends with a newline. So whoever holds the lock and
        finds no newline at the end has found what is left of a crash, which nobody was told is
        stored.
        """
        descriptor = os.open(self.path, os.O_WRONLY | _BINARY)
        try:
            size = os.fstat(descriptor).st_size
            os.ftruncate(descriptor, self.read_to)
            os.fsync(descriptor)
            self.torn = False
        finally:
            os.close(descriptor)
        _logger.warning(
            "Cut an unfinished last line of %d bytes off the journal %s: its writer died or the "
            "disk was full before it was stored. All finished lines are kept.",
            size - self.read_to,
            self.path,
        )

    def append(self, line: str) -> int:
        """Append a record, once everything before it has been read: all of it, or nothing."""
        content = memoryview(f"{line}\n".encode())
        descriptor = os.open(self._name, os.O_WRONLY | os.O_APPEND | _BINARY)
        try:
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
        except BaseException as error:
            if isinstance(error, OSError):
                # The disk is full. Nobody has read a part of a line.
                os.ftruncate(descriptor, self.read_to)
            os.close(descriptor)
            raise
        self.read_to += written
        self.last = bytes(content[-_REMEMBERED:])
        return descriptor


def _ends_so(file: BinaryIO, read_to: int, last: bytes) -> bool:
    file.seek(read_to - len(last))
    return file.read(len(last)) == last


def _check_head(path: Path, head: bytes) -> None:
    if not _RECORD_START.startswith(head):
        raise StorageFormatError(f"The file {path} begins with {head!r}.")


def records_of(lines: bytes) -> list[Any]:
    """Parse lines of JSON."""
    # One call of the parser for all lines: a third of the time, and each name is made once.
    records = json.loads(b"[" + lines.replace(b"\n", b",") + b"]")
    if len(records) != lines.count(b"\n") + 1:
        raise ValueError("expected one record on each line.")
    return records


def damaged_line(path: Path) -> int | None:
    """Return the number of the first line that is no record, counted from 1."""
    with path.open("rb") as lines:
        return next((n for n, line in enumerate(lines, start=1) if not _is_json(line)), None)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
