"""`ArchivedStudy`: reads and verifies an archive, and brings its code to life when told to."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna import Study

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    StudyStorage,
    UntrustedArchiveError,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.tasks.archive.blobs import read_blob
from prefect_optuna.tasks.archive.capture import CAPTURE_FORMAT, CAPTURE_KIND, Capture
from prefect_optuna.tasks.archive.environment import Environment
from prefect_optuna.tasks.archive.manifest import Manifest, Version, read_manifest
from prefect_optuna.tasks.archive.restore import restore_problem, restore_value, source_text
from prefect_optuna.tasks.archive.writer import read_result
from prefect_optuna.tasks.persistence.conversion import from_dict
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.trial import RESULT_KEY

__all__ = ["ArchivedStudy"]


class ArchivedStudy:
    """A study with its archive. Loading verifies everything and executes nothing.

    Use `ArchivedStudy.load`.

    Attributes:
        study: the Optuna study.
        manifest: what the study says of its archive.

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
    ) -> None:
        self.study = study
        self.manifest = manifest
        self._artifacts = artifacts
        self._captures = captures
        self._environments = environments

    @classmethod
    def load(
        cls,
        study_name: str,
        *,
        storage: StudyStorage | str | Path | None = None,
        artifacts: ArtifactFileSystem | str | Path | None = None,
    ) -> ArchivedStudy:
        """Load a study and its archive, and verify the digest of every blob.

        The results of trials are verified when they are read.

        Args:
            study_name: the study.
            storage: where the study is; what `optimize` takes, with its default.
            artifacts: where the archive is; what `optimize` takes, with its default.

        Raises:
            StudyNotFoundError: the storage has no such study.
            ArchiveError: the study has no archive, or a part of it is missing or damaged.
        """
        study = as_study_storage(storage).load_study(study_name)
        filesystem = as_artifact_filesystem(artifacts)
        manifest = read_manifest(study)
        if manifest is None or not manifest.versions:
            raise ArchiveError(
                f"The study {study_name!r} has no archive. `optimize` makes one; in a loop of your "
                "own, call OptunaArchive(study).save_problem(problem) before the first trial."
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
        return cls(study, filesystem, manifest, captures, environments)

    @property
    def versions(self) -> list[Version]:
        """The states of the study's code and surroundings, oldest first."""
        return list(self.manifest.versions)

    @cached_property
    def environment(self) -> Environment:
        """What the study ran in, when it was last continued."""
        return self._environments[self._version(None).environment]

    def problem(self, trusted: bool = False, version: int | None = None) -> Problem:
        """Bring the problem's functions back to life, in modules of their own.

        This executes the archived code: its classes, decorators and constants now, its functions
        when they are called.

        Args:
            trusted: whether to do that. Look at `source()` first.
            version: which of `versions`; by default the last one.

        Raises:
            UntrustedArchiveError: `trusted` is false.
            ArchiveError: a package that the code needs is not installed, or the code fails.
        """
        chosen = self._version(version)
        capture = self._captures[chosen.code_version]
        if not trusted:
            raise UntrustedArchiveError(
                f"The archive of the study {self.study.study_name!r} holds code, and nobody has "
                "said that it may run here. Look at it with .describe() and .source(); if you "
                "trust those who wrote it, call .problem(trusted=True)."
            )
        return restore_problem(capture, self._environments[chosen.environment])

    def version_of(self, trial_number: int) -> int:
        """The number of the version that a trial ran with."""
        versions = self.manifest.versions
        started = [n for n, version in enumerate(versions) if version.first_trial <= trial_number]
        return started[-1] if started else 0

    def capture(self, version: int | None = None) -> Capture:
        """The archived problem as data; nothing is executed.

        Args:
            version: which of `versions`; by default the last one.
        """
        return self._captures[self._version(version).code_version]

    def scope(self, version: int | None = None) -> dict[str, Any]:
        """The scope that the flow ran with."""
        return restore_value(self._version(version).scope)

    def source(self, version: int | None = None) -> str:
        """All archived source, module by module, as text.

        Args:
            version: which of `versions`; by default the last one.
        """
        return source_text(self.capture(version))

    def result(self, trial_number: int, data_cls: type | None = None) -> Any:
        """What `run` returned in a trial, verified and decoded.

        Args:
            trial_number: the trial's number.
            data_cls: the persistence class that `run` returned an object of, to have one again.
                Without it, such an object is a mapping of its fields: the archive holds data, and
                imports nothing.

        Raises:
            ArchiveError: there is no such trial or no result, or its file is gone or damaged.
            MissingKeyError: the result has no value for a key of the class.
            NotPersistenceClassError: `data_cls` is none.
        """
        trials = self.study.get_trials(deepcopy=False)
        if not 0 <= trial_number < len(trials):
            raise ArchiveError(
                f"The study {self.study.study_name!r} has the trials 0 to {len(trials) - 1}, and "
                f"no trial {trial_number}."
                if trials
                else f"The study {self.study.study_name!r} has no trials."
            )
        trial = trials[trial_number]
        reference = trial.user_attrs.get(RESULT_KEY)
        if reference is None:
            raise ArchiveError(
                f"Trial {trial_number} ({trial.state.name}) has no archived result: its `run` "
                "returned numbers only, which are the trial's values, or did not end."
            )
        result = read_result(self._artifacts, reference)
        return result if data_cls is None else from_dict(data_cls, result)

    def describe(self) -> str:
        """Say what is in the archive, and which code would run."""
        lines = [f"Study {self.study.study_name!r}, archived {self.manifest.created}"]
        lines.append(f"  Files in {self._artifacts.location()}")
        trials = self.study.get_trials(deepcopy=False)
        with_result = sum(RESULT_KEY in trial.user_attrs for trial in trials)
        lines.append(f"  Trials: {len(trials)}, with an archived result: {with_result}")
        for number, version in enumerate(self.manifest.versions):
            lines.extend(self._describe_version(number, version))
        return "\n".join(lines)

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
        lines.append("  Would run:")
        for part, reference in document["entrypoints"].items():
            lines.append(f"    {part:10} {_name(reference)}")
        modules: dict[str, list[str]] = {}
        for symbol in document["symbols"]:
            if symbol["mode"] == "source":
                modules.setdefault(symbol["module"], []).append(symbol["name"])
        for module, names in modules.items():
            lines.append(f"  Source of {module}: {', '.join(names)}")
        if document["distributions"]:
            needs = sorted(set(document["distributions"].values()))
            versions = environment.distributions
            listed = [f"{name} {versions.get(name, '')}".strip() for name in needs]
            lines.append(f"  Needs {', '.join(listed)}")
        if document["context"]:
            lines.append(f"  Context: {', '.join(document['context'])}")
        if document["axes"]:
            lines.append(f"  Axes: {', '.join(document['axes'])}")
        return lines

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
    document = json.loads(content)
    if document.get("kind") != CAPTURE_KIND:
        raise ArchiveError(
            f"The archive is damaged: the code of version {number} ({version.code_version}) is no "
            "captured problem. Bring the study's manifest back from a copy."
        )
    if document["format"] > CAPTURE_FORMAT:
        raise ArchiveError(
            f"The code of version {number} has the format {document['format']}, and this version "
            f"reads up to {CAPTURE_FORMAT}: pip install --upgrade prefect-optuna."
        )
    blobs = {
        digest: read_blob(artifacts, digest, f"a value of version {number}")
        for digest in document["blobs"]
    }
    return Capture(document, blobs)


def _name(reference: Any) -> str:
    if isinstance(reference, dict) and list(reference) == ["$ref"]:
        return str(reference["$ref"]).replace(":", ".")
    return json.dumps(reference)
