"""Arrays, and tables of any library, as Arrow and NPY, and back.

A table of another library is read through its `__arrow_c_stream__`, and comes back as a
`pyarrow.Table`. None of the libraries is imported unless a value of its is met.
"""

from __future__ import annotations

import base64
from binascii import a2b_base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np

from prefect_optuna.blocks.codec.untrusted import arrow_types_refused, checked_dtype
from prefect_optuna.errors import ArchiveError

# Arrays on their way into NPY and Arrow files, and out of them.


_ARROW_UNITS = frozenset((unit, 1) for unit in ("s", "ms", "us", "ns"))


def whole_text(flat: np.ndarray[Any, Any]) -> Any:
    r"""A flat array as Arrow takes it whole: it reads NumPy's text up to the first NUL.

    Example:
        >>> import pyarrow as pa
        >>> texts = np.array(["a\0b"])
        >>> pa.array(texts)[0].as_py(), pa.array(whole_text(texts))[0].as_py()
        ('a', 'a\x00b')
    """
    if flat.dtype.kind not in "SU" or not flat.nbytes:
        return flat
    letters = flat.view(np.uint8 if flat.dtype.kind == "S" else np.uint32).reshape(len(flat), -1)
    ends = letters == 0
    return flat.tolist() if (ends[:, :-1] & ~ends[:, 1:]).any() else flat


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
    return arrays_of([text], dtype, shape)[0]


def arrays_of(texts: Sequence[str], dtype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """Arrays of one type and shape, as one array with a row for each.

    Example:
        >>> arrays_of([base64_of(np.array([1, 2])), base64_of(np.array([3, 4]))], "<i8", [2])
        array([[1, 2],
               [3, 4]])
    """
    each, kind = [a2b_base64(text, strict_mode=True) for text in texts], checked_dtype(dtype)
    raw = b"".join(each)
    if kind.kind not in "biufcmM" or (kind.kind == "b" and set(raw) - {0, 1}):
        raise ValueError(f"expected numbers or times, found {dtype!r}")
    if len(set(map(len, each))) > 1:
        raise ValueError("expected arrays of one length")
    return np.frombuffer(raw, kind).reshape((len(each), *shape)).copy()


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


_LAYOUT = b"prefect_optuna:layout"  # in the metadata of a table of pandas whose rows lie together
_KINDS = {
    ("pyarrow", "Table"): "pyarrow.Table",
    ("pyarrow", "RecordBatch"): "pyarrow.RecordBatch",
    ("pandas", "DataFrame"): "pandas.DataFrame",
    ("pandas", "Series"): "pandas.Series",
    ("polars", "DataFrame"): "polars.DataFrame",
    ("polars", "Series"): "polars.Series",
}


def table_kind(value: Any) -> str | None:
    """Name the type of a table; `None` for what is no table."""
    kind = type(value)
    known = _KINDS.get((kind.__module__.partition(".")[0], kind.__name__))
    if known is not None:
        return known
    return "arrow" if hasattr(kind, "__arrow_c_stream__") else None


def to_arrow(value: Any) -> Any:
    """Turn a table of any library into a `pyarrow.Table`."""
    import pyarrow as pa

    match table_kind(value):
        case "pyarrow.Table":
            return value
        case "pyarrow.RecordBatch":
            return pa.Table.from_batches([value])
        case "pandas.DataFrame":
            table = pa.Table.from_pandas(value)
            by_rows = {_LAYOUT: b"rows"} if _is_by_rows(value) else {}
            return table.replace_schema_metadata({**(table.schema.metadata or {}), **by_rows})
        case "pandas.Series":
            return pa.Table.from_pandas(value.to_frame("" if value.name is None else value.name))
        case "polars.DataFrame":
            return _of_polars(value)
        case "polars.Series":
            return _of_polars(value.to_frame())
        case _:
            return pa.table(value)


def _is_by_rows(frame: Any) -> bool:
    """Tell whether the numbers lie row by row, as in scikit-learn's data: sums depend on it."""
    if not _has_one_kind_of_numbers(frame):
        return False
    flags = frame.to_numpy().flags
    return flags.c_contiguous and not flags.f_contiguous


def _has_one_kind_of_numbers(frame: Any) -> bool:
    import numpy as np

    kinds = {*frame.dtypes}
    return len(kinds) == 1 and isinstance(kind := kinds.pop(), np.dtype) and kind.kind in "biufc"


def _signed(table: Any) -> Any:
    """The same with signed indices of categories: pyarrow before 23 gives pandas no others."""
    import pyarrow as pa

    def signed(field: Any) -> Any:
        kind = field.type
        if pa.types.is_dictionary(kind) and pa.types.is_unsigned_integer(kind.index_type):
            return field.with_type(pa.dictionary(pa.int64(), kind.value_type, kind.ordered))
        return field

    schema = pa.schema(map(signed, table.schema), table.schema.metadata)
    return table if schema == table.schema else table.cast(schema)


def _by_rows(frame: Any) -> Any:
    import numpy as np
    import pandas as pd

    if not _has_one_kind_of_numbers(frame):  # the file has been changed
        return frame
    values = np.ascontiguousarray(frame.to_numpy())
    made = pd.DataFrame(values, index=frame.index, columns=frame.columns, copy=False)
    made.attrs = frame.attrs
    return made


def _of_polars(frame: Any) -> Any:
    import polars as pl  # pyright: ignore[reportMissingImports]

    # Without the newest types of Arrow, which older readers do not know.
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def storable_table(value: Any, title: str) -> Any:
    """A table as Arrow; a `TypeError`, which begins with the title, if a file cannot have it."""
    import pyarrow as pa

    title = f"{title}, a {table_kind(value)},"
    try:
        table = to_arrow(value)
    except (pa.ArrowException, TypeError) as error:
        raise TypeError(
            f"{title} has a column that Arrow cannot hold: {error} Give each column one type."
        ) from error
    if refused := refused_column(table.schema):
        raise TypeError(f"{title} {refused}")
    return table


def refused_column(schema: Any) -> str:
    """Describe a column of a type that is never read from a file; `''` if there is none."""
    if not (refused := arrow_types_refused(schema)):
        return ""
    return (
        f"has a column of the type {refused[0]}, which is read from nobody's files. Cast it to "
        "numbers, text, times, lists or structures of those."
    )


def from_arrow(table: Any, kind: str) -> Any:
    """Turn a `pyarrow.Table` into the type it had."""
    library = kind.partition(".")[0]
    try:
        match kind:
            case "pyarrow.RecordBatch":
                return _one_batch(table)
            case "pandas.DataFrame":
                frame = _signed(table).to_pandas()
                by_rows = (table.schema.metadata or {}).get(_LAYOUT) == b"rows"
                return _by_rows(frame) if by_rows else frame
            case "pandas.Series":
                series = _signed(table).to_pandas().iloc[:, 0]
                return series.rename(None) if series.name == "" else series
            case "polars.DataFrame" | "polars.Series":
                import polars as pl  # pyright: ignore[reportMissingImports]

                frame: Any = pl.from_arrow(table)
                return frame.to_series() if kind == "polars.Series" else frame
            case _:
                return table
    except ImportError as error:
        raise ArchiveError(
            f"Expected to give back a {kind}, and {library} is not installed: pip install "
            f"{library}. Any reader of Arrow files opens it as well."
        ) from error


def _one_batch(table: Any) -> Any:
    import pyarrow as pa

    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
