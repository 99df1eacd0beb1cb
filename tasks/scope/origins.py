"""Origins of values: kept as cheaply as possible, put into words on demand."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType
from typing import TypeAlias

Origin: TypeAlias = "str | tuple[CodeType, int]"
"""Words, or a place in the code: the code object and the offset of the instruction in it."""


def caller(depth: int) -> Origin:
    """The place in the code from which a function was called."""
    frame = sys._getframe(depth + 1)  # pyright: ignore[reportPrivateUsage]
    return frame.f_code, frame.f_lasti


def describe(origin: Origin) -> str:
    """Put an origin into words.

    Example:
        >>> from prefect_optuna.tasks.scope.origins import describe
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
