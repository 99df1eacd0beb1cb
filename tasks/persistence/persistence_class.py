"""`persistence_class`: a class whose objects know the name of their file."""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from copy import copy
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, overload

from pydantic import BaseModel
from typing_extensions import dataclass_transform

from prefect_optuna.errors import FieldOrderError, InvalidPersistenceClassError, UnsetFieldError
from prefect_optuna.tasks.persistence.info import (
    CLASSES,
    INFO,
    Migration,
    PersistentClass,
    PersistentField,
    autoinc_field,
    ensure_persistence_class,
    field,
    leads_elsewhere,
    missing,
    same,
    type_text,
)

# The methods that a persistence class is given.


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
    keys = [declared for declared in info.fields if declared.init]
    data = [declared for declared in info.fields if not declared.init]
    for declared in keys:
        name = declared.field_name
        annotations[name] = declared.annotation
        parameter, value = name, name
        if declared.autoinc:
            parameter, value = f"{name}=None", f"_number({name}, {name!r})"
        elif declared.default_factory is not None:
            names[f"_make_{name}"] = declared.default_factory
            parameter, value = (
                f"{name}=_missing",
                f"_make_{name}() if {name} is _missing else {name}",
            )
        elif declared.default is not missing:
            names[f"_default_{name}"] = declared.default
            parameter = f"{name}=_default_{name}"
        parameters.append(parameter)
        body.append(f"self.{name} = {value}")
    if data:
        parameters.append("*")
    for declared in data:
        name = declared.field_name
        annotations[name] = declared.annotation
        parameters.append(f"{name}=_missing")
        body.append(f"if {name} is not _missing: self.{name} = {name}")
        if declared.default_factory is not None:
            names[f"_make_{name}"] = declared.default_factory
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
        for declared in info.fields:
            value = values.get(declared.field_name, missing)
            if value is missing:
                value = _own_value(self, declared)
            if value is not missing:
                setattr(made, declared.field_name, value)
        return made

    keyword = inspect.Parameter.KEYWORD_ONLY
    _replace.__signature__ = inspect.Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [
            inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
            *(
                inspect.Parameter(
                    declared.field_name, keyword, default=missing, annotation=declared.annotation
                )
                for declared in info.fields
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


T = TypeVar("T")

_CLASS_VARIABLE = re.compile(r"\s*(\w+\s*\.)?\s*ClassVar\b")


@overload
@dataclass_transform(eq_default=False, field_specifiers=(field, autoinc_field))
def persistence_class(cls: type[T], /) -> type[T]: ...


@overload
@dataclass_transform(eq_default=False, field_specifiers=(field, autoinc_field))
def persistence_class(
    cls: None = None,
    /,
    *,
    name: str | None = None,
    filename_field_splitter: str = "-",
    eq: bool = False,
    version: int = 1,
    migrate: Migration | None = None,
    formerly: tuple[str, ...] = (),
) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(eq_default=False, field_specifiers=(field, autoinc_field))
def persistence_class(
    cls: Any = None,
    /,
    *,
    name: str | None = None,
    filename_field_splitter: str = "-",
    eq: bool = False,
    version: int = 1,
    migrate: Migration | None = None,
    formerly: tuple[str, ...] = (),
) -> Any:
    """Make a class whose objects know the name of their file, and what belongs into it.

    Attributes with `field` are the keys: arguments of `__init__`, and what file names are made
    of. All other annotated attributes are data. They are set later or given to `__init__` by
    keyword, and have to be set when the object is saved, unless the class has a value for them.
    Fields of base classes come first, as in a dataclass.

    Of `__init__`, `__str__` and `__repr__`, those that the class does not define are made;
    `_replace` is made in place of one that it defines, with `auto_generated_content()` inside.

    A pydantic model can be one: its keys are `Annotated[str, field(filename=True)]`, all else
    that it declares is data, and what is read is validated by it.

    Type checkers see `__init__` as that of a dataclass (PEP 681), with data as arguments. For
    data that is assigned later, write `power: np.ndarray = field(init=False)`.

    Args:
        cls: the class.
        name: takes the place of the class's name in file names.
        filename_field_splitter: what stands between the parts of a file name.
        eq: whether objects with the same values are equal; arrays are compared item by item.
            By default, an object is equal to itself only.
        version: of the fields. Count it up when they change, and say how to `migrate`.
        migrate: `migrate(values, version)` turns the values of an older version into those of
            this one. Where files do not keep the version, which are pickles, it is 0.
        formerly: where the class was before, such as `old_module:Spectrum`, if it has moved.

    Returns:
        The class itself, or a decorator.

    Raises:
        InvalidPersistenceClassError: a field cannot be one: says which, and why.
        FieldOrderError: a field without a default follows one with a default.

    Example:
        >>> from prefect_optuna.tasks.persistence import autoinc_field, field, persistence_class
        >>> @persistence_class
        ... class Spectrum:
        ...     animal: str = field(validator=True, filename=True)
        ...     date: str = field(validator=True, filename=True)
        ...     run: int = autoinc_field()
        ...     power: list[float]
        >>> spectrum = Spectrum("lynx", "2026-01-02", power=[0.5, 0.25])
        >>> spectrum
        Spectrum{animal=lynx, date=2026-01-02, run=None}
        >>> str(spectrum)
        'cache-Spectrum-lynx-2026-01-02-None'
    """

    def decorate(cls: type[T]) -> type[T]:
        return _made(
            cls,
            name or cls.__name__,
            eq,
            splitter=filename_field_splitter,
            version=version,
            migrate=migrate,
            formerly=formerly,
        )

    return decorate if cls is None else decorate(cls)


def auto_generated_content(**values: Any) -> Any:
    """Stand in for the body of a method that `persistence_class` makes.

    Args:
        values: anything, so that a linter sees the arguments used.

    Raises:
        RuntimeError: always, for the body is never run.

    Example:
        >>> from prefect_optuna.tasks.persistence import auto_generated_content
        >>> from prefect_optuna.tasks.persistence import field, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        ...     def _replace(self, *, animal: str = ...) -> "Session":
        ...         return auto_generated_content(animal=animal)
        >>> Session("lynx")._replace(animal="hare")
        Session{animal=hare}
    """
    raise RuntimeError("It is auto generated content")


def _made(cls: type[T], name: str, eq: bool, **options: Any) -> type[T]:
    if broken := leads_elsewhere(name) or leads_elsewhere(options["splitter"]):
        raise InvalidPersistenceClassError(
            f"The name {name!r} of a persistence class and its splitter are parts of file names, "
            f"and one of them cannot be: {broken}."
        )
    if re.search(r'[/\\*?\[\]:"<>|\x00-\x1f]', options["splitter"]):
        raise InvalidPersistenceClassError(
            f"{name}: filename_field_splitter={options['splitter']!r} has characters that a file "
            "name cannot have on every system. Take '-' or '_'."
        )
    is_model = issubclass(cls, BaseModel)
    own = _model_fields(cls, name) if is_model else _own_fields(cls, name)
    fields: dict[str, PersistentField] = {}
    for base in reversed(cls.__mro__[1:]):
        info: PersistentClass[Any] | None = vars(base).get(INFO)
        if info is not None:
            fields.update({declared.field_name: declared for declared in info.fields})
    fields.update(own)
    _check(name, list(fields.values()), in_order=not is_model)
    for declared in own.values():
        _leave_in_class(cls, declared)
    info = PersistentClass(cls, name, list(fields.values()), home=_home(cls), **options)
    setattr(cls, INFO, info)
    CLASSES[info.home] = cls
    generate(info, eq)
    return cls


def _own_fields(cls: type, name: str) -> dict[str, PersistentField]:
    annotations = inspect.get_annotations(cls)
    for attribute, value in vars(cls).items():
        if isinstance(value, PersistentField) and attribute not in annotations:
            raise InvalidPersistenceClassError(
                f"{name}.{attribute} is a field without a type. Write {attribute}: str = field(...)"
            )
    fields: dict[str, PersistentField] = {}
    for attribute, annotation in annotations.items():
        if _is_class_variable(annotation):
            continue
        value = vars(cls).get(attribute, missing)
        own = value
        if not isinstance(value, PersistentField):
            own = PersistentField(init=False, optional=value is not missing and value is not None)
        elif own.field_name:
            raise InvalidPersistenceClassError(
                f"{name}.{attribute} and {own.field_name} share one field(): make one for each."
            )
        own.field_name, own.owner, own.annotation = attribute, cls, annotation
        if own.autoinc and not _is_int(annotation, cls):
            raise InvalidPersistenceClassError(
                f"type of autoinc field {attribute} should be int, but {type_text(annotation)} was "
                f"found in {name}. Write {attribute}: int = autoinc_field()."
            )
        fields[attribute] = own
    return fields


def _model_fields(cls: type[BaseModel], name: str) -> dict[str, PersistentField]:
    """The fields of a pydantic model; those with `Annotated[..., field(...)]` are the keys."""
    fields: dict[str, PersistentField] = {}
    for attribute, info in cls.model_fields.items():
        declared = [copy(item) for item in info.metadata if isinstance(item, PersistentField)]
        own = declared[0] if declared else PersistentField()
        if own.autoinc and cls.model_config.get("frozen"):
            raise InvalidPersistenceClassError(
                f"{name}.{attribute} is to be numbered when it is saved, and the model is frozen. "
                "Leave out frozen=True, or the autoinc_field()."
            )
        if not info.is_required():
            own.default, own.default_factory = info.default, None
        own.field_name, own.owner, own.annotation = attribute, cls, info.annotation
        fields[attribute] = own
    return fields


def _leave_in_class(cls: type, one: PersistentField) -> None:
    """Leave the default of data in place of a declaration, or nothing."""
    if not isinstance(vars(cls).get(one.field_name), PersistentField):
        return
    if not one.init and one.default is not missing:
        setattr(cls, one.field_name, one.default)
        one.optional = one.default is not None
    else:
        delattr(cls, one.field_name)


def _check(name: str, fields: list[PersistentField], *, in_order: bool) -> None:
    counters = [declared.field_name for declared in fields if declared.autoinc]
    if len(counters) > 1:
        raise InvalidPersistenceClassError(
            f"duplicated auto_inc_field: {name} has {' and '.join(counters)}, and a file has one "
            "number. Keep one of them."
        )
    before = None
    for declared in fields:
        if not declared.init or not in_order:
            continue
        if declared.has_default:
            before = declared.field_name
        elif before is not None:
            raise FieldOrderError(
                f"{name}: field {declared.field_name!r}, which has no default, follows {before!r}, "
                "which has one or counts. Put it first, or give it a default."
            )


def _is_class_variable(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return _CLASS_VARIABLE.match(annotation) is not None
    return annotation is ClassVar or typing.get_origin(annotation) is ClassVar


def _is_int(annotation: Any, cls: type) -> bool:
    if isinstance(annotation, str):
        names = {**vars(typing), **getattr(sys.modules.get(cls.__module__), "__dict__", {})}
        try:
            annotation = eval(annotation, names)  # noqa: S307 - it is the user's own annotation
        except Exception:  # noqa: BLE001 - a name that only type checkers see
            return False
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation is int


def _home(cls: type) -> str:
    """Name the place where a class is defined, independently of how the file is run."""
    module = sys.modules.get(cls.__module__)
    spec = getattr(module, "__spec__", None)
    file = getattr(module, "__file__", None)
    if file is not None:
        path = Path(file)
        stem = path.parent.name if path.stem in ("__init__", "__main__") else path.stem
    else:
        stem = (spec.name if spec else cls.__module__).rpartition(".")[2]
    return f"{stem}:{cls.__qualname__}"
