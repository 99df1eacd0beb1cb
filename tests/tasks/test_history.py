"""Which trials are run before one that its code does not give again by itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.tasks.archive.record.trial_records import MARK
from prefect_optuna.tasks.reevaluation.replay import histories

START = datetime(2026, 1, 1)  # noqa: DTZ001 - as Optuna has them


def trials(*starts: float, session: str = "a", seconds: float = 1.0) -> list[FrozenTrial]:
    found: list[FrozenTrial] = []
    for number, start in enumerate(starts):
        trial = optuna.trial.create_trial(value=1.0, system_attrs={MARK: {"id": session}})
        trial.number = number
        trial.datetime_start = START + timedelta(seconds=start)
        trial.datetime_complete = trial.datetime_start + timedelta(seconds=seconds)
        found.append(trial)
    return found


def numbers(found: list[list[FrozenTrial]]) -> list[list[int]]:
    return [[trial.number for trial in one] for one in found]


def test_those_of_its_process_that_ran_before_it_in_their_order() -> None:
    ran = trials(0, 2, 4, 6)
    assert numbers(histories([2], ran, [2])) == [[0, 1, 2]]
    ran[0].system_attrs = {MARK: {"id": "another process"}}
    assert numbers(histories([2, 3], ran, [3, 2])) == [[1, 2, 3]]


def test_none_where_that_has_been_tried_or_cannot_be() -> None:
    ran = trials(0, 2, 4)
    assert histories([0], ran, [0]) == []
    assert histories([2], ran, [0, 1, 2]) == []
    assert histories([2], trials(0, 0.5, 4), [2]) == []  # two at once
    assert histories([2], ran, [2], most_seconds=2.5) == []


def test_lost_trials_have_left_nothing() -> None:
    ran: list[Any] = trials(0, 2, 4)
    ran[1].state, ran[1].values = TrialState.RUNNING, None
    assert numbers(histories([2], ran, [2])) == [[0, 2]]
