"""One step of a study: a problem, its trials, and the archive that keeps both.

The names are imported when they are first used: the archive does not need the persistence, nor
either of them a scope.
"""

import typing

from prefect_optuna._lazy import lazy_names

if typing.TYPE_CHECKING:
    from prefect_optuna.errors import TrialStopped, UntrustedArchiveError
    from prefect_optuna.tasks.archive import ArchivedStudy, Environment, OptunaArchive
    from prefect_optuna.tasks.archive.carrying.garbage import collect_garbage, delete_study
    from prefect_optuna.tasks.archive.carrying.portable import copy_study
    from prefect_optuna.tasks.archive.comparison import diff as diff
    from prefect_optuna.tasks.persistence import (
        ArrowHandler,
        PersistenceCachePolicy,
        PersistenceError,
        PersistenceHandler,
        PersistenceOptions,
        PersistenceSerializer,
        autoinc_field,
        persisted,
        persistence_class,
    )
    from prefect_optuna.tasks.persistence import (
        AutoIncFieldNotResolvedError as AutoIncFieldNotResolvedError,
    )
    from prefect_optuna.tasks.persistence import ETLConcatable as ETLConcatable
    from prefect_optuna.tasks.persistence import GzipHandler as GzipHandler
    from prefect_optuna.tasks.persistence import PersistenceConcatError as PersistenceConcatError
    from prefect_optuna.tasks.persistence import PersistentClass as PersistentClass
    from prefect_optuna.tasks.persistence import PickleHandler as PickleHandler
    from prefect_optuna.tasks.persistence import ZstdHandler as ZstdHandler
    from prefect_optuna.tasks.persistence import as_dict as as_dict
    from prefect_optuna.tasks.persistence import attributes_validate as attributes_validate
    from prefect_optuna.tasks.persistence import auto_generated_content as auto_generated_content
    from prefect_optuna.tasks.persistence import create_date_validate as create_date_validate
    from prefect_optuna.tasks.persistence import (
        ensure_persistence_class as ensure_persistence_class,
    )
    from prefect_optuna.tasks.persistence import field as field
    from prefect_optuna.tasks.persistence import filename as filename
    from prefect_optuna.tasks.persistence import from_dict as from_dict
    from prefect_optuna.tasks.persistence import get_options_and_cache as get_options_and_cache
    from prefect_optuna.tasks.persistence import load as load
    from prefect_optuna.tasks.persistence import missing as missing
    from prefect_optuna.tasks.persistence import save as save
    from prefect_optuna.tasks.persistence import (
        validate_concat_etl_persistence as validate_concat_etl_persistence,
    )
    from prefect_optuna.tasks.problem import Problem
    from prefect_optuna.tasks.scope import (
        SCOPE,
        ParamScope,
        ScopeCachePolicy,
        add_scope_arguments,
        auto_param,
        auto_params,
        param_scope,
        scope_from_arguments,
        scoped_task,
    )
    from prefect_optuna.tasks.scope import ScopedTask as ScopedTask
    from prefect_optuna.tasks.scope import capture as capture
    from prefect_optuna.tasks.scope import restore as restore
    from prefect_optuna.tasks.seeding import seeded

__all__ = [
    "SCOPE",
    "ArchivedStudy",
    "ArrowHandler",
    "Environment",
    "OptunaArchive",
    "ParamScope",
    "PersistenceCachePolicy",
    "PersistenceError",
    "PersistenceHandler",
    "PersistenceOptions",
    "PersistenceSerializer",
    "Problem",
    "ScopeCachePolicy",
    "TrialStopped",
    "UntrustedArchiveError",
    "add_scope_arguments",
    "auto_param",
    "auto_params",
    "autoinc_field",
    "collect_garbage",
    "copy_study",
    "delete_study",
    "param_scope",
    "persisted",
    "persistence_class",
    "scope_from_arguments",
    "scoped_task",
    "seeded",
]

_MODULE_OF = {
    "SCOPE": "tasks.scope",
    "ArchivedStudy": "tasks.archive",
    "ArrowHandler": "tasks.persistence",
    "AutoIncFieldNotResolvedError": "errors",
    "ETLConcatable": "tasks.persistence",
    "Environment": "tasks.archive",
    "GzipHandler": "tasks.persistence",
    "OptunaArchive": "tasks.archive",
    "ParamScope": "tasks.scope",
    "PersistenceCachePolicy": "tasks.persistence",
    "PersistenceConcatError": "errors",
    "PersistenceError": "errors",
    "PersistenceHandler": "tasks.persistence",
    "PersistenceOptions": "tasks.persistence",
    "PersistenceSerializer": "tasks.persistence",
    "PersistentClass": "tasks.persistence",
    "PickleHandler": "tasks.persistence",
    "Problem": "tasks.problem",
    "ScopeCachePolicy": "tasks.scope",
    "ScopedTask": "tasks.scope",
    "TrialStopped": "errors",
    "UntrustedArchiveError": "errors",
    "ZstdHandler": "tasks.persistence",
    "add_scope_arguments": "tasks.scope",
    "as_dict": "tasks.persistence",
    "attributes_validate": "tasks.persistence",
    "auto_generated_content": "tasks.persistence",
    "auto_param": "tasks.scope",
    "auto_params": "tasks.scope",
    "autoinc_field": "tasks.persistence",
    "capture": "tasks.scope",
    "collect_garbage": "tasks.archive.carrying.garbage",
    "copy_study": "tasks.archive.carrying.portable",
    "create_date_validate": "tasks.persistence",
    "delete_study": "tasks.archive.carrying.garbage",
    "diff": "tasks.archive.comparison",
    "ensure_persistence_class": "tasks.persistence",
    "field": "tasks.persistence",
    "filename": "tasks.persistence",
    "from_dict": "tasks.persistence",
    "get_options_and_cache": "tasks.persistence",
    "load": "tasks.persistence",
    "missing": "tasks.persistence",
    "param_scope": "tasks.scope",
    "persisted": "tasks.persistence",
    "persistence_class": "tasks.persistence",
    "restore": "tasks.scope",
    "save": "tasks.persistence",
    "scope_from_arguments": "tasks.scope",
    "scoped_task": "tasks.scope",
    "seeded": "tasks.seeding",
    "validate_concat_etl_persistence": "tasks.persistence",
}

lazy_names(__name__, _MODULE_OF)
