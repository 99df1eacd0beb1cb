"""A study with its archive as one file.

It is a ZIP file:

    index.json         the study, and size and SHA-256 digest of everything else
    trials.jsonl       one trial per line
    files/<path>       the files of the archive, as they lie on the artifact filesystem

The file may come from anywhere, so that it is read with care: nothing is written before all of it
has been looked through, no path leads out, and a small file unpacks to no large one: what is
compressed has at most 256 MB then. The trials of a study that have more are not compressed.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import zipfile
import zlib
from collections.abc import Callable, Generator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks import ArchiveError, PrefectOptunaError
from prefect_optuna.blocks.artifacts import handlers
from prefect_optuna.blocks.attribute_json import check_attributes, check_nesting
from prefect_optuna.blocks.codec.untrusted import open_zip
from prefect_optuna.tasks.archive.carrying.parcel import Parcel, verify
from prefect_optuna.tasks.archive.series.blobs import blob_path

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
