"""The axes and the time series of a study, for writing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from optuna import Study, Trial

from prefect_optuna.blocks import ArtifactFileSystem, InvalidSettingError
from prefect_optuna.blocks.study_identity import claim_folder, study_uuid
from prefect_optuna.errors import SeriesError, StudyMismatchError, UnknownNameError
from prefect_optuna.tasks.archive.record.signing import SigningKeys
from prefect_optuna.tasks.archive.series.axes import KEY_AXIS, Axis, as_axis, axis_names, read_axis
from prefect_optuna.tasks.archive.series.blobs import beside_path, write_blobs
from prefect_optuna.tasks.archive.series.timeseries import (
    KEY_TIMESERIES,
    SeriesSpec,
    TrialSeries,
    make_series,
    series_path,
)


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
        digest = hashlib.sha256(content).hexdigest()
        path = series_path(self._claimed().rpartition("/")[2], key, number)
        created = self._artifacts.create(path, content)
        if not created and self._artifacts.sha256(path) != digest:
            # Another attempt of this trial, or a copy of the study that went its own way.
            path = beside_path(path, digest)
            created = self._artifacts.create(path, content)
        place = {"path": path, "sha256": digest, "bytes": len(content)}
        return series.reference(place), path if created else ""

    def _check_trial(self, trial: Trial) -> None:
        if not isinstance(trial, Trial):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SeriesError(
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
        raise SeriesError(
            f"{whose} has the axis {axis.name!r} already, with {known.summary()}; found "
            f"{axis.summary()}. Series of its trials lie along the first one: take another name, "
            "or give coordinates of a trial's own by axis_values={...}."
        )
