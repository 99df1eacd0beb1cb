"""Trials after those that ran before them: code may keep something from one trial to the next.

A counter, a list of what was tried, the best value so far, a generator that the script has made: a
trial of such code comes out as it did after the same trials only, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from optuna.trial import FrozenTrial

from prefect_optuna.blocks.study_summary import is_lost
from prefect_optuna.tasks.archive.record.trial_records import MARK

MOST_SECONDS = 120.0
"""Maximum number of seconds that the trials before may have taken, unless somebody asks why."""


def histories(
    drifted: Iterable[int],
    trials: Sequence[FrozenTrial],
    ran: Sequence[int],
    *,
    most_seconds: float = MOST_SECONDS,
) -> list[list[FrozenTrial]]:
    """The trials to be run, in order, up to the last that drifted of each process.

    Args:
        drifted: the numbers of those that did not give their values again.
        trials: all of the study.
        ran: the numbers of those that have been run, in order.
        most_seconds: how long they may have taken.

    Returns:
        One list for each process, which ends with a trial that drifted. There is none where
        nothing ran before, where trials ran at the same time, and where it would take too long.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.history import histories
        >>> histories([], [], [])
        []
    """
    last: dict[str, int] = {}
    by_number = {trial.number: trial for trial in trials}
    for number in drifted:
        session = _session(by_number[number])
        last[session] = max(number, last.get(session, -1))
    groups: list[list[FrozenTrial]] = []
    for session, number in last.items():
        ended = [
            trial
            for trial in trials
            if trial.number <= number and _session(trial) == session and _has_run(trial)
        ]
        ended.sort(key=lambda trial: (trial.datetime_start, trial.number))
        numbers = [trial.number for trial in ended]
        if len(ended) < 2 or numbers == list(ran)[: len(numbers)]:
            continue
        one_by_one = not any(_ran_into(trial, other) for trial, other in pairwise(ended))
        seconds = sum(trial.duration.total_seconds() for trial in ended if trial.duration)
        if one_by_one and seconds <= most_seconds:
            groups.append(ended)
    return groups


def _ran_into(one: FrozenTrial, other: FrozenTrial) -> bool:
    ended, began = one.datetime_complete, other.datetime_start
    return ended is None or began is None or ended > began


def _session(trial: FrozenTrial) -> str:
    mark = trial.system_attrs.get(MARK)
    return str(mark.get("id") if isinstance(mark, dict) else mark)


def _has_run(trial: FrozenTrial) -> bool:
    """Tell whether a trial's code came to an end, and it is known when it began."""
    timed = trial.datetime_start is not None and trial.datetime_complete is not None
    return trial.state.is_finished() and timed and not is_lost(trial)
