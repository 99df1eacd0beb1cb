"""Where things are kept: study storages and artifact filesystems, as Prefect blocks."""

from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.errors import (
    ArchiveError,
    ArtifactError,
    ArtifactExistsError,
    ArtifactLoadError,
    ArtifactLogError,
    ArtifactNotFoundError,
    ArtifactPathError,
    CaptureError,
    CorruptArtifactError,
    EnvironmentMismatchError,
    InvalidLocationError,
    InvalidProblemError,
    InvalidSettingError,
    InvalidVersionError,
    PrefectOptunaError,
    ReadOnlyError,
    ResultEncodingError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageUnavailableError,
    StudyMismatchError,
    StudyNotFoundError,
    UnknownHandlerError,
    UntrustedArchiveError,
    VersionNotFoundError,
)
from prefect_optuna.blocks.grpc_study_storage import GrpcStudyStorage
from prefect_optuna.blocks.in_memory_study_storage import InMemoryStudyStorage
from prefect_optuna.blocks.journal_study_storage import JournalStudyStorage
from prefect_optuna.blocks.locations import as_artifact_filesystem, as_study_storage
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.sql_study_storage import SQLStudyStorage
from prefect_optuna.blocks.stores import ArtifactInfo
from prefect_optuna.blocks.study_storage import StudyStorage

__all__ = [
    "ArchiveError",
    "ArtifactError",
    "ArtifactExistsError",
    "ArtifactFileSystem",
    "ArtifactInfo",
    "ArtifactLoadError",
    "ArtifactLogError",
    "ArtifactNotFoundError",
    "ArtifactPathError",
    "CaptureError",
    "CorruptArtifactError",
    "EnvironmentMismatchError",
    "GrpcStudyStorage",
    "InMemoryStudyStorage",
    "InvalidLocationError",
    "InvalidProblemError",
    "InvalidSettingError",
    "InvalidVersionError",
    "JournalStudyStorage",
    "OptunaSettings",
    "PrefectOptunaError",
    "ReadOnlyError",
    "ResultEncodingError",
    "SQLStudyStorage",
    "StorageNotFoundError",
    "StoragePermissionError",
    "StorageUnavailableError",
    "StudyMismatchError",
    "StudyNotFoundError",
    "StudyStorage",
    "UnknownHandlerError",
    "UntrustedArchiveError",
    "VersionNotFoundError",
    "as_artifact_filesystem",
    "as_study_storage",
]
