"""Flows for schedules: `report` renews a study's report, `gc` removes what deleted ones left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from optuna import Study
from prefect.logging import get_run_logger

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks.study_summary import MOST_LOOKED_AT, look_at
from prefect_optuna.errors import (
    ArchiveError,
    InvalidSettingError,
    PathNotFoundError,
    ServerUnavailableError,
)
from prefect_optuna.flows.events import last_reevaluations, part_note
from prefect_optuna.flows.optimize_flow import Storage
from prefect_optuna.flows.report import (
    ReportPublisher,
    StudyStatus,
    render_report,
    report_key,
)
from prefect_optuna.flows.session import state_of
from prefect_optuna.flows.study_flow import study_flow
from prefect_optuna.tasks import collect_garbage
from prefect_optuna.tasks.archive.record.manifest import read_manifest
from prefect_optuna.tasks.environments import collect_environments, garbage_text
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


def write_report(
    study_name: str,
    path: str | Path,
    *,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
) -> Path:
    """Write a study's report to a file, and leave Prefect alone. Nothing archived is executed.

    Args:
        study_name: the study.
        path: the file. `.html` is one page that loads nothing, with all trials to sort and to
            search, and what the archive says; `.pdf` is the same on paper; `.md` is what Prefect's
            UI shows.
        storage: where the study is kept, as `optimize` takes it.
        artifacts: where its archive is kept, as `optimize` takes it.

    Raises:
        InvalidSettingError: the file is of another kind, or its folder is not there.
        StudyNotFoundError: there is no such study.
        StorageUnavailableError: the storage or the archive cannot be reached.

    Example:
        >>> import optuna
        >>> from prefect_optuna.flows.report_flow import write_report
        >>> study = optuna.create_study(storage="sqlite:///docs.db", study_name="to-a-file")
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=3)
        >>> places = {"storage": "sqlite:///docs.db", "artifacts": "memory://docs"}
        >>> write_report("to-a-file", "study.html", **places).read_text()[:15]
        '<!doctype html>'
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".html", ".pdf", ".md"):
        raise InvalidSettingError(
            f"A report is written to a file that ends in .html, .pdf or .md; found {path.name!r}."
        )
    if not path.parent.is_dir():
        raise InvalidSettingError(f"There is no folder {path.parent}: make it, or name another.")
    filesystem = as_artifact_filesystem(artifacts)
    block = as_study_storage(storage)
    study = block.load_study(study_name)
    status = _status_of(study, block, filesystem)
    if kind == ".md":
        content = render_report(status).markdown.encode()
    else:
        content = _rendered(kind, status, study, filesystem)
    path.write_bytes(content)
    return path


def _rendered(kind: str, status: StudyStatus, study: Study, artifacts: ArtifactFileSystem) -> bytes:
    from prefect_optuna.flows.report_page import render_page, render_pdf
    from prefect_optuna.tasks.archive import ArchivedStudy

    def render(status: StudyStatus, archived: ArchivedStudy | None) -> bytes:
        if kind == ".pdf":
            return render_pdf(status, archived)
        return render_page(status, archived).encode()

    if read_manifest(study) is None:
        return render(status, None)
    try:
        return render(status, ArchivedStudy.of(study, artifacts=artifacts))
    except ArchiveError as error:  # the trials are worth a page without it
        note = f"Its archive is left out: {error}"
        return render(replace(status, notes=(*status.notes, note)), None)


def read_status(
    study_name: str,
    *,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
) -> StudyStatus:
    """Return a study's status as seen from outside: from its storage and its archive.

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
    return _status_of(block.load_study(study_name), block, as_artifact_filesystem(artifacts))


def _status_of(study: Study, block: StudyStorage, filesystem: ArtifactFileSystem) -> StudyStatus:
    summary, trials = look_at(study, MOST_LOOKED_AT)
    state = state_of(study, summary.unfinished, summary.finished)
    notes = (*shared_note(trials), *part_note(summary, trials))
    manifest = read_manifest(study)
    picture: bytes | None = None
    if manifest is not None:
        try:
            picture = filesystem.read_path(f"studies/{manifest.uuid}/best.png")
        except PathNotFoundError:
            picture = None
    return StudyStatus(
        study_name=study.study_name,
        directions=tuple(direction.name.lower() for direction in study.directions),
        trials=trials,
        n_trials=None,
        state=state,
        elapsed=summary.elapsed(until_now=state == "running"),
        storage=block.location,
        artifacts=filesystem.location(),
        best_figure=picture,
        notes=notes,
        lost=summary.lost,
        summary=summary,
        study_id=study._study_id,  # pyright: ignore[reportPrivateUsage] - optuna-dashboard's key
        versions=manifest.versions if manifest else (),
        reevaluations=last_reevaluations(filesystem, manifest),
        user_attrs=study.user_attrs,
    )


@study_flow(name="gc", flow_run_name="gc")
def gc(
    storage: Storage | Sequence[Storage] | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    delete: bool = False,
) -> str:
    """Remove what deleted studies and expired artifacts have left, or say what that would be.

    So go the environments on this machine in which no archived trial has run for 30 days.

    Args:
        storage: Where the studies are kept, or several such places, as `optimize` takes them.
        artifacts: Where their archives are kept.
        delete: Whether to remove it; otherwise it is only looked for.

    Returns:
        What has been removed, or would be, in words.

    Raises:
        InvalidSettingError: A storage is in memory, or cannot be told from others.
        StorageUnavailableError: A storage or the filesystem failed.

    Example:
        >>> from prefect_optuna.flows.report_flow import gc
        >>> gc("journal:///docs.journal", "memory://docs-gc-flow")
        'There is no garbage.'
    """
    garbage = collect_garbage(artifacts, storage, dry_run=not delete)
    text = garbage_text(garbage, collect_environments(dry_run=not delete), dry=not delete)
    get_run_logger().info("%s", text)
    return text
