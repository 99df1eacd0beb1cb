"""Description of a persistence class: its fields, its file names, its version."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, get_origin
from weakref import WeakValueDictionary

from prefect_optuna.errors import (
    AutoIncFieldNotResolvedError,
    InvalidPersistenceClassError,
    PersistenceValidationError,
    UnsetFieldError,
    UnsupportedValueError,
)
from prefect_optuna.tasks.persistence.fields import PersistentField, missing, type_text
from prefect_optuna.tasks.persistence.places import MAX_NAME, escaped, leads_elsewhere

T = TypeVar("T")

INFO = "__persistence_class__"
"""The attribute of a persistence class that holds its `PersistentClass`."""

CLASSES: WeakValueDictionary[str, type] = WeakValueDictionary()
"""The persistence classes of this process, by where they are defined."""

Migration = Callable[[dict[str, Any], int], Mapping[str, Any]]


class PersistentClass(Generic[T]):
    """The description of a persistence class; `ensure_persistence_class` returns it.

    Attributes:
        cls: the class.
        cls_name: its name in file names and for people.
        home: the file that defines it and its qualified name, such as `analysis:Spectrum`; the
            same whether the file is run as a script or imported.
        formerly: homes that it had before.
        splitter: what stands between the parts of a file name.
        fields: its fields, in order, those of its base classes first.
        version: of its fields. Files keep it.
        migrate: turns the values of an older version into those of this one, or `None`.
    """

    def __init__(
        self,
        cls: type[T],
        cls_name: str,
        fields: list[PersistentField],
        *,
        home: str,
        formerly: tuple[str, ...] = (),
        splitter: str = "-",
        version: int = 1,
        migrate: Migration | None = None,
    ) -> None:
        self.cls: type[T] = cls
        self.cls_name: str = cls_name
        self.fields: list[PersistentField] = fields
        self.home: str = home
        self.formerly: tuple[str, ...] = formerly
        self.splitter: str = splitter
        self.version: int = version
        self.migrate: Migration | None = migrate

    @property
    def autoinc_field(self) -> PersistentField | None:
        """The field that counts, if there is one."""
        return next((field for field in self.fields if field.autoinc), None)

    @property
    def schema(self) -> dict[str, str]:
        """The type of each field, as it is written."""
        return {field.field_name: type_text(field.annotation) for field in self.fields}

    def fields_name(self) -> list[str]:
        """The names of all fields, in order."""
        return [field.field_name for field in self.fields]

    def get_field(self, name: str) -> PersistentField | None:
        """The field of that name, if there is one."""
        return next((field for field in self.fields if field.field_name == name), None)

    def is_autoinc_field_resolved(self, result: Any, **values: Any) -> bool:
        """Tell whether the field that counts has a number, or there is no such field."""
        field = self.autoinc_field
        if field is None:
            return True
        return values.get(field.field_name, getattr(result, field.field_name, None)) is not None

    def validate(self, v: Any, u: Any) -> bool:
        """Compare the validated fields of two objects.

        Args:
            v: an object of the class, or a mapping: what is asked for.
            u: an object of the class, or a mapping: what was found.

        Returns:
            `True`.

        Raises:
            PersistenceValidationError: they differ; names the field and both values. It is a
                `FileNotFoundError`: what was asked for is not there.

        Example:
            >>> from prefect_optuna.tasks.persistence import ensure_persistence_class
            >>> from prefect_optuna.tasks.persistence import field, persistence_class
            >>> @persistence_class
            ... class Session:
            ...     animal: str = field(validator=True, filename=True)
            >>> info = ensure_persistence_class(Session)
            >>> info.validate(Session("lynx"), {"animal": "lynx"})
            True
        """
        for field in self.fields:
            name = field.field_name
            if field.validator is False:
                continue
            asked, stored = _value(v, name), _value(u, name)
            if not field.validate(asked, stored):
                raise PersistenceValidationError(
                    f"{self.cls_name}.{name} validate fail: {_short(asked)} != {_short(stored)}. "
                    "What was found belongs to other values: compute it anew, or ask for those."
                )
        return True

    def filename(self, data: Any = None, **values: Any) -> str:
        """The name of the file of an object, without extension.

        `missing` becomes `*`, as does nothing else.

        Args:
            data: the object; nothing, or the class itself, if all values are given.
            values: take the place of the object's own.

        Returns:
            The name.

        Raises:
            InvalidPersistenceClassError: the object is of another class.
            UnsetFieldError: a value is neither given nor set.
            UnsupportedValueError: a value cannot be in a name; names the field.
        """
        return self.splitter.join(self._parts(data, values))

    def matching(self, data: Any, values: Mapping[str, Any], extension: str) -> re.Pattern[str]:
        """Return a pattern for an object's file names, whatever `missing` stands for.

        The number, unless it is given, is the group `number`.
        """
        pattern = re.escape(self.splitter.join(["cache", escaped(self.cls_name)]))
        between = re.escape(self.splitter)
        for field in self.fields:
            if field.filename is False:
                continue
            value = self._value(field, data, values)
            start = between + re.escape(escaped(field.filename_prefix))
            if field.autoinc and (value is None or value is missing):
                pattern += f"{start}(?P<number>[0-9]+)"
            elif value is missing:
                pattern += f"{start}.*" if field.filename is True else f"(?:{between}.*)?"
            elif (part := self.part(field, value)) is not None:
                pattern += between + re.escape(part)
        return re.compile(pattern + re.escape(extension), re.DOTALL)

    def _parts(self, data: Any, values: Mapping[str, Any]) -> list[str]:
        parts = ["cache", escaped(self.cls_name)]
        for field in self.fields:
            if field.filename is False:
                continue
            value = self._value(field, data, values)
            if value is missing:
                parts.append("*")
            elif (part := self.part(field, value)) is not None:
                parts.append(part)
        return parts

    def _value(self, field: PersistentField, data: Any, values: Mapping[str, Any]) -> Any:
        name = field.field_name
        if data is not None and data is not self.cls and not isinstance(data, self.cls):
            raise InvalidPersistenceClassError(
                f"Expected an object of {self.cls_name}, found {_short(data)}, of type "
                f"{type(data).__name__}."
            )
        if name in values:
            return values[name]
        if data is None or data is self.cls:
            value = None if field.autoinc else missing
        else:
            value = getattr(data, name, missing)
            if value is missing and name in vars(data):
                return missing  # set on purpose: any value will do
        if value is missing:
            raise UnsetFieldError(
                f"field {name} is required for filename: give {self.cls_name}.{name} a value, or "
                f"pass {name}=..."
            )
        return value

    def part(self, field: PersistentField, value: Any) -> str | None:
        """Return the part of a file name for a field's value; `None` if it is left out.

        Raises:
            UnsupportedValueError: it cannot be a part of one.
        """
        text = field.filename(value) if callable(field.filename) else str(value)
        if text is None:
            return None
        text = field.filename_prefix + str(text)
        broken = leads_elsewhere(text)
        if broken is None and len(escaped(text).encode()) > MAX_NAME:
            broken = f"it has more than {MAX_NAME} bytes"
        if broken:
            raise UnsupportedValueError(
                f"{self.cls_name}.{field.field_name} is {_short(text)}, which cannot be a part of "
                f"a file name: {broken}. Use another value, or field(filename=function) to make "
                "a name of it."
            )
        return escaped(text)

    def __repr__(self) -> str:
        return f"<persistence class {self.cls_name}: {', '.join(self.fields_name())}>"


def ensure_persistence_class(data: T | type[T]) -> PersistentClass[T]:
    """Return the description of a persistence class.

    Args:
        data: the class, or an object of it.

    Returns:
        Its name and fields.

    Raises:
        InvalidPersistenceClassError: it is none. A subclass of a persistence class has to be
            decorated, too.

    Example:
        >>> from prefect_optuna.tasks.persistence import ensure_persistence_class
        >>> from prefect_optuna.tasks.persistence import field, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        ...     power: list[float]
        >>> ensure_persistence_class(Session).fields_name()
        ['animal', 'power']
    """
    kind = data if isinstance(data, type) else get_origin(data)
    if not isinstance(kind, type):
        kind = type(data)
    info: PersistentClass[T] | None = vars(kind).get(INFO)
    if info is None:
        if hasattr(kind, INFO):
            raise InvalidPersistenceClassError(
                f"not a persistence_class : {kind.__name__}. Its base class is one: put "
                "@persistence_class on it as well."
            )
        raise InvalidPersistenceClassError(
            f"not a persistence_class : {kind.__name__}. Put @persistence_class on the class."
        )
    return info


def filename(result: Any, **values: Any) -> str:
    """The name of the file of an object, without extension.

    Args:
        result: an object of a persistence class, or the class itself if all values are given.
        values: take the place of the object's own; other names than those of fields are ignored.
            `missing` becomes `*`.

    Returns:
        The name, such as `cache-Spectrum-lynx-2026-01-02-0`. Characters that separate folders,
        are wildcards or are not allowed on some system are written as `%2F`.

    Raises:
        AutoIncFieldNotResolvedError: the field that counts has no number.
        UnsetFieldError: another value is neither given nor set.
        UnsupportedValueError: a value leads elsewhere, such as `../x`, or is too long.
        InvalidPersistenceClassError: this is none.

    Example:
        >>> from prefect_optuna.tasks.persistence import field, filename, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        >>> filename(Session("A00")), filename(Session, animal="A01")
        ('cache-Session-A00', 'cache-Session-A01')
    """
    info = ensure_persistence_class(result)
    field = info.autoinc_field
    if (
        field is not None
        and field.field_name not in values
        and not info.is_autoinc_field_resolved(None if isinstance(result, type) else result)
    ):
        raise AutoIncFieldNotResolvedError(
            result,
            field,
            f"cannot generate filepath without autoinc field {field.field_name} keywords: pass "
            f"filename(..., {field.field_name}=0), or let a handler choose the number.",
        )
    return info.filename(None if result is info.cls else result, **values)


def _value(data: Any, name: str) -> Any:
    return data.get(name) if isinstance(data, Mapping) else getattr(data, name, None)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
