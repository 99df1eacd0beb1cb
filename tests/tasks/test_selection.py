"""Which trials a selection means."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.reevaluation.verdicts import select_trials


@pytest.fixture
def study() -> optuna.Study:
    """Trials 0 to 5: 5.0, pruned, 1.0, failed, 3.0, running."""
    study = optuna.create_study()
    for value in (5.0, "pruned", 1.0, "failed", 3.0):
        trial = study.ask()
        if value == "pruned":
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif value == "failed":
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
    study.ask()
    return study


@pytest.mark.parametrize(
    ("trials", "numbers"),
    [
        ("best:1", [2]),
        ("best:2", [2, 4]),
        ("best:99", [2, 4, 0]),
        ("pareto", [2, 4, 0]),
        ("complete", [0, 2, 4]),
        ("pruned", [1]),
        ("failed", [3]),
        ("all", [0, 1, 2, 3, 4]),
        (3, [3]),
        ([4, 0, 4], [4, 0]),
        (lambda trial: trial.value is not None and trial.value > 2, [0, 4]),
    ],
)
def test_trials_are_chosen_by_rank_state_number_or_rule(
    study: optuna.Study, trials: Any, numbers: list[int]
) -> None:
    assert [trial.number for trial in select_trials(study, trials)] == numbers


@pytest.mark.parametrize(
    ("trials", "message"),
    [
        ("worst:2", "best:K.*found 'worst:2'"),
        ("best:0", "best:K"),
        ("best:x", "best:K"),
        ("best:²", "best:K"),
        ("", "best:K"),
        (6, "has no trial 6; it has 6"),
        (-1, "has no trial -1"),
        (5, "Trial 5 is RUNNING and has not ended"),
        ((), "names no trial"),
        (["2"], "found .'2'."),
        ([True], "found .True."),
        (lambda trial: False, "None of the 6 trials"),
    ],
)
def test_a_selection_of_nothing_is_told(study: optuna.Study, trials: Any, message: str) -> None:
    with pytest.raises(InvalidSettingError, match=message):
        select_trials(study, trials)


def test_for_one_number_the_others_are_not_read(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "get_trials", None)
    assert [trial.number for trial in select_trials(study, 1)] == [1]


@pytest.mark.parametrize(
    ("trials", "message"),
    [("best:3", "No trial of study .* is complete"), ("pruned", "is pruned"), ("all", "has ended")],
)
def test_a_study_without_such_trials_is_told(trials: str, message: str) -> None:
    with pytest.raises(InvalidSettingError, match=message):
        select_trials(optuna.create_study(), trials)


def test_with_several_directions_the_best_are_of_the_front() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for values in ((1.0, 1.0), (2.0, 0.0), (0.0, 0.5)):
        study.tell(study.ask(), values)
    assert [trial.number for trial in select_trials(study, "pareto")] == [2, 0]
    assert [trial.number for trial in select_trials(study, "best:1")] == [2]
