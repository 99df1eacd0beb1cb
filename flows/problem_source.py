"""Where a flow's problem comes from, and the environment that it is run in."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from prefect.context import FlowRunContext

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InvalidSettingError,
    StudyNotFoundError,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks.texts import command, visible_line
from prefect_optuna.errors import (
    EnvironmentUnavailableError,
    PrefectOptunaError,
    StorageUnavailableError,
    UntrustedArchiveError,
)
from prefect_optuna.tasks.archive import ArchivedStudy, Capture, Environment, OptunaArchive
from prefect_optuna.tasks.archive.carrying.portable import (
    block_name,
    require_signature,
    unpack_problem,
)
from prefect_optuna.tasks.archive.code.capture import is_this_python, lacking, other_versions
from prefect_optuna.tasks.archive.code.restore import restore_problem
from prefect_optuna.tasks.archive.record.environment import is_built
from prefect_optuna.tasks.archive.record.manifest import SigningKeys, Version, read_manifest
from prefect_optuna.tasks.environments import PreparedEnvironment, needed_here, prepare_environment
from prefect_optuna.tasks.problem import Direction, Problem, as_directions

# A run of a worker goes on in the environment that its code was recorded with.
#
# Trials of a deployment with `install` need packages that the worker may not have. Just before
# Prefect begins such a run, its process builds the recorded environment, and starts anew in
# there: the same process for the worker, its signals and Prefect, with another Python in it. So
# nothing is handed over between two processes, neither trials nor a study's storage, and a trial
# costs what it costs in the worker's own environment.


Code = Callable[[Mapping[str, Any]], "tuple[Capture, Environment] | None"]
"""Given a flow's parameters, the code that its run finds, and what that was recorded with."""

# How a worker's process is started; the last one is of projects that Prefect runs by uv.
_ENGINES = ("prefect.engine", "prefect.flow_engine", "prefect.runner._workspace_runtime_bootstrap")
# What reaches the study and its archive from here, where those who deploy need not.
_PLACES = ("s3", "gcs", "azure", "sftp", "postgresql", "mysql", "grpc")
_OTHERWISE = "install it where the workers are, such as in their image"

INSTALLS = ("This worker lacks ", "The environment ")
"""Beginnings of the lines that a run logs meanwhile, for those who wait for it."""

_failure: PrefectOptunaError | None = None
_looked = False


def enter_environment(code: Code, check: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Have a worker's process start anew with the packages that its flow run's code needs.

    It returns in every other process, where `install` was not asked for, where nothing is missing,
    and where something is wrong: the run then begins, and says what. `check` makes arguments of
    its parameters, for `code`.
    """
    global _failure, _looked
    main = getattr(sys.modules["__main__"], "__spec__", None)
    given = os.environ.get("PREFECT__FLOW_RUN_ID")
    if main is None or main.name not in _ENGINES or not given or FlowRunContext.get() is not None:
        return
    if _looked or is_built():  # Prefect asks again, also when the run is over
        return
    _looked = True
    from prefect.client.orchestration import get_client
    from prefect.logging.loggers import flow_run_logger

    try:
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(UUID(given))
        if not flow_run.parameters.get("install"):
            return
        found = code(check(flow_run.parameters))
    except StorageUnavailableError as error:
        _failure = error  # it may be back when the run begins, which is too late
        return
    except Exception:  # noqa: BLE001 - the run comes upon it again, where it is said
        return
    if found is None or not (missing := lacking(*found)):
        return
    logger = flow_run_logger(flow_run)
    try:
        _go_on(_prepared(*found, missing, logger))
    except (EnvironmentUnavailableError, StorageUnavailableError, OSError) as error:
        _failure = _refusal(missing, error)


def require_installed(capture: Capture, environment: Environment) -> None:
    """Refuse to go on where packages were to be installed and are not here."""
    if is_built() or not (missing := lacking(capture, environment)):
        return
    if _failure is not None:
        raise _failure
    raise EnvironmentUnavailableError(
        visible_line(
            f"This program lacks {'; '.join(missing)}. `install` has the workers of a pool install "
            "that: they start anew with it, and a program of yours cannot. Deploy the study, "
            f"{command('prefect-optuna', 'deploy', '--install')}; or {_OTHERWISE}."
        )
    )


def _prepared(
    capture: Capture, environment: Environment, missing: list[str], logger: Any
) -> PreparedEnvironment:
    started = time.monotonic()
    logger.info(
        "This worker lacks %s. It runs trials in the environment that was recorded: Python %s and "
        "%d packages.",
        "; ".join(missing),
        ".".join(environment.python.split(".")[:2]),
        len(environment.distributions),
    )
    if is_this_python(environment):  # the last number makes no difference that is worth a download
        environment = replace(environment, python=".".join(map(str, sys.version_info[:3])))
    options: dict[str, Any] = {
        "needed": set(capture.document["distributions"].values()),
        "also": needed_here(_PLACES),
        "otherwise": _OTHERWISE,
    }
    try:
        prepared = prepare_environment(environment, **options)
    except EnvironmentUnavailableError as error:
        near = error.closest.get(f"Python {environment.python}")
        if near is None:
            raise
        logger.warning("%s takes the place of Python %s.", near, environment.python)
        other = replace(environment, python=near.removeprefix("Python "))
        prepared = prepare_environment(other, **options)
    seconds = time.monotonic() - started
    how = f"was built in {seconds:.1f} seconds" if prepared.built else "is there already"
    logger.info("The environment %s: %s", how, prepared.folder)
    logger.debug("In it: %s.", "; ".join(prepared.notes) or "what was recorded")
    return prepared


def _go_on(prepared: PreparedEnvironment) -> NoReturn:
    """Replace what runs in this process by Prefect's engine in an environment."""
    from prefect.logging.handlers import APILogHandler

    if sys.platform == "win32":
        raise EnvironmentUnavailableError("workers on Windows do not install packages")
    variables = prepared.variables(os.environ, prepared.package()) | _control()
    APILogHandler().flush()
    sys.stdout.flush()
    sys.stderr.flush()
    python = str(prepared.python)
    os.execve(python, [python, "-m", "prefect.engine"], variables)  # noqa: S606 - no shell


def _control() -> dict[str, str]:
    """Return the variables by which this process's runner tells it that it is cancelled.

    Prefect's engine has taken that out of the variables, and has not used it yet.
    """
    from prefect._internal import control_listener

    port = getattr(control_listener, "_configured_port", None)
    token = getattr(control_listener, "_configured_token", None)
    if port is None or token is None:
        return {}
    return {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}


def _refusal(missing: list[str], error: Exception) -> PrefectOptunaError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = f"This worker lacks {'; '.join(missing)}, and cannot install it. No trial was begun."
    kind = type(error) if isinstance(error, PrefectOptunaError) else StorageUnavailableError
    return kind(f"{visible_line(text)}\n{why}")


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
    from prefect_optuna.blocks.locations import DeployedProblem

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
