"""Arrays on their way into NPY and Arrow files, and out of them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from prefect_optuna.blocks.codec.untrusted import checked_dtype

_ARROW_UNITS = frozenset((unit, 1) for unit in ("s", "ms", "us", "ns"))


def npy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """An array as an NPY file.

    Example:
        >>> from io import BytesIO
        >>> from prefect_optuna.blocks.codec.untrusted import read_npy
        >>> content = npy_bytes(np.arange(3))
        >>> read_npy(BytesIO(content), len(content)).tolist()
        [0, 1, 2]
    """
    np.lib.format.write_array(file := BytesIO(), np.asarray(array), allow_pickle=False)
    return file.getvalue()


def base64_of(array: np.ndarray[Any, Any]) -> str:
    """The bytes of an array, the last dimension fastest.

    Example:
        >>> array_of(base64_of(np.array([[1, 2]])), "<i8", (1, 2))
        array([[1, 2]])
    """
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def array_of(text: str, dtype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """The array that `base64_of` has written, new and writable; strangers may have written it."""
    raw, kind = base64.b64decode(text, validate=True), checked_dtype(dtype)
    if kind.kind not in "biufcmM" or (kind.kind == "b" and set(raw) - {0, 1}):
        raise ValueError(f"expected numbers or times, found {dtype!r}")
    return np.frombuffer(raw, kind).reshape(shape).copy()


def not_plain(array: np.ndarray[Any, Any]) -> str:
    """Describe an array of a class that a file would not give back; `''` for a plain one.

    Example:
        >>> not_plain(np.ma.masked_array([1.0]))
        'a MaskedArray. Expected a plain NumPy array: masked.filled(np.nan).'
    """
    kind = type(array)
    if kind in (np.ndarray, np.memmap):
        return ""
    way = "masked.filled(np.nan)" if isinstance(array, np.ma.MaskedArray) else "np.asarray(...)"
    return f"a {kind.__name__}. Expected a plain NumPy array: {way}."


def is_arrow_time(dtype: np.dtype[Any]) -> bool:
    """Tell whether Arrow has this type of times or durations."""
    return np.datetime_data(dtype) in _ARROW_UNITS


def number_array(values: Sequence[Any]) -> np.ndarray[Any, Any] | None:
    """The array of items that all are floats, all integers or all flags; `None` for others.

    Example:
        >>> number_array([1, 2]), number_array([1, 2.0]), number_array([])
        (array([1, 2]), None, None)
    """
    kinds = set(map(type, values))
    if kinds == {float}:
        return np.array(values, np.float64)
    if kinds == {bool}:
        return np.array(values, np.bool_)
    if kinds == {int} and min(values) >= -(1 << 63) and max(values) < 1 << 63:
        return np.array(values, np.int64)
    return None


def one_row(values: Any) -> Any:
    """An Arrow array as a column of one row, which holds all of it as a list."""
    import pyarrow as pa

    offsets = pa.py_buffer(np.array([0, len(values)], np.int64))
    return pa.Array.from_buffers(pa.large_list(values.type), 1, [None, offsets], children=[values])


def one_chunk(column: Any) -> Any:
    """The values of an Arrow column in one piece."""
    import pyarrow as pa

    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 0:
        return pa.array([], column.type)
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
