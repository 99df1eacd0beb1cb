"""Between objects of persistence classes and plain dictionaries."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from prefect_optuna.errors import (
    InvalidPersistenceClassError,
    MissingKeyError,
    UndeclaredAttributeWarning,
    UnsetFieldError,
)
from prefect_optuna.tasks.persistence.fields import missing
from prefect_optuna.tasks.persistence.generated import PENDING
from prefect_optuna.tasks.persistence.info import PersistentClass, ensure_persistence_class

T = TypeVar("T")


def as_dict(data: Any) -> dict[str, Any]:
    """The fields of an object that are set, by name.

    Args:
        data: an object of a persistence class.

    Returns:
        A new dictionary of the object's own values, which are not copied.

    Raises:
        InvalidPersistenceClassError: this is none; a `TypeError` and a `RuntimeError`.

    Example:
        >>> from prefect_optuna.tasks.persistence import as_dict, field, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        ...     power: list[float]
        >>> as_dict(Session("lynx"))
        {'animal': 'lynx'}
    """
    if data is None:
        raise InvalidPersistenceClassError("data is None")
    names = _info(data).fields_name()
    if isinstance(data, BaseModel):
        held = data.model_dump()
        return {name: held[name] for name in names if name in held}
    values = {name: getattr(data, name, missing) for name in names}
    return {name: value for name, value in values.items() if value is not missing}


def from_dict(data_cls: type[T], d: Mapping[str, Any]) -> T:
    """Make an object of its fields.

    A class whose own `__init__` takes something else defines a class method `from_dict`.

    Args:
        data_cls: the persistence class.
        d: the values, by name; those of no field are left out.

    Returns:
        The object.

    Raises:
        MissingKeyError: there is no value for a field without a default; names it.
        InvalidPersistenceClassError: `data_cls` is none, or its `from_dict` returned something
            else.

    Example:
        >>> from prefect_optuna.tasks.persistence import field, from_dict, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        >>> from_dict(Session, {"animal": "lynx", "unknown": 1})
        Session{animal=lynx}
    """
    return made_of(ensure_persistence_class(data_cls), d)


def made_of(info: PersistentClass[T], d: Mapping[str, Any], where: str = "") -> T:
    """Make an object of its fields; `where` says what file they come from."""
    keys: dict[str, Any] = {}
    for field in info.fields:
        if not field.init:
            continue
        if field.field_name in d:
            keys[field.field_name] = d[field.field_name]
        elif not field.has_default:
            raise MissingKeyError(
                f"missing required field : {field.field_name}, of {info.cls_name}{where}. Expected "
                f"{', '.join(f.field_name for f in info.fields if f.init)}, found "
                f"{', '.join(map(str, d)) or 'nothing'}."
            )
    known = {name: d[name] for name in info.fields_name() if name in d}
    factory = getattr(info.cls, "from_dict", None)
    if factory is not None and not _takes(info.cls, keys):
        made = factory(known)
        if not isinstance(made, info.cls):
            raise InvalidPersistenceClassError(
                f"{info.cls_name}.from_dict returned a {type(made).__name__}. It has to return an "
                f"object of {info.cls_name}."
            )
        return made
    made = info.cls(**keys)
    for name, value in known.items():
        if name not in keys:
            setattr(made, name, value)
    return made


def _takes(cls: type, keys: Mapping[str, Any]) -> bool:
    """Tell whether `__init__` has arguments of these names, whatever it makes of them."""
    try:
        inspect.signature(cls).bind(**keys)
    except TypeError:
        return False
    return True


def to_be_saved(data: Any, where: str) -> dict[str, Any]:
    """The fields of an object that is complete."""
    info = _info(data)
    values = as_dict(data)
    for field in info.fields:
        if field.field_name not in values:
            raise UnsetFieldError(
                f"{info.cls_name}.{field.field_name} is not set, and the object was to be saved as "
                f"{where}. Nothing has been written. Set it, or give it a value in the class."
            )
    undeclared = vars(data).keys() - set(info.fields_name()) - {PENDING, "__orig_class__"}
    if undeclared:
        warnings.warn(
            f"{info.cls_name} declares no {', '.join(sorted(undeclared))}, so that it is not saved "
            f"as {where}. Annotate it in the class.",
            UndeclaredAttributeWarning,
            stacklevel=4,
        )
    return values


def _info(data: Any) -> PersistentClass[Any]:
    if isinstance(data, type):
        raise InvalidPersistenceClassError(
            f"Expected an object of a persistence class, found the class {data.__name__} itself."
        )
    return ensure_persistence_class(data)
