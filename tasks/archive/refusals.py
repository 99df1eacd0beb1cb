"""What is said about things that cannot be captured: each says what to do instead."""

from __future__ import annotations

from types import FunctionType
from typing import Any

__all__ = ["RefusedError", "described", "titled", "too_large", "unknown_value"]


class RefusedError(Exception):
    """Something cannot be captured; the message is one line of the `CaptureError`."""


def titled(function: FunctionType) -> str:
    """The full name of a function."""
    return f"{function.__module__}.{function.__qualname__}"


def described(value: Any) -> str:
    """What kind of value this is, for a message."""
    if isinstance(value, FunctionType):
        return f"the function {titled(value)}"
    kind = type(value)
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{article} {module}{kind.__qualname__}"


def unknown_value(value: Any, path: str) -> str:
    """A value has no exact form in an archive."""
    return (
        f"{path} is {described(value)}, which cannot be written down exactly. Make it inside a "
        "function (functools.cache keeps it), or pass what it is made from through "
        "Problem(context=...): numbers, text, lists, mappings, arrays, tables, dataclasses."
    )


def too_large(path: str, size: int, limit: int) -> str:
    """A value has more bytes than an archive takes."""
    return (
        f"{path} has {size / 1e9:.1f} GB, and at most {limit / 1e9:.1f} GB are archived. Keep it "
        "in a file, and read the file in `run`."
    )
