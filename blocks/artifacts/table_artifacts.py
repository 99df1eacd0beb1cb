"""Arrays and tables as files: NPY and NPZ, CSV, Parquet and Arrow."""

from __future__ import annotations

import os
import zipfile
from typing import IO, Any, ClassVar, Literal, TypeGuard, cast

import numpy as np

from prefect_optuna.blocks.artifacts.artifact import Artifact, refuse_options, type_name
from prefect_optuna.blocks.codec.tables import from_arrow, refused_column, table_kind, to_arrow
from prefect_optuna.blocks.codec.untrusted import (
    open_zip,
    read_arrow,
    read_npy,
    read_parquet,
    unpacks_to_too_much,
)
from prefect_optuna.errors import ArchiveError, ArtifactLoadError, ArtifactLogError

# NumPy arrays as NumPy's own files, without pickle.


class NPYArtifact(Artifact):
    """Writes one array as an NPY file, with its type and shape.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.blocks.artifacts import NPYArtifact, decode, encode
        >>> decode(NPYArtifact, encode(NPYArtifact, np.eye(2)))
        array([[1., 0.],
               [0., 1.]])
    """

    __slots__ = ()
    alias: ClassVar[str] = "npy"
    suffix: ClassVar[str] = "npy"
    binary: ClassVar[bool] = True

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take plain arrays."""
        return type(value) is np.ndarray

    @classmethod
    def write(cls, obj: Any, buf: IO[bytes], **writer_kwargs: Any) -> None:
        """Write an array.

        Args:
            obj: a plain array of numbers, text, times or records.
            buf: a binary file.
            **writer_kwargs: there are none.

        Raises:
            ArtifactLogError: it is something else, or holds Python objects.
        """
        refuse_options(writer_kwargs)
        _write_array(obj, buf, "$")

    @classmethod
    def read(cls, buf: IO[bytes], **reader_kwargs: Any) -> np.ndarray[Any, Any]:
        """Read an array.

        Args:
            buf: a binary file.
            **reader_kwargs: there are none.

        Returns:
            The array; it is new and can be written to.
        """
        refuse_options(reader_kwargs)
        return read_npy(buf, _size(buf))


class NPZArtifact(Artifact):
    """Writes a dictionary of arrays as an NPZ file. The default for a dictionary of arrays only.

    Unlike `numpy.savez`, equal arrays give equal bytes whenever they are written, and any text
    is a key.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.blocks.artifacts import NPZArtifact, decode, encode
        >>> decode(NPZArtifact, encode(NPZArtifact, {"hare": np.arange(3)}, compressed=True))
        {'hare': array([0, 1, 2])}
    """

    __slots__ = ()
    alias: ClassVar[str] = "npz"
    suffix: ClassVar[str] = "npz"
    binary: ClassVar[bool] = True

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take dictionaries of plain arrays; an empty one is JSON's."""
        return _is_arrays(value) and bool(value)

    @classmethod
    def write(
        cls, obj: Any, buf: IO[bytes], *, compressed: bool = False, **writer_kwargs: Any
    ) -> None:
        """Write arrays.

        Args:
            obj: a dictionary of text to plain arrays.
            buf: a binary file.
            compressed: whether to compress them.
            **writer_kwargs: there are no others.

        Raises:
            ArtifactLogError: it is something else, or an array holds Python objects.
        """
        refuse_options(writer_kwargs)
        if not _is_arrays(obj):
            raise ArtifactLogError(
                "The artifact handler 'npz' expects a dictionary of text to NumPy arrays, and "
                f"found {type_name(obj)}" + _first_other(obj) + ". Use np.asarray(...), or the "
                "handler 'json', which keeps arrays among other values."
            )
        method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(buf, "w", method) as archive:
            for key, array in obj.items():
                if "\0" in key:
                    raise ArtifactLogError(f"The key {key!r} has a NUL, which NPZ cannot keep.")
                # The date, the system and so the bytes are the same everywhere and always.
                entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.create_system, entry.compress_type = 3, method
                with archive.open(entry, "w", force_zip64=True) as file:
                    _write_array(array, file, f"$[{key!r}]")

    @classmethod
    def read(cls, buf: IO[bytes], **reader_kwargs: Any) -> dict[str, np.ndarray[Any, Any]]:
        """Read arrays.

        Args:
            buf: a binary file, also one of `numpy.savez`.
            **reader_kwargs: there are none.

        Returns:
            All of them, in the order in which they were written.
        """
        refuse_options(reader_kwargs)
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        with open_zip(buf, _size(buf)) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    arrays[entry.filename.removesuffix(".npy")] = read_npy(file, entry.file_size)
                    file.read()  # to the end, where the checksum is compared
        return arrays


def _size(file: IO[bytes]) -> int:
    """Return the number of bytes from the current position to the end."""
    start = file.tell()
    size = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    return size


def _is_arrays(value: Any) -> TypeGuard[dict[str, np.ndarray[Any, Any]]]:
    return type(value) is dict and all(
        type(array) is np.ndarray and type(key) is str for key, array in value.items()
    )


def _first_other(value: Any) -> str:
    if type(value) is not dict:
        return ""
    for key, item in value.items():
        if type(key) is not str:
            return f" with the key {key!r}"
        if type(item) is not np.ndarray:
            return f" with {type_name(item)} at {key!r}"
    return ""


def _write_array(array: Any, file: IO[bytes], path: str) -> None:
    if type(array) is not np.ndarray:
        raise ArtifactLogError(
            f"{path} is of type {type_name(array)}, and the artifact handlers 'npy' and 'npz' "
            "write plain NumPy arrays. Use np.asarray(...), for a masked array .filled(...)."
        )
    if array.dtype.hasobject:
        raise ArtifactLogError(
            f"{path} is an array of Python objects, which NumPy could only pickle. Give it a "
            "type: array.astype(float), or use the artifact handler 'json' for a list."
        )
    np.lib.format.write_array(file, array, allow_pickle=False)


TableLibrary = Literal["arrow", "pandas", "polars"]
"""The table type to return: `pyarrow.Table`, `pandas.DataFrame` or `polars.DataFrame`."""

_KIND_OF: dict[str, str] = {
    "arrow": "pyarrow.Table",
    "pandas": "pandas.DataFrame",
    "polars": "polars.DataFrame",
}
_LIBRARIES = {kind: library for library, kind in _KIND_OF.items()}
_KEY = b"prefect_optuna.library"


class ParquetArtifact(Artifact):
    """Writes a table of pandas, polars or pyarrow as a Parquet file. The default for tables.

    The table comes back as one of the library that it was of, which the file says. A file of
    somebody else comes back as a `pyarrow.Table`. Columns have Arrow's types: a pandas index and
    categories are kept, and lists in a pandas column come back as arrays.

    Example:
        >>> import pyarrow as pa
        >>> from prefect_optuna.blocks.artifacts import ParquetArtifact, decode, encode
        >>> decode(ParquetArtifact, encode(ParquetArtifact, pa.table({"x": [1, 2]}))).to_pydict()
        {'x': [1, 2]}
    """

    __slots__ = ()
    alias: ClassVar[str] = "parquet"
    suffix: ClassVar[str] = "parquet"
    binary: ClassVar[bool] = True

    @classmethod
    def takes(cls, value: Any) -> bool:
        """Take tables of pandas, polars and pyarrow."""
        return table_library(value) is not None

    @classmethod
    def write(cls, obj: Any, buf: IO[bytes], **writer_kwargs: Any) -> None:
        """Write a table.

        Args:
            obj: a `pandas.DataFrame`, `polars.DataFrame` or `pyarrow.Table`.
            buf: a binary file.
            **writer_kwargs: arguments of `pyarrow.parquet.write_table`, such as `compression`.

        Raises:
            ArtifactLogError: it is no such table, or a column has values of several types.
        """
        import pyarrow.parquet as pq

        pq.write_table(_marked(obj, cls.alias), buf, **writer_kwargs)

    @classmethod
    def read(cls, buf: IO[bytes], *, as_: TableLibrary | None = None, **reader_kwargs: Any) -> Any:
        """Read a table.

        Args:
            buf: a binary file.
            as_: whose table to give back; by default that of the library that it was of.
            **reader_kwargs: arguments of `pyarrow.parquet.read_table`, such as `columns`.

        Returns:
            The table.

        Raises:
            ArtifactLoadError: the library is not installed.
        """
        return _unmarked(read_parquet(buf, **reader_kwargs), as_)


class ArrowArtifact(Artifact):
    """Writes a table of pandas, polars or pyarrow as an Arrow IPC file, also called Feather.

    Such a file is larger than a Parquet file, and is read without being decoded. What comes back
    is as for `ParquetArtifact`.

    Example:
        >>> import pyarrow as pa
        >>> from prefect_optuna.blocks.artifacts import ArrowArtifact, decode, encode
        >>> content = encode(ArrowArtifact, pa.table({"x": [1, 2]}), compression="zstd")
        >>> decode(ArrowArtifact, content, as_="pandas").x.sum().item()
        3
    """

    __slots__ = ()
    alias: ClassVar[str] = "arrow"
    suffix: ClassVar[str] = "arrow"
    binary: ClassVar[bool] = True

    @classmethod
    def write(
        cls,
        obj: Any,
        buf: IO[bytes],
        *,
        compression: Literal["lz4", "zstd"] | None = None,
        **writer_kwargs: Any,
    ) -> None:
        """Write a table.

        Args:
            obj: a `pandas.DataFrame`, `polars.DataFrame` or `pyarrow.Table`.
            buf: a binary file.
            compression: how to compress the columns; by default not at all.
            **writer_kwargs: there are no others.

        Raises:
            ArtifactLogError: it is no such table, or a column has values of several types.
        """
        import pyarrow as pa

        refuse_options(writer_kwargs)
        table = _marked(obj, cls.alias)
        if refused := refused_column(table.schema):
            raise ArtifactLogError(f"The table {refused}")
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        content, held = sink.getvalue(), table.get_total_buffer_size()
        if unpacks_to_too_much(held, content.size):
            raise ArtifactLogError(
                f"The table of {held:,} bytes shrinks to {content.size:,}, and nobody would unpack "
                "that again, as it could be an attack. Write it without compression."
            )
        buf.write(content)

    @classmethod
    def read(cls, buf: IO[bytes], *, as_: TableLibrary | None = None, **reader_kwargs: Any) -> Any:
        """Read a table.

        Args:
            buf: a binary file.
            as_: whose table to give back; by default that of the library that it was of.
            **reader_kwargs: there are no others.

        Returns:
            The table.

        Raises:
            ArtifactLoadError: the library is not installed.
        """
        refuse_options(reader_kwargs)
        return _unmarked(read_arrow(buf.read()), as_)


class CSVArtifact(Artifact):
    r"""Writes a table of pandas, polars or pyarrow as CSV, for other programs.

    CSV has no types, so reading guesses them, and gives back a `pyarrow.Table` unless asked for
    another. A pandas index becomes a column, unless it only counts the rows. Prefer Parquet for
    what this project reads again.

    Example:
        >>> import pyarrow as pa
        >>> from prefect_optuna.blocks.artifacts import CSVArtifact, encode
        >>> encode(CSVArtifact, pa.table({"x": [1, 2], "name": ["a", None]}))
        b'"x","name"\n1,"a"\n2,\n'
    """

    __slots__ = ()
    alias: ClassVar[str] = "csv"
    suffix: ClassVar[str] = "csv"
    binary: ClassVar[bool] = False

    @classmethod
    def write(cls, obj: Any, buf: IO[str], *, delimiter: str = ",", **writer_kwargs: Any) -> None:
        """Write a table.

        Args:
            obj: a `pandas.DataFrame`, `polars.DataFrame` or `pyarrow.Table`.
            buf: a text file.
            delimiter: what stands between two values.
            **writer_kwargs: arguments of `pyarrow.csv.WriteOptions`, such as `include_header`.

        Raises:
            ArtifactLogError: it is no such table, or has a column of lists or other structures.
        """
        import pyarrow as pa
        from pyarrow import csv

        table = _as_arrow(obj, cls.alias)
        sink = pa.BufferOutputStream()
        try:
            csv.write_csv(table, sink, csv.WriteOptions(delimiter=delimiter, **writer_kwargs))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ArtifactLogError(
                f"CSV cannot hold this table: {error}. Flatten the column, or use the artifact "
                "handler 'parquet'."
            ) from error
        buf.write(sink.getvalue().to_pybytes().decode())

    @classmethod
    def read(
        cls,
        buf: IO[str],
        *,
        as_: TableLibrary = "arrow",
        delimiter: str = ",",
        **reader_kwargs: Any,
    ) -> Any:
        """Read a table.

        Args:
            buf: a text file.
            as_: whose table to give back.
            delimiter: what stands between two values.
            **reader_kwargs: arguments of `pyarrow.csv.ConvertOptions`, such as `column_types`; of
                `pandas.read_csv` or `polars.read_csv` where those give the table.

        Returns:
            The table.
        """
        if as_ == "pandas":
            import pandas as pd

            return pd.read_csv(buf, sep=delimiter, **reader_kwargs)
        content = buf.read().encode()
        if as_ == "polars":
            import polars as pl

            return pl.read_csv(content, separator=delimiter, **reader_kwargs)
        if as_ != "arrow":
            raise _unknown_library(as_)
        import pyarrow as pa
        from pyarrow import csv

        return csv.read_csv(
            pa.BufferReader(content),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(**reader_kwargs),
        )

    def reread_kwargs(self) -> dict[str, Any]:
        """The delimiter that was written."""
        return {k: v for k, v in self.writer_kwargs.items() if k == "delimiter"}


def table_library(value: Any) -> TableLibrary | None:
    """The library that a value is a table of, without importing it; `None` for no table.

    Example:
        >>> import pyarrow as pa
        >>> table_library(pa.table({"x": [1]})), table_library({"x": [1]})
        ('arrow', None)
    """
    return cast("TableLibrary | None", _LIBRARIES.get(table_kind(value) or ""))


def _as_arrow(value: Any, alias: str) -> Any:
    import pyarrow as pa

    if table_library(value) is None:
        raise ArtifactLogError(
            f"The artifact handler {alias!r} expects a pandas.DataFrame, a polars.DataFrame or "
            f"a pyarrow.Table, and found {type_name(value)}. pandas.DataFrame(...) makes a "
            "table of most things."
        )
    try:
        return to_arrow(value)
    except (pa.ArrowException, ValueError) as error:
        raise ArtifactLogError(
            f"Arrow cannot hold this {table_kind(value)}: {error}. Give each column one type and a "
            "name of its own."
        ) from error


def _marked(value: Any, alias: str) -> Any:
    """The table in Arrow, which says of what library it was."""
    table = _as_arrow(value, alias)
    mark = {_KEY: str(table_library(value)).encode()}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **mark})


def _unmarked(table: Any, wanted: str | None) -> Any:
    metadata = dict(table.schema.metadata or {})
    library = wanted or metadata.get(_KEY, b"arrow").decode()
    metadata.pop(_KEY, None)
    table = table.replace_schema_metadata(metadata or None)
    if library not in _KIND_OF:
        raise _unknown_library(library)
    try:
        return from_arrow(table, _KIND_OF[library])
    except ArchiveError as error:
        raise ArtifactLoadError(f'{error} Or pass as_="arrow".') from error


def _unknown_library(name: str) -> ArtifactLoadError:
    return ArtifactLoadError(
        f'`as_` is "arrow", "pandas" or "polars", and not {name!r}: it says whose table to give '
        "back."
    )
