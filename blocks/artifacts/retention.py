"""Garbage collection of artifacts, while others write and read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.artifacts.index import VersionIndex, directory_of, with_marks
from prefect_optuna.blocks.artifacts.objects import ContentStore
from prefect_optuna.blocks.artifacts.records import ArtifactVersion, Marks


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
