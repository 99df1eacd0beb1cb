"""Reads bytes that somebody else may have made: Arrow, Parquet, NPY and ZIP files, and pickles.

The libraries trust what a file says of itself: that a column is as long as it claims, that a
buffer lies inside of the file, that there is memory for what is compressed. Here that is looked at
before they are given the file, and the values that they make of it before anybody gets them. What
does not hold is a `ValueError`; whoever reads says in which file.

Something small may unpack to `UNPACKED` bytes, something large to `RATIO` times its size. Those
who write keep to that, by not compressing what shrinks more.
"""

from __future__ import annotations

import base64
import copy
import importlib
import io
import json
import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from enum import Enum
from functools import lru_cache
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

UNPACKED = 1 << 30
"""Largest number of bytes to which anything may unpack."""

RATIO = 100
"""The largest ratio of unpacked to stored size, for what unpacks to more than that."""

_EMPTY_ROWS = 10_000_000  # of a column that takes no bytes
_DEPTH = 64  # of types in types
_FIELDS = 100_000
_DEFLATE = 1100  # times; no deflated data expands to more

_MAGIC = b"ARROW1"
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # of the headers of a message
# As Schema.fbs numbers them. Missing: unions, run-end encoding and list views, whose values may be
# as many as they like in a few bytes.
_TYPES = frozenset(range(1, 25)) - {14, 22}
# Others are read by registered classes, and some of those unpickle.
_EXTENSIONS = {
    "arrow.bool8",
    "arrow.fixed_shape_tensor",
    "arrow.json",
    "arrow.opaque",
    "arrow.uuid",
    "pandas.interval",
    "pandas.period",
}
_EXTENSION = b"ARROW:extension:name"
_DTYPE = re.compile(
    r"[<>=|]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SUV]\d{1,10}"
    r"|[mM]8(\[\d{0,9}(Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)

# The name, then the head of a text and its length as Thrift writes them, then the text.
_PARQUET_SCHEMA = re.compile(rb"ARROW:schema\x18[\x80-\xff]{0,4}[\x00-\x7f]([A-Za-z0-9+/=]*)")

_ReadAt = Callable[[int, int], bytes]


def unpacks_to_too_much(unpacked: int, stored: int) -> bool:
    """Tell whether content unpacks to more bytes than its stored size allows."""
    return unpacked > max(UNPACKED, RATIO * stored)


def read_arrow(content: Any) -> Any:
    """Read an Arrow IPC file.

    Args:
        content: the bytes of the file, or a `pyarrow.Buffer` of them.

    Returns:
        The `pyarrow.Table`, which has been validated, and lies in the same bytes.
    """
    import pyarrow as pa

    buffer = pa.py_buffer(content)
    check_arrow_file(bytes_of(buffer), buffer.size)
    return validated(pa.ipc.open_file(buffer).read_all(), buffer.size)


def bytes_of(buffer: Any) -> Callable[[int, int], bytes]:
    """Return a function that reads a number of bytes of a `pyarrow.Buffer`, from a place on."""

    def read_at(start: int, size: int) -> bytes:
        return buffer.slice(start, size).to_pybytes()

    return read_at


def read_parquet(file: IO[bytes], **options: Any) -> Any:
    """Read a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = pa.py_buffer(file.read())
    _check_parquet_schema(content)
    metadata = pq.read_metadata(pa.BufferReader(content))
    _check_parquet_footer(metadata, content)
    _check_parquet(metadata, content)
    table = pq.read_table(pa.BufferReader(content), **options)
    return validated(table, content.size)


def check_arrow_file(read_at: _ReadAt, size: int) -> None:
    """Look at what an Arrow IPC file says of itself, without reading its values.

    Args:
        read_at: returns so many bytes from a place on.
        size: of the file.
    """
    tail = len(_MAGIC) + 4
    if size < tail + 8 or read_at(0, 6) != _MAGIC or read_at(size - 6, 6) != _MAGIC:
        raise ValueError("it is no whole Arrow file")
    (length,) = struct.unpack("<i", read_at(size - tail, 4))
    if not 0 < length <= size - tail:
        raise ValueError("its end lies outside of it")
    footer = _Table.root(read_at(size - tail - length, length))
    schema = footer.table(1)
    if schema is None:
        raise ValueError("it has no schema")
    _check_schema(schema)
    unpacked = 0
    for kind, field in ((_DICTIONARY_BATCH, 2), (_RECORD_BATCH, 3)):
        for block in footer.structs(field, "<qi4xq"):
            unpacked += _check_block(read_at, size, kind, *block)
    if unpacks_to_too_much(unpacked, size):
        raise ValueError(f"its {size:,} bytes would unpack to {unpacked:,}")


def validated(table: Any, size: int) -> Any:
    """Return a table or record batch whose values have been looked at.

    Args:
        table: what Arrow has read.
        size: how many bytes it was read from.

    Raises:
        ValueError: it has more rows than its bytes can be.
        pyarrow.ArrowInvalid: its values contradict each other.
    """
    _check_pandas_notes(table.schema)
    table.validate(full=True)
    held = table.get_total_buffer_size()
    if unpacks_to_too_much(held, size):
        raise ValueError(f"its {size:,} bytes unpacked to {held:,}")
    most = max(_EMPTY_ROWS, 8 * held)
    for column in table.columns:
        for chunk in getattr(column, "chunks", [column]):
            for array in _arrays(chunk):
                if len(array) > most:
                    raise ValueError(f"a column of {held:,} bytes claims {len(array):,} values")
                _check_views(array, size)
    return table


def _check_pandas_notes(schema: Any) -> None:
    """Check what pandas has noted on the columns of a table, which it makes names and types of."""
    notes = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
    of_columns = [*notes.get("columns", ()), *notes.get("column_indexes", ())]
    if any(isinstance(note["name"], (dict, list)) for note in of_columns):
        raise ValueError("pandas cannot have a column of that name")
    for kind in {str(note[of]) for note in of_columns for of in ("pandas_type", "numpy_type")}:
        if any(len(number) > 3 for number in re.findall(r"\d+", kind)):
            raise ValueError(f"it has names of the type {kind}, which are too long")


def arrow_types_refused(schema: Any) -> list[str]:
    """The types in a schema that the functions here do not read, so that nobody writes them."""
    import pyarrow as pa

    plain = pa.schema([pa.field(str(i), field.type) for i, field in enumerate(schema)])
    refused: list[str] = []
    for field in plain:
        try:
            _check_schema_message(pa.schema([field]).serialize().to_pybytes())
        except ValueError:
            refused.append(str(field.type))
    return refused


def checked_dtype(text: Any) -> np.dtype[Any]:
    """The type of an array that a file names.

    Raises:
        ValueError: it is no plain type of numbers, text, times or bytes.
    """
    if not isinstance(text, str):
        raise ValueError("it names no type of plain arrays")
    return _dtype(text)


@lru_cache
def _dtype(text: str) -> np.dtype[Any]:
    if not _DTYPE.fullmatch(text):
        raise ValueError("it names no type of plain arrays")
    return np.dtype(text)


def array_size(dtype: np.dtype[Any], shape: Any) -> int:
    """Return the number of bytes that an array takes whose shape a file names."""
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("it names no shape of an array")
    return dtype.itemsize * math.prod(shape)


def is_padded(size: int, held: int) -> bool:
    """Tell whether an array takes far more bytes than there are characters in it."""
    return size > max(1 << 12, RATIO * held)


def read_npy(file: IO[bytes], size: int) -> np.ndarray[Any, Any]:
    """Read an NPY file."""
    version = np.lib.format.read_magic(file)
    head = 10 if version == (1, 0) else 12
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    elif version == (3, 0):  # as 2.0, with UTF-8; NumPy has no public function for it
        shape, fortran, dtype = np.lib.format._read_array_header(file, version)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        raise ValueError(f"it is an NPY file of the unknown version {version}")
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and allow_pickle=False")
    if any(length < 0 for length in shape):
        raise ValueError(f"it has the shape {shape}")
    count = math.prod(shape)
    needed = count * dtype.itemsize
    # The header is padded, and so has at least the bytes that it begins with.
    if needed > size - head or (not dtype.itemsize and count > _EMPTY_ROWS):
        raise ValueError(f"it has {size:,} bytes, and claims an array of {needed:,}")
    data = bytearray(needed)
    at = 0
    view = memoryview(data)
    while at < needed and (part := file.read(min(needed - at, 1 << 24))):
        view[at : at + len(part)] = part
        at += len(part)
    if at < needed:
        raise ValueError(f"{needed - at:,} bytes are missing at its end")
    array = np.frombuffer(data, dtype) if needed else np.zeros(count, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def open_zip(file: Any, size: int) -> zipfile.ZipFile:
    """Open a ZIP file whose entries are stored or deflated, lie apart, and have names of their own.

    What is deflated has at most a thousandth of its size, and so cannot become more than that.
    """
    archive = zipfile.ZipFile(file)
    try:
        _check_entries(archive.infolist(), size)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError("two of its entries have one name")
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("one of its entries is compressed in another way than by deflating")
        if entry.flag_bits & 0x41:
            raise ValueError("one of its entries is encrypted")
        if entry.header_offset < end:
            raise ValueError("its entries overlap")
        end = entry.header_offset + 30 + entry.compress_size  # 30: of what precedes a name
        is_stored = entry.compress_type == zipfile.ZIP_STORED
        most = entry.compress_size if is_stored else _DEFLATE * entry.compress_size + 1024
        if entry.file_size > most or (is_stored and entry.file_size != entry.compress_size):
            raise ValueError(
                f"one of its entries has {entry.compress_size:,} bytes, and claims to unpack to "
                f"{entry.file_size:,}"
            )
    if end > size:
        raise ValueError("its entries lie outside of it")


class _Table:
    """A table of a flatbuffer. Whatever lies outside of it is a `ValueError`."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at
        self.fields = at - self._unpack("<i", at)[0]
        (self.size,) = self._unpack("<H", self.fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        if len(data) < 8:
            raise ValueError("a part of it is too short")
        return cls(data, struct.unpack_from("<I", data)[0])

    def scalar(self, field: int, form: str, default: int = 0) -> int:
        at = self._place(field)
        return default if at is None else self._unpack(form, at)[0]

    def table(self, field: int) -> _Table | None:
        at = self._place(field)
        return None if at is None else _Table(self.data, at + self._unpack("<I", at)[0])

    def tables(self, field: int) -> Iterator[_Table]:
        start, count = self._vector(field, 4)
        for at in range(start, start + 4 * count, 4):
            yield _Table(self.data, at + self._unpack("<I", at)[0])

    def structs(self, field: int, form: str) -> Iterator[tuple[Any, ...]]:
        size = struct.calcsize(form)
        start, count = self._vector(field, size)
        return struct.iter_unpack(form, self.data[start : start + size * count])

    def bytes(self, field: int) -> bytes:
        start, count = self._vector(field, 1)
        return self.data[start : start + count]

    def _place(self, field: int) -> int | None:
        entry = 4 + 2 * field
        if entry + 2 > self.size:
            return None
        (offset,) = self._unpack("<H", self.fields + entry)
        return self.at + offset if offset else None

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        at = self._place(field)
        if at is None:
            return 0, 0
        at += self._unpack("<I", at)[0]
        (count,) = self._unpack("<I", at)
        if at + 4 + count * size > len(self.data):
            raise ValueError("a part of it lies outside of it")
        return at + 4, count

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        if not 0 <= at <= len(self.data) - struct.calcsize(form):
            raise ValueError("a part of it lies outside of it")
        return struct.unpack_from(form, self.data, at)


def _check_schema_message(data: bytes) -> None:
    """Check a schema as `pyarrow.Schema.serialize` writes it."""
    start = 8 if data[:4] == b"\xff\xff\xff\xff" else 4
    schema = _Table.root(data[start:]).table(2)
    if schema is None:
        raise ValueError("it has no schema")
    _check_schema(schema)


def _check_schema(schema: _Table) -> None:
    if schema.scalar(0, "<h"):
        raise ValueError("it is of a machine with another byte order")
    seen = 0
    fields = [(field, 0) for field in schema.tables(1)]
    while fields:
        field, depth = fields.pop()
        seen += 1
        if depth > _DEPTH or seen > _FIELDS:
            raise ValueError("its columns are nested too deeply, or too many")
        try:
            field.bytes(0).decode()  # polars panics
        except UnicodeDecodeError:
            raise ValueError("it has a column whose name is no UTF-8") from None
        if (kind := field.scalar(2, "<B")) not in _TYPES:
            raise ValueError(f"it has a column of Arrow's type {kind}, which is not read here")
        for pair in field.tables(6):
            if pair.bytes(0) == _EXTENSION:
                name = pair.bytes(1).decode(errors="replace")
                if name not in _EXTENSIONS:
                    raise ValueError(f"it has a column of the extension type {name!r}")
        fields += [(child, depth + 1) for child in field.tables(5)]


def _check_block(read_at: _ReadAt, size: int, kind: int, offset: int, head: int, body: int) -> int:
    """Check a batch, and return how many bytes it unpacks to."""
    if offset < 8 or head < 8 or body < 0 or offset + head + body > size:
        raise ValueError("a part of it lies outside of it")
    data = read_at(offset, head)
    message = _Table.root(data[8 if data[:4] == b"\xff\xff\xff\xff" else 4 :])
    header = message.table(2)
    if message.scalar(1, "<B") != kind or message.scalar(3, "<q") != body or header is None:
        raise ValueError("a part of it is none of those that its end names")
    batch = header.table(1) if kind == _DICTIONARY_BATCH else header
    if batch is None:
        raise ValueError("a part of it is empty")
    is_compressed = batch.table(3) is not None
    unpacked = 0
    for length, nulls in batch.structs(1, "<qq"):
        if not 0 <= nulls <= length:
            raise ValueError(f"a column of it has {length} values, and {nulls} that are missing")
    for start, length in batch.structs(2, "<qq"):
        if start < 0 or length < 0 or start + length > body:
            raise ValueError("values of it lie outside of it")
        if is_compressed and length >= 8:
            (claimed,) = struct.unpack("<q", read_at(offset + head + start, 8))
            length = length - 8 if claimed == -1 else claimed
            if length < 0:
                raise ValueError("values of it have a negative size")
        unpacked += length
    return unpacked


def _arrays(array: Any) -> Iterator[Any]:
    """An Arrow array, and all those that it is made of."""
    import pyarrow as pa

    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        yield from _arrays(array.storage)
        return
    yield array
    if isinstance(array, pa.DictionaryArray):
        yield from _arrays(array.dictionary)
    elif isinstance(array, pa.StructArray):
        for number in range(kind.num_fields):
            yield from _arrays(array.field(number))
    elif hasattr(array, "values"):  # lists of all kinds, and mappings
        yield from _arrays(array.values)


def _check_views(array: Any, size: int) -> None:
    """Refuse views of text that show the same bytes over and over."""
    import pyarrow as pa

    if array.type not in (pa.string_view(), pa.binary_view()) or not len(array):
        return
    views = np.frombuffer(array.buffers()[1], np.int32)[::4]
    shown = int(views[array.offset : array.offset + len(array)].sum(dtype=np.int64))
    if unpacks_to_too_much(shown, size):
        raise ValueError(f"its {size:,} bytes show {shown:,} bytes of text")


def _check_parquet_schema(content: Any) -> None:
    """Check Arrow's own schema in a Parquet file, which Arrow reads as soon as it opens one."""
    tail = content.slice(max(content.size - 8, 0)).to_pybytes()
    if len(tail) < 8 or tail[4:] != b"PAR1":
        raise ValueError("it is no whole Parquet file")
    (length,) = struct.unpack("<I", tail[:4])
    if length > content.size - 8:
        raise ValueError("its end lies outside of it")
    footer = content.slice(content.size - 8 - length, length).to_pybytes()
    schemas = _PARQUET_SCHEMA.findall(footer)
    if len(schemas) < footer.count(b"ARROW:schema"):
        raise ValueError("it has Arrow's schema in a place where Arrow writes none")
    for text in schemas:
        _check_schema_message(base64.b64decode(text))


class _Thrift:
    """Values in Thrift's compact encoding, one after another: the end of a Parquet file."""

    LIST, STRUCT = 9, 12  # of the kinds of values

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        """Read a number, without undoing the zigzag of one that may be negative."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its end has a number of more than 64 bits")

    def fields(self) -> Iterator[tuple[int, int]]:
        """Go through the fields of a struct: number and kind of each, whose value is read then."""
        last = 0
        while head := self._data[self._at]:
            self._at += 1
            step = head >> 4 or (self.number() >> 1) - last
            if step <= 0:  # twice, of which readers take the one or the other, or both
                raise ValueError("the fields of its end are in no order")
            last += step
            yield last, head & 15
        self._at += 1

    def items(self) -> tuple[int, int]:
        """Begin to read a list: how many values follow, and of which kind."""
        head = self._data[self._at]
        self._at += 1
        count = head >> 4 if head < 0xF0 else self.number()
        if count > len(self._data):
            raise ValueError("its end has a list that is longer than itself")
        return count, head & 15

    def skip(self, kind: int, depth: int = 0) -> None:
        """Read a value that nobody wants."""
        if depth > _DEPTH:
            raise ValueError("its end is nested too deeply")
        match kind:
            case 1 | 2:  # a truth value, which is the kind itself
                pass
            case 3:
                self._at += 1
            case 4 | 5 | 6:
                self.number()
            case 7:
                self._at += 8
            case 8:
                length = self.number()
                self._at += length
            case 9 | 10:
                count, inner = self.items()
                for _ in range(count):
                    self.skip(3 if inner in (1, 2) else inner, depth + 1)
            case 12:
                for _, inner in self.fields():
                    self.skip(inner, depth + 1)
            case _:  # no field of Parquet's has another one
                raise ValueError("its end has a value of an unknown kind")


def _check_parquet_footer(metadata: Any, content: Any) -> None:
    """Refuse what ends the process when pyarrow looks at it: no error leaves that code.

    Columns beside the schema, encrypted ones, and counts of other levels than there are.
    """
    (length,) = struct.unpack("<I", content.slice(content.size - 8, 4).to_pybytes())
    footer = _Thrift(content.slice(content.size - 8 - length, length).to_pybytes())
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    groups = 0
    try:
        for field, kind in footer.fields():
            if (field, kind) != (4, _Thrift.LIST):
                footer.skip(kind)
                continue
            groups, kind = footer.items()
            for _ in range(groups):
                if kind != _Thrift.STRUCT or _check_row_group(footer, columns) != len(columns):
                    raise ValueError("a part of it has other columns than its schema")
    except IndexError:
        raise ValueError("its end is cut short") from None
    if groups != metadata.num_row_groups:
        raise ValueError("its end can be read in two ways")


def _check_row_group(footer: _Thrift, columns: Sequence[Any]) -> int:
    """Check the columns of a row group, and return how many there are."""
    count = 0
    for field, kind in footer.fields():
        if (field, kind) != (1, _Thrift.LIST):
            footer.skip(kind)
            continue
        count, kind = footer.items()
        for column in columns[:count] if kind == _Thrift.STRUCT else ():
            for inner, inner_kind in footer.fields():
                if (inner, inner_kind) == (3, _Thrift.STRUCT):
                    _check_column(footer, column)
                elif inner in (8, 9):
                    raise ValueError("it is encrypted")
                else:
                    footer.skip(inner_kind)
        if count > len(columns):
            break
    return count


def _check_column(footer: _Thrift, column: Any) -> None:
    """Check how many levels a column has counted."""
    for field, kind in footer.fields():
        if (field, kind) != (16, _Thrift.STRUCT):
            footer.skip(kind)
            continue
        levels = {2: column.max_repetition_level, 3: column.max_definition_level}
        for inner, inner_kind in footer.fields():
            if inner in levels and inner_kind == _Thrift.LIST:
                count, of = footer.items()
                if count not in (0, levels[inner] + 1):
                    raise ValueError("a column of it counts levels that it does not have")
                for _ in range(count):
                    footer.skip(of)
            elif inner == 1 and column.physical_type != "BYTE_ARRAY":
                raise ValueError("a column of it that has no text counts its letters")
            else:
                footer.skip(inner_kind)


def _check_parquet(metadata: Any, content: Any) -> None:
    """Refuse a Parquet file that would become too much, before its values are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    compute: Any = importlib.import_module("pyarrow.compute")  # whose functions have no types
    size = content.size
    unpacked = claimed_texts = 0
    texts: set[str] = set()
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            claimed = [column.num_values, column.total_uncompressed_size]
            if min(claimed) < 0 or row_group.num_rows < 0:
                raise ValueError("it has a column of a negative size")
            values = max(column.num_values, row_group.num_rows)
            unpacked += max(8 * values, column.total_uncompressed_size)
            if column.physical_type == "BYTE_ARRAY" and "." not in column.path_in_schema:
                texts.add(column.path_in_schema)
                claimed_texts += column.total_uncompressed_size
    if unpacks_to_too_much(unpacked, size):
        raise ValueError(f"its {size:,} bytes would unpack to {unpacked:,}")
    if not unpacks_to_too_much(metadata.num_rows * claimed_texts, size):
        return
    # A text that comes often is in the file once: it is counted before it is repeated.
    encoded = pq.ParquetFile(pa.BufferReader(content), read_dictionary=sorted(texts))
    for batch in encoded.iter_batches(columns=sorted(texts)):
        for column in batch.columns:
            if isinstance(column, pa.DictionaryArray):
                column.validate(full=True)
                lengths = compute.fill_null(compute.binary_length(column.dictionary), 0)
                unpacked += compute.sum(compute.take(lengths, column.indices)).as_py() or 0
        if unpacks_to_too_much(unpacked, size):
            raise ValueError(f"its {size:,} bytes would unpack to {unpacked:,}")


# Pickles as data, without running what is in them. A pickle names classes and functions to call,
# so whoever can write it has code run by whoever reads it. Here each name leads to a stand-in that
# only records what it is given, or to nothing. No real class is handed out either: a pickle may
# set attributes of what it is handed, and would change an enumeration of Optuna's for the whole
# process. Python's and numpy's values are made afterwards, from what was taken down.

# How the names of those system attributes of trials begin that a sampler of Optuna unpickles.
_PICKLED_STATE = re.compile(r"(cma|sepcma|cmawm):(.*:)?optimizer")

_NUMBERS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


class ForbiddenNameError(pickle.UnpicklingError):
    """A pickle asks for something that it has no business with."""


def without_pickled_state(trial: FrozenTrial) -> FrozenTrial:
    """A trial without the state that a sampler of Optuna would unpickle: it may be anybody's.

    CMA-ES finds its state again from the trials themselves, a generation with each trial.
    """
    if any(map(_PICKLED_STATE.match, trial.system_attrs)):
        trial = copy.copy(trial)
        trial.system_attrs = {
            name: value
            for name, value in trial.system_attrs.items()
            if not _PICKLED_STATE.match(name)
        }
    return trial


class Stored(NamedTuple):
    """An object of a class of the package: what it had in its `__dict__`.

    Attributes:
        kind: the name of its class.
        fields: its attributes.
    """

    kind: str
    fields: dict[str, Any]


class _Noted:
    """The record of one object in a pickle, which cannot change the record's class.

    A pickle changes something by `BUILD`, which calls `__setstate__` where there is one: that of
    an object takes the state down, and that of a class fails for want of an object.
    """

    __slots__ = ("arguments", "state")

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Noted:
        noted = object.__new__(cls)
        noted.arguments = arguments
        noted.state = None
        return noted

    def __setstate__(self, state: Any, /) -> None:
        self.state = state


class _NotedMapping(_Noted):
    """The same of a mapping, whose items come one by one."""

    __slots__ = ("items",)

    items: list[tuple[Any, Any]]

    def __new__(cls, *arguments: Any) -> _NotedMapping:
        noted = _Noted.__new__(cls, *arguments)
        assert isinstance(noted, _NotedMapping)  # noqa: S101 - for the type checker
        noted.items = []
        return noted

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


class _DType(NamedTuple):
    """A numpy data type of one number or text."""

    code: str
    order: str

    def numpy(self) -> np.dtype[Any]:
        import numpy as np

        return np.dtype(self.order + self.code if self.code in _NUMBERS else "")


Thaw = Callable[[Any], Any]


def _datetime(noted: _Noted, thaw: Thaw) -> datetime:
    arguments = _plain(noted, thaw, bytes, int, timezone, type(None))
    return datetime(*arguments)  # noqa: DTZ001 - with a zone if it had one


def _timedelta(noted: _Noted, thaw: Thaw) -> timedelta:
    return timedelta(*_plain(noted, thaw, int))


def _timezone(noted: _Noted, thaw: Thaw) -> timezone:
    return timezone(*_plain(noted, thaw, timedelta, str))


def _mapping(noted: _Noted, thaw: Thaw) -> dict[Any, Any]:
    assert isinstance(noted, _NotedMapping)  # noqa: S101 - of the table below
    pairs = [*(thaw(noted.arguments[0]) if noted.arguments else ()), *thaw(noted.items)]
    return dict(pairs)


def _stood_in_dtype(noted: _Noted, _: Thaw) -> _DType:
    code = noted.arguments[0]
    if type(code) is not str:
        raise TypeError("a data type without a name")
    return _DType(code, ">" if noted.state and noted.state[1] == ">" else "<")


def _scalar(noted: _Noted, thaw: Thaw) -> Any:
    dtype, data = thaw(noted.arguments[0]), noted.arguments[1]
    if dtype.code.startswith("U"):
        return data.decode("utf-32-be" if dtype.order == ">" else "utf-32-le").rstrip("\0")
    return struct.unpack(dtype.order + _NUMBERS[dtype.code], data)[0]


def _array(noted: _Noted, thaw: Thaw) -> Any:
    if noted.state is None:  # by numpy's `_frombuffer`
        data, dtype, shape, order = noted.arguments
    else:
        _, shape, dtype, is_fortran, data = noted.state
        order = "F" if is_fortran else "C"
    return _filled(data, thaw(dtype).numpy(), shape, order)


def _filled(data: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> Any:
    import numpy as np

    if type(data) not in (bytes, bytearray) or not all(type(size) is int for size in shape):
        raise TypeError("an array without its numbers")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C").copy("K")


def _plain(noted: _Noted, thaw: Thaw, *kinds: type) -> list[Any]:
    arguments = [thaw(argument) for argument in noted.arguments]
    if not all(type(argument) in kinds for argument in arguments):
        raise TypeError(f"{type(noted).__name__} of something else")
    return arguments


def _kind(name: str, base: type[_Noted] = _Noted) -> type[_Noted]:
    return type(name, (base,), {"__slots__": ()})


_DATETIME, _TIMEDELTA, _TIMEZONE = map(_kind, ("datetime", "timedelta", "timezone"))
_MAPPING = _kind("OrderedDict", _NotedMapping)
_NOTED_DTYPE, _SCALAR, _ARRAY, _ARRAY_TYPE = map(_kind, ("dtype", "scalar", "array", "ndarray"))

_MADE: dict[type[_Noted], Callable[[_Noted, Thaw], Any]] = {
    _DATETIME: _datetime,
    _TIMEDELTA: _timedelta,
    _TIMEZONE: _timezone,
    _MAPPING: _mapping,
    _NOTED_DTYPE: _stood_in_dtype,
    _SCALAR: _scalar,
    _ARRAY: _array,
}
_NAMES: dict[tuple[str, str], type[_Noted]] = {
    ("datetime", "datetime"): _DATETIME,
    ("datetime", "timedelta"): _TIMEDELTA,
    ("datetime", "timezone"): _TIMEZONE,
    ("collections", "OrderedDict"): _MAPPING,
    ("numpy", "dtype"): _NOTED_DTYPE,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
}
_ARRAY_NAMES: dict[tuple[str, str], type[_Noted]] = {
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy.core.numeric", "_frombuffer"): _ARRAY,
    ("numpy._core.numeric", "_frombuffer"): _ARRAY,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, package: str, classes: Iterable[str], arrays: bool) -> None:
        super().__init__(io.BytesIO(data))
        self._package = package
        self._names = {**_NAMES, **(_ARRAY_NAMES if arrays else {})}
        self.classes = {name: _kind(name) for name in classes}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        # In a package the modules move about, the names do not.
        if module_name.partition(".")[0] == self._package:
            known = self.classes.get(global_name)
        else:
            known = self._names.get((module_name, global_name))
        if known is None:
            raise ForbiddenNameError(f"{module_name}.{global_name}")
        return known


class _Thaw:
    """Makes values of what was taken down; each object once, however often it is referred to."""

    def __init__(
        self, classes: Collection[type[_Noted]], enumerations: Mapping[str, type[Enum]]
    ) -> None:
        self._classes = classes
        self._enumerations = enumerations
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()

    def __call__(self, value: Any) -> Any:
        key = id(value)
        if key in self._made:
            return self._made[key]
        if key in self._open:
            raise ValueError("something contains itself")
        self._open.add(key)
        made = self._make(value)
        self._open.discard(key)
        if isinstance(value, (list, tuple, set, frozenset, dict, _Noted)):
            self._made[key] = made
        return made

    def _make(self, value: Any) -> Any:
        kind = type(value)
        if kind in (list, tuple, set, frozenset):
            return kind(self(item) for item in value)
        if kind is dict:
            return {self(key): self(item) for key, item in value.items()}
        if kind in self._classes and kind.__name__ in self._enumerations:
            return self._enumerations[kind.__name__](*_plain(value, self, int))
        if kind in self._classes:
            fields = self(value.state)
            if type(fields) is not dict or not all(type(name) is str for name in fields):
                raise TypeError(f"{kind.__name__} without its attributes")
            return Stored(kind.__name__, fields)
        if kind in _MADE:
            return _MADE[kind](value, self)
        if isinstance(value, (_Noted, type)):
            raise TypeError(f"{value!r} where a value should be")
        return value


def _check_places(data: bytes) -> None:
    """Refuse a place among what is remembered for which Python would take gigabytes (gh-115952)."""
    try:
        places = [place for code, place, _ in pickletools.genops(data) if code.name.endswith("PUT")]
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from None
    if any(place is not None and place > len(data) for place in places):
        raise pickle.UnpicklingError("more is remembered than there can be")


def loads(
    data: bytes,
    package: str,
    classes: Iterable[str],
    enumerations: Mapping[str, type[Enum]] | None = None,
    *,
    arrays: bool = False,
) -> Any:
    """Read a pickle."""
    _check_places(data)
    enumerations = enumerations or {}
    unpickler = _Unpickler(data, package, (*classes, *enumerations), arrays)
    value = unpickler.load()
    return _Thaw(frozenset(unpickler.classes.values()), enumerations)(value)
