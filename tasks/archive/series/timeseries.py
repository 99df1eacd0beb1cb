"""Time series of trials: what they have in common, and what each trial has of them.

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

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from prefect_optuna.blocks.codec.arrays import array_of, base64_of
from prefect_optuna.blocks.codec.untrusted import checked_dtype
from prefect_optuna.errors import ArchiveError, SeriesError
from prefect_optuna.tasks.archive.code.refusals import described, too_large
from prefect_optuna.tasks.archive.series.axes import MAX_BYTES, Axis, grid_size, storable
from prefect_optuna.tasks.archive.series.results import fits_inline, inline_digest, write_arrow

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
            raise SeriesError(
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
            raise SeriesError(
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


def inline_columns(key: str, reference: Any, spec: SeriesSpec) -> dict[str, Any]:
    """The values that are in a trial's attribute, by column."""
    try:
        inline = reference["inline"]
        if inline_digest([key, inline]) != reference["sha256"]:
            raise ValueError("it is not what was archived")
        rows = array_of(inline, spec.dtype, (reference["rows"], len(spec.columns)))
    except (LookupError, TypeError, ValueError) as error:
        raise ArchiveError(
            f"The archive is damaged: the series {key!r} of a trial is in its attribute, and "
            f"{error}. Bring the study back from a copy."
        ) from None
    return {
        name: np.ascontiguousarray(column)
        for name, column in zip(spec.columns, rows.T, strict=True)
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
        raise SeriesError(f'{title}: `layout` is "aligned" or "product"; found {layout!r}.')
    if not axes:
        raise SeriesError(
            f"{title} needs the names of its axes: archive.study_add_axis('t', times) once, then "
            "axes=['t']."
        )
    names = _column_names(title, columns, value_col, axes)
    if unknown := sorted(set(units or {}) - set(names)):
        raise SeriesError(f"{title} has the columns {list(names)}, and `units` names {unknown}.")
    array = _array(title, values)
    lengths = {name: len(axis.values) for name, axis in axes.items()}
    expected = _expected(title, layout, lengths)
    rows = _rows(title, array, layout, lengths, len(names), columns is not None)
    if len(rows) > expected or (len(rows) < expected and not allow_partial):
        raise SeriesError(_wrong_length(title, len(rows), expected, layout, lengths))
    if own and layout == "product":
        own = frozenset(axes)  # how often each value comes depends on all of them
    spec = SeriesSpec(tuple(axes), names, layout, rows.dtype.str, dict(units or {}))  # pyright: ignore[reportArgumentType] - it has been checked
    return TrialSeries(spec, rows, axes, own, len(rows) < expected)


def _column_names(
    title: str, columns: Sequence[str] | None, value_col: str, axes: Mapping[str, Axis]
) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise SeriesError(
            f"{title}: `columns` is a list of names; found {columns!r}. For one column, write "
            f"value_col={columns!r}."
        )
    if columns is not None and value_col != "value":
        raise SeriesError(
            f"{title} has either `columns`, the names of several, or `value_col`, the name of one; "
            "found both. Leave one out."
        )
    names = (value_col,) if columns is None else tuple(columns)
    if not names or not all(isinstance(name, str) and name for name in names):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise SeriesError(f"{title}: the names of columns are words; found {list(names)}.")
    all_names = [_TRIAL, *axes, *names]
    if doubled := sorted({name for name in all_names if all_names.count(name) > 1}):
        raise SeriesError(
            f"{title} would have two columns called {doubled[0]!r}: a table across trials has the "
            f"columns {', '.join(all_names)}. Rename one."
        )
    return names


def _array(title: str, values: Any) -> np.ndarray[Any, Any]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise SeriesError(f"{title} is no array of numbers: {error}.") from None
    if array.dtype.kind not in "biufmM" or array.dtype.char == "g" or array.ndim == 0:
        given = f"an array of {array.dtype}" if array.ndim else described(values)
        raise SeriesError(f"{title} holds numbers of up to 64 bits or times; found {given}.")
    if array.nbytes > MAX_BYTES:
        raise SeriesError(too_large(title, array.nbytes, MAX_BYTES))
    return storable(array)


def _expected(title: str, layout: str, lengths: Mapping[str, int]) -> int:
    if layout == "product":
        size = 1
        for length in lengths.values():
            size *= length
        return size
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} with {length}" for name, length in lengths.items())
        raise SeriesError(
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
        raise SeriesError(
            f"{title} has {width} columns, so its values have the shape (rows, {width}); found "
            f"{array.shape}. Several series of one length: np.column_stack([a, b])."
        )
    is_grid = layout == "product" and shape == tuple(lengths.values())
    if len(shape) != 1 and not is_grid:
        expected = f" or {tuple(lengths.values())}" if layout == "product" else ""
        hint = "" if has_columns else " Several columns have names: columns=[...]."
        raise SeriesError(
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
