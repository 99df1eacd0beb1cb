"""Index of the versions that there are: it only grows, and needs no lock.

Below the prefix of a repository:

    versions/<name>/00000007.json        the record of version 7
    marks/<name>/00000007.0000.json      what was said about it later, at first
    marks/<name>/00000007.0001.json      and then
    marks/<name>/newest.json             a hint: a version that is not far from the newest

Records and marks are made with `create`, which has one winner, and never change; who loses looks
at what has come in between, and takes the next number. So the numbers have no gaps, and the
newest is found by asking whether some of them exist, which costs the same for ten versions as for
ten thousand: nothing is listed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from glob import escape
from hashlib import sha256
from typing import Any

from slugify import slugify

from prefect_optuna.blocks._artifact_paths import checked_path
from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.artifacts.objects import object_path
from prefect_optuna.blocks.artifacts.records import (
    ArtifactVersion,
    Marks,
    decode_marks,
    decode_record,
    encode_marks,
    encode_record,
)
from prefect_optuna.errors import (
    ArtifactNotFoundError,
    CorruptArtifactError,
    InvalidLocationError,
    StorageUnavailableError,
)

_MAX_NAME = 255  # bytes
_HINT_EVERY = 16
_FEW = 4  # marks that are asked for one by one; more are listed
_CACHED_RECORDS = 4096

# Such names are directories as they are. Among them are none that some systems take for equal,
# none that Windows keeps for its devices, and none that it cannot write.
_PLAIN = re.compile(
    r"(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$))[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9_-])?"
)
_NUMBER = re.compile(r"(\d{8,})\.json")
_MARK = re.compile(r"(\d{8,})\.(\d{4,})\.json")


@lru_cache(maxsize=1024)
def slug_of(name: str) -> str:
    """A name, made readable and harmless; other names may have the same."""
    return slugify(name, max_length=48) or "artifact"


@lru_cache(maxsize=1024)
def directory_of(name: str) -> str:
    """The directory of a name; no two names share one, whatever the filesystem takes for equal."""
    checked_path(name)
    if len(name.encode()) > _MAX_NAME:
        raise InvalidLocationError(
            f"{name[:40]!r}... is no name for an artifact: it has {len(name.encode())} bytes, and "
            f"at most {_MAX_NAME} are expected."
        )
    if _PLAIN.fullmatch(name):
        return name
    return f"{slug_of(name)}~{sha256(name.encode()).hexdigest()[:16]}"


class VersionIndex:
    """The records and marks of a repository, by directory and number."""

    def __init__(self, filesystem: ArtifactFileSystem, prefix: str) -> None:
        self._filesystem = filesystem
        self._prefix = prefix
        self._newest: dict[str, int] = {}
        self._records: dict[tuple[str, int], ArtifactVersion] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_records": {}}

    def directories(self) -> list[str]:
        """The directories of all names, sorted."""
        start = f"{self._prefix}versions"
        return [path[len(start) + 1 :] for path in self._filesystem.ls(start)]

    def begun(self) -> list[str]:
        """The directories that have a version."""
        pattern = f"{escape(self._prefix)}versions/*/{0:08d}.json"
        return [path.rsplit("/", 2)[1] for path in self._filesystem.glob(pattern)]

    def numbers(self, directory: str) -> list[int]:
        """List the versions that have a record: slow, but it sees gaps."""
        names = self._filesystem.ls(f"{self._prefix}versions/{directory}")
        matches = (_NUMBER.fullmatch(path.rpartition("/")[2]) for path in names)
        return sorted(int(match[1]) for match in matches if match)

    def exists(self, directory: str, number: int) -> bool:
        """Say whether there is such a version."""
        return (directory, number) in self._records or self._filesystem.exists(
            self._path(directory, number)
        )

    def newest(self, directory: str) -> int:
        """Return the number of the newest version; -1 if there is none."""
        low = self._newest.get(directory)
        if low is None:
            low = self._hinted(directory)
        low = _last(lambda number: self.exists(directory, number), low)
        if low >= 0:
            self._newest[directory] = low
        return low

    def next(self, directory: str) -> tuple[int, ArtifactVersion | None]:
        """The number of the next version, as far as known, and the version before that."""
        newest = self._newest.get(directory)
        if newest is None:
            newest = self.newest(directory)
        previous = None
        if newest >= 0:
            # Damage to one version does not keep people from logging the next.
            with suppress(CorruptArtifactError):
                previous = self.record(directory, newest)
        return newest + 1, previous

    def append(
        self, directory: str, build: Callable[[int, ArtifactVersion | None], ArtifactVersion]
    ) -> ArtifactVersion:
        """Add a version."""
        number, previous = self.next(directory)
        while True:
            record = build(number, previous)
            path = self._path(directory, record.version)
            # A create that was repeated after a lost answer finds its own record.
            if self._filesystem.create(path, encode_record(record)) or self._is_written_by(record):
                break
            self.newest(directory)
            number, previous = self.next(directory)
        self._newest[directory] = record.version
        self._remember(directory, record)
        if record.version % _HINT_EVERY == 0 and record.version:
            # The version is there already, whether or not this works.
            with suppress(StorageUnavailableError):
                self._filesystem.write_path(
                    self._hint_path(directory), json.dumps({"version": record.version}).encode()
                )
        return record

    def marks(self, directory: str, numbers: Sequence[int]) -> dict[int, Marks]:
        """Return the latest marks of some versions."""
        return {n: marks for n, (_, marks) in self._last_marks(directory, numbers).items()}

    def mark(
        self, directory: str, number: int, change: Callable[[Marks], Marks | None]
    ) -> Marks | None:
        """Say something about a version."""
        while True:
            last, marks = self._last_marks(directory, [number])[number]
            if (changed := change(marks)) is None:
                return None
            path = self._mark_path(directory, number, last + 1)
            if self._filesystem.create(path, encode_marks(changed)):
                return changed

    def _last_marks(self, directory: str, numbers: Sequence[int]) -> dict[int, tuple[int, Marks]]:
        if len(numbers) > _FEW:
            last = self._listed_marks(directory)
        else:
            last = {n: self._last_mark(directory, n) for n in numbers}
        paths = {n: self._mark_path(directory, n, last[n]) for n in numbers if last.get(n, -1) >= 0}
        contents = self._filesystem.read_many(paths.values()) if paths else {}
        return {
            n: (last[n], decode_marks(contents[paths[n]], self._filesystem.location(paths[n])))
            if n in paths
            else (-1, Marks())
            for n in numbers
        }

    def _last_mark(self, directory: str, number: int) -> int:
        return _last(lambda mark: self._filesystem.exists(self._mark_path(directory, number, mark)))

    def _listed_marks(self, directory: str) -> dict[int, int]:
        last: dict[int, int] = {}
        for path in self._filesystem.ls(f"{self._prefix}marks/{directory}"):
            if match := _MARK.fullmatch(path.rpartition("/")[2]):
                number, mark = int(match[1]), int(match[2])
                last[number] = max(mark, last.get(number, -1))
        return last

    def record(self, directory: str, number: int) -> ArtifactVersion:
        """The record of a version, without marks."""
        return self.records(directory, (number,))[number]

    def records(self, directory: str, numbers: Sequence[int]) -> dict[int, ArtifactVersion]:
        """The records of some versions, without marks. Raises what `record` raises."""
        cached, records, paths = self._records, dict[int, ArtifactVersion](), dict[str, int]()
        for number in numbers:
            if (record := cached.get((directory, number))) is not None:
                records[number] = record
            else:
                paths[self._path(directory, number)] = number
        if paths:
            for path, content in self._filesystem.read_many(paths).items():
                number = paths[path]
                records[number] = self._decoded(content, path, directory, number)
                self._remember(directory, records[number])
        return records

    def _decoded(self, content: bytes, path: str, directory: str, number: int) -> ArtifactVersion:
        place = self._filesystem.location(path)
        record = decode_record(content, place)
        if not _is_of(record, directory, number):
            raise CorruptArtifactError(
                f"{place} is the record of version {record.version} of {record.name!r}, which "
                "belongs elsewhere. Put the right file back from a copy of the repository."
            )
        path = f"{self._prefix}{object_path(record.sha256, record.suffix)}"
        return record.model_copy(update={"path": path})

    def _remember(self, directory: str, record: ArtifactVersion) -> None:
        if len(self._records) >= _CACHED_RECORDS:
            self._records.clear()
        self._records[directory, record.version] = record

    def _is_written_by(self, record: ArtifactVersion) -> bool:
        with suppress(CorruptArtifactError):
            return self.record(directory_of(record.name), record.version).writer == record.writer
        return False

    def _hinted(self, directory: str) -> int:
        try:
            hint = json.loads(self._filesystem.read_path(self._hint_path(directory)))["version"]
        except (ArtifactNotFoundError, ValueError, TypeError, KeyError):
            return -1
        return hint if isinstance(hint, int) and self.exists(directory, hint) else -1

    def _hint_path(self, directory: str) -> str:
        return f"{self._prefix}marks/{directory}/newest.json"

    def _path(self, directory: str, number: int) -> str:
        return f"{self._prefix}versions/{directory}/{number:08d}.json"

    def _mark_path(self, directory: str, number: int, mark: int) -> str:
        return f"{self._prefix}marks/{directory}/{number:08d}.{mark:04d}.json"


def _last(exists: Callable[[int], bool], low: int = -1) -> int:
    """The last number that exists, if all up to it do; `low` is one, or the one before 0."""
    step = 1
    while exists(low + step):
        low, step = low + step, step * 2
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        if exists(middle):
            low = middle
        else:
            high = middle
    return low


def _is_of(record: ArtifactVersion, directory: str, number: int) -> bool:
    with suppress(InvalidLocationError):
        return directory_of(record.name) == directory and record.version == number
    return False


def with_marks(record: ArtifactVersion, marks: Marks | None = None) -> ArtifactVersion:
    """Return a copy of a record with its marks, so that changing it spoils no cached one."""
    marks = marks or Marks()
    return record.model_copy(
        update={
            "expiry": marks.expiry,
            "removed_at": marks.removed_at,
            "environment": dict(record.environment),
        }
    )
