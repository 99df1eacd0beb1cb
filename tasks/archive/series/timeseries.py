"""Axes and time series of trials: what they share, and what each trial has of them.

What the trials of a study have in common is its attribute `timeseries:<key>`: the axes, the
columns, the layout, the type. A trial's attribute of the same name holds its values (their bytes
row by row, as Base64), or refers to an Arrow file where they are many.

======== =================================================================================
layout   one row of values for
======== =================================================================================
aligned  each index of the axes, which have one length
product  each point of the grid of the axes, the last axis fastest, as in `array.ravel()`
======== =================================================================================

The axes are not in the file, unless a trial has its own values for one: that is a column then
(on a grid, all of them are).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from io import BytesIO
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from optuna import Study, Trial

from prefect_optuna.blocks import ArtifactFileSystem, InvalidSettingError
from prefect_optuna.blocks.codec.tables import arrays_of, base64_of, npy_bytes
from prefect_optuna.blocks.codec.untrusted import checked_dtype, read_npy
from prefect_optuna.blocks.codec.values import decode_value
from prefect_optuna.blocks.study_storage import claim_folder, study_uuid
from prefect_optuna.errors import ArchiveError, StudyMismatchError, UnknownNameError
from prefect_optuna.tasks.archive.code.inspection import described, too_large
from prefect_optuna.tasks.archive.record.manifest import SigningKeys, canonical
from prefect_optuna.tasks.archive.series.blobs import Digest, read_blob, write_blobs, write_file
from prefect_optuna.tasks.archive.series.results import (
    fits_inline,
    inline_digest,
    short_digest,
    write_arrow,
)

# Axes: the coordinates that series are given along, kept once for all trials of a study.
#
# An axis is a study attribute, `axis:<name>`: a short one with its values, a long one with the
# digest of a blob. Those of a `Problem` are kept with its code. Either way a trial's series names
# the digests of its axes, so that nobody reads it along others.


KEY_AXIS = "axis:"
"""Prefix of the user attribute of a study that holds an axis; its name follows."""

MAX_BYTES = 1 << 30
"""Maximum number of bytes of an axis or a series."""

_INLINE = 64  # values; more of them are a blob
_INLINE_BYTES = 1 << 20  # of them, once they are an array
_KINDS = "biufUmM"
_SECONDS = {("s", 1), ("ms", 1), ("us", 1), ("ns", 1)}
_TIME_UNITS = {"m": _SECONDS, "M": {*_SECONDS, ("D", 1)}}


@dataclass(frozen=True, eq=False)
class Axis:
    """The values of an axis.

    Attributes:
        name: what it is called, and what its column is called in a table.
        values: in one dimension, and finite.
        unit: of the values, for people.
    """

    name: str
    values: np.ndarray[Any, Any]
    unit: str = ""

    @cached_property
    def content(self) -> bytes:
        """The values as an NPY file, the same for the same values."""
        little = self.values.astype(self.values.dtype.newbyteorder("<"), copy=False)
        return npy_bytes(np.ascontiguousarray(little))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 digest of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def is_inline(self) -> bool:
        """True if the attribute holds the values themselves."""
        is_short = len(self.values) <= _INLINE and self.values.nbytes <= _INLINE_BYTES
        return is_short and self.values.dtype.kind in "biufU"

    def attribute(self) -> dict[str, Any]:
        """Return the attribute of the study, as JSON."""
        attribute: dict[str, Any] = {"dtype": self.values.dtype.str, "length": len(self.values)}
        if self.is_inline:
            attribute["values"] = self.values.tolist()
        else:
            attribute["sha256"] = self.digest
        return {**attribute, **({"unit": self.unit} if self.unit else {})}

    def same_as(self, other: Axis) -> bool:
        """Tell whether these are the same coordinates, whichever type of number they are."""
        return self.unit == other.unit and np.array_equal(self.values, other.values)

    def summary(self) -> str:
        """The axis in a few words, for messages."""
        count = len(self.values)
        ends = f" from {self.values[0]} to {self.values[-1]}" if count else ""
        return f"{count} values{ends}{f' {self.unit}' if self.unit else ''}"


def as_axis(name: str, values: Any, unit: str = "") -> Axis:
    """Make an axis of what people have at hand, and refuse what is no coordinates.

    Example:
        >>> from prefect_optuna.tasks.archive.series.timeseries import as_axis
        >>> as_axis("year", range(1900, 1903)).attribute()
        {'dtype': '<i8', 'length': 3, 'values': [1900, 1901, 1902]}
    """
    title = f"The axis {name!r}"
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise ArchiveError(
            f"{title} has to be a list of numbers; found {described(values)}: {error}."
        ) from None
    if array.nbytes > MAX_BYTES:
        raise ArchiveError(too_large(title, array.nbytes, MAX_BYTES))
    if array.ndim != 1:
        raise ArchiveError(
            f"{title} has one dimension; found {array.ndim}. A grid has an axis for each of its "
            'dimensions, and a series on it has layout="product".'
        )
    if array.dtype.kind not in _KINDS or array.dtype.char == "g":
        raise ArchiveError(
            f"{title} holds numbers, text or times; found {array.dtype}. Dates become times by "
            "np.array(values, 'datetime64[D]')."
        )
    bad = ~np.isfinite(array) if array.dtype.kind in "fmM" else np.zeros(0, bool)
    if bad.any():
        index = int(np.argmax(bad))
        raise ArchiveError(f"{title} has to be finite; found {array[index]} at index {index}.")
    return Axis(name, storable(array), unit)


def storable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same values in a type that Arrow has: in this machine's byte order, and no hours."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind in "mM" and np.datetime_data(dtype) not in _TIME_UNITS[dtype.kind]:
        dtype = np.dtype(f"{dtype.kind}8[s]")
    return array.astype(dtype, copy=False)


def axis_names(study_attributes: Mapping[str, Any]) -> list[str]:
    """The names of the axes that a study has attributes for."""
    return [name.removeprefix(KEY_AXIS) for name in study_attributes if name.startswith(KEY_AXIS)]


def read_axis(
    study: Study,
    artifacts: ArtifactFileSystem,
    name: str,
    attributes: Mapping[str, Any] | None = None,
) -> Axis | None:
    """Read an axis; `None` if the study has no attribute for it."""
    attribute = (attributes or study.user_attrs).get(f"{KEY_AXIS}{name}")
    if attribute is None:
        return None
    try:
        if "values" in attribute:
            values = _inline_values(attribute["values"], checked_dtype(attribute["dtype"]))
        else:
            content = read_blob(artifacts, attribute["sha256"], f"the axis {name!r}")
            values = read_npy(BytesIO(content), len(content))
        if len(values) != attribute["length"]:
            raise ValueError(f"{len(values)} values in place of {attribute['length']}")
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        if isinstance(error, ArchiveError):
            raise
        raise ArchiveError(
            f"The axis {name!r} of the study {study.study_name!r} is damaged: {error}. Bring the "
            f"study's attribute {KEY_AXIS + name!r} back from a copy."
        ) from None
    return Axis(name, values, attribute.get("unit", ""))


def _inline_values(values: list[Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if type(values) is not list or dtype.itemsize * len(values) > _INLINE_BYTES:
        raise ValueError("expected a list of a few values")
    return np.array(values, dtype)


def problem_axes(document: Mapping[str, Any], read: Callable[[str], bytes]) -> dict[str, Axis]:
    """The axes of a captured problem, as far as they are data: none of its code is executed.

    Args:
        document: of the `Capture`.
        read: returns the bytes of a blob, given its digest.
    """
    values_of = {
        f"{symbol['module']}:{symbol['name']}": symbol["value"]
        for symbol in document["symbols"]
        if symbol["mode"] == "value"
    }

    def other(tag: str, held: Any) -> Any:
        match tag:
            case "$npy":
                content = read(held["sha256"]) if "sha256" in held else decode_value(held, other)
                return read_npy(BytesIO(content), len(content))
            case "$ref" if held in values_of:
                return decode_value(values_of[held], other)
            case _:
                return None  # an index of pandas, for instance

    axes: dict[str, Axis] = {}
    for name, data in document["axes"].items():
        values = decode_value(data, other)
        with contextlib.suppress(ArchiveError):  # no coordinates
            axes[name] = as_axis(name, values)
    return axes


def archived_axes(artifacts: ArtifactFileSystem, code_version: str) -> dict[str, Axis]:
    """The axes of a problem that has been saved, given the digest of its code."""
    document = json.loads(read_blob(artifacts, code_version, "the code"))
    return problem_axes(document, lambda digest: read_blob(artifacts, digest, "an axis"))


def grid_size(axes: Mapping[str, Axis]) -> int:
    """Return the number of points in the grid of some axes."""
    return math.prod(len(axis.values) for axis in axes.values())


KEY_TIMESERIES = "timeseries:"
"""Prefix of the attributes that are about a series, of studies and of trials."""

Layout = Literal["aligned", "product"]

_LAYOUTS = ("aligned", "product")
_TRIAL = "trial"  # the first column of a table across trials
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True)
class SeriesSpec:
    """The properties that the series of one key share in all trials of a study.

    Attributes:
        axes: the names of the axes.
        columns: the names of the values.
        layout: how values and axes belong together.
        dtype: of the values, as NumPy writes it.
        units: of the values, by column.
    """

    axes: tuple[str, ...]
    columns: tuple[str, ...]
    layout: Layout
    dtype: str
    units: Mapping[str, str] = field(default_factory=dict)

    def attribute(self) -> dict[str, Any]:
        """Return the attribute of the study, as JSON."""
        attribute: dict[str, Any] = {
            "axes": list(self.axes),
            "columns": list(self.columns),
            "layout": self.layout,
            "dtype": self.dtype,
        }
        return {**attribute, **({"units": dict(self.units)} if self.units else {})}

    @classmethod
    def of(cls, key: str, attribute: Any) -> SeriesSpec:
        """Read the attribute of a study."""
        try:
            if checked_dtype(attribute["dtype"]).kind not in "biufmM":
                raise ValueError("a series holds numbers or times")
            return cls(
                tuple(attribute["axes"]),
                tuple(attribute["columns"]),
                attribute["layout"],
                attribute["dtype"],
                attribute.get("units", {}),
            )
        except (KeyError, TypeError, ValueError):
            raise ArchiveError(
                f"The study's attribute {KEY_TIMESERIES + key!r} is damaged: expected axes, "
                f"columns, layout and dtype; found {attribute!r}. Bring it back from a copy."
            ) from None

    def check(self, key: str, other: SeriesSpec) -> None:
        """Make sure that the series of another trial can stand below this one's."""
        different = [
            f"{what} {getattr(other, what)!r} in place of {getattr(self, what)!r}"
            for what in ("axes", "columns", "layout", "units")
            if getattr(other, what) != getattr(self, what)
        ]
        if not np.can_cast(np.dtype(other.dtype), np.dtype(self.dtype), "safe"):
            different.append(f"dtype {other.dtype!r} in place of {self.dtype!r}")
        if different:
            raise ArchiveError(
                f"The series {key!r} of this study is another one than that of its first trial: "
                f"found {' and '.join(different)}. Give it as that trial did, or take another key."
            )


@dataclass(frozen=True)
class TrialSeries:
    """One trial's series, checked.

    Attributes:
        spec: what it has in common with those of other trials.
        values: a row for each index or point, a column for each name.
        axes: the axes that it lies along, by name.
        own: the names of those whose values are this trial's own.
        partial: whether it ends before its axes do.
    """

    spec: SeriesSpec
    values: np.ndarray[Any, Any]
    axes: Mapping[str, Axis]
    own: frozenset[str]
    partial: bool

    def content(self, key: str, dtype: str) -> bytes:
        """The Arrow file."""
        import pyarrow as pa

        values = self.values.astype(np.dtype(dtype), copy=False)
        columns = axis_columns(self.spec.layout, self.axes, len(values))
        arrays = {name: columns[name] for name in self.spec.axes if name in self.own}
        for number, name in enumerate(self.spec.columns):
            arrays[name] = pa.array(np.ascontiguousarray(values[:, number]))
        units = {**{name: self.axes[name].unit for name in self.own}, **self.spec.units}
        schema = pa.schema(
            [
                pa.field(name, array.type, metadata=unit_of(units.get(name, "")))
                for name, array in arrays.items()
            ]
        )
        batch = pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema)
        return write_arrow(batch, {"layout": "series", "key": key})

    def inline(self, key: str, dtype: str) -> dict[str, Any] | None:
        """Return the trial's attribute with the values in it; `None` if they need a file."""
        values = self.values.astype(np.dtype(dtype), copy=False)
        if self.own or not fits_inline(values.nbytes):
            return None
        inline = base64_of(values)
        return self.reference({"inline": inline, "sha256": inline_digest([key, inline])})

    def reference(self, place: Mapping[str, Any]) -> dict[str, Any]:
        """Return the trial's attribute, as JSON: where the series is, and what describes it."""
        reference: dict[str, Any] = {**place, "rows": len(self.values)}
        shared = {n: a.digest[:32] for n, a in self.axes.items() if n not in self.own}
        if shared:
            reference["axes"] = shared
        return {**reference, **({"partial": True} if self.partial else {})}


def inline_columns(key: str, references: Sequence[Any], spec: SeriesSpec) -> dict[str, Any]:
    """Decode what is in the attributes of trials that have as many rows.

    Returns:
        An array for each column, a row of which is a trial's.
    """
    try:
        texts, before = [], b'[%b,"' % canonical(key)
        for reference in references:
            texts.append(text := reference["inline"])
            if short_digest(before + text.encode("ascii") + b'"]') != reference["sha256"]:
                raise ValueError("it is not what was archived")
        values = arrays_of(texts, spec.dtype, (references[0]["rows"], len(spec.columns)))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ArchiveError(
            f"The archive is damaged: the series {key!r} of a trial is in its attribute, and "
            f"{error}. Bring the study back from a copy."
        ) from None
    return {
        name: np.ascontiguousarray(values[..., number]) for number, name in enumerate(spec.columns)
    }


def unit_of(unit: str) -> dict[str, str] | None:
    """The metadata of a column with a unit."""
    return {"unit": unit} if unit else None


def series_path(uuid: str, key: str, number: int) -> str:
    """Return the path of the file of a trial's series."""
    plain = _PLAIN.fullmatch(key)
    name = key if plain else quote(key, safe="")
    if not plain and len(name) > 80:
        name = hashlib.sha256(key.encode()).hexdigest()
    elif not plain:
        name = f"%{name}"  # no other key is quoted to this
    return f"studies/{uuid}/series/{name}/{number:06d}.arrow"


def axis_columns(layout: str, axes: Mapping[str, Axis], rows: int) -> dict[str, Any]:
    """Return the axes as Arrow arrays, with a value for each row."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    inner = grid_size(axes)
    for name, axis in axes.items():
        values = axis.values
        if layout == "product":
            inner //= max(len(values), 1)
            index = np.arange(rows) // max(inner, 1) % max(len(values), 1)
            values = values[index]
        columns[name] = pa.array(np.ascontiguousarray(values[:rows]))
    return columns


def make_series(
    key: str,
    values: Any,
    axes: Mapping[str, Axis],
    *,
    own: frozenset[str] = frozenset(),
    columns: Sequence[str] | None = None,
    value_col: str = "value",
    layout: str = "aligned",
    units: Mapping[str, str] | None = None,
    allow_partial: bool = False,
) -> TrialSeries:
    """Check a series, and bring it into rows and columns."""
    title = f"The series {key!r}"
    if layout not in _LAYOUTS:
        raise ArchiveError(f'{title}: `layout` is "aligned" or "product"; found {layout!r}.')
    if not axes:
        raise ArchiveError(
            f"{title} needs the names of its axes: archive.study_add_axis('t', times) once, then "
            "axes=['t']."
        )
    names = _column_names(title, columns, value_col, axes)
    if unknown := sorted(set(units or {}) - set(names)):
        raise ArchiveError(f"{title} has the columns {list(names)}, and `units` names {unknown}.")
    array = _array(title, values)
    lengths = {name: len(axis.values) for name, axis in axes.items()}
    expected = _expected(title, layout, lengths)
    rows = _rows(title, array, layout, lengths, len(names), columns is not None)
    if len(rows) > expected or (len(rows) < expected and not allow_partial):
        raise ArchiveError(_wrong_length(title, len(rows), expected, layout, lengths))
    if own and layout == "product":
        own = frozenset(axes)  # how often each value comes depends on all of them
    spec = SeriesSpec(tuple(axes), names, layout, rows.dtype.str, dict(units or {}))  # pyright: ignore[reportArgumentType] - it has been checked
    return TrialSeries(spec, rows, axes, own, len(rows) < expected)


def _column_names(
    title: str, columns: Sequence[str] | None, value_col: str, axes: Mapping[str, Axis]
) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise ArchiveError(
            f"{title}: `columns` is a list of names; found {columns!r}. For one column, write "
            f"value_col={columns!r}."
        )
    if columns is not None and value_col != "value":
        raise ArchiveError(
            f"{title} has either `columns`, the names of several, or `value_col`, the name of one; "
            "found both. Leave one out."
        )
    names = (value_col,) if columns is None else tuple(columns)
    if not names or not all(isinstance(name, str) and name for name in names):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ArchiveError(f"{title}: the names of columns are words; found {list(names)}.")
    all_names = [_TRIAL, *axes, *names]
    if doubled := sorted({name for name in all_names if all_names.count(name) > 1}):
        raise ArchiveError(
            f"{title} would have two columns called {doubled[0]!r}: a table across trials has the "
            f"columns {', '.join(all_names)}. Rename one."
        )
    return names


def _array(title: str, values: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise ArchiveError(f"{title} is no array of numbers: {error}.") from None
    if array.dtype.kind not in "biufmM" or array.dtype.char == "g" or array.ndim == 0:
        given = f"an array of {array.dtype}" if array.ndim else described(values)
        raise ArchiveError(f"{title} holds numbers of up to 64 bits or times; found {given}.")
    if array.nbytes > MAX_BYTES:
        raise ArchiveError(too_large(title, array.nbytes, MAX_BYTES))
    return storable(array)


def _expected(title: str, layout: str, lengths: Mapping[str, int]) -> int:
    if layout == "product":
        size = 1
        for length in lengths.values():
            size *= length
        return size
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} with {length}" for name, length in lengths.items())
        raise ArchiveError(
            f"{title} is aligned, and its axes have several lengths: {listed}. A series on their "
            'grid has layout="product".'
        )
    return next(iter(lengths.values()))


def _rows(
    title: str,
    array: np.ndarray[Any, Any],
    layout: str,
    lengths: Mapping[str, int],
    width: int,
    has_columns: bool,
) -> np.ndarray[Any, Any]:
    """The values with two dimensions."""
    shape = array.shape[:-1] if has_columns else array.shape
    if has_columns and (array.ndim < 2 or array.shape[-1] != width):
        raise ArchiveError(
            f"{title} has {width} columns, so its values have the shape (rows, {width}); found "
            f"{array.shape}. Several series of one length: np.column_stack([a, b])."
        )
    is_grid = layout == "product" and shape == tuple(lengths.values())
    if len(shape) != 1 and not is_grid:
        expected = f" or {tuple(lengths.values())}" if layout == "product" else ""
        hint = "" if has_columns else " Several columns have names: columns=[...]."
        raise ArchiveError(
            f"{title} has one dimension{expected}{' and columns' if has_columns else ''}; found "
            f"the shape {array.shape}.{hint}"
        )
    return array.reshape(-1, width)


def _wrong_length(
    title: str, found: int, expected: int, layout: str, lengths: Mapping[str, int]
) -> str:
    of = " x ".join(f"{name!r} ({length})" for name, length in lengths.items())
    kind = "axis" if len(lengths) == 1 else "grid" if layout == "product" else "axes"
    message = f"{title} has {found} rows of values, and its {kind} {of} {expected}. "
    if found > expected:
        return f"{message}Give the trial's own coordinates: axis_values={{...}}."
    return (
        f"{message}If the trial ended early, say allow_partial=True; if it has coordinates of its "
        "own, give them: axis_values={...}."
    )


# The axes and the time series of a study, for writing.


class StudySeries:
    """Writes axes to a study and series to its trials. Threads may share one."""

    def __init__(
        self,
        study: Study,
        artifacts: ArtifactFileSystem,
        keys: SigningKeys | None,
        axes_of_problem: Callable[[], Mapping[str, Axis]],
        version: str = "",
    ) -> None:
        self._study = study
        self._artifacts = artifacts
        self._keys = keys
        self._axes_of_problem = axes_of_problem
        self._version = version
        # What has been read is kept: axes and specs never change.
        self._axes: dict[str, Axis] = {}
        self._specs: dict[str, SeriesSpec] = {}
        self._folder = ""

    def add_axis(self, axis: Axis) -> None:
        """Write an axis; writing the same one again has no effect."""
        study, whose = self._study, f"The study {self._study.study_name!r}"
        if (stored := read_axis(study, self._artifacts, axis.name)) is not None:
            check_same(stored, axis, whose)
            return
        if (stored := self._axes_of_problem().get(axis.name)) is not None:
            check_same(replace(stored, unit=axis.unit), axis, whose)
        if not axis.is_inline:
            write_blobs(self._artifacts, self._claimed(), [axis.content])
        self._set_study_attribute(f"{KEY_AXIS}{axis.name}", axis.attribute())
        # Another process may have added the axis at the same time, and the last one holds.
        written = read_axis(study, self._artifacts, axis.name)
        check_same(written or axis, axis, whose)
        self._axes[axis.name] = axis

    def add(
        self,
        trial: Trial,
        key: str,
        values: Any,
        axes: Sequence[str] | str,
        *,
        axis_values: Mapping[str, Any],
        **rest: Any,
    ) -> None:
        """Write a series of a trial: its attribute, and a file where it is large."""
        self._check_trial(trial)
        if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidSettingError(f"The key of a series is a word; found {key!r}.")
        names = [axes] if isinstance(axes, str) else list(axes)
        own = {name: as_axis(name, given) for name, given in axis_values.items()}
        if unused := sorted(own.keys() - set(names)):
            raise UnknownNameError(
                f"The series {key!r} has the axes {names}, and `axis_values` names {unused}."
            )
        along = {name: own.get(name) or self._axis(name) for name in names}
        series = make_series(key, values, along, own=frozenset(own), **rest)
        spec = self._spec(key) or series.spec
        spec.check(key, series.spec)
        reference, created = series.inline(key, spec.dtype), ""
        if reference is None:
            reference, created = self._write_file(key, trial.number, series, spec.dtype)
        try:
            self._write_spec(key, spec)
            if self._version:
                reference["version"] = self._version
            trial.set_user_attr(f"{KEY_TIMESERIES}{key}", reference)
        except BaseException:
            if created:  # the trial has ended, perhaps: nothing refers to the file
                self._artifacts.rm(created)
            raise

    def _write_file(
        self, key: str, number: int, series: TrialSeries, dtype: str
    ) -> tuple[dict[str, Any], str]:
        """Write the file of a series: a reference to it, and its path if it is new."""
        content = series.content(key, dtype)
        finding = Digest(content)
        path = series_path(self._claimed().rpartition("/")[2], key, number)
        path, created = write_file(self._artifacts, path, content, finding.hex)
        place = {"path": path, "sha256": finding.hex(), "bytes": len(content)}
        return series.reference(place), path if created else ""

    def _check_trial(self, trial: Trial) -> None:
        if not isinstance(trial, Trial):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArchiveError(
                "A series is added to a trial that is running, the one that the objective gets or "
                f"`study.ask()` returns; found a {type(trial).__name__}."
            )
        name = self._study.study_name
        if trial.study.study_name != name:
            raise StudyMismatchError(
                f"Trial {trial.number} is one of the study {trial.study.study_name!r}, and this "
                f"is the archive of {name!r}."
            )

    def _axis(self, name: str) -> Axis:
        """An axis of the study or of its problem."""
        if (known := self._axes.get(name)) is not None:
            return known
        axis = read_axis(self._study, self._artifacts, name) or self._axes_of_problem().get(name)
        if axis is None:
            known = {*axis_names(self._study.user_attrs), *self._axes_of_problem()}
            near = get_close_matches(str(name), known, n=3) or sorted(known)[:5]
            raise UnknownNameError(
                f"The study {self._study.study_name!r} has no axis {name!r}. "
                + (f"Did you mean {' or '.join(map(repr, near))}? " if near else "")
                + f"Call archive.study_add_axis({name!r}, values) once, or give the trial's own: "
                "axis_values={...}."
            )
        self._axes[name] = axis
        return axis

    def _spec(self, key: str) -> SeriesSpec | None:
        """Return the specification of a series from the first trial that had it, if any."""
        if key not in self._specs:
            attribute = self._study.user_attrs.get(f"{KEY_TIMESERIES}{key}")
            if attribute is None:
                return None
            self._specs[key] = SeriesSpec.of(key, attribute)
        return self._specs[key]

    def _write_spec(self, key: str, spec: SeriesSpec) -> None:
        if key in self._specs:
            return
        self._set_study_attribute(f"{KEY_TIMESERIES}{key}", spec.attribute())
        # Another process may have said something else at the same time, and the last one holds.
        written = self._spec(key) or spec
        written.check(key, spec)

    def _claimed(self) -> str:
        """The folder of the study."""
        if not self._folder:
            self._folder = claim_folder(self._study, self._artifacts)
        return self._folder

    def _set_study_attribute(self, name: str, value: Any) -> None:
        if self._keys is not None:
            signature = self._keys.sign("attribute", study_uuid(self._study), [name, value])
            self._study.set_user_attr(f"signature:{name}", signature)
        self._study.set_user_attr(name, value)


def check_same(known: Axis, axis: Axis, whose: str) -> None:
    """Make sure that an axis which is there already has the same values."""
    if not known.same_as(axis):
        raise ArchiveError(
            f"{whose} has the axis {axis.name!r} already, with {known.summary()}; found "
            f"{axis.summary()}. Series of its trials lie along the first one: take another name, "
            "or give coordinates of a trial's own by axis_values={...}."
        )
