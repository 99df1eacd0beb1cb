"""Tables of studies, trials and re-evaluations, for terminals of any width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import rich.box
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks.study_summary import is_feasible
from prefect_optuna.deployments.cli.output import markup
from prefect_optuna.flows.session import is_lost
from prefect_optuna.flows.wording import (
    column_width,
    detail_columns,
    fit_columns,
    format_duration,
    format_value,
    shorten,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

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
    states = [_state(trial) for trial in trials]
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


def _state(trial: FrozenTrial) -> str:
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
