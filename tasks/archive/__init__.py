"""The archive: what a study was, complete and verifiable, and able to run again."""

from prefect_optuna.tasks.archive.archive import OptunaArchive
from prefect_optuna.tasks.archive.archived_study import ArchivedStudy
from prefect_optuna.tasks.archive.capture import Capture
from prefect_optuna.tasks.archive.environment import Environment, GitState
from prefect_optuna.tasks.archive.manifest import BACKUP_CONTEXT, Manifest, Version
from prefect_optuna.tasks.archive.registered import ArchiveReport
from prefect_optuna.tasks.archive.results import decode_result, encode_result
from prefect_optuna.tasks.archive.writer import ResultWriter, read_result

__all__ = [
    "BACKUP_CONTEXT",
    "ArchiveReport",
    "ArchivedStudy",
    "Capture",
    "Environment",
    "GitState",
    "Manifest",
    "OptunaArchive",
    "ResultWriter",
    "Version",
    "decode_result",
    "encode_result",
    "read_result",
]
