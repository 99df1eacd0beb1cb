"""How studies run elsewhere, and how a person looks at them: servers, the UI, deployments.

The names are imported when they are first used: the command line is a part of this floor, and its
help should not wait for Prefect.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from prefect_optuna.deployments.automations import (
        STUDY_NAME,
        automate,
        cancel_on,
        notify_on,
        run_on,
    )
    from prefect_optuna.deployments.dashboard import Dashboard
    from prefect_optuna.deployments.deploy import (
        deploy_gc,
        deploy_optimization,
        deploy_reevaluation,
        deploy_report,
        deploy_worker,
    )
    from prefect_optuna.deployments.local_server import LocalServer, LocalServerError
    from prefect_optuna.deployments.serve import LocalWorker, make_process_pool

__all__ = [
    "STUDY_NAME",
    "Dashboard",
    "LocalServer",
    "LocalServerError",
    "LocalWorker",
    "automate",
    "cancel_on",
    "deploy_gc",
    "deploy_optimization",
    "deploy_reevaluation",
    "deploy_report",
    "deploy_worker",
    "make_process_pool",
    "notify_on",
    "run_on",
]

_MODULE_OF = {
    "STUDY_NAME": "automations",
    "Dashboard": "dashboard",
    "LocalServer": "local_server",
    "LocalServerError": "local_server",
    "LocalWorker": "serve",
    "automate": "automations",
    "cancel_on": "automations",
    "deploy_gc": "deploy",
    "deploy_optimization": "deploy",
    "deploy_reevaluation": "deploy",
    "deploy_report": "deploy",
    "deploy_worker": "deploy",
    "make_process_pool": "serve",
    "notify_on": "automations",
    "run_on": "automations",
}


def __getattr__(name: str) -> typing.Any:
    if module := _MODULE_OF.get(name):
        value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
