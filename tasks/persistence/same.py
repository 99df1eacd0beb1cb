"""Equality of two values: also of arrays, tables, and what holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def same(one: Any, other: Any) -> bool:
    """Compare two values; the answer is one truth value, whatever they are.

    A NaN is the same as a NaN. Arrays have to agree in shape and values, not in dtype.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.tasks.persistence.same import same
        >>> same({"x": np.array([1.0, np.nan])}, {"x": np.array([1.0, np.nan])})
        True
    """
    if one is other:
        return True
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return _same_arrays(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return (
            isinstance(one, list) == isinstance(other, list)
            and len(one) == len(other)
            and all(map(same, one, other))
        )
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    equals = getattr(one, "equals", None)  # of tables of pandas, polars, Arrow
    if equals is not None:
        return type(one) is type(other) and bool(equals(other))
    return bool(one == other)


def _same_arrays(one: Any, other: Any) -> bool:
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    if one.shape != other.shape:
        return False
    if one.dtype.hasobject or other.dtype.hasobject:
        return all(map(same, one.ravel().tolist(), other.ravel().tolist()))
    can_be_nan = one.dtype.kind in "fcmM" and other.dtype.kind in "fcmM"
    return bool(np.array_equal(one, other, equal_nan=can_be_nan))
