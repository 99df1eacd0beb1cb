"""The archive: what a study was, complete and verifiable, and able to run again.

The names are imported when they are first used.
"""

import typing

from prefect_optuna._lazy import lazy_names

if typing.TYPE_CHECKING:
    from prefect_optuna.tasks.archive.archive import OptunaArchive
    from prefect_optuna.tasks.archive.archived_study import ArchivedStudy
    from prefect_optuna.tasks.archive.code.capture import ArchiveReport, Capture
    from prefect_optuna.tasks.archive.comparison import diff
    from prefect_optuna.tasks.archive.record.environment import Environment, GitState
    from prefect_optuna.tasks.archive.record.manifest import BACKUP_CONTEXT, Manifest, Version
    from prefect_optuna.tasks.archive.series.results import (
        ResultWriter,
        decode_result,
        encode_result,
        read_result,
    )

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
    "diff",
    "encode_result",
    "read_result",
]

_MODULE_OF = {
    "BACKUP_CONTEXT": "tasks.archive.record.manifest",
    "ArchiveReport": "tasks.archive.code.capture",
    "ArchivedStudy": "tasks.archive.archived_study",
    "Capture": "tasks.archive.code.capture",
    "Environment": "tasks.archive.record.environment",
    "GitState": "tasks.archive.record.environment",
    "Manifest": "tasks.archive.record.manifest",
    "OptunaArchive": "tasks.archive.archive",
    "ResultWriter": "tasks.archive.series.results",
    "Version": "tasks.archive.record.manifest",
    "decode_result": "tasks.archive.series.results",
    "diff": "tasks.archive.comparison",
    "encode_result": "tasks.archive.series.results",
    "read_result": "tasks.archive.series.results",
}

lazy_names(__name__, _MODULE_OF)
