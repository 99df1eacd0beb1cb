"""A study in words: numbers and durations, the progress line, the table of its best trials."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any

import rich
import rich.box
from optuna.trial import FrozenTrial, TrialState
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text
from rich.theme import Theme

from prefect_optuna.blocks.study_summary import best_first, is_feasible
from prefect_optuna.blocks.texts import markup, one_line
from prefect_optuna.flows.session import is_lost

if TYPE_CHECKING:
    from typing import Self

MAX_CELL = 24
"""Letters in the widest cell of a table."""

_STATE_NAMES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def format_value(value: Any, digits: int = 5) -> str:
    """Format a value or parameter with a number of significant digits."""
    if isinstance(value, float):
        if math.isinf(value):
            return "∞" if value > 0 else "-∞"
        return f"{value:.{digits}g}"
    return str(value)


def format_duration(seconds: float) -> str:
    """A duration in the two units that matter.

    Example:
        >>> [format_duration(s) for s in (0.0004, 0.0123, 12.34, 200, 7500, 200_000)]
        ['400 µs', '12 ms', '12.3 s', '3 min 20 s', '2 h 05 min', '2 d 07 h']
    """
    if seconds < 0.00095:
        return f"{1e6 * seconds:.0f} µs"
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, part_unit in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part:02d} {part_unit}"
    raise AssertionError("unreachable")


def count_states(trials: Iterable[FrozenTrial]) -> dict[str, int]:
    """Count the complete, pruned, failed, running and waiting trials; lost ones do not count.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> trial = study.tell(study.ask(), 1.0)
        >>> count_states(study.trials)["complete"]
        1
    """
    return named_states(Counter(trial.state for trial in trials if not is_lost(trial)))


def named_states(states: Mapping[TrialState, int], lost: int = 0) -> dict[str, int]:
    """Name the states that trials are in, without those of the failed ones that were lost."""
    counts = {name: states.get(state, 0) for state, name in _STATE_NAMES.items()}
    return {**counts, "failed": counts["failed"] - lost}


def count_words(trials: Iterable[FrozenTrial]) -> list[str]:
    """Count the trials by state, in words; states without any are left out.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> for mass in -1.0, 1.0, 2.0:
        ...     study.add_trial(optuna.trial.create_trial(value=0.5, constraints={"mass": mass}))
        >>> count_words(study.trials)
        ['3 complete (2 infeasible)']
    """
    trials = list(trials)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return state_words(count_states(trials), sum(not is_feasible(trial) for trial in complete))


def state_words(counts: Mapping[str, int], infeasible: int = 0) -> list[str]:
    """Say in words how many trials are in which state, of as many as `count_states` names."""
    words = [f"{count:,} {name}" for name, count in counts.items() if count]
    if infeasible:
        words[0] += f" ({infeasible:,} infeasible)"
    return words


def constraint_columns(trials: Sequence[FrozenTrial]) -> dict[str, list[str]]:
    """The columns of a table of trials that show their constraints.

    Example:
        >>> import optuna
        >>> constraint_columns([optuna.trial.create_trial(value=1.0, constraints={"mass": 0.5})])
        {'mass ≤ 0': ['0.5']}
    """
    constraints = [trial.constraints for trial in trials]
    return {
        f"{shorten(name, MAX_CELL - 4)} ≤ 0": [
            format_value(own[name], digits=4) if name in own else "" for own in constraints
        ]
        for name in dict.fromkeys(name for own in constraints for name in own)
    }


def detail_columns(trials: Sequence[FrozenTrial]) -> dict[str, list[str]]:
    """The columns of a table of trials after the values: constraints, metrics and parameters.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks import log_metric
        >>> study = optuna.create_study()
        >>> trial = study.ask()
        >>> x = trial.suggest_float("x", 2, 2)
        >>> log_metric(trial, "rmse", 0.25)
        >>> detail_columns([study.tell(trial, 1.0)])
        {'rmse': ['0.25'], 'x': ['2']}
    """
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    params = {
        name: [format_value(trial.params.get(name, ""), digits=4) for trial in trials]
        for name in names
    }
    return constraint_columns(trials) | _metric_columns(trials) | params


def _metric_columns(trials: Sequence[FrozenTrial]) -> dict[str, list[str]]:
    """Return a column for each metric that `log_metric` has kept."""
    from prefect_optuna.blocks import logged_metrics  # with every format of artifacts

    metrics = [logged_metrics(trial) for trial in trials]
    return {
        shorten(name): [format_value(own.get(name, ""), digits=4) for own in metrics]
        for name in dict.fromkeys(name for own in metrics for name in own)
    }


def shorten(text: str, length: int = MAX_CELL) -> str:
    """Shorten a user's text to one line of at most `length` characters.

    Example:
        >>> shorten("learning rate of the first layer", 16)
        'learning rate o…'
    """
    return one_line("".join(c if c.isprintable() else " " for c in text), length)


def column_width(name: str, cells: Sequence[str]) -> int:
    """Return the width of a table's column, in characters, with the gap beside it."""
    return 2 + min(MAX_CELL, max(map(len, (name, *cells))))


def fit_columns(columns: Mapping[str, Sequence[str]], room: int) -> dict[str, Sequence[str]]:
    """Return the first columns of a table that fit.

    Example:
        >>> list(fit_columns({"alpha": ["0.1"], "beta": ["0.2"], "gamma": ["0.3"]}, room=14))
        ['alpha', 'beta']
    """
    fitting = {}
    for name, cells in columns.items():
        room -= column_width(name, cells)
        if room < 0:
            break
        fitting[name] = cells
    return fitting


# A study in the terminal: a progress line while it runs, a table of its best trials after.


_STATES = {
    TrialState.COMPLETE: ("complete", "green"),
    TrialState.PRUNED: ("pruned", "yellow"),
    TrialState.FAIL: ("failed", "red"),
}


class StudyProgress:
    """One line that tells how far a study is: trials by state, best value, time left.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> with StudyProgress(total=3) as progress:
        ...     study.optimize(
        ...         lambda trial: trial.suggest_float("x", 0, 1),
        ...         n_trials=3,
        ...         callbacks=[lambda study, trial: progress.update(trial)],
        ...     )
    """

    def __init__(
        self,
        total: int | None,
        directions: Sequence[str] = ("minimize",),
        *,
        trials: Iterable[FrozenTrial] = (),
        enabled: bool | None = None,
        console: Console | None = None,
    ) -> None:
        self._directions = directions
        self._counts = dict.fromkeys(_STATES, 0)
        self._best: list[FrozenTrial] = []
        self._console = console or _log_console() or Console(stderr=True)
        seen = self._console.is_terminal or self._console.is_jupyter
        self.enabled: bool = seen if enabled is None else enabled
        if not self.enabled:
            return
        for trial in trials:
            self._count(trial)
        self._total = total
        self._cell: _Cell | None = _Cell() if self._console.is_jupyter else None
        self._progress = Progress(
            *_columns(self._console.width, has_total=total is not None),
            console=self._console,
            refresh_per_second=5,
        )
        self._task = self._progress.add_task("", total=total)
        self._show()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Show the line."""
        if self.enabled and self._cell is None:
            with ExitStack() as stack:
                # Prefect's console knows the styles of its log only.
                stack.enter_context(self._console.use_theme(Theme()))
                stack.enter_context(self._progress)
                self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the line as it is, and stop updating it."""
        if not self.enabled:
            return
        if self._cell is not None:
            self._cell.show(self._as_html(), at_once=True)
        else:
            self._open.close()

    def update(self, trial: FrozenTrial) -> None:
        """Count a trial that has ended. Trials lost to a crash do not count."""
        if not self.enabled:
            return
        self._count(trial)
        self._show()

    def _count(self, trial: FrozenTrial) -> None:
        if trial.state not in self._counts or is_lost(trial):
            return
        self._counts[trial.state] += 1
        if trial.state == TrialState.COMPLETE:
            best = best_first([*self._best, trial], self._directions)
            self._best = best[:1] if len(self._directions) == 1 else best

    def _as_html(self) -> str:
        """The line in a notebook, whose cells take HTML."""
        done = sum(self._counts.values())
        total = f' max="{self._total}" value="{min(done, self._total)}"' if self._total else ""
        words = [f"{done} of {self._total} trials" if self._total else f"{done} trials"]
        words += [f"{count} {_STATES[s][0]}" for s, count in self._counts.items() if count]
        if self._best and len(self._directions) == 1:
            words.append(f"best {format_value(self._best[0].values[0])}")
        elif self._best:
            words.append(f"{len(self._best)} Pareto-best")
        return f'<progress{total} aria-label="trials"></progress> {escape(" · ".join(words))}'

    def _show(self) -> None:
        if self._cell is not None:
            self._cell.show(self._as_html())
            return
        counts = " ".join(
            f"[{colour}]{self._counts[state]} {name}[/]"
            for state, (name, colour) in _STATES.items()
            if self._counts[state]
        )
        if not self._best:
            best = ""
        elif len(self._directions) > 1:
            best = f"[bold]{len(self._best)}[/] Pareto-best"
        else:
            best = f"best [bold]{format_value(self._best[0].values[0])}[/]"
        self._progress.update(
            self._task, completed=sum(self._counts.values()), counts=counts, best=best
        )


class _Cell:
    """An output of a notebook's cell that is replaced, five times a second at most."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._next = 0.0

    def show(self, html: str, *, at_once: bool = False) -> None:
        from IPython.display import HTML, display  # of the notebook in which this runs

        now = time.monotonic()
        if now < self._next and not at_once:
            return
        self._next = now + 0.2
        if self._handle is None:
            self._handle = display(HTML(html), display_id=True)
        else:
            self._handle.update(HTML(html))


def best_trials_table(
    trials: Iterable[FrozenTrial],
    directions: Sequence[str] = ("minimize",),
    k: int = 5,
    *,
    width: int | None = None,
) -> Table:
    """The best trials of a study as a table for the terminal.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=9)
        >>> best_trials_table(study.trials, k=3).row_count
        3
    """
    ranked = best_first(trials, directions)
    best = ranked[:k]
    title = "Best trials" if len(directions) == 1 else f"{len(ranked)} Pareto-best trials"
    if len(directions) > 1 and len(ranked) > k:
        title += f", the first {k}"
    numbers = {"trial": [str(trial.number) for trial in best]}
    for index, _ in enumerate(directions):
        heading = "value" if len(directions) == 1 else f"value {index}"
        numbers[heading] = [format_value(trial.values[index]) for trial in best]
    durations = {"took": [_took(trial) for trial in best]}
    params = detail_columns(best)
    room = width or rich.get_console().width
    room -= sum(column_width(name, cells) for name, cells in (numbers | durations).items())
    shown = fit_columns(params, room)
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        caption=f"{len(params) - len(shown)} more parameters" if len(shown) < len(params) else None,
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for name in numbers:
        table.add_column(
            name, justify="right", style="bold" if name != "trial" else "", no_wrap=True
        )
    for name in shown:
        table.add_column(_plain(name), justify="right", no_wrap=True)
    table.add_column("took", justify="right", style="dim", no_wrap=True)
    cells = [*numbers.values(), *([_plain(c) for c in column] for column in shown.values())]
    for row in zip(*cells, *durations.values(), strict=True):
        table.add_row(*row)
    return table


def _took(trial: FrozenTrial) -> str:
    return format_duration(trial.duration.total_seconds()) if trial.duration else ""


def _columns(width: int, *, has_total: bool) -> list[ProgressColumn]:
    """Choose the columns that fit: the numbers first, then the time, then states, the bar last."""
    done = "{task.completed:.0f}/{task.total:.0f}" if has_total else "{task.completed:.0f}"
    columns: list[ProgressColumn] = [SpinnerColumn()]
    if has_total and width >= 60:
        columns.append(
            BarColumn(
                complete_style="cyan",
                finished_style="green",
                bar_width=min(40, width - 80) if width >= 100 else 10,
            )
        )
    columns.append(TextColumn(f"{done} trials" if width >= 50 else done, table_column=_one_line()))
    if width >= 90:
        columns.append(TextColumn("{task.fields[counts]}", table_column=_one_line()))
    columns.append(TextColumn("{task.fields[best]}", table_column=_one_line()))
    if width >= 40:
        columns.append(_TimeLeftColumn() if has_total else TimeElapsedColumn())
    return columns


class _TimeLeftColumn(TimeRemainingColumn):
    """The time left, and at the end the time it took; it says which."""

    def __init__(self) -> None:
        super().__init__(compact=True, elapsed_when_finished=True)

    def render(self, task: Task) -> Text:
        return super().render(task).append(" in all" if task.finished else " left")


def _one_line() -> Column:
    return Column(no_wrap=True, overflow="ellipsis")


def _log_console() -> Console | None:
    """The console of Prefect's log, where that is standard error too."""
    for handler in logging.getLogger("prefect").handlers:
        if isinstance(handler, PrefectConsoleHandler) and handler.stream is sys.stderr:
            return handler.console
    return None


def _plain(text: str) -> str:
    """Text of the user's, which may look like rich's markup."""
    return markup(shorten(text))
