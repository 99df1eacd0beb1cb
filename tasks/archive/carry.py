"""`copy_study`: a study with its archive from anywhere to anywhere."""

from __future__ import annotations

from pathlib import Path

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.tasks.archive.parcel import pack, unpacked, verify

__all__ = ["copy_study"]


def copy_study(
    *,
    from_study_name: str,
    from_storage: StudyStorage | str | Path | None = None,
    to_storage: StudyStorage | str | Path | None = None,
    to_study_name: str | None = None,
    from_artifacts: ArtifactFileSystem | str | Path | None = None,
    to_artifacts: ArtifactFileSystem | str | Path | None = None,
) -> None:
    """Copy a study with its archive, between any two storages and artifact filesystems.

    Unlike `optuna.copy_study`, it takes along the files: code, values, results, and what
    `log_artifact` and Optuna's `upload_artifact` have stored. Signatures hold for the copy as well.
    Either the copy is complete, or there is none. Only the state of CMA-ES, which Optuna keeps as
    pickles in attributes of trials, stays behind: CMA-ES finds it again from the trials.

    Args:
        from_study_name: the study.
        from_storage: where it is; what `optimize` takes, with its default.
        to_storage: where it goes, likewise.
        to_study_name: its name there; by default the same.
        from_artifacts: where its archive is; what `optimize` takes, with its default.
        to_artifacts: where that goes; by default it stays where it is, and belongs to both.

    Raises:
        StudyNotFoundError: there is no such study.
        StudyMismatchError: there is a study of that name where it goes.
        ArchiveError: a file of the archive is missing or damaged.
        StorageUnavailableError: a storage or a filesystem failed.

    Example:
        >>> from prefect_optuna.blocks import InMemoryStudyStorage
        >>> from prefect_optuna.tasks import copy_study
        >>> here = InMemoryStudyStorage(name="docs-copy")
        >>> study = here.create_study("parabola", load_if_exists=True)
        >>> study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2, n_trials=2)
        >>> there = InMemoryStudyStorage()
        >>> copy_study(
        ...     from_study_name="parabola", from_storage=here, to_storage=there,
        ...     from_artifacts="memory://docs-copy",
        ... )
        >>> there.load_study("parabola").best_value == study.best_value
        True
    """
    source = as_artifact_filesystem(from_artifacts)
    target = source if to_artifacts is None else as_artifact_filesystem(to_artifacts)
    study = as_study_storage(from_storage).load_study(from_study_name)
    name = to_study_name or from_study_name
    parcel = pack(study, source)
    verify(parcel)
    with unpacked(parcel, as_study_storage(to_storage), target, name):
        pass
