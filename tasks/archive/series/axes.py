"""Axes: the coordinates that series are given along, kept once for all trials of a study.

An axis is a study attribute, `axis:<name>`: a short one with its values, a long one with the
digest of a blob. Those of a `Problem` are kept with its code. Either way a trial's series names
the digests of its axes, so that nobody reads it along others.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from optuna import Study

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks.codec.arrays import npy_bytes
from prefect_optuna.blocks.codec.untrusted import checked_dtype, read_npy
from prefect_optuna.blocks.codec.values import decode_value
from prefect_optuna.errors import ArchiveError, SeriesError
from prefect_optuna.tasks.archive.code.refusals import described, too_large
from prefect_optuna.tasks.archive.series.blobs import read_blob

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
        >>> from prefect_optuna.tasks.archive.series.axes import as_axis
        >>> as_axis("year", range(1900, 1903)).attribute()
        {'dtype': '<i8', 'length': 3, 'values': [1900, 1901, 1902]}
    """
    title = f"The axis {name!r}"
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise SeriesError(
            f"{title} has to be a list of numbers; found {described(values)}: {error}."
        ) from None
    if array.nbytes > MAX_BYTES:
        raise SeriesError(too_large(title, array.nbytes, MAX_BYTES))
    if array.ndim != 1:
        raise SeriesError(
            f"{title} has one dimension; found {array.ndim}. A grid has an axis for each of its "
            'dimensions, and a series on it has layout="product".'
        )
    if array.dtype.kind not in _KINDS or array.dtype.char == "g":
        raise SeriesError(
            f"{title} holds numbers, text or times; found {array.dtype}. Dates become times by "
            "np.array(values, 'datetime64[D]')."
        )
    bad = ~np.isfinite(array) if array.dtype.kind in "fmM" else np.zeros(0, bool)
    if bad.any():
        index = int(np.argmax(bad))
        raise SeriesError(f"{title} has to be finite; found {array[index]} at index {index}.")
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


def read_axis(study: Study, artifacts: ArtifactFileSystem, name: str) -> Axis | None:
    """Read an axis; `None` if the study has no attribute for it."""
    attribute = study.user_attrs.get(f"{KEY_AXIS}{name}")
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
                raise SeriesError(f"{tag} is no plain data")

    axes: dict[str, Axis] = {}
    for name, data in document["axes"].items():
        with contextlib.suppress(SeriesError):  # an index of pandas, for instance
            axes[name] = as_axis(name, decode_value(data, other))
    return axes


def archived_axes(artifacts: ArtifactFileSystem, code_version: str) -> dict[str, Axis]:
    """The axes of a problem that has been saved, given the digest of its code."""
    document = json.loads(read_blob(artifacts, code_version, "the code"))
    return problem_axes(document, lambda digest: read_blob(artifacts, digest, "an axis"))


def grid_size(axes: Mapping[str, Axis]) -> int:
    """Return the number of points in the grid of some axes."""
    return math.prod(len(axis.values) for axis in axes.values())
