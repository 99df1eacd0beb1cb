"""Records of artifact versions: contents, index, and the look-up of one.

A record is one small JSON file. What comes later, an expiry and that the content has been removed,
is in files of its own, the marks.
"""

from __future__ import annotations

import json
import operator
import os
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from glob import escape
from hashlib import sha256
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from slugify import slugify

from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.stores.protocol import checked_path
from prefect_optuna.errors import (
    CorruptArtifactError,
    InvalidSettingError,
    InvalidVersionError,
    PathNotFoundError,
    StorageUnavailableError,
    VersionNotFoundError,
)

# The contents: files that are named after what is in them.
#
#     objects/<first two hex>/<sha256>.<suffix>
#     trash/<run>/<sha256>.<suffix>             what a run of `gc` is about to remove
#     trash/<run>/started
#
# Identical content is stored once, two contents never collide, and damage shows on reading.
#
# Writers and `gc` need no lock. A writer makes the object, then the record, and then looks
# whether the object is still there. `gc` moves an object to its trash, and then looks whether
# there is a record now; if so it moves it back. Each does its own thing first and looks
# afterwards, so at least one of them sees the other, and what `log` has returned is never lost. A
# reader that comes in between finds the object in the trash. Only a writer that is killed in just
# this moment can leave a record, of a version that it has not returned, whose content is gone.


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
            except PathNotFoundError:
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
        with suppress(PathNotFoundError):
            self._filesystem.copy(path, self._thrown(path, run))
            self._filesystem.rm(path)

    def close_run(self, run: str, needed: Container[str]) -> None:
        """Move back from a trash what is needed, and remove the rest with it."""
        start = f"{self._trash}/{run}"
        for thrown in self._filesystem.ls(start):
            path = self._path(thrown)
            if path in needed and not self._filesystem.exists(path):
                self._filesystem.copy(thrown, path)
        with suppress(PathNotFoundError):
            self._filesystem.rm(start, recursive=True)

    def abandoned(self, before: datetime) -> dict[str, list[str]]:
        """List what unfinished runs that began before a time have left in the trash, by run."""
        trashed: dict[str, list[str]] = {}
        for start in self._filesystem.ls(self._trash):
            run = _name(start)
            try:
                if self._filesystem.info(self._thrown(_STARTED, run)).modified >= before:
                    continue
            except PathNotFoundError:
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
        except PathNotFoundError:
            return False

    def content(self, path: str) -> bytes:
        """Read an object, wherever it is, without looking whether it is sound."""
        for place in self._places(path):
            with suppress(PathNotFoundError):
                return self._filesystem.read_path(place)
        return self._filesystem.read_path(path)

    def _places(self, path: str) -> Iterator[str]:
        """Yield the places where an object may be."""
        for pause in _PAUSES:
            time.sleep(pause)
            yield path
            yield from self._filesystem.glob(f"{escape(self._trash)}/*/{_name(path)}")


_FORMAT = 1


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


_Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class ArtifactVersion(BaseModel):
    """One version of an artifact, as an `ArtifactRepository` describes it. It cannot be changed.

    Attributes:
        name: the name that the artifact was logged under.
        version: its number: 0, 1, 2 and so on for each name, without gaps.
        created_at: when it was logged, in UTC, to the microsecond. Later versions of a name have
            later times, even when the clock was put back.
        handler: the alias of the handler that has written it.
        fname: a name for a downloaded copy. Nothing is kept under it.
        suffix: the ending of its file, without the dot.
        sha256: the SHA-256 digest of its content, as 64 hexadecimal digits.
        size: the size of its content, in bytes.
        environment: what reading it depends on, such as a Python version, as it was then.
        promoted_from: the place that `promote` has copied it from; `None` if it was logged here.
        path: where its content is, relative to the root of the filesystem.
        expiry: from when on it is out of date, in UTC; `None` for never.
        removed_at: when `gc` has removed its content, in UTC; `None` if it is there.

    Example:
        >>> from prefect_optuna.blocks import ArtifactRepository
        >>> logged = ArtifactRepository("memory://docs-record").log("limits", [0, 1])
        >>> logged.version, logged.handler, logged.size, logged.expiry
        (0, 'json', 6, None)
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, populate_by_name=True)

    record_format: int = Field(default=_FORMAT, alias="format", repr=False)
    # Tells two writers apart who log the same content at the same time.
    writer: str = Field(repr=False)
    name: str
    version: int = Field(ge=0)
    created_at: _Moment
    handler: str
    fname: str
    # The file's path is made of these two, and a record may have been tampered with.
    suffix: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    environment: dict[str, Any]
    promoted_from: str | None = None
    path: str = Field(default="", exclude=True)
    expiry: _Moment | None = Field(default=None, exclude=True)
    removed_at: _Moment | None = Field(default=None, exclude=True)

    @property
    def dirty(self) -> bool:
        """False: `log` writes at once, so that nothing is left to be written."""
        return False


def encode_record(record: ArtifactVersion) -> bytes:
    """The content of a record's file."""
    return record.model_dump_json(by_alias=True).encode()


def decode_record(content: bytes, place: str) -> ArtifactVersion:
    """Read the content of a record's file."""
    try:
        record = ArtifactVersion.model_validate_json(content)
    except ValidationError as error:
        raise CorruptArtifactError(
            f"{place} is damaged or cut off: expected the record of a version, found "
            f"{len(content)} bytes that are none ({_reasons(error)}). Put the file back from a "
            "copy of the repository."
        ) from error
    if record.record_format > _FORMAT:
        raise CorruptArtifactError(
            f"{place} is a record of format {record.record_format}, and this version reads up to "
            f"{_FORMAT}: pip install --upgrade prefect-optuna."
        )
    return record


class Marks(BaseModel):
    """Marks that people and `gc` have put on a version after it was logged."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    expiry: _Moment | None = None
    removed_at: _Moment | None = None


def encode_marks(marks: Marks) -> bytes:
    """The content of a file of marks."""
    return marks.model_dump_json().encode()


def decode_marks(content: bytes, place: str) -> Marks:
    """Read the content of a file of marks."""
    try:
        return Marks.model_validate_json(content)
    except ValidationError as error:
        raise CorruptArtifactError(
            f"{place} is damaged or cut off: expected the times from which on a version is out of "
            f"date and removed ({_reasons(error)}). Put the file back from a copy of the "
            "repository, or delete it and set the expiry again."
        ) from error


def _reasons(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)
    return "; ".join(": ".join([*map(str, detail["loc"]), detail["msg"]]) for detail in details[:3])


# Index of the versions that there are: it only grows, and needs no lock.
#
# Below the prefix of a repository:
#
#     versions/<name>/00000007.json        the record of version 7
#     marks/<name>/00000007.0000.json      what was said about it later, at first
#     marks/<name>/00000007.0001.json      and then
#     marks/<name>/newest.json             a hint: a version that is not far from the newest
#
# Records and marks are made with `create`, which has one winner, and never change; who loses
# looks at what has come in between, and takes the next number. So the numbers have no gaps, and
# the newest is found by asking whether some of them exist, which costs the same for ten versions
# as for ten thousand: nothing is listed.


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
        raise InvalidSettingError(
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
        except (PathNotFoundError, ValueError, TypeError, KeyError):
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
    with suppress(InvalidSettingError):
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


# Lookup of a version: by its number, by the time it was made, or as of a time.


_EXPECTED = (
    "Expected a number, such as 3, or a time: a datetime, or text such as '2025-01-25T12:36:22'."
)


def as_moment(value: Any) -> datetime:
    """Turn a `datetime` or its text into a moment in UTC; one without a zone is taken as UTC."""
    return _span(value)[0]


def find_version(
    index: VersionIndex,
    directory: str,
    name: str,
    numbers: Sequence[int],
    version: Any,
    asof: Any,
) -> ArtifactVersion:
    """Find the version that is meant, with its marks."""
    if version is not None and asof is not None:
        raise InvalidVersionError(
            f"Expected one of `version` and `asof`, found both: {version!r} and {asof!r}."
        )
    if asof is not None:
        return _current(index, directory, name, numbers, _span(asof)[1], asof=True)
    if version is None:
        now = datetime.now(UTC)
        return _current(index, directory, name, numbers, now, asof=False)
    if isinstance(version, (datetime, str)):
        number = _made_at(index, directory, name, numbers, version)
    else:
        number = _as_number(version)
        if number not in numbers:
            raise VersionNotFoundError(
                f"There is no version {number} of {name!r}, only {_list(numbers)}."
            )
    return with_marks(index.record(directory, number), index.marks(directory, [number])[number])


def _as_number(version: Any) -> int:
    try:
        if isinstance(version, bool):
            raise TypeError
        return operator.index(version)
    except TypeError:
        raise InvalidVersionError(f"{version!r} is no version. {_EXPECTED}") from None


def _current(
    index: VersionIndex,
    directory: str,
    name: str,
    numbers: Sequence[int],
    moment: datetime,
    *,
    asof: bool,
) -> ArtifactVersion:
    """The newest version that was there at a moment and not out of date then."""
    if asof:
        end = bisect_right(numbers, moment, key=lambda n: index.record(directory, n).created_at)
        if end == 0:
            first = index.record(directory, numbers[0]).created_at
            raise VersionNotFoundError(
                f"As of {moment.isoformat()} there was no version of {name!r} yet; the first, "
                f"{numbers[0]}, was made at {first.isoformat()}."
            )
        numbers = numbers[:end]
    end, step = len(numbers), 1
    while end > 0:
        batch = numbers[max(0, end - step) : end]
        marks = index.marks(directory, batch)
        for number in reversed(batch):
            expiry = marks[number].expiry
            if expiry is None or moment < expiry:
                return with_marks(index.record(directory, number), marks[number])
        end, step = end - len(batch), step * 4
    raise VersionNotFoundError(
        f"All versions of {name!r} are expired as of {moment.isoformat()}: {_list(numbers)}. Name "
        "one by its number to load it all the same, or set a later time with `expire`."
    )


def _made_at(
    index: VersionIndex,
    directory: str,
    name: str,
    numbers: Sequence[int],
    version: datetime | str,
) -> int:
    first, last = _span(version)

    def created_at(number: int) -> datetime:
        return index.record(directory, number).created_at

    made = numbers[
        bisect_left(numbers, first, key=created_at) : bisect_right(numbers, last, key=created_at)
    ]
    if len(made) == 1:
        return made[0]
    if made:
        raise VersionNotFoundError(
            f"{len(made)} versions of {name!r} were made in the second {version}: {_list(made)}. "
            "Name one by its number, or by its time to the microsecond."
        )
    raise VersionNotFoundError(
        f"No version of {name!r} was made at {first.isoformat()}. There are {_list(numbers)}, made "
        f"from {created_at(numbers[0]).isoformat()} to {created_at(numbers[-1]).isoformat()}; "
        "`asof` finds the one that was the newest at some time."
    )


def _span(value: Any) -> tuple[datetime, datetime]:
    """The first and the last microsecond that are meant: text without a fraction means a second."""
    if isinstance(value, str):
        text = value.strip()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidVersionError(f"{value!r} is no time. {_EXPECTED}") from None
        whole_second = "." not in text and "," not in text
    elif isinstance(value, datetime):
        moment, whole_second = value, False
    else:
        raise InvalidVersionError(f"{value!r} is no time. {_EXPECTED}")
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return moment, moment + timedelta(microseconds=999_999 if whole_second else 0)
    except OverflowError:
        raise InvalidVersionError(f"{value!r} is too far away. {_EXPECTED}") from None


def _list(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"version {numbers[0]}"
    if len(numbers) == numbers[-1] - numbers[0] + 1:
        return f"versions {numbers[0]} to {numbers[-1]}"
    return f"versions {', '.join(map(str, numbers))}"
