"""`ArchivedStudy`: reads and verifies an archive, and brings its code to life when told to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, wraps
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from optuna import Study
from optuna.trial import FrozenTrial
from pydantic import SecretStr

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    PrefectOptunaError,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks.texts import card, visible_line
from prefect_optuna.errors import (
    AlreadyExistsError,
    ArchiveSignatureError,
    UntrustedArchiveError,
)
from prefect_optuna.tasks.archive.carrying.portable import (
    pack,
    read_parcel,
    refuse_claimed,
    unpacked,
    write_parcel,
)
from prefect_optuna.tasks.archive.code.capture import Capture, document_of
from prefect_optuna.tasks.archive.code.restore import (
    acts_of,
    as_python,
    restore_problem,
    restore_value,
    source_text,
)
from prefect_optuna.tasks.archive.record.environment import Environment, requirements_text
from prefect_optuna.tasks.archive.record.manifest import (
    RESULT_KEY,
    Manifest,
    SigningKeys,
    Version,
    read_manifest,
)
from prefect_optuna.tasks.archive.record.trial_records import TableKind, trial_table
from prefect_optuna.tasks.archive.record.verification import (
    SignatureCheck,
    check_signatures,
    late_trials,
    read_history,
    record,
    version_of,
)
from prefect_optuna.tasks.archive.series.blobs import LARGE, compact, file_references, read_blob
from prefect_optuna.tasks.archive.series.results import encode_result, read_result, write_arrow
from prefect_optuna.tasks.archive.series.series_table import (
    SeriesKind,
    SeriesReader,
    as_kind,
    series_keys,
)
from prefect_optuna.tasks.archive.series.timeseries import (
    KEY_TIMESERIES,
    Axis,
    axis_names,
    problem_axes,
    read_axis,
    series_path,
)
from prefect_optuna.tasks.persistence.container import from_dict
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.reevaluation.verdicts import Selection, select_trials

if TYPE_CHECKING:
    from prefect_optuna.tasks.inputs import InputFile
    from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _explained(look: Callable[_P, _R]) -> Callable[_P, _R]:
    """Say of an archive that it is damaged, where reading it fails as nothing of it should."""

    @wraps(look)
    def explained(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return look(*args, **kwargs)
        except PrefectOptunaError:
            raise
        except _MALFORMED as error:
            raise ArchiveError(
                f"The archive is damaged, or somebody has changed it ({type(error).__name__}: "
                f"{error}). Bring the study's attributes and the files of its archive back from a "
                "copy."
            ) from error

    return explained


# What one gets of JSON in which something else is where something was expected.
_MALFORMED = (
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    ArithmeticError,
    RecursionError,
    MemoryError,
    SyntaxError,
    TokenError,
)


class ArchivedStudy:
    """A study with its archive. Loading verifies everything and executes nothing.

    Use `ArchivedStudy.load`.

    Attributes:
        study: the Optuna study.
        manifest: what the study says of its archive.
        signatures: who signed it, and whether that holds.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks import InMemoryStudyStorage
        >>> from prefect_optuna.flows.examples.lynx_hare import problem
        >>> from prefect_optuna.tasks import ArchivedStudy, OptunaArchive
        >>> storage = InMemoryStudyStorage(name="docs-archived")
        >>> study = storage.create_study("lynx-hare", load_if_exists=True)
        >>> _ = OptunaArchive(study, artifacts="memory://docs-archived").save_problem(problem)
        >>> archived = ArchivedStudy.load(
        ...     "lynx-hare", storage=storage, artifacts="memory://docs-archived"
        ... )
        >>> archived.problem(trusted=True).name
        'simulate'
    """

    def __init__(
        self,
        study: Study,
        artifacts: ArtifactFileSystem,
        manifest: Manifest,
        captures: dict[str, Capture],
        environments: dict[str, Environment],
        keys: SigningKeys | None = None,
    ) -> None:
        self.study = study
        self.manifest = manifest
        self._keys = keys
        self.signatures: SignatureCheck = check_signatures(study, manifest, keys)
        self._artifacts = artifacts
        self._captures = captures
        self._axes: dict[str, dict[str, Axis]] = {}
        self._axes_of_versions: dict[int, dict[str, Axis]] = {}
        self._environments = environments

    @classmethod
    @_explained
    def load(
        cls,
        study_name: str,
        *,
        storage: StudyStorage | str | Path | None = None,
        artifacts: ArtifactFileSystem | str | Path | None = None,
        signing_key: SecretStr | None = None,
    ) -> ArchivedStudy:
        """Load a study and its archive, and verify every signature and the digest of every blob.

        The results of trials are verified when they are read.

        Args:
            study_name: the study.
            storage: where the study is; what `optimize` takes, with its default.
            artifacts: where the archive is; what `optimize` takes, with its default.
            signing_key: what to check the signatures with, in place of the key of the settings.

        Raises:
            StudyNotFoundError: the storage has no such study.
            ArchiveError: the study has no archive, or a part of it is missing or damaged.
        """
        study = as_study_storage(storage).load_study(study_name)
        return cls.of(study, artifacts=artifacts, signing_key=signing_key)

    @classmethod
    @_explained
    def of(
        cls,
        study: Study,
        *,
        artifacts: ArtifactFileSystem | str | Path | None = None,
        signing_key: SecretStr | None = None,
    ) -> ArchivedStudy:
        """The archive of a study that is at hand, as `load` gives it."""
        filesystem = as_artifact_filesystem(artifacts)
        manifest = read_manifest(study)
        if manifest is None or not manifest.versions:
            raise ArchiveError(
                f"The study {study.study_name!r} has no archive. `optimize` makes one; in a loop "
                "of your own, call OptunaArchive(study).save_problem(problem) before the first "
                "trial."
            )
        captures: dict[str, Capture] = {}
        environments: dict[str, Environment] = {}
        for number, version in enumerate(manifest.versions):
            if version.code_version not in captures:
                captures[version.code_version] = _read_capture(filesystem, version, number)
            if version.environment not in environments:
                content = read_blob(
                    filesystem, version.environment, f"the environment of version {number}"
                )
                environments[version.environment] = Environment.from_json(json.loads(content))
        keys = SigningKeys.configured(signing_key)
        return cls(study, filesystem, manifest, captures, environments, keys)

    @classmethod
    def import_(
        cls,
        path: str | Path,
        *,
        storage: StudyStorage | str | Path | None = None,
        artifacts: ArtifactFileSystem | str | Path | None = None,
        study_name: str | None = None,
        signing_key: SecretStr | None = None,
    ) -> ArchivedStudy:
        """Bring a study with its archive in from a file that `export` has written.

        The file may come from anybody: nothing of it is executed, all of it is looked through
        before anything is written, and either all of the study is there afterwards, or nothing.
        It takes only the files that an archive has, and no state that a sampler would unpickle.

        Args:
            path: the file.
            storage: where the study goes; what `optimize` takes, with its default.
            artifacts: where its archive goes; what `optimize` takes, with its default.
            study_name: its name there; by default the one that it had.
            signing_key: what to check the signatures with, in place of the key of the settings.

        Returns:
            The study, as `load` returns it.

        Raises:
            StudyMismatchError: there is a study of that name.
            ArchiveError: the file is missing, cut short, damaged, or none of this kind.
            StorageUnavailableError: the storage or the filesystem failed.
        """
        SigningKeys.configured(signing_key)  # a key that is none, before anything is written
        block, filesystem = as_study_storage(storage), as_artifact_filesystem(artifacts)
        with read_parcel(Path(path)) as parcel:
            name = study_name or parcel.name
            refuse_claimed(parcel, block, filesystem, name)
            with unpacked(parcel, block, filesystem, name):
                return cls.load(name, storage=block, artifacts=filesystem, signing_key=signing_key)

    def export(self, path: str | Path) -> Path:
        """Write the study with its archive to one file, which `import_` reads anywhere.

        It holds all trials with their states, values, parameters, distributions, attributes,
        intermediate values and times, and all files: code, values, results, what was logged. It
        is a ZIP file, whose layout is described in the README of this package.

        Args:
            path: the file, which is replaced if it is there.

        Returns:
            The path.

        Raises:
            ArchiveError: a file of the archive is missing or damaged, or nothing can be written
                there. Nothing is left then.

        Example:
            >>> import optuna
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> from prefect_optuna.flows.examples.lynx_hare import problem
            >>> from prefect_optuna.tasks import ArchivedStudy, OptunaArchive
            >>> storage = InMemoryStudyStorage(name="docs-export")
            >>> study = storage.create_study("lynx-hare", load_if_exists=True)
            >>> _ = OptunaArchive(study, artifacts="memory://docs-export").save_problem(problem)
            >>> archived = ArchivedStudy.load(
            ...     "lynx-hare", storage=storage, artifacts="memory://docs-export"
            ... )
            >>> file = archived.export("lynx-hare.study.zip")
            >>> imported = ArchivedStudy.import_(
            ...     file, storage="memory://docs-imported", artifacts="memory://docs-imported"
            ... )
            >>> imported.versions == archived.versions
            True
        """
        target = Path(path)
        write_parcel(pack(self.study, self._artifacts), target)
        return target

    @_explained
    def requirements(self, version: int | None = None, *, only_needed: bool = False) -> str:
        """List what was installed where the study ran, for `pip install -r`.

        Args:
            version: which of `versions`; by default the last one.
            only_needed: only what the archived code imports, and this project; pip then chooses
                the versions of what those need.

        Returns:
            A line for each distribution, with its version. What was installed from a folder is a
            comment.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> from prefect_optuna.flows.examples.lynx_hare import problem
            >>> from prefect_optuna.tasks import ArchivedStudy, OptunaArchive
            >>> storage = InMemoryStudyStorage(name="docs-needs")
            >>> study = storage.create_study("lynx-hare", load_if_exists=True)
            >>> _ = OptunaArchive(study, artifacts="memory://docs-needs").save_problem(problem)
            >>> archived = ArchivedStudy.load(
            ...     "lynx-hare", storage=storage, artifacts="memory://docs-needs"
            ... )
            >>> "optuna==" in archived.requirements()
            True
        """
        only = None
        if only_needed:
            only = {"prefect-optuna", *self.capture(version).document["distributions"].values()}
        return requirements_text(self._environments[self._version(version).environment], only)

    @_explained
    def git_diff(self, version: int | None = None) -> str:
        """The changes to tracked files that git had not committed; empty if none are archived.

        `git apply` takes them, on the commit that `environment.git` names.

        Args:
            version: which of `versions`; by default the last one.

        Raises:
            ArchiveError: the file is missing or damaged.
        """
        git = self._environments[self._version(version).environment].git
        return self._text(git.diff if git else "", "the uncommitted changes")

    @_explained
    def script(self, version: int | None = None) -> str:
        """The script that Python was started with; empty if none is archived.

        Args:
            version: which of `versions`; by default the last one.

        Raises:
            ArchiveError: the file is missing or damaged.
        """
        environment = self._environments[self._version(version).environment]
        return self._text(environment.script_source, "the script")

    def _text(self, digest: str, what: str) -> str:
        if not digest:
            return ""
        return read_blob(self._artifacts, digest, what).decode(errors="replace")

    @property
    def versions(self) -> list[Version]:
        """The states of the study's code and surroundings, oldest first."""
        return list(self.manifest.versions)

    @cached_property
    def environment(self) -> Environment:
        """The environment in which the study was last continued."""
        return self._environments[self._version(None).environment]

    @_explained
    def environment_of(self, version: int) -> Environment:
        """Return the environment in which a version of the study ran.

        Args:
            version: which of `versions`.
        """
        return self._environments[self._version(version).environment]

    def problem(self, trusted: bool = False, version: int | None = None) -> Problem:
        """Bring the problem's functions back to life, in modules of their own.

        This executes the archived code: its classes, decorators and constants now, its functions
        when they are called.

        Args:
            trusted: whether to do that. Look at `source()` first. An archive whose signatures
                hold needs no trust; where there is a key, one whose signatures do not hold is
                refused, trusted or not.
            version: which of `versions`; by default the last one.

        Raises:
            UntrustedArchiveError: `trusted` is false, and no signature vouches for the archive.
            ArchiveSignatureError: there is a key, and the archive is not signed with it, or has
                been changed since.
            ArchiveError: a package that the code needs is not installed, or the code fails.
        """
        chosen = self._version(version)
        capture = self._captures[chosen.code_version]
        self.require_trust(trusted)
        return restore_problem(capture, self._environments[chosen.environment])

    def require_trust(self, trusted: bool = False) -> None:
        """Refuse unless the archived code may run here.

        Args:
            trusted: whether somebody has said so.

        Raises:
            UntrustedArchiveError: nobody has, and no signature vouches for the archive.
            ArchiveSignatureError: there is a key, and the archive is not signed with it, or has
                been changed since.
        """
        self._require_no_problems(self.signatures)
        name = self.study.study_name
        if not trusted and not self.signatures.holds:
            raise UntrustedArchiveError(
                f"The archive of the study {name!r} holds code, and nobody has said that it may "
                "run here. Look at it with .describe() and .source(); if you trust those who "
                "wrote it, pass trusted=True."
            )

    def verify_trials(self, trials: Sequence[FrozenTrial]) -> None:
        """Refuse unless these trials are signed, where there is a key; without one, do nothing.

        `load` has verified all trials that had ended; this is for those that are about to run
        again, just before they do.

        Args:
            trials: trials of the study.

        Raises:
            ArchiveSignatureError: one is not signed with the key, or has been changed since.
        """
        if self._keys is not None:
            checked = check_signatures(self.study, self.manifest, self._keys, trials)
            self._require_no_problems(checked)

    def _require_no_problems(self, checked: SignatureCheck) -> None:
        if checked.problems:
            raise ArchiveSignatureError(
                f"The archive of the study {self.study.study_name!r} does not run, trusted or not, "
                "because a key for signing is configured here and the archive does not hold "
                f"against it: {' '.join(checked.problems)} Bring it back from a copy. If it was "
                "written without that key and you trust every part of it, sign it: "
                "OptunaArchive(study).sign()."
            )

    @_explained
    def version_of(self, trial_number: int) -> int:
        """The number of the version that a trial ran with."""
        return version_of(self.manifest, self._trial(trial_number))

    def capture(self, version: int | None = None) -> Capture:
        """The archived problem as data; nothing is executed.

        Args:
            version: which of `versions`; by default the last one.
        """
        return self._captures[self._version(version).code_version]

    @_explained
    def scope(self, version: int | None = None) -> dict[str, Any]:
        """The scope that the flow ran with."""
        return restore_value(self._version(version).scope)

    @_explained
    def source(self, version: int | None = None) -> str:
        """All archived source, module by module, and the values that it works with, as text.

        Constants, the context, axes, and what functions get beside their source: variables of
        closures, attributes, and defaults and annotations that are others than the source says.
        Values that are nothing but numbers are shortened. What cannot be seen, such as control
        characters, is written out.

        Args:
            version: which of `versions`; by default the last one.
        """
        return source_text(self.capture(version))

    @_explained
    def result(self, trial_number: int, data_cls: type | None = None) -> Any:
        """Return what `run` returned in a trial, verified and decoded.

        Args:
            trial_number: the trial's number.
            data_cls: the persistence class that `run` returned an object of, to have one again.
                Without it, such an object is a mapping of its fields: the archive holds data, and
                imports nothing.

        Raises:
            ArchiveError: there is no such trial or no result, or its file is gone or damaged.
            MissingKeyError: the result has no value for a key of the class.
            InvalidPersistenceClassError: `data_cls` is none.
        """
        return self.result_of(self._trial(trial_number), data_cls)

    @_explained
    def result_of(self, trial: FrozenTrial, data_cls: type | None = None) -> Any:
        """Return what `result` returns, of a trial that is at hand: no other is read."""
        reference = trial.user_attrs.get(RESULT_KEY)
        if reference is None:
            raise ArchiveError(
                f"Trial {trial.number} ({trial.state.name}) has no archived result: its `run` "
                "returned numbers only, which are the trial's values, or did not end."
            )
        folder = f"studies/{self.manifest.uuid}/"
        path = reference.get("path", folder) if isinstance(reference, dict) else folder
        if not str(path).startswith(folder):
            raise ArchiveError(
                f"Trial {trial.number} refers to the result {path!r}, which is "
                f"not of this study: expected a path below {folder}. Bring the study back from a "
                "copy."
            )
        result = read_result(self._artifacts, reference)
        return result if data_cls is None else from_dict(data_cls, result)

    def inputs(self, version: int | None = None) -> list[InputFile]:
        """The files that the code of trials has read, by name, with size and SHA-256.

        Files that libraries open in C, without telling Python, are not seen: HDF5 and Arrow.

        Args:
            version: the version whose trials; by default the newest.
        """
        from prefect_optuna.tasks.inputs import read_inputs

        return read_inputs(self._artifacts, self.manifest.uuid, self._version(version).id)

    def archived_inputs(self, version: int | None = None) -> dict[str, bytes]:
        """The content of those files that lay in the study's folder, by their relative paths.

        Args:
            version: the version whose trials; by default the newest.

        Raises:
            ArchiveError: one was not kept: `optimize(..., keep_inputs="200 MB")` does that.
        """
        from prefect_optuna.tasks.inputs import archived_inputs

        return archived_inputs(self._artifacts, self.inputs(version))

    def reevaluations(self, last: int | None = None) -> list[Reevaluation]:
        """Return the study's re-evaluations, oldest first.

        Args:
            last: only so many, the latest ones; 1 or more.

        Raises:
            ArchiveError: a record is damaged.
        """
        return read_history(self._artifacts, self.manifest.uuid, last)

    def record_reevaluation(self, reevaluation: Reevaluation) -> None:
        """Keep a re-evaluation beside the archive. `reevaluate` does it by itself."""
        record(self._artifacts, self.manifest.uuid, reevaluation)

    def trials(self, kind: TableKind = "arrow") -> Any:
        """All trials as a table: values, parameters, metrics, constraints and user attributes.

        Args:
            kind: `"arrow"` for a `pyarrow.Table`, `"pandas"` or `"polars"` for a data frame.

        Returns:
            A row for each trial: `number`, `state`, `value` (or `value.0`, ...), `started`,
            `completed`, `seconds`, `param.NAME`, `metric.NAME`, `constraint.NAME`, `user.NAME`.

        Raises:
            InvalidSettingError: there is no such kind.
            ArchiveError: that library is not installed.
        """
        return trial_table(self.study.get_trials(deepcopy=False), kind)

    @_explained
    def timeseries(
        self, key: str, trials: Selection | None = None, kind: SeriesKind = "arrow"
    ) -> Any:
        """One table of a series across trials, verified.

        A series is what `OptunaArchive.trial_add_timeseries` has kept, or what of the results of
        `run` has that name. Only the files of the trials that are asked for are read.

        Args:
            key: of the series.
            trials: which ones: `"best:20"`, `"pareto"`, `"pruned"`, a number, several numbers, a
                function of a trial; `None` for all that have the series.
            kind: `"arrow"` for a `pyarrow.Table`, `"pandas"` for a data frame, both with the
                columns `trial`, the axes and the values; `"xarray"` for a dataset with the
                dimensions `trial` and the axes.

        Raises:
            ArchiveError: no trial has the series, or one that was named has not; a file is gone
                or damaged; or the library of that kind is not installed.
            InvalidSettingError: there is no such selection or kind.

        Example:
            >>> import optuna
            >>> from prefect_optuna.flows.examples.lynx_hare import problem
            >>> from prefect_optuna.tasks import ArchivedStudy, OptunaArchive
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> storage = InMemoryStudyStorage(name="docs-timeseries")
            >>> study = storage.create_study("tuning", load_if_exists=True)
            >>> archive = OptunaArchive(study, artifacts="memory://docs-timeseries")
            >>> _ = archive.save_problem(problem)
            >>> archive.study_add_axis("epoch", [1, 2])
            >>> for start in (4.0, 3.0):
            ...     trial = study.ask()
            ...     archive.trial_add_timeseries(trial, "loss", [start, start / 2], ["epoch"])
            ...     _ = study.tell(trial, start / 2)
            >>> artifacts = archive.artifacts
            >>> archived = ArchivedStudy.load("tuning", storage=storage, artifacts=artifacts)
            >>> archived.timeseries("loss", trials="best:1").to_pydict()
            {'trial': [1, 1], 'epoch': [1, 2], 'value': [3.0, 1.5]}
        """
        reader = SeriesReader(self.study, self._artifacts, key, self._axes_of)
        table, spec = reader.table(trials)
        return as_kind(table, spec, kind, key)

    @property
    @_explained
    def series(self) -> list[str]:
        """The keys of all series that there are."""
        return series_keys(self.study, self.study.get_trials(deepcopy=False))

    @property
    @_explained
    def axes(self) -> dict[str, Any]:
        """The axes of the study and of its problem, by name, as NumPy arrays."""
        axes = {**self._problem_axes(self._version(None)), **self._study_axes}
        return {name: axis.values for name, axis in axes.items()}

    @cached_property
    def _study_axes(self) -> dict[str, Axis]:
        attributes = self.study.user_attrs
        axes = (
            read_axis(self.study, self._artifacts, name, attributes)
            for name in axis_names(attributes)
        )
        return {axis.name: axis for axis in axes if axis is not None}

    @cached_property
    def _version_ids(self) -> list[str]:
        return [version.id for version in self.manifest.versions]

    def _axes_of(self, trial: FrozenTrial) -> Mapping[str, Axis]:
        number = version_of(self.manifest, trial, self._version_ids)
        if number not in self._axes_of_versions:
            axes = {**self._problem_axes(self._version(number)), **self._study_axes}
            self._axes_of_versions[number] = axes
        return self._axes_of_versions[number]

    def _problem_axes(self, version: Version) -> dict[str, Axis]:
        if version.code_version not in self._axes:
            capture = self._captures[version.code_version]
            axes = problem_axes(capture.document, capture.blobs.__getitem__)
            self._axes[version.code_version] = axes
        return self._axes[version.code_version]

    @_explained
    def compact(self) -> int:
        """Put the files of trials that have ended into a few ZIP files, beside whoever reads them.

        A run does so by itself, some hundred files at a time. Files of more than 1 MiB stay as they
        are. Everything is read as before.

        Returns:
            How many files are in packs now that were not.

        Raises:
            StorageUnavailableError: the filesystem failed; no file is lost.
        """
        trials = self.study.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state.is_finished()]
        return compact(self._artifacts, file_references(ended, LARGE))

    @_explained
    def extract(self, folder: str | Path, trials: Selection | None = None) -> list[Path]:
        """Write results and series as Arrow files that any reader of Arrow opens, verified.

        Args:
            folder: where: `trials/<number>.arrow` and `series/<key>/<number>.arrow` below it.
            trials: which trials, as `timeseries` takes them; by default all.

        Returns:
            The paths of the files. One that is there already is left as it is.

        Raises:
            ArchiveError: a file of the archive is gone or damaged.
            AlreadyExistsError: another file of that name is there.
            InvalidSettingError: there is no such selection.
        """
        chosen = self.study.get_trials(deepcopy=False)
        if trials is not None:
            chosen = select_trials(self.study, trials)
        target = ArtifactFileSystem(url=str(Path(folder).absolute()))
        paths: list[Path] = []
        for trial in chosen:
            for path, content in self._arrow_files(trial):
                place = Path(folder) / path
                if not target.create(path, content) and target.read_path(path) != content:
                    raise AlreadyExistsError(
                        f"{place} is another file already. Extract to an empty folder."
                    )
                paths.append(place)
        return paths

    def _arrow_files(self, trial: FrozenTrial) -> Iterator[tuple[str, bytes]]:
        prefix = len(f"studies/{self.manifest.uuid}/")
        for name in trial.user_attrs:
            if name == RESULT_KEY:
                axes: dict[str, Any] = {n: axis.values for n, axis in self._axes_of(trial).items()}
                content = encode_result(self.result(trial.number), axes)
                yield f"trials/{trial.number:06d}.arrow", content
            elif name.startswith(KEY_TIMESERIES):
                key = name.removeprefix(KEY_TIMESERIES)
                path = series_path(self.manifest.uuid, key, trial.number)[prefix:]
                table = self.timeseries(key, [trial.number]).remove_column(0)
                yield path, write_arrow(table, {"layout": "series", "key": key})

    def late_trials(self) -> list[FrozenTrial]:
        """Return trials that ended after others had taken their places, since they seemed dead.

        A machine that was cut off for long finds its trial run again elsewhere. Whoever tells
        first wins; what the other one has computed is here. It does not count in the study.

        Returns:
            The trials as they ended there, by number; `read_result` reads what the attribute
            `"result"` of one refers to.
        """
        storage = self.study._storage  # pyright: ignore[reportPrivateUsage]
        return late_trials(storage.get_study_system_attrs(self.study._study_id))  # pyright: ignore[reportPrivateUsage]

    @_explained
    def describe(self, trials: Sequence[FrozenTrial] | None = None) -> str:
        """Say what is in the archive, and all that would run, be imported, called or unpickled.

        Nothing of it is shortened, and what cannot be seen, such as control characters, is
        written out. `source()` has the source that is named here.

        Args:
            trials: some trials to look at, where there are very many; by default all.
        """
        lines = [f"Study {self.study.study_name!r}, archived {self.manifest.created}"]
        lines.append(f"  Files in {self._artifacts.location()}")
        lines.append(f"  {self.signatures}")
        what = "Trials" if trials is None else "Trials looked at"
        trials = self.study.get_trials(deepcopy=False) if trials is None else trials
        with_result = sum(RESULT_KEY in trial.user_attrs for trial in trials)
        lines.append(f"  {what}: {len(trials)}, with an archived result: {with_result}")
        if late := self.late_trials():
            lines.append(f"  Late trials: {', '.join(str(trial.number) for trial in late)}")
        if series := series_keys(self.study, trials):
            lines.append(f"  Series: {', '.join(series)}")
        for number, version in enumerate(self.manifest.versions):
            lines.extend(self._describe_version(number, version))
        return "\n".join(map(visible_line, lines))

    def _describe_version(self, number: int, version: Version) -> list[str]:
        document = self._captures[version.code_version].document
        environment = self._environments[version.environment]
        git = environment.git
        lines = [
            "",
            f"Version {number}, from trial {version.first_trial} on, {version.created}",
            f"  code {version.code_version[:12]}, {environment.implementation} "
            f"{environment.python}, {environment.platform}",
        ]
        if git is not None:
            state = "with changes" if git.dirty else "clean"
            lines.append(f"  git {git.commit[:12] or 'no commit'} {git.branch} ({state})")
        if environment.sampler:
            lines.append(f"  {environment.sampler}, {environment.pruner}")
        lines.append("  Would run:")
        for part, reference in document["entrypoints"].items():
            lines.append(f"    {part:10} {as_python(reference)}")
        modules: dict[str, list[str]] = {}
        for symbol in document["symbols"]:
            if symbol["mode"] == "source":
                modules.setdefault(symbol["module"], []).append(symbol["name"])
        for module, names in modules.items():
            lines.append(f"  Source of {module}: {', '.join(names)}")
        statements = [
            f"{symbol['module']}.{symbol['name']}"
            for symbol in document["symbols"]
            if symbol["mode"] == "source" and symbol["kind"] != "function"
        ]
        if statements:
            lines.append(f"  Source that runs when it is restored: {', '.join(statements)}")
        if document["distributions"]:
            needs = sorted(set(document["distributions"].values()))
            versions = environment.distributions
            listed = [f"{name} {versions.get(name, '')}".strip() for name in needs]
            lines.append(f"  Needs {', '.join(listed)}")
        if document["context"]:
            lines.append(f"  Context: {', '.join(document['context'])}")
        if document["axes"]:
            lines.append(f"  Axes: {', '.join(document['axes'])}")
        if version.scope:
            lines.append(f"  Scope: {as_python(version.scope)}")
        if environment.variables:
            lines.append(f"  Runs with the environment variables {environment.variables}")
        acts = {(act.does, act.what): act for act in acts_of(document)}
        if acts:
            lines.append("  Restoring it would, apart from the source:")
            lines.extend(f"    {act.does:8} {act.what}  ({act.where})" for act in acts.values())
        return lines

    def __repr__(self) -> str:
        facts = ", ".join(f"{text} {name}" for name, text in self._facts()[:2])
        return f"<ArchivedStudy {self.study.study_name!r}: {facts}>"

    def _repr_html_(self) -> str:
        """Return the card that notebooks show."""
        try:
            picture = self._artifacts.read_path(f"studies/{self.manifest.uuid}/best.png")
        except PrefectOptunaError:  # there is none, or it cannot be reached just now
            picture = None
        return card(f"{self.study.study_name}, archived", self._facts(), picture=picture)

    def _facts(self) -> list[tuple[str, str]]:
        trials = self.study.get_trials(deepcopy=False)
        return [
            ("trials", str(len(trials))),
            ("versions", str(len(self.manifest.versions))),
            ("signatures", str(self.signatures)),
            ("series", ", ".join(series_keys(self.study, trials))),
            ("files", self._artifacts.location()),
        ]

    def _trial(self, number: int) -> FrozenTrial:
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            raise ArchiveError(
                f"The study {self.study.study_name!r} has the trials 0 to {len(trials) - 1}, and "
                f"no trial {number}."
                if trials
                else f"The study {self.study.study_name!r} has no trials."
            )
        return trials[number]

    def _version(self, number: int | None) -> Version:
        versions = self.manifest.versions
        if number is None:
            return versions[-1]
        if not 0 <= number < len(versions):
            raise ArchiveError(
                f"The archive has the versions 0 to {len(versions) - 1}, and no version {number}."
            )
        return versions[number]


def _read_capture(artifacts: ArtifactFileSystem, version: Version, number: int) -> Capture:
    content = read_blob(artifacts, version.code_version, f"the code of version {number}")
    document = document_of(content, f"the code of version {number} ({version.code_version})")
    blobs = {
        digest: read_blob(artifacts, digest, f"a value of version {number}")
        for digest in document["blobs"]
    }
    return Capture(document, blobs)
