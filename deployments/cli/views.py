"""What a terminal shows: tables of any width, and a flow run that is watched until it has ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import rich.box
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import (
    StorageUnavailableError,
    StudyNotFoundError,
    as_study_storage,
)
from prefect_optuna.blocks.study_summary import best_first, is_feasible
from prefect_optuna.deployments.cli.output import markup, note, working
from prefect_optuna.flows.session import is_lost, owner_of, session_records
from prefect_optuna.flows.temporary_server import prefect_command
from prefect_optuna.flows.wording import (
    StudyProgress,
    column_width,
    count_words,
    detail_columns,
    fit_columns,
    format_duration,
    format_value,
    shorten,
)

if TYPE_CHECKING:
    import optuna
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import State

    from prefect_optuna.flows import Reevaluation

_STYLES = {
    "complete": "green",
    "pruned": "yellow",
    "infeasible": "yellow",
    "failed": "red",
    "lost": "red",
    "running": "cyan",
    "waiting": "dim",
    "reproduced": "green",
    "drifted": "bold yellow",
}


def studies_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Studies, one in a row.

    Args:
        rows: what the command `studies` answers.
    """
    table = _table()
    table.add_column("study", overflow="ellipsis", no_wrap=True, style="bold", ratio=1)
    for heading in ("trials", "best value", "best trial"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("direction", no_wrap=True)
    table.add_column("last trial", justify="right", no_wrap=True, style="dim")
    running = [row for row in rows if row["running"] and row["state"] == "running"]
    for row in rows:
        several = len(row["directions"]) > 1
        if several:
            best, number = f"{row['pareto']} Pareto-best", ""
        elif row["best_values"]:
            best, number = format_value(row["best_values"][0]), str(row["best_trial"])
        else:
            best, number = "", ""
        trials = str(row["finished"])
        if row in running:
            trials += f" +{row['running']}"
        table.add_row(
            _plain(row["name"], 200),
            trials,
            best,
            number,
            ", ".join(row["directions"]) if not several else f"{len(row['directions'])} values",
            ago(row["last"]),
        )
    table.caption = "+n: trials that are running" if running else None
    return table


def trials_table(
    trials: Sequence[FrozenTrial], directions: Sequence[str], *, width: int | None = None
) -> Table:
    """Trials, one in a row, with as many parameters as there is room for.

    Args:
        trials: the trials, in the order in which they are shown.
        directions: `"minimize"` or `"maximize"` for each value.
        width: how many letters wide; by default as the terminal.
    """
    states = [_state_word(trial) for trial in trials]
    fixed: dict[str, list[str]] = {"trial": [str(trial.number) for trial in trials]}
    for index, _ in enumerate(directions):
        heading = "value" if len(directions) == 1 else f"value {index}"
        fixed[heading] = [_value(trial, index) for trial in trials]
    after = {
        "took": [
            format_duration(trial.duration.total_seconds()) if trial.duration else ""
            for trial in trials
        ],
        "state": states,
    }
    params = detail_columns(trials)
    room = width or Console().width
    room -= sum(column_width(name, cells) for name, cells in {**fixed, **after}.items())
    shown = fit_columns(params, room)
    table = _table()
    for name in fixed:
        table.add_column(
            name, justify="right", no_wrap=True, style="" if name == "trial" else "bold"
        )
    for name in shown:
        table.add_column(_plain(name), justify="right", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True, style="dim")
    table.add_column("state", no_wrap=True)
    for row, state in enumerate(states):
        cells = [column[row] for column in (*fixed.values(), *shown.values())]
        style = _STYLES.get(state, "")
        table.add_row(*map(_plain, cells), after["took"][row], f"[{style}]{state}[/]")
    if hidden := len(params) - len(shown):
        table.caption = f"{hidden} more parameters; --json has all"
    return table


def reevaluation_table(result: Reevaluation) -> Table:
    """Re-evaluated trials, one in a row.

    Args:
        result: the re-evaluation.
    """
    from prefect_optuna.tasks.reevaluation.verdicts import constraint_words

    constraints = [constraint_words(trial, format_value) for trial in result.trials]
    table = _table()
    for heading in ("trial", "archived", "now", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    if any(constraints):
        table.add_column("constraints")
    for trial, words in zip(result.trials, constraints, strict=True):
        archived = trial.archived
        values = archived if isinstance(archived, tuple) else (archived,)
        known = [value for value in values if value is not None]
        style = _STYLES.get(trial.verdict, "bold red")
        table.add_row(
            str(trial.number),
            ", ".join(format_value(value, digits=7) for value in known) or "none",
            ", ".join(format_value(value, digits=7) for value in trial.mean) or "none",
            "" if trial.difference is None else f"{trial.difference:.2g}",
            f"[{style}]{trial.verdict}[/]",
            *([markup(words)] if any(constraints) else []),
        )
    return table


def facts(rows: Mapping[str, str | None]) -> str:
    """Names and texts, one below the other; those that are empty are left out.

    It is no table: a long address stays in one piece, to be clicked on or copied.

    Args:
        rows: the text of each name, with rich's markup.

    Example:
        >>> from prefect_optuna.deployments.cli.views import facts
        >>> facts({"pool": "lab", "page": None, "queue": "default"}).splitlines()
        ['[dim]pool [/]  lab', '[dim]queue[/]  default']
    """
    width = max((len(name) for name, text in rows.items() if text), default=0)
    return "\n".join(f"[dim]{name:<{width}}[/]  {text}" for name, text in rows.items() if text)


def ago(moment: datetime | None) -> str:
    """Format the time since something happened, in the unit that matters.

    Args:
        moment: in local time, as Optuna keeps it.

    Example:
        >>> from prefect_optuna.deployments.cli.views import ago
        >>> ago(None)
        ''
    """
    if moment is None:
        return ""
    seconds = (datetime.now() - moment).total_seconds()  # noqa: DTZ005 - Optuna's have no zone
    if seconds < 10:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def _table() -> Table:
    return Table(
        box=rich.box.SIMPLE_HEAD,
        header_style="dim",
        padding=(0, 1, 0, 0),
        show_edge=False,
        caption_justify="left",
        caption_style="dim",
    )


def _state_word(trial: FrozenTrial) -> str:
    if is_lost(trial):
        return "lost"
    if trial.state.name == "COMPLETE" and not is_feasible(trial):
        return "infeasible"
    return {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())


def _value(trial: FrozenTrial, index: int) -> str:
    """The value; of a pruned trial the last one that it reported."""
    if trial.values is None or trial.state.name == "PRUNED":
        last = (
            trial.intermediate_values.get(trial.last_step) if trial.last_step is not None else None
        )
        return "" if last is None or index else f"({format_value(last)})"
    return format_value(trial.values[index])


def _plain(text: str, length: int = 24) -> str:
    """Text of the user's, which may look like rich's markup."""
    return markup(shorten(text, length))


# A flow run that is watched from the terminal until it has ended.

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
    from prefect_optuna.deployments.pools import prefect_server

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
    from prefect.client.schemas.objects import StateType

    from prefect_optuna.flows.problem_source import INSTALLS

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
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
    from prefect.client.schemas.sorting import LogSort

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
