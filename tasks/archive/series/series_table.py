"""One table of a series across trials, from their files: those of the series, or their results.

A file is read as a whole, because only its whole has a digest that is archived; of what is in it,
only the columns that are asked for are decoded. Several are read and verified at the same time.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from typing import Any, Literal

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem, InvalidSettingError
from prefect_optuna.blocks.redis_storage.study_copy import without_garbage_collector
from prefect_optuna.blocks.stores import REMOTE
from prefect_optuna.tasks.archive.record.manifest import RESULT_KEY
from prefect_optuna.tasks.archive.series.blobs import LARGE, from_whole_packs, read_verified
from prefect_optuna.tasks.archive.series.results import (
    as_column,
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
        keys.update(_series_of(trial.user_attrs.get(RESULT_KEY)))
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
        groups = self._groups(chosen, spec)
        having = sum(len(some) for _, some, _ in groups)
        named = isinstance(trials, int) or (
            isinstance(trials, Sequence) and not isinstance(trials, str)
        )
        if not having or (named and having < len(chosen)):
            raise ArchiveError(self._missing(chosen, [t for _, some, _ in groups for t in some]))
        tables: list[Any] = []
        for read, some, references in groups:
            tables += read(some, references, spec)
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

    @without_garbage_collector()
    def _groups(
        self, trials: Sequence[FrozenTrial], spec: SeriesSpec | None
    ) -> list[tuple[Callable[..., list[Any]], tuple[FrozenTrial, ...], tuple[Any, ...]]]:
        """Trials that have the series, as they are read together: how, which, their references."""
        referring = ((trial, self._reference(trial, spec)) for trial in trials)
        having = ((trial, reference) for trial, reference in referring if reference is not None)
        groups: list[Any] = []
        for kind, some in groupby(having, lambda pair: self._kind(*pair, spec)):
            together, references = zip(*some, strict=True)
            groups.append((self._large if kind is None else self._small, together, references))
        return groups

    def _kind(self, trial: FrozenTrial, reference: Any, spec: SeriesSpec | None) -> Any:
        """Return what series in attributes share that are read together; `None` for a file."""
        if spec is not None:
            small = isinstance(reference, Mapping) and "inline" in reference
            return (reference.get("axes"), reference.get("rows")) if small else None
        if "inline" not in reference:
            return None
        series = reference["series"]
        return id(self.axes_of(trial)), list(series), series  # one object for each version

    def _large(
        self, trials: Sequence[FrozenTrial], references: Sequence[Any], spec: SeriesSpec | None
    ) -> list[Any]:
        """A table for each trial that has a file."""
        of_path = {one["path"]: n for n, one in enumerate(references) if _is_file(one)}
        digests = {path: references[n]["sha256"] for path, n in of_path.items()}
        decode = self._from_result if spec is None else self._from_file
        parts: dict[int, Any] = {
            of_path[path]: decode(trials[of_path[path]], content)
            for path, content in from_whole_packs(self.artifacts, digests)
        }

        def read(n: int) -> Any:
            return decode(trials[n], self._read(trials[n], references[n]))

        rest = [n for n in range(len(trials)) if n not in parts]
        if rest and _may_be_packed(references[rest[0]]):  # it finds the packs for all others
            first = rest.pop(0)
            parts[first] = read(first)
        if rest:
            at_once = _AT_ONCE if self._is_remote() else min(_AT_ONCE, 2 * (os.cpu_count() or 1))
            with ThreadPoolExecutor(min(at_once, len(rest))) as threads:
                parts.update(zip(rest, threads.map(read, rest), strict=True))
        complete = [parts[n] for n in range(len(trials))]
        if spec is not None:
            complete = self._with_axes(trials, complete, spec)
        return [
            part.add_column(0, "trial", _filled(trial.number, len(part)))
            for trial, part in zip(trials, complete, strict=True)
            if part.num_columns
        ]

    @without_garbage_collector()
    def _small(
        self, trials: Sequence[FrozenTrial], references: Sequence[Any], spec: SeriesSpec | None
    ) -> list[Any]:
        """One table of trials whose attributes hold series of one kind."""
        import pyarrow as pa

        if spec is not None:
            series = inline_columns(self.key, references, spec)
            of_first = pa.table({name: arrays[0] for name, arrays in series.items()})
            [first] = self._with_axes(trials[:1], [of_first], spec)
        else:
            series = decode_inline_series(references, self.key)
            of_first = {name: arrays[0] for name, arrays in series.items()}
            first = self._along(trials[0], self.axes_of(trials[0]), {}, of_first)
        columns = [
            as_column(name, series[name])
            if name in series
            else pa.chunked_array(first.column(name).chunks * len(trials))
            for name in first.column_names
        ]
        numbers = np.repeat([trial.number for trial in trials], len(first))
        table = pa.table(columns, schema=first.schema)
        return [table.add_column(0, "trial", pa.array(numbers))]

    def _reference(self, trial: FrozenTrial, spec: SeriesSpec | None) -> Any:
        if spec is not None:
            return trial.user_attrs.get(f"{KEY_TIMESERIES}{self.key}")
        reference: Any = trial.user_attrs.get(RESULT_KEY)
        names = _series_of(reference)
        listed = self.key in names or any(is_of(self.key, name) for name in names)
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
        read = None if self._is_remote() else self._read_into_arrow
        return read_verified(self.artifacts, path, digest, what, read)

    def _is_remote(self) -> bool:
        return self.artifacts.url.partition("://")[0] in REMOTE

    def _read_into_arrow(self, path: str) -> Any:
        """Read a file into memory that Arrow has had before: new pages take longer than reading."""
        import pyarrow as pa

        try:
            with self.artifacts.open(path) as opened:
                file: Any = opened
                buffer = pa.allocate_buffer(file.seek(0, os.SEEK_END))
                file.seek(0)
                return buffer.slice(0, file.readinto(buffer))
        except OSError:
            return self.artifacts.read_path(path)  # which waits, or says what is wrong

    def _from_file(self, trial: FrozenTrial, content: bytes) -> Any:
        table, metadata = open_arrow(content)
        if metadata.get("key") != self.key:
            raise ArchiveError(
                f"The file of the series {self.key!r} of trial {trial.number} holds another one: "
                f"{metadata.get('key')!r}."
            )
        return table.replace_schema_metadata(None)

    def _with_axes(
        self, trials: Sequence[FrozenTrial], parts: list[Any], spec: SeriesSpec
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

    def _from_result(self, trial: FrozenTrial, content: bytes) -> Any:
        """Return the part of a trial's result that the series names, along the problem's axes."""
        axes = self.axes_of(trial)
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
        values = {name: as_column(name, array) for name, array in series.items()}
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


def _may_be_packed(reference: Any) -> bool:
    """Tell whether the file of a series is small enough for a pack, as far as is known."""
    size = reference.get("bytes") if isinstance(reference, Mapping) else None
    return not (isinstance(size, int) and size > LARGE)


def _filled(number: int, length: int) -> Any:
    """Return an Arrow array of one number, likewise in memory that Arrow has had before."""
    import pyarrow as pa

    buffer = pa.allocate_buffer(8 * length)
    np.frombuffer(buffer, np.int64)[:] = number
    return pa.Array.from_buffers(pa.int64(), length, [None, buffer])


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


def _series_of(reference: Any) -> Mapping[str, Any]:
    series = reference.get("series") if isinstance(reference, Mapping) else None
    return series if isinstance(series, Mapping) else {}


def _is_file(reference: Any) -> bool:
    """Tell whether a reference has what that of a file has; a damaged one may not."""
    return isinstance(reference, Mapping) and all(
        isinstance(reference.get(name), str) for name in ("path", "sha256")
    )


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
