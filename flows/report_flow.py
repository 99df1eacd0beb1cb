"""`report`: a study's report drawn again from what is kept, by somebody who does not run it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect_optuna.blocks import ArtifactFileSystem, as_artifact_filesystem, as_study_storage
from prefect_optuna.blocks.errors import ArtifactNotFoundError, ServerUnavailableError
from prefect_optuna.flows.optimize_flow import Storage
from prefect_optuna.flows.report import (
    ReportPublisher,
    StudyStatus,
    render_report,
    report_key,
)
from prefect_optuna.flows.session import lost_trials, state_of
from prefect_optuna.flows.study_flow import study_flow
from prefect_optuna.tasks.archive.record.manifest import read_manifest
from prefect_optuna.tasks.seeding import shared_note


@study_flow(name="report", flow_run_name="{study_name}-report")
def report(
    study_name: str,
    *,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
) -> str:
    """Renew a study's report in Prefect's UI, from its storage and its archive.

    `optimize` keeps the report of a study that it runs. This is for studies that other programs
    tell, and for a server that has lost its artifacts. Nothing of the archive is executed.

    Args:
        study_name: The study.
        storage: Where the study is kept, as `optimize` takes it.
        artifacts: Where its archive is kept, as `optimize` takes it.

    Returns:
        The key of the report among Prefect's artifacts.

    Raises:
        StudyNotFoundError: There is no such study.
        StorageUnavailableError: The storage or the archive cannot be reached.
        ServerUnavailableError: The server has not taken the report.

    Example:
        >>> import optuna
        >>> from prefect_optuna.flows.report_flow import report
        >>> _ = optuna.create_study(storage="sqlite:///docs.db", study_name="by-hand")
        >>> report("by-hand", storage="sqlite:///docs.db", artifacts="memory://docs")
        'study-by-hand'
    """
    status = read_status(study_name, storage=storage, artifacts=artifacts)
    if not ReportPublisher(study_name).publish(render_report(status)):
        raise ServerUnavailableError(
            f"The report of {study_name!r} could not be published; the reason is in the log above."
        )
    return report_key(study_name)


def read_status(
    study_name: str,
    *,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
) -> StudyStatus:
    """How a study stands, seen from outside: by what its storage and its archive hold.

    Args:
        study_name: the study.
        storage: where the study is kept, as `optimize` takes it.
        artifacts: where its archive is kept, as `optimize` takes it.

    Returns:
        The status. The study counts as running while somebody runs it; the time is from its first
        trial's start to its last one's end, or to now.

    Raises:
        StudyNotFoundError: there is no such study.
        StorageUnavailableError: the storage or the archive cannot be reached.

    Example:
        >>> import optuna
        >>> from prefect_optuna.flows.report_flow import read_status
        >>> study = optuna.create_study(storage="sqlite:///docs.db", study_name="from-outside")
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=3)
        >>> read_status("from-outside", storage="sqlite:///docs.db", artifacts="memory://").state
        'completed'
    """
    block = as_study_storage(storage)
    filesystem = as_artifact_filesystem(artifacts)
    study = block.load_study(study_name)
    trials = study.get_trials(deepcopy=False)
    state = state_of(study, trials)
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    # Optuna's times are local and have no zone.
    now = datetime.now()  # noqa: DTZ005
    last = now if state == "running" else max([*starts, *ends], default=None)
    manifest = read_manifest(study)
    picture: bytes | None = None
    if manifest is not None:
        try:
            picture = filesystem.read_path(f"studies/{manifest.uuid}/best.png")
        except ArtifactNotFoundError:
            picture = None
    return StudyStatus(
        study_name=study_name,
        directions=tuple(direction.name.lower() for direction in study.directions),
        trials=trials,
        n_trials=None,
        state=state,
        elapsed=(last - min(starts)).total_seconds() if last and starts else 0.0,
        storage=block.location,
        artifacts=filesystem.location(),
        best_figure=picture,
        notes=shared_note(trials),
        lost=len(lost_trials(trials)),
        study_id=study._study_id,  # pyright: ignore[reportPrivateUsage] - optuna-dashboard's key
    )
