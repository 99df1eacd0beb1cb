"""The trials of a study as its sampler sees them while it is asked for one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_optuna.tasks import sampling
from prefect_optuna.tasks.archive.record.trial_records import MARK
from prefect_optuna.tasks.sampling import STATE, Asks, Numbers, Places


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


def test_a_trial_notes_its_place_where_all_before_it_are_told_and_else_what_its_sampler_saw() -> (
    None
):
    study = optuna.create_study()
    asks = Asks(optuna.samplers.RandomSampler(1), alone=True)
    first, second = optuna.create_study(), optuna.create_study()
    assert asks.ask(first, study.get_trials(deepcopy=False)) == 0
    study.ask().suggest_float("x", 0, 1)
    noted = asks.ask(second, study.get_trials(deepcopy=False))
    assert noted == {"seen": [1, {"0": [1, 0]}], "place": 1}
    study.tell(0, 1.0)
    trial = study.ask()
    for asked, expected in [(0, {"seen": [0, {}], "place": 0}), (noted, noted)]:
        trial.storage.set_trial_system_attr(trial._trial_id, MARK, {"asked": asked})  # pyright: ignore[reportPrivateUsage]
        assert sampling.asked_of(study.get_trials()[1]) == expected


FINITE = st.integers() | st.floats(allow_nan=False)


@given(
    st.dictionaries(st.text(), st.lists(FINITE))
    | st.dictionaries(st.text(), st.lists(FINITE) | st.dictionaries(st.text(), FINITE))
)
def test_the_place_of_a_sampler_comes_back(place: dict[str, Any]) -> None:
    noted = json.loads(json.dumps(sampling._without_brackets("id", place)))
    assert sampling._with_brackets(noted) == ["id", place]
    assert list(sampling._with_brackets(noted)[1]) == list(place)
    if place and all(type(own) is list for own in place.values()):
        assert not [one for one in noted if type(one) in (list, dict)]


@given(
    st.lists(
        st.tuples(st.sampled_from(["random_sample", "standard_normal"]), st.integers(0, 700)),
        max_size=6,
    )
)
def test_random_FINITEgo_on_where_others_have_come_to(
    draws: list[tuple[str, int]],
) -> None:
    def numbers() -> tuple[np.random.RandomState, Numbers]:
        sampler = optuna.samplers.RandomSampler(seed=3)
        return sampler._rng.rng, Numbers(sampler)

    generator, own = numbers()
    there, others = numbers()
    for kind, count in draws:
        getattr(generator, kind)(count)
        place = own.place()
        assert place is not None
        others.go(place)
        state = generator.get_state(legacy=False)
        np.testing.assert_equal(there.get_state(legacy=False), state)
        assert own.place() == place


GENERATOR = "_random_sampler._rng._rng"


@pytest.mark.parametrize(
    ("place", "goes_on"),
    [
        ({GENERATOR: [2, 3]}, True),
        ({GENERATOR: [0, 625]}, False),
        ({GENERATOR: [1, -1]}, False),
        ({GENERATOR: [10**8, 3]}, False),
        ({GENERATOR: [-1, 3]}, False),
        ({GENERATOR: [1, 3, "x"]}, False),
        ({GENERATOR: 5}, False),
        (5, False),
    ],
)
def test_random_FINITEgo_on_from_no_place_that_no_sampler_comes_to(
    place: Any, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(sampling._logger, "warning", lambda *words: said.append(words))
    study = optuna.create_study(sampler=optuna.samplers.TPESampler())
    storage, study_id = study._storage, study._study_id
    Asks(study.sampler, alone=True).open(storage, study_id, "first", None, others=False)
    trial = study.ask()
    storage.set_trial_system_attr(trial._trial_id, STATE, ["first", place])
    study.tell(trial, 1.0)
    asks = Asks(optuna.samplers.TPESampler(), alone=True)
    asks.open(storage, study_id, "second", None, others=False)
    assert asks._sequence == ("first" if goes_on else "second")
    assert bool(said) == (not goes_on)


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox])
def test_a_generator_is_given_no_state_whose_next_number_lies_outside_of_it(kind: Any) -> None:
    sampler: Any = optuna.samplers.RandomSampler()
    sampler.own = np.random.Generator(kind(7))
    numbers = Numbers(sampler)
    place: Any = numbers.place()
    numbers.go(place)
    inner = place["own"] if kind is np.random.Philox else place["own"]["state"]
    inner["buffer_pos" if kind is np.random.Philox else "pos"] = -9
    with pytest.raises(ValueError, match="no state of a generator"):
        numbers.go(place)
