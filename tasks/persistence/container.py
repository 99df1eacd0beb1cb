"""The file of an object: an Arrow file of one row, with a JSON header in its metadata.

Arrays and tables are columns, and so are, for other readers, the plain values. The header, under
the key `prefect_optuna.persistence`, says which class was saved, in which version, and has every
value that is no column.
"""

from __future__ import annotations

import json
import mmap
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from prefect_optuna.blocks.codec.tables import table_kind
from prefect_optuna.blocks.codec.untrusted import (
    UNPACKED,
    array_size,
    bytes_of,
    check_arrow_file,
    unpacks_to_too_much,
    validated,
)
from prefect_optuna.blocks.codec.values import decode_value, encode_value
from prefect_optuna.errors import (
    CorruptPersistenceError,
    PersistenceError,
    UnsupportedValueError,
)
from prefect_optuna.tasks.persistence.columns import (
    array_column,
    column_dtype,
    number_list,
    read_column,
    scalar_column,
    table_column,
)

FORMAT = 2  # 1 was without the header's checksum
MAGIC = b"ARROW1"

_KEY = b"prefect_optuna.persistence"
_CHECKSUM = _KEY + b".crc32"


def write_container(
    file: BinaryIO,
    values: Mapping[str, Any],
    header: Mapping[str, Any],
    *,
    compression: str | None = None,
    level: int | None = None,
    where: str = "",
) -> None:
    """Write the fields of an object.

    Example:
        >>> import io
        >>> from prefect_optuna.tasks.persistence.container import Container, write_container
        >>> file = io.BytesIO()
        >>> write_container(file, {"animal": "lynx", "power": [0.5, 0.25]}, {"class": "Spectrum"})
        >>> Container(file.getvalue()).values()
        {'animal': 'lynx', 'power': [0.5, 0.25]}
    """
    import pyarrow as pa

    columns = _Columns(where)
    structure = {name: columns.structure(value, name) for name, value in values.items()}
    text = json.dumps(
        {"format": FORMAT, **header, "values": structure, "columns": columns.specs},
        separators=(",", ":"),
    )
    fields = [
        pa.field(name, array.type, metadata=_shape(columns.specs.get(name)))
        for name, array in columns.arrays.items()
    ]
    encoded = text.encode("ascii")
    schema = pa.schema(fields, {_KEY: encoded, _CHECKSUM: _checksum(encoded)})
    batch = pa.RecordBatch.from_arrays(list(columns.arrays.values()), schema=schema)
    codec = pa.Codec(compression, compression_level=level) if compression else None
    # Without threads, whose start takes longer than writing.
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
    held = batch.get_total_buffer_size()
    if codec is not None and held > UNPACKED:
        # What shrinks to nearly nothing would be refused, as nobody can tell it from an attack.
        counted = pa.MockOutputStream()
        with pa.ipc.new_file(counted, schema, options=options) as writer:
            writer.write_batch(batch)
        if unpacks_to_too_much(held, counted.size()):
            options = pa.ipc.IpcWriteOptions(use_threads=False)
    with pa.ipc.new_file(pa.PythonFile(file, mode="w"), schema, options=options) as writer:
        writer.write_batch(batch)


class _Columns:
    """The columns of a file, as they are met in the values."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.arrays: dict[str, Any] = {}
        self.specs: dict[str, dict[str, Any]] = {}

    def structure(self, value: Any, name: str) -> Any:
        """The JSON of a field's value, with a node `{"$column": name}` for each column."""
        if (column := scalar_column(value)) is not None:
            self.arrays[name] = column
        try:
            return self._structure(value, name)
        except RecursionError:
            raise UnsupportedValueError(
                f"{self.where}{name} is nested too deeply to be saved, or contains itself."
            ) from None

    def _structure(self, value: Any, path: str) -> Any:
        kind = type(value)
        if kind is list or kind is tuple:
            if (array := number_list(value)) is not None:
                column, spec = array_column(array, path)
                return self._add(path, column, {**spec, "as": kind.__name__})
            items = [self._structure(item, f"{path}[{i}]") for i, item in enumerate(value)]
            return items if kind is list else {"$tuple": items}
        if kind is dict and all(type(key) is str and key[:1] != "$" for key in value):
            return {key: self._structure(item, f"{path}.{key}") for key, item in value.items()}
        return encode_value(value, self._other, path)

    def _other(self, value: Any, path: str) -> Any:
        where = f"{self.where}{path}"
        if isinstance(value, np.ndarray):
            return self._add(path, *array_column(value, where))
        if table_kind(value) is not None:
            column, spec, metadata = table_column(value, where)
            if metadata:
                spec["metadata"] = encode_value(dict(metadata), self._other, path)
            return self._add(path, column, spec)
        raise UnsupportedValueError(
            f"{where} is of type {type(value).__module__}.{type(value).__qualname__}, which this "
            "file cannot hold, and nothing has been written. Expected plain data, NumPy arrays or "
            "tables. Convert it, or take PickleHandler(..., allow_pickle=True)."
        )

    def _add(self, path: str, column: Any, spec: dict[str, Any]) -> dict[str, str]:
        name, number = path, 2
        while name in self.arrays:
            name, number = f"{path} ({number})", number + 1
        self.arrays[name], self.specs[name] = column, spec
        return {"$column": name}


class Container:
    """A file that `write_container` has written, open for reading.

    A local file is mapped into memory: arrays are views of it that may be written to, which does
    not change the file.

    Args:
        source: the file: its path, all of its bytes, or a binary file.
        where: how to name it in messages.

    Attributes:
        header: what was given to `write_container` beside the values.
    """

    def __init__(self, source: Path | bytes | BinaryIO, where: str = "a file") -> None:
        import pyarrow as pa

        self.where: str = where
        self._mapped: mmap.mmap | None = None
        with self._explained():
            if isinstance(source, Path):
                with source.open("rb") as file:
                    self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                self._source: Any = pa.py_buffer(self._mapped)
            elif isinstance(source, bytes):
                self._source = pa.py_buffer(source)
            else:
                self._source = pa.PythonFile(source, mode="r")
            self._size = self._checked()
            reader = pa.ipc.open_file(self._source)
            self._names: list[str] = reader.schema.names
            schema_metadata = reader.schema.metadata or {}
            metadata: Any = json.loads(schema_metadata[_KEY])
            if reader.num_record_batches != 1:
                raise ValueError(f"it has {reader.num_record_batches} record batches")
            # For one who reads some fields only, the batch waits.
            self._reader: Any = reader
            self._batch: Any = None
            if not all(isinstance(metadata[part], dict) for part in ("values", "columns")):
                raise ValueError("its header is of something else")
            if metadata["format"] > FORMAT:
                raise CorruptPersistenceError(
                    f"{where} has the format {metadata['format']}, and this version reads up to "
                    f"{FORMAT}: pip install --upgrade prefect-optuna."
                )
            # A damaged name of a column is still JSON, and would be a value instead of an array.
            if metadata["format"] > 1 and (
                schema_metadata[_CHECKSUM] != _checksum(schema_metadata[_KEY])
            ):
                raise ValueError("its header is damaged")
            self._values: dict[str, Any] = metadata.pop("values")
            self._specs: dict[str, Any] = metadata.pop("columns")
            needed = sum(
                array_size(column_dtype(spec), spec["shape"])
                for spec in self._specs.values()
                if spec["dtype"] != "table"
            )
            if unpacks_to_too_much(needed, self._size):
                raise ValueError(f"its {self._size:,} bytes would become {needed:,}")
        self.header: dict[str, Any] = metadata

    def values(self) -> dict[str, Any]:
        """All fields, by name."""
        with self._explained():
            self._batch = validated(self._reader.get_batch(0), self._size)
        return {name: self.value(name) for name in self._values}

    def value(self, name: str) -> Any:
        """One field; of a remote file, only its part is read."""
        with self._explained():
            return decode_value(self._values[name], self._column)

    def names(self) -> list[str]:
        """The names of the fields."""
        return list(self._values)

    def is_plain(self, name: str) -> bool:
        """Tell whether a field is in the header, so that reading it costs nothing."""
        return "$column" not in json.dumps(self._values[name])

    def _column(self, tag: str, held: Any) -> Any:
        if tag != "$column":
            raise CorruptPersistenceError(
                f"{self.where} holds {tag!r}, which this version does not know: pip install "
                "--upgrade prefect-optuna."
            )
        spec = self._specs[held]
        metadata = spec.get("metadata")
        if metadata is not None:
            metadata = decode_value(metadata, self._column)
        return read_column(self._arrow(held), spec, self._mapped, metadata)

    def _arrow(self, name: str) -> Any:
        import pyarrow as pa

        if self._batch is not None:
            return self._batch.column(name)
        options = pa.ipc.IpcReadOptions(included_fields=[self._names.index(name)])
        batch = pa.ipc.open_file(self._source, options=options).get_batch(0)
        return validated(batch, self._size).column(0)

    def _checked(self) -> int:
        """Look at what the file says of itself, and return its size."""
        import pyarrow as pa

        if isinstance(self._source, pa.Buffer):
            buffer: Any = self._source
            check_arrow_file(bytes_of(buffer), buffer.size)
            return buffer.size
        size: int = self._source.size()

        def read_at(start: int, count: int) -> bytes:
            self._source.seek(start)
            return self._source.read(count)

        check_arrow_file(read_at, size)
        return size

    @contextmanager
    def _explained(self) -> Generator[None]:

        try:
            yield
        except CorruptPersistenceError as error:
            if self.where in str(error):
                raise
            raise self._corrupt(error) from error
        except PersistenceError:
            raise
        except (FileNotFoundError, IsADirectoryError):
            raise
        except Exception as error:
            # Not only what Arrow raises: pandas and polars follow what the file says.
            raise self._corrupt(error) from error

    def _corrupt(self, error: Exception) -> CorruptPersistenceError:
        return CorruptPersistenceError(
            f"Expected the Arrow file of a saved object, found something else, or only a part of "
            f"it, in {self.where}: {type(error).__name__}: {error}. Save the object again, or take "
            "the file from a backup."
        )


def _checksum(header: bytes) -> bytes:
    return f"{zlib.crc32(header):08x}".encode("ascii")


def _shape(spec: dict[str, Any] | None) -> dict[str, str] | None:
    """Return what other readers may want to know of a column."""
    if spec is None:
        return None
    return {"dtype": json.dumps(spec["dtype"]).strip('"'), "shape": json.dumps(spec["shape"])}
