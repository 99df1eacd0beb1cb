"""The errors of the project: one root, each also a fitting builtin.

`except PrefectOptunaError` catches everything that this package raises on purpose, and
`except ValueError` (or whichever builtin fits) works for people who do not know the package.
Every message says what was expected, what was found, and what to do next.
"""

__all__ = [
    "ArchiveError",
    "ArtifactError",
    "ArtifactExistsError",
    "ArtifactLoadError",
    "ArtifactLogError",
    "ArtifactNotFoundError",
    "ArtifactPathError",
    "CaptureError",
    "CorruptArtifactError",
    "EnvironmentMismatchError",
    "InvalidLocationError",
    "InvalidProblemError",
    "InvalidSettingError",
    "InvalidVersionError",
    "PrefectOptunaError",
    "ReadOnlyError",
    "ResultEncodingError",
    "StorageNotFoundError",
    "StoragePermissionError",
    "StorageUnavailableError",
    "StudyMismatchError",
    "StudyNotFoundError",
    "UnknownHandlerError",
    "UntrustedArchiveError",
    "VersionNotFoundError",
]


class PrefectOptunaError(Exception):
    """Root of every error that this package raises on purpose."""


class StorageUnavailableError(PrefectOptunaError, ConnectionError):
    """A study storage or an artifact filesystem cannot be reached, read or written."""


class StoragePermissionError(StorageUnavailableError, PermissionError):
    """The storage is there, and this user may not do that in it."""


class StorageNotFoundError(StorageUnavailableError, FileNotFoundError):
    """The bucket, container or share that an artifact filesystem names does not exist."""


class InvalidLocationError(PrefectOptunaError, ValueError):
    """What was given names no study storage and no artifact filesystem."""


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


class EnvironmentMismatchError(ArtifactLoadError):
    """An artifact was written under other versions than those that would read it."""


class CorruptArtifactError(ArtifactLoadError, OSError):
    """The bytes of an artifact are not those that were logged."""


class UnknownHandlerError(ArtifactError, ValueError):
    """No artifact handler has that alias, or takes values of that type."""


class VersionNotFoundError(ArtifactError, LookupError):
    """An artifact of that name has no such version, or all that it has are expired."""


class InvalidVersionError(ArtifactError, ValueError):
    """What was given is no version: neither a number nor a time."""


class ReadOnlyError(ArtifactError, PermissionError):
    """Something that was opened for reading, or that has ended, was asked to change."""


class StudyNotFoundError(PrefectOptunaError, LookupError):
    """No study of that name is in the storage."""


class StudyMismatchError(PrefectOptunaError, ValueError):
    """A study of that name exists, and is another one than the one asked for."""


class InvalidProblemError(PrefectOptunaError, TypeError):
    """What was given is no optimization problem, or a part of it breaks its contract."""


class InvalidSettingError(PrefectOptunaError, ValueError):
    """An argument has a value that cannot work."""


class ArchiveError(PrefectOptunaError, ValueError):
    """An archive is missing, incomplete, damaged, or of an unknown format."""


class CaptureError(ArchiveError, TypeError):
    """A function or a value of a problem cannot be archived."""


class ResultEncodingError(ArchiveError, TypeError):
    """What `run` returned cannot be archived."""


class UntrustedArchiveError(ArchiveError, PermissionError):
    """Archived code was asked to run, and nobody has said that it is trusted."""
