"""The methods that a persistence class is given."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral
from typing import Any

from prefect_optuna.errors import UnsetFieldError
from prefect_optuna.tasks.persistence.fields import PersistentField, missing
from prefect_optuna.tasks.persistence.info import PersistentClass, ensure_persistence_class
from prefect_optuna.tasks.persistence.same import same

PENDING = "__persistence_pending__"
"""The attribute of an object that holds what of its data has not been read yet, by name."""

_MARK = "__persistence_generated__"


def generate(info: PersistentClass[Any], eq: bool) -> None:
    """Give a class the methods that it has not defined itself."""
    cls = info.cls
    for name, make in (("__init__", _init), ("__str__", _str), ("__repr__", _repr)):
        inherited = getattr(cls, name)
        if inherited is getattr(object, name) or hasattr(inherited, _MARK):
            _give(cls, name, make(info))
    if hasattr(cls, "_replace"):
        _give(cls, "_replace", _replace(info))
    if "__match_args__" not in vars(cls):
        cls.__match_args__ = tuple(info.fields_name())
    if eq:
        _give(cls, "__eq__", _eq)
        if "__hash__" not in vars(cls) or cls.__hash__ is None:
            cls.__hash__ = None  # pyright: ignore[reportAttributeAccessIssue]
    if not hasattr(getattr(cls, "__getattr__", None), _MARK):
        _give(cls, "__getattr__", _getattr(getattr(cls, "__getattr__", None)))


def _give(cls: type, name: str, method: Any) -> None:
    method.__name__ = name
    method.__qualname__ = f"{cls.__qualname__}.{name}"
    method.__module__ = cls.__module__
    setattr(method, _MARK, True)
    setattr(cls, name, method)


def _init(info: PersistentClass[Any]) -> Any:
    """`__init__`, as source code: it is as fast as one written by hand."""
    names: dict[str, Any] = {"_missing": missing, "_number": _number}
    parameters, body = ["self"], ["pass"]
    annotations: dict[str, Any] = {}
    keys = [field for field in info.fields if field.init]
    data = [field for field in info.fields if not field.init]
    for field in keys:
        name = field.field_name
        annotations[name] = field.annotation
        parameter, value = name, name
        if field.autoinc:
            parameter, value = f"{name}=None", f"_number({name}, {name!r})"
        elif field.default_factory is not None:
            names[f"_make_{name}"] = field.default_factory
            parameter, value = (
                f"{name}=_missing",
                f"_make_{name}() if {name} is _missing else {name}",
            )
        elif field.default is not missing:
            names[f"_default_{name}"] = field.default
            parameter = f"{name}=_default_{name}"
        parameters.append(parameter)
        body.append(f"self.{name} = {value}")
    if data:
        parameters.append("*")
    for field in data:
        name = field.field_name
        annotations[name] = field.annotation
        parameters.append(f"{name}=_missing")
        body.append(f"if {name} is not _missing: self.{name} = {name}")
        if field.default_factory is not None:
            names[f"_make_{name}"] = field.default_factory
            body.append(f"else: self.{name} = _make_{name}()")
    source = f"def __init__({', '.join(parameters)}):\n " + "\n ".join(body)
    exec(source, names)  # noqa: S102 - of identifiers only
    made = names["__init__"]
    made.__annotations__ = {**annotations, "return": None}
    return made


def _number(value: Any, name: str) -> Any:
    if value is None or value is missing or isinstance(value, Integral):
        return value
    raise TypeError(
        f"{name} is the number of the object, an int, found {type(value).__name__}. Data is given "
        "by keyword."
    )


def _str(info: PersistentClass[Any]) -> Any:
    def __str__(self: Any) -> str:  # noqa: N807
        return info.filename(self)

    return __str__


def _repr(info: PersistentClass[Any]) -> Any:
    names = [field.field_name for field in info.fields if field.init]

    def __repr__(self: Any) -> str:  # noqa: N807
        values = ", ".join(f"{name}={vars(self).get(name, '')}" for name in names)
        return f"{info.cls_name}{{{values}}}"

    return __repr__


def _replace(info: PersistentClass[Any]) -> Any:
    def _replace(self: Any, **values: Any) -> Any:
        unknown = values.keys() - set(info.fields_name())
        if unknown:
            raise TypeError(
                f"{info.cls_name} has no field {', '.join(sorted(unknown))}. It has "
                f"{', '.join(info.fields_name())}."
            )
        made: Any = object.__new__(info.cls)
        for field in info.fields:
            value = values.get(field.field_name, missing)
            if value is missing:
                value = _own_value(self, field)
            if value is not missing:
                setattr(made, field.field_name, value)
        return made

    keyword = inspect.Parameter.KEYWORD_ONLY
    _replace.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(
                inspect.Parameter(
                    field.field_name, keyword, default=missing, annotation=field.annotation
                )
                for field in info.fields
            ),
        ]
    )
    return _replace


def _own_value(data: Any, one: PersistentField) -> Any:
    """The value of an object's field; `missing` for data that is not set, which stays so."""
    value = getattr(data, one.field_name, missing)
    if value is missing and one.init and one.field_name not in vars(data):
        raise UnsetFieldError(
            f"{type(data).__name__}.{one.field_name} is not set. Set it, or pass "
            f"_replace({one.field_name}=...)."
        )
    return value


def _eq(self: Any, other: Any) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    names = ensure_persistence_class(self).fields_name()
    return all(same(getattr(self, n, missing), getattr(other, n, missing)) for n in names)


def _getattr(inherited: Any) -> Any:
    """Return a `__getattr__` for missing attributes, which may not have been read yet."""

    def __getattr__(self: Any, name: str) -> Any:  # noqa: N807
        pending: Mapping[str, Any] | None = vars(self).get(PENDING)
        if pending is not None and name in pending:
            value = pending[name]
            setattr(self, name, value)
            return value
        if inherited is not None:
            return inherited(self, name)
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self
        )

    return __getattr__
