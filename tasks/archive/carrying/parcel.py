"""A study with its archive on its way: from a storage and a filesystem to others.

It keeps the UUID that it has, and with it its signatures. Its trials keep the paths of their files:
where another copy of the study has a different file at a path, the file goes beside it, and readers
find it by its digest.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    PrefectOptunaError,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks._inert_pickles import without_pickled_state
from prefect_optuna.blocks._secrets import error_words
from prefect_optuna.blocks.study_identity import (
    OWNERS,
    UUID_ATTRIBUTE,
    owner_file,
    storage_identity,
    uuid_of,
)
from prefect_optuna.errors import ArtifactNotFoundError, StudyMismatchError
from prefect_optuna.tasks.archive.record.manifest import BACKUP_CONTEXT, manifest_of
from prefect_optuna.tasks.archive.series.blobs import (
    beside_path,
    blob_path,
    blob_store,
    needed_blobs,
    needed_paths,
    read_blob,
    read_verified,
)
from prefect_optuna.tasks.archive.series.packs import file_references, packed

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
    """Gather what belongs to a study. Files are read later, when they are needed."""
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = storage.get_study_id_from_name(study.study_name)
    trials = study.get_trials(deepcopy=False)
    system_attrs = storage.get_study_system_attrs(study_id)
    uuid = uuid_of(storage, study_id)
    digests = file_references(trials)
    files: set[str] = set()
    if uuid is not None:
        folder = f"studies/{uuid}"
        left = (f"{folder}/{OWNERS}/", f"{folder}/packs/")
        files = {path for path in artifacts.glob(f"{folder}/**") if not path.startswith(left)}
        blobs = {blob_path(digest): digest for digest in needed_blobs(artifacts, folder)}
        files |= blobs.keys()
        for path, digest in digests.items():
            if path not in files:
                read_verified(artifacts, path, digest, f"the file {path} of a trial")
                files.add(path)  # it is in a pack
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


def verify(parcel: Parcel) -> None:
    """Read all files of a study, and look whether all is there that its parts name."""
    manifest = manifest_of(parcel.name, parcel.user_attrs)
    digests: dict[str, str] = {}
    listed: set[str] = set()
    for path in parcel.files:
        content = parcel.read(path)
        digests[path] = sha256(content).hexdigest()
        if path.startswith(f"studies/{parcel.uuid}/needs/"):
            listed |= {blob_path(digest) for digest in json.loads(content)}
    there = {path for path in parcel.files if path.startswith("blobs/")}
    named: set[str] = set()
    for version in manifest.versions if manifest else ():
        code = blob_path(version.code_version)
        named |= {code, blob_path(version.environment)}
        if code in there:
            named |= {blob_path(digest) for digest in _values_of(parcel.read(code))}
    if missing := sorted((listed | named) - there):
        raise ArchiveError(
            f"The study {parcel.name!r} is incomplete: the file {missing[0]}, which its code, "
            "values or environments are in, is missing. Bring it back from a copy."
        )
    if unlisted := sorted((there | named) - listed):
        raise ArchiveError(
            f"The study {parcel.name!r} is incomplete: no list of what it needs, in needs/, names "
            f"the file {unlisted[0]}. Bring it back from a copy."
        )
    for path, digest in file_references(parcel.trials).items():
        places = (path, beside_path(path, digest))
        own = path.startswith(f"studies/{parcel.uuid}/")  # another study's may be named as well
        if own and digest not in [digests.get(place) for place in places]:
            raise ArchiveError(
                f"The study {parcel.name!r} is incomplete: the file {path}, which a trial names, "
                "is missing, or is another one. Bring it back from a copy."
            )


def _values_of(code: bytes) -> list[str]:
    """The digests of the blobs that a captured problem has values in."""
    try:
        return list(json.loads(code)["blobs"])
    except (ValueError, TypeError, LookupError):
        raise ArchiveError(
            "The manifest names a file as captured code that is none. Bring it back from a copy."
        ) from None


@contextlib.contextmanager
def unpacked(
    parcel: Parcel, storage: StudyStorage, artifacts: ArtifactFileSystem, study_name: str
) -> Generator[None]:
    """Make a study of a parcel, which stays if the block ends well: all of it, or none.

    What a killed process has left half made is made anew by the next one with that name.
    """
    _make_room(storage, study_name)
    folder = f"studies/{parcel.uuid}"
    is_new = parcel.uuid is not None and not artifacts.ls(folder)
    made: list[str] = []
    study = None
    try:
        with _kept(storage):
            study = storage.create_study(study_name, directions=list(parcel.directions))
            _fill(study, parcel, artifacts, made)
        yield
        _mark(study, unfinished=False)
    except DuplicatedStudyError:
        raise StudyMismatchError(_is_there(storage, study_name)) from None
    except BaseException as error:
        undo: list[Callable[[], None]] = [
            lambda: _delete(storage, study_name, is_ours=study is not None),
            lambda: _remove(artifacts, made, folder if is_new else ""),
        ]
        for step in undo:
            try:
                step()
            except Exception as problem:  # noqa: BLE001 - the first error is the one that counts
                error.add_note(
                    "Not all that was made could be removed again; the same call once more makes "
                    f"it anew, and collect_garbage finds what is left: {type(problem).__name__}"
                )
        raise


@contextlib.contextmanager
def _kept(storage: StudyStorage) -> Generator[None]:
    """Explain that a study has something which the storage cannot keep, or Optuna does not have."""
    try:
        yield
    except PrefectOptunaError:
        raise
    except (ValueError, TypeError, ArithmeticError, StorageInternalError) as error:
        raise ArchiveError(
            f"The study has something that {storage.location} cannot keep "
            f"({error_words(error)}). Take another storage; nothing has been made."
        ) from None


def _delete(storage: StudyStorage, study_name: str, *, is_ours: bool) -> None:
    """Remove the study that was being made, if it came so far."""
    if study_name not in storage.study_names():
        return
    backend = storage.get_storage()
    study_id = backend.get_study_id_from_name(study_name)
    # The very call that makes it may have been cut short: it is empty then.
    if is_ours or not (backend.get_study_system_attrs(study_id) or backend.get_n_trials(study_id)):
        optuna.delete_study(study_name=study_name, storage=backend)


def _remove(artifacts: ArtifactFileSystem, made: Sequence[str], folder: str) -> None:
    """Remove the files that were made, and the study's folder, if it was made as well."""
    for path in made:
        if not path.startswith("blobs/"):
            with contextlib.suppress(ArtifactNotFoundError):
                artifacts.rm(path)
    if folder and not artifacts.glob(f"{folder}/**"):
        with contextlib.suppress(ArtifactNotFoundError):
            artifacts.rm(folder, recursive=True)
    # Another study may have come to need one of the blobs.
    if blobs := [path for path in made if path.startswith("blobs/")]:
        blob_store(artifacts).remove(blobs, lambda: needed_paths(artifacts))


def refuse_claimed(
    parcel: Parcel, storage: StudyStorage, artifacts: ArtifactFileSystem, study_name: str
) -> None:
    """Refuse a study of a stranger that says it is one which has its folder here already.

    A copy of that very study, under another name, may share the folder: it adds nothing to it.
    """
    manifest = parcel.user_attrs.get(BACKUP_CONTEXT)
    claimed = manifest.get("uuid") if isinstance(manifest, Mapping) else None
    if parcel.uuid is None or claimed != parcel.uuid:
        raise ArchiveError(
            f"The study {parcel.name!r} has one UUID in its index and another in its manifest, so "
            "that it is no export as ArchivedStudy.export writes it. Nothing has been imported."
        )
    here = storage_identity(storage.get_storage())
    names = storage.study_names()
    paths = artifacts.ls(f"studies/{parcel.uuid}/{OWNERS}")
    for content in artifacts.read_many(paths).values():
        try:
            owner = json.loads(content)
            name, place = owner["study_name"], owner["storage"]
        except (ValueError, TypeError, KeyError):
            name, place = "of somebody", ""
        own = place == here and name == study_name  # `unpacked` refuses one that is still there
        is_gone = place == here is not None and name not in names
        if not own and not is_gone and (path := _added(parcel, artifacts)):
            raise ArchiveError(
                f"The file says that it is the study {name!r}, whose files are in "
                f"{artifacts.location(f'studies/{parcel.uuid}')}, and would add {path} to them; it "
                "may come from anybody. Import it to other artifacts: artifacts=...; a study of "
                "your own is copied by copy_study. Nothing has been imported."
            )


def _added(parcel: Parcel, artifacts: ArtifactFileSystem) -> str | None:
    """A file that is not there yet, or is another one; `None` for a copy of what is here."""
    for path in parcel.files:
        if not artifacts.exists(path):
            same = packed(artifacts, path, sha256(parcel.read(path)).hexdigest()) is not None
        else:  # the name of a blob is the digest of its content
            same = path.startswith("blobs/") or artifacts.read_path(path) == parcel.read(path)
        if not same:
            return path
    return None


def _fill(
    study: optuna.Study, parcel: Parcel, artifacts: ArtifactFileSystem, made: list[str]
) -> None:
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = storage.get_study_id_from_name(study.study_name)
    _mark(study, unfinished=True)
    if parcel.uuid is not None:
        # The study, then its folder, then what it needs: else `collect_garbage` takes it for left.
        storage.set_study_system_attr(study_id, UUID_ATTRIBUTE, parcel.uuid)
        _create(*owner_file(study), artifacts, made)
    if parcel.home != artifacts.location():
        references = file_references(parcel.trials)
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


def _mark(study: optuna.Study, *, unfinished: bool) -> None:
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = storage.get_study_id_from_name(study.study_name)
    storage.set_study_system_attr(study_id, _UNFINISHED, unfinished)


def _create(path: str, content: bytes, artifacts: ArtifactFileSystem, made: list[str]) -> bool:
    """Make a file, and record that it is ours before it is there: the call may be cut short."""
    if artifacts.exists(path):
        return False
    made.append(path)
    if artifacts.create(path, content):
        return True
    made.remove(path)  # another process was faster
    return False


def _place(
    path: str, content: bytes, referred: bool, artifacts: ArtifactFileSystem, made: list[str]
) -> None:
    if _create(path, content, artifacts, made):
        return
    digest = sha256(content).hexdigest()
    if artifacts.sha256(path) == digest or path.endswith("/best.png"):
        return  # of the best trial there is one picture, that of the study that is there
    if not referred:
        raise ArchiveError(
            f"{artifacts.location(path)} is of another copy of this study, which has gone its own "
            "way since. Name other artifacts for this one: artifacts=..., or to_artifacts=..."
        )
    _create(beside_path(path, digest), content, artifacts, made)


def _make_room(storage: StudyStorage, study_name: str) -> None:
    """Refuse to touch a study that exists, unless it was left half made."""
    backend = storage.get_storage()
    if study_name not in storage.study_names():
        return
    study_id = backend.get_study_id_from_name(study_name)
    if not backend.get_study_system_attrs(study_id).get(_UNFINISHED):
        raise StudyMismatchError(_is_there(storage, study_name))
    optuna.delete_study(study_name=study_name, storage=backend)


def _is_there(storage: StudyStorage, study_name: str) -> str:
    return (
        f"There is a study {study_name!r} in {storage.location} already. Take another name: "
        "study_name=..., or to_study_name=..."
    )


def _uploads(study_attrs: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> Iterator[str]:
    """The paths of what Optuna's own `upload_artifact` has stored."""
    for attributes in (study_attrs, *(trial.system_attrs for trial in trials)):
        for name, value in attributes.items():
            if name.startswith(_UPLOAD):
                with contextlib.suppress(ValueError, TypeError, KeyError):
                    yield f"{_UPLOADS}/{json.loads(value)['artifact_id']}"


def copy_study(
    *,
    from_study_name: str,
    from_storage: StudyStorage | str | Path | None = None,
    to_storage: StudyStorage | str | Path | None = None,
    to_study_name: str | None = None,
    from_artifacts: ArtifactFileSystem | str | Path | None = None,
    to_artifacts: ArtifactFileSystem | str | Path | None = None,
) -> None:
    """Copy a study with its archive, between any two storages and artifact filesystems.

    Unlike `optuna.copy_study`, it takes along the files: code, values, results, and what
    `log_artifact` and Optuna's `upload_artifact` have stored. Signatures hold for the copy as well.
    Either the copy is complete, or there is none. Only the state of CMA-ES, which Optuna keeps as
    pickles in attributes of trials, stays behind: CMA-ES finds it again from the trials.

    Args:
        from_study_name: the study.
        from_storage: where it is; what `optimize` takes, with its default.
        to_storage: where it goes, likewise.
        to_study_name: its name there; by default the same.
        from_artifacts: where its archive is; what `optimize` takes, with its default.
        to_artifacts: where that goes; by default it stays where it is, and belongs to both.

    Raises:
        StudyNotFoundError: there is no such study.
        StudyMismatchError: there is a study of that name where it goes.
        ArchiveError: a file of the archive is missing or damaged.
        StorageUnavailableError: a storage or a filesystem failed.

    Example:
        >>> from prefect_optuna.blocks import InMemoryStudyStorage
        >>> from prefect_optuna.tasks import copy_study
        >>> here = InMemoryStudyStorage(name="docs-copy")
        >>> study = here.create_study("parabola", load_if_exists=True)
        >>> study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2, n_trials=2)
        >>> there = InMemoryStudyStorage()
        >>> copy_study(
        ...     from_study_name="parabola", from_storage=here, to_storage=there,
        ...     from_artifacts="memory://docs-copy",
        ... )
        >>> there.load_study("parabola").best_value == study.best_value
        True
    """
    source = as_artifact_filesystem(from_artifacts)
    target = source if to_artifacts is None else as_artifact_filesystem(to_artifacts)
    study = as_study_storage(from_storage).load_study(from_study_name)
    name = to_study_name or from_study_name
    parcel = pack(study, source)
    verify(parcel)
    with unpacked(parcel, as_study_storage(to_storage), target, name):
        pass
