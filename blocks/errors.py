"""The errors of the project: one root, each also a fitting builtin.

`except PrefectOptunaError` catches everything that this package raises on purpose, and
`except ValueError` (or whichever builtin fits) works for people who do not know the package.
Every message says what was expected, what was found, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class PrefectOptunaError(Exception):
    """Root of every error that this package raises on purpose."""


class StorageUnavailableError(PrefectOptunaError, ConnectionError):
    """A study storage or an artifact filesystem cannot be reached, read or written."""


class StoragePermissionError(StorageUnavailableError, PermissionError):
    """The storage is there, and this user may not do that in it."""


class StorageNotFoundError(StorageUnavailableError, FileNotFoundError):
    """The bucket, container or share that an artifact filesystem names does not exist."""


class InvalidLocationError(PrefectOptunaError, ValueError):
    """The given location names no study storage and no artifact filesystem."""


class ArtifactNotFoundError(PrefectOptunaError, FileNotFoundError):
    """No artifact is at that path."""


class ArtifactExistsError(PrefectOptunaError, FileExistsError):
    """Something is at that path already, and was not to be replaced."""


class ArtifactPathError(PrefectOptunaError, ValueError):
    """A path is empty, malformed, or leads out of the root of its artifact filesystem."""


class ArtifactError(PrefectOptunaError):
    """An artifact cannot be written, read or found; what follows says why."""


class ArtifactLogError(ArtifactError, ValueError):
    """A value cannot be logged; nothing of it has been kept."""


class ArtifactLoadError(ArtifactError, ValueError):
    """An artifact is there, and cannot be turned into a value."""


class CorruptArtifactError(ArtifactLoadError, OSError):
    """The bytes of an artifact are not those that were logged."""


class UnknownHandlerError(ArtifactError, ValueError):
    """No artifact handler has that alias, or takes values of that type."""


class HandlerImportError(UnknownHandlerError, ImportError):
    """An installed package names an artifact handler that cannot be imported."""


class InvalidHandlerError(UnknownHandlerError, TypeError):
    """The artifact handler is not a handler, or its alias is taken."""


class VersionNotFoundError(ArtifactError, LookupError):
    """An artifact of that name has no such version, or all that it has are expired."""


class InvalidVersionError(ArtifactError, ValueError):
    """The given version is neither a number nor a time."""


class ReadOnlyError(ArtifactError, PermissionError):
    """Something that was opened for reading, or that has ended, was asked to change."""


class StudyNotFoundError(PrefectOptunaError, LookupError):
    """No study of that name is in the storage."""


class StudyMismatchError(PrefectOptunaError, ValueError):
    """A study of that name exists, and is another one than the one asked for."""


class InvalidProblemError(PrefectOptunaError, TypeError):
    """The given object is no optimization problem, or a part of it breaks its contract."""


class InvalidSettingError(PrefectOptunaError, ValueError):
    """An argument has a value that cannot work."""


def invalid_setting(what: str, error: ValidationError) -> InvalidSettingError:
    """Say what pydantic has found, without what was given, which may be a secret."""
    return InvalidSettingError(f"{what} cannot have these settings: {reasons(error)}")


def reasons(error: ValidationError) -> str:
    """Say why settings are not valid, each with its name."""
    texts: list[str] = []
    for detail in error.errors(include_input=False, include_url=False):
        text = detail["msg"].removeprefix("Value error, ")
        name = ".".join(map(str, detail["loc"][:1]))
        texts.append(text if detail["type"] == "value_error" else f"{name}: {text}")
    return "; ".join(texts)


class ArchiveError(PrefectOptunaError, ValueError):
    """An archive is missing, incomplete, damaged, or of an unknown format."""


class EnvironmentUnavailableError(PrefectOptunaError, LookupError):
    """The Python or a package that trials ran with cannot be had here.

    Attributes:
        closest: what comes closest to each requirement that cannot be had; empty where nothing
            does, or where it is not known.
    """

    def __init__(self, message: str, closest: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.closest: dict[str, str] = closest or {}

    def __reduce__(self) -> tuple[type[EnvironmentUnavailableError], tuple[str, dict[str, str]]]:
        return type(self), (str(self), self.closest)


class CaptureError(ArchiveError, TypeError):
    """A function or a value of a problem cannot be archived."""


class ResultEncodingError(ArchiveError, TypeError):
    """The value that `run` returned cannot be archived."""


class UntrustedArchiveError(ArchiveError, PermissionError):
    """Archived code was asked to run, and nobody has said that it is trusted."""


class ArchiveSignatureError(UntrustedArchiveError):
    """An archive is not signed with the key that is configured, or was changed after that."""


class SeriesError(ArchiveError):
    """A time series or an axis cannot be kept: it does not fit the others, or is no coordinates."""


class UnknownNameError(PrefectOptunaError, KeyError):
    """Nothing has been archived under that name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would show its repr


class DamagedStorageError(PrefectOptunaError, ValueError):
    """A part of a study storage is missing, or holds what this package has not written."""


class HostilePickleError(DamagedStorageError, PermissionError):
    """A stored pickle asks for code that has no place in a study; it was not run."""


class StorageFormatError(PrefectOptunaError, ValueError):
    """The content of a storage is something else, or was written by a newer version."""


class AttributeEncodingError(PrefectOptunaError, TypeError):
    """An attribute or a parameter's choice cannot be kept: it is nothing that JSON has."""


class ServerUnavailableError(PrefectOptunaError, ConnectionError):
    """No Prefect server is configured, or it does not answer."""


class DeploymentExistsError(PrefectOptunaError, FileExistsError):
    """A deployment of that name exists, and is another one than the one asked for."""


class WorkerFailedError(PrefectOptunaError, RuntimeError):
    """A worker cannot be started, or has failed in a way that would befall every other one."""


class WorkersLostError(PrefectOptunaError, RuntimeError):
    """A study has no workers any more, and starting others does not help."""


class MissingReferenceError(PrefectOptunaError, LookupError):
    """The Prefect server has no work pool, deployment or block of that name."""
