"""A flow run that is watched from the terminal until it has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from uuid import UUID

from prefect.client.schemas.objects import StateType

from prefect_optuna.blocks import StudyNotFoundError, as_study_storage
from prefect_optuna.blocks.texts import command, markup
from prefect_optuna.deployments.cli.output import note, working
from prefect_optuna.deployments.work_pools import prefect_server
from prefect_optuna.flows.progress import StudyProgress

if TYPE_CHECKING:
    import optuna
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

__all__ = ["watch_study"]

_SECONDS = 1.0
_NO_WORKER_SECONDS = 30.0


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
        if study is not None:
            _show(client, flow_run_id, study, total)
        return _state(client, flow_run_id)


def _wait_for_start(client: SyncPrefectClient, flow_run_id: UUID, pool: str) -> None:
    since, said = time.monotonic(), False
    while _state(client, flow_run_id).type in (StateType.SCHEDULED, StateType.PENDING):
        if not said and time.monotonic() - since > _NO_WORKER_SECONDS:
            said = True
            note(
                "[yellow]No worker has taken it yet.[/] Start one: "
                + markup(command("prefect", "worker", "start", "--pool", pool))
            )
        time.sleep(_SECONDS)


def _show(
    client: SyncPrefectClient, flow_run_id: UUID, study: optuna.Study, total: int | None
) -> None:
    directions = [direction.name.lower() for direction in study.directions]
    seen: set[int] = set()
    with StudyProgress(total, directions) as progress:
        final = False
        while not final:
            final = _state(client, flow_run_id).is_final()
            for trial in study.get_trials(deepcopy=False):
                if trial.state.is_finished() and trial.number not in seen:
                    seen.add(trial.number)
                    progress.update(trial)
            if not final:
                time.sleep(_SECONDS)


def _state(client: SyncPrefectClient, flow_run_id: UUID) -> State:
    state = client.read_flow_run(flow_run_id).state
    if state is None:
        raise RuntimeError(f"The flow run {flow_run_id} has no state.")
    return state
