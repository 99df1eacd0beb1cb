"""The manifest: what a study's user attribute says about its archive.

It is small, however large the archive is, because storages limit an attribute (MySQL: 64 KB).
It names blobs by their SHA-256 digest, those name others, and so it vouches for all of them.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, ClassVar

from optuna import Study
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefect_optuna.blocks import ArchiveError

__all__ = ["BACKUP_CONTEXT", "MANIFEST_FORMAT", "Manifest", "Version", "read_manifest"]

BACKUP_CONTEXT = "backupContext"
"""The user attribute of a study that holds the manifest of its archive."""

MANIFEST_FORMAT = 1


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Version(BaseModel):
    """One state of a study's code and surroundings, from one of its trials on."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)

    first_trial: int = Field(description="Number of the first trial that it holds for.")
    code_version: str = Field(description="SHA-256 digest of the captured problem.")
    environment: str = Field(description="SHA-256 digest of the environment.")
    scope: Any = Field(default_factory=dict, description="The scope of the flow, as tagged JSON.")
    created: str = Field(default_factory=_now, description="When it was archived, in UTC.")


class Manifest(BaseModel):
    """The archive of one study."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", frozen=True)

    kind: str = "prefect-optuna/archive"
    format: int = MANIFEST_FORMAT
    uuid: str = Field(description="Names the study's folder; no two studies share one.")
    artifacts: str = Field(default="", description="Where the archive was written, for people.")
    created: str = Field(default_factory=_now, description="When the archive was made, in UTC.")
    versions: list[Version] = Field(default_factory=list[Version], description="Oldest first.")


def read_manifest(study: Study) -> Manifest | None:
    """The manifest of a study's archive; `None` if it has no archive.

    Raises:
        ArchiveError: it is damaged, or a newer version of the project has written it.
    """
    data = study.user_attrs.get(BACKUP_CONTEXT)
    if data is None:
        return None
    found = data.get("format") if isinstance(data, dict) else None
    if isinstance(found, int) and found > MANIFEST_FORMAT:
        raise ArchiveError(
            f"The archive of the study {study.study_name!r} has the format {found}, and this "
            f"version reads up to {MANIFEST_FORMAT}: pip install --upgrade prefect-optuna."
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        fields = ", ".join(sorted({str(e["loc"][0]) for e in error.errors() if e["loc"]}))
        raise ArchiveError(
            f"The study {study.study_name!r} has a damaged archive: its user attribute "
            f"{BACKUP_CONTEXT!r} is no manifest (wrong or missing: {fields or 'everything'})."
        ) from None
