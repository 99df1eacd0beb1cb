"""`auto_param`: a function whose defaults can be set from a scope."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints, overload
from weakref import WeakValueDictionary

from prefect_optuna.errors import InvalidParameterError
from prefect_optuna.tasks.scope.deferred import DeferredFunction, is_deferred
from prefect_optuna.tasks.scope.filling import Plan, make_slot, without_partial, wrap
from prefect_optuna.tasks.scope.values import MISSING

_F = TypeVar("_F", bound=Callable[..., Any])

# By namespace and function, as long as the function exists.
_registered: WeakValueDictionary[tuple[str, str], Any] = WeakValueDictionary()


@dataclass(frozen=True)
class AutoParameter:
    """A parameter that a scope can set.

    Args:
        name: its key in a scope, such as `"simulate.dt"`.
        type: what it is annotated with, if that is a class, else the type of the default.
        default: what it is where no scope sets it; `MISSING` if it is required.
        doc: what the `Args` section of the function's docstring says of it, or nothing.
        function: the function, by module and qualified name.
        choices: what it may be, where it is annotated with a `Literal`.

    Example:
        >>> from prefect_optuna.tasks.scope import auto_param, auto_params
        >>> @auto_param("docs.listed")
        ... def simulate(dt: float = 0.1):
        ...     '''Simulate.
        ...
        ...     Args:
        ...         dt: time step, in years.
        ...     '''
        >>> [dt] = [p for p in auto_params() if p.name == "docs.listed.dt"]
        >>> dt.type, dt.default, dt.doc
        (<class 'float'>, 0.1, 'time step, in years.')
    """

    name: str
    type: Any
    default: Any
    doc: str
    function: str
    choices: tuple[Any, ...] = ()


@overload
def auto_param(
    target: str | None = None,
    /,
    *,
    required: bool = False,
    qualname: bool = False,
    literal: bool = False,
) -> Callable[[_F], _F]: ...


@overload
def auto_param(
    target: _F, /, *, required: bool = False, qualname: bool = False, literal: bool = False
) -> _F: ...


def auto_param(
    target: Any = None, /, *, required: bool = False, qualname: bool = False, literal: bool = False
) -> Any:
    """Let a scope set the defaults of a function's parameters.

    The parameter `dt` of a function `simulate` takes its value from, in this order: the call,
    by keyword or by position; the key `simulate.dt` of the scope; the default. A value of a
    scope takes on the type of the default, as in `param_scope.simulate.dt(0.1)`; what cannot,
    such as `"abc"` for a number, stays as it is. `optimize` refuses it.

    The body runs in a scope of its own: what it writes ends with it. A coroutine, and a generator
    of either kind, runs in the scope of the call, also when that has been left by the time it is
    awaited or iterated. A class stays the class that it is: its `__init__` is wrapped. What
    `**keywords` takes is never filled.

    Args:
        target: the function or class; or the namespace in place of its name, such as
            `"model.encoder"`; or nothing.
        required: whether parameters without a default are filled from the scope as well; they
            take on the type they are annotated with, if that is `bool`, `int`, `float` or `str`.
        qualname: whether the namespace is the qualified name: `Model.fit`, not `fit`.
        literal: whether a text in the scope is read as a Python literal where the default is
            neither of those types, such as `"[8, 8]"` for a list.

    Returns:
        The function, wrapped, or the class itself; without one, a decorator.

    Raises:
        InvalidParameterError: the target is no function and no class.

    Example:
        >>> from prefect_optuna.tasks.scope import auto_param, param_scope
        >>> @auto_param
        ... def simulate(years, dt=0.1):
        ...     return years, dt
        >>> with param_scope("simulate.dt=0.01"):
        ...     simulate(90), simulate(90, 0.5), simulate(90, dt=0.5)
        ((90, 0.01), (90, 0.5), (90, 0.5))
        >>> @auto_param("model.encoder")
        ... class Encoder:
        ...     def __init__(self, width=8):
        ...         self.width = width
        >>> with param_scope(model={"encoder": {"width": 16}}):
        ...     Encoder().width
        16
    """
    if target is None or isinstance(target, str):
        return functools.partial(
            _decorate, namespace=target, required=required, qualname=qualname, literal=literal
        )
    return _decorate(target, None, required=required, qualname=qualname, literal=literal)


def auto_params() -> tuple[AutoParameter, ...]:
    """All parameters that a scope can set: those of the `auto_param` functions that exist.

    Modules that have not been imported are not known yet.

    Returns:
        The parameters, in the order of their names.

    Example:
        >>> from prefect_optuna.tasks.scope import auto_param, auto_params
        >>> @auto_param("docs.listing")
        ... def listed(a=1, b="x"):
        ...     pass
        >>> [p.name for p in auto_params() if p.name.startswith("docs.listing")]
        ['docs.listing.a', 'docs.listing.b']
    """
    parameters: list[AutoParameter] = []
    for wrapper in list(_registered.values()):
        plan: Plan = wrapper.__auto_param__
        hints, docs = _hints(wrapper), _docs(wrapper)
        parameters += [
            AutoParameter(
                slot.key,
                _type(hints.get(slot.name), slot.default),
                slot.default,
                docs.get(slot.name, ""),
                plan.function,
                _choices(hints.get(slot.name)),
            )
            for slot in plan.slots
        ]
    return tuple(sorted(parameters, key=lambda parameter: (parameter.name, parameter.function)))


def known_names() -> set[str]:
    """The keys of all parameters of `auto_param` functions."""
    return {slot.key for w in list(_registered.values()) for slot in w.__auto_param__.slots}


def find_default(key: str) -> tuple[str, Any] | None:
    """The function that has a default for a key, and the default."""
    for wrapper in list(_registered.values()):
        plan: Plan = wrapper.__auto_param__
        for slot in plan.slots:
            if slot.key == key and slot.default is not MISSING:
                return plan.function, slot.default
    return None


def _decorate(
    target: Any, namespace: str | None, required: bool, qualname: bool, literal: bool
) -> Any:
    options = {"required": required, "qualname": qualname, "literal": literal}
    if isinstance(target, (staticmethod, classmethod)):
        method = cast("staticmethod[..., Any]", target)
        return type(method)(_decorate(method.__func__, namespace, **options))
    if not callable(target) or hasattr(target, "with_options"):
        raise InvalidParameterError(
            f"auto_param is for functions and classes, found {target!r}. Put it below other "
            "decorators, next to the function: @task, and then @auto_param."
        )
    function = without_partial(target)
    name = namespace or (_qualified(function) if qualname else function.__name__)
    if not isinstance(target, type):
        return _wrap(target, name, required, literal)
    for method in ("__init__", "__new__"):
        maker = getattr(target, method)
        if isinstance(inspect.unwrap(maker), FunctionType):
            wrapper = _wrap(maker, name, required, literal)
            setattr(target, method, staticmethod(wrapper) if method == "__new__" else wrapper)
            break
    return target


def _wrap(function: Any, namespace: str, required: bool, literal: bool) -> Any:
    try:
        parameters = tuple(inspect.signature(function).parameters.values())
    except ValueError as error:
        raise InvalidParameterError(
            f"auto_param cannot see what {function!r} takes: {error}."
        ) from error
    hints = _hints(function) if required else {}
    slots = tuple(
        make_slot(parameter, namespace, hints.get(parameter.name), literal)
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and (required or parameter.default is not parameter.empty)
    )
    plan = Plan(_full_name(function), namespace, parameters, slots)
    wrapper = DeferredFunction(function, plan) if is_deferred(function) else wrap(function, plan)
    if slots:
        _registered[namespace, plan.function] = wrapper
    return wrapper


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(inspect.unwrap(function))
    except Exception:  # noqa: BLE001 - an annotation is any expression, and may need what is not there
        return {}


def _docs(function: Any) -> dict[str, str]:
    from prefect.utilities.callables import parameter_docstrings

    return parameter_docstrings(inspect.getdoc(function))


def _type(hint: Any, default: Any) -> Any:
    if isinstance(hint, type):
        return hint
    return Any if default is MISSING else type(default)


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else ()


def _qualified(function: Any) -> str:
    return function.__qualname__.rpartition("<locals>.")[2]


def _full_name(function: Any) -> str:
    inner = without_partial(function)
    return f"{inner.__module__}.{inner.__qualname__}"
