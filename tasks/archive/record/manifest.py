"""The manifest: what a study's user attributes say about its archive, and who signed it.

It is small, however large the archive is, because storages limit an attribute (MySQL: 64 KB).
It names blobs by their SHA-256 digest, those name others, and so it vouches for all of them.

Each version is an attribute of its own, named after its content. Two flows that save different
code at the same instant write two attributes, and those that save the same code write one: no
storage needs to have a transaction for that.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
from optuna import Study
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from prefect_optuna.blocks import ArchiveError, InvalidSettingError, StorageUnavailableError
from prefect_optuna.blocks._secrets import SecretVariables
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.study_storage import storage_identity
from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks.archive.code.inspection import described, secret_value

# User attributes of studies and trials: which names are free, and what may be in them.


RESULT_KEY = "result"
"""The user attribute of a trial that refers to its archived result."""

SCOPE_KEY = "scope"
"""The user attribute of a trial that says which parameters of the scope it read, as JSON."""

KEY_ENTRYPOINT = "entrypoint:"
"""Attributes that start like this belong to the archive, as in studies of its predecessor."""

RESERVED = ("backupContext", KEY_ENTRYPOINT, "axis:", "timeseries:", "signature")
"""Prefixes of the names of the archive's own attributes."""

_OF_TRIALS = ("result", "scope", "error", "shared_random", "told_to_prune")
_MAX_JSON = 60_000  # bytes; MySQL's limit for an attribute is 65,535


def checked_key(key: str, of: str) -> str:
    """Return the name of an attribute if it is free for people to use."""
    if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidSettingError(f"The name of a {of}'s data is a word; found {key!r}.")
    taken = [start for start in RESERVED if key.startswith(start)]
    if of == "trial" and key in _OF_TRIALS:
        taken.append(key)
    if taken:
        raise InvalidSettingError(
            f"{key!r} is no name for a {of}'s data: {taken[0]!r} is kept for the archive itself. "
            "Take another name, such as "
            f"'my_{key.rpartition(':')[2].removeprefix('backupContext') or 'data'}'."
        )
    return key


def is_of_the_archive(key: str) -> bool:
    """Tell whether an attribute of a trial belongs to the archive: its own code has not set it."""
    return key in _OF_TRIALS or key.startswith(RESERVED)


def plain_json(key: str, value: Any) -> Any:
    """Turn a value into JSON that every storage takes, and every reader understands.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.tasks.archive.record.manifest import plain_json
        >>> plain_json("span", (np.float64(1.5), np.arange(2)))
        [1.5, [0, 1]]
    """
    try:
        text = json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise CaptureError(
            f"{key!r} cannot be an attribute: {error}. Expected numbers, text, dates, lists and "
            "mappings of those. What `run` needs goes to context_add(name, value); anything else "
            "is kept as a file by log_artifact."
        ) from None
    if len(text) > _MAX_JSON:
        raise CaptureError(
            f"{key!r} has {len(text):,} bytes as JSON, and attributes have at most {_MAX_JSON:,}, "
            "for not every database takes more. Keep numbers along an axis by "
            "trial_add_timeseries, an array that `run` needs by context_add, a file by "
            "log_artifact."
        )
    plain = json.loads(text)
    if variable := SecretVariables.here().name_in(plain):
        raise CaptureError(secret_value(repr(key), variable))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        # Before it becomes a list, which takes many times the memory.
        if value.nbytes > _MAX_JSON * 8:
            raise ValueError(
                f"it has an array of {value.size:,} values, which is too large for one"
            )
        return value.tolist()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"it holds {described(value)}")


# Signatures: who wrote a part of an archive can be told, and that it has not changed since.
#
# A signature is an HMAC-SHA256 of JSON that says what is signed, of which archive, and what it
# holds. It names its key by an id that gives nothing of the key away. Keys stay in the process
# that signs: they are in no repr, no pickle and no file.


MIN_KEY_LENGTH = 16
"""The minimum length of a key, in characters; 32 from `secrets.token_hex(16)` are a good one."""

KEY_VARIABLES = (
    "PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY",
    "PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY_BLOCK",
)
"""The environment variables that hold keys, or say where they are."""


_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False)
_LEVELS = 30
_PLAIN = frozenset({str, float, int, bool, type(None)})


def _sorts_as_it_is(content: Any) -> bool:
    """Tell whether all keys are ASCII text, not looking into what is nested deeply."""
    level = [content]
    for _ in range(_LEVELS):
        inside: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                if not "".join(item).isascii():  # a TypeError, where one is no text
                    return False
                inside += item.values()
            elif kind is list or kind is tuple:
                inside += item
            elif kind not in _PLAIN:
                return False
        if not inside:
            return True
        level = inside
    return False


def canonical(content: Any) -> bytes:
    """One form of JSON for one content, whichever storage it has been through."""
    try:
        with suppress(TypeError):
            if _sorts_as_it_is(content):
                return _SORTED.encode(content).encode("ascii")
        # JSON makes text of a key that is a number, and sorts before it does.
        content = json.loads(json.dumps(content))
        return _SORTED.encode(content).encode("ascii")
    except (TypeError, ValueError) as error:
        raise ArchiveError(
            f"Only what is JSON can be signed: {error}. Keep attributes of studies and trials to "
            "numbers, text, lists and mappings."
        ) from None


class SigningKeys:
    """The keys of an archive: the first one signs, and all of them verify.

    Example:
        >>> from prefect_optuna.tasks.archive.record.manifest import SigningKeys
        >>> keys = SigningKeys("correct horse battery staple")
        >>> keys
        SigningKeys(85588aed)
        >>> signature = keys.sign("version", "0b8f", {"first_trial": 0})
        >>> keys.problem("version", "0b8f", {"first_trial": 0}, signature)
        ''
        >>> keys.problem("version", "0b8f", {"first_trial": 1}, signature)
        'has been changed after it was signed'
    """

    def __init__(self, key: SecretStr | str) -> None:
        text = key.get_secret_value() if isinstance(key, SecretStr) else key
        keys = [word.strip().encode() for word in text.split(",") if word.strip()]
        if not keys or min(map(len, keys)) < MIN_KEY_LENGTH:
            raise InvalidSettingError(
                f"A key for signing archives has {MIN_KEY_LENGTH} characters or more, and a comma "
                f"ends it; found one of {min(map(len, keys), default=0)}. Make one with: "
                'python -c "import secrets; print(secrets.token_hex(16))"'
            )
        self._keys = {_key_id(secret): secret for secret in keys}

    @classmethod
    def configured(cls, key: SecretStr | str | None = None) -> SigningKeys | None:
        """The keys that were given, or else those of the settings; `None` without any."""
        if key is not None:
            return cls(key)
        settings = OptunaSettings.here()
        if settings.archive_key is not None:
            return cls(settings.archive_key)
        if settings.archive_key_block is not None:
            return cls(_from_block(settings.archive_key_block))
        return None

    @property
    def id(self) -> str:
        """The id of the key that signs: eight hexadecimal digits."""
        return next(iter(self._keys))

    def sign(self, what: str, uuid: str, content: Any) -> dict[str, str]:
        """Sign a part of an archive."""
        return {"key": self.id, "hmac": _hmac(self._keys[self.id], what, uuid, content)}

    def problem(self, what: str, uuid: str, content: Any, signature: Any) -> str:
        """Say why a signature does not hold, as the rest of a sentence; empty if it holds."""
        if signature is None:
            return "is not signed"
        try:
            key_id, digest = str(signature["key"]), str(signature["hmac"])
        except (KeyError, TypeError):
            return "has something in place of a signature"
        if key_id not in self._keys:
            return f"is signed with the key {key_id!r}, and the keys here are {self!r}"
        expected = _hmac(self._keys[key_id], what, uuid, content)
        if hmac.compare_digest(expected.encode(), digest.encode()):
            return ""
        return "has been changed after it was signed"

    def __repr__(self) -> str:
        return f"SigningKeys({', '.join(self._keys)})"

    def __reduce__(self) -> Any:
        raise TypeError(
            "A key for signing archives is not sent to other processes. Sign where it is "
            "configured."
        )


def _key_id(key: bytes) -> str:
    return hmac.new(key, b"prefect-optuna key id", hashlib.sha256).hexdigest()[:8]


def _hmac(key: bytes, what: str, uuid: str, content: Any) -> str:
    message = canonical({"signs": f"prefect-optuna/{what}", "uuid": uuid, "content": content})
    return hmac.digest(key, message, "sha256").hex()


def _from_block(name: str) -> str:
    from prefect.blocks.system import Secret

    name = name.removeprefix("secret/")
    try:
        block: Any = Secret.load(name, _sync=True)  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise StorageUnavailableError(
            f"The key for signing archives could not be loaded: {error} `prefect block ls` lists "
            f"the saved blocks; {KEY_VARIABLES[0]} takes the key itself."
        ) from error
    value = block.get()
    if not isinstance(value, str):
        raise InvalidSettingError(
            f"The block secret/{name} has to hold the key as text, found {type(value).__name__}."
        )
    return value


BACKUP_CONTEXT = "backupContext"
"""The user attribute of a study that holds the manifest of its archive; with a colon and the id
of a version after it, the one that holds that version."""

_ATTEMPTS = 100

MANIFEST_FORMAT = 2  # format 1 had all versions in the manifest's own attribute


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Version(BaseModel):
    """One state of a study's code and surroundings, from one of its trials on."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)

    first_trial: int = Field(
        strict=True, description="Number of the first trial that it holds for."
    )
    code_version: str = Field(description="SHA-256 digest of the captured problem.")
    environment: str = Field(description="SHA-256 digest of the environment.")
    scope: Any = Field(default_factory=dict, description="The scope of the flow, as tagged JSON.")
    created: str = Field(default_factory=_now, description="When it was archived, in UTC.")
    signature: Any = Field(default=None, description="Of all that is above, if there is a key.")

    @property
    def id(self) -> str:
        """The name of the version in its study, 16 hexadecimal digits, whenever it was made."""
        content = [self.first_trial, self.code_version, self.environment, self.scope]
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def content(self) -> dict[str, Any]:
        """Return what is signed: everything but the signature."""
        return self.model_dump(exclude={"signature"})

    def to_json(self) -> dict[str, Any]:
        """The attribute of the study."""
        return _with_signature(self.content(), self.signature)


class Manifest(BaseModel):
    """The archive of one study."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)

    kind: str = "prefect-optuna/archive"
    format: int = Field(default=MANIFEST_FORMAT, strict=True)
    uuid: str = Field(description="Names the study's folder; no two studies share one.")
    artifacts: str = Field(default="", description="Where the archive was written, for people.")
    created: str = Field(default_factory=_now, description="When the archive was made, in UTC.")
    ledger: str = Field(
        default="", description="Tells the study from others of its UUID, in what is signed."
    )
    versions: list[Version] = Field(default_factory=list[Version], description="Oldest first.")
    signature: Any = Field(default=None, description="Of all but the versions, if there is a key.")

    def content(self) -> dict[str, Any]:
        """Return what is signed: all but the signature and the versions, which have their own."""
        content = self.model_dump(exclude={"signature", "versions"})
        if not self.ledger:  # as it was signed before there were ledgers
            del content["ledger"]
        return content

    def signed(self, keys: SigningKeys | None) -> Manifest:
        """The same with a signature, if there is a key."""
        if keys is None:
            return self
        signature = keys.sign("manifest", self.uuid, self.content())
        return self.model_copy(update={"signature": signature})


def _with_signature(content: dict[str, Any], signature: Any) -> dict[str, Any]:
    return content if signature is None else {**content, "signature": signature}


def read_manifest(study: Study) -> Manifest | None:
    """The manifest of a study's archive; `None` if it has no archive."""
    return manifest_of(study.study_name, study.user_attrs)


def manifest_of(study_name: str, attributes: Mapping[str, Any]) -> Manifest | None:
    """The manifest in the user attributes of a study; `None` if it has no archive."""
    data = attributes.get(BACKUP_CONTEXT)
    if data is None:
        return None
    written = data.get("format") if isinstance(data, dict) else None
    if isinstance(written, int) and written > MANIFEST_FORMAT:
        raise ArchiveError(
            f"The archive of the study {study_name!r} has the format {written}, and this "
            f"version reads up to {MANIFEST_FORMAT}: pip install --upgrade prefect-optuna."
        )
    try:
        manifest = Manifest.model_validate(data)
        separate = {
            name: Version.model_validate(value)
            for name, value in attributes.items()
            if name.startswith(f"{BACKUP_CONTEXT}:")
        }
    except ValidationError as error:
        fields = ", ".join(sorted({str(e["loc"][0]) for e in error.errors() if e["loc"]}))
        raise ArchiveError(
            f"The study {study_name!r} has a damaged archive: its user attribute "
            f"{BACKUP_CONTEXT!r} is no manifest (wrong or missing: {fields or 'everything'})."
        ) from None
    for name, version in separate.items():
        if name != f"{BACKUP_CONTEXT}:{version.id}":
            raise ArchiveError(
                f"The study {study_name!r} has a damaged archive: its user attribute "
                f"{name!r} is not the version that it was written for. Bring it back from a copy."
            )
    versions = {version.id: version for version in [*manifest.versions, *separate.values()]}
    ordered = sorted(versions.values(), key=lambda v: (v.first_trial, v.created, v.id))
    return manifest.model_copy(update={"versions": ordered})


def write_version(
    study: Study, version: Version, *, uuid: str, artifacts: str, keys: SigningKeys | None = None
) -> Manifest:
    """Add a version to a study's archive, also while others do the same."""
    manifest = read_manifest(study)
    if manifest is None:
        begun = Manifest(uuid=uuid, artifacts=artifacts, ledger=_ledger(study))
        write_head(study, begun.signed(keys))
    elif manifest.format < MANIFEST_FORMAT or (keys is not None and manifest.signature is None):
        write_head(study, manifest.model_copy(update={"format": MANIFEST_FORMAT}).signed(keys))
    for _ in range(_ATTEMPTS):
        # Another flow may have begun the archive at the same moment, with a UUID of its own.
        written = read_manifest(study)
        assert written is not None  # noqa: S101 - nothing removes an attribute of a study
        stored = next((known for known in written.versions if known.id == version.id), None)
        if stored is not None and (keys is None or not _problem(stored, written.uuid, keys)):
            return written
        if keys is not None:
            signature = keys.sign("version", written.uuid, version.content())
            version = version.model_copy(update={"signature": signature})
        study.set_user_attr(f"{BACKUP_CONTEXT}:{version.id}", version.to_json())
    raise ArchiveError(
        f"The archive of the study {study.study_name!r} could not be written: its storage does not "
        "give back what it was given. Look at its user attributes that begin with "
        f"{BACKUP_CONTEXT!r}."
    )


def _problem(version: Version, uuid: str, keys: SigningKeys) -> str:
    return keys.problem("version", uuid, version.content(), version.signature)


def write_head(study: Study, manifest: Manifest) -> None:
    """Write the manifest's own attribute, with the versions that a former format had there."""
    kept = (study.user_attrs.get(BACKUP_CONTEXT) or {}).get("versions", [])
    data = {**manifest.content(), "versions": kept}
    study.set_user_attr(BACKUP_CONTEXT, _with_signature(data, manifest.signature))


def with_ledger(study: Study, manifest: Manifest, keys: SigningKeys) -> Manifest:
    """The manifest of a study that has a ledger, also where a former version has begun it."""
    broken = manifest.signature is not None and keys.problem(
        "manifest", manifest.uuid, manifest.content(), manifest.signature
    )
    if manifest.ledger or broken:
        return manifest
    new = manifest.model_copy(update={"ledger": _ledger(study)})
    new = new.signed(None if manifest.signature is None else keys)
    write_head(study, new)
    return new


def _ledger(study: Study) -> str:
    """The same for two flows that begin the archive of a study at the same moment."""
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = storage.get_study_id_from_name(study.study_name)
    text = json.dumps([storage_identity(storage), study.study_name, study_id])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
