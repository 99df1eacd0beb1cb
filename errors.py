"""Every error and warning that this package raises on purpose.

All errors are `PrefectOptunaError`s, and Python's own where one fits: what is not found is a
`LookupError` or a `FileNotFoundError`, what is wrong in a call a `ValueError` or a `TypeError`.
Every message says what was expected, what was found, and what to do next.

    >>> from prefect_optuna.errors import PrefectOptunaError, StudyNotFoundError
    >>> issubclass(StudyNotFoundError, (PrefectOptunaError, LookupError))
    True
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AlreadyExistsError",
    "ArchiveError",
    "ArchiveSignatureError",
    "ArtifactError",
    "ArtifactLoadError",
    "ArtifactLogError",
    "AttributeEncodingError",
    "AutoIncFieldNotResolvedError",
    "CaptureError",
    "ConfigFileError",
    "CorruptArtifactError",
    "CorruptPersistenceError",
    "DamagedStorageError",
    "DriftError",
    "EnvironmentUnavailableError",
    "FieldOrderError",
    "FileOfOthersError",
    "InvalidParameterError",
    "InvalidPersistenceClassError",
    "InvalidProblemError",
    "InvalidSettingError",
    "InvalidVersionError",
    "MissingKeyError",
    "NoCompleteTrialError",
    "OtherPythonWarning",
    "OutputOnlyWarning",
    "PathNotFoundError",
    "PersistenceConcatError",
    "PersistenceError",
    "PersistenceIsDirectoryError",
    "PersistenceValidationError",
    "PickleRefusedError",
    "PrefectOptunaError",
    "ReadOnlyError",
    "SchemaChangedError",
    "ServerUnavailableError",
    "SkippedFileWarning",
    "StorageFormatError",
    "StorageNotFoundError",
    "StoragePermissionError",
    "StorageUnavailableError",
    "StudyMismatchError",
    "StudyNotFoundError",
    "TrialStopped",
    "UndeclaredAttributeWarning",
    "UnknownHandlerError",
    "UnknownNameError",
    "UnreadParameterWarning",
    "UnsetFieldError",
    "UnsupportedValueError",
    "UntrustedArchiveError",
    "VersionNotFoundError",
    "WorkerFailedError",
    "WrongPersistenceClassError",
]


class PrefectOptunaError(Exception):
    """Root of every error that this package raises on purpose."""


class InvalidSettingError(PrefectOptunaError, ValueError):
    """An argument has a value that cannot work, or names no storage and no place in one."""


class InvalidProblemError(PrefectOptunaError, TypeError):
    """The given object is no optimization problem, or a part of it breaks its contract."""


# Storages, servers and workers.


class StorageUnavailableError(PrefectOptunaError, ConnectionError):
    """A study storage or an artifact filesystem cannot be reached, read or written."""


class StoragePermissionError(StorageUnavailableError, PermissionError):
    """The storage is there, and this user may not do that in it."""


class StorageNotFoundError(StorageUnavailableError, FileNotFoundError):
    """The bucket, container or share that an artifact filesystem names does not exist."""


class StorageFormatError(PrefectOptunaError, ValueError):
    """The content of a storage is something else, or was written by a newer version."""


class DamagedStorageError(PrefectOptunaError, ValueError):
    """A part of a study storage is missing, or holds what this package has not written."""


class PickleRefusedError(PrefectOptunaError, PermissionError):
    """A pickle would run code that nobody has allowed, and was not read."""


class AttributeEncodingError(PrefectOptunaError, TypeError):
    """An attribute or a parameter's choice cannot be kept: it is nothing that JSON has."""


class StudyNotFoundError(PrefectOptunaError, LookupError):
    """No study of that name is in the storage."""


class StudyMismatchError(PrefectOptunaError, ValueError):
    """A study of that name exists, and is another one than the one asked for."""


class ServerUnavailableError(PrefectOptunaError, ConnectionError):
    """No Prefect server is configured, or it does not answer, or a local one cannot start."""


class UnknownNameError(PrefectOptunaError, KeyError):
    """Nothing has that name: in the archive, in a scope, or on the Prefect server."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would show its repr


class WorkerFailedError(PrefectOptunaError, RuntimeError):
    """Workers cannot be started, or fail in a way that would befall every other one."""


class PathNotFoundError(PrefectOptunaError, FileNotFoundError):
    """Nothing is at that path."""


class AlreadyExistsError(PrefectOptunaError, FileExistsError):
    """A file, an artifact or a deployment of that name is there already, and is another one."""


# Artifacts.


class ArtifactError(PrefectOptunaError):
    """An artifact cannot be written, read or found; what follows says why."""


class ArtifactLogError(ArtifactError, ValueError):
    """A value cannot be logged; nothing of it has been kept."""


class ArtifactLoadError(ArtifactError, ValueError):
    """An artifact is there, and cannot be turned into a value."""


class CorruptArtifactError(ArtifactLoadError, OSError):
    """The bytes of an artifact are not those that were logged."""


class UnknownHandlerError(ArtifactError, ValueError, TypeError, ImportError):
    """No handler takes a value or has a name, or the one that would cannot be used.

    lazyscribe raises a `ValueError`, a `TypeError` or an `ImportError` then; this is each of them.
    """


class VersionNotFoundError(ArtifactError, LookupError):
    """An artifact of that name has no such version, or all that it has are expired."""


class InvalidVersionError(ArtifactError, ValueError):
    """The given version is neither a number nor a time."""


class ReadOnlyError(ArtifactError, PermissionError):
    """Something that was opened for reading, or that has ended, was asked to change."""


# The archive, and what comes out of it.


class ArchiveError(PrefectOptunaError, ValueError):
    """An archive is missing, incomplete or damaged, or a series does not fit into it."""


class CaptureError(ArchiveError, TypeError):
    """A function, a value of a problem, or what `run` returned cannot be archived."""


class UntrustedArchiveError(ArchiveError, PermissionError):
    """Archived code was asked to run, and nobody has said that it is trusted."""


class ArchiveSignatureError(UntrustedArchiveError):
    """An archive is not signed with the key that is configured, or was changed after that."""


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


class NoCompleteTrialError(PrefectOptunaError, ValueError):
    """A study has no complete trial, and so no best one."""


class DriftError(PrefectOptunaError, RuntimeError):
    """Archived trials did not give their values again.

    Attributes:
        result: what they gave, a `Reevaluation`.
    """

    def __init__(self, message: str, result: Any) -> None:
        super().__init__(message)
        self.result: Any = result

    def __reduce__(self) -> tuple[type[DriftError], tuple[str, Any]]:
        return type(self), (str(self), self.result)


class TrialStopped(Exception):  # noqa: N818 - as Optuna's TrialPruned, it is no error
    """Raised by a trial that was asked to stop, so that it is asked again.

    Example:
        >>> from prefect_optuna.tasks import TrialStopped
        >>> def run(params, stopping, trial):
        ...     for epoch in range(100):
        ...         if stopping:
        ...             trial.set_user_attr("epoch", epoch)
        ...             raise TrialStopped
    """


# Persistence classes: each names the class, the field, the path.


class PersistenceError(PrefectOptunaError):
    """An object of a persistence class cannot be made, written or read; what follows says why."""


class InvalidPersistenceClassError(PersistenceError, RuntimeError, TypeError):
    """A class is no persistence class, or has fields that none can have."""


class FieldOrderError(InvalidPersistenceClassError, SyntaxError):
    """A field without a default follows one that has a default, or an auto-increment field."""

    def __str__(self) -> str:
        """The message as it is: `SyntaxError` would look for a line of a file."""
        return str(self.args[0])


class AutoIncFieldNotResolvedError(PersistenceError, RuntimeError):
    """The auto-increment field of an object has no number yet, and none may be chosen here.

    Args:
        instance: the object, or its class.
        field: the name of the field, or the field itself.
        message: what to say; by default, that the field has no number.

    Attributes:
        instance: the object, or its class.
        field: the name of the field.
    """

    def __init__(self, instance: Any, field: Any, message: str | None = None) -> None:
        self.instance: Any = instance
        self.field: str = field if isinstance(field, str) else field.field_name
        kind = instance if isinstance(instance, type) else type(instance)
        super().__init__(
            message
            or f"The auto-increment field {kind.__name__}.{self.field} has no number. Give it one, "
            "or let a handler choose it: handler.save_persistence(data), without a path."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.instance, self.field, str(self))


class MissingKeyError(PersistenceError, KeyError):
    """A mapping or a file has no value for a field that its class needs."""

    def __str__(self) -> str:
        """The message as it is: `KeyError` would show it in quotes."""
        return str(self.args[0])


class UnsetFieldError(PersistenceError, AttributeError, RuntimeError):
    """A field has no value, and the object was to be saved, copied or named."""


class UnsupportedValueError(PersistenceError, TypeError, ValueError):
    """A field has a value that the file cannot hold, or that its name cannot have in it."""


class PersistenceValidationError(PersistenceError, FileNotFoundError):
    """An object that was found is not the one that was asked for: a validated field differs."""


class FileOfOthersError(PersistenceValidationError):
    """A file has the name that was asked for, and holds an object of other values."""


class PersistenceIsDirectoryError(PersistenceError, IsADirectoryError):
    """A folder is where a file was to be read or written."""


class CorruptPersistenceError(PersistenceError, OSError, ValueError):
    """A file is cut off, damaged, or none that a handler has written."""


class WrongPersistenceClassError(PersistenceError, TypeError):
    """A file holds an object of another class."""


class SchemaChangedError(PersistenceError, ValueError):
    """A file was written by another version of its class, and nothing says how to migrate it."""


class PersistenceConcatError(PersistenceError, ValueError):
    """Objects do not belong together and cannot be concatenated."""


# Scopes: each names the key.


class InvalidParameterError(PrefectOptunaError, TypeError):
    """The given parameter is none: its key is no text, or it is used in place of its value."""


class ConfigFileError(PrefectOptunaError, ValueError):
    """A file of parameters cannot be read, or refers to itself."""


# Warnings.


class UnreadParameterWarning(UserWarning):
    """A parameter was set and never read: perhaps its name is misspelt."""


class UndeclaredAttributeWarning(UserWarning):
    """An object has attributes that its class does not declare; they are not saved."""


class SkippedFileWarning(UserWarning):
    """A file has the name of a saved object and is not read: it is damaged, or of another class."""


class OutputOnlyWarning(UserWarning):
    """An artifact is made for people to look at, and does not come back as the value it was."""


class OtherPythonWarning(UserWarning):
    """Archived code runs in another version of Python than the one that it ran in.

    Example:
        >>> from prefect_optuna.errors import OtherPythonWarning
        >>> issubclass(OtherPythonWarning, UserWarning)
        True
    """
