"""Garbage of deleted studies on the artifact filesystem: found, and removed when asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    ArtifactRepository,
    InvalidSettingError,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks.artifacts.records import ArtifactVersion
from prefect_optuna.blocks.study_storage import OWNERS, storage_identity, uuid_of
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.errors import PathNotFoundError
from prefect_optuna.tasks.archive.series.blobs import blob_store, needed_paths

Storage = StudyStorage | str | Path | None


@dataclass(frozen=True)
class DeletedStudy:
    """A study that is no longer in its storage, and has left its folder behind.

    Attributes:
        name: of the study; of the first one where copies shared the folder.
        folder: below the root of the artifacts.
        files: how many files are in it.
        size: how many bytes they have.
    """

    name: str
    folder: str
    files: int
    size: int


@dataclass(frozen=True)
class StudyGarbage:
    """Garbage that `collect_garbage` has removed, or would remove.

    Attributes:
        dry_run: whether it has only been looked for.
        studies: the deleted studies whose folders go.
        blobs: the digests of captured code, values and environments that no study needs.
        versions: the expired artifacts of the other studies, whose content goes.
        objects: the paths of contents that no artifact of the other studies has.
        leftovers: the paths of what killed writers have left behind.
    """

    dry_run: bool
    studies: tuple[DeletedStudy, ...] = ()
    blobs: tuple[str, ...] = ()
    versions: tuple[ArtifactVersion, ...] = ()
    objects: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"  study {study.name!r} in {study.folder}: {study.files} files, {study.size:,} bytes"
            for study in self.studies
        ]
        lines += [f"  version {v.version} of {v.name!r}, expired" for v in self.versions]
        for count, what in (
            (len(self.blobs), "blobs of code and values"),
            (len(self.objects), "contents of artifacts"),
            (len(self.leftovers), "files of killed writers"),
        ):
            if count:
                lines.append(f"  {count} {what} that nobody needs")
        if not lines:
            return "There is no garbage."
        head = "Would be removed, by dry_run=False:" if self.dry_run else "Removed:"
        return "\n".join(map(visible_line, [head, *lines]))


def collect_garbage(
    artifacts: ArtifactFileSystem | str | Path | None = None,
    storage: Storage | Sequence[Storage] = None,
    *,
    dry_run: bool = True,
) -> StudyGarbage:
    """Remove what deleted studies and expired artifacts have left, or say what that would be.

    A folder goes when the storages here are all that it has ever belonged to, and none of them
    has its study any more. Give all storages at once where studies have been copied from one to
    another. What is not known to belong to one of them stays, and so do the artifacts of Optuna's
    own `upload_artifact`.

    It may run beside studies that are running, and beside itself.

    Args:
        artifacts: where the archive is: a block, `"slug/name"`, a path or a URL; by default
            where `optimize` puts it.
        storage: where its studies are, or several such places; by default where `optimize` puts
            them.
        dry_run: only look, and change nothing.

    Returns:
        What has been removed, or would be. `print` it.

    Raises:
        InvalidSettingError: a storage is in memory, or is one that cannot be told from others.
        StorageUnavailableError: a storage or the filesystem failed.
        ArchiveError: a file that says what a study needs is damaged. No blob has been removed.

    Example:
        >>> from prefect_optuna.tasks import collect_garbage
        >>> print(collect_garbage("memory://docs-garbage", "journal:///docs.journal"))
        There is no garbage.
    """
    filesystem = as_artifact_filesystem(artifacts)
    given = (
        [storage]
        if storage is None or isinstance(storage, (StudyStorage, str, Path))
        else [*storage]
    )
    # In this order: a study is in its storage before it has a folder.
    folders = filesystem.ls("studies")
    alive, known = _alive([as_study_storage(place) for place in given])
    deleted = [study for folder in folders if (study := _deleted(filesystem, folder, alive, known))]
    gone = {study.folder for study in deleted}
    versions: list[ArtifactVersion] = []
    objects: list[str] = []
    for folder in folders:
        if folder not in gone and filesystem.ls(f"{folder}/artifacts"):
            garbage = ArtifactRepository(filesystem, f"{folder}/artifacts").gc(dry_run)
            versions += garbage.versions
            objects += garbage.objects
    if not dry_run:
        for study in deleted:
            _remove(filesystem, study.folder)
    blobs, leftovers = _unneeded_blobs(filesystem, gone, dry_run=dry_run)
    leftovers += filesystem.sweep(dry_run=dry_run)
    return StudyGarbage(
        dry_run, tuple(deleted), tuple(blobs), tuple(versions), tuple(objects), tuple(leftovers)
    )


def delete_study(
    study_name: str,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    storage: Storage = None,
) -> DeletedStudy | None:
    """Delete a study, and its archive.

    Code and values that it shares with other studies stay; `collect_garbage` finds what is left.

    Args:
        study_name: the study.
        artifacts: where its archive is, as `optimize` takes it.
        storage: where it is kept, as `optimize` takes it.

    Returns:
        What has gone of the archive; `None` where it had none, or one that a study of another
        storage may need.

    Raises:
        StudyNotFoundError: there is no such study.
        StorageUnavailableError: the storage or the filesystem failed.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks import delete_study
        >>> _ = optuna.create_study(storage="sqlite:///docs.db", study_name="gone")
        >>> print(delete_study("gone", "memory://docs-garbage", "sqlite:///docs.db"))
        None
    """
    filesystem, block = as_artifact_filesystem(artifacts), as_study_storage(storage)
    study = block.load_study(study_name)
    kept = block.get_storage()
    study_id = kept.get_study_id_from_name(study.study_name)
    uuid, identity = uuid_of(kept, study_id), storage_identity(kept)
    kept.delete_study(study_id)
    if uuid is None or identity is None or f"studies/{uuid}" not in filesystem.ls("studies"):
        return None
    alive, _ = _alive([block])  # a copy in the same storage
    gone = _deleted(filesystem, f"studies/{uuid}", alive, {identity})
    if gone is not None:
        _remove(filesystem, gone.folder)
    return gone


def _alive(blocks: Sequence[StudyStorage]) -> tuple[set[str], set[str]]:
    """The UUIDs of the studies that there are, and the identities of the storages."""
    alive: set[str] = set()
    known: set[str] = set()
    for block in blocks:
        storage = block.get_storage()
        identity = storage_identity(storage)
        if identity is None:
            raise InvalidSettingError(
                f"Which studies of {block.location} have been deleted cannot be said, for it is "
                "in memory or behind a proxy. Name the storage where they are kept."
            )
        known.add(identity)
        ids = [
            storage.get_study_id_from_name(study.study_name) for study in storage.get_all_studies()
        ]
        uuids = (uuid_of(storage, study_id) for study_id in ids)
        alive |= {uuid for uuid in uuids if uuid is not None}
    return alive, known


def _deleted(
    filesystem: ArtifactFileSystem, folder: str, alive: set[str], known: set[str]
) -> DeletedStudy | None:
    if folder.rpartition("/")[2] in alive:
        return None
    try:
        owners = [
            json.loads(content)
            for content in filesystem.read_many(filesystem.ls(f"{folder}/{OWNERS}")).values()
        ]
        if not owners or {owner["storage"] for owner in owners} - known:
            return None
    except (PathNotFoundError, ValueError, TypeError, KeyError):
        return None  # whose it is cannot be said, so it stays
    files = [filesystem.info(path) for path in filesystem.glob(f"{folder}/**")]
    return DeletedStudy(
        owners[0]["study_name"], folder, len(files), sum(file.size for file in files)
    )


def _remove(filesystem: ArtifactFileSystem, folder: str) -> None:
    # The owners last: if this is interrupted, the next run still knows whose the folder is.
    for path in filesystem.ls(folder):
        if path != f"{folder}/{OWNERS}":
            filesystem.rm(path, recursive=True)
    filesystem.rm(folder, recursive=True)


def _unneeded_blobs(
    filesystem: ArtifactFileSystem, gone: set[str], *, dry_run: bool
) -> tuple[list[str], list[str]]:
    unneeded, abandoned = blob_store(filesystem).collect(
        lambda: needed_paths(filesystem, gone), dry_run=dry_run
    )
    return [path.rpartition("/")[2] for path in unneeded], abandoned
