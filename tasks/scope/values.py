"""Values on their way in and out: nested mappings become dotted keys, text becomes numbers.

A parameter that is read with a default takes on the type of that default, so that `"0.01"` from
a command line is a number where the code expects one. What cannot be converted stays as it is,
`"1.5"` for a whole number is a fraction, and 2.7 is cut off to 2: so does `hyperparameter`, from
which scopes come. For a study that is too little: `checking` refuses it.
"""

from __future__ import annotations

import ast
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from prefect_optuna.errors import InvalidParameterError, InvalidSettingError


class Missing(Enum):
    """The type of `MISSING`, which stays one object when it is pickled."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING

_TRUE = frozenset(("y", "yes", "t", "true", "on", "1"))
_FALSE = frozenset(("n", "no", "f", "false", "off", "0"))


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested dictionaries into dotted keys; an empty one stores nothing.

    Example:
        >>> from prefect_optuna.tasks.scope.values import flatten
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
        >>> from prefect_optuna.tasks.scope.values import parse_assignments
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
        >>> from prefect_optuna.tasks.scope.values import coerce
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
