"""The contents: files that are named after what is in them.

    objects/<first two hex>/<sha256>.<suffix>
    trash/<run>/<sha256>.<suffix>             what a run of `gc` is about to remove
    trash/<run>/started

Identical content is stored once, two contents never collide, and damage shows on reading.

Writers and `gc` need no lock. A writer makes the object, then the record, and then looks whether
the object is still there. `gc` moves an object to its trash, and then looks whether there is a
record now; if so it moves it back. Each does its own thing first and looks afterwards, so at
least one of them sees the other, and what `log` has returned is never lost. A reader that comes in
between finds the object in the trash. Only a writer that is killed in just this moment can leave
a record, of a version that it has not returned, whose content is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from glob import escape
from hashlib import sha256

from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.errors import (
    ArtifactNotFoundError,
    CorruptArtifactError,
    StorageUnavailableError,
)

# Seconds to wait before looking for an object again: it may be on its way to the trash and back,
# or its writer, who has the record already, may be about to make it again.
_PAUSES = (0.0, 0.05, 0.2)
_STARTED = "started"

# After this long a run moves nothing more to its trash, and others take it for dead.
_LONGEST_RUN = timedelta(hours=1)


def object_path(digest: str, suffix: str) -> str:
    """Return the path of a digest's content, relative to the prefix."""
    return f"objects/{digest[:2]}/{digest}.{suffix}"


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _digest_in(path: str) -> str:
    return _name(path).partition(".")[0]


class ContentStore:
    """Files that are named after their content, by path relative to the root of the filesystem."""

    def __init__(
        self,
        filesystem: ArtifactFileSystem,
        prefix: str,
        folder: str = "objects",
        trash: str = "trash",
    ) -> None:
        self._filesystem = filesystem
        self._folder = f"{prefix}{folder}"
        self._trash = f"{prefix}{trash}"

    def put(self, path: str, content: bytes) -> None:
        """Make an object, or replace a damaged one."""
        if not self._filesystem.create(path, content) and not self._is_sound(path):
            self._filesystem.write_path(path, content)

    def keep(self, path: str, content: bytes) -> None:
        """Make an object again that `gc` has taken away before its record was there."""
        # The record is there already: what cannot be looked at now was there a moment ago.
        with suppress(StorageUnavailableError):
            if not self._filesystem.exists(path):
                self._filesystem.create(path, content)

    def read(self, path: str) -> bytes:
        """Read an object."""
        content = self.content(path)
        expected, actual = _digest_in(path), sha256(content).hexdigest()
        if actual != expected:
            raise CorruptArtifactError(
                f"{self._filesystem.location(path)} is damaged or cut off: expected content with "
                f"the SHA-256 {expected}, found {len(content)} bytes with {actual}. Put the file "
                "back from a copy of the repository, or log the same value again."
            )
        return content

    def problem(self, path: str) -> str | None:
        """Describe what is wrong with an object, read in pieces; `None` if it is sound."""
        for place in self._places(path):
            try:
                digest = self._filesystem.sha256(place)
            except ArtifactNotFoundError:
                continue
            if digest != _digest_in(path):
                return f"the content is damaged or cut off: it has the SHA-256 {digest}"
            return None
        return "the content is missing"

    def listed(self) -> list[str]:
        """The paths of all objects, sorted."""
        return self._filesystem.glob(f"{escape(self._folder)}/*/*")

    def collect(
        self, needed: Callable[[], Container[str]], *, dry_run: bool
    ) -> tuple[list[str], list[str]]:
        """Remove the objects that are not needed, beside whoever makes them."""
        if dry_run:
            run, started = "", datetime.now(UTC)
        else:
            run, started = self.open_run()
        try:
            # In this order, what is made later is not looked at, or is needed.
            there, abandoned = self.listed(), self.abandoned(started - _LONGEST_RUN)
            wanted = needed()
            unneeded = [path for path in there if path not in wanted]
            if not dry_run:
                for other in abandoned:
                    self.close_run(other, wanted)
                unneeded = self._remove(unneeded, run, needed)
        except BaseException:
            if not dry_run:
                self.close_run(run, ())
            raise
        return unneeded, [path for paths in abandoned.values() for path in paths]

    def remove(self, paths: list[str], needed: Callable[[], Container[str]]) -> None:
        """Remove these objects, unless they are needed, beside whoever makes them."""
        self._remove(paths, self.open_run()[0], needed)

    def _remove(
        self, paths: list[str], run: str, needed: Callable[[], Container[str]]
    ) -> list[str]:
        """Remove objects, except those that somebody refers to meanwhile."""
        begun = time.time()
        wanted: Container[str] = set(paths)  # until more is known, everything goes back
        thrown: list[str] = []
        try:
            for path in paths:
                if time.time() - begun > _LONGEST_RUN.total_seconds():
                    break
                self.throw(path, run)
                thrown.append(path)
            wanted = needed()
        finally:
            self.close_run(run, wanted)
        return [path for path in thrown if path not in wanted]

    def open_run(self) -> tuple[str, datetime]:
        """Make a trash for one run of `gc`, and say what time it is by the filesystem's clock."""
        run = os.urandom(12).hex()
        started = self._thrown(_STARTED, run)
        self._filesystem.create(started, b"")
        return run, self._filesystem.info(started).modified

    def throw(self, path: str, run: str) -> None:
        """Move an object to a trash; nothing happens if it is gone."""
        with suppress(ArtifactNotFoundError):
            self._filesystem.copy(path, self._thrown(path, run))
            self._filesystem.rm(path)

    def close_run(self, run: str, needed: Container[str]) -> None:
        """Move back from a trash what is needed, and remove the rest with it."""
        start = f"{self._trash}/{run}"
        for thrown in self._filesystem.ls(start):
            path = self._path(thrown)
            if path in needed and not self._filesystem.exists(path):
                self._filesystem.copy(thrown, path)
        with suppress(ArtifactNotFoundError):
            self._filesystem.rm(start, recursive=True)

    def abandoned(self, before: datetime) -> dict[str, list[str]]:
        """List what unfinished runs that began before a time have left in the trash, by run."""
        trashed: dict[str, list[str]] = {}
        for start in self._filesystem.ls(self._trash):
            run = _name(start)
            try:
                if self._filesystem.info(self._thrown(_STARTED, run)).modified >= before:
                    continue
            except ArtifactNotFoundError:
                pass  # it is being removed, and nothing in it is needed
            trashed[run] = self._filesystem.ls(start)
        return trashed

    def _thrown(self, path: str, run: str) -> str:
        return f"{self._trash}/{run}/{_name(path)}"

    def _path(self, thrown: str) -> str:
        name = _name(thrown)
        return f"{self._folder}/{name[:2]}/{name}"

    def _is_sound(self, path: str) -> bool:
        try:
            return self._filesystem.sha256(path) == _digest_in(path)
        except ArtifactNotFoundError:
            return False

    def content(self, path: str) -> bytes:
        """Read an object, wherever it is, without looking whether it is sound."""
        for place in self._places(path):
            with suppress(ArtifactNotFoundError):
                return self._filesystem.read_path(place)
        return self._filesystem.read_path(path)

    def _places(self, path: str) -> Iterator[str]:
        """Yield the places where an object may be."""
        for pause in _PAUSES:
            time.sleep(pause)
            yield path
            yield from self._filesystem.glob(f"{escape(self._trash)}/*/{_name(path)}")
