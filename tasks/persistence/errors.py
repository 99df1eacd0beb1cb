"""Errors of persistence classes: each names the class, the field, the path."""

from __future__ import annotations

from typing import Any

from prefect_optuna.blocks.errors import PrefectOptunaError


class PersistenceError(PrefectOptunaError):
    """An object of a persistence class cannot be made, written or read; what follows says why."""


class InvalidPersistenceClassError(PersistenceError, RuntimeError):
    """A class has fields that no persistence class can have."""


class FieldOrderError(InvalidPersistenceClassError, SyntaxError):
    """A field without a default follows one that has a default, or an auto-increment field."""

    def __str__(self) -> str:
        """The message as it is: `SyntaxError` would look for a line of a file."""
        return str(self.args[0])


class NotPersistenceClassError(PersistenceError, RuntimeError, TypeError):
    """The given class is no persistence class, or the given object is of none."""


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


class UnsupportedValueError(PersistenceError, TypeError):
    """A field has a value that the file cannot hold."""


class FilenameValueError(PersistenceError, ValueError):
    """The value of a field cannot be a part of a file name: it leads elsewhere, or is too long."""


class PersistenceExistsError(PersistenceError, FileExistsError):
    """A file is there already, and was not to be replaced."""


class PersistenceNotFoundError(PersistenceError, FileNotFoundError):
    """No file of these values has been saved."""


class PersistenceIsDirectoryError(PersistenceError, IsADirectoryError):
    """A folder is where a file was to be read or written."""


class PersistenceValidationError(PersistenceError, FileNotFoundError):
    """An object that was found is not the one that was asked for: a validated field differs."""


class FileOfOthersError(PersistenceValidationError):
    """A file has the name that was asked for, and holds an object of other values."""


class CorruptPersistenceError(PersistenceError, OSError, ValueError):
    """A file is cut off, damaged, or none that a handler has written."""


class WrongPersistenceClassError(PersistenceError, TypeError):
    """A file holds an object of another class."""


class SchemaChangedError(PersistenceError, ValueError):
    """A file was written by another version of its class, and nothing says how to migrate it."""


class PickleRefusedError(PersistenceError, PermissionError):
    """A pickle was to be read, which may run any code, and nobody has allowed it."""


class PersistenceConcatError(PersistenceError, ValueError):
    """Objects do not belong together and cannot be concatenated."""


class UndeclaredAttributeWarning(UserWarning):
    """An object has attributes that its class does not declare; they are not saved."""


class SkippedFileWarning(UserWarning):
    """A file has the name of a saved object and is not read: it is damaged, or of another class."""
