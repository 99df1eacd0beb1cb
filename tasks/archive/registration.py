"""What a `with` block defines: the names that are new in the scope around it, or bound anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

__all__ = ["Registration"]


class Registration:
    """Compares a scope before and after a `with` block.

    A name counts if it was not there before, or if it is another object now: whoever runs a cell
    of a notebook twice defines the same names twice. Names that start with `_` do not count.

    Args:
        frame: of the scope, which may be that of a function.
        add: called with the names and what they are bound to, unless the block fails.

    Attributes:
        names: what has been added; empty until the block has ended.
    """

    def __init__(self, frame: FrameType, add: Callable[[Mapping[str, Any]], None]) -> None:
        self.names: tuple[str, ...] = ()
        self._frame: FrameType | None = frame
        self._add = add
        # A copy: some Pythons give out the live variables, others what they were at this moment.
        self._before = dict(frame.f_locals)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        frame, before = self._frame, self._before
        # The scope would be kept alive by what looks at it.
        self._frame, self._before = None, {}
        if frame is None or kind is not None:
            return
        nothing = object()
        found = {
            name: value
            for name, value in dict(frame.f_locals).items()
            if not name.startswith("_")
            and before.get(name, nothing) is not value
            and value is not self
        }
        self._add(found)
        self.names = tuple(found)
