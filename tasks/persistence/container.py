"""The file of an object: an Arrow file of one row, written and read.

Arrays and tables are columns, and so are, for other readers, the plain values. The header, under
the key `prefect_optuna.persistence`, says which class was saved, in which version, and has every
value that is no column.
"""

from __future__ import annotations

import inspect
import json
import math
import mmap
import warnings
import zlib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from pydantic import BaseModel

from prefect_optuna.blocks.codec.tables import (
    from_arrow,
    is_arrow_time,
    not_plain,
    number_array,
    one_chunk,
    one_row,
    storable_table,
    table_kind,
    whole_text,
)
from prefect_optuna.blocks.codec.untrusted import (
    UNPACKED,
    array_size,
    bytes_of,
    check_arrow_file,
    checked_dtype,
    unpacks_to_too_much,
    validated,
)
from prefect_optuna.blocks.codec.values import decode_value, encode_value
from prefect_optuna.errors import (
    CorruptPersistenceError,
    InvalidPersistenceClassError,
    MissingKeyError,
    PersistenceError,
    SchemaChangedError,
    UndeclaredAttributeWarning,
    UnsetFieldError,
    UnsupportedValueError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.info import PersistentClass, ensure_persistence_class, missing
from prefect_optuna.tasks.persistence.persistence_class import PENDING

# Arrays and tables as columns of an Arrow file, and back.
#
# Every column has one row. An array is in it as a list, the last dimension fastest, so that the
# file is a table that everybody can read; its dtype and shape are beside it.


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
            values = pa.array(whole_text(stored), kind)
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


# Between objects of persistence classes and plain dictionaries.


T = TypeVar("T")


def as_dict(data: Any) -> dict[str, Any]:
    """The fields of an object that are set, by name.

    Args:
        data: an object of a persistence class.

    Returns:
        A new dictionary of the object's own values, which are not copied.

    Raises:
        InvalidPersistenceClassError: this is none; a `TypeError` and a `RuntimeError`.

    Example:
        >>> from prefect_optuna.tasks.persistence import as_dict, field, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        ...     power: list[float]
        >>> as_dict(Session("lynx"))
        {'animal': 'lynx'}
    """
    if data is None:
        raise InvalidPersistenceClassError("data is None")
    names = _info(data).fields_name()
    if isinstance(data, BaseModel):
        held = data.model_dump()
        return {name: held[name] for name in names if name in held}
    values = {name: getattr(data, name, missing) for name in names}
    return {name: value for name, value in values.items() if value is not missing}


def from_dict(data_cls: type[T], d: Mapping[str, Any]) -> T:
    """Make an object of its fields.

    A class whose own `__init__` takes something else defines a class method `from_dict`.

    Args:
        data_cls: the persistence class.
        d: the values, by name; those of no field are left out.

    Returns:
        The object.

    Raises:
        MissingKeyError: there is no value for a field without a default; names it.
        InvalidPersistenceClassError: `data_cls` is none, or its `from_dict` returned something
            else.

    Example:
        >>> from prefect_optuna.tasks.persistence import field, from_dict, persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        >>> from_dict(Session, {"animal": "lynx", "unknown": 1})
        Session{animal=lynx}
    """
    return made_of(ensure_persistence_class(data_cls), d)


def made_of(info: PersistentClass[T], d: Mapping[str, Any], where: str = "") -> T:
    """Make an object of its fields; `where` says what file they come from."""
    keys: dict[str, Any] = {}
    for field in info.fields:
        if not field.init:
            continue
        if field.field_name in d:
            keys[field.field_name] = d[field.field_name]
        elif not field.has_default:
            raise MissingKeyError(
                f"missing required field : {field.field_name}, of {info.cls_name}{where}. Expected "
                f"{', '.join(f.field_name for f in info.fields if f.init)}, found "
                f"{', '.join(map(str, d)) or 'nothing'}."
            )
    known = {name: d[name] for name in info.fields_name() if name in d}
    factory = getattr(info.cls, "from_dict", None)
    if factory is not None and not _takes(info.cls, keys):
        made = factory(known)
        if not isinstance(made, info.cls):
            raise InvalidPersistenceClassError(
                f"{info.cls_name}.from_dict returned a {type(made).__name__}. It has to return an "
                f"object of {info.cls_name}."
            )
        return made
    made = info.cls(**keys)
    for name, value in known.items():
        if name not in keys:
            setattr(made, name, value)
    return made


def _takes(cls: type, keys: Mapping[str, Any]) -> bool:
    """Tell whether `__init__` has arguments of these names, whatever it makes of them."""
    try:
        inspect.signature(cls).bind(**keys)
    except TypeError:
        return False
    return True


def to_be_saved(data: Any, where: str) -> dict[str, Any]:
    """The fields of an object that is complete."""
    info = _info(data)
    values = as_dict(data)
    for field in info.fields:
        if field.field_name not in values:
            raise UnsetFieldError(
                f"{info.cls_name}.{field.field_name} is not set, and the object was to be saved as "
                f"{where}. Nothing has been written. Set it, or give it a value in the class."
            )
    undeclared = vars(data).keys() - set(info.fields_name()) - {PENDING, "__orig_class__"}
    if undeclared:
        warnings.warn(
            f"{info.cls_name} declares no {', '.join(sorted(undeclared))}, so that it is not saved "
            f"as {where}. Annotate it in the class.",
            UndeclaredAttributeWarning,
            stacklevel=4,
        )
    return values


def _info(data: Any) -> PersistentClass[Any]:
    if isinstance(data, type):
        raise InvalidPersistenceClassError(
            f"Expected an object of a persistence class, found the class {data.__name__} itself."
        )
    return ensure_persistence_class(data)


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


# Reading of a file into an object of the class that is asked for, or into an error.


# Types whose names are the same however they are written.
_PLAIN = {"bool", "int", "float", "complex", "str", "bytes"}


def header_of(info: PersistentClass[Any]) -> dict[str, Any]:
    """Return the header of a file, which names the class of its object."""
    return {
        "class": info.cls_name,
        "home": info.home,
        "version": info.version,
        "schema": info.schema,
    }


def check_class(info: PersistentClass[Any], header: Mapping[str, Any], where: str) -> None:
    """Make sure that a file holds an object of this class, of whatever version."""
    try:
        name, home = header["class"], header["home"]
    except KeyError as error:
        raise CorruptPersistenceError(
            f"Expected an object of {info.cls_name} in {where}, found a file that does not say "
            f"what it holds: no {error} in its header."
        ) from None
    if home == info.home or home in info.formerly:
        return
    if name != info.cls_name:
        raise WrongPersistenceClassError(
            f"Expected an object of {info.cls_name} in {where}, found one of {name}. Load it as "
            "that, or save the objects in different folders."
        )
    raise WrongPersistenceClassError(
        f"There are two classes {name}: expected an object of {info.home} in {where}, found one "
        f"of {home}. Give one of them persistence_class(name=...). If this is the same class and "
        f"it has moved, say so: persistence_class(formerly=({home!r},))."
    )


def object_of(info: PersistentClass[T], container: Container, *, lazy: bool = False) -> T:
    """The object that a file holds."""
    header, where = container.header, container.where
    check_class(info, header, where)
    if header["version"] != info.version:
        return made_of(info, _migrated(info, container.values(), header["version"], where), where)
    _check_schema(info, header["schema"], where)
    if not lazy:
        return made_of(info, container.values(), f" in {where}")
    # What has a default in the class would never be asked for: Python finds the default.
    late = [
        field.field_name
        for field in info.fields
        if not field.init
        and field.field_name in container.names()
        and not hasattr(info.cls, field.field_name)
        and not container.is_plain(field.field_name)
    ]
    now = {name: container.value(name) for name in container.names() if name not in late}
    made = made_of(info, now, f" in {where}")
    vars(made)[PENDING] = Pending(container, late)
    return made


def object_of_values(info: PersistentClass[T], values: Mapping[str, Any], where: str) -> T:
    """The object of a pickle, which has no version: its values are taken if they fit."""
    if info.migrate is not None and not _fits(info, values):
        values = _migrated(info, dict(values), 0, where)
    return made_of(info, values, f" in {where}")


class Pending(Mapping[str, Any]):
    """Fields that are read when they are asked for. A copy for another process has them all."""

    def __init__(self, container: Container, names: list[str]) -> None:
        self._container = container
        self._names = names

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._container.value(name)

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _migrated(
    info: PersistentClass[Any], values: dict[str, Any], version: int, where: str
) -> Mapping[str, Any]:
    if version > info.version:
        raise SchemaChangedError(
            f"{where} was written by version {version} of {info.cls_name}, and this is version "
            f"{info.version}. Read it with the newer code."
        )
    if info.migrate is None:
        raise SchemaChangedError(
            f"{where} was written by version {version} of {info.cls_name}, and this is version "
            f"{info.version}. Say how to get from one to the other: persistence_class(version="
            f"{info.version}, migrate=function), with function(values, version) -> values."
        )
    migrated = info.migrate(values, version)
    lacking = _lacking(info, migrated)
    if lacking:
        raise SchemaChangedError(
            f"{info.cls_name}'s migrate function returned no {', '.join(lacking)} for {where}, of "
            f"version {version}. It has to return all fields."
        )
    return migrated


def _lacking(info: PersistentClass[Any], values: Mapping[str, Any]) -> list[str]:
    return [
        field.field_name
        for field in info.fields
        if field.field_name not in values
        and not (field.has_default if field.init else hasattr(info.cls, field.field_name))
    ]


def _fits(info: PersistentClass[Any], values: Mapping[str, Any]) -> bool:
    return not _lacking(info, values) and not values.keys() - set(info.fields_name())


def _check_schema(info: PersistentClass[Any], schema: Mapping[str, str], where: str) -> None:
    """The fields have to be those of the file, but for new ones that have defaults."""
    changes = [f"{name} is gone" for name in schema if info.get_field(name) is None]
    changes += [f"{name} is new" for name in _lacking(info, schema)]
    changes += [
        f"{name} was {schema[name]} and is {kind}"
        for name, kind in info.schema.items()
        if name in schema and schema[name] != kind and {schema[name], kind} <= _PLAIN
    ]
    if changes:
        raise SchemaChangedError(
            f"The fields of {info.cls_name} have changed since {where} was written: "
            f"{'; '.join(changes)}. Count up its version, and say how to migrate: "
            f"persistence_class(version={info.version + 1}, migrate=function)."
        )
