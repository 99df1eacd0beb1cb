"""Parameter scopes: values for functions deep inside, without handing them through.

| file | its one idea |
|---|---|
| `facade.py` | `param_scope`, the one name that people use |
| `scope.py`, `accessor.py` | a scope, and a parameter by its name |
| `frames.py` | what is in force where |
| `auto_parameters.py`, `filling.py`, `deferred.py` | `auto_param` functions |
| `values.py`, `origins.py`, `packing.py` | flattening and converting; where from; as bytes |
| `explanation.py`, `unread.py`, `recorded.py` | which layer, what was misspelt, what was read |
| `checking.py` | what is set for a study has a name that is read, and the right type |
| `carrying.py`, `scoped_tasks.py` | to other threads and processes, by hand and by Prefect |
| `files.py` | from files and a command line |
"""

from prefect_optuna.errors import (
    ConfigFileError,
    ConfigFileNotFoundError,
    InvalidParameterError,
    MissingParameterError,
    UnreadParameterWarning,
)
from prefect_optuna.tasks.scope.auto_parameters import AutoParameter, auto_param, auto_params
from prefect_optuna.tasks.scope.facade import (
    ScopeSnapshot,
    add_scope_arguments,
    capture,
    from_files,
    param_scope,
    restore,
    scope_from_arguments,
)
from prefect_optuna.tasks.scope.frames import recording
from prefect_optuna.tasks.scope.scope import Explanation, ParamScope
from prefect_optuna.tasks.scope.scoped_tasks import (
    SCOPE,
    SCOPE_ARGUMENT,
    ScopeCachePolicy,
    ScopedTask,
    scoped_task,
)

__all__ = [
    "SCOPE",
    "SCOPE_ARGUMENT",
    "AutoParameter",
    "ConfigFileError",
    "ConfigFileNotFoundError",
    "Explanation",
    "InvalidParameterError",
    "MissingParameterError",
    "ParamScope",
    "ScopeCachePolicy",
    "ScopeSnapshot",
    "ScopedTask",
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
