"""Arrays and tables as columns of an Arrow file, and back.

Every column has one row. An array is in it as a list, the last dimension fastest, so that the
file is a table that everybody can read; its dtype and shape are beside it.
"""

from __future__ import annotations

import math
import mmap
from typing import Any, cast

import numpy as np

from prefect_optuna.blocks.codec.arrays import (
    is_arrow_time,
    not_plain,
    number_array,
    one_chunk,
    one_row,
)
from prefect_optuna.blocks.codec.tables import from_arrow, storable_table, table_kind
from prefect_optuna.blocks.codec.untrusted import checked_dtype
from prefect_optuna.errors import CorruptPersistenceError, UnsupportedValueError

_SHORT_LIST = 16  # numbers; a shorter list is JSON


def array_column(array: np.ndarray[Any, Any], path: str) -> tuple[Any, dict[str, Any]]:
    """An array as an Arrow column of one row, and what it takes to read it."""
    import pyarrow as pa

    if other := not_plain(array):
        raise UnsupportedValueError(f"{path} is {other}")
    if array.dtype.hasobject:
        raise UnsupportedValueError(
            f"{path} is an array of Python objects. Expected numbers, text or times: "
            "array.astype(float), array.astype(str), or a list."
        )
    spec: dict[str, Any] = {"dtype": array.dtype.str, "shape": list(array.shape)}
    if array.dtype.names is not None:
        spec["dtype"] = _described(array.dtype)
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        spec["order"] = "F"
        array = array.T
    flat = np.ascontiguousarray(array).reshape(-1)
    spec["stored"], stored = _storable(flat)
    try:
        if spec["stored"] == "value":
            kind = {"U": pa.large_string(), "S": pa.large_binary()}.get(stored.dtype.kind)
            values = pa.array(stored, kind)
        else:
            kind = pa.binary(max(array.dtype.itemsize, 1))
            if spec["stored"] == "raw":
                kind = pa.from_numpy_dtype(stored.dtype)
            size = stored.size if spec["stored"] == "raw" else len(flat)
            values = pa.Array.from_buffers(kind, size, [None, pa.py_buffer(stored)])
    except (UnicodeError, pa.ArrowException) as error:
        raise UnsupportedValueError(f"{path} cannot be saved: {error}.") from error
    return one_row(values), spec


def table_column(value: Any, path: str) -> tuple[Any, dict[str, Any], dict[bytes, bytes] | None]:
    """A table as an Arrow column of one row, what it takes to read it, and its metadata."""
    import pyarrow as pa

    kind = table_kind(value)
    try:
        table = storable_table(value, path).unify_dictionaries()
        if len(set(table.column_names)) < len(table.column_names):
            raise TypeError(f"{path} is a table with two columns of one name.")
        values = table.combine_chunks().to_struct_array()
    except (pa.ArrowException, TypeError) as error:
        raise UnsupportedValueError(str(error)) from error
    spec = {"dtype": "table", "as": kind, "shape": list(table.shape)}
    return one_row(one_chunk(values)), spec, table.schema.metadata


def scalar_column(value: Any) -> Any:
    """A plain value as an Arrow column of one row, for other readers; `None` if it is none."""
    import pyarrow as pa

    # Not by pa.array, which imports pandas to see whether this is a Series.
    kind = type(value)
    if kind is bool:
        parts, arrow = [bytes([value])], pa.bool_()
    elif kind is int and -(1 << 63) <= value < 1 << 63:
        parts, arrow = [np.array([value], np.int64)], pa.int64()
    elif kind is float:
        parts, arrow = [np.array([value], np.float64)], pa.float64()
    elif kind is str and value.isprintable():
        text = value.encode()
        parts, arrow = [np.array([0, len(text)], np.int64), text], pa.large_string()
    else:
        return None
    return pa.Array.from_buffers(arrow, 1, [None, *map(pa.py_buffer, parts)])


def number_list(value: list[Any] | tuple[Any, ...]) -> np.ndarray[Any, Any] | None:
    """The array of a long list whose items all are floats, all integers or all flags."""
    return number_array(value) if len(value) > _SHORT_LIST else None


def read_column(column: Any, spec: dict[str, Any], mapped: mmap.mmap | None, metadata: Any) -> Any:
    """Read what `array_column` or `table_column` made."""
    import pyarrow as pa

    if len(column) != 1:
        raise CorruptPersistenceError(f"expected one row, found {len(column)}")
    values = column.flatten()
    if spec["dtype"] == "table":
        # Arrow makes no table of a column without parts.
        table = pa.Table.from_struct_array(values) if spec["shape"][1] else pa.table({})
        return from_arrow(table.replace_schema_metadata(metadata), spec["as"])
    dtype = column_dtype(spec)
    shape = tuple(spec["shape"])
    count = math.prod(shape)
    if min(shape, default=0) < 0:
        raise CorruptPersistenceError(f"expected a shape, found {shape}")
    stored = spec["stored"]
    if stored in ("raw", "bytes"):
        array = _view(values, dtype, count, mapped)
    else:
        array = values.to_numpy(zero_copy_only=False)
        if array.size != count:
            raise CorruptPersistenceError(f"expected {count} values, found {array.size}")
        array = np.array(array, dtype)
    is_fortran = spec.get("order") == "F"
    array = array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
    if spec.get("as") == "list":
        return array.tolist()
    return tuple(array.tolist()) if spec.get("as") == "tuple" else array


def _storable(flat: np.ndarray[Any, Any]) -> tuple[str, Any]:
    """Return how an array is stored, and the array that Arrow is given.

    ===== ==============================================================
    raw   the bytes of an Arrow type are those of the array
    value Arrow converts: text, times, flags, the other byte order
    bytes Arrow has no such type, and holds the bytes
    ===== ==============================================================
    """
    dtype = flat.dtype
    if dtype.names is None:
        if dtype.kind in "iuf" and dtype.itemsize <= 8:
            if dtype.isnative:
                return "raw", flat
            return "value", flat.astype(dtype.newbyteorder("="))
        if dtype.kind == "c" and dtype.itemsize <= 16 and dtype.isnative:
            return "raw", flat.view(f"f{dtype.itemsize // 2}")
        if dtype.kind in "bUS" and dtype.itemsize:
            return "value", flat.astype(dtype.newbyteorder("="), copy=False)
        if dtype.kind in "mM" and is_arrow_time(dtype):
            return "value", flat.astype(dtype.newbyteorder("="), copy=False)
    return "bytes", flat.view(np.uint8) if dtype.itemsize else np.zeros(len(flat), np.uint8)


def _view(
    values: Any, dtype: np.dtype[Any], count: int, mapped: mmap.mmap | None
) -> np.ndarray[Any, Any]:
    import pyarrow as pa

    if count == 0 or dtype.itemsize == 0:
        if count != len(values) and dtype.itemsize == 0:
            raise CorruptPersistenceError(f"expected {count} values, found {len(values)}")
        return np.zeros(count, dtype)
    data = values.buffers()[1]
    start = values.offset * values.type.bit_width // 8
    if data is None or data.size < start + count * dtype.itemsize:
        raise CorruptPersistenceError(f"expected {count} values, found fewer bytes")
    if mapped is not None:
        memory = pa.py_buffer(mapped)
        at = data.address - memory.address + start
        if 0 <= at <= memory.size - count * dtype.itemsize:
            return np.frombuffer(mapped, dtype, count, at)
    return np.frombuffer(data, dtype, count, start).copy()


def column_dtype(spec: dict[str, Any]) -> np.dtype[Any]:
    """The type of the array that a column is read into."""
    described = spec["dtype"]
    if not isinstance(described, list):
        return checked_dtype(described)
    dtype = np.dtype(_named(described))
    if dtype.hasobject:
        raise ValueError("it names a type of Python objects")
    return dtype


def _described(dtype: np.dtype[Any]) -> Any:
    """A dtype with named fields as JSON."""
    return np.lib.format.dtype_to_descr(dtype)


def _named(described: Any) -> Any:
    """Return the type that `_described` has described, once JSON has made lists of its tuples."""
    return np.lib.format.descr_to_dtype(
        cast(
            "Any",
            [
                tuple([tuple(part) if i == 2 else _named_part(part) for i, part in enumerate(item)])
                for item in described
            ],
        )
    )


def _named_part(part: Any) -> Any:
    if isinstance(part, list) and part and isinstance(part[0], list):
        return [tuple(_named_part(x) for x in item) for item in part]
    return tuple(part) if isinstance(part, list) else part
