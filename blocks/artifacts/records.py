"""Records of artifact versions; a record never changes.

A record is one small JSON file. What comes later, an expiry and that the content has been removed,
is in files of its own, the marks.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from prefect_optuna.errors import CorruptArtifactError

_FORMAT = 1


def _in_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


_Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class ArtifactVersion(BaseModel):
    """One version of an artifact, as an `ArtifactRepository` describes it. It cannot be changed.

    Attributes:
        name: the name that the artifact was logged under.
        version: its number: 0, 1, 2 and so on for each name, without gaps.
        created_at: when it was logged, in UTC, to the microsecond. Later versions of a name have
            later times, even when the clock was put back.
        handler: the alias of the handler that has written it.
        fname: a name for a downloaded copy. Nothing is kept under it.
        suffix: the ending of its file, without the dot.
        sha256: the SHA-256 digest of its content, as 64 hexadecimal digits.
        size: the size of its content, in bytes.
        environment: what reading it depends on, such as a Python version, as it was then.
        promoted_from: the place that `promote` has copied it from; `None` if it was logged here.
        path: where its content is, relative to the root of the filesystem.
        expiry: from when on it is out of date, in UTC; `None` for never.
        removed_at: when `gc` has removed its content, in UTC; `None` if it is there.

    Example:
        >>> from prefect_optuna.blocks import ArtifactRepository
        >>> logged = ArtifactRepository("memory://docs-record").log("limits", [0, 1])
        >>> logged.version, logged.handler, logged.size, logged.expiry
        (0, 'json', 6, None)
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, populate_by_name=True)

    record_format: int = Field(default=_FORMAT, alias="format", repr=False)
    # Tells two writers apart who log the same content at the same time.
    writer: str = Field(repr=False)
    name: str
    version: int = Field(ge=0)
    created_at: _Moment
    handler: str
    fname: str
    # The file's path is made of these two, and a record may have been tampered with.
    suffix: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    environment: dict[str, Any]
    promoted_from: str | None = None
    path: str = Field(default="", exclude=True)
    expiry: _Moment | None = Field(default=None, exclude=True)
    removed_at: _Moment | None = Field(default=None, exclude=True)

    @property
    def dirty(self) -> bool:
        """False: `log` writes at once, so that nothing is left to be written."""
        return False


def encode_record(record: ArtifactVersion) -> bytes:
    """The content of a record's file."""
    return record.model_dump_json(by_alias=True).encode()


def decode_record(content: bytes, place: str) -> ArtifactVersion:
    """Read the content of a record's file."""
    try:
        record = ArtifactVersion.model_validate_json(content)
    except ValidationError as error:
        raise CorruptArtifactError(
            f"{place} is damaged or cut off: expected the record of a version, found "
            f"{len(content)} bytes that are none ({_reasons(error)}). Put the file back from a "
            "copy of the repository."
        ) from error
    if record.record_format > _FORMAT:
        raise CorruptArtifactError(
            f"{place} is a record of format {record.record_format}, and this version reads up to "
            f"{_FORMAT}: pip install --upgrade prefect-optuna."
        )
    return record


class Marks(BaseModel):
    """Marks that people and `gc` have put on a version after it was logged."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    expiry: _Moment | None = None
    removed_at: _Moment | None = None


def encode_marks(marks: Marks) -> bytes:
    """The content of a file of marks."""
    return marks.model_dump_json().encode()


def decode_marks(content: bytes, place: str) -> Marks:
    """Read the content of a file of marks."""
    try:
        return Marks.model_validate_json(content)
    except ValidationError as error:
        raise CorruptArtifactError(
            f"{place} is damaged or cut off: expected the times from which on a version is out of "
            f"date and removed ({_reasons(error)}). Put the file back from a copy of the "
            "repository, or delete it and set the expiry again."
        ) from error


def _reasons(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)
    return "; ".join(": ".join([*map(str, detail["loc"]), detail["msg"]]) for detail in details[:3])
