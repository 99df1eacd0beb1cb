"""Sources of a flow's problem: its caller, the study's archive, or its deployment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InvalidSettingError,
    StudyNotFoundError,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.errors import UntrustedArchiveError
from prefect_optuna.flows.installing import require_installed
from prefect_optuna.tasks.archive import ArchivedStudy, Capture, Environment, OptunaArchive
from prefect_optuna.tasks.archive.carrying.deployed import (
    block_name,
    require_signature,
    unpack_problem,
)
from prefect_optuna.tasks.archive.code.packages import other_versions
from prefect_optuna.tasks.archive.code.restore import restore_problem
from prefect_optuna.tasks.archive.record.manifest import Version, read_manifest
from prefect_optuna.tasks.archive.record.signing import SigningKeys
from prefect_optuna.tasks.problem import Direction, Problem, as_directions

ARCHIVE = "archive"
"""The problem is the one in the study's archive, or the one that a deployment brings there."""

_LEAST = 8  # digits of a digest


@dataclass(frozen=True)
class ProblemSource:
    """A problem, and what is archived of it.

    Attributes:
        problem: the problem.
        captured: what came out of the archive or with the deployment; `None` where the caller has
            given the problem itself, which is still to be captured.
        words: where it is from, for people; empty where the caller has given it.
    """

    problem: Problem
    captured: Capture | None = None
    words: str = ""

    def capture(self) -> Capture:
        """Return what is archived of the problem."""
        return self.captured or Capture.of(self.problem)


def find_problem(
    problem: Problem | Callable[..., Any] | str,
    *,
    directions: Direction | Sequence[Direction] | None,
    study_name: str | None,
    version: str | None,
    trusted: bool,
    storage: StudyStorage | str | Path | None,
    artifacts: ArtifactFileSystem | str | Path | None,
    install: bool | str = False,
) -> ProblemSource:
    """The problem of a flow. One that is called `"archive"` is restored, which runs its code."""
    if problem != ARCHIVE:
        if version is not None or trusted or install:
            raise InvalidSettingError(
                "`version`, `trusted` and `install` are of a problem that comes out of the study's "
                f"archive: problem={ARCHIVE!r}. This one is given by the call, and is archived as "
                "it is."
            )
        return ProblemSource(Problem.of(problem, directions=directions))
    code = _find_code(study_name, version, trusted, install, storage, artifacts)
    if install:
        require_installed(code.capture, code.environment)
    made = restore_problem(code.capture, code.environment)
    captured = replace(code.capture, axes=made.axes, origin=code.environment)
    if directions is not None and (wanted := as_directions(directions)) != made.directions:
        made = replace(made, directions=wanted)
        document = {**captured.document, "directions": list(wanted)}
        captured = replace(captured, document=document)
    return ProblemSource(made, captured, code.words)


def deployed_code(parameters: Mapping[str, Any]) -> tuple[Capture, Environment] | None:
    """Find the code that a flow run takes from the archive or its deployment, without running it.

    `None` where the caller has given the problem.
    """
    if parameters["problem"] != ARCHIVE:
        return None
    names = ("study_name", "version", "trusted", "install", "storage", "artifacts")
    given: dict[str, Any] = {"install": False, **parameters}
    code = _find_code(*(given[name] for name in names))
    return code.capture, code.environment


def say_version(
    logger: logging.Logger | logging.LoggerAdapter[Any],
    archive: OptunaArchive,
    source: ProblemSource,
) -> None:
    """Say in the log which version of its code a study runs, where it was not given by the call.

    And which packages are here in another version than where that was captured.
    """
    if source.words:
        logger.info("It runs version %s, %s.", archive.version_words, source.words)
    if source.captured is not None:
        for line in other_versions(source.captured, source.captured.origin):
            logger.warning(line)


@dataclass(frozen=True)
class _Code:
    """Code that may run here, and has not yet; what it was captured in, and where it is from."""

    capture: Capture
    environment: Environment
    words: str


def _find_code(
    study_name: str | None,
    version: str | None,
    trusted: bool,
    install: bool | str,
    storage: StudyStorage | str | Path | None,
    artifacts: ArtifactFileSystem | str | Path | None,
) -> _Code:
    if not study_name:
        raise InvalidSettingError(
            f"problem={ARCHIVE!r} is the problem of a study that has run, or was deployed: give "
            "its `study_name`."
        )
    if version is not None and len(version) < _LEAST:
        raise InvalidSettingError(
            f"`version` is the id of a version, or {_LEAST} digits or more of the digest of its "
            f"code; found {version!r}. `prefect-optuna show STUDY` lists them."
        )
    archived = _archived(study_name, version, trusted, storage, artifacts)
    return archived or _brought(study_name, str(version), trusted, install)


def _archived(
    study_name: str,
    version: str | None,
    trusted: bool,
    storage: StudyStorage | str | Path | None,
    artifacts: ArtifactFileSystem | str | Path | None,
) -> _Code | None:
    """The code in the archive; `None` if a version was named that is not there."""
    block = as_study_storage(storage)
    if version is not None:
        try:
            manifest = read_manifest(block.load_study(study_name))
        except StudyNotFoundError:
            return None
        if manifest is None or _place(version, manifest.versions) is None:
            return None
    filesystem = as_artifact_filesystem(artifacts)
    archived = ArchivedStudy.load(study_name, storage=block, artifacts=filesystem)
    place = len(archived.versions) - 1
    if version is not None:
        place = _place(version, archived.versions)
        assert place is not None  # noqa: S101 - nothing removes a version
    archived.require_trust(trusted)
    return _Code(
        archived.capture(place), archived.environment_of(place), "from the study's archive"
    )


def _place(version: str, versions: Sequence[Version]) -> int | None:
    """The last version that is meant."""
    for place in range(len(versions) - 1, -1, -1):
        if versions[place].id == version or versions[place].code_version.startswith(version):
            return place
    return None


def _brought(study_name: str, version: str, trusted: bool, install: bool | str) -> _Code:
    """The code that a deployment has brought to Prefect's server."""
    from prefect_optuna.blocks.deployed_problem import DeployedProblem

    try:
        name = block_name(version, install)
        block: Any = DeployedProblem.load(name, _sync=True)  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise ArchiveError(
            f"The archive of the study {study_name!r} has no version {version!r}, and no "
            "deployment has brought it to this Prefect server. Deploy the problem again, or leave "
            "`version` out for the last one of the archive."
        ) from error
    text = block.content.get_secret_value()
    if not require_signature(text, block.signature, SigningKeys.configured()) and not trusted:
        raise UntrustedArchiveError(
            f"The deployment of the study {study_name!r} has brought code, and nobody has said "
            "that it may run here. `prefect-optuna deploy` says so of what it takes along; where "
            "you write the parameters yourself, and trust those who deployed it: trusted: true."
        )
    captured = unpack_problem(text, version, install)
    assert captured.origin is not None  # noqa: S101 - `unpack_problem` has read it
    return _Code(captured, captured.origin, "brought by the deployment")
