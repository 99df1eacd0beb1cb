"""Numbers, durations and counts as people read them, in the terminal and in the report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.artifacts.markdown import one_line
from prefect_optuna.blocks.study_summary import is_feasible
from prefect_optuna.flows.session import is_lost

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
