"""A run of a worker goes on in the environment that its code was recorded with.

Trials of a deployment with `install` need packages that the worker may not have. Just before
Prefect begins such a run, its process builds the recorded environment, and starts anew in there:
the same process for the worker, its signals and Prefect, with another Python in it. So nothing is
handed over between two processes, neither trials nor a study's storage, and a trial costs what it
costs in the worker's own environment.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from prefect.context import FlowRunContext

from prefect_optuna.blocks.texts import command, visible_line
from prefect_optuna.errors import (
    EnvironmentUnavailableError,
    PrefectOptunaError,
    StorageUnavailableError,
)
from prefect_optuna.tasks.archive.code.packages import is_this_python, lacking
from prefect_optuna.tasks.archive.record.environment import is_built
from prefect_optuna.tasks.environments import (
    PreparedEnvironment,
    needed_here,
    prepare_environment,
)

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive import Capture, Environment

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
