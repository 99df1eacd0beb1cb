"""One table of a series across trials, from their files: those of the series, or their results.

A file is read as a whole, because only its whole has a digest that is archived; of what is in it,
only the columns that are asked for are decoded. Several are read and verified at the same time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from typing import Any, Literal

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem, InvalidSettingError
from prefect_optuna.tasks.archive.record.manifest import RESULT_KEY
from prefect_optuna.tasks.archive.series.blobs import read_verified
from prefect_optuna.tasks.archive.series.results import (
    decode_inline_series,
    decode_series,
    is_of,
    open_arrow,
)
from prefect_optuna.tasks.archive.series.timeseries import (
    KEY_TIMESERIES,
    Axis,
    SeriesSpec,
    axis_columns,
    inline_columns,
    unit_of,
)
from prefect_optuna.tasks.reevaluation.verdicts import Selection, select_trials

SeriesKind = Literal["arrow", "pandas", "xarray"]
"""The type of a table across trials."""

_AT_ONCE = 8  # files


def series_keys(study: Study, trials: Iterable[FrozenTrial]) -> list[str]:
    """The keys of the series that trials have, those that results consist of included."""
    keys = {
        name.removeprefix(KEY_TIMESERIES)
        for name in study.user_attrs
        if name.startswith(KEY_TIMESERIES)
    }
    for trial in trials:
        keys.update(_result_series(trial))
    return sorted(keys)


@dataclass(frozen=True)
class SeriesReader:
    """Reads the series of one key."""

    study: Study
    artifacts: ArtifactFileSystem
    key: str
    axes_of: Callable[[FrozenTrial], Mapping[str, Axis]]

    def table(self, trials: Selection | None) -> tuple[Any, SeriesSpec | None]:
        """The series of several trials, one below the other."""
        import pyarrow as pa

        if trials is None:
            chosen = self.study.get_trials(deepcopy=False)
        else:
            chosen = select_trials(self.study, trials)
        attribute = self.study.user_attrs.get(f"{KEY_TIMESERIES}{self.key}")
        spec = None if attribute is None else SeriesSpec.of(self.key, attribute)
        having = [trial for trial in chosen if self._reference(trial, spec) is not None]
        named = isinstance(trials, int) or (
            isinstance(trials, Sequence) and not isinstance(trials, str)
        )
        if not having or (named and len(having) < len(chosen)):
            raise ArchiveError(self._missing(chosen, having))
        tables: list[Any] = []
        for small, some in groupby(having, lambda t: "inline" in self._reference(t, spec)):
            tables += (self._small if small else self._large)(list(some), spec)
        if not tables:
            raise ArchiveError(self._missing(chosen, []))
        same = all(table.schema.equals(tables[0].schema) for table in tables)
        try:
            table = pa.concat_tables(tables, promote_options="none" if same else "permissive")
        except pa.ArrowInvalid as error:
            raise ArchiveError(
                f"The series {self.key!r} has several types in different trials: {error}. Read "
                "the trials by themselves: trials=[number]."
            ) from error
        return table, spec

    def _large(self, trials: list[FrozenTrial], spec: SeriesSpec | None) -> list[Any]:
        """A table for each trial that has a file."""
        import pyarrow as pa

        read = self._from_result if spec is None else self._from_file
        if len(trials) == 1:
            parts = [read(trials[0])]
        else:
            with ThreadPoolExecutor(min(_AT_ONCE, len(trials))) as threads:
                parts = list(threads.map(read, trials))
        if spec is not None:
            parts = self._with_axes(trials, parts, spec)
        return [
            part.add_column(0, "trial", pa.array(np.full(len(part), trial.number)))
            for trial, part in zip(trials, parts, strict=True)
            if part.num_columns
        ]

    def _small(self, trials: list[FrozenTrial], spec: SeriesSpec | None) -> Iterator[Any]:
        """A table for all trials in a row whose attributes hold series of one kind."""
        import pyarrow as pa

        def kind(held: tuple[FrozenTrial, Any, Mapping[str, Any]]) -> Any:
            _, along, series = held
            return along, [(name, array.dtype, array.shape) for name, array in series.items()]

        for _, some in groupby(map(self._held(spec), trials), kind):
            held = [row for row in some if row[2]]
            if not held:
                continue
            trial, _, series = held[0]
            if spec is None:
                first = self._along(trial, self.axes_of(trial), {}, series)
            else:
                [first] = self._with_axes([trial], [pa.table(dict(series))], spec)
            columns = [
                pa.array(np.concatenate([row[2][name].reshape(-1) for row in held]))
                if name in series
                else pa.chunked_array(first.column(name).chunks * len(held))
                for name in first.column_names
            ]
            numbers = np.repeat([row[0].number for row in held], len(first))
            table = pa.table(columns, schema=first.schema)
            yield table.add_column(0, "trial", pa.array(numbers))

    def _held(
        self, spec: SeriesSpec | None
    ) -> Callable[[FrozenTrial], tuple[FrozenTrial, Any, Mapping[str, Any]]]:
        """Return a reader of a trial's attribute, for the trial, its axes and its series."""

        def of_result(trial: FrozenTrial) -> tuple[FrozenTrial, Any, Mapping[str, Any]]:
            axes = id(self.axes_of(trial))  # one object for each version
            return trial, axes, decode_inline_series(trial.user_attrs[RESULT_KEY], self.key)

        if spec is None:
            return of_result

        def of_series(trial: FrozenTrial) -> tuple[FrozenTrial, Any, Mapping[str, Any]]:
            reference = self._reference(trial, spec)
            return trial, reference.get("axes"), inline_columns(self.key, reference, spec)

        return of_series

    def _reference(self, trial: FrozenTrial, spec: SeriesSpec | None) -> Any:
        if spec is not None:
            return trial.user_attrs.get(f"{KEY_TIMESERIES}{self.key}")
        reference: Any = trial.user_attrs.get(RESULT_KEY)
        names = _result_series(trial)
        listed = any(is_of(self.key, name) for name in names)
        return reference if listed or (names and "more_series" in reference) else None

    def _read(self, trial: FrozenTrial, reference: Any) -> bytes:
        try:
            path, digest = reference["path"], reference["sha256"]
        except (KeyError, TypeError):
            raise ArchiveError(
                f"Trial {trial.number} is damaged: expected a reference to the series "
                f"{self.key!r}, with `path` and `sha256`, found {reference!r}."
            ) from None
        what = f"the series {self.key!r} of trial {trial.number}"
        return read_verified(self.artifacts, path, digest, what)

    def _from_file(self, trial: FrozenTrial) -> Any:
        reference = trial.user_attrs[f"{KEY_TIMESERIES}{self.key}"]
        table, metadata = open_arrow(self._read(trial, reference))
        if metadata.get("key") != self.key:
            raise ArchiveError(
                f"The file of the series {self.key!r} of trial {trial.number} holds another one: "
                f"{metadata.get('key')!r}."
            )
        return table.replace_schema_metadata(None)

    def _with_axes(
        self, trials: list[FrozenTrial], parts: list[Any], spec: SeriesSpec
    ) -> list[Any]:
        """Add the axes that are the study's, each of which is made an Arrow array once."""
        import pyarrow as pa

        made: dict[tuple[str, ...], dict[str, Any]] = {}
        complete: list[Any] = []
        for trial, part in zip(trials, parts, strict=True):
            known = self.axes_of(trial)
            shared = trial.user_attrs[f"{KEY_TIMESERIES}{self.key}"].get("axes", {})
            columns = {n: part.column(n) for n in spec.axes if n in part.column_names}
            if shared:
                digests = tuple(shared.values())
                if digests not in made or len(next(iter(made[digests].values()))) < len(part):
                    axes = {n: self._checked(trial, known.get(n), n, d) for n, d in shared.items()}
                    made[digests] = axis_columns(spec.layout, axes, len(part))
                columns |= {n: column.slice(0, len(part)) for n, column in made[digests].items()}
            units = {**{n: axis.unit for n, axis in known.items()}, **spec.units}
            ordered = {n: columns[n] for n in spec.axes}
            ordered |= {n: part.column(n) for n in spec.columns}
            fields = [
                pa.field(n, c.type, metadata=unit_of(units.get(n, ""))) for n, c in ordered.items()
            ]
            complete.append(pa.table(list(ordered.values()), schema=pa.schema(fields)))
        return complete

    def _checked(self, trial: FrozenTrial, axis: Axis | None, name: str, digest: str) -> Axis:
        """The axis, if it is the one that the trial's series was written along."""
        if axis is None or not axis.digest.startswith(digest):
            fault = "is another one now" if axis is not None else "is not there"
            raise ArchiveError(
                f"The archive is damaged: trial {trial.number} has the series {self.key!r} along "
                f"the axis {name!r}, which {fault}. Bring the study's attribute "
                f"{'axis:' + name!r} back from a copy."
            )
        return axis

    def _from_result(self, trial: FrozenTrial) -> Any:
        """Return the part of a trial's result that the series names, along the problem's axes."""
        axes = self.axes_of(trial)
        content = self._read(trial, trial.user_attrs[RESULT_KEY])
        return self._along(trial, axes, *decode_series(content, self.key, axes))

    def _along(
        self,
        trial: FrozenTrial,
        axes: Mapping[str, Axis],
        coordinates: Mapping[str, Any],
        series: Mapping[str, Any],
    ) -> Any:
        """Series of a result, along the axes of their length."""
        import pyarrow as pa

        if not series:
            return pa.table({})
        arrays = [values for values in series.values() if isinstance(values, np.ndarray)]
        if not arrays:
            length = len(next(iter(series.values())))
            return pa.table({**(coordinates or {"dim_0": np.arange(length)}), **series})
        if len({array.shape for array in arrays}) > 1:
            raise ArchiveError(
                f"The series {', '.join(series)} of trial {trial.number} have several lengths. "
                "Read one of them, by its whole name."
            )
        shape = arrays[0].shape
        columns = axis_columns("product", _axes_of_shape(shape, axes), arrays[0].size)
        values = {name: pa.array(array.reshape(-1)) for name, array in series.items()}
        return pa.table({**columns, **values})

    def _missing(self, chosen: list[FrozenTrial], having: list[FrozenTrial]) -> str:
        name = self.study.study_name
        if having:
            without = [t.number for t in chosen if t not in having]
            return f"These trials of study {name!r} have no series {self.key!r}: {without}."
        keys = series_keys(self.study, self.study.get_trials(deepcopy=False))
        near = get_close_matches(self.key, keys, n=3) or keys[:8]
        which = (
            f"Study {name!r} has" if self.key not in keys else "The trials that were chosen have"
        )
        return f"{which} no series {self.key!r}. " + (
            f"There is: {', '.join(map(repr, near))}."
            if near
            else "Series come from the results of `optimize` and from "
            "OptunaArchive.trial_add_timeseries."
        )


def as_kind(table: Any, spec: SeriesSpec | None, kind: SeriesKind, key: str) -> Any:
    """Turn a table across trials into the type that was asked for."""
    if kind == "arrow":
        return table
    if kind not in ("pandas", "xarray"):
        raise InvalidSettingError(f'`kind` is "arrow", "pandas" or "xarray"; found {kind!r}.')
    try:
        frame = table.to_pandas()
        if kind == "pandas":
            return frame
        importlib.import_module("xarray")  # pandas turns a frame into its datasets
    except ImportError as error:
        raise ArchiveError(
            f"Expected to give a series back for {kind}, and {error.name} is not installed: "
            f"pip install {error.name}. Without it, there is kind='arrow'."
        ) from error
    values = set(spec.columns) if spec else {n for n in table.column_names if is_of(key, n)}
    axes = [name for name in table.column_names if name != "trial" and name not in values]
    index = axes if spec is None or spec.layout == "product" else axes[:1]
    try:
        data = frame.set_index(["trial", *index]).to_xarray()
    except ValueError as error:
        raise ArchiveError(
            f"The series {key!r} has several values at one place of its axes, and so is no grid "
            f"for xarray: {error}. Take kind='pandas'."
        ) from error
    data = data.set_coords([name for name in axes if name not in index])
    for field in table.schema:
        if field.metadata and b"unit" in field.metadata and field.name in data:
            data[field.name].attrs["units"] = field.metadata[b"unit"].decode()
    return data


def _result_series(trial: FrozenTrial) -> Mapping[str, Any]:
    reference = trial.user_attrs.get(RESULT_KEY)
    series = reference.get("series") if isinstance(reference, Mapping) else None
    return series if isinstance(series, Mapping) else {}


def _axes_of_shape(shape: tuple[int, ...], axes: Mapping[str, Axis]) -> dict[str, Axis]:
    """An axis for each dimension: the one that has its length, or else the numbers from 0."""
    chosen: dict[str, Axis] = {}
    for number, length in enumerate(shape):
        fitting = [
            axis for axis in axes.values() if len(axis.values) == length and axis.name not in chosen
        ]
        axis = fitting[0] if len(fitting) == 1 else Axis(f"dim_{number}", np.arange(length))
        chosen[axis.name] = axis
    return chosen
