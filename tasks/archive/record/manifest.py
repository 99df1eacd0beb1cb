"""The manifest: what a study's user attributes say about its archive.

It is small, however large the archive is, because storages limit an attribute (MySQL: 64 KB).
It names blobs by their SHA-256 digest, those name others, and so it vouches for all of them.

Each version is an attribute of its own, named after its content. Two flows that save different
code at the same instant write two attributes, and those that save the same code write one: no
storage needs to have a transaction for that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from optuna import Study
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.blocks.study_identity import storage_identity
from prefect_optuna.tasks.archive.record.signing import SigningKeys

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
