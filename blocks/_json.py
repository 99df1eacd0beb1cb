"""Attributes as JSON, with what a laboratory puts into them: NumPy's numbers and arrays."""

from __future__ import annotations

import json
from typing import Any

from prefect_optuna.blocks.attribute_nesting import check_nesting
from prefect_optuna.blocks.errors import AttributeEncodingError


def _of_numpy(value: object) -> Any:
    import numpy as np

    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


FLAT = frozenset({str, float, bool, type(None)})
"""Types whose values are read back unchanged, and need no check."""
to_json = json.JSONEncoder(separators=(",", ":"), default=_of_numpy).encode
"""Does what `encode` does, for what has been checked."""


def encode(value: object, name: str = "") -> str:
    """Turn an attribute's value into JSON.

    Args:
        value: what Python's json module can write, NaN and infinity included; arrays and numbers
            of NumPy become lists and numbers.
        name: of the attribute, for the error.

    Returns:
        The text, on one line, in ASCII.

    Raises:
        AttributeEncodingError: the value is nothing that JSON has, or is nested too deeply.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.blocks._json import encode
        >>> encode({"lr": (0.1, float("inf")), "scores": np.array([0.5, 1.0])})
        '{"lr":[0.1,Infinity],"scores":[0.5,1.0]}'
    """
    if type(value) not in FLAT:
        check_nesting(name, value)
    try:
        return to_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise AttributeEncodingError(
            f"Expected a value of {name!r} that is JSON: numbers, text, None, lists, mappings "
            f"with text as keys, and arrays of numbers. Found a {type(value).__qualname__}: "
            f"{error}. Convert it first."
        ) from error
