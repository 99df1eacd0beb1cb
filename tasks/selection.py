"""Selection of trials of a study: `best:5`, `pareto`, `pruned`, 17, or a rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.study_summary import best_first
from prefect_optuna.errors import InvalidSettingError

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
