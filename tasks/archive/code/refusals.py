"""Messages about things that cannot be captured: each says what to do instead."""

from __future__ import annotations

from types import FunctionType
from typing import Any


class RefusedError(Exception):
    """Something cannot be captured; the message is one line of the `CaptureError`."""


def titled(function: FunctionType) -> str:
    """The full name of a function."""
    return f"{function.__module__}.{function.__qualname__}"


def described(value: Any) -> str:
    """Describe what kind of value this is, for a message."""
    if isinstance(value, FunctionType):
        return f"the function {titled(value)}"
    kind = type(value)
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{article} {module}{kind.__qualname__}"


CANNOT = "which cannot be written down exactly"
"""The words of a message about a value that has no exact form."""


def unknown_value(value: Any, path: str) -> str:
    """A value has no exact form in an archive."""
    return (
        f"{path} is {described(value)}, {CANNOT}. Make it inside a "
        "function (functools.cache keeps it), or pass what it is made from through "
        "Problem(context=...): numbers, text, lists, mappings, arrays, tables, dataclasses."
    )


def too_large(path: str, size: int, limit: int) -> str:
    """A value has more bytes than an archive takes."""
    return (
        f"{path} has {size / 1e9:.1f} GB, and at most {limit / 1e9:.1f} GB are archived. Keep it "
        "in a file, and read the file in `run`."
    )


def secret_value(path: str, variable: str) -> str:
    """Describe a value of an environment variable that is secret by its name."""
    return (
        f"{path} holds the value of the environment variable {variable}. Read it inside the "
        f"function, when it runs: os.environ[{variable!r}]."
    )


def secret_by_name(path: str) -> str:
    """A value has the name of a secret, or is a URL with one."""
    return (
        f"{path} is a secret, as its name or a URL in it says, and everybody who reads the archive "
        "would read it. Put it into an environment variable, and read that inside the function, "
        "when it runs. If it is none, give it another name."
    )
