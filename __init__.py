"""Optuna studies as Prefect flows: orchestrated, archived and repeatable.

    from prefect_optuna.flows import Problem, optimize

    result = optimize(Problem(suggest=..., run=..., evaluate=...), study_name="mine", n_trials=100)

The main names are here as well, imported when they are first used, so that
`import prefect_optuna` alone costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_optuna.blocks import PrefectOptunaError
    from prefect_optuna.flows import Problem, StudyResult, optimize, reevaluate
    from prefect_optuna.tasks import ArchivedStudy, OptunaArchive

    __version__: str

__all__ = [
    "ArchivedStudy",
    "OptunaArchive",
    "PrefectOptunaError",
    "Problem",
    "StudyResult",
    "__version__",
    "optimize",
    "reevaluate",
]

_FLOOR_OF = {
    "ArchivedStudy": "tasks",
    "OptunaArchive": "tasks",
    "PrefectOptunaError": "blocks",
    "Problem": "flows",
    "StudyResult": "flows",
    "optimize": "flows",
    "reevaluate": "flows",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("prefect-optuna")
    if floor := _FLOOR_OF.get(name):
        return getattr(importlib.import_module(f"{__name__}.{floor}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
