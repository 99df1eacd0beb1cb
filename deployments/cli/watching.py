"""A flow run that is watched from the terminal until it has ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from optuna.trial import FrozenTrial, TrialState
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import LogSort

from prefect_optuna.blocks import (
    StorageUnavailableError,
    StudyNotFoundError,
    as_study_storage,
)
from prefect_optuna.blocks.study_summary import best_first
from prefect_optuna.deployments.cli.output import markup, note, working
from prefect_optuna.deployments.pools import prefect_server
from prefect_optuna.flows.problem_source import INSTALLS
from prefect_optuna.flows.session import is_lost, owner_of, session_records
from prefect_optuna.flows.temporary_server import prefect_command
from prefect_optuna.flows.wording import StudyProgress, count_words, format_value

if TYPE_CHECKING:
    import optuna
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

_SECONDS = 1.0
_NO_WORKER_SECONDS = 30.0
_LOG_LOOKS = 2


def watch_study(
    flow_run_id: UUID, study_name: str, storage: str, total: int | None, pool: str
) -> State:
    """Show how far a study is, until its flow run has ended.

    Args:
        flow_run_id: the flow run.
        study_name: the study.
        storage: where it is kept.
        total: how many trials are to be finished.
        pool: the work pool, for those who have started no worker.

    Returns:
        How the flow run ended.
    """
    with prefect_server() as client:
        with working("Waiting for a worker ..."):
            _wait_for_start(client, flow_run_id, pool)
        study: optuna.Study | None = None
        while study is None and not _state(client, flow_run_id).is_final():
            try:
                study = as_study_storage(storage).load_study(study_name)
            except StudyNotFoundError:
                time.sleep(_SECONDS)
            except StorageUnavailableError:
                note(
                    "[yellow]The study's storage is out of reach from here.[/] What the run itself "
                    "logs is shown in place of the study."
                )
                _show_log(client, flow_run_id)
        if study is not None:
            follow(study, total, lambda: _state(client, flow_run_id).is_final())
        return _state(client, flow_run_id)


def _wait_for_start(client: SyncPrefectClient, flow_run_id: UUID, pool: str) -> None:
    since, said, shown = time.monotonic(), False, 0
    while (kind := _state(client, flow_run_id).type) in (StateType.SCHEDULED, StateType.PENDING):
        late = kind == StateType.SCHEDULED and time.monotonic() - since > _NO_WORKER_SECONDS
        if late and not said:
            said = True
            note(
                "[yellow]No worker has taken it yet.[/] Start one: "
                + markup(prefect_command("worker", "start", "--pool", pool))
            )
        lines = _log_lines(client, flow_run_id, shown)
        shown += len(lines)
        for line in lines:
            if line.startswith(INSTALLS):
                note(f"[dim]{markup(line)}[/]")
        time.sleep(_SECONDS)


def _show_log(client: SyncPrefectClient, flow_run_id: UUID) -> None:
    """Show what a flow run logs, until it has ended."""
    shown, final, settled = 0, False, 0
    while settled < _LOG_LOOKS:  # the last lines come after the state
        final = final or _state(client, flow_run_id).is_final()
        lines = _log_lines(client, flow_run_id, shown)
        shown += len(lines)
        for line in lines:
            note(markup(line))
        settled = settled + 1 if final and not lines else 0
        time.sleep(_SECONDS)


def _log_lines(client: SyncPrefectClient, flow_run_id: UUID, offset: int) -> list[str]:
    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id]))
    lines = client.read_logs(chosen, limit=200, offset=offset, sort=LogSort.TIMESTAMP_ASC)
    return [line.message for line in lines]


def follow(study: optuna.Study, total: int | None, is_over: Callable[[], bool]) -> None:
    """Show how far a study is, who works on it and what fails, until it is over.

    Args:
        study: the study.
        total: how many trials are to be finished; `None` if that is unknown.
        is_over: whether nothing more will happen; asked each second.
    """
    directions = [direction.name.lower() for direction in study.directions]
    seen: set[int] = set()
    said: dict[str, Any] = {}
    with StudyProgress(total, directions) as progress:
        final = False
        while not final:
            final = is_over()
            for trial in study.get_trials(deepcopy=False):
                if trial.state.is_finished() and trial.number not in seen:
                    seen.add(trial.number)
                    progress.update(trial)
            _say(session_records(study), said)
            if not final:
                time.sleep(_SECONDS)
        if not progress.enabled:  # in a pipe, where nothing moves, the end is said
            trials = study.get_trials(deepcopy=False)
            best = best_first(trials, directions)[:1] if len(directions) == 1 else []
            value = f"; best value {format_value(best[0].values[0])}" if best else ""
            note(f"{', '.join(count_words(trials)) or 'no trials'}{value}")


def _say(records: Mapping[str, Mapping[str, Any]], said: dict[str, Any]) -> None:
    """Say above the progress what is new: how many work on the study, and the first failure."""
    workers = sum(bool(record["alive"]) and "workers" not in record for record in records.values())
    if workers != said.get("workers", 1) and workers:
        note(f"[dim]{workers} {'worker' if workers == 1 else 'workers'}.[/]")
    if workers:
        said["workers"] = workers
    failed = [(record["opened"], record) for record in records.values() if "traceback" in record]
    if failed and "failed" not in said:
        first = min(failed, key=lambda one: one[0])[1]
        said["failed"] = first["failed"]
        note(f"[bold red]Trial {first['failed']} failed:[/]\n{markup(first['traceback'])}")


@dataclass(frozen=True)
class Work:
    """The trials that one run of a study has done.

    Attributes:
        name: where it is, or was, for people.
        alive: whether it goes on.
        finished: how many trials it has ended.
        failed: how many of them have failed by their own error.
    """

    name: str
    alive: bool
    finished: int
    failed: int


def work_done(study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[Work]:
    """List what each run of a study has done, those that have done nothing left out.

    Args:
        study: the study.
        trials: its trials.
    """
    ended = [trial for trial in trials if trial.state.is_finished() and not is_lost(trial)]
    finished = Counter(map(owner_of, ended))
    failed = Counter(owner_of(trial) for trial in ended if trial.state == TrialState.FAIL)
    return [
        Work(
            f"process {record['pid']} on {record['host']}",
            bool(record["alive"]),
            finished[key],
            failed[key],
        )
        for key, record in sorted(session_records(study).items(), key=lambda one: one[1]["opened"])
        if finished[key] or record["alive"]
    ]


def _state(client: SyncPrefectClient, flow_run_id: UUID) -> State:
    state = client.read_flow_run(flow_run_id).state
    if state is None:
        raise RuntimeError(f"The flow run {flow_run_id} has no state.")
    return state
