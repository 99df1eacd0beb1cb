"""`ParamScope`: a set of parameters that is in force for the length of a `with` block."""

from __future__ import annotations

import copy
import difflib
import math
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from sys import _getframe  # pyright: ignore[reportPrivateUsage]
from types import TracebackType
from typing import Any, NoReturn, Self

import cloudpickle

from prefect_optuna.blocks._secrets import is_secret_name, public_text
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.errors import (
    InvalidParameterError,
    UnknownNameError,
    UnreadParameterWarning,
)
from prefect_optuna.tasks.scope.auto_parameters import auto_params, find_default, known_names
from prefect_optuna.tasks.scope.frames import (
    AWAY,
    CONVERTERS,
    MISSING,
    Frame,
    Layer,
    Origin,
    Reads,
    caller,
    coerce,
    describe,
    find,
    flatten,
    get,
    origin_of,
    origins_of,
    parse_assignments,
    pop,
    put,
    view,
    write,
)

# The accessor `param_scope.a.b`: a parameter by its name, to be read or set.


class Accessor:
    r"""A parameter by its name. It refers to the value, and never is the value.

    | expression | what it does |
    |---|---|
    | `param_scope.a.b()` | the value; `UnknownNameError` where there is none |
    | `param_scope.a.b(1)`, `param_scope.a.b \| 1` | the value as an `int`, or 1 without one |
    | `param_scope.a.b(None)` | the value as it is, or `None` |
    | `param_scope.a.b([], literal=True)` | a text is read as a Python literal |
    | `bool(param_scope.a.b)` | whether there is a value that counts as true |
    | `param_scope.a.b = 2` | set it in the innermost scope |

    `None` is a value like any other: a default takes its place only if the parameter is missing.
    A parameter named `get_or_else`, or one whose name has two leading and trailing underscores, is
    reached by index: `param_scope["model.get_or_else"]`.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> with param_scope("simulate.dt=0.01"):
        ...     param_scope.simulate.dt(1.0), param_scope.simulate.steps | 100
        (0.01, 100)
    """

    __slots__ = ("__dict__", "_layer", "_name")

    _layer: Layer | None
    _name: str

    def __init__(self, layer: Layer | None, name: str) -> None:
        _set_accessor_layer(self, layer)
        _set_name(self, name)

    def __call__(self, default: Any = MISSING, *, literal: bool = False) -> Any:
        """Read the parameter.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(seed="7").seed(0)
            7
        """
        frame = get()
        layer = self._layer
        if layer is not None and layer is not frame[2]:
            frame = view(layer)
        # Values, reads and recorders; unpacking all of a frame takes longer.
        name = self._name
        value = frame[0].get(name, MISSING)
        if (reads := frame[4]) is not None:
            reads[name] = None
        if value is MISSING:
            if default is MISSING:
                raise _missing(name)
            value = default
        elif type(value) is not type(default) and default is not MISSING:
            value = coerce(value, default, literal)
        if frame[5]:
            for recorder in frame[5]:
                recorder[name] = value
        return value

    __or__ = __call__

    def get_or_else(self, default: Any = None) -> Any:
        """Read the parameter, or the default where it is missing.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(seed="7").seed.get_or_else(0)
            7
        """
        return self(default)

    def __bool__(self) -> bool:
        return bool(self(None))

    def __getattr__(self, name: str) -> Accessor:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(
                f"{name!r} is no parameter by attribute; use an index: [{name!r}]."
            )
        child = self.__dict__[name] = Accessor(self._layer, self._child(name))
        return child

    def __getitem__(self, name: str) -> Accessor:
        return Accessor(self._layer, self._child(checked_key(name)))

    def __setattr__(self, name: str, value: Any) -> None:
        write(self._layer, flatten({self._child(name): value}), caller(1))

    def __setitem__(self, name: str, value: Any) -> None:
        write(self._layer, flatten({self._child(checked_key(name)): value}), caller(1))

    def _child(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name

    def __repr__(self) -> str:
        values = (get() if self._layer is None else view(self._layer))[0]
        return f"<{self._name} in {show(values)}>"

    def __reduce__(self) -> Any:
        # The accessors of `param_scope` only: those of a scope go with the scope.
        if self._layer is None:
            return Accessor, (None, self._name)
        raise InvalidParameterError(
            f"{self._name!r} is taken from a scope, and such a reference cannot be pickled. "
            "Pass the scope, or the value: call it."
        )

    def __copy__(self) -> Accessor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Accessor:
        return self

    def __iter__(self) -> NoReturn:
        raise self._no_value("iterated over")

    def __contains__(self, item: object) -> NoReturn:
        raise self._no_value("searched")

    def __len__(self) -> NoReturn:
        raise self._no_value("measured")

    def _no_value(self, action: str) -> InvalidParameterError:
        return InvalidParameterError(
            f"The parameter {self._name!r} cannot be {action}: it is a reference, not its value. "
            f"Read it with {self._name}() or, with a default, {self._name}(1) or {self._name} | 1."
        )


def show(values: dict[str, Any]) -> str:
    """A scope as the call that makes it."""
    shown = [f"{key}={value!r}" for key, value in values.items() if key.isidentifier()]
    if rest := {key: value for key, value in values.items() if not key.isidentifier()}:
        shown.append(f"**{rest!r}")
    return f"param_scope({', '.join(shown)})"


def _missing(name: str) -> UnknownNameError:
    return UnknownNameError(
        f"The parameter {name!r} is required and in no scope. Set it, "
        f"with param_scope(**{{{name!r}: ...}}): ..., or read it with a default."
    )


def checked_key(name: Any) -> str:
    """A key, once it is certain to be text."""
    if not isinstance(name, str):
        raise InvalidParameterError(
            f"A parameter's key has to be text, found {name!r} ({type(name).__name__})."
        )
    return name


def _refusal(action: str) -> Any:
    def refuse(self: Accessor, *others: object) -> NoReturn:
        raise self._no_value(action)  # pyright: ignore[reportPrivateUsage]

    return refuse


# To be slots they have to be in the class; what they say is the same for all.
_OPERATORS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod divmod rdivmod pow "
    "rpow matmul rmatmul lshift rlshift rshift rrshift and rand xor rxor ror lt le gt ge neg pos "
    "abs invert round"
)
for _operator in _OPERATORS.split(" "):
    setattr(Accessor, f"__{_operator}__", _refusal("calculated with or compared"))
for _conversion in ("int", "float", "complex", "index"):
    setattr(Accessor, f"__{_conversion}__", _refusal("converted"))

# Past `__setattr__`, which sets parameters.
_set_accessor_layer: Any = vars(Accessor)["_layer"].__set__
_set_name: Any = vars(Accessor)["_name"].__set__


# A key that was set and never read is probably misspelt: a warning says so, once, at the end.
#
# What is read is noted in a dictionary that the outermost scope and all scopes within it share,
# and the threads that they are carried to. Where reads may happen unseen, in another process,
# every key counts as read.


enabled: bool = True

_LINES = 5

# Where a warning has been given, under which filters. `warnings.catch_warnings` makes new ones.
_warned: set[tuple[object, ...]] = set()
_filters: object = None


def switch(on: bool) -> None:
    """Say whether scopes entered from now on, in this process, warn of keys that nobody reads.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> param_scope.warn_unread(False)
        >>> with param_scope(simulat=1):
        ...     pass
        >>> param_scope.warn_unread(True)
    """
    global enabled
    enabled = on


def warn(reads: Reads) -> None:
    """Warn, at the end of an outermost scope, of what was set in it and never read."""
    global _filters
    if _filters is not warnings.filters:
        _filters = warnings.filters
        _warned.clear()
    unread: dict[str, Origin] = {}
    places: list[tuple[object, ...]] = []
    for key, content in list(reads.items()):
        if content is None:
            continue
        if content is AWAY:
            return
        origin = content[3] if content[1] is None else origin_of(content, str(key))
        place = (key, origin) if isinstance(origin, str) else (key, id(origin[0]), origin[1])
        # Once at each place, as Python does it, but before the costly search for names.
        if place not in _warned:
            places.append(place)
            unread[str(key)] = origin
    if unread:
        _warned.update(places)
        asked = {str(name) for name, content in list(reads.items()) if content is None}
        warnings.warn(_message(unread, asked), UnreadParameterWarning, stacklevel=3)


def _message(unread: dict[str, Origin], asked: set[str]) -> str:
    """One line for each key, first those that may be misspelt, and not too many."""
    hints = {key: nearest(key, asked) for key in unread}
    lines = [
        f"{key} was set and never read"
        + (f"; did you mean {hints[key]}?" if hints[key] else "")
        + f" ({describe(unread[key])})"
        for key in sorted(unread, key=lambda key: hints[key] is None)
    ]
    rest = [f"... and {len(lines) - _LINES} more keys"] if len(lines) > _LINES else []
    return "\n".join(lines[:_LINES] + rest)


def nearest(key: str, asked: set[str]) -> str | None:
    """The name that a key may have been meant to be: one asked for, or one of `auto_param`'s."""
    known = asked | known_names()
    if key in known:
        return None
    matches = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    # Or the function's name is left out.
    matches += sorted(name for name in known if name.endswith(f".{key}"))
    return matches[0] if matches else None


def may_be_read_elsewhere(frame: Frame) -> None:
    """Mark all values as read: the frame goes to another process, which does not report."""
    values, _, _, _, reads, _ = frame
    if reads is not None:
        reads.update(dict.fromkeys(values))


def _before_fork() -> None:
    may_be_read_elsewhere(get())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)


# Values that somebody sets from outside, for a whole study: of the right name and the right type.
#
# `param_scope` itself converts what it can and leaves the rest as it is, as the package that it
# comes from does. Who sets `simulate.dt` for a study is told in a sentence.


def check_types(values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Refuse values that do not become of the type that the code takes."""
    if not values:
        return
    wanted: Mapping[str, Any] = (
        {known.name: known.default for known in auto_params()} if defaults is None else defaults
    )
    for key, value in flatten(values).items():
        default = wanted.get(key, MISSING)
        if value is None or type(default) not in CONVERTERS or _becomes(value, default):
            continue
        kind, given = type(default).__name__, type(value).__name__
        if not is_secret_name(key):
            given = f"{public_text(repr(value))} ({given})"
        raise InvalidParameterError(
            f"{key!r} is {'an' if kind == 'int' else 'a'} {kind}, such as {default!r}; found "
            f"{given}."
        )


def _becomes(value: Any, default: Any) -> bool:
    if isinstance(default, str) or getattr(value, "shape", ()):
        return True
    if isinstance(default, bool):
        return coerce(value, True) is coerce(value, False)  # what says nothing gives the default
    coerced = coerce(value, default)
    if isinstance(default, float):
        return isinstance(coerced, float)
    fraction = isinstance(value, float) and not (math.isfinite(value) and value.is_integer())
    return isinstance(coerced, int) and not fraction


def check_names(values: Mapping[str, Any], read: Set[str]) -> tuple[str, ...]:
    """Refuse a name that is misspelt.

    Example:
        >>> from prefect_optuna.tasks.scope.scope import check_names
        >>> check_names({"simulat.dt": 1}, {"simulate.dt"})
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidParameterError: Nothing reads 'simulat.dt'; did ...
    """
    unknown = [key for key in flatten(values) if key not in read]
    for key in unknown:
        if (near := nearest(key, set(read))) is not None:
            raise InvalidParameterError(f"Nothing reads {key!r}; did you mean {near!r}?")
    return tuple(unknown)


def unread_words(unread: Set[str], read: Set[str]) -> str:
    """A sentence for people about keys that were set and not read.

    Example:
        >>> from prefect_optuna.tasks.scope.scope import unread_words
        >>> unread_words({"simulat.dt"}, {"simulate.dt"})
        "'simulat.dt' was set and not read; did you mean 'simulate.dt'?"
    """
    words: list[str] = []
    for key in sorted(unread):
        near = nearest(key, set(read))
        words.append(
            f"{key!r} was set and not read" + (f"; did you mean {near!r}?" if near else ".")
        )
    return " ".join(words)


# The layer that gave a parameter its value: scopes from the inside out, then the default.


@dataclass(frozen=True)
class Explanation:
    """The origin of a parameter's value.

    Args:
        name: the dotted key.
        layers: everything that gives it a value, the one that counts first: where that is, and
            the value there. Empty if nothing does.
        hint: the known name that is nearest, where nothing gives it a value.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> with param_scope.labelled({"dt": 0.1}, origin="study lynx-hare"):
        ...     with param_scope.labelled({"dt": 0.2}, origin="trial 17"):
        ...         print(param_scope.explain("dt"))
        dt = 0.2 from trial 17, in place of 0.1 from study lynx-hare
    """

    name: str
    layers: tuple[tuple[str, Any], ...]
    hint: str | None = None

    @property
    def origin(self) -> str | None:
        """The layer that the value comes from; `None` if it has none.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope.labelled({"dt": 0.2}, origin="trial 17"):
            ...     param_scope.explain("dt").origin
            'trial 17'
        """
        return self.layers[0][0] if self.layers else None

    @property
    def value(self) -> Any:
        """The value; `None` if it has none.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope.labelled({"dt": 0.2}, origin="trial 17"):
            ...     param_scope.explain("dt").value
            0.2
        """
        return self.layers[0][1] if self.layers else None

    def __str__(self) -> str:
        if not self.layers:
            hint = (
                f"; did you mean {self.hint}?"
                if self.hint
                else "; one inside another function is known once that is called"
            )
            return visible_line(f"{self.name} is not set, and no auto_param function has it{hint}")
        first, *others = [f"{value!r} from {origin}" for origin, value in self.layers]
        rest = f", in place of {', '.join(others)}" if others else ""
        return visible_line(f"{self.name} = {first}{rest}")


def explain(name: str, frame: Frame) -> Explanation:
    """Explain a parameter as it is read in a frame."""
    layers = [(describe(origin), value) for origin, value in origins_of(name, frame)]
    if (known := find_default(name)) is not None:
        function, default = known
        layers = [(origin, coerce(value, default)) for origin, value in layers]
        layers.append((f"the default in {function}", default))
    return Explanation(name, tuple(layers), None if layers else nearest(name, set(frame[0])))


class ParamScope(Mapping[str, Any]):
    """Parameters, in force for everything that runs within its `with` block.

    `param_scope(...)` makes one. It sees the values of the scope around it; which one that is
    shows when it is entered. A scope that is not entered reads as if it were entered now.

    Keys are dotted names, taken as they are. Nested dictionaries are flattened to them. The
    names of the methods (`keys`, `get`, `update`, ...) are fine as keys; reach them by index,
    `scope["keys"]`, or by call, `scope("keys")(default)`.

    It is a mapping, with one departure: `scope["missing"]` is no error but a reference, so that
    `scope["missing"] | 5` is 5.

    Args:
        assignments: texts `key=value`, split at the first equals sign; the value stays text, and
            becomes a number where it is read with one as the default. They go before `values`.
        values: the parameters.

    Raises:
        InvalidParameterError: an argument or a key is no text.
        InvalidSettingError: a text has no equals sign.

    Warns:
        UnreadParameterWarning: at the end of the outermost scope, of a key that nobody has read.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> with param_scope("optimizer.lr=0.1", model={"depth": 3}) as scope:
        ...     scope.optimizer.lr(1.0), param_scope.model.depth(1), param_scope.model.width(8)
        (0.1, 3, 8)
        >>> scope
        param_scope(**{'model.depth': 3, 'optimizer.lr': '0.1'})
    """

    __slots__ = ("__dict__", "_layer")

    _layer: Layer

    def __init__(self, /, *assignments: str, **values: Any) -> None:
        for key in values:
            if isinstance(values[key], dict):
                values = flatten(values)
                break
        if assignments:
            values |= parse_assignments(assignments)
        caller = _getframe(1)
        # Names and values of a content: see `frames`.
        _set_layer(self, [(values, None, True, (caller.f_code, caller.f_lasti), True)])

    def __enter__(self) -> Self:
        # As `entered` does, only faster.
        layer = self._layer
        content = layer[0]
        outer = get()
        values, _, _, _, reads, recorders = outer
        if reads is None and enabled:
            reads = {}
        own = content[0]
        put((values | own if content[2] else own, content, layer, outer, reads, recorders))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        layer = self._layer
        frame: Frame | None = get()
        parent = frame[3]
        if frame[2] is layer and parent is not None:
            put(parent)
        elif (frame := pop(layer)) is None:
            return
        else:
            parent = frame[3]
        content, reads = frame[1], frame[4]
        # What was written inside stays readable, and is there when it is entered again.
        layer[0] = content
        if reads is not None and kind is None:
            if content[4]:
                for key in content[0]:
                    if key not in reads:
                        reads[key] = content
            # In one go, for other threads may still read.
            if (parent is None or parent[4] is not reads) and any(reads.values()):
                warn(reads)

    def __call__(self, name: str = "") -> Accessor:
        """A parameter by its name, whatever the name is.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(keys=3)("keys")(0), param_scope(keys=3)().keys(0)
            (3, 3)
        """
        return Accessor(self._layer, name)

    def __getattr__(self, name: str) -> Accessor:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(
                f"{name!r} is no parameter by attribute; use an index: [{name!r}]."
            )
        accessor = self.__dict__[name] = Accessor(self._layer, name)
        return accessor

    def __setattr__(self, name: str, value: Any) -> None:
        write(self._layer, flatten({name: value}), caller(1))

    def __getitem__(self, name: str) -> Any:
        accessor = Accessor(self._layer, checked_key(name))
        return accessor() if name in view(self._layer)[0] else accessor

    def __setitem__(self, name: str, value: Any) -> None:
        write(self._layer, flatten({name: value}), caller(1))

    def __contains__(self, name: object) -> bool:
        values, _, _, _, reads, _ = view(self._layer)
        if reads is not None and isinstance(name, str):
            reads[name] = None
        return name in values

    def __iter__(self) -> Iterator[str]:
        values, _, _, _, reads, _ = view(self._layer)
        if reads is not None:
            reads.update(dict.fromkeys(values))
        return iter(values)

    def __len__(self) -> int:
        return len(view(self._layer)[0])

    def get(self, name: str, default: Any = None) -> Any:
        """Read a parameter, as `scope(name)(default)` does.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(seed="7").get("seed", 0)
            7
        """
        return Accessor(self._layer, name)(default)

    def put(self, name: str, value: Any) -> None:
        """Set a parameter.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> scope = param_scope()
            >>> scope.put("model.depth", 3)
            >>> scope
            param_scope(**{'model.depth': 3})
        """
        write(self._layer, flatten({name: value}), caller(1))

    def update(self, values: Mapping[str, Any]) -> Self:
        """Set several parameters at once.

        Returns:
            The scope itself.

        Raises:
            InvalidParameterError: a key is no text; nothing has been set then.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(a=1).update({"b": {"c": 2}})
            param_scope(a=1, **{'b.c': 2})
        """
        write(self._layer, flatten(values), caller(1))
        return self

    def clear(self) -> Self:
        """Remove all parameters, inherited ones included.

        Returns:
            The scope itself.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(a=1).clear()
            param_scope()
        """
        write(self._layer, None, caller(1))
        return self

    def storage(self) -> Storage:
        """The parameters as they are now.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(a={"b": 1}).storage().storage()
            {'a.b': 1}
        """
        return Storage(self)

    def allow_unread(self) -> Self:
        """Have no warning of keys of this scope that nobody reads.

        Returns:
            The scope itself.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope(perhaps=1).allow_unread():
            ...     pass
        """
        own, origins, inherits, origin, _ = self._layer[0]
        self._layer[0] = (own, origins, inherits, origin, False)
        return self

    def __repr__(self) -> str:
        return show(view(self._layer)[0])

    def __copy__(self) -> Self:
        return self._like(copy.copy)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._like(lambda own: copy.deepcopy(own, memo))

    def __reduce__(self) -> Any:
        # Elsewhere there is no scope around it: all that it shows goes along.
        values, (_, _, inherits, _, _), *_ = view(self._layer)
        return _unpickled, (pack(values), inherits)

    def _like(self, copied: Callable[[dict[str, Any]], dict[str, Any]]) -> Self:
        frame = find(self._layer)
        own, origins, inherits, origin, warns = self._layer[0] if frame is None else frame[1]
        return self._on([(copied(own), origins, inherits, origin, warns)])

    @classmethod
    def _on(cls, layer: Layer) -> Self:
        self = cls.__new__(cls)
        _set_layer(self, layer)
        return self


class Storage(dict[str, Any]):
    """The parameters of a scope at one moment, under dotted keys."""

    def storage(self) -> dict[str, Any]:
        """A plain dictionary of them.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(a=1).storage().storage()
            {'a': 1}
        """
        return dict(self)


def make_scope(
    values: dict[str, Any],
    *,
    origin: Origin,
    origins: dict[str, Origin] | None = None,
    inherits: bool = True,
    warns: bool = True,
) -> ParamScope:
    """Make a scope of dotted keys, and say where they come from."""
    return handle([(values, origins, inherits, origin, warns)])


def handle(layer: Layer) -> ParamScope:
    """One more handle on a scope."""
    return ParamScope._on(layer)  # pyright: ignore[reportPrivateUsage]


def _unpickled(packed: bytes, inherits: bool) -> ParamScope:
    return make_scope(unpack(packed), origin="a pickled scope", inherits=inherits)


# Past `__setattr__`, which sets parameters.
_set_layer: Any = vars(ParamScope)["_layer"].__set__


def pack(values: dict[str, Any]) -> bytes:
    """Pickle the values of a scope, functions of a script included."""
    try:
        return cloudpickle.dumps(values)
    except Exception as error:
        for key, value in values.items():
            try:
                cloudpickle.dumps(value)
            except Exception as reason:
                raise InvalidParameterError(
                    f"The parameter {key!r} cannot travel to another process: its value, a "
                    f"{type(value).__module__}.{type(value).__qualname__}, cannot be pickled "
                    f"({type(reason).__name__}: {reason}). Pass what it is made from, and make it "
                    "where it is used."
                ) from reason
        raise InvalidParameterError(
            f"The parameters {', '.join(values)} cannot travel to another process together: "
            f"{type(error).__name__}: {error}."
        ) from error


def unpack(packed: bytes) -> dict[str, Any]:
    """The values again."""
    return pickle.loads(packed)  # noqa: S301 - within something that is being unpickled
