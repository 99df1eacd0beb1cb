"""A study with its archive on its way: from a storage and a filesystem to others.

It keeps the UUID that it has, and with it its signatures. Its trials keep the paths of their files:
where another copy of the study has a different file at a path, the file goes beside it, and readers
find it by its digest.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    StudyMismatchError,
    StudyStorage,
)
from prefect_optuna.blocks._inert_pickles import without_pickled_state
from prefect_optuna.blocks.study_identity import (
    OWNERS,
    UUID_ATTRIBUTE,
    claim_folder,
    uuid_of,
)
from prefect_optuna.tasks.archive.blobs import (
    beside_path,
    blob_path,
    needed_blobs,
    read_blob,
    read_verified,
)
from prefect_optuna.tasks.archive.manifest import BACKUP_CONTEXT

__all__ = ["Parcel", "pack", "unpack"]

_UNFINISHED = "prefect_optuna:unfinished_copy"  # a system attribute of a study that is being made
_UPLOADS = "optuna"  # where the block puts what Optuna's own upload_artifact stores
_UPLOAD = "artifacts:"  # begins the system attribute that describes one of those


@dataclass(frozen=True)
class Parcel:
    """A study, its trials, and the files of its archive.

    Attributes:
        name: of the study.
        directions: of the study.
        user_attrs: of the study.
        system_attrs: of the study.
        trials: all of them, in order.
        uuid: of the archive; `None` if the study has none.
        files: the paths of the files, relative to the root of the artifacts.
        read: reads and verifies one of them.
        home: where the files are; empty if that is no artifact filesystem.
    """

    name: str
    directions: Sequence[StudyDirection]
    user_attrs: Mapping[str, Any]
    system_attrs: Mapping[str, Any]
    trials: Sequence[FrozenTrial]
    uuid: str | None
    files: Sequence[str]
    read: Callable[[str], bytes]
    home: str = ""


def pack(study: optuna.Study, artifacts: ArtifactFileSystem) -> Parcel:
    """Gather what belongs to a study. Files are read later, when they are needed.

    Args:
        study: the study.
        artifacts: where its archive is.

    Raises:
        ArchiveError: a file that the study refers to is missing.
    """
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = storage.get_study_id_from_name(study.study_name)
    trials = study.get_trials(deepcopy=False)
    system_attrs = storage.get_study_system_attrs(study_id)
    uuid = uuid_of(storage, study_id)
    digests = dict(_references(trials))
    files: set[str] = set()
    if uuid is not None:
        folder = f"studies/{uuid}"
        owners = f"{folder}/{OWNERS}/"
        files = {path for path in artifacts.glob(f"{folder}/**") if not path.startswith(owners)}
        blobs = {blob_path(digest): digest for digest in needed_blobs(artifacts, folder)}
        files |= blobs.keys()
        for path, digest in digests.items():
            if path not in files:
                read_verified(artifacts, path, digest, f"the file {path} of a trial")
    else:
        blobs = {}
    files |= {path for path in _uploads(system_attrs, trials) if artifacts.exists(path)}

    def read(path: str) -> bytes:
        if path in blobs:
            return read_blob(artifacts, blobs[path], "a blob that the study needs")
        if path in digests:
            return read_verified(artifacts, path, digests[path], "the file of a trial")
        return artifacts.read_path(path)

    return Parcel(
        study.study_name,
        study.directions,
        study.user_attrs,
        system_attrs,
        trials,
        uuid,
        sorted(files),
        read,
        artifacts.location(),
    )


def unpack(
    parcel: Parcel, storage: StudyStorage, artifacts: ArtifactFileSystem, study_name: str
) -> None:
    """Make a study of a parcel: all of it, or none.

    What a killed process has left half made is made anew by the next one with that name.

    Args:
        parcel: the study.
        storage: where it goes.
        artifacts: where its files go.
        study_name: its name there.

    Raises:
        StudyMismatchError: there is a study of that name.
        ArchiveError: a file is missing or damaged, or another file is in its place.
        StorageUnavailableError: the storage or the filesystem failed.
    """
    _make_room(storage, study_name)
    study = storage.create_study(study_name, directions=list(parcel.directions))
    made: list[str] = []
    try:
        _fill(study, parcel, artifacts, made)
    except BaseException:
        # Blobs stay: another study may have come to need them. `collect_garbage` finds them.
        for path in made:
            if not path.startswith("blobs/"):
                with contextlib.suppress(Exception):
                    artifacts.rm(path)
        optuna.delete_study(study_name=study_name, storage=storage.get_storage())
        raise


def _fill(
    study: optuna.Study, parcel: Parcel, artifacts: ArtifactFileSystem, made: list[str]
) -> None:
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = storage.get_study_id_from_name(study.study_name)
    storage.set_study_system_attr(study_id, _UNFINISHED, True)
    if parcel.uuid is not None:
        # The study, then its folder, then what it needs: else `collect_garbage` takes it for left.
        storage.set_study_system_attr(study_id, UUID_ATTRIBUTE, parcel.uuid)
        claim_folder(study, artifacts)
    if parcel.home != artifacts.location():
        references = dict(_references(parcel.trials))
        for path in sorted(parcel.files, key=lambda path: "/needs/" not in path):
            _place(path, parcel.read(path), path in references, artifacts, made)
    for trial in parcel.trials:
        storage.create_new_trial(study_id, template_trial=without_pickled_state(trial))
    for name, value in parcel.system_attrs.items():
        if name not in (_UNFINISHED, UUID_ATTRIBUTE):
            storage.set_study_system_attr(study_id, name, value)
    # The manifest comes last: with it, the archive is there.
    for name, value in sorted(
        parcel.user_attrs.items(), key=lambda item: item[0] == BACKUP_CONTEXT
    ):
        storage.set_study_user_attr(study_id, name, value)
    storage.set_study_system_attr(study_id, _UNFINISHED, False)


def _place(
    path: str, content: bytes, referred: bool, artifacts: ArtifactFileSystem, made: list[str]
) -> None:
    if artifacts.create(path, content):
        made.append(path)
        return
    digest = sha256(content).hexdigest()
    if artifacts.sha256(path) == digest or path.endswith("/best.png"):
        return  # of the best trial there is one picture, that of the study that is there
    if not referred:
        raise ArchiveError(
            f"{artifacts.location(path)} is of another copy of this study, which has gone its own "
            "way since. Name other artifacts for this one: artifacts=..., or to_artifacts=..."
        )
    beside = beside_path(path, digest)
    if artifacts.create(beside, content):
        made.append(beside)


def _make_room(storage: StudyStorage, study_name: str) -> None:
    """Refuse to touch a study that exists, unless it was left half made."""
    found = storage.get_storage()
    if study_name not in storage.study_names():
        return
    study_id = found.get_study_id_from_name(study_name)
    if not found.get_study_system_attrs(study_id).get(_UNFINISHED):
        raise StudyMismatchError(
            f"There is a study {study_name!r} in {storage.location} already. Take another name: "
            "study_name=..., or to_study_name=..."
        )
    optuna.delete_study(study_name=study_name, storage=found)


def _references(trials: Sequence[FrozenTrial]) -> Iterator[tuple[str, str]]:
    """The path and the digest of each file that an attribute of a trial refers to."""
    for trial in trials:
        for value in trial.user_attrs.values():
            if isinstance(value, Mapping) and isinstance(value.get("sha256"), str):
                path = value.get("path")
                if isinstance(path, str):
                    yield path, value["sha256"]


def _uploads(study_attrs: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> Iterator[str]:
    """The paths of what Optuna's own `upload_artifact` has stored."""
    for attributes in (study_attrs, *(trial.system_attrs for trial in trials)):
        for name, value in attributes.items():
            if name.startswith(_UPLOAD):
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    yield f"{_UPLOADS}/{json.loads(value)['artifact_id']}"
