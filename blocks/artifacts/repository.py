"""Artifacts with versions: logged under a name, found by number or time, never overwritten."""

from __future__ import annotations

import difflib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.artifacts.artifact import Artifact, decode, encode
from prefect_optuna.blocks.artifacts.pages import publish_artifact
from prefect_optuna.blocks.artifacts.records import (
    ArtifactVersion,
    ContentStore,
    Marks,
    VersionIndex,
    as_moment,
    directory_of,
    find_version,
    object_path,
    slug_of,
    with_marks,
)
from prefect_optuna.blocks.artifacts.registry import find_handler, handler_for
from prefect_optuna.blocks.locations import as_artifact_filesystem
from prefect_optuna.blocks.stores.protocol import checked_path
from prefect_optuna.errors import (
    ArtifactError,
    ArtifactLoadError,
    ArtifactLogError,
    CorruptArtifactError,
    InvalidSettingError,
    InvalidVersionError,
    OutputOnlyWarning,
    PathNotFoundError,
    ReadOnlyError,
    UnknownHandlerError,
    VersionNotFoundError,
)

# Garbage collection of artifacts, while others write and read.


@dataclass(frozen=True)
class Garbage:
    """Garbage that `ArtifactRepository.gc` has removed, or would remove.

    Attributes:
        dry_run: whether it has only been looked for.
        versions: the expired versions whose content goes. Their records stay, and their numbers
            are not used again.
        objects: the paths of the contents that nothing refers to any more.
        leftovers: the paths of what killed writers have left behind, below the root of the
            filesystem, and of the trash of killed runs of `gc`.

    Example:
        >>> from prefect_optuna.blocks import ArtifactRepository
        >>> repository = ArtifactRepository("memory://docs-garbage")
        >>> _ = repository.log("draft", "all wrong", "text")
        >>> _ = repository.expire("draft")
        >>> garbage = repository.gc()
        >>> garbage.dry_run, [version.name for version in garbage.versions], len(garbage.objects)
        (True, ['draft'], 1)
    """

    dry_run: bool
    versions: tuple[ArtifactVersion, ...]
    objects: tuple[str, ...]
    leftovers: tuple[str, ...]


def collect(
    filesystem: ArtifactFileSystem, index: VersionIndex, objects: ContentStore, *, dry_run: bool
) -> Garbage:
    """Find what is no longer needed, and unless it is a dry run, remove it."""
    now = datetime.now(UTC)
    expired = [v for v in _live(index) if v.expiry is not None and v.expiry <= now]
    if not dry_run:
        expired = [v for v in expired if _retire(index, v, now)]
    gone = {(v.name, v.version) for v in expired}

    def needed() -> set[str]:
        return {v.path for v in _live(index) if (v.name, v.version) not in gone}

    unneeded, abandoned = objects.collect(needed, dry_run=dry_run)
    leftovers = filesystem.sweep(dry_run=dry_run) + abandoned
    return Garbage(dry_run, tuple(expired), tuple(unneeded), tuple(leftovers))


def _live(index: VersionIndex) -> list[ArtifactVersion]:
    """List the versions whose content has not been removed."""
    versions: list[ArtifactVersion] = []
    for directory in index.directories():
        numbers = index.numbers(directory)
        marks = index.marks(directory, numbers)
        # The record of a version that is gone may be unreadable.
        there = [number for number in numbers if marks[number].removed_at is None]
        records = index.records(directory, there)
        versions += [with_marks(records[number], marks[number]) for number in there]
    return versions


def _retire(index: VersionIndex, version: ArtifactVersion, now: datetime) -> bool:
    """Mark the content of a version as removed, unless it has got a later expiry meanwhile."""

    def removed(marks: Marks) -> Marks | None:
        if marks.removed_at or marks.expiry is None or marks.expiry > now:
            return None
        return Marks(expiry=marks.expiry, removed_at=now)

    return index.mark(directory_of(version.name), version.version, removed) is not None


# Verification that every version is still what was logged.


@dataclass(frozen=True)
class VersionProblem:
    """A problem of one version.

    Attributes:
        name: of the artifact; of one whose record cannot be read, the name of its directory.
        version: its number.
        problem: what is wrong, for people.

    Example:
        >>> from prefect_optuna.blocks.artifacts.repository import VersionProblem
        >>> VersionProblem("model", 3, "the content is missing").version
        3
    """

    name: str
    version: int
    problem: str


@dataclass(frozen=True)
class Verification:
    """The findings of `ArtifactRepository.verify`.

    Attributes:
        ok: how many versions are what was logged.
        removed: of how many `gc` has removed the content.
        problems: what is wrong with the others.

    Example:
        >>> from prefect_optuna.blocks import ArtifactRepository
        >>> repository = ArtifactRepository("memory://docs-verification")
        >>> _ = repository.log("limits", [0, 1])
        >>> repository.verify()
        Verification(ok=1, removed=0, problems=())
    """

    ok: int
    removed: int
    problems: tuple[VersionProblem, ...]


def verify_all(index: VersionIndex, objects: ContentStore) -> Verification:
    """Read everything that the index names, and each content once."""
    ok = removed = 0
    problems: list[VersionProblem] = []
    contents: dict[str, str | None] = {}
    for directory in index.directories():
        numbers, name = index.numbers(directory), directory
        for number in range(max(numbers, default=-1) + 1):
            try:
                record = index.record(directory, number)
                name = record.name
                marks = index.marks(directory, [number])[number]
            except PathNotFoundError:
                problems.append(VersionProblem(name, number, "the record is missing"))
                continue
            except CorruptArtifactError as error:
                problems.append(VersionProblem(name, number, str(error)))
                continue
            if marks.removed_at is not None:
                removed += 1
                continue
            if record.path not in contents:
                contents[record.path] = objects.problem(record.path)
            if problem := contents[record.path]:
                problems.append(VersionProblem(name, number, problem))
            else:
                ok += 1
    return Verification(ok, removed, tuple(problems))


_TICK = timedelta(microseconds=1)
_MAX_VERSION = 1 << 53


class ArtifactRepository:
    """Keeps every version of artifacts, on any artifact filesystem.

    A version is there at once and as a whole when `log` returns, and is never changed. Any number
    of threads, processes and machines may log to one name at the same time: each gets a number of
    its own. What logging costs does not depend on how much is there. Identical content is stored
    once, and every read checks its SHA-256.

    Times are in UTC, and one without a zone is taken as UTC. Text without a fraction of a second
    means that whole second.

    Unlike lazyscribe's `Repository`, there is no `save`; the mode `"w"` overwrites nothing, but
    expects an empty place; and files are named after their content, so that two versions of one
    second, or names such as `a b` and `a-b`, do not share one.

    Args:
        filesystem: where: an `ArtifactFileSystem`, a path, a URL, the `"slug/name"` of a saved
            block, or `None` for the default, as `as_artifact_filesystem` takes them.
        prefix: a directory in it, for this repository alone.
        mode: `"w+"` to read and write, `"r"` to read only, `"w"` to begin in an empty place.

    Raises:
        InvalidSettingError: there is no such mode, or it is `"w"` and something is there.
        InvalidSettingError: `filesystem` is none of these, or the prefix is malformed or leads
            out of the root.

    Example:
        >>> from prefect_optuna.blocks import ArtifactRepository
        >>> repository = ArtifactRepository("memory://docs-repository")
        >>> first = repository.log("best params", {"x": 0.5})
        >>> second = repository.log("best params", {"x": 0.25})
        >>> repository.load("best params"), repository.load("best params", version=0)
        ({'x': 0.25}, {'x': 0.5})
        >>> repository.load("best params", asof=first.created_at)
        {'x': 0.5}
    """

    def __init__(
        self,
        filesystem: ArtifactFileSystem | str | Path | None = None,
        prefix: str = "",
        *,
        mode: Literal["r", "w", "w+"] = "w+",
    ) -> None:
        if mode not in ("r", "w", "w+"):
            raise InvalidSettingError(
                f"`mode` is 'r' to read, 'w' to begin in an empty place, or 'w+' to read and "
                f"write, found {mode!r}."
            )
        self.filesystem: ArtifactFileSystem = as_artifact_filesystem(filesystem)
        self.prefix: str = checked_path(prefix) if prefix else ""
        self.mode: Literal["r", "w", "w+"] = mode
        start = f"{self.prefix}/" if self.prefix else ""
        self._start = start
        self._index = VersionIndex(self.filesystem, start)
        self._objects = ContentStore(self.filesystem, start)
        self._pinned: Mapping[str, Sequence[int]] | None = None
        if mode == "w" and (files := self.filesystem.ls(self.prefix)):
            raise InvalidSettingError(
                f"The mode 'w' expects an empty place, and {self.location} has {len(files)} files "
                "and directories. Name another prefix, or add versions with the mode 'w+'."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r}, mode={self.mode!r})"

    def __contains__(self, name: object) -> bool:
        if self._pinned is not None:
            return name in self._pinned
        try:
            return isinstance(name, str) and self._index.exists(directory_of(name), 0)
        except InvalidSettingError:
            return False

    @property
    def location(self) -> str:
        """The repository's absolute path or URL, without secrets."""
        return self.filesystem.location(self.prefix)

    def log(
        self,
        name: str,
        value: Any,
        handler: str | type[Artifact] | None = None,
        *,
        fname: str | None = None,
        publish: bool | str = False,
        **writer_kwargs: Any,
    ) -> ArtifactVersion:
        """Add a version.

        Args:
            name: of the artifact. Every text without `..` or the like is one, up to 255 bytes.
            value: what to keep.
            handler: the alias or the class of the handler that writes it; by default the one for
                values of that type.
            fname: a name for downloaded copies; by default the name, the time and the suffix.
                Whatever it is, nothing is kept under it.
            publish: also show the version in Prefect's UI, where those of one name form a
                timeline; the name of a study puts it beside the study's report.
            **writer_kwargs: for the handler.

        Returns:
            The version, which is there now.

        Raises:
            ReadOnlyError: the repository was opened with the mode `"r"`.
            InvalidSettingError: this cannot be a name, or `fname` no name of a file.
            UnknownHandlerError: there is no such handler, or none for values of that type.
            ArtifactLogError: the handler cannot write the value.
            StorageUnavailableError: the filesystem failed. Whatever is raised, no version has
                been added.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-log")
            >>> repository.log("notes", "converged after 40 trials", "markdown").version
            0
        """
        self._check_writable()
        directory = directory_of(name)
        if fname is not None and "/" in checked_path(fname):
            raise InvalidSettingError(f"{fname!r} is no name of a file: it has a '/'.")
        chosen = _handler(handler, value)
        content = encode(chosen, value, **writer_kwargs)
        digest = sha256(content).hexdigest()
        now = datetime.now(UTC)
        artifact = chosen.construct(
            name,
            value,
            fname=fname or f"{slug_of(name)}-{now:%Y%m%d%H%M%S}.{chosen.suffix}",
            created_at=now,
            writer_kwargs=writer_kwargs,
        )
        record = ArtifactVersion(
            writer=os.urandom(8).hex(),
            name=name,
            version=0,
            created_at=now,
            handler=chosen.alias,
            fname=artifact.fname,
            suffix=chosen.suffix,
            sha256=digest,
            size=len(content),
            environment=_plain(artifact.environment()),
            path=self._path(digest, chosen.suffix),
        )
        if chosen.output_only:
            # Before anything is written: to some people a warning is an error.
            # Without the name, so that Python shows it once for a line that logs many.
            warnings.warn(
                f"What is logged as {chosen.alias!r} is for people to look at, and does not come "
                "back as the value that it was.",
                OutputOnlyWarning,
                stacklevel=2,
            )

        def build(number: int, previous: ArtifactVersion | None) -> ArtifactVersion:
            created_at = max(now, previous.created_at + _TICK) if previous else now
            return record.model_copy(update={"version": number, "created_at": created_at})

        version = self._append(directory, record, content, build)
        if publish:
            where = f"{self.filesystem.location()!r}, {self.prefix!r}"
            publish_artifact(
                publish if isinstance(publish, str) else None,
                name,
                value,
                chosen,
                content=content,
                version=version.version,
                location=self.filesystem.location(version.path),
                size=version.size,
                sha256=version.sha256,
                load_hint=f"ArtifactRepository({where}).load({name!r}, {version.version})",
            )
        return version

    def load(
        self,
        name: str,
        version: int | datetime | str | None = None,
        *,
        asof: datetime | str | None = None,
        validate: bool = True,
        **reader_kwargs: Any,
    ) -> Any:
        """Load a version; by default the newest that is not expired.

        Args:
            name: of the artifact.
            version: its number, or the time that it was made at. It may be expired.
            asof: a time, for the newest that was made until then and was not expired then.
            validate: refuse what was written in another environment, such as by another Python
                version where that matters. `False` tries it all the same.
            **reader_kwargs: for the handler.

        Returns:
            The value.

        Raises:
            VersionNotFoundError: there is none; says what there is.
            InvalidVersionError: `version` or `asof` is no version or time, or both are given.
            ArtifactLoadError: the environment is another, and the message says both; or the
                handler cannot read it.
            CorruptArtifactError: the content, or the record, is damaged or missing.
            UnknownHandlerError: the handler that has written it is not installed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-load")
            >>> for limit in 10, 20:
            ...     _ = repository.log("limit", limit)
            >>> repository.load("limit"), repository.load("limit", version=0)
            (20, 10)
        """
        record = self._find(name, version, asof)
        handler = find_handler(record.handler)
        if validate:
            _check_environment(handler, record)
        content = self._content(record)
        if handler.output_only:
            warnings.warn(
                f"The artifact {name!r} is loaded as it was written for people to look at by "
                f"{record.handler!r}, and not as the value that was logged.",
                OutputOnlyWarning,
                stacklevel=2,
            )
        try:
            return decode(handler, content, **reader_kwargs)
        except ArtifactLoadError as error:
            raise type(error)(
                f"Version {record.version} of {name!r} cannot be loaded. {error}"
            ) from error

    def names(self) -> list[str]:
        """The names of all artifacts, sorted.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-names")
            >>> _ = repository.log("b", 1), repository.log("A 1", 2)
            >>> repository.names(), "b" in repository
            (['A 1', 'b'], True)
        """
        if self._pinned is not None:
            return sorted(self._pinned)
        return sorted(self._index.record(directory, 0).name for directory in self._index.begun())

    def versions(self, name: str) -> list[ArtifactVersion]:
        """All versions of an artifact, the oldest first, expired ones included.

        Raises:
            VersionNotFoundError: there is no artifact of that name.
            CorruptArtifactError: a record is damaged.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-versions")
            >>> for limit in 10, 20:
            ...     _ = repository.log("limit", limit)
            >>> [version.version for version in repository.versions("limit")]
            [0, 1]
        """
        directory = directory_of(name)
        numbers = self._numbers(name, directory)
        records = self._index.records(directory, numbers)
        marks = self._index.marks(directory, numbers)
        return [with_marks(records[number], marks[number]) for number in numbers]

    def metadata(
        self,
        name: str,
        version: int | datetime | str | None = None,
        *,
        asof: datetime | str | None = None,
    ) -> dict[str, Any]:
        """Return what is known about a version, as a dictionary that JSON can hold.

        Args:
            name: of the artifact.
            version: as for `load`.
            asof: as for `load`.

        Returns:
            What `ArtifactVersion` has, with the fields of the environment beside the others.

        Raises:
            VersionNotFoundError: there is none; says what there is.
            InvalidVersionError: `version` or `asof` is no version or time, or both are given.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-metadata")
            >>> _ = repository.log("limit", 10)
            >>> metadata = repository.metadata("limit")
            >>> metadata["handler"], metadata["version"], metadata["expiry"]
            ('json', 0, None)
        """
        record = self._find(name, version, asof)
        return {
            **record.environment,
            "name": record.name,
            "version": record.version,
            "created_at": record.created_at.isoformat(),
            "expiry": record.expiry.isoformat() if record.expiry else None,
            "removed_at": record.removed_at.isoformat() if record.removed_at else None,
            "handler": record.handler,
            "fname": record.fname,
            "path": record.path,
            "sha256": record.sha256,
            "size": record.size,
            "promoted_from": record.promoted_from,
        }

    def diff(
        self,
        name: str,
        a: int | datetime | str,
        b: int | datetime | str | None = None,
    ) -> str:
        """Compare two versions of an artifact that is text.

        Args:
            name: of the artifact.
            a: the version to begin with, as for `load`.
            b: the version to end with; by default the newest that is not expired.

        Returns:
            A unified diff; empty if they are the same.

        Raises:
            ArtifactLoadError: one of the two is not text.
            VersionNotFoundError: there is none; says what there is.
            CorruptArtifactError: the content of one is damaged or missing.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-diff")
            >>> _ = repository.log("notes", "seed 1"), repository.log("notes", "seed 2")
            >>> print(repository.diff("notes", 0).partition("@@")[2])
             -1 +1 @@
            -seed 1
            +seed 2
        """
        records = [self._find(name, version, None) for version in (a, b)]
        lines: list[list[str]] = []
        for entry in records:
            if find_handler(entry.handler).binary:
                raise ArtifactLoadError(
                    f"Version {entry.version} of {name!r} is of the handler {entry.handler!r}, "
                    "whose files are binary, and only text has a diff. Load both, and compare "
                    "the values."
                )
            lines.append(self._content(entry).decode("utf-8", "replace").splitlines())
        old, new = (f"{name} (version {entry.version})" for entry in records)
        then, now = (entry.created_at.isoformat() for entry in records)
        return "\n".join(difflib.unified_diff(lines[0], lines[1], old, new, then, now, lineterm=""))

    def expire(
        self,
        name: str,
        version: int | datetime | str | None = None,
        *,
        asof: datetime | str | None = None,
        expiry: datetime | str | None = None,
    ) -> ArtifactVersion:
        """Say from when on a version is out of date.

        From then on it is no longer what `load` gives by default, and `gc` may remove its
        content. Until that has happened, it can be loaded by its number, and be given a later
        expiry.

        Args:
            name: of the artifact.
            version: as for `load`; by default the newest that is not expired.
            asof: as for `load`.
            expiry: from when on; by default from now on.

        Returns:
            The version, with its expiry.

        Raises:
            ReadOnlyError: the repository was opened with the mode `"r"`.
            VersionNotFoundError: there is none, or its content has been removed already.
            InvalidVersionError: `version`, `asof` or `expiry` is no version or time.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-expire")
            >>> for limit in 10, 20:
            ...     _ = repository.log("limit", limit)
            >>> repository.expire("limit").version, repository.load("limit")
            (1, 10)
        """
        self._check_writable()
        moment = datetime.now(UTC) if expiry is None else as_moment(expiry)
        record = self._find(name, version, asof)

        def expiring(marks: Marks) -> Marks:
            if marks.removed_at is not None:
                raise _removed(with_marks(record, marks))
            return Marks(expiry=moment)

        marks = self._index.mark(directory_of(name), record.version, expiring)
        return with_marks(record, marks)

    def promote(
        self,
        name: str,
        to_repository: ArtifactRepository,
        version: int | datetime | str | None = None,
    ) -> ArtifactVersion:
        """Copy a version to another repository, on whatever filesystem, as the newest one there.

        It keeps the time at which it was made, so that `asof` means the same in both, and gets
        the next number there. Its expiry is not copied.

        Args:
            name: of the artifact, in both.
            to_repository: where to.
            version: as for `load`; by default the newest that is not expired.

        Returns:
            The version in the other repository.

        Raises:
            ReadOnlyError: the other repository was opened with the mode `"r"`.
            VersionNotFoundError: there is no such version, or its content has been removed.
            ArtifactLogError: the newest version there has this content already, or was not made
                before this one.
            CorruptArtifactError: the content is damaged or missing.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> trying = ArtifactRepository("memory://docs-trying")
            >>> serving = ArtifactRepository("memory://docs-serving")
            >>> _ = trying.log("model", {"a": 1}), trying.log("model", {"a": 2})
            >>> trying.promote("model", serving).version, serving.load("model")
            (0, {'a': 2})
        """
        to_repository._check_writable()
        source_record = self._find(name, version, None)
        content = self._content(source_record)
        source = f"version {source_record.version} in {self.location}"
        record = source_record.model_copy(
            update={
                "writer": os.urandom(8).hex(),
                "promoted_from": source,
                "expiry": None,
                "path": to_repository._path(source_record.sha256, source_record.suffix),
            }
        )

        def build(number: int, previous: ArtifactVersion | None) -> ArtifactVersion:
            if previous is not None and previous.created_at >= source_record.created_at:
                same = previous.sha256 == source_record.sha256
                raise ArtifactLogError(
                    f"{name!r}, {source}, cannot be promoted: version {previous.version} in "
                    f"{to_repository.location}, the newest there, "
                    + ("is the same." if same else "is not older.")
                    + " Promote a version that was made after "
                    f"{previous.created_at.isoformat()}, or log the value there."
                )
            if previous is not None and previous.sha256 == source_record.sha256:
                raise ArtifactLogError(
                    f"{name!r}, {source}, cannot be promoted: version {previous.version} in "
                    f"{to_repository.location}, the newest there, has the same content."
                )
            return record.model_copy(update={"version": number})

        directory = directory_of(name)
        build(*to_repository._index.next(directory))  # before anything is written
        return to_repository._append(directory, record, content, build)

    def filter(
        self, version: datetime | str | Mapping[str, Any] | Sequence[tuple[str, Any]]
    ) -> Self:
        """A view of some versions, for reading only, that nobody can change by logging others.

        Unlike lazyscribe, whose repositories must have the mode `"r"` for this, and which finds
        nothing when it is given a tuple.

        Args:
            version: a time, for the version of each artifact that `load(name, asof=...)` gives,
                where there is one; or pairs of a name and a version, or a mapping of them.

        Returns:
            The view.

        Raises:
            VersionNotFoundError: a version that is named is not there.
            InvalidVersionError: this is neither a time nor pairs of names and versions.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-filter")
            >>> for limit in 10, 20, 30:
            ...     _ = repository.log("limit", limit)
            >>> repository.filter([("limit", 1)]).load("limit")
            20
        """
        pinned: dict[str, list[int]] = {}
        if isinstance(version, (datetime, str)):
            as_moment(version)
            for name in self.names():
                with suppress(VersionNotFoundError):
                    pinned[name] = [self._find(name, None, version).version]
        else:
            pairs = version.items() if isinstance(version, Mapping) else version
            for pair in pairs:
                name, wanted = _pair(pair)
                pinned.setdefault(name, []).append(self._find(name, wanted, None).version)
        view = type(self)(self.filesystem, self.prefix, mode="r")
        view._pinned = {name: sorted(set(numbers)) for name, numbers in pinned.items()}
        return view

    def verify(self) -> Verification:
        """Read everything, and compare each content with its SHA-256. Damage raises nothing.

        Returns:
            How many versions are sound, and what is wrong with the others.

        Raises:
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-verify")
            >>> _ = repository.log("limit", 10)
            >>> repository.verify().problems
            ()
        """
        return verify_all(VersionIndex(self.filesystem, self._start), self._objects)

    def gc(self, dry_run: bool = True) -> Garbage:
        """Remove what is no longer needed, or say what that would be.

        This is the content of expired versions, except where a version that is not expired has
        the same; content that no version has, because its writer was killed; and unfinished
        files older than an hour. The records of expired versions stay, so that numbers are not
        used again, and loading one says that it has been removed.

        It may run beside writers, readers, and other runs of itself. A run that is killed leaves
        nothing half done that readers would notice; a later one cleans up after it.

        Args:
            dry_run: only look, and change nothing.

        Returns:
            What has been removed, or would be.

        Raises:
            ReadOnlyError: it is no dry run, and the repository was opened with the mode `"r"`.
            CorruptArtifactError: a record cannot be read, so that nobody knows what it needs.
                No content has been removed.
            StorageUnavailableError: the filesystem failed.

        Example:
            >>> from prefect_optuna.blocks import ArtifactRepository
            >>> repository = ArtifactRepository("memory://docs-gc")
            >>> _ = repository.log("limit", 10), repository.expire("limit")
            >>> len(repository.gc().objects), len(repository.gc(dry_run=False).objects)
            (1, 1)
            >>> repository.gc().objects
            ()
        """
        if not dry_run:
            self._check_writable()
        return collect(self.filesystem, self._index, self._objects, dry_run=dry_run)

    def _check_writable(self) -> None:
        if self.mode == "r":
            raise ReadOnlyError(
                f"The repository {self.location} is open for reading only. Open it with the mode "
                "'w+' to change it."
            )

    def _numbers(self, name: str, directory: str, version: object = None) -> Sequence[int]:
        """The versions to look among; not all of them where one number is asked for."""
        if self._pinned is not None:
            numbers = self._pinned.get(name, ())
        elif (
            isinstance(version, int)
            and 0 <= version <= _MAX_VERSION
            and self._index.exists(directory, version)
        ):
            numbers = range(version + 1)
        else:
            numbers = range(self._index.newest(directory) + 1)
        if not numbers:
            raise self._unknown(name)
        return numbers

    def _unknown(self, name: str) -> VersionNotFoundError:
        names: list[str] = []
        with suppress(ArtifactError):
            names = self.names()
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "names() lists them."
        return VersionNotFoundError(
            f"There is no artifact {name!r} in {self.location}, but {len(names)} others; {hint}"
        )

    def _find(self, name: str, version: Any, asof: Any) -> ArtifactVersion:
        directory = directory_of(name)
        numbers = self._numbers(name, directory, version)
        return find_version(self._index, directory, name, numbers, version, asof)

    def _content(self, version: ArtifactVersion) -> bytes:
        if version.removed_at is None:
            try:
                return self._objects.read(version.path)
            except PathNotFoundError:
                directory = directory_of(version.name)
                marks = self._index.marks(directory, [version.version])[version.version]
                version = with_marks(version, marks)
        if version.removed_at is not None:
            raise _removed(version)
        raise CorruptArtifactError(
            f"{self.filesystem.location(version.path)} is missing: expected the content of version "
            f"{version.version} of {version.name!r}, {version.size} bytes with the SHA-256 "
            f"{version.sha256}. Put the file back from a copy of the repository, or log the same "
            "value again."
        )

    def _append(
        self,
        directory: str,
        record: ArtifactVersion,
        content: bytes,
        build: Callable[[int, ArtifactVersion | None], ArtifactVersion],
    ) -> ArtifactVersion:
        self._objects.put(record.path, content)
        version = self._index.append(directory, build)
        self._objects.keep(record.path, content)
        return with_marks(version)

    def _path(self, digest: str, suffix: str) -> str:
        return f"{self._start}{object_path(digest, suffix)}"


def _handler(handler: str | type[Artifact] | None, value: Any) -> type[Artifact]:
    if handler is None:
        return handler_for(value)
    if isinstance(handler, str):
        return find_handler(handler)
    if find_handler(handler.alias) is not handler:
        raise UnknownHandlerError(
            f"{handler.__qualname__} is not the handler that the alias {handler.alias!r} stands "
            "for, so what it writes could not be loaded again. Register it with "
            "register_handler, under an alias of its own."
        )
    return handler


def _plain(environment: Mapping[str, Any]) -> dict[str, Any]:
    """An environment as it comes back from a record."""
    return json.loads(json.dumps(environment, default=str)) if environment else {}


def _check_environment(handler: type[Artifact], found: ArtifactVersion) -> None:
    if not found.environment:
        return
    current = _plain(handler.current_environment(found.environment))
    if current != found.environment:
        raise ArtifactLoadError(
            f"Version {found.version} of {found.name!r} was written in the environment "
            f"{json.dumps(found.environment)}, and this one is {json.dumps(current)}. Load it in "
            "the former, or try it here with validate=False."
        )


def _removed(version: ArtifactVersion) -> VersionNotFoundError:
    expiry, removed_at = (
        moment.isoformat() if moment else "?" for moment in (version.expiry, version.removed_at)
    )
    return VersionNotFoundError(
        f"Version {version.version} of {version.name!r} expired at {expiry}, and its content was "
        f"removed at {removed_at}. It cannot be brought back: log the value again, as a new "
        "version."
    )


def _pair(pair: Any) -> tuple[str, Any]:
    if isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2:
        name, version = pair
        if isinstance(name, str):
            return name, version
    raise InvalidVersionError(
        f"Expected a time, or pairs of a name and a version such as [('model', 3)], found {pair!r}."
    )
