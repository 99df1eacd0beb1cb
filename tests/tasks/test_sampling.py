"""The trials of a study as its sampler sees them while it is asked for one."""

from __future__ import annotations

import optuna
import pytest

from prefect_optuna.tasks.sampling import Places


def test_what_a_trial_has_seen_does_not_change_when_others_end_or_are_repeated() -> None:
    study = optuna.create_study()
    places = Places()
    for number in range(5):
        study.tell(study.ask(), float(number))
    running = study.ask()
    seen, _, _ = places.seen(study.get_trials(deepcopy=False))
    numbers = [*range(6)]
    study.tell(running, 5.0)
    study.tell(study.ask(), 6.0)
    later, _, _ = places.seen(study.get_trials(deepcopy=False))
    study.add_trial(optuna.trial.create_trial(value=7.0, system_attrs={"retry_history": [2]}))
    places.seen(study.get_trials(deepcopy=False))
    assert [trial.number for trial in seen] == numbers == [trial.number for trial in seen[:]]
    assert [trial.state.name for trial in seen[4:]] == ["COMPLETE", "RUNNING"]
    assert [trial.number for trial in later] == [*range(7)]
    assert seen[-1].number == 5
    assert [trial.number for trial in seen[-2:]] == [4, 5]
    with pytest.raises(IndexError):
        seen[6]
