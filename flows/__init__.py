"""Whole studies as Prefect flows: optimize, and run archived trials again."""

from prefect_optuna.flows.distribute import distribute
from prefect_optuna.flows.optimize import optimize
from prefect_optuna.flows.reevaluate import (
    DriftError,
    ReevaluatedTrial,
    Reevaluation,
    reevaluate,
)
from prefect_optuna.flows.study import Pruner, Sampler
from prefect_optuna.flows.study_result import BestTrial, NoCompleteTrialError, StudyResult
from prefect_optuna.tasks import Problem

__all__ = [
    "BestTrial",
    "DriftError",
    "NoCompleteTrialError",
    "Problem",
    "Pruner",
    "ReevaluatedTrial",
    "Reevaluation",
    "Sampler",
    "StudyResult",
    "distribute",
    "optimize",
    "reevaluate",
]
