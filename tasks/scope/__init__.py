"""Parameter scopes: values for functions deep inside, without handing them through.

| file | its one idea |
|---|---|
| `facade.py` | `param_scope`, the one name that people use; files, a command line, threads, tasks |
| `scope.py` | a scope, a parameter by its name, and what was misspelt or never read |
| `frames.py` | what is in force where; values, and where they are from |
| `auto_parameters.py` | `auto_param` functions |
"""

from prefect_optuna.errors import (
    ConfigFileError,
    InvalidParameterError,
    PathNotFoundError,
    UnknownNameError,
    UnreadParameterWarning,
)
from prefect_optuna.tasks.scope.auto_parameters import AutoParameter, auto_param, auto_params
from prefect_optuna.tasks.scope.facade import (
    SCOPE,
    SCOPE_ARGUMENT,
    ScopeCachePolicy,
    ScopedTask,
    ScopeSnapshot,
    add_scope_arguments,
    capture,
    from_files,
    param_scope,
    restore,
    scope_from_arguments,
    scoped_task,
)
from prefect_optuna.tasks.scope.frames import recording
from prefect_optuna.tasks.scope.scope import Explanation, ParamScope

__all__ = [
    "SCOPE",
    "SCOPE_ARGUMENT",
    "AutoParameter",
    "ConfigFileError",
    "Explanation",
    "InvalidParameterError",
    "ParamScope",
    "PathNotFoundError",
    "ScopeCachePolicy",
    "ScopeSnapshot",
    "ScopedTask",
    "UnknownNameError",
    "UnreadParameterWarning",
    "add_scope_arguments",
    "auto_param",
    "auto_params",
    "capture",
    "from_files",
    "param_scope",
    "recording",
    "restore",
    "scope_from_arguments",
    "scoped_task",
]
