"""Summary of a study: how many trials it has, and which are the best."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from optuna import Study

LOST = "prefect_optuna:lost"
"""The system attribute of a trial that says who gave it up, and why."""

MOST_BEST = 100
"""The best trials that a summary names, of a study with one direction."""

MOST_LOOKED_AT = 5000
"""Maximum number of a larger study's trials of which tables and pictures are made."""


@runtime_checkable
class SummarizingStorage(Protocol):
    """A storage that keeps sums, so that a large study can be looked at without its trials."""

    def summarize(self, study_id: int) -> StudySummary:
        """Sum up a study."""
        ...

    def some_trials(self, study_id: int, number: int) -> list[FrozenTrial]:
        """Read about so many finished trials, from the study's beginning to its end."""
        ...


@dataclass(frozen=True)
class StudySummary:
    """Summary of a study, which needs not all of its trials to be read.

    Attributes:
        states: the number of trials in each state, lost ones too.
        lost: the number of those that failed with their process and do not count.
        infeasible: the number of complete trials that break a constraint.
        best: the complete, feasible trials, the best one first: at most 100, and with several
            directions those that no other one beats in every value.
        unfinished: the trials that run or wait, by their numbers.
        started: when the first trial was started, in local time; `None` if none was.
        last: when a trial was last started or ended, in local time.
        since_best: the number of trials after the best one that have ended; `None` if unknown.
        yesterday: how many had ended 24 hours ago, and the best one then; `None` if unknown.

    Example:
        >>> import optuna
        >>> from prefect_optuna.blocks.study_summary import summarize
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=5)
        >>> summary = summarize(study)
        >>> summary.n_trials, summary.best[0].number == study.best_trial.number
        (5, True)
    """

    states: Counter[TrialState]
    lost: int
    infeasible: int
    best: Sequence[FrozenTrial]
    unfinished: Sequence[FrozenTrial]
    started: datetime | None
    last: datetime | None
    since_best: int | None = None
    yesterday: tuple[int, FrozenTrial | None] | None = None

    @property
    def n_trials(self) -> int:
        """The number of all trials."""
        return self.states.total()

    @property
    def finished(self) -> int:
        """The number of trials that have ended and count."""
        ended = sum(number for state, number in self.states.items() if state.is_finished())
        return ended - self.lost

    def elapsed(self, *, until_now: bool) -> float:
        """The seconds from the first trial's start to the last one's end, or to now."""
        return seconds_between(self.started, self.last, until_now=until_now)


def span_of(trials: Sequence[FrozenTrial]) -> tuple[datetime | None, datetime | None]:
    """When the first trial was started, and when one was last started or ended."""
    starts = [trial.datetime_start for trial in trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in trials if trial.datetime_complete]
    return min(starts, default=None), max([*starts, *ends], default=None)


def seconds_between(started: datetime | None, last: datetime | None, *, until_now: bool) -> float:
    """The seconds of such a span, or to now; 0 where no trial was started."""
    end = datetime.now() if until_now else last  # noqa: DTZ005 - as Optuna's times are
    return (end - started).total_seconds() if end and started else 0.0


def summarize(study: Study) -> StudySummary:
    """Sum up a study, from what its storage keeps for that, where it does; else from all trials.

    Raises:
        StorageUnavailableError: the storage cannot be reached.
    """
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    if isinstance(storage, SummarizingStorage):
        return storage.summarize(study._study_id)  # pyright: ignore[reportPrivateUsage]
    directions = [direction.name.lower() for direction in study.directions]
    return summary_of(study.get_trials(deepcopy=False), directions)


def look_at(study: Study, most: int) -> tuple[StudySummary, Sequence[FrozenTrial]]:
    """Sum up a study and read its trials, or, where there are more than `most`, some of them.

    Some are the best ones, those that have not ended, and others from its beginning to its end. A
    storage that keeps no sums gives all.
    """
    summary, storage = summarize(study), study._storage  # pyright: ignore[reportPrivateUsage]
    if summary.n_trials <= most or not isinstance(storage, SummarizingStorage):
        return summary, study.get_trials(deepcopy=False)
    some = storage.some_trials(study._study_id, most)  # pyright: ignore[reportPrivateUsage]
    chosen = {trial.number: trial for trial in (*some, *summary.best, *summary.unfinished)}
    return summary, [chosen[number] for number in sorted(chosen)]


def summary_of(trials: Sequence[FrozenTrial], directions: Sequence[str]) -> StudySummary:
    """Sum up the trials of a study."""
    ranked = best_first(trials, directions)
    started, last = span_of(trials)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return StudySummary(
        states=Counter(trial.state for trial in trials),
        lost=sum(map(is_lost, trials)),
        infeasible=sum(not is_feasible(trial) for trial in complete),
        best=ranked[:MOST_BEST] if len(directions) == 1 else ranked,
        unfinished=[trial for trial in trials if not trial.state.is_finished()],
        started=started,
        last=last,
    )


def is_lost(trial: FrozenTrial) -> bool:
    """Tell whether a trial was lost to a crash or an interruption, and so does not count.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> trial = study.tell(study.ask(), 1.0)
        >>> is_lost(trial)
        False
    """
    return trial.state == TrialState.FAIL and LOST in trial.system_attrs


def best_first(trials: Iterable[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """The complete, feasible trials, the best one first.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(direction="maximize")
        >>> study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=20)
        >>> best_first(study.trials, ["maximize"])[0].number == study.best_trial.number
        True
    """
    candidates = [
        trial for trial in trials if trial.state == TrialState.COMPLETE and is_feasible(trial)
    ]
    if len(directions) > 1:
        candidates = pareto_front(candidates, directions)
        return sorted(
            candidates, key=lambda trial: (losses_of(trial.values, directions), trial.number)
        )
    sign = -1 if directions[0] == "maximize" else 1
    return sorted(candidates, key=lambda trial: (sign * trial.values[0], trial.number))


def pareto_front(trials: Sequence[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """Return the complete trials that no other one beats in every value."""
    rows = pareto_rows([losses_of(trial.values, directions) for trial in trials])
    return [trials[row] for row in rows]


def pareto_rows(losses: Sequence[tuple[float, ...]]) -> list[int]:
    """Return the rows that no other row beats in every loss."""
    if not losses:
        return []
    table = np.array(losses)
    rest = np.lexsort(table.T[::-1])  # a row is beaten only by an earlier one
    front: list[int] = []
    while len(rest):
        best = table[rest[0]]
        same = (table[rest] == best).all(axis=1)
        front.extend(rest[same].tolist())
        rest = rest[(table[rest] < best).any(axis=1)]
    return sorted(front)


def losses_of(values: Sequence[float], directions: Sequence[str]) -> tuple[float, ...]:
    """Turn the values of a trial into what is to be small."""
    return tuple(
        -value if direction == "maximize" else value
        for value, direction in zip(values, directions, strict=True)
    )


def is_feasible(trial: FrozenTrial) -> bool:
    """Tell whether a trial meets all constraints that were set for it: none is above zero.

    Example:
        >>> import optuna
        >>> is_feasible(optuna.trial.create_trial(value=1.0, constraints={"mass": 0.5}))
        False
    """
    constraints = trial.constraints
    return not constraints or all(value <= 0 for value in constraints.values())
