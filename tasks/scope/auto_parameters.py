"""`auto_param`: a function whose defaults can be set from a scope."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import (
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)
from weakref import WeakValueDictionary

from prefect_optuna.errors import InvalidParameterError

# As a module, and not its functions: see there.
from prefect_optuna.tasks.scope import frames
from prefect_optuna.tasks.scope.frames import (
    CONVERTERS,
    MISSING,
    Frame,
    Reader,
    as_literal,
    get,
    put,
)

# Fill the arguments of a call from a scope.
#
# The wrapper of a function is compiled with the function's own parameters, as `dataclasses`
# compiles methods: to gather `*args` and `**kwargs`, and to spread them again, takes longer than
# all of the rest. Each default is replaced by `MISSING`, so that the wrapper sees what a call has
# left open.


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


# Functions whose body runs later than the call: coroutines, and generators of both kinds.
#
# Their body sees the scope of the call, whatever is in force where it is awaited or iterated, and
# what it does with scopes never shows outside while it is suspended.


def is_deferred(function: Any) -> bool:
    """Tell whether the body of a function runs later than the call."""
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    )


class DeferredFunction:
    """A coroutine or generator function whose body runs in the scope of the call.

    No function, since none could look at the scope when it is called and still be a coroutine
    function for `inspect`. That takes anything for a function that has these attributes.
    """

    def __init__(self, function: Any, plan: Plan) -> None:
        inner = without_partial(function)
        functools.update_wrapper(self, inner)
        self.__wrapped__: Any = function
        self.__code__: Any = inner.__code__
        self.__defaults__: Any = inner.__defaults__
        self.__kwdefaults__: Any = inner.__kwdefaults__
        self.__auto_param__ = plan
        self._call = bind(function, plan, "return CALL, §before")

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - the function's own
        return in_frame(*self._call(*args, **kwargs))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<auto_param {self.__wrapped__!r}>"

    def __reduce__(self) -> Any:
        return DeferredFunction, (self.__wrapped__, self.__auto_param__)


def in_frame(body: Any, frame: Frame) -> Any:
    """Have a coroutine or a generator that has not started run in a frame."""
    reader = Reader(frame)
    if inspect.iscoroutine(body):
        wrapper: Any = _awaited(body, frame, reader)
    elif inspect.isgenerator(body):
        wrapper = _iterated(body, frame, reader)
    else:
        wrapper = _async_iterated(body, frame, reader)
    wrapper.__name__, wrapper.__qualname__ = body.__name__, body.__qualname__
    return wrapper


async def _awaited(body: Coroutine[Any, Any, Any], frame: Frame, reader: Reader) -> Any:
    outer = get()
    put(frame)
    try:
        return await body
    finally:
        put(outer)
        reader.is_done()


def _iterated(
    body: Generator[Any, Any, Any], frame: Frame, reader: Reader
) -> Generator[Any, Any, Any]:
    step: Any = body.send
    argument: Any = None
    while True:
        outer = get()
        put(frame)
        try:
            item = step(argument)
        except StopIteration as stop:
            reader.is_done()
            return stop.value
        finally:
            frame = get()
            put(outer)
        try:
            argument = yield item
            step = body.send
        except GeneratorExit:
            outer = get()
            put(frame)
            try:
                body.close()
            finally:
                put(outer)
            raise
        except BaseException as error:  # noqa: BLE001 - the body has the say
            step, argument = body.throw, error


async def _async_iterated(
    body: AsyncGenerator[Any, Any], frame: Frame, reader: Reader
) -> AsyncGenerator[Any, Any]:
    step: Any = body.asend
    argument: Any = None
    while True:
        outer = get()
        put(frame)
        try:
            item = await step(argument)
        except StopAsyncIteration:
            reader.is_done()
            return
        finally:
            frame = get()
            put(outer)
        try:
            argument = yield item
            step = body.asend
        except GeneratorExit:
            outer = get()
            put(frame)
            try:
                await body.aclose()
            finally:
                put(outer)
            raise
        except BaseException as error:  # noqa: BLE001 - the body has the say
            step, argument = body.athrow, error


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
