"""A study with its archive on its way: to another storage, as one file, in a deployment.

It is a ZIP file:

    index.json         the study, and size and SHA-256 digest of everything else
    trials.jsonl       one trial per line
    files/<path>       the files of the archive, as they lie on the artifact filesystem

The file may come from anywhere, so that it is read with care: nothing is written before all of it
has been looked through, no path leads out, and a small file unpacks to no large one: what is
compressed has at most 256 MB then. The trials of a study that have more are not compressed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import re
import secrets
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    PrefectOptunaError,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks._secrets import error_words, has_secret_urls
from prefect_optuna.blocks.artifacts import handlers
from prefect_optuna.blocks.codec.untrusted import open_zip, without_pickled_state
from prefect_optuna.blocks.codec.values import check_attributes, check_nesting
from prefect_optuna.blocks.study_storage import (
    OWNERS,
    UUID_ATTRIBUTE,
    owner_file,
    storage_identity,
    uuid_of,
)
from prefect_optuna.errors import (
    ArchiveSignatureError,
    CaptureError,
    PathNotFoundError,
    StudyMismatchError,
)
from prefect_optuna.tasks.archive.code.capture import Capture, document_of
from prefect_optuna.tasks.archive.record.environment import Environment
from prefect_optuna.tasks.archive.record.manifest import BACKUP_CONTEXT, SigningKeys, manifest_of
from prefect_optuna.tasks.archive.series.blobs import (
    beside_path,
    blob_path,
    blob_store,
    file_references,
    needed_blobs,
    needed_paths,
    packed,
    read_blob,
    read_verified,
)

# A captured problem as one piece of text, for the way from whoever deploys it to its archive.
#
# The text comes from Prefect's server, where others may write. So its length and its signature
# are looked at before anything is decoded, what it unpacks to is bounded, and each part has to
# have the digest that it is named by. Nothing of it is executed here.


MAX_PACKED = 512 * 1024
"""Maximum number of bytes of a packed problem that travels with a deployment."""

_MAX_DEPLOYED = 64 << 20
_DEPLOYED = "prefect-optuna/deployed"
_FORMAT = 1


def pack_problem(capture: Capture, environment: Environment) -> str:
    """Write a captured problem down as one text.

    Returns:
        Base64. `len(text) * 3 // 4` is how many bytes it takes.
    """
    if has_secret_urls(capture.content.decode("ascii")):
        raise CaptureError(
            "The problem's code or context holds a URL with a password or a token, and whoever may "
            "read the deployment would read it. Read it from an environment variable of the "
            "workers inside of the function, os.environ[...], or load a saved block there."
        )
    content = {
        "kind": _DEPLOYED,
        "format": _FORMAT,
        "capture": capture.content.decode("ascii"),
        "environment": _without_files(environment).to_json(),
        "blobs": {
            digest: base64.b64encode(blob).decode("ascii") for digest, blob in capture.blobs.items()
        },
    }
    packed = zlib.compress(json.dumps(content, sort_keys=True).encode("ascii"), 9)
    return base64.b64encode(packed).decode("ascii")


def sign(text: str, keys: SigningKeys | None) -> dict[str, str] | None:
    """The signature of a packed problem; `None` without a key."""
    return None if keys is None else keys.sign("deployed", "", _digest(text))


def require_signature(
    text: str, signature: Mapping[str, Any] | None, keys: SigningKeys | None
) -> bool:
    """Check that a packed problem is signed, if a key is configured here; False without one."""
    if keys is None:
        return False
    if problem := keys.problem("deployed", "", _digest(text), signature):
        raise ArchiveSignatureError(
            "The problem that came with the deployment does not run, trusted or not, because a key "
            f"for signing is configured here, and it {problem}. Deploy it again where that key is "
            "configured: PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY, or its ..._KEY_BLOCK."
        )
    return True


def digest_of(environment: Environment) -> str:
    """Return the digest by which a deployment names the environment that its workers install."""
    content = json.dumps(_without_files(environment).to_json(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def block_name(code_version: str, install: bool | str) -> str:
    """Return the name of a deployed problem's block on Prefect's server."""
    return f"{code_version}-{install[:16]}" if isinstance(install, str) else code_version


def unpack_problem(text: str, code_version: str, install: bool | str = False) -> Capture:
    """Read a packed problem, and verify that it is the one that was deployed.

    With the digest of an environment, that is verified, too.
    """
    try:
        content = json.loads(_inflated(text))
        assert content["kind"] == _DEPLOYED  # noqa: S101 - caught below
        if content["format"] > _FORMAT:
            raise ArchiveError(
                f"The deployment has brought a problem of the format {content['format']}, and "
                f"this version reads up to {_FORMAT}: pip install --upgrade prefect-optuna."
            )
        code = content["capture"].encode("ascii")
        blobs = {
            str(digest): base64.b64decode(blob, validate=True)
            for digest, blob in content["blobs"].items()
        }
        digests = {digest: hashlib.sha256(blob).hexdigest() for digest, blob in blobs.items()}
        if hashlib.sha256(code).hexdigest() != code_version or any(
            digest != own for digest, own in digests.items()
        ):
            raise _changed(code_version)
        document = document_of(code, "the problem that came with the deployment")
        if set(document["blobs"]) != blobs.keys():
            raise _changed(code_version)
        # A file that nobody has would make the archive of the study one that misses it.
        origin = _without_files(Environment.from_json(content["environment"]))
        if isinstance(install, str) and digest_of(origin) != install:
            raise _changed(code_version)
    except ArchiveError:
        raise
    except (*_NOT_DEPLOYED, RecursionError) as error:
        raise _changed(code_version) from error
    return Capture(document, blobs, origin=origin)


_NOT_DEPLOYED = (ValueError, TypeError, LookupError, AttributeError, AssertionError, zlib.error)


def _without_files(environment: Environment) -> Environment:
    git = environment.git and replace(environment.git, diff="")
    return replace(environment, git=git, script_source="")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _inflated(text: str) -> bytes:
    if len(text) > 4 * MAX_PACKED:  # it may have been written with another limit than this one
        raise ArchiveError(
            f"The deployment has brought {len(text)} characters of a problem, and "
            f"{4 * MAX_PACKED} are the most. Somebody has changed it; deploy it again."
        )
    try:
        packed = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    inflater = zlib.decompressobj()
    content = inflater.decompress(packed, _MAX_DEPLOYED)
    if not inflater.eof:
        raise ValueError("it is cut short, or unpacks to more than it may")
    return content


def _changed(code_version: str) -> ArchiveError:
    return ArchiveError(
        "The problem that came with the deployment is damaged, or somebody has changed it: it is "
        f"not the code {code_version[:12]} that the deployment names, or not with the packages "
        "that it names. Nothing of it has run. Deploy it again."
    )


# A study with its archive on its way: from a storage and a filesystem to others.
#
# It keeps the UUID that it has, and with it its signatures. Its trials keep the paths of their
# files: where another copy of the study has a different file at a path, the file goes beside it,
# and readers find it by its digest.


_UNFINISHED = "prefect_optuna:unfinished_copy"  # a system attribute of a study that is being made
_UPLOADS = "optuna"  # where the block puts what Optuna's own upload_artifact stores
_UPLOADED = "artifacts:"  # begins the system attribute that describes one of those


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
        files |= digests.keys()  # those that are in a pack have no file of their own
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
    artifacts.rm_files(path for path in made if not path.startswith("blobs/"))
    if folder and not artifacts.glob(f"{folder}/**"):
        with contextlib.suppress(PathNotFoundError):
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
            if name.startswith(_UPLOADED):
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


EXPORT_FORMAT = 1

_KIND = "prefect-optuna/export"
_INDEX, _TRIALS, _FILES = "index.json", "trials.jsonl", "files/"
_UUID = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]*")
_UPLOAD = re.compile(r"optuna/[0-9A-Za-z][0-9A-Za-z-]*")
# What a study's folder has in it, but for whose it is: nothing that Python could import.
_MEMBER = re.compile(
    r"best\.png"
    r"|needs/[0-9a-f]{32}\.json"
    r"|inputs/[0-9a-f]+-[0-9a-f]{16}\.json"
    r"|reevaluations/[0-9T]+-[0-9a-f]{8}\.json"
    r"|(trials|series/[A-Za-z0-9_.~%-]+)/\d{6,}(-[0-9a-f]{16})?\.arrow"
    r"|artifacts/versions/[a-z0-9_.~-]+/\d{8,}\.json"
    r"|artifacts/marks/[a-z0-9_.~-]+/(newest|\d{8,}\.\d{4,})\.json"
    r"|artifacts/objects/[0-9a-f]{2}/[0-9a-f]{64}\.[A-Za-z0-9][A-Za-z0-9_.-]*",
    re.ASCII,
)
_MAX_UNPACKED = 1 << 28  # bytes


def write_parcel(parcel: Parcel, path: Path) -> None:
    """Write a study to one file: all of it, or nothing."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            _write(parcel, archive)
        temporary.replace(path)
    except PrefectOptunaError:
        raise
    except OSError as error:
        raise ArchiveError(
            f"The study {parcel.name!r} cannot be written to {path}: {error.strerror or error}. "
            "Expected the path of a file in a folder that exists, and space for it."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(parcel: Parcel, archive: zipfile.ZipFile) -> None:
    files: dict[str, Any] = {}
    for path in parcel.files:
        if not path.startswith("blobs/") and not _is_member(path, parcel.uuid):
            continue  # a foreign file, or what is left of an interrupted write
        content = parcel.read(path)
        archive.writestr(f"{_FILES}{path}", content, zipfile.ZIP_STORED)
        files[path] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    trials = "".join(f"{_json(trial_to_json(trial))}\n" for trial in parcel.trials).encode("ascii")
    index = {
        "kind": _KIND,
        "format": EXPORT_FORMAT,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "uuid": parcel.uuid,
        "study": {
            "name": parcel.name,
            "directions": [direction.name for direction in parcel.directions],
            "user_attrs": parcel.user_attrs,
            "system_attrs": parcel.system_attrs,
        },
        "trials": {"bytes": len(trials), "sha256": sha256(trials).hexdigest()},
        "files": files,
    }
    for name, text in ((_TRIALS, trials), (_INDEX, _json(index).encode("ascii"))):
        is_small = len(text) <= _MAX_UNPACKED
        archive.writestr(name, text, zipfile.ZIP_DEFLATED if is_small else zipfile.ZIP_STORED)


def _json(data: Any) -> str:
    try:
        return json.dumps(data)
    except (TypeError, ValueError) as error:
        raise ArchiveError(
            f"Only what is JSON can be exported: {error}. Keep attributes of studies and trials to "
            "numbers, text, lists and mappings; put everything else into artifacts."
        ) from None


def trial_to_json(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as JSON, for `trial_from_json`."""

    def time(moment: datetime | None) -> str | None:
        return moment.astimezone(UTC).isoformat() if moment else None

    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": {
            name: json.loads(distribution_to_json(one)) for name, one in trial.distributions.items()
        },
        "intermediate_values": trial.intermediate_values,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "datetime_start": time(trial.datetime_start),
        "datetime_complete": time(trial.datetime_complete),
    }


def trial_from_json(data: dict[str, Any]) -> FrozenTrial:
    """The trial that `trial_to_json` described."""

    def time(text: str | None) -> datetime | None:
        if not text:
            return None
        moment = datetime.fromisoformat(text)
        # As Optuna's, in this process's time zone. 0.1.0 wrote the wall clock, without one.
        return moment.astimezone().replace(tzinfo=None) if moment.tzinfo else moment

    distributions = {
        name: json_to_distribution(json.dumps(text)) for name, text in data["distributions"].items()
    }
    # As Optuna's storages do: a category is the very one of the distribution.
    params = {
        name: distributions[name].to_external_repr(distributions[name].to_internal_repr(value))
        for name, value in data["params"].items()
    }
    numbers = [*(data["values"] or ()), *data["intermediate_values"].values()]
    is_int = isinstance(data["number"], int)
    if not is_int or not all(isinstance(number, (int, float)) for number in numbers):
        raise ValueError("the number of a trial, or one of its values, is no number")
    trial = FrozenTrial(
        number=data["number"],
        trial_id=data["number"],
        state=TrialState[data["state"]],
        value=None,
        values=data["values"],
        params=params,
        distributions=distributions,
        intermediate_values={int(k): v for k, v in data["intermediate_values"].items()},
        user_attrs=data["user_attrs"],
        system_attrs=data["system_attrs"],
        datetime_start=time(data["datetime_start"]),
        datetime_complete=time(data["datetime_complete"]),
    )
    trial._validate()  # pyright: ignore[reportPrivateUsage] - as Study.add_trial does
    return trial


@contextlib.contextmanager
def read_parcel(path: Path) -> Generator[Parcel]:
    """Open a study that `write_parcel` has written, after looking through all of it."""
    with contextlib.ExitStack() as stack:
        with _explained(path):
            archive = stack.enter_context(open_zip(path, path.stat().st_size))
            parcel = _parcel(archive, path)
            verify(parcel)
        yield parcel


def _parcel(archive: zipfile.ZipFile, path: Path) -> Parcel:
    index = json.loads(_text(archive, _INDEX))
    if not isinstance(index, dict) or index.get("kind") != _KIND:
        raise _DamagedError("its index is of something else")
    if index["format"] > EXPORT_FORMAT:
        raise ArchiveError(
            f"{path} has the format {index['format']}, and this version reads up to "
            f"{EXPORT_FORMAT}: pip install --upgrade prefect-optuna."
        )
    files: dict[str, Any] = index["files"]
    expected = sorted([_INDEX, _TRIALS, *(f"{_FILES}{file}" for file in files)])
    if sorted(archive.namelist()) != expected:
        raise _DamagedError("it has other entries than its index names")
    uuid = index["uuid"]
    for file, record in files.items():
        _check_path(file, record["sha256"], uuid)
        entry = archive.getinfo(f"{_FILES}{file}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != record["bytes"]:
            raise _DamagedError(f"{file} is not as large as its index says")
    text = _text(archive, _TRIALS)
    if sha256(text).hexdigest() != index["trials"]["sha256"]:
        raise _DamagedError("its trials are not those that were written")
    trials = [trial_from_json(json.loads(line)) for line in text.splitlines()]
    if [trial.number for trial in trials] != list(range(len(trials))):
        raise _DamagedError("its trials are not numbered from 0 on")
    study = index["study"]
    for attributes in (study["user_attrs"], study["system_attrs"]):
        for name, value in attributes.items():
            check_nesting(name, value)
    for trial in trials:
        check_attributes(trial)
        if trial.values is not None and len(trial.values) != len(study["directions"]):
            raise _DamagedError(f"trial {trial.number} has another number of values than the study")
    return Parcel(
        str(study["name"]),
        [StudyDirection[name] for name in study["directions"]],
        dict(study["user_attrs"]),
        dict(study["system_attrs"]),
        trials,
        uuid,
        sorted(files),
        _reader(archive, files),
    )


def _reader(archive: zipfile.ZipFile, files: Mapping[str, Any]) -> Callable[[str], bytes]:
    def read(path: str) -> bytes:
        content = archive.read(f"{_FILES}{path}")
        if sha256(content).hexdigest() != files[path]["sha256"]:
            raise _DamagedError(f"{path} is not what was written")
        return content

    return read


def _text(archive: zipfile.ZipFile, name: str) -> bytes:
    entry = archive.getinfo(name)
    if entry.compress_type == zipfile.ZIP_STORED:
        return archive.read(entry)
    with archive.open(entry) as file:
        # Counted, since the size that an entry states is not to be trusted.
        content = file.read(_MAX_UNPACKED + 1)
    if len(content) > _MAX_UNPACKED:
        raise _DamagedError(f"{name} unpacks to more than {_MAX_UNPACKED:,} bytes")
    return content


def _check_path(path: str, digest: str, uuid: str | None) -> None:
    if path != blob_path(digest) and not _is_member(path, uuid):
        raise _DamagedError(f"{path!r} is no file of this study's archive")
    suffix = path.partition("/objects/")[2].partition(".")[2]
    if suffix and suffix not in {handler.suffix for handler in handlers().values()}:
        raise _DamagedError(
            f"no artifact handler here writes files like {path!r}; install or register the one "
            "that wrote it"
        )


def _is_member(path: str, uuid: str | None) -> bool:
    """Tell whether the format has such a file, other than a blob."""
    if _UPLOAD.fullmatch(path):
        return True
    folder, member = f"studies/{uuid}/", path.removeprefix(f"studies/{uuid}/")
    return (
        uuid is not None
        and _UUID.fullmatch(uuid) is not None
        and path.startswith(folder)
        and {".", ".."}.isdisjoint(member.split("/"))
        and _MEMBER.fullmatch(member) is not None
    )


# What reading a file raises that somebody has taken apart; RuntimeError: one that is encrypted.
_MALFORMED = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    EOFError,
    OSError,
    zlib.error,
)


class _DamagedError(ArchiveError):
    """The file is damaged; the message is the rest of a sentence."""


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ArchiveError(
            f"There is no file {path}. Name one that ArchivedStudy.export has written."
        ) from None
    except zipfile.BadZipFile as error:
        size = path.stat().st_size
        raise ArchiveError(
            f"{path} ({size:,} bytes) is no export of a study, or it is cut short or damaged: "
            f"{error}. Export the study again, or copy the file again; nothing has been imported."
        ) from None
    except _MALFORMED as error:
        if isinstance(error, ArchiveError) and not isinstance(error, _DamagedError):
            raise
        why = str(error) if isinstance(error, _DamagedError) else f"{type(error).__name__}: {error}"
        raise ArchiveError(
            f"{path} is damaged, or no export of a study: {why}. Export the study again, or copy "
            "the file again; nothing has been imported."
        ) from None
