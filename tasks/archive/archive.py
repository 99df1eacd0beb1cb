"""`OptunaArchive`: writes what a study needs to come back to life."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import BaseTrial, TrialState
from pydantic import SecretStr

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InvalidSettingError,
    as_artifact_filesystem,
)
from prefect_optuna.blocks.study_storage import claim_folder, storage_identity, study_uuid
from prefect_optuna.errors import StudyMismatchError
from prefect_optuna.tasks.archive.code.capture import (
    ArchiveReport,
    Capture,
    EntryPoint,
    Registered,
    Registration,
    encode_scope,
    listing,
)
from prefect_optuna.tasks.archive.record.environment import Environment, is_built
from prefect_optuna.tasks.archive.record.manifest import (
    BACKUP_CONTEXT,
    KEY_ENTRYPOINT,
    Manifest,
    SigningKeys,
    Version,
    checked_key,
    plain_json,
    read_manifest,
    write_version,
)
from prefect_optuna.tasks.archive.record.trial_records import VERSION, TrialSigner
from prefect_optuna.tasks.archive.record.verification import sign_study
from prefect_optuna.tasks.archive.series.blobs import blob_path, read_blob, write_blobs
from prefect_optuna.tasks.archive.series.results import ResultWriter
from prefect_optuna.tasks.archive.series.timeseries import (
    KEY_AXIS,
    KEY_TIMESERIES,
    Axis,
    StudySeries,
    archived_axes,
    as_axis,
    check_same,
    read_axis,
)
from prefect_optuna.tasks.problem import Problem

# Saving a version: a captured problem, and what it runs in, from one trial of a study on.


def save_version(
    study: Study,
    artifacts: ArtifactFileSystem,
    capture: Capture,
    *,
    scope: Mapping[str, Any],
    seed: int | None,
    trials_seed: int | None,
    keys: SigningKeys | None,
) -> tuple[Manifest, Version, tuple[str, ...]]:
    """Archive a captured problem, unless the study's last version is the same."""
    for name, values in capture.axes.items():
        if (axis := read_axis(study, artifacts, name)) is not None:
            own = as_axis(name, values, axis.unit)
            check_same(axis, own, f"The study {study.study_name!r}")
    environment = Environment.capture(
        capture.folder,
        seed=seed,
        trials_seed=trials_seed,
        sampler=study.sampler,
        pruner=study.pruner,
    )
    if (origin := capture.origin) is not None:
        # The code is of there, and it runs here.
        sources = {"script": origin.script, "script_source": origin.script_source}
        environment = replace(environment, git=origin.git, files={}, notes=(), **sources)
        if is_built():
            # From that one, with what this package needs beside; who builds it again adds it, too.
            known = {*origin.distributions, "prefect-optuna"}
            there = {n: v for n, v in environment.distributions.items() if n in known}
            environment = replace(environment, distributions=there)
    encoded_scope = encode_scope(scope)
    manifest, last = _last_version(study)
    if manifest and last and not artifacts.exists(blob_path(last.code_version)):
        raise ArchiveError(
            f"The archive of the study {study.study_name!r} was written to {manifest.artifacts}, "
            f"and is not in {artifacts.location()}. Name the artifacts that it was written to: "
            "artifacts=... Or take another study name."
        )
    folder = claim_folder(study, artifacts)
    described = json.dumps(environment.to_json(), indent=1, sort_keys=True).encode("ascii")
    blobs = [*capture.blobs.values(), *environment.files.values(), capture.content, described]
    write_blobs(artifacts, folder, blobs)
    # Another run of the study may have archived the same while this one wrote.
    manifest, last = _last_version(study)
    version = Version(
        first_trial=len(study.get_trials(deepcopy=False)),
        code_version=capture.code_version,
        environment=hashlib.sha256(described).hexdigest(),
        scope=encoded_scope,
    )
    if last is not None and not _differ(artifacts, last, version, environment):
        version = last
    if manifest is None or version is not last or (keys is not None and version.signature is None):
        manifest = write_version(
            study, version, uuid=study_uuid(study), artifacts=artifacts.location(), keys=keys
        )
    if last is not None and version is not last:
        _name_queued(study, version)
    if (claimed := claim_folder(study, artifacts)) != folder:
        # Another process has given the study its UUID at the same moment.
        write_blobs(artifacts, claimed, blobs)
    return manifest, version, environment.notes


def _last_version(study: Study) -> tuple[Manifest | None, Version | None]:
    manifest = read_manifest(study)
    return manifest, manifest.versions[-1] if manifest and manifest.versions else None


def _name_queued(study: Study, version: Version) -> None:
    """Have the trials in the queue name the new version: by their numbers, they were older.

    Who takes one says again what he runs it with; in a loop of one's own, nobody does.
    """
    storage = study._storage  # pyright: ignore[reportPrivateUsage]
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        with contextlib.suppress(UpdateFinishedTrialError):
            trial_id = trial._trial_id  # pyright: ignore[reportPrivateUsage]
            storage.set_trial_system_attr(trial_id, VERSION, version.id)


_MOST_CHANGES = 5  # that are told one by one


def changes(manifest: Manifest) -> list[str]:
    """List what changed from each version to the next, for people who compare trials."""
    texts: list[str] = []
    for before, after in zip(manifest.versions, manifest.versions[1:], strict=False):
        changed = [
            what
            for what, name in (
                ("problem's code or context", "code_version"),
                ("environment", "environment"),
                ("scope", "scope"),
            )
            if getattr(before, name) != getattr(after, name)
        ]
        if changed:  # else two runs that began at the same instant have archived the same
            words = " and the ".join(changed)
            texts.append(f"The {words} changed before trial {after.first_trial}.")
    if (more := len(texts) - _MOST_CHANGES) > 1:
        texts[_MOST_CHANGES:] = [
            f"There are {more} more changes, the last one before trial "
            f"{manifest.versions[-1].first_trial}: as where two kinds of machines share a study. "
            "Each trial names the version that ran it."
        ]
    return texts


def _differ(
    artifacts: ArtifactFileSystem, last: Version, new: Version, environment: Environment
) -> bool:
    if (last.code_version, last.scope) != (new.code_version, new.scope):
        return True
    if last.environment == new.environment:
        return False
    content = read_blob(artifacts, last.environment, "the environment")
    before = Environment.from_json(json.loads(content))
    # The script that was started matters to people, and to no result.
    return bool(before.diff(environment).keys() - {"script", "script_source"})


class OptunaArchive:
    """The archive of a study, for writing; `ArchivedStudy` reads it.

    The study's user attribute `backupContext` is the manifest. Everything else is files on the
    artifact filesystem: code, values and environments as blobs named after their content, which
    studies of one code share, and one Arrow file for what `run` returned in each trial.

    `optimize` does all of this by itself. For a loop of your own there are `register`, which
    records what a block of your script defines, the entry points among that, axes and time
    series. What is given before there is a study is kept until `set_study`. Threads may share an
    archive; processes make one each, on the same study.

    Args:
        study: the study; may be given later, by `set_study`.
        artifacts: where the files go: a block, `"slug/name"`, a path or an fsspec URL; by
            default where `optimize` puts them.
        signing_key: signs what is written, in place of the key of the settings.
        allow_pickle: whether objects that cannot be written down exactly may be pickled.

    Example:
        >>> import optuna
        >>> from prefect_optuna.flows.examples.lynx_hare import problem
        >>> from prefect_optuna.tasks import OptunaArchive
        >>> archive = OptunaArchive(optuna.create_study(), artifacts="memory://docs-archive")
        >>> archive.save_problem(problem) == archive.code_version
        True

        In a loop of your own:

        >>> archive = OptunaArchive(optuna.create_study(), artifacts="memory://docs-archive")
        >>> with archive.register():
        ...     rate = 0.5
        ...     def suggest(trial):
        ...         return {"x": trial.suggest_float("x", 0, 1)}
        ...     def simulate(params):
        ...         return rate * params["x"]
        ...     def misfit(result):
        ...         return abs(result - 0.25)
        >>> archive.set_suggest_entrypoint("suggest")
        >>> archive.set_run_entrypoint("simulate")
        >>> archive.set_eval_entrypoint("misfit")
        >>> archive.check_minimal().context
        ('rate', 'suggest', 'simulate', 'misfit')
    """

    KEY_BACKUP_CONTEXT: ClassVar[str] = BACKUP_CONTEXT
    KEY_ENTRYPOINT: ClassVar[str] = KEY_ENTRYPOINT
    KEY_AXIS: ClassVar[str] = KEY_AXIS
    KEY_TIMESERIES: ClassVar[str] = KEY_TIMESERIES

    def __init__(
        self,
        study: Study | None = None,
        *,
        artifacts: ArtifactFileSystem | str | Path | None = None,
        signing_key: SecretStr | None = None,
        allow_pickle: bool = False,
    ) -> None:
        self.study = study
        self.allow_pickle: bool = allow_pickle
        self._keys = SigningKeys.configured(signing_key)
        self.artifacts: ArtifactFileSystem = as_artifact_filesystem(artifacts)
        self._manifest: Manifest | None = None
        self._axes: Mapping[str, Any] = {}
        self._version = ""
        self._left_out: tuple[str, ...] = ()
        self._registered = Registered()
        self._is_saved = True
        self._own_axes: dict[str, Axis] = {}
        self._study_data: dict[str, Any] = {}
        self._series: StudySeries | None = None
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    @property
    def location(self) -> str:
        """The place of the files, for people."""
        return self.artifacts.location()

    @property
    def manifest(self) -> Manifest | None:
        """The study's record of its archive; `None` before anything has been saved."""
        if self._manifest is None:
            self._manifest = read_manifest(self._the_study())
        return self._manifest

    @property
    def code_version(self) -> str | None:
        """Digest of the code, context and axes that were saved last; `None` before that."""
        manifest = self.manifest
        return manifest.versions[-1].code_version if manifest and manifest.versions else None

    @property
    def version_words(self) -> str:
        """The version that was saved last, and the digest of its code; empty before that."""
        manifest = self.manifest
        for place, version in enumerate(manifest.versions if manifest else ()):
            if version.id == self._version:
                return f"{place}, code {version.code_version[:12]}"
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings: where the study's code changed, and what is not archived."""
        changed = changes(self.manifest) if self.manifest else ()
        return (*changed, *self._left_out)

    # -- what is registered -----------------------------------------------------------------

    @property
    def context(self) -> Mapping[str, Any]:
        """All that is registered, by name: what a function gets that names a parameter `ctx`."""
        return MappingProxyType(self._registered.context)

    @property
    def problem(self) -> Problem:
        """The registered functions as a problem, the same that is archived.

        Raises:
            ArchiveError: an entry point is missing; says which.
        """
        directions = [d.name.lower() for d in self.study.directions] if self.study else ["minimize"]
        axes = {name: axis.values for name, axis in self._own_axes.items()}
        return self._registered.problem(axes=axes, directions=directions)  # pyright: ignore[reportArgumentType]

    def register(self) -> Registration:
        """Register what a `with` block defines: functions, classes, modules, data.

        Every name counts that is new in the scope around the block, or bound to another object,
        unless it starts with `_`. Code of your own is archived as source, with all that it refers
        to; what is installed, as an import. If the block raises, nothing is registered.

        Returns:
            To be used in a `with` statement. Its `names` say afterwards what was registered.

        Raises:
            CaptureError: at the end of the block, if something cannot be archived; lists
                everything, and says for each what to do.

        Example:
            >>> from prefect_optuna.tasks import OptunaArchive
            >>> archive = OptunaArchive(artifacts="memory://docs-register")
            >>> with archive.register() as registered:
            ...     rate, _draft = 0.5, None
            >>> registered.names
            ('rate',)
        """
        frame = inspect.currentframe()
        assert frame is not None  # noqa: S101 - Python has frames
        assert frame.f_back is not None  # noqa: S101 - this has a caller
        own = frame.f_back.f_globals
        return Registration(frame.f_back, lambda values: self._add_names(values, own))

    def context_add(self, name: str, value: Any) -> None:
        """Register one value, in place of what the name was before.

        Args:
            name: one that a variable can have.
            value: numbers, text, arrays, tables, functions, classes, objects made of those.

        Raises:
            InvalidSettingError: no variable can have that name.
            CaptureError: the value cannot be archived; says what to do.
        """
        self.context_add_many({name: value})

    def context_add_many(self, mapping: Mapping[str, Any]) -> None:
        """Register several values, all or none of them.

        Args:
            mapping: the values by name.

        Raises:
            InvalidSettingError: no variable can have one of the names.
            CaptureError: a value cannot be archived; says what to do.
        """
        self._add_names(mapping)

    def set_suggest_entrypoint(self, name: str) -> None:
        """Say which registered function suggests: `suggest(trial)` returns the parameters.

        Args:
            name: what it is registered as.

        Raises:
            UnknownNameError: nothing is registered as that.
            CaptureError: it is no function with source of yours, or it cannot be archived.
            InvalidProblemError: it asks for arguments that it cannot have.
        """
        self._set_entrypoint("suggest", name)

    def set_run_entrypoint(self, name: str) -> None:
        """Say which registered function simulates: `run(params)` or `run(params, ctx)`.

        Args:
            name: what it is registered as.

        Raises:
            UnknownNameError, CaptureError, InvalidProblemError: as `set_suggest_entrypoint` does.
        """
        self._set_entrypoint("run", name)

    def set_eval_entrypoint(self, name: str) -> None:
        """Say which registered function evaluates: `eval(result)` or `eval(result, trial)`.

        It returns the value, or one for each direction. Where no `run` is registered, it gets the
        parameters.

        Args:
            name: what it is registered as.

        Raises:
            UnknownNameError, CaptureError, InvalidProblemError: as `set_suggest_entrypoint` does.
        """
        self._set_entrypoint("eval", name)

    def check_minimal(self, require_run_function: bool = True) -> ArchiveReport:
        """Make sure that the study can be run again, and that all of it is archived.

        Args:
            require_run_function: whether a `run` entry point has to be there.

        Returns:
            What is archived.

        Raises:
            ArchiveError: lists everything that is missing: the study, a context,
                entry points.
            CaptureError: something cannot be archived; lists everything.
        """
        with self._lock:
            missing = self._registered.missing(run=require_run_function)
            if self.study is None:
                missing.insert(0, "a study: OptunaArchive(study) or archive.set_study(study)")
            if missing:
                title = "The study could not be run again from its archive. It needs"
                raise ArchiveError(listing(title, missing))
            self._save()
            names = self._registered.entrypoints
            return ArchiveReport(
                study_name=self._the_study().study_name,
                suggest=names["suggest"],
                run=names.get("run"),
                evaluate=names["eval"],
                context=tuple(self.context),
                axes=tuple(self._own_axes),
                code_version=self.code_version or "",
            )

    def set_study(self, study: Study, *, rebind: bool = False) -> None:
        """Say which study this is the archive of, and write what has been waiting for one.

        Args:
            study: the study.
            rebind: whether it may be another one than before, which keeps what it has.

        Raises:
            StudyMismatchError: the archive has another study already.
            CaptureError: something cannot be archived; the archive has the study it had before.
        """
        with self._lock:
            before = self.study
            if before is not None and not rebind and not _is_same(before, study):
                raise StudyMismatchError(
                    f"This is the archive of the study {before.study_name!r}, and "
                    f"{study.study_name!r} is another one. Make another OptunaArchive, or say "
                    "set_study(study, rebind=True)."
                )
            if before is not None and _is_same(before, study):
                return
            self._bind(study)
            try:
                self._write_waiting()
            except BaseException:
                self._bind(before)
                raise

    # -- data, axes and series --------------------------------------------------------------

    def study_add_data(self, key: str, value: Any) -> None:
        """Keep a value with the study, as its user attribute.

        Args:
            key: the name of the attribute.
            value: numbers, text, dates, small arrays, lists and mappings of those. It is kept as
                plain JSON: an array as a list.

        Raises:
            InvalidSettingError: the archive needs the name for itself.
            CaptureError: the value is no such thing, or too large for an attribute.
        """
        data = plain_json(key, value)
        with self._lock:
            if self.study is not None:
                self.study.set_user_attr(checked_key(key, "study"), data)
            self._study_data[checked_key(key, "study")] = data

    def study_add_axis(self, name: str, values: Any, unit: str = "") -> None:
        """Give the study an axis: coordinates that series of its trials lie along.

        An axis of a `Problem` is one, too, and need not be added.

        Args:
            name: what it is called, for instance `"year"`.
            values: numbers, text or times in one dimension, all finite.
            unit: of the values, for people.

        Raises:
            ArchiveError: these are no coordinates, or the study has others by that name.
            InvalidSettingError: it cannot have that name.
        """
        if not isinstance(name, str) or not name or name == "trial":  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidSettingError(
                f"The name of an axis is a word other than 'trial', which is the first column of "
                f"a table across trials; found {name!r}."
            )
        axis = as_axis(name, values, unit)
        with self._lock:
            if self.study is None:
                check_same(self._own_axes.get(name, axis), axis, "This archive")
            else:
                self._the_series().add_axis(axis)
            self._own_axes.setdefault(name, axis)

    @staticmethod
    def trial_add_data(trial: BaseTrial, key: str, value: Any) -> None:
        """Keep a value with a trial, as its user attribute.

        Args:
            trial: the trial, which is running.
            key: the name of the attribute.
            value: numbers, text, dates, small arrays, lists and mappings of those. It is kept as
                plain JSON: an array as a list.

        Raises:
            InvalidSettingError: the archive needs the name for itself.
            CaptureError: the value is no such thing, or too large for an attribute.

        Example:
            >>> import optuna
            >>> from prefect_optuna.tasks import OptunaArchive
            >>> trial = optuna.create_study().ask()
            >>> OptunaArchive.trial_add_data(trial, "span", (1900, 1920))
            >>> trial.user_attrs
            {'span': [1900, 1920]}
        """
        trial.set_user_attr(checked_key(key, "trial"), plain_json(key, value))

    def trial_add_timeseries(
        self,
        trial: Trial,
        key: str,
        values: Any,
        axes: Sequence[str] | str,
        columns: Sequence[str] | None = None,
        value_col: str = "value",
        layout: str = "aligned",
        *,
        axis_values: Mapping[str, Any] | None = None,
        units: Mapping[str, str] | None = None,
        allow_partial: bool = False,
    ) -> None:
        """Keep a time series of a trial: one Arrow file, and a reference in the trial's attributes.

        `ArchivedStudy.timeseries(key)` reads it, for many trials at once. The first trial decides
        on axes, columns, layout, type and units of a key.

        Args:
            trial: the trial, which is running.
            key: what the series is called.
            values: numbers, NaN allowed: one for each row, or `(rows, columns)`. A series on a
                grid may have the grid's dimensions.
            axes: the names of the axes.
            columns: the names of several columns.
            value_col: the name of a single one.
            layout: `"aligned"`, a row for each index of the axes, which have one length; or
                `"product"`, a row for each point of their grid, the last axis fastest.
            axis_values: coordinates of this trial's own, by axis, in place of the study's.
            units: of the values, by column.
            allow_partial: whether the series may end before its axes do, as that of a pruned
                trial does.

        Raises:
            ArchiveError: something does not fit: lengths, columns, or the series of other trials;
                or the trial's own coordinates are none.
            UnknownNameError: the study has no such axis.
            StorageUnavailableError: the artifact filesystem failed.

        Example:
            >>> import optuna
            >>> from prefect_optuna.tasks import OptunaArchive
            >>> study = optuna.create_study()
            >>> archive = OptunaArchive(study, artifacts="memory://docs-series")
            >>> archive.study_add_axis("t", [0.0, 0.5, 1.0], unit="s")
            >>> trial = study.ask()
            >>> archive.trial_add_timeseries(trial, "loss", [3.0, 2.0, 1.5], axes=["t"])
            >>> trial.user_attrs["timeseries:loss"]["rows"]
            3
        """
        self._the_series().add(
            trial,
            key,
            values,
            axes,
            columns=columns,
            value_col=value_col,
            layout=layout,
            axis_values=axis_values or {},
            units=units,
            allow_partial=allow_partial,
        )

    # -- saving -----------------------------------------------------------------------------

    def save_problem(
        self,
        problem: Problem | Capture,
        *,
        scope: Mapping[str, Any] | None = None,
        seed: int | None = None,
        trials_seed: int | None = None,
    ) -> str:
        """Archive a problem: code, context, axes and the environment. Idempotent.

        A study may go on with other code. Each state is kept, with the number of the first trial
        that it holds for.

        Args:
            problem: the problem, or what `Capture.of` made of it.
            scope: the scope of the flow that runs it.
            seed: of the sampler, where it is known.
            trials_seed: what the seeds of the trials come from, as whoever runs them takes care.
                Trials in a loop of your own keep theirs by `seeded`.

        Returns:
            The digest of what was saved, its `code_version`.

        Raises:
            CaptureError: something cannot be archived, or is secret; lists everything.
            StorageUnavailableError: the artifact filesystem or the storage failed.
        """
        study = self._the_study()
        if not isinstance(problem, Capture):
            problem = Capture.of(problem, allow_pickle=self.allow_pickle)
        self._manifest, version, self._left_out = save_version(
            study,
            self.artifacts,
            problem,
            scope=scope or {},
            seed=seed,
            trials_seed=trials_seed,
            keys=self._keys,
        )
        self._version, self._axes, self._series = version.id, problem.axes, None
        return version.code_version

    def writer(self) -> ResultWriter:
        """Return what workers archive results with: small, picklable, and no way to the database.

        Raises:
            ArchiveError: no problem has been saved yet.
        """
        manifest = self.manifest
        if manifest is None:
            raise ArchiveError(
                f"The study {self._the_study().study_name!r} has no archive yet: call "
                "save_problem(problem) before writer()."
            )
        own: dict[str, Any] = {name: axis.values for name, axis in self._own_axes.items()}
        axes = {**self._axes, **own}
        return ResultWriter(self.artifacts, manifest.uuid, axes, self._version)

    def signer(self, version: str | None = None) -> TrialSigner | None:
        """Return the signer of a version's trials; `None` without a key.

        Each call makes the signer of another run, with a list of its own.

        Args:
            version: the id of the version; by default the one that was saved last.
        """
        manifest, version = self.manifest, version or self._version
        if self._keys is None or manifest is None or not version:
            return None
        return TrialSigner(self._keys, self._the_study(), manifest, version)

    def sign(self) -> None:
        """Sign what has not been signed: what was archived without the key, and ended trials.

        `optimize` signs by itself what it archives; this is for a loop of your own, and for an
        archive that was written without a key. Look at it first: a signature says that it may run.

        Raises:
            ArchiveError: there is no key or no archive, or something is signed, and its signature
                does not hold.
        """
        manifest = self.manifest
        if self._keys is None or manifest is None:
            raise ArchiveError(
                f"The study {self._the_study().study_name!r} has no archive to sign."
                if manifest is None
                else "There is no key to sign with: set PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY, "
                "or pass signing_key=..."
            )
        sign_study(self._the_study(), read_manifest(self._the_study()) or manifest, self._keys)
        self._manifest = None  # it is another one now

    def save_picture(self, png: bytes) -> str:
        """Keep a picture of the study's best trial, in place of the one before.

        Args:
            png: the picture, as PNG.

        Returns:
            Where it is, for people.
        """
        manifest = self.manifest
        folder = manifest.uuid if manifest else "pictures"
        path = f"studies/{folder}/best.png"
        self.artifacts.write_path(path, png)
        return self.artifacts.location(path)

    # -- what the methods above are made of ---------------------------------------------------

    def _add_names(self, values: Mapping[str, Any], *own: dict[str, Any]) -> None:
        with self._lock:
            registered = self._registered
            self._change(registered.with_names(values, own=own, allow_pickle=self.allow_pickle))

    def _set_entrypoint(self, part: EntryPoint, name: str) -> None:
        with self._lock:
            self._change(self._registered.with_entrypoint(part, name))

    def _change(self, registered: Registered) -> None:
        """Take over what is registered now; archive it as soon as it is a problem."""
        before = self._registered, self._is_saved
        self._registered, self._is_saved = registered, False
        if self.study is not None and registered.is_complete:
            try:
                self._save()
            except BaseException:
                self._registered, self._is_saved = before
                raise

    def _save(self) -> None:
        if not self._is_saved:
            self.save_problem(self.problem)
            self._is_saved = True

    def _bind(self, study: Study | None) -> None:
        self.study = study
        self._manifest, self._version, self._axes, self._series = None, "", {}, None
        self._left_out = ()
        self._is_saved = False

    def _write_waiting(self) -> None:
        capture = None
        if self._registered.is_complete:
            # First, because it may fail, and nothing has been written then.
            capture = Capture.of(self.problem, allow_pickle=self.allow_pickle)
        for axis in self._own_axes.values():
            self._the_series().add_axis(axis)
        if capture is not None:
            self.save_problem(capture)
            self._is_saved = True
        for key, data in self._study_data.items():
            self._the_study().set_user_attr(key, data)

    def _the_series(self) -> StudySeries:
        series = self._series
        if series is None:
            study = self._the_study()
            series = StudySeries(
                study, self.artifacts, self._keys, self._axes_of_the_problem, self._version
            )
            self._series = series
        return series

    def _axes_of_the_problem(self) -> Mapping[str, Axis]:
        manifest = self.manifest
        if self._version or manifest is None or not manifest.versions:
            return {name: as_axis(name, values) for name, values in self._axes.items()}
        # Another process has saved the problem.
        return archived_axes(self.artifacts, manifest.versions[-1].code_version)

    def _the_study(self) -> Study:
        if self.study is None:
            raise ArchiveError("This archive has no study: OptunaArchive(study, artifacts=...).")
        return self.study


def _is_same(one: Study, other: Study) -> bool:
    """Tell whether two objects stand for one study."""
    storages = one._storage, other._storage  # pyright: ignore[reportPrivateUsage]
    identities = list(map(storage_identity, storages))
    shared = storages[0] is storages[1] or (identities[0] and identities[0] == identities[1])
    return bool(shared) and one.study_name == other.study_name
