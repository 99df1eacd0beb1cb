"""A scope taken by hand to another thread or process: `capture` there, `restore` here."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from prefect_optuna.tasks.scope.frames import (
    ROOT,
    Content,
    Frame,
    Layer,
    Reader,
    entered,
    get,
    origins_of,
    pop,
    put,
)
from prefect_optuna.tasks.scope.origins import Origin, describe
from prefect_optuna.tasks.scope.scope import ParamScope, handle, pack, unpack
from prefect_optuna.tasks.scope.unread import may_be_read_elsewhere


class ScopeSnapshot:
    """All parameters as they were at one moment, and where each came from.

    Made by `capture`, entered by `restore`. It can be pickled if its values can.

    Example:
        >>> from prefect_optuna.tasks.scope import capture, param_scope
        >>> with param_scope(seed=7):
        ...     snapshot = capture()
        >>> snapshot
        ScopeSnapshot(seed=7)
        >>> snapshot.values()
        {'seed': 7}
    """

    __slots__ = ("_content", "_frame", "_reader")

    def __init__(self, frame: Frame) -> None:
        values, content, layer, parent, reads, recorders = frame
        if frame is ROOT:
            values = dict(values)
        self._frame: Frame = (values, content, layer, parent, reads, recorders)
        self._reader = Reader(frame)
        self._content: Content | None = None  # once it is restored, for it may be often

    def __del__(self) -> None:
        # It is never restored if it is thrown away.
        self._reader.is_done()

    def values(self) -> dict[str, Any]:
        """The parameters, under dotted keys; to list them is not to read them.

        Example:
            >>> from prefect_optuna.tasks.scope import capture, param_scope
            >>> with param_scope(model={"depth": 3}).allow_unread():
            ...     capture().values()
            {'model.depth': 3}
        """
        return dict(self._frame[0])

    def __repr__(self) -> str:
        return "ScopeSnapshot" + repr(handle(self._layer())).removeprefix("param_scope")

    def _layer(self) -> Layer:
        if self._content is None:
            frame = self._frame
            self._content = (frame[0], _origins(frame), False, "a captured scope", False)
        return [self._content]

    def __reduce__(self) -> Any:
        may_be_read_elsewhere(self._frame)
        packed = pack(self._frame[0])
        words: dict[Origin, str] = {}
        origins = _origins(self._frame)
        for origin in origins.values():
            if origin not in words:
                words[origin] = describe(origin)
        return _unpickled, (packed, {key: words[origin] for key, origin in origins.items()})


def capture() -> ScopeSnapshot:
    """Take the parameters that are in force here, to be restored elsewhere.

    Example:
        >>> from threading import Thread
        >>> from prefect_optuna.tasks.scope import capture, param_scope, restore
        >>> def work(snapshot):
        ...     with restore(snapshot):
        ...         print(param_scope.seed())
        >>> with param_scope(seed=7):
        ...     thread = Thread(target=work, args=[capture()])
        >>> thread.start(); thread.join()
        7
    """
    return ScopeSnapshot(get())


@contextmanager
def restore(snapshot: ScopeSnapshot) -> Generator[ParamScope]:
    """Put captured parameters in force, in place of those that are, for the length of a block.

    What is written in the block ends with it. In the process that captured them, what is read
    here counts as read there.

    Args:
        snapshot: what `capture` returned.

    Example:
        >>> from prefect_optuna.tasks.scope import capture, param_scope, restore
        >>> with param_scope(seed=7):
        ...     snapshot = capture()
        >>> with restore(snapshot) as scope:
        ...     scope.seed()
        7
    """
    captured: Frame = snapshot._frame  # pyright: ignore[reportPrivateUsage]
    reader: Reader = snapshot._reader  # pyright: ignore[reportPrivateUsage]
    _, _, _, _, reads, recorders = captured
    outer, layer = get(), snapshot._layer()  # pyright: ignore[reportPrivateUsage]
    values, content, _, _, _, recording = entered(layer, outer)
    others = [recorder for recorder in recording if all(recorder is not two for two in recorders)]
    put((values, content, layer, outer, reads, (*recorders, *others)))
    try:
        yield handle(layer)
    finally:
        pop(layer)
        reader.is_done()


def _origins(frame: Frame) -> dict[str, Origin]:
    """Return the origin of each value in force in a frame."""
    return {key: next(origins_of(key, frame), ("the frozen base",))[0] for key in frame[0]}


def _unpickled(packed: bytes, origins: dict[str, Origin]) -> ScopeSnapshot:
    content: Content = (unpack(packed), origins, False, "a captured scope", False)
    return ScopeSnapshot(entered([content], ROOT))
