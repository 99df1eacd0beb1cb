"""Persistence classes: objects that know the name of their file and what belongs into it.

| file | its one idea |
|---|---|
| `persistence_class.py`, `fields.py`, `generated.py` | declaring a class, its methods |
| `info.py`, `names.py` | what is known of a class; values as file names |
| `conversion.py`, `same.py` | from and to dictionaries; whether values are the same |
| `handler.py`, `places.py` | a folder of objects, wherever it is; numbers |
| `arrow_handler.py`, `container.py`, `columns.py`, `reading.py` | Arrow files, versions, classes |
| `pickle_handlers.py` | the files of `neuralib` |
| `files.py` | one object, one file |
| `persisted.py`, `cache_policy.py`, `result_store.py`, `serializer.py` | results of Prefect |
| `options.py`, `validators.py` | programs that compute once |
"""

from prefect_optuna.errors import (
    AutoIncFieldNotResolvedError,
    CorruptPersistenceError,
    FieldOrderError,
    FileOfOthersError,
    InvalidPersistenceClassError,
    MissingKeyError,
    PersistenceConcatError,
    PersistenceError,
    PersistenceExistsError,
    PersistenceIsDirectoryError,
    PersistenceNotFoundError,
    PersistenceValidationError,
    PickleRefusedError,
    SchemaChangedError,
    SkippedFileWarning,
    UndeclaredAttributeWarning,
    UnsetFieldError,
    UnsupportedValueError,
    WrongPersistenceClassError,
)
from prefect_optuna.tasks.persistence.arrow_handler import ArrowHandler, ZstdHandler
from prefect_optuna.tasks.persistence.cache_policy import PersistenceCachePolicy
from prefect_optuna.tasks.persistence.conversion import as_dict, from_dict
from prefect_optuna.tasks.persistence.fields import autoinc_field, field, missing
from prefect_optuna.tasks.persistence.files import load, save
from prefect_optuna.tasks.persistence.handler import FileHandler, PersistenceHandler
from prefect_optuna.tasks.persistence.info import (
    PersistentClass,
    ensure_persistence_class,
    filename,
)
from prefect_optuna.tasks.persistence.options import PersistenceOptions, get_options_and_cache
from prefect_optuna.tasks.persistence.persisted import PersistedOptions, persisted
from prefect_optuna.tasks.persistence.persistence_class import (
    auto_generated_content,
    persistence_class,
)
from prefect_optuna.tasks.persistence.pickle_handlers import GzipHandler, PickleHandler
from prefect_optuna.tasks.persistence.serializer import PersistenceSerializer
from prefect_optuna.tasks.persistence.validators import (
    ETLConcatable,
    attributes_validate,
    create_date_validate,
    validate_concat_etl_persistence,
)

__all__ = [
    "ArrowHandler",
    "AutoIncFieldNotResolvedError",
    "CorruptPersistenceError",
    "ETLConcatable",
    "FieldOrderError",
    "FileHandler",
    "FileOfOthersError",
    "GzipHandler",
    "InvalidPersistenceClassError",
    "MissingKeyError",
    "PersistedOptions",
    "PersistenceCachePolicy",
    "PersistenceConcatError",
    "PersistenceError",
    "PersistenceExistsError",
    "PersistenceHandler",
    "PersistenceIsDirectoryError",
    "PersistenceNotFoundError",
    "PersistenceOptions",
    "PersistenceSerializer",
    "PersistenceValidationError",
    "PersistentClass",
    "PickleHandler",
    "PickleRefusedError",
    "SchemaChangedError",
    "SkippedFileWarning",
    "UndeclaredAttributeWarning",
    "UnsetFieldError",
    "UnsupportedValueError",
    "WrongPersistenceClassError",
    "ZstdHandler",
    "as_dict",
    "attributes_validate",
    "auto_generated_content",
    "autoinc_field",
    "create_date_validate",
    "ensure_persistence_class",
    "field",
    "filename",
    "from_dict",
    "get_options_and_cache",
    "load",
    "missing",
    "persisted",
    "persistence_class",
    "save",
    "validate_concat_etl_persistence",
]
