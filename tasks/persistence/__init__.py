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
from prefect_optuna.tasks.persistence.container import as_dict, from_dict
from prefect_optuna.tasks.persistence.files import (
    ETLConcatable,
    PersistenceOptions,
    attributes_validate,
    create_date_validate,
    get_options_and_cache,
    load,
    save,
    validate_concat_etl_persistence,
)
from prefect_optuna.tasks.persistence.handler import (
    ArrowHandler,
    FileHandler,
    GzipHandler,
    PersistenceHandler,
    PickleHandler,
    ZstdHandler,
)
from prefect_optuna.tasks.persistence.info import (
    PersistentClass,
    autoinc_field,
    ensure_persistence_class,
    field,
    filename,
    missing,
)
from prefect_optuna.tasks.persistence.persisted import (
    PersistedOptions,
    PersistenceCachePolicy,
    PersistenceSerializer,
    persisted,
)
from prefect_optuna.tasks.persistence.persistence_class import (
    auto_generated_content,
    persistence_class,
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
