"""Description of a persistence class: its fields, its file names, where its files are."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_origin, overload
from weakref import WeakValueDictionary

import numpy as np

from prefect_optuna.blocks import ArtifactFileSystem, as_artifact_filesystem
from prefect_optuna.errors import (
    AutoIncFieldNotResolvedError,
    InvalidPersistenceClassError,
    InvalidSettingError,
    PathNotFoundError,
    PersistenceIsDirectoryError,
    PersistenceValidationError,
    UnsetFieldError,
    UnsupportedValueError,
)

# Equality of two values: also of arrays, tables, and what holds them.


def same(one: Any, other: Any) -> bool:
    """Compare two values; the answer is one truth value, whatever they are.

    A NaN is the same as a NaN. Arrays have to agree in shape and values, not in dtype.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.tasks.persistence.info import same
        >>> same({"x": np.array([1.0, np.nan])}, {"x": np.array([1.0, np.nan])})
        True
    """
    if one is other:
        return True
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return _same_arrays(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return (
            isinstance(one, list) == isinstance(other, list)
            and len(one) == len(other)
            and all(map(same, one, other))
        )
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    equals = getattr(one, "equals", None)  # of tables of pandas, polars, Arrow
    if equals is not None:
        return type(one) is type(other) and bool(equals(other))
    return bool(one == other)


def _same_arrays(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    if one.shape != other.shape:
        return False
    if one.dtype.hasobject or other.dtype.hasobject:
        return all(map(same, one.ravel().tolist(), other.ravel().tolist()))
    can_be_nan = one.dtype.kind in "fcmM" and other.dtype.kind in "fcmM"
    return bool(np.array_equal(one, other, equal_nan=can_be_nan))


# Declarations of a persistence class's attributes.


missing: Any = inspect.Parameter.empty
"""In place of a value: any value will do. In a file name it is `*`."""

Validator = bool | Callable[[Any, Any], bool]
FilenamePart = bool | Callable[[Any], str | None]


@dataclass(eq=False, kw_only=True, repr=False, slots=True)
class PersistentField:
    """One field of a persistence class.

    Attributes:
        field_name: the name of the attribute.
        owner: the class that declares it.
        annotation: its type, as it is written in the class.
        validator: whether and how a value found is compared with the one asked for.
        filename_prefix: what comes before the value in a file name.
        filename: whether and how the value is a part of the file name.
        init: whether it is an argument of `__init__`.
        default: what `__init__` takes without an argument, or `missing`.
        default_factory: makes the default anew, or `None`.
        autoinc: whether a handler chooses its number.
        optional: whether it may be unset, because the class has a value of that name.
    """

    validator: Validator = False
    filename_prefix: str = ""
    filename: FilenamePart = False
    init: bool = True
    default: Any = missing
    default_factory: Callable[[], Any] | None = None
    autoinc: bool = False
    optional: bool = False
    field_name: str = ""
    owner: type | None = None
    annotation: Any = Any

    def __post_init__(self) -> None:
        for name, value in (("validator", self.validator), ("filename", self.filename)):
            if not isinstance(value, bool) and not callable(value):
                raise InvalidPersistenceClassError(
                    f"field({name}=...) takes True, False or a function, found {value!r}."
                )
        if self.default is not missing and self.default_factory is not None:
            raise InvalidPersistenceClassError(
                "field() takes default= or default_factory=, found both. Leave one out."
            )

    @property
    def has_default(self) -> bool:
        """True if `__init__` can do without it."""
        return self.autoinc or self.default is not missing or self.default_factory is not None

    def validate(self, v: Any, u: Any) -> bool:
        """Compare the value found with the one asked for."""
        if self.validator is False:
            return True
        if v is missing or u is missing or (self.autoinc and (v is None or u is None)):
            return True
        if self.validator is True:
            return same(v, u)
        return bool(self.validator(v, u))

    def __repr__(self) -> str:
        return f"<field {self.field_name}: {type_text(self.annotation)}>"


@overload
def field(
    validator: Validator = ...,
    filename_prefix: str = ...,
    filename: FilenamePart = ...,
    *,
    default: Any = ...,
    default_factory: Callable[[], Any] | None = ...,
    init: Literal[True] = True,
) -> Any: ...


@overload
def field(
    validator: Validator = ...,
    filename_prefix: str = ...,
    filename: FilenamePart = ...,
    *,
    default: Any = ...,
    default_factory: Callable[[], Any] | None = ...,
    init: Literal[False],
) -> Any: ...


def field(
    validator: Validator = False,
    filename_prefix: str = "",
    filename: FilenamePart = False,
    *,
    default: Any = missing,
    default_factory: Callable[[], Any] | None = None,
    init: bool = True,
) -> Any:
    """Declare a field of a persistence class.

    Args:
        validator: `True` if a value that is read has to equal the one asked for, or a function
            `f(v, u)` that says whether two values agree.
        filename_prefix: what comes before the value in the file name.
        filename: `True` if the value is a part of the file name, or a function that returns the
            text for it, or `None` to leave it out.
        default: what `__init__` takes without an argument.
        default_factory: makes that anew for each object.
        init: whether it is an argument of `__init__`. If not, it is data: it has to be set before
            the object is saved.

    Returns:
        The declaration, for `persistence_class`.

    Raises:
        InvalidPersistenceClassError: an argument is of another type.

    Example:
        >>> from prefect_optuna.tasks.persistence import field, filename, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(validator=True, filename=True)
        ...     depth: float = field(True, "d", lambda depth: f"{depth:.0f}", default=100.0)
        >>> filename(Session("lynx"))
        'cache-Session-lynx-d100'
    """
    return PersistentField(
        validator=validator,
        filename_prefix=filename_prefix,
        filename=filename,
        init=init,
        default=default,
        default_factory=default_factory,
    )


def autoinc_field(filename_prefix: str = "", *, init: Literal[False] = False) -> Any:
    """Declare the field that counts the objects of the same name: 0, 1, 2 and so on.

    A handler gives an object the next number when it saves it. A class has at most one such
    field, of type `int`; it is validated, and a part of the file name.

    `__init__` takes the number, too, and `None` without it. Type checkers do not see that: for
    them a number is chosen, and is there to be read. `_replace` and the functions that make file
    names take it as a keyword.

    Args:
        filename_prefix: what comes before the number in the file name.
        init: for type checkers only.

    Returns:
        The declaration, for `persistence_class`.

    Example:
        >>> from prefect_optuna.tasks.persistence import ArrowHandler, autoinc_field
        >>> from prefect_optuna.tasks.persistence import field, persistence_class
        >>> @persistence_class
        ... class Recording:
        ...     animal: str = field(validator=True, filename=True)
        ...     run: int = autoinc_field()
        >>> handler = ArrowHandler(Recording, "memory://docs-autoinc")
        >>> [handler.save_persistence(Recording("lynx")).run for _ in range(3)]
        [0, 1, 2]
    """
    return PersistentField(
        validator=True, filename_prefix=filename_prefix, filename=True, autoinc=True
    )


def type_text(annotation: Any) -> str:
    """An annotation as it is written."""
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not hasattr(annotation, "__origin__"):
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")


# Places of files: paths, URLs and blocks, as an artifact filesystem and a path in it; names.


Storage = ArtifactFileSystem | str | Path

MAX_NAME = 255  # bytes, the limit of common filesystems

# What separates folders, is a wildcard, or is not allowed in a name on some system. The percent
# sign is among them, so that different values stay different.
_SPECIAL = re.compile(r'[%/\\*?\[\]:"<>|\x00-\x1f\x7f]')
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


def is_folder(artifacts: ArtifactFileSystem) -> bool:
    """Tell whether the artifacts are files of this machine."""
    return "://" not in artifacts.url


def placed(path: str | Path, storage: Storage | None = None) -> tuple[ArtifactFileSystem, str]:
    """The artifact filesystem of a file, and its path there."""
    if storage is not None:
        return as_artifact_filesystem(storage), str(path)
    if isinstance(path, str) and "://" in path:
        folder, _, name = path.rpartition("/")
        if folder.endswith(":/"):  # memory://name
            folder, name = f"{folder}/", name
        return _filesystem(folder), name
    place = Path(path).expanduser().absolute()
    return _filesystem(str(place.parent)), place.name


@lru_cache(maxsize=16)
def _filesystem(folder: str) -> ArtifactFileSystem:
    """Made once for many files: a block takes longer than writing a small one."""
    return as_artifact_filesystem(folder)


def located(artifacts: ArtifactFileSystem, name: str) -> Path | str:
    """Return the place of a file, to open it: a path on this machine, else a URL."""
    location = artifacts.location(name)
    return Path(location) if is_folder(artifacts) else location


@contextmanager
def explained(artifacts: ArtifactFileSystem, name: str, what: str) -> Generator[None]:
    """Say which object it is about when its file is not there, or is a folder."""
    try:
        yield
    except PathNotFoundError as error:
        raise PathNotFoundError(
            f"No {what} has been saved as {name!r} in {artifacts.location()}."
        ) from error
    except InvalidSettingError as error:
        if is_folder(artifacts) and name and Path(artifacts.location(name)).is_dir():
            raise PersistenceIsDirectoryError(
                f"Expected the file of a {what}, found the folder {artifacts.location(name)}. Name "
                "a file in it."
            ) from error
        raise


def escaped(text: str) -> str:
    """Write a text so that it is a part of one name, and no pattern: `a/b` as `a%2Fb`.

    Different texts have different results.

    Example:
        >>> from prefect_optuna.tasks.persistence.info import escaped
        >>> escaped("2026-01-02"), escaped("a/b*")
        ('2026-01-02', 'a%2Fb%2A')
    """
    return _SPECIAL.sub(lambda match: f"%{ord(match[0]):02X}", text)


def leads_elsewhere(text: str) -> str | None:
    """Say why a text must not be a part of a file name; `None` if it may.

    Example:
        >>> from prefect_optuna.tasks.persistence.info import leads_elsewhere
        >>> leads_elsewhere("../x")
        "it has the part '..', which leads out of the folder"
    """
    if "\0" in text:
        return "it has a NUL character"
    if text.startswith(("/", "\\")) or _DRIVE.match(text):
        return "it is an absolute path"
    if ".." in re.split(r"[/\\]", text):
        return "it has the part '..', which leads out of the folder"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it has characters that UTF-8 cannot encode"
    return None


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
