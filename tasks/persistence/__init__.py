"""Persistence classes: objects that know the name of their file and what belongs into it.

| file | its one idea |
|---|---|
| `persistence_class.py` | declaring a class, and the methods that it gets |
| `info.py` | what is known of a class; values as file names; where files are |
| `handler.py` | a folder of objects, wherever it is; Arrow, and the pickles of `neuralib` |
| `container.py` | the file of an object: versions, classes, from and to dictionaries |
| `files.py` | one object, one file; programs that compute once |
| `persisted.py` | results of Prefect |
"""

from prefect_optuna.errors import (
    AlreadyExistsError,
    AutoIncFieldNotResolvedError,
    CorruptPersistenceError,
    FieldOrderError,
    FileOfOthersError,
    InvalidPersistenceClassError,
    MissingKeyError,
    PathNotFoundError,
    PersistenceConcatError,
    PersistenceError,
    PersistenceIsDirectoryError,
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
    "AlreadyExistsError",
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
    "PathNotFoundError",
    "PersistedOptions",
    "PersistenceCachePolicy",
    "PersistenceConcatError",
    "PersistenceError",
    "PersistenceHandler",
    "PersistenceIsDirectoryError",
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
