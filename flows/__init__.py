"""Whole studies as Prefect flows: optimize, and run archived trials again.

The names are imported when they are first used: who looks at studies needs no engine to run them.
"""

import typing

from prefect_optuna._lazy import lazy_names

if typing.TYPE_CHECKING:
    from prefect_optuna.errors import DriftError, WorkerFailedError
    from prefect_optuna.flows.distribute_flow import distribute
    from prefect_optuna.flows.optimize_flow import optimize
    from prefect_optuna.flows.reevaluate_flow import ReevaluatedTrial, Reevaluation, reevaluate
    from prefect_optuna.flows.replay_study import Replayed, replay
    from prefect_optuna.flows.study import BestTrial, Pruner, Sampler, StudyResult
    from prefect_optuna.tasks import Problem

__all__ = [
    "BestTrial",
    "DriftError",
    "Problem",
    "Pruner",
    "ReevaluatedTrial",
    "Reevaluation",
    "Replayed",
    "Sampler",
    "StudyResult",
    "WorkerFailedError",
    "distribute",
    "optimize",
    "reevaluate",
    "replay",
]

_MODULE_OF = {
    "BestTrial": "flows.study",
    "DriftError": "errors",
    "Problem": "tasks",
    "Pruner": "flows.study",
    "ReevaluatedTrial": "flows.reevaluate_flow",
    "Reevaluation": "flows.reevaluate_flow",
    "Replayed": "flows.replay_study",
    "Sampler": "flows.study",
    "StudyResult": "flows.study",
    "WorkerFailedError": "errors",
    "distribute": "flows.distribute_flow",
    "optimize": "flows.optimize_flow",
    "reevaluate": "flows.reevaluate_flow",
    "replay": "flows.replay_study",
}

lazy_names(__name__, _MODULE_OF)
