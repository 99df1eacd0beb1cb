"""Which trials are the best, by the rules of `optuna.Study.best_trial` and `best_trials`.

A study can only be asked for its best trial. Reports need the best ten, and have the trials at
hand without the study, perhaps while another thread tells it more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

__all__ = ["best_first", "is_feasible", "pareto_front"]


def best_first(trials: Iterable[FrozenTrial], directions: Sequence[str]) -> list[FrozenTrial]:
    """The complete, feasible trials, the best one first.

    Args:
        trials: trials of one study, in any state.
        directions: `"minimize"` or `"maximize"` for each value.

    Returns:
        All of them, sorted, where there is one direction. With several, those that are
        Pareto-best, sorted by their values.

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
    """Those of some complete trials that no other one beats in every value.

    Args:
        trials: complete trials.
        directions: `"minimize"` or `"maximize"` for each value.

    Returns:
        The front, in the order of the trials.
    """
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
    """Whether a trial meets all constraints that were set for it: none of them is above zero.

    Example:
        >>> import optuna
        >>> is_feasible(optuna.trial.create_trial(value=1.0, constraints={"mass": 0.5}))
        False
    """
    return all(value <= 0 for value in trial.constraints.values())
