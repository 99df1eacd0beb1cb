"""What commands have in common: options, tables, answers, and exit codes."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import rich.box
from cyclopts import Group, Parameter
from rich.console import Console, RenderableType
from rich.table import Table

from prefect_optuna.blocks.study_summary import is_feasible
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

# Options that several commands have.


_PLACES = Group("Where it is kept", sort_key=5)
_SCOPE = Group("Parameters of the code", sort_key=4)
_SCHEDULE = Group("Deployment", sort_key=3)

Study: TypeAlias = Annotated[str, Parameter(help="The study, by its name.")]
Json: TypeAlias = Annotated[
    bool,
    Parameter(name="--json", negative="", help="One JSON document on standard output."),
]
Variables: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        metavar="NAME",
        negative="",
        help="A variable that the archived code needs as well, such as *HOME*; repeatable.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Places:
    """Where studies and their archives are kept."""

    storage: Annotated[
        str | None,
        Parameter(
            group=_PLACES,
            metavar="PLACE",
            help="The studies: a saved block, *slug/name*, or a URL such as *sqlite:///study.db*.",
        ),
    ] = None
    artifacts: Annotated[
        str | None,
        Parameter(
            group=_PLACES,
            metavar="PLACE",
            help="The archives: a saved block, a folder, or a URL such as *s3://lab/studies*.",
        ),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """Return them as the functions of this package take them."""
        return {"storage": self.storage, "artifacts": self.artifacts}


HERE: Places = Places()
"""The defaults."""


@Parameter(name="*")
@dataclass(frozen=True)
class Scope:
    """Parameters for `auto_param` functions and `param_scope`."""

    define: Annotated[
        list[str],
        Parameter(
            name=("--define", "-D"),
            group=_SCOPE,
            metavar="KEY=VALUE",
            negative="",
            help="A parameter by its dotted name, such as *-D simulate.dt=0.01*; wins over files.",
        ),
    ] = field(default_factory=list)
    config: Annotated[
        list[Path],
        Parameter(
            name=("--config", "-C"),
            group=_SCOPE,
            metavar="FILE",
            negative="",
            help="A JSON, YAML or TOML file of parameters; a later one wins.",
        ),
    ] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """The parameters; none where none were given."""
        if not self.define and not self.config:
            return {}
        from prefect_optuna.tasks.scope import from_files

        return dict(from_files(*self.config, define=self.define, warn_unread=False))


NO_SCOPE: Scope = Scope()
"""No parameters."""

Pool: TypeAlias = Annotated[
    str | None,
    Parameter(
        group=_SCHEDULE,
        metavar="NAME",
        help="The work pool; by default Prefect's default one, or the only one there is.",
    ),
]
Cron: TypeAlias = Annotated[
    str | None,
    Parameter(
        group=_SCHEDULE, metavar="LINE", help='When it runs by itself, such as *"0 3 \\* \\* \\*"*.'
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Schedule:
    """Options that all deployments have."""

    pool: Pool = None
    cron: Cron = None
    timezone: Annotated[
        str,
        Parameter(group=_SCHEDULE, metavar="ZONE", help="Of the cron line, as *Europe/Berlin*."),
    ] = "UTC"
    name: Annotated[
        str | None,
        Parameter(group=_SCHEDULE, help="Of the deployment; by default as its study."),
    ] = None
    tag: Annotated[
        list[str],
        Parameter(group=_SCHEDULE, metavar="TAG", negative="", help="Of its runs; repeatable."),
    ] = field(default_factory=list)
    version: Annotated[
        str | None,
        Parameter(name="--as-version", group=_SCHEDULE, help="Of the deployment."),
    ] = None
    run: Annotated[
        bool, Parameter(group=_SCHEDULE, negative="", help="Have it run now as well.")
    ] = False

    def keywords(self) -> dict[str, Any]:
        """Return them as the deploy helpers take them."""
        return {
            "pool": self.pool,
            "cron": self.cron,
            "timezone": self.timezone,
            "name": self.name,
            "tags": self.tag,
            "version": self.version,
        }


ON_DEMAND: Schedule = Schedule()
"""No schedule: it runs when somebody asks for it."""


OK = 0
"""Exit code of a command that has done its work."""

FAILED = 1
"""Exit code of a command that has failed; the message says why."""

USAGE = 2
"""The command line itself is wrong."""

DRIFT = 3
"""Trials were run again, and not all of them were reproduced."""

INTERRUPTED = 130
"""Ctrl-C."""


def answer(document: Any, *shown: RenderableType, as_json: bool) -> None:
    """Give the answer: to programs as JSON, or to people.

    Args:
        document: for programs.
        shown: for people, one below the other.
        as_json: which of the two.
    """
    if as_json:
        from prefect_optuna.blocks.texts import json_text

        # A command that goes on, such as `serve`, would keep it in a pipe's buffer.
        print(json_text(plain(document)), flush=True)
        return
    console = _terminal()
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, str))


def note(text: str) -> None:
    """Say something that is not the answer.

    Args:
        text: with rich's markup.
    """
    _terminal(stderr=True, soft_wrap=True).print(text)


# `blocks` imports Prefect, for which help and wrong usage must not wait.


def markup(text: str) -> str:
    """Text of others in rich's markup, as text."""
    from prefect_optuna.blocks import texts

    return texts.markup(text)


def command(*words: str) -> str:
    """Return a command that can be copied into a shell."""
    from prefect_optuna.blocks import texts

    return texts.command(*words)


def _terminal(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    from prefect_optuna.blocks import texts

    return texts.terminal(stderr=stderr, soft_wrap=soft_wrap)


@contextmanager
def working(text: str) -> Generator[None]:
    """Show that something takes its time, where somebody watches.

    What is printed meanwhile, by code that is not ours, goes to standard error.

    Args:
        text: what is done; no markup.
    """
    with _terminal(stderr=True).status(markup(text)), redirect_stdout(sys.stderr):
        yield


def plain(value: Any) -> Any:
    """A value as JSON has it: times as ISO 8601, numbers that JSON lacks as text.

    Example:
        >>> from prefect_optuna.deployments.cli.output import plain
        >>> plain({"value": float("inf"), "params": (1, 2.5)})
        {'value': 'inf', 'params': [1, 2.5]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, datetime):
        return value.astimezone().isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)


# Tables of studies, trials and re-evaluations, for terminals of any width.


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
        >>> from prefect_optuna.deployments.cli.output import facts
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
        >>> from prefect_optuna.deployments.cli.output import ago
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
