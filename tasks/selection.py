"""Selection of trials of a study: `best:5`, `pareto`, `pruned`, 17, or a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.errors import InvalidSettingError

Selection = str | int | Sequence[int] | Callable[[FrozenTrial], bool]
"""`"best:K"`, `"pareto"`, `"all"`, `"complete"`, `"pruned"`, `"failed"`, one number or several,
or a function that says of a finished trial whether it is meant."""

_STATES = {
    "complete": (TrialState.COMPLETE,),
    "pruned": (TrialState.PRUNED,),
    "failed": (TrialState.FAIL,),
    "all": (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL),
}


def select_trials(study: optuna.Study, trials: Selection) -> list[FrozenTrial]:
    """The trials of a study that a selection means.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.selection import select_trials
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=5)
        >>> [trial.number for trial in select_trials(study, [3, 1])]
        [3, 1]
        >>> select_trials(study, "best:1")[0].number == study.best_trial.number
        True
        >>> [trial.number for trial in select_trials(study, lambda trial: trial.number > 2)]
        [3, 4]
    """
    every = study.get_trials(deepcopy=False)
    if isinstance(trials, str):
        return _by_word(study, every, trials)
    if callable(trials):
        chosen = [trial for trial in every if trial.state.is_finished() and trials(trial)]
        if not chosen:
            raise InvalidSettingError(
                f"None of the {len(every)} trials of study {study.study_name!r} is one that "
                "`trials` means."
            )
        return chosen
    numbers = [trials] if isinstance(trials, int) else list(dict.fromkeys(trials))
    if not numbers:
        raise InvalidSettingError("`trials` names no trial.")
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _unknown(trials)
        if not 0 <= number < len(every):
            raise InvalidSettingError(
                f"Study {study.study_name!r} has no trial {number}; it has {len(every)}, "
                "numbered from 0."
            )
        if not every[number].state.is_finished():
            raise InvalidSettingError(
                f"Trial {number} is {every[number].state.name} and has not ended yet."
            )
    return [every[number] for number in numbers]


def _by_word(study: optuna.Study, every: list[FrozenTrial], trials: str) -> list[FrozenTrial]:
    word, colon, count = trials.partition(":")
    if trials in _STATES:
        chosen = [trial for trial in every if trial.state in _STATES[trials]]
        missing = "has ended" if trials == "all" else f"is {trials}"
    elif trials == "pareto" or (word == "best" and colon and count.isdecimal() and int(count) > 0):
        ranked = best_first(every, [direction.name.lower() for direction in study.directions])
        chosen = ranked[: int(count)] if colon else ranked
        missing = "is complete and meets its constraints"
    else:
        raise _unknown(trials)
    if not chosen:
        raise InvalidSettingError(f"No trial of study {study.study_name!r} {missing}.")
    return chosen


def _unknown(found: object) -> InvalidSettingError:
    return InvalidSettingError(
        '`trials` is "best:K", "pareto", "all", "complete", "pruned", "failed", a number, several '
        f"numbers, or a function of a trial; found {found!r}."
    )


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
    return sorted(candidates, key=lambda trial: (*_losses(trial, directions), trial.number))


def pareto_front(trials: Sequence[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """Return the complete trials that no other one beats in every value."""
    if not trials:
        return []
    losses = np.array([_losses(trial, directions) for trial in trials])
    rest = np.lexsort(losses.T[::-1])  # a trial is beaten only by an earlier one
    front: list[int] = []
    while len(rest):
        best = losses[rest[0]]
        same = (losses[rest] == best).all(axis=1)
        front.extend(rest[same].tolist())
        rest = rest[(losses[rest] < best).any(axis=1)]
    return [trials[index] for index in sorted(front)]


def _losses(trial: FrozenTrial, directions: Sequence[str]) -> tuple[float, ...]:
    return tuple(
        -value if direction == "maximize" else value
        for value, direction in zip(trial.values, directions, strict=True)
    )


def is_feasible(trial: FrozenTrial) -> bool:
    """Tell whether a trial meets all constraints that were set for it: none is above zero.

    Example:
        >>> import optuna
        >>> is_feasible(optuna.trial.create_trial(value=1.0, constraints={"mass": 0.5}))
        False
    """
    return all(value <= 0 for value in trial.constraints.values())
