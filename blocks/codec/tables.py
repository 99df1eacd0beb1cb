"""Tables of any library as Arrow, and back: pyarrow's own, pandas', polars'.

A table of another library is read through its `__arrow_c_stream__`, and comes back as a
`pyarrow.Table`. None of the libraries is imported unless a value of its is met.
"""

from __future__ import annotations

from typing import Any

from prefect_optuna.blocks.codec.untrusted import arrow_types_refused
from prefect_optuna.errors import ArchiveError

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
                frame = table.to_pandas()
                by_rows = (table.schema.metadata or {}).get(_LAYOUT) == b"rows"
                return _by_rows(frame) if by_rows else frame
            case "pandas.Series":
                series = table.to_pandas().iloc[:, 0]
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
