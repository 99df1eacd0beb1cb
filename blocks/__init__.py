"""Where things are kept: study storages and artifact filesystems, as Prefect blocks."""

from prefect_optuna.blocks.artifact_filesystem import ArtifactFileSystem
from prefect_optuna.blocks.errors import (
    ArchiveError,
    ArtifactNotFoundError,
    ArtifactPathError,
    CaptureError,
    InvalidLocationError,
    InvalidProblemError,
    InvalidSettingError,
    PrefectOptunaError,
    ResultEncodingError,
    StorageUnavailableError,
    StudyMismatchError,
    StudyNotFoundError,
    UntrustedArchiveError,
)
from prefect_optuna.blocks.grpc_study_storage import GrpcStudyStorage
from prefect_optuna.blocks.in_memory_study_storage import InMemoryStudyStorage
from prefect_optuna.blocks.journal_study_storage import JournalStudyStorage
from prefect_optuna.blocks.locations import as_artifact_filesystem, as_study_storage
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.sql_study_storage import SQLStudyStorage
from prefect_optuna.blocks.study_storage import StudyStorage

__all__ = [
    "ArchiveError",
    "ArtifactFileSystem",
    "ArtifactNotFoundError",
    "ArtifactPathError",
    "CaptureError",
    "GrpcStudyStorage",
    "InMemoryStudyStorage",
    "InvalidLocationError",
    "InvalidProblemError",
    "InvalidSettingError",
    "JournalStudyStorage",
    "OptunaSettings",
    "PrefectOptunaError",
    "ResultEncodingError",
    "SQLStudyStorage",
    "StorageUnavailableError",
    "StudyMismatchError",
    "StudyNotFoundError",
    "StudyStorage",
    "UntrustedArchiveError",
    "as_artifact_filesystem",
    "as_study_storage",
]
