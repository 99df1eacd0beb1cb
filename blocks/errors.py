"""The errors of the project: one root, each also a fitting builtin.

`except PrefectOptunaError` catches everything that this package raises on purpose, and
`except ValueError` (or whichever builtin fits) works for people who do not know the package.
Every message says what was expected, what was found, and what to do next.
"""

__all__ = [
    "ArchiveError",
    "ArtifactNotFoundError",
    "ArtifactPathError",
    "CaptureError",
    "InvalidLocationError",
    "InvalidProblemError",
    "InvalidSettingError",
    "PrefectOptunaError",
    "ResultEncodingError",
    "StorageUnavailableError",
    "StudyMismatchError",
    "StudyNotFoundError",
    "UntrustedArchiveError",
]


class PrefectOptunaError(Exception):
    """Root of every error that this package raises on purpose."""


class StorageUnavailableError(PrefectOptunaError, ConnectionError):
    """A study storage or an artifact filesystem cannot be reached, read or written."""


class InvalidLocationError(PrefectOptunaError, ValueError):
    """What was given names no study storage and no artifact filesystem."""


class ArtifactNotFoundError(PrefectOptunaError, FileNotFoundError):
    """No artifact is at that path."""


class ArtifactPathError(PrefectOptunaError, ValueError):
    """A path is empty, malformed, or leads out of the root of its artifact filesystem."""


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
