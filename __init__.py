"""Optuna studies as Prefect flows: orchestrated, archived and repeatable.

    from prefect_optuna import Problem, optimize

    result = optimize(Problem(suggest=..., run=..., evaluate=...), study_name="mine", n_trials=100)

What programs use is here, imported when it is first used, so that `import prefect_optuna` alone
costs nothing. The rest is on the floors: `blocks`, `tasks`, `flows`, `deployments`; every error is
in `errors`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefect_optuna.blocks import (
        ArtifactFileSystem,
        JournalStudyStorage,
        PrefectOptunaError,
        RedisStudyStorage,
        SQLStudyStorage,
        load_artifact,
        log_artifact,
        log_metric,
        tag,
    )
    from prefect_optuna.deployments import (
        deploy_optimization,
        deploy_reevaluation,
    )
    from prefect_optuna.flows import (
        Problem,
        StudyResult,
        distribute,
        optimize,
        reevaluate,
        replay,
    )
    from prefect_optuna.tasks import (
        ArchivedStudy,
        OptunaArchive,
        TrialStopped,
        auto_param,
        copy_study,
        param_scope,
        persisted,
        persistence_class,
        scoped_task,
        seeded,
    )

    __version__: str

__all__ = [
    "ArchivedStudy",
    "ArtifactFileSystem",
    "JournalStudyStorage",
    "OptunaArchive",
    "PrefectOptunaError",
    "Problem",
    "RedisStudyStorage",
    "SQLStudyStorage",
    "StudyResult",
    "TrialStopped",
    "__version__",
    "auto_param",
    "copy_study",
    "deploy_optimization",
    "deploy_reevaluation",
    "distribute",
    "load_artifact",
    "log_artifact",
    "log_metric",
    "optimize",
    "param_scope",
    "persisted",
    "persistence_class",
    "reevaluate",
    "replay",
    "scoped_task",
    "seeded",
    "tag",
]

_FLOOR_OF = {
    "ArchivedStudy": "tasks",
    "ArtifactFileSystem": "blocks",
    "JournalStudyStorage": "blocks",
    "OptunaArchive": "tasks",
    "PrefectOptunaError": "blocks",
    "Problem": "flows",
    "RedisStudyStorage": "blocks",
    "SQLStudyStorage": "blocks",
    "StudyResult": "flows",
    "TrialStopped": "tasks",
    "auto_param": "tasks",
    "copy_study": "tasks",
    "deploy_optimization": "deployments",
    "deploy_reevaluation": "deployments",
    "distribute": "flows",
    "load_artifact": "blocks",
    "log_artifact": "blocks",
    "log_metric": "blocks",
    "optimize": "flows",
    "param_scope": "tasks",
    "persisted": "tasks",
    "persistence_class": "tasks",
    "reevaluate": "flows",
    "replay": "flows",
    "scoped_task": "tasks",
    "seeded": "tasks",
    "tag": "blocks",
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
