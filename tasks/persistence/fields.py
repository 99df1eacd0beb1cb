"""Declarations of a persistence class's attributes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, overload

from prefect_optuna.errors import InvalidPersistenceClassError
from prefect_optuna.tasks.persistence.same import same

missing: Any = inspect.Parameter.empty
"""In place of a value: any value will do. In a file name it is `*`."""

Validator = bool | Callable[[Any, Any], bool]
FilenamePart = bool | Callable[[Any], str | None]


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

    __slots__ = (
        "annotation",
        "autoinc",
        "default",
        "default_factory",
        "field_name",
        "filename",
        "filename_prefix",
        "init",
        "optional",
        "owner",
        "validator",
    )

    def __init__(
        self,
        *,
        validator: Validator = False,
        filename_prefix: str = "",
        filename: FilenamePart = False,
        init: bool = True,
        default: Any = missing,
        default_factory: Callable[[], Any] | None = None,
        autoinc: bool = False,
        optional: bool = False,
    ) -> None:
        for name, value in (("validator", validator), ("filename", filename)):
            if not isinstance(value, bool) and not callable(value):
                raise InvalidPersistenceClassError(
                    f"field({name}=...) takes True, False or a function, found {value!r}."
                )
        if default is not missing and default_factory is not None:
            raise InvalidPersistenceClassError(
                "field() takes default= or default_factory=, found both. Leave one out."
            )
        self.field_name: str = ""
        self.owner: type | None = None
        self.annotation: Any = Any
        self.validator: Validator = validator
        self.filename_prefix: str = filename_prefix
        self.filename: FilenamePart = filename
        self.init: bool = init
        self.default: Any = default
        self.default_factory: Callable[[], Any] | None = default_factory
        self.autoinc: bool = autoinc
        self.optional: bool = optional

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
