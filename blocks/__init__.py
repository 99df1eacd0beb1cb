"""Where things are kept: study storages and artifact filesystems, as Prefect blocks.

The blocks are imported at once, since Prefect finds them by that; all other names are imported when
they are first used.
"""

import typing

from prefect_optuna._lazy import lazy_names
from prefect_optuna.blocks.artifact_filesystem import (
    ArtifactFileSystem,
)
from prefect_optuna.blocks.redis_study_storage import (
    RedisStudyStorage,
)
from prefect_optuna.blocks.study_storage import (
    GrpcStudyStorage,
    InMemoryStudyStorage,
    JournalStudyStorage,
    SQLStudyStorage,
    StudyStorage,
)

if typing.TYPE_CHECKING:
    from prefect_optuna.blocks.artifacts import (
        Artifact,
        ArtifactRepository,
        handlers,
        load_artifact,
        log_artifact,
        log_metric,
        log_parameter,
        logged_metrics,
        logged_parameters,
        logged_tags,
        register_handler,
        tag,
    )
    from prefect_optuna.blocks.artifacts import ArtifactPage as ArtifactPage
    from prefect_optuna.blocks.artifacts import JSONArtifact as JSONArtifact
    from prefect_optuna.blocks.artifacts import PickleArtifact as PickleArtifact
    from prefect_optuna.blocks.legacy_redis import import_legacy_redis, read_legacy_redis
    from prefect_optuna.blocks.locations import as_artifact_filesystem, as_study_storage
    from prefect_optuna.blocks.redis_storage import RedisStorage, acl_rules
    from prefect_optuna.blocks.settings import OptunaSettings
    from prefect_optuna.errors import (
        ArchiveError,
        ArtifactError,
        InvalidSettingError,
        PrefectOptunaError,
        StorageUnavailableError,
        StudyNotFoundError,
    )
    from prefect_optuna.errors import ArtifactLoadError as ArtifactLoadError
    from prefect_optuna.errors import ArtifactLogError as ArtifactLogError
    from prefect_optuna.errors import InvalidVersionError as InvalidVersionError
    from prefect_optuna.errors import ReadOnlyError as ReadOnlyError
    from prefect_optuna.errors import VersionNotFoundError as VersionNotFoundError
    from prefect_optuna.errors import WorkerFailedError as WorkerFailedError

__all__ = [
    "ArchiveError",
    "Artifact",
    "ArtifactError",
    "ArtifactFileSystem",
    "ArtifactRepository",
    "GrpcStudyStorage",
    "InMemoryStudyStorage",
    "InvalidSettingError",
    "JournalStudyStorage",
    "OptunaSettings",
    "PrefectOptunaError",
    "RedisStorage",
    "RedisStudyStorage",
    "SQLStudyStorage",
    "StorageUnavailableError",
    "StudyNotFoundError",
    "StudyStorage",
    "acl_rules",
    "as_artifact_filesystem",
    "as_study_storage",
    "handlers",
    "import_legacy_redis",
    "load_artifact",
    "log_artifact",
    "log_metric",
    "log_parameter",
    "logged_metrics",
    "logged_parameters",
    "logged_tags",
    "read_legacy_redis",
    "register_handler",
    "tag",
]

_MODULE_OF = {
    "ArchiveError": "errors",
    "Artifact": "blocks.artifacts",
    "ArtifactError": "errors",
    "ArtifactPage": "blocks.artifacts",
    "ArtifactLoadError": "errors",
    "ArtifactLogError": "errors",
    "ArtifactRepository": "blocks.artifacts",
    "InvalidSettingError": "errors",
    "InvalidVersionError": "errors",
    "JSONArtifact": "blocks.artifacts",
    "OptunaSettings": "blocks.settings",
    "PickleArtifact": "blocks.artifacts",
    "PrefectOptunaError": "errors",
    "ReadOnlyError": "errors",
    "RedisStorage": "blocks.redis_storage",
    "StorageUnavailableError": "errors",
    "StudyNotFoundError": "errors",
    "VersionNotFoundError": "errors",
    "WorkerFailedError": "errors",
    "acl_rules": "blocks.redis_storage",
    "as_artifact_filesystem": "blocks.locations",
    "as_study_storage": "blocks.locations",
    "handlers": "blocks.artifacts",
    "import_legacy_redis": "blocks.legacy_redis",
    "load_artifact": "blocks.artifacts",
    "log_artifact": "blocks.artifacts",
    "log_metric": "blocks.artifacts",
    "log_parameter": "blocks.artifacts",
    "logged_metrics": "blocks.artifacts",
    "logged_parameters": "blocks.artifacts",
    "logged_tags": "blocks.artifacts",
    "read_legacy_redis": "blocks.legacy_redis",
    "register_handler": "blocks.artifacts",
    "tag": "blocks.artifacts",
}

lazy_names(__name__, _MODULE_OF)
