"""Results of `run`: in the trial itself if they are small, else an Arrow file for each trial.

The file is an Arrow IPC file ("Feather"), which `pyarrow.feather.read_table`, pandas, polars
and DuckDB open. It has one of these layouts:

========= ==================================================================================
aligned   every series has one dimension and the same length: each is a column, after a column
          for each axis of that length
packed    anything else: one row, in which each series is a list of its values, the last
          dimension fastest
table     the result was a table, and is written as it is
========= ==================================================================================

What is no series (numbers, text, flags) is JSON in the metadata of the schema, under the key
`prefect_optuna`, with the structure that `decode_result` puts all of it back into.

What is small has no file. The reference in the trial's attribute then holds the same structure, and
the bytes of each series as Base64, under `inline`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any, cast

import numpy as np

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem, PrefectOptunaError
from prefect_optuna.blocks.codec.tables import (
    array_of,
    arrays_of,
    base64_of,
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
    array_size,
    checked_dtype,
    is_padded,
    read_arrow,
    unpacks_to_too_much,
)
from prefect_optuna.blocks.codec.values import decode_value, encode_value
from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks.archive.record.manifest import canonical
from prefect_optuna.tasks.archive.series.blobs import Digest, read_verified, write_file
from prefect_optuna.tasks.persistence.container import as_dict
from prefect_optuna.tasks.persistence.info import INFO

RESULT_FORMAT = 1

INLINE = 4096
"""Maximum number of bytes of a result's JSON in its trial's attribute, instead of a file."""

_KEY = b"prefect_optuna"
_COMPRESS_FROM = 1 << 15  # bytes; below, a file takes about as much of the disk either way
_SAMPLES, _SAMPLE = 4, 2048  # number and bytes
_WORTHWHILE = 0.8
_MAX_DEPTH = 64  # of what is in an attribute, which readers of a storage have to take apart
_MAX_JSON_ITEMS = 16  # a shorter list of numbers may stand beside longer series


def encode_result(result: Any, axes: Mapping[str, Sequence[Any]] | None = None) -> bytes:
    """Encode what `run` returned.

    Args:
        result: numbers, text, arrays, lists, tables, or mappings of those, nested or not;
            dataclasses, named tuples and pydantic models are taken as mappings.
        axes: the coordinates of the result's series; those as long as the series become columns.

    Returns:
        An Arrow IPC file.

    Raises:
        CaptureError: the result holds something else; names its key and type.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.tasks.archive import decode_result, encode_result
        >>> decode_result(encode_result({"hare": np.array([30.0, 47.2]), "steps": 2}))
        {'hare': array([30. , 47.2]), 'steps': 2}
    """
    return encode_with_spec(result, axes)[0]


def encode_with_spec(
    result: Any, axes: Mapping[str, Sequence[Any]] | None = None
) -> tuple[bytes, dict[str, Any]]:
    """Encode as `encode_result` does, and say what is in the file: its layout and its series."""
    if (kind := table_kind(result)) is not None:
        table = _arrow_table(result, "").unify_dictionaries()
        spec = {
            field.name: {"dtype": str(field.type), "shape": [len(table)]} for field in table.schema
        }
        content = write_arrow(table, {"layout": "table", "kind": kind})
        return content, {"layout": "table", "series": spec}

    taken = _take_apart(result)
    content = _as_file(taken, axes or {})
    return content, {"layout": taken.layout, "series": taken.shapes()}


def encode_inline(result: Any) -> dict[str, Any] | None:
    """Encode a result that is small enough to be in its trial's attribute.

    Args:
        result: as for `encode_result`.

    Returns:
        The reference, as JSON; `None` for a result that needs a file.

    Raises:
        CaptureError: the result holds something that cannot be archived.
    """
    if table_kind(result) is not None:
        return None
    if (layout := _layout(result)) is not None:
        if (frame := _frame(layout)) is None:
            return None
        structure, specs, before, after = frame
        texts = [base64_of(array) for array in result.values()]
        content = b"".join((before, '","'.join(texts).encode(), after))
        return {"sha256": short_digest(content), "inline": [structure, *texts], "series": specs}
    taken = _take_apart(result)
    if (reference := _inline(taken)) is None:
        return None
    content = canonical(reference)
    if len(content) > INLINE or _depth(taken.structure) > _MAX_DEPTH:
        return None
    return {"sha256": short_digest(content), **reference}


def _inline(taken: _Taken) -> dict[str, Any] | None:
    series = taken.series
    if not fits_inline(sum(item.array.nbytes for item in series)):
        return None
    if any(item.table is not None or item.array.dtype.kind not in "biufcmM" for item in series):
        return None
    for number, item in enumerate(series):
        item.node["$series"] = number
    return {
        "inline": [taken.structure, *(base64_of(item.array) for item in series)],
        "series": {name: item.spec() for name, item in zip(taken.names, series, strict=True)},
    }


_Layout = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]


def _layout(result: Any) -> _Layout | None:
    """What the trials of a study mostly have in common, where their results are some arrays."""
    if type(result) is not dict or not result:
        return None
    if any(
        type(name) is not str or type(array) is not np.ndarray or not array.ndim
        for name, array in result.items()
    ):
        return None
    return tuple((name, array.dtype, array.shape) for name, array in result.items())


@functools.lru_cache(maxsize=32)
def _frame(layout: _Layout) -> tuple[Any, dict[str, Any], bytes, bytes] | None:
    """All that is the same in results of one layout: once, and not with each trial."""
    if not fits_inline(sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in layout)):
        return None
    taken = _take_apart({name: np.zeros(shape, dtype) for name, dtype, shape in layout})
    if (reference := _inline(taken)) is None or len(content := canonical(reference)) > INLINE:
        return None
    structure, *texts = reference["inline"]
    begin = len(b'{"inline":[') + len(canonical(structure)) + len(b',"')
    end = begin + len('","'.join(texts))
    return structure, reference["series"], content[:begin], content[end:]


def decode_inline(reference: Mapping[str, Any]) -> Any:
    """Decode what `encode_inline` returned, or raise `ArchiveError`.

    Args:
        reference: from the trial's attribute.
    """
    with _explained():
        specs, arrays = _inline_arrays(reference)
        series = [
            _in_container(array, spec.get("as", "array"))
            for array, spec in zip(arrays, specs.values(), strict=True)
        ]
        return _put_together(reference["inline"][0], series)


def decode_inline_series(references: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Decode the series of one name from the attributes of trials that have the same `series`.

    What they have in common is made JSON once: that is most of what a digest costs.

    Returns:
        An array for each series, a row of which is a trial's.
    """
    with _explained():
        specs = references[0]["series"]
        after = b'"],"series":%b}' % canonical(specs)
        last = before = None
        all_texts: list[Sequence[str]] = []
        for reference in references:
            structure, *texts = reference["inline"]
            if before is None or structure != last:
                last, before = structure, b'{"inline":[%b,"' % canonical(structure)
            content = before + '","'.join(texts).encode("ascii") + after
            if short_digest(content) != reference["sha256"]:
                _check_digest(reference)  # `1` and `1.0` are equal, and different JSON
            all_texts.append(texts)
        return {
            name: arrays_of(texts, spec["dtype"], spec["shape"])
            for (name, spec), texts in zip(specs.items(), zip(*all_texts, strict=True), strict=True)
            if is_of(key, name)
        }


def is_of(key: str, name: str) -> bool:
    """Tell whether a series is what a key names: itself, or one of several below it."""
    return name == key or name.startswith(f"{key}.")


def _inline_arrays(reference: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[Any]]:
    _check_digest(reference)
    specs, values = reference["series"], reference["inline"][1:]
    arrays = [
        array_of(text, spec["dtype"], spec["shape"])
        for text, spec in zip(values, specs.values(), strict=True)
    ]
    return specs, arrays


def _check_digest(reference: Mapping[str, Any]) -> None:
    actual = inline_digest({"inline": reference["inline"], "series": reference["series"]})
    if actual != reference["sha256"]:
        raise ArchiveError(
            "The archive is damaged: a result in the attribute of its trial is not what was "
            f"archived. Expected the digest {reference['sha256']!r}, found {actual!r}. Bring the "
            "study back from a copy; nothing of it has been used."
        )


def fits_inline(size: int) -> bool:
    """Tell whether so many bytes are few enough for an attribute; Base64 makes four of three."""
    return size * 4 // 3 <= INLINE


def inline_digest(content: Any) -> str:
    """The first 32 digits of the SHA-256 of what is in an attribute, as canonical JSON."""
    return short_digest(canonical(content))


def short_digest(content: bytes) -> str:
    """The first 32 digits of the SHA-256 of a content."""
    return hashlib.sha256(content).hexdigest()[:32]


def _depth(data: Any) -> int:
    inside = data.values() if isinstance(data, dict) else data if isinstance(data, list) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)


@dataclass
class _Taken:
    """A result taken apart: its series, and the JSON of the rest."""

    structure: Any
    series: list[_Series]

    def __post_init__(self) -> None:
        self.names = _unique([item.name for item in self.series])
        aligned = bool(self.series) and all(item.is_column for item in self.series)
        self.layout = "aligned" if aligned and _one_length(self.series) else "packed"

    def shapes(self) -> dict[str, Any]:
        return {
            name: {"dtype": item.dtype, "shape": list(item.shape)}
            for name, item in zip(self.names, self.series, strict=True)
        }


def _take_apart(result: Any) -> _Taken:
    series: list[_Series] = []
    try:
        structure = _structure(result, "", "", series)
    except RecursionError:
        raise CaptureError(
            "The result is nested too deeply to be archived, or contains itself."
        ) from None
    return _Taken(structure, _without_short_lists(series))


def _as_file(taken: _Taken, axes: Mapping[str, Sequence[Any]]) -> bytes:
    import pyarrow as pa

    series, names = taken.series, taken.names
    aligned = taken.layout == "aligned"
    columns: dict[str, Any] = {}
    if aligned:
        length = series[0].array.size
        columns = {
            name: column
            for name, values in axes.items()
            if name not in names and (column := _axis_column(values, length)) is not None
        }
    axis_names = list(columns)
    for number, (name, item) in enumerate(zip(names, series, strict=True)):
        item.node["$series"] = number
        columns[name] = item.values() if aligned else one_row(item.values())

    metadata: dict[str, Any] = {
        "layout": taken.layout,
        "axes": axis_names,
        "series": [item.spec() for item in series],
        "structure": taken.structure,
    }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    needed = sum(item.array.nbytes for item in series)
    if unpacks_to_too_much(needed, batch.get_total_buffer_size()):
        raise CaptureError(
            f"The result's arrays of text take {needed:,} bytes, nearly all of them for padding, "
            "and would not be read again. Give them a shorter type: array.astype('U100')."
        )
    return write_arrow(batch, metadata)


def decode_result(content: Any) -> Any:
    """Decode what `encode_result` returned.

    Args:
        content: the bytes of the file, or a `pyarrow.Buffer` of them.

    Returns:
        The result: the same structure, types and values. The arrays are new and writable.

    Raises:
        ArchiveError: this is no such file, or a newer version of the project has written it.

    Example:
        >>> from prefect_optuna.tasks.archive import decode_result, encode_result
        >>> decode_result(encode_result([0.5, 0.25]))
        [0.5, 0.25]
    """
    with _explained():
        return _decode(*open_arrow(content))


def _decode(table: Any, metadata: dict[str, Any]) -> Any:
    if metadata["layout"] == "table":
        own = {k: v for k, v in table.schema.metadata.items() if k != _KEY}
        return from_arrow(table.replace_schema_metadata(own or None), metadata["kind"])
    _check_memory(table, metadata["series"])
    columns = table.columns[len(metadata["axes"]) :]
    packed = metadata["layout"] == "packed"
    series = [
        _read(column, spec, packed=packed)
        for column, spec in zip(columns, metadata["series"], strict=True)
    ]

    return _put_together(metadata["structure"], series)


def _put_together(structure: Any, series: Sequence[Any]) -> Any:
    """The result, from its JSON and its series."""

    def other(tag: str, held: Any) -> Any:
        match tag:
            case "$series":
                return series[held]
            case "$inline":
                return decode_value(held, other)
            case "$array":
                value, dtype = decode_value(held[1], other), checked_dtype(held[0])
                if isinstance(value, (list, dict, range)):
                    raise ValueError("an array without dimensions holds one value")
                if dtype.kind in "SUV" and is_padded(dtype.itemsize, len(str(value))):
                    raise ValueError("its text is far shorter than its type says")
                return np.array(value, dtype)
            case "$xarray":
                return _xarray(held[0], decode_value(held[1], other))
            case _:
                return _unknown(tag, held)

    return decode_value(structure, other)


def decode_series(
    content: Any, key: str, axes: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Decode the series of one name, and nothing else of what `run` returned.

    Args:
        content: the bytes of the file.
        key: the name of a series, or what the names of several start with, before a dot.
        axes: the names of columns that are axes, if the result is a table.
    """
    with _explained():
        return _series(*open_arrow(content), key, axes)


def _series(
    table: Any, metadata: dict[str, Any], key: str, axes: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    is_table = metadata["layout"] == "table"
    inside = [n for n in axes if n in table.column_names] if is_table else metadata["axes"]
    names = [name for name in table.column_names if name not in inside]
    chosen = [name for name in names if is_of(key, name)]
    specs = {} if is_table else dict(zip(names, metadata["series"], strict=True))
    if metadata["layout"] != "packed":
        coordinates = {n: _copied(table.column(n)) for n in inside if chosen}
        columns = {n: _copied(table.column(n)) for n in chosen}
        for name in chosen:
            # Arrow has days, but NumPy's are in the file as integers, as are its hours and years.
            if name in specs and checked_dtype(specs[name]["dtype"]).kind in "mM":
                values = _read(columns[name], {**specs[name], "as": "array"}, packed=False)
                columns[name] = as_column(name, values)
        return coordinates, columns
    _check_memory(table, metadata["series"])
    arrays: dict[str, Any] = {}
    for name in chosen:
        spec = specs[name]
        if spec["dtype"] == "table":
            raise ArchiveError(
                f"{name!r} is a table inside of the result, and no series: read it by "
                "ArchivedStudy.result(number)."
            )
        arrays[name] = _read(table.column(name), {**spec, "as": "array"}, packed=True)
    return {}, arrays


def open_arrow(content: Any) -> tuple[Any, dict[str, Any]]:
    """Open an Arrow IPC file of this project, without copying what is in it.

    Args:
        content: the bytes of the file, or a `pyarrow.Buffer` of them.
    """
    with _explained():
        table = read_arrow(content)
        metadata: Any = json.loads((table.schema.metadata or {})[_KEY])
        if metadata["format"] > RESULT_FORMAT:
            raise ArchiveError(
                f"The result has the format {metadata['format']}, and this version reads up to "
                f"{RESULT_FORMAT}: pip install --upgrade prefect-optuna."
            )
        return table, metadata


@contextlib.contextmanager
def _explained() -> Generator[None]:
    """Say of whatever goes wrong with a file that it is damaged."""
    try:
        yield
    except PrefectOptunaError:
        raise
    except Exception as error:
        # Not only what Arrow raises: pandas, polars and xarray follow what the file says.
        raise ArchiveError(
            "Expected the Arrow file of an archived result, found something else, or a damaged "
            f"one: {type(error).__name__}: {error}."
        ) from error


@dataclass
class _Series:
    """Numbers of one type that go into a column, or a table that goes into a cell."""

    name: str
    array: np.ndarray[Any, Any]
    node: dict[str, Any]
    container: str = "array"
    original: Any = None
    table: Any = None
    path: str = ""

    @property
    def is_column(self) -> bool:
        return self.table is None and self.array.ndim == 1 and self.array.dtype.kind != "c"

    @property
    def dtype(self) -> str:
        return "table" if self.table is not None else self.array.dtype.str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.table.shape if self.table is not None else self.array.shape

    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape)}
        if self.container != "array":
            spec["as"] = self.container
        if self.table is not None and self.table.schema.metadata:
            spec["metadata"] = _leaf(dict(self.table.schema.metadata), self.path)
        return spec

    def values(self) -> Any:
        """The values as an Arrow array."""
        import pyarrow as pa

        if self.table is not None:
            return one_chunk(self.table.unify_dictionaries().to_struct_array())
        try:
            return pa.array(_storable(self.array))
        except (UnicodeError, pa.ArrowException) as error:
            raise CaptureError(f"{_title(self.path)} cannot be archived: {error}.") from error


def write_arrow(table: Any, metadata: dict[str, Any]) -> bytes:
    """Write a table or batch as an Arrow IPC file of this project."""
    import pyarrow as pa

    text = json.dumps({"format": RESULT_FORMAT, **metadata}, separators=(",", ":"))
    own = {**(table.schema.metadata or {}), _KEY: text.encode("ascii")}
    table = table.replace_schema_metadata(own)
    buffer = _serialized(table, None)
    if _is_compressible(buffer):
        compressed = _serialized(table, pa.Codec("zstd", compression_level=1))
        # What shrinks to nearly nothing would be refused, as nobody can tell it from an attack.
        if not unpacks_to_too_much(buffer.size, compressed.size):
            buffer = compressed
    return buffer.to_pybytes()


def _serialized(table: Any, codec: Any) -> Any:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    # Without threads, whose start takes longer than compressing.
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=False)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write(table)
    return sink.getvalue()


def _is_compressible(buffer: Any) -> bool:
    """Tell from samples whether compressing saves much: simulated floats are mostly noise."""
    import pyarrow as pa

    if buffer.size < _COMPRESS_FROM:
        return False
    step = buffer.size // _SAMPLES
    sample = b"".join(buffer.slice(i * step, _SAMPLE).to_pybytes() for i in range(_SAMPLES))
    return len(pa.compress(sample, "zstd", asbytes=True)) < _WORTHWHILE * len(sample)


def _structure(value: Any, path: str, name: str, series: list[_Series]) -> Any:
    """The JSON of a value, with a node `{"$series": number}` in place of each series."""
    kind = type(value)
    if isinstance(value, np.ndarray):
        return _array_structure(value, path, name, series)
    if kind in (list, tuple):
        if (numbers := _number_list(value)) is not None:
            array, container = numbers
            node: dict[str, Any] = {}
            series.append(_Series(name or "result", array, node, container, value, path=path))
            return node
        items = [
            _structure(item, f"{path}[{i}]", _joined(name, str(i)), series)
            for i, item in enumerate(value)
        ]
        return items if kind is list else {"$tuple": items}
    if kind.__module__.partition(".")[0] == "xarray" and hasattr(value, "to_dict"):
        held = _structure(value.to_dict(data="array"), path, name, series)
        return {"$xarray": [kind.__name__, held]}
    if (mapping := _as_mapping(value)) is not None:
        items = {
            key: _structure(item, f"{path}[{key!r}]", _joined(name, str(key)), series)
            for key, item in mapping.items()
        }
        if all(type(key) is str and not key.startswith("$") for key in items):
            return items
        return {"$dict": [[_leaf(key, f"{path}, key {key!r}"), v] for key, v in items.items()]}
    if (table := table_kind(value)) is not None:
        node = {}
        arrow = _arrow_table(value, path)
        if len(set(arrow.column_names)) < len(arrow.column_names):
            raise CaptureError(
                f"{_title(path)} is a table with two columns of one name. Rename one."
            )
        empty = np.empty(0)
        series.append(_Series(name, empty, node, table, table=arrow, path=path))
        return node
    return _leaf(value, path)


def _array_structure(
    array: np.ndarray[Any, Any], path: str, name: str, series: list[_Series]
) -> Any:
    if other := not_plain(array):
        raise CaptureError(f"{_title(path)} is {other}")
    if array.dtype.kind not in "biufcUSmM" or array.dtype.char in "gG":
        raise CaptureError(
            f"{_title(path)} is an array of {array.dtype}. Expected numbers of up to 64 bits, "
            "text or times: array.astype(float), or one array for each field."
        )
    if array.ndim == 0:
        return {"$array": [array.dtype.str, _leaf(array[()], path)]}
    node: dict[str, Any] = {}
    series.append(_Series(name or "result", array, node, path=path))
    return node


def _number_list(value: Sequence[Any]) -> tuple[np.ndarray[Any, Any], str] | None:
    """Return the array of a list or tuple of one numeric type, and its original type."""
    kinds = set(map(type, value))
    if len(kinds) != 1:
        return None
    (kind,) = kinds
    container = type(value).__name__
    if (array := number_array(value)) is not None:
        return array, container
    if issubclass(kind, np.generic) and value[0].dtype.kind in "biuf":
        if value[0].dtype.char == "g":
            return None
        return np.array(value, value[0].dtype), f"{container} of scalars"
    return None


def _without_short_lists(series: list[_Series]) -> list[_Series]:
    """Write short lists as JSON where everything else then has one length, and is aligned."""

    def is_short(one: _Series) -> bool:
        return one.original is not None and len(one.original) <= _MAX_JSON_ITEMS

    long = [item for item in series if not is_short(item)]
    if _one_length(series) or not long or not _one_length(long):
        return series
    length = long[0].shape
    kept: list[_Series] = []
    for item in series:
        if is_short(item) and item.shape != length:
            item.node["$inline"] = _leaf(item.original, item.path)
        else:
            kept.append(item)
    return kept


def _one_length(series: list[_Series]) -> bool:
    return len({item.shape for item in series}) == 1


def _as_mapping(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if INFO in vars(type(value)):
        return as_dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()  # pyright: ignore[reportAttributeAccessIssue]
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return dict(cast("Iterable[tuple[str, Any]]", value))
    return None


def _leaf(value: Any, path: str) -> Any:
    def refuse(inner: Any, inner_path: str) -> Any:
        raise CaptureError(
            f"{_title(inner_path)} is of type {_type_name(inner)}, which cannot be archived. "
            "Return numbers, text, NumPy arrays, lists, Arrow tables or data frames, or mappings "
            "of those"
            + (": np.asarray(...) turns it into an array." if hasattr(inner, "__array__") else ".")
        )

    return encode_value(value, refuse, path)


def _arrow_table(value: Any, path: str) -> Any:
    try:
        return storable_table(value, _title(path))
    except TypeError as error:
        raise CaptureError(str(error)) from error


def _storable(array: np.ndarray[Any, Any]) -> Any:
    """The values of an array in one dimension, of a type that Arrow has."""
    flat = np.ascontiguousarray(array).reshape(-1)
    kind = array.dtype.kind
    if not array.dtype.isnative:
        flat = flat.astype(array.dtype.newbyteorder("="))
    if kind == "c":
        return flat.view(f"f{array.itemsize // 2}")
    if kind in "mM" and not is_arrow_time(array.dtype):
        return flat.view(np.int64)
    return whole_text(flat)


def _axis_column(values: Sequence[Any], length: int) -> Any:
    if len(values) != length:
        return None
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "biufUSmM" or array.dtype.char == "g":
        return None
    return _Series("", array, {}).values()


def _copied(column: Any) -> Any:
    """The column without the rest of its file, which it would keep in memory."""
    import pyarrow as pa

    chunks = [*column.chunks, pa.array([], column.type)]
    return pa.concat_arrays(chunks)


def _read(column: Any, spec: dict[str, Any], *, packed: bool) -> Any:
    import pyarrow as pa

    values = one_chunk(column)
    if packed:
        values = values.flatten()
    container = spec.get("as", "array")
    if spec["dtype"] == "table":
        table = pa.Table.from_struct_array(values)
        metadata = decode_value(spec.get("metadata"), _unknown)
        return from_arrow(table.replace_schema_metadata(metadata), container)
    dtype = checked_dtype(spec["dtype"])
    array = values.to_numpy(zero_copy_only=False)
    if dtype.kind == "c" or (dtype.kind in "mM" and array.dtype.kind == "i"):
        array = array.view(dtype.newbyteorder("="))
    return _in_container(np.array(array, dtype).reshape(spec["shape"]), container)


def _in_container(array: np.ndarray[Any, Any], container: str) -> Any:
    match container:
        case "list":
            return array.tolist()
        case "tuple":
            return tuple(array.tolist())
        case "list of scalars":
            return list(array)
        case "tuple of scalars":
            return tuple(array)
        case _:
            return array


def as_column(name: str, values: np.ndarray[Any, Any]) -> Any:
    """The values of a series as an Arrow column."""
    import pyarrow as pa

    try:
        return pa.array(values.reshape(-1).astype(values.dtype.newbyteorder("="), copy=False))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ArchiveError(
            f"The series {name!r} has the type {values.dtype}, which a table cannot have: {error}. "
            "Read the trials one by one: ArchivedStudy.result(number)."
        ) from None


def _check_memory(table: Any, specs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse text that is short, and long in memory: an array has the longest for each value."""
    needed = sum(
        array_size(checked_dtype(spec["dtype"]), spec["shape"])
        for spec in specs
        if spec["dtype"] != "table"
    )
    if unpacks_to_too_much(needed, table.get_total_buffer_size()):
        raise ValueError(f"its arrays would take {needed:,} bytes")


def _unknown(tag: str, held: Any) -> Any:
    raise ArchiveError(f"The result holds {tag!r}, which this version does not know.")


def _xarray(kind: str, held: dict[str, Any]) -> Any:
    if kind not in ("DataArray", "Dataset"):
        raise ArchiveError(f"The result holds an xarray.{kind}, which this version does not know.")
    try:
        import xarray as xr  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ArchiveError(
            f"Expected to give back an xarray.{kind}, and xarray is not installed: pip install "
            "xarray."
        ) from error
    return getattr(xr, kind).from_dict(held)


def _unique(names: list[str]) -> list[str]:
    unique: dict[str, None] = {}
    for name in names:
        candidate, number = name, 2
        while candidate in unique:
            candidate, number = f"{name}_{number}", number + 1
        unique[candidate] = None
    return list(unique)


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _type_name(value: Any) -> str:
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _title(path: str) -> str:
    return f"The result's {path}" if path else "The result"


# Results of trials, written by workers and read by anybody.


_MAX_LISTED = 32  # series in a reference: it is an attribute of the trial, and stays small


@dataclass(frozen=True)
class EncodedResult:
    """A result as it is archived.

    Attributes:
        content: of its file; empty if the reference holds the result itself.
        described: the reference, perhaps without the digest.
        digest: of the content, where it may still have to be found.
    """

    content: bytes
    described: dict[str, Any]
    digest: Digest | None = None

    @property
    def reference(self) -> dict[str, Any]:
        """The reference to it, without the path."""
        if self.digest is None:
            return self.described
        return {"sha256": self.digest.hex(), **self.described}


@dataclass(frozen=True)
class ResultWriter:
    """Archives what `run` returned without the database, and picklable.

    A result that takes up to 4,096 bytes is in the reference itself, which becomes an attribute of
    the trial; a larger one, a table, and text in arrays are a file.

    Attributes:
        artifacts: where results are written.
        uuid: of the study's archive.
        axes: the coordinates of the results' series.
        version: the id of the archive's version that the trials run with, for their references.
        keep_inputs: how many bytes of the files that trials read go into the archive.

    Example:
        >>> from prefect_optuna.blocks import ArtifactFileSystem
        >>> from prefect_optuna.tasks.archive import ResultWriter, read_result
        >>> artifacts = ArtifactFileSystem(url="memory://docs-writer")
        >>> writer = ResultWriter(artifacts, uuid="0b8f")
        >>> read_result(artifacts, writer.write(3, {"loss": [0.5, 0.25]}))
        {'loss': [0.5, 0.25]}
        >>> writer.write(4, {"loss": [0.5] * 1000})["path"]
        'studies/0b8f/trials/000004.arrow'
    """

    artifacts: ArtifactFileSystem
    uuid: str
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    version: str = ""
    keep_inputs: int = 0

    def write(
        self, trial_number: int, result: Any, *, numbers: bool = False
    ) -> dict[str, Any] | None:
        """Archive what `run` returned in one trial.

        What is there is never overwritten: another result of the same trial goes beside it.

        Args:
            trial_number: the trial's number.
            result: what `run` returned.
            numbers: whether to archive plain numbers, too.

        Returns:
            A reference for the trial's user attribute `"result"`, as JSON: the `sha256`, dtype
            and shape of each of the `series`, and either the result as `inline`, or the `path` of
            its file, the number of its `bytes` and its `layout`. `None` for nothing, a number or
            a tuple of numbers: the study has those.

        Raises:
            CaptureError: the result cannot be archived; names the key and the type.
            StorageUnavailableError: the filesystem failed.
        """
        encoded = self.encode(result, numbers=numbers)
        return None if encoded is None else self.put(trial_number, encoded)

    def encode(self, result: Any, *, numbers: bool = False) -> EncodedResult | None:
        """Encode what `write` writes, for whoever writes it later with `put`.

        Args:
            result: what `run` returned.
            numbers: whether to archive plain numbers, too.

        Raises:
            CaptureError: the result cannot be archived; names the key and the type.
        """
        if result is None or (not numbers and _is_value(result)):
            return None
        content, digest, reference = b"", None, encode_inline(result)
        if reference is None:
            content, spec = encode_with_spec(result, self.axes)
            series = spec["series"]
            digest = Digest(content)
            reference = {
                "bytes": len(content),
                "layout": spec["layout"],
                "series": dict(list(series.items())[:_MAX_LISTED]),
            }
            if len(series) > _MAX_LISTED:
                reference["more_series"] = len(series) - _MAX_LISTED
        if self.version:
            reference["version"] = self.version
        return EncodedResult(content, reference, digest)

    def put(self, trial_number: int, encoded: EncodedResult) -> dict[str, Any]:
        """Write an encoded result, and return the reference as `write` does.

        Args:
            trial_number: the trial's number.
            encoded: what `encode` returned.

        Raises:
            StorageUnavailableError: the filesystem failed.
        """
        if "inline" in encoded.described:
            return dict(encoded.reference)
        path = f"studies/{self.uuid}/trials/{trial_number:06d}.arrow"
        path, _ = write_file(
            self.artifacts, path, encoded.content, lambda: encoded.reference["sha256"]
        )
        return {"path": path, **encoded.reference}


def read_result(artifacts: ArtifactFileSystem, reference: Mapping[str, Any]) -> Any:
    """Read an archived result.

    Args:
        artifacts: where it was written.
        reference: what `ResultWriter.write` returned.

    Returns:
        What `run` had returned.

    Raises:
        ArchiveError: the file is gone, or is not what was archived.
    """
    try:
        if "inline" in reference:
            return decode_inline(reference)
        path, digest = reference["path"], reference["sha256"]
    except (KeyError, TypeError):
        raise ArchiveError(
            "Expected the reference to an archived result, with `inline` or `path`, and `sha256`; "
            f"found {reference!r}."
        ) from None
    return decode_result(read_verified(artifacts, path, digest, "the result of a trial"))


def _is_value(result: Any) -> bool:
    """Tell whether the study itself can hold a result: a number, or a tuple of numbers."""
    if type(result) is tuple:
        return len(result) > 0 and all(map(_is_number, result))
    return _is_number(result)


def _is_number(value: Any) -> bool:
    if isinstance(value, (Number, np.generic)):
        return not isinstance(value, (np.str_, np.bytes_))
    # A tensor without dimensions is a number to Optuna, too.
    is_scalar = getattr(value, "shape", None) == () and hasattr(value, "__float__")
    return is_scalar and not isinstance(value, np.ndarray)
