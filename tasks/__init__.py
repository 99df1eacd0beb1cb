"""One step of a study: a problem, its trials, and the archive that keeps both."""

from prefect_optuna.tasks.archive import ArchivedStudy, Environment, OptunaArchive
from prefect_optuna.tasks.archive.garbage import DeletedStudy, StudyGarbage, collect_garbage
from prefect_optuna.tasks.problem import Direction, Problem
from prefect_optuna.tasks.scope import (
    AutoParameter,
    ConfigFileError,
    ConfigFileNotFoundError,
    Explanation,
    InvalidAssignmentError,
    InvalidParameterError,
    MissingParameterError,
    ParameterNotPicklableError,
    ParamScope,
    ScopeSnapshot,
    UnreadParameterWarning,
    add_scope_arguments,
    auto_param,
    auto_params,
    capture,
    param_scope,
    restore,
    scope_from_arguments,
)

__all__ = [
    "ArchivedStudy",
    "AutoParameter",
    "ConfigFileError",
    "ConfigFileNotFoundError",
    "DeletedStudy",
    "Direction",
    "Environment",
    "Explanation",
    "InvalidAssignmentError",
    "InvalidParameterError",
    "MissingParameterError",
    "OptunaArchive",
    "ParamScope",
    "ParameterNotPicklableError",
    "Problem",
    "ScopeSnapshot",
    "StudyGarbage",
    "UnreadParameterWarning",
    "add_scope_arguments",
    "auto_param",
    "auto_params",
    "capture",
    "collect_garbage",
    "param_scope",
    "restore",
    "scope_from_arguments",
]
