"""One step of a study: a problem, its trials, and the archive that keeps both."""

from prefect_optuna.tasks.archive import ArchivedStudy, Environment, OptunaArchive
from prefect_optuna.tasks.problem import Direction, Problem

__all__ = ["ArchivedStudy", "Direction", "Environment", "OptunaArchive", "Problem"]
