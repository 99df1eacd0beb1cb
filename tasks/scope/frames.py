"""Frames of the scopes in force: a chain in one `ContextVar`.

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

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, TypeAlias

from prefect_optuna.tasks.scope.origins import Origin

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
