"""Deployments of studies, servers, and the command line: how to run and watch them elsewhere.

The names are imported when they are first used: the command line is a part of this floor, and its
help should not wait for Prefect.
"""

import typing

from prefect_optuna._lazy import lazy_names

if typing.TYPE_CHECKING:
    from prefect_optuna.deployments.automations import (
        STUDY_NAME,
        automate,
        cancel_on,
        notify_on,
        run_on,
    )
    from prefect_optuna.deployments.deploy import (
        Deployed,
        deploy_gc,
        deploy_optimization,
        deploy_reevaluation,
        deploy_report,
        deploy_worker,
    )
    from prefect_optuna.deployments.local_server import LocalServer
    from prefect_optuna.deployments.pools import make_pool
    from prefect_optuna.deployments.serve import LocalWorker, make_process_pool
    from prefect_optuna.deployments.ui import Dashboard
    from prefect_optuna.errors import ServerUnavailableError

__all__ = [
    "STUDY_NAME",
    "Dashboard",
    "Deployed",
    "LocalServer",
    "LocalWorker",
    "ServerUnavailableError",
    "automate",
    "cancel_on",
    "deploy_gc",
    "deploy_optimization",
    "deploy_reevaluation",
    "deploy_report",
    "deploy_worker",
    "make_pool",
    "make_process_pool",
    "notify_on",
    "run_on",
]

_MODULE_OF = {
    "STUDY_NAME": "deployments.automations",
    "Dashboard": "deployments.ui",
    "Deployed": "deployments.deploy",
    "LocalServer": "deployments.local_server",
    "ServerUnavailableError": "errors",
    "LocalWorker": "deployments.serve",
    "automate": "deployments.automations",
    "cancel_on": "deployments.automations",
    "deploy_gc": "deployments.deploy",
    "deploy_optimization": "deployments.deploy",
    "deploy_reevaluation": "deployments.deploy",
    "deploy_report": "deployments.deploy",
    "deploy_worker": "deployments.deploy",
    "make_pool": "deployments.pools",
    "make_process_pool": "deployments.serve",
    "notify_on": "deployments.automations",
    "run_on": "deployments.automations",
}

lazy_names(__name__, _MODULE_OF)
