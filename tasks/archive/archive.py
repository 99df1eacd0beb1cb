"""`OptunaArchive`: writes what a study needs to come back to life."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna import Study

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem, as_artifact_filesystem
from prefect_optuna.blocks.study_identity import claim_folder, study_uuid
from prefect_optuna.tasks.archive.blobs import blob_path, read_blob, write_blobs
from prefect_optuna.tasks.archive.capture import Capture, encode_scope
from prefect_optuna.tasks.archive.environment import Environment
from prefect_optuna.tasks.archive.manifest import (
    BACKUP_CONTEXT,
    Manifest,
    Version,
    read_manifest,
)
from prefect_optuna.tasks.archive.writer import ResultWriter
from prefect_optuna.tasks.problem import Problem

__all__ = ["OptunaArchive"]

_ATTEMPTS = 5  # flows that save at the same moment


class OptunaArchive:
    """The archive of a study, for writing; `ArchivedStudy` reads it.

    The study's user attribute `backupContext` is the manifest. Everything else is files on the
    artifact filesystem: code, values and environments as blobs named after their content, which
    studies of one code share, and one Arrow file for what `run` returned in each trial.

    Args:
        study: the study.
        artifacts: where the files go: a block, `"slug/name"`, a path or an fsspec URL; by
            default where `optimize` puts them.

    Example:
        >>> import optuna
        >>> from prefect_optuna.flows.examples.lynx_hare import problem
        >>> from prefect_optuna.tasks import OptunaArchive
        >>> archive = OptunaArchive(optuna.create_study(), artifacts="memory://docs-archive")
        >>> archive.save_problem(problem) == archive.code_version
        True
    """

    def __init__(
        self,
        study: Study | None = None,
        *,
        artifacts: ArtifactFileSystem | str | Path | None = None,
    ) -> None:
        self.study = study
        self.artifacts: ArtifactFileSystem = as_artifact_filesystem(artifacts)
        self._manifest: Manifest | None = None
        self._axes: Mapping[str, Any] = {}

    @property
    def location(self) -> str:
        """Where the files go, for people."""
        return self.artifacts.location()

    @property
    def manifest(self) -> Manifest | None:
        """What the study says of its archive; `None` before anything has been saved."""
        if self._manifest is None:
            self._manifest = read_manifest(self._the_study())
        return self._manifest

    @property
    def code_version(self) -> str | None:
        """Digest of the code, context and axes that were saved last; `None` before that."""
        manifest = self.manifest
        return manifest.versions[-1].code_version if manifest and manifest.versions else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody should know who compares the study's trials: where its code changed."""
        manifest = self.manifest
        notes: list[str] = []
        if manifest is not None:
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
                notes.append(
                    f"The {' and the '.join(changed)} changed before trial {after.first_trial}."
                )
        return tuple(notes)

    def save_problem(
        self, problem: Problem | Capture, *, scope: Mapping[str, Any] | None = None
    ) -> str:
        """Archive a problem: code, context, axes and the environment. Twice is once.

        A study may go on with other code. Each state is kept, with the number of the first trial
        that it holds for.

        Args:
            problem: the problem, or what `Capture.of` made of it.
            scope: the scope of the flow that runs it.

        Returns:
            The digest of what was saved, its `code_version`.

        Raises:
            CaptureError: something cannot be archived; lists everything.
            StorageUnavailableError: the artifact filesystem or the storage failed.
        """
        study = self._the_study()
        capture = problem if isinstance(problem, Capture) else Capture.of(problem)
        environment = Environment.capture(capture.folder)
        encoded_scope = encode_scope(scope or {})
        self._axes = capture.axes
        self._manifest = read_manifest(study)
        last = self._manifest.versions[-1] if self._manifest else None
        if last is not None and not self.artifacts.exists(blob_path(last.code_version)):
            raise ArchiveError(
                f"The archive of the study {study.study_name!r} was written to "
                f"{self._manifest.artifacts}, and is not in {self.location}. Name the artifacts "  # pyright: ignore[reportOptionalMemberAccess]
                "that it was written to: artifacts=... Or take another study name."
            )
        folder = claim_folder(study, self.artifacts)
        described = _json(environment.to_json())
        write_blobs(self.artifacts, folder, [*capture.blobs.values(), capture.content, described])
        version = Version(
            first_trial=len(study.get_trials(deepcopy=False)),
            code_version=capture.code_version,
            environment=hashlib.sha256(described).hexdigest(),
            scope=encoded_scope,
        )
        if last is None or self._differ(last, version, environment):
            self._append(study, version)
        return version.code_version

    def _append(self, study: Study, version: Version) -> None:
        """Add a version to the manifest, which another flow may be writing as well."""
        for _ in range(_ATTEMPTS):
            manifest = read_manifest(study) or Manifest(
                uuid=study_uuid(study), artifacts=self.location
            )
            if version in manifest.versions:
                break
            manifest = manifest.model_copy(update={"versions": [*manifest.versions, version]})
            study.set_user_attr(BACKUP_CONTEXT, manifest.model_dump())
        self._manifest = read_manifest(study)

    def writer(self) -> ResultWriter:
        """What workers archive results with: small, picklable, and no way to the database.

        Raises:
            ArchiveError: no problem has been saved yet.
        """
        manifest = self.manifest
        if manifest is None:
            raise ArchiveError(
                f"The study {self._the_study().study_name!r} has no archive yet: call "
                "save_problem(problem) before writer()."
            )
        return ResultWriter(self.artifacts, manifest.uuid, self._axes)

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

    def _differ(self, last: Version, new: Version, environment: Environment) -> bool:
        if (last.code_version, last.scope) != (new.code_version, new.scope):
            return True
        if last.environment == new.environment:
            return False
        content = read_blob(self.artifacts, last.environment, "the environment")
        before = Environment.from_json(json.loads(content))
        # The script that was started matters to people, and to no result.
        return bool(before.diff(environment).keys() - {"script"})

    def _the_study(self) -> Study:
        if self.study is None:
            raise ArchiveError("This archive has no study: OptunaArchive(study, artifacts=...).")
        return self.study


def _json(data: Any) -> bytes:
    return json.dumps(data, indent=1, sort_keys=True).encode("ascii")
