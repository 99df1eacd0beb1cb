"""Frames of the scopes in force, and the values in them.

A frame is never changed once it is in the chain. A write makes a new one and puts it in the place
of the old one, in this context only, so that asyncio tasks, threads and copied contexts never see
each other's writes. A scope that ends takes its own frame out of the chain, wherever in it that
is: no order of exits, and no generator that is finished elsewhere, leaves anything behind.

Frames are tuples, and layers are lists, because scopes are entered and read often: an object with
attributes takes twice as long to make. Take them apart by unpacking, with the names below.

The `ContextVar` stays in this module. A function that is pickled by value takes along the globals
it uses, and a `ContextVar` cannot be pickled, so wrappers refer to this module as a whole.
"""

from __future__ import annotations

import ast
import math
import numbers
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import CodeType
from typing import Any, Final, TypeAlias

from prefect_optuna.errors import InvalidParameterError, InvalidSettingError

# Values on their way in and out: nested mappings become dotted keys, text becomes numbers.
#
# A parameter that is read with a default takes on the type of that default, so that `"0.01"` from
# a command line is a number where the code expects one. What cannot be converted stays as it is,
# `"1.5"` for a whole number is a fraction, and 2.7 is cut off to 2: so does `hyperparameter`,
# from which scopes come. For a study that is too little: `checking` refuses it.


class Missing(Enum):
    """The type of `MISSING`, which stays one object when it is pickled."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING

_TRUE = frozenset(("y", "yes", "t", "true", "on", "1"))
_FALSE = frozenset(("n", "no", "f", "false", "off", "0"))


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested dictionaries into dotted keys; an empty one stores nothing.

    Example:
        >>> from prefect_optuna.tasks.scope.frames import flatten
        >>> flatten({"model": {"depth": 3, "units": [8, 8]}, "seed": 7})
        {'model.depth': 3, 'model.units': [8, 8], 'seed': 7}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise InvalidParameterError(
                f"A parameter's key has to be text, found {key!r} ({type(key).__name__})"
                + (f" below {prefix[:-1]!r}" if prefix else "")
                + f". Write {prefix + str(key)!r} if that is its name."
            )
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def parse_assignments(lines: Iterable[Any]) -> dict[str, str]:
    """Split each `key=value` at its first equals sign; the value stays text.

    Example:
        >>> from prefect_optuna.tasks.scope.frames import parse_assignments
        >>> parse_assignments(["model.depth=3", "note=a=b"])
        {'model.depth': '3', 'note': 'a=b'}
    """
    values: dict[str, str] = {}
    for line in lines:
        if not isinstance(line, str):
            raise InvalidParameterError(
                f"Expected texts such as 'key=value', found {line!r} ({type(line).__name__}). "
                "Pass a mapping with two stars: param_scope(**mapping)."
            )
        key, equals, value = line.partition("=")
        if not equals:
            raise InvalidSettingError(
                f"{line!r} sets no parameter: expected 'key=value', found no equals sign."
            )
        values[key] = value
    return values


def coerce(value: Any, default: Any, literal: bool = False) -> Any:
    """Give a value the type of a default, where it can be.

    `bool`, `int`, `float` and `str` convert; with any other type of default the value is returned
    as it is, unless it is a text and `literal` asks to read it as Python. `None` is a value and is
    never converted.

    Example:
        >>> from prefect_optuna.tasks.scope.frames import coerce
        >>> coerce("3", 1), coerce("no", True), coerce("fast", 1), coerce("[1, 2]", [])
        (3, False, 'fast', '[1, 2]')
        >>> coerce("[1, 2]", [], literal=True)
        [1, 2]
    """
    if value is None or type(value) is type(default):
        return value
    convert = CONVERTERS.get(type(default))
    if convert is not None:
        return convert(value, default)
    return as_literal(value) if literal and isinstance(value, str) else value


def as_literal(text: str) -> Any:
    """Read a text as a Python literal, such as `"[1, 2]"`; if it is none, it stays text."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _as_bool(value: Any, default: bool) -> bool:
    if isinstance(value, str):
        word = value.lower()
        return True if word in _TRUE else False if word in _FALSE else default
    if isinstance(value, numbers.Number) or _is_numpy_bool(value):
        return bool(value != 0)
    return default


def _is_numpy_bool(value: Any) -> bool:
    # NumPy's numbers are registered as numbers, its booleans are not.
    return getattr(getattr(value, "dtype", None), "kind", "") == "b" and value.shape == ()


def _as_int(value: Any, default: int) -> Any:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return _as_number(value)
    try:
        return value if _is_array(value) else int(value)
    except (ValueError, TypeError, OverflowError):
        return value


def _is_array(value: Any) -> bool:
    # NumPy is about to refuse to make a number of an array that has one element.
    return bool(getattr(value, "shape", ()))


def _as_number(text: str) -> Any:
    """`"1e3"` is the integer 1000, exactly; `"1.5"` stays a fraction; `"abc"` stays text."""
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        # Too large for a float is not infinity.
        return number if "n" in text.lower() else text
    return int(Decimal(text)) if number.is_integer() else number


def _as_float(value: Any, default: float) -> Any:
    try:
        return value if _is_array(value) else float(value)
    except (ValueError, TypeError, OverflowError):
        return value


def _as_str(value: Any, default: str) -> str:
    return str(value)


CONVERTERS: Final[dict[type, Callable[[Any, Any], Any]]] = {
    bool: _as_bool,
    int: _as_int,
    float: _as_float,
    str: _as_str,
}
"""Conversions of a value to the type of its default, for the types that have one."""


# Origins of values: kept as cheaply as possible, put into words on demand.


Origin: TypeAlias = "str | tuple[CodeType, int]"
"""Words, or a place in the code: the code object and the offset of the instruction in it."""


def caller(depth: int) -> Origin:
    """The place in the code from which a function was called."""
    frame = sys._getframe(depth + 1)  # pyright: ignore[reportPrivateUsage]
    return frame.f_code, frame.f_lasti


def describe(origin: Origin) -> str:
    """Put an origin into words.

    Example:
        >>> from prefect_optuna.tasks.scope.frames import describe
        >>> describe("trial 17")
        'trial 17'
    """
    if isinstance(origin, str):
        return origin
    code, offset = origin
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= offset < end:
            line = number or line
            break
    path = Path(code.co_filename)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"scope at {path}:{line}"


Content: TypeAlias = "tuple[dict[str, Any], dict[str, Origin] | None, bool, Origin, bool]"
"""The content of a scope: `own, origins, inherits, origin, warns`.

The values, under dotted keys; where single ones came from, if not from where the scope was made;
whether those of the surrounding scope shine through; where the scope was made; and whether a key
that is never read is worth a warning."""

Reads: TypeAlias = "dict[object, Content | None]"
"""The fate of the names in an outermost scope and the scopes within it.

`None` for one that was asked for; what set it, for one that nobody had asked for when the scope
that set it ended; and `AWAY` for each `Reader` that may still ask."""

AWAY: Content = ({}, None, False, "elsewhere", False)

Layer: TypeAlias = "list[Content]"
"""A scope, shared by its handles: a list of one, which is replaced when the scope is written to
while it is not entered, and when it is left."""

Frame: TypeAlias = (
    "tuple[dict[str, Any], Content, Layer, Frame | None, Reads | None, tuple[dict[str, Any], ...]]"
)
"""The state of a scope that was entered: `values, content, layer, parent, reads, recorders`.

All values, those of the surrounding scopes included; what this scope sets, with what was written
since it was entered; the scope; the surrounding frame, `None` at the root; the names that were
asked for, unless nobody wants to know; and dictionaries that record what is read."""


class Reader:
    """A reader that may still read a frame's values after its scope has ended."""

    def __init__(self, frame: Frame) -> None:
        self._reads = frame[4]
        if self._reads is not None:
            self._reads[self] = AWAY

    def is_done(self) -> None:
        """Note that it has finished reading."""
        if self._reads is not None:
            self._reads.pop(self, None)


def _root() -> Frame:
    content: Content = ({}, None, True, "the frozen base", False)
    return content[0], content, [content], None, None, ()


ROOT = _root()
"""The frame outside every scope, in every thread. Its values are the only ones that change
in place: `freeze` does it."""

bare: Frame | None = ROOT
"""The frame in which there is nothing to read: the root, unless something has been frozen."""

_frame: ContextVar[Frame] = ContextVar("prefect_optuna.param_scope", default=ROOT)
get: Callable[[], Frame] = _frame.get
put: Callable[[Frame], Token[Frame]] = _frame.set


def chain(frame: Frame | None) -> Iterator[Frame]:
    """A frame and those around it, from the inside out."""
    while frame is not None:
        yield frame
        frame = frame[3]


def find(layer: Layer) -> Frame | None:
    """The innermost frame of a scope in this context."""
    return next((frame for frame in chain(get()) if frame[2] is layer), None)


def entered(layer: Layer, outer: Frame) -> Frame:
    """The frame that a scope makes upon another one."""
    content = layer[0]
    own, _, inherits, _, _ = content
    values, _, _, _, reads, recorders = outer
    return values | own if inherits else own, content, layer, outer, reads, recorders


def view(layer: Layer) -> Frame:
    """Return what a scope reads: its frame in this context or, without one, as if entered now."""
    return find(layer) or entered(layer, get())


def origin_of(content: Content, key: str) -> Origin:
    """Return the origin of a scope's value for a key."""
    _, origins, _, origin, _ = content
    return (origins or {}).get(key, origin)


def origins_of(key: str, frame: Frame) -> Iterator[tuple[Origin, Any]]:
    """List the origins and values of a key, from the one in force outwards."""
    for _, content, *_ in chain(frame):
        own, _, inherits, _, _ = content
        if key in own:
            yield origin_of(content, key), own[key]
        if not inherits:
            return


def write(layer: Layer | None, changes: dict[str, Any] | None, origin: Origin) -> None:
    """Set values in the innermost frame, or in a scope's; or empty it."""
    frame = get() if layer is None else find(layer)
    if frame is not None:
        values, content, of, parent, reads, recorders = frame
        values = {} if changes is None else values | changes
        new = (values, _changed(content, changes, origin), of, parent, reads, recorders)
        _replace(frame, new)
    elif layer is not None:
        layer[0] = _changed(layer[0], changes, origin)


def _changed(content: Content, changes: dict[str, Any] | None, origin: Origin) -> Content:
    own, origins, inherits, made, warns = content
    if changes is None:
        return {}, None, False, made, warns
    origins = (origins or {}) | dict.fromkeys(changes, origin)
    return own | changes, origins, inherits, made, warns


def pop(layer: Layer) -> Frame | None:
    """Take the innermost frame of a scope out of the chain, and return it."""
    frame = find(layer)
    if frame is not None and (parent := frame[3]) is not None:
        _replace(frame, parent)
    return frame


def undo(before: Frame) -> None:
    """Go back to an earlier frame, but not into scopes that have been left since then."""
    now = {id(layer) for _, _, layer, *_ in chain(get())}
    frames = list(chain(before))
    kept = [frame for frame in frames if id(frame[2]) in now]
    put(before if len(kept) == len(frames) else _stacked(kept[:-1], kept[-1]))


def freeze(values: dict[str, Any]) -> None:
    """Put values in force outside every scope, in place of those that are."""
    global bare
    base = ROOT[0]
    for key in base.keys() - values.keys():
        del base[key]
    base.update(values)
    bare = None if values else ROOT


def _replace(old: Frame, new: Frame) -> None:
    above: list[Frame] = []
    for frame in chain(get()):
        if frame is old:
            break
        above.append(frame)
    put(_stacked(above, new))


def _stacked(frames: list[Frame], bottom: Frame) -> Frame:
    for values, content, layer, _, reads, recorders in reversed(frames):
        bottom = (values, content, layer, bottom, reads, recorders)
    return bottom


@contextmanager
def recording() -> Generator[dict[str, Any]]:
    """Record every parameter that is read within the block.

    Reads count wherever the scope goes: in functions, coroutines, copied contexts and, with
    `capture` and `restore`, other threads. They do not come back from other processes; record
    there. The block is a scope: what is written in it ends with it.

    Returns:
        A context manager that gives a dictionary. It fills as the block runs: the name of each
        parameter that was read, by `param_scope` or by an `auto_param` function, and the value
        that the code got, converted, or the default. A parameter that is read twice counts as
        it was read last.

    Example:
        >>> from prefect_optuna.tasks.scope import auto_param, param_scope
        >>> @auto_param
        ... def simulate(dt=0.1, steps=100):
        ...     return param_scope.seed(0)
        >>> with param_scope(**{"simulate.dt": "0.2"}), param_scope.recording() as used:
        ...     simulate()
        0
        >>> used
        {'simulate.dt': 0.2, 'simulate.steps': 100, 'seed': 0}
    """
    used: dict[str, Any] = {}
    outer = get()
    layer: Layer = [({}, None, True, "a recording", False)]
    values, content, _, _, reads, recorders = entered(layer, outer)
    put((values, content, layer, outer, reads, (*recorders, used)))
    try:
        yield used
    finally:
        pop(layer)
