"""Fill the arguments of a call from a scope.

The wrapper of a function is compiled with the function's own parameters, as `dataclasses` compiles
methods: to gather `*args` and `**kwargs`, and to spread them again, takes longer than all of the
rest. Each default is replaced by `MISSING`, so that the wrapper sees what a call has left open.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from prefect_optuna.errors import InvalidParameterError

# As a module, and not its functions: see there.
from prefect_optuna.tasks.scope import frames
from prefect_optuna.tasks.scope.frames import Frame
from prefect_optuna.tasks.scope.values import CONVERTERS, MISSING, as_literal


class Slot(NamedTuple):
    """A parameter that can be filled.

    Attributes:
        key: its key in a scope.
        name: the parameter.
        default: the default, or `MISSING`.
        kind: the type that a value takes on.
        convert: how; `None` if there is no way.
    """

    key: str
    name: str
    default: Any
    kind: Any
    convert: Callable[[Any, Any], Any] | None


class Plan(NamedTuple):
    """A plan of what to fill in the calls of one function.

    Attributes:
        function: the function, by module and qualified name.
        namespace: what the keys begin with.
        parameters: all its parameters.
        slots: those that can be filled.
    """

    function: str
    namespace: str
    parameters: tuple[inspect.Parameter, ...]
    slots: tuple[Slot, ...]


def make_slot(parameter: inspect.Parameter, namespace: str, hint: Any, literal: bool) -> Slot:
    """Return what it takes to fill a parameter."""
    default, kind = parameter.default, type(parameter.default)
    if default is parameter.empty:
        default, kind = MISSING, hint
    convert = CONVERTERS.get(kind, _literal if literal else None)
    return Slot(f"{namespace}.{parameter.name}", parameter.name, default, kind, convert)


def _literal(value: Any, default: Any) -> Any:
    return as_literal(value) if isinstance(value, str) else value


def wrap(function: Any, plan: Plan) -> Any:
    """A function that fills what a call leaves open, and whose writes end with the call."""
    wrapper = bind(function, plan, _IN_A_SCOPE_OF_ITS_OWN)
    wrapper.__auto_param__ = plan
    return wrapper


def take(slot: Slot, frame: Frame) -> Any:
    """The value of a parameter that a call has left open."""
    key, name, default, kind, convert = slot
    values = frame[0]
    if key in values:
        value = values[key]
        if (reads := frame[4]) is not None:
            reads[key] = None
        if type(value) is not kind and convert is not None and value is not None:
            value = convert(value, default)
    elif default is MISSING:
        raise InvalidParameterError(
            f"The argument {name!r} is required: pass it, or set {key!r} in a scope."
        )
    else:
        value = default
    if frame[5]:
        for recorder in frame[5]:
            recorder[key] = value
    return value


_IN_A_SCOPE_OF_ITS_OWN = """
        try:
            return CALL
        finally:
            if §frames.get() is not §before:
                §frames.undo(§before)
"""


def bind(function: Any, plan: Plan, body: str) -> Any:
    """Compile a function that has the parameters of another, and fills those it is not given."""
    names = [slot.name for slot in plan.slots]
    signature = inspect.Signature([_marked(parameter, names) for parameter in plan.parameters])
    call = f"§function({', '.join(map(_passed_on, plan.parameters))})"
    idle = busy = "pass"
    for slot in plan.slots:
        taken = f"§take(§slot_{slot.name}, §before)"
        default = taken if slot.default is MISSING else f"§default_{slot.name}"
        idle += f"\n            if {slot.name} is §MISSING: {slot.name} = {default}"
        busy += f"\n            if {slot.name} is §MISSING: {slot.name} = {taken}"
    given = ", ".join(f"§slot_{name}, §default_{name}" for name in names)
    source = f"""
def make(§function, §frames, §take, §MISSING, {given}):
    def call{signature}:
        §before = §frames.get()
        if §before is §frames.bare:
            {idle}
        else:
            {busy}
        {body.strip().replace("CALL", call)}
    return call
"""
    prefix = "_"
    while any(parameter.name.startswith(prefix) for parameter in plan.parameters):
        prefix += "_"
    namespace: dict[str, Any] = {}
    exec(source.replace("§", prefix), namespace)  # noqa: S102 - made of names of parameters only
    # As plain tuples, which Python takes apart faster than named ones.
    slots = [part for slot in plan.slots for part in (tuple(slot), slot.default)]
    compiled = namespace["make"](function, frames, take, MISSING, *slots)
    functools.update_wrapper(compiled, without_partial(function))
    compiled.__wrapped__ = function
    return compiled


def without_partial(function: Any) -> Any:
    """The function that a `functools.partial` is of, which has a name."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


class _Mark:
    """A default as the compiled text has it."""

    def __repr__(self) -> str:
        return "§MISSING"


def _marked(parameter: inspect.Parameter, names: list[str]) -> inspect.Parameter:
    default = _Mark() if parameter.name in names else parameter.default
    return parameter.replace(default=default, annotation=parameter.empty)


def _passed_on(parameter: inspect.Parameter) -> str:
    before = {
        parameter.VAR_POSITIONAL: "*",
        parameter.VAR_KEYWORD: "**",
        parameter.KEYWORD_ONLY: f"{parameter.name}=",
    }
    return before.get(parameter.kind, "") + parameter.name
