"""A trial's seed reaches what draws without one, and nothing of it is left afterwards."""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest

from prefect_optuna.tasks import seeded
from prefect_optuna.tasks.seeding import (
    SEED,
    SHARED_KEY,
    first_number,
    recorded_seed,
    seeding,
    shared_note,
    study_seed,
    trial_seed,
)


def drawn() -> list[Any]:
    return [
        random.random(),
        random.gauss(0, 1),
        random.Random().random(),
        np.random.rand(),
        np.random.randn(),
        np.random.default_rng().random(),
        np.random.RandomState().rand(),
        np.random.SeedSequence().entropy,
        np.random.Generator(np.random.SFC64()).random(),
    ]


def state() -> tuple[Any, str]:
    return random.getstate(), str(np.random.get_state(legacy=False))


def test_one_seed_gives_the_same_numbers_and_another_one_others() -> None:
    with seeding(7):
        once = drawn()
    with seeding(7):
        assert drawn() == once
    with seeding(8):
        others = drawn()
    assert not any(a == b for a, b in zip(once, others, strict=True))
    assert drawn()[-1] != drawn()[-1]  # outside, chance is chance


def test_the_shared_generators_begin_as_one_would_seed_them_by_hand() -> None:
    with seeding(7):
        numbers = random.random(), np.random.rand(), np.random.randn()
    assert numbers[0] == random.Random(7).random()
    by_hand = np.random.RandomState(7)
    assert numbers[1:] == (by_hand.rand(), by_hand.randn())


@pytest.mark.parametrize("n_normals", [0, 1])  # the second of a pair waits for the next call
def test_the_state_of_the_caller_is_back_also_after_an_exception(n_normals: int) -> None:
    random.seed(1)
    np.random.seed(1)
    for _ in range(n_normals):
        random.gauss(0, 1)
        np.random.randn()
    before = state()
    with seeding(7):
        np.random.randn()
    assert state() == before
    with pytest.raises(ZeroDivisionError):
        _draw_and_fail()
    assert state() == before


def _draw_and_fail() -> None:
    with seeding(7):
        drawn()
        np.random.set_state(np.random.RandomState(3).get_state())
        raise ZeroDivisionError


def test_a_generator_that_the_caller_has_put_there_is_back() -> None:
    before = np.random.get_bit_generator()
    own = np.random.PCG64(5)
    np.random.set_bit_generator(own)
    try:
        with seeding(7):
            np.random.set_bit_generator(np.random.PCG64(6))
        assert np.random.get_bit_generator() is own
    finally:
        np.random.set_bit_generator(before)


def test_code_that_seeds_itself_is_not_touched() -> None:
    def its_own() -> list[Any]:
        random.seed(1)
        np.random.seed(2)
        rng = np.random.default_rng(3)
        return [random.random(), np.random.randn(), rng.random(), random.Random(4).random()]

    before = its_own()
    with seeding(7):
        assert its_own() == before


def test_one_within_another_leaves_it_as_it_was() -> None:
    with seeding(7):
        first = [random.random(), np.random.randn()]
        last = [random.random(), np.random.randn(), np.random.default_rng().random()]
    with seeding(7) as outer:
        assert [random.random(), np.random.randn()] == first
        with seeding(8) as inner:
            drawn()
        assert [random.random(), np.random.randn(), np.random.default_rng().random()] == last
    assert outer is not None
    assert inner is not None
    assert outer.shared == inner.shared == set()


def test_the_names_of_temporary_files_cannot_be_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set[str]()
    for _ in range(2):
        monkeypatch.setattr(tempfile, "_name_sequence", None)
        with seeding(7):
            names.add(next(tempfile._get_candidate_names()))  # pyright: ignore[reportAttributeAccessIssue]
    assert len(names) == 2


def place_of(study: optuna.Study) -> tuple[Any, int]:
    return study._storage, study._study_id  # pyright: ignore[reportPrivateUsage]


def run_together(*functions: Callable[[], Any]) -> list[Any]:
    results: dict[int, Any] = {}

    def keep(place: int, function: Callable[[], Any]) -> None:
        results[place] = function()

    threads = [threading.Thread(target=keep, args=item) for item in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[place] for place in range(len(functions))]


@pytest.mark.parametrize("shares", [False, True])
def test_threads_have_their_own_entropy_and_say_what_they_share(shares: bool) -> None:
    meet, part = threading.Barrier(2), threading.Barrier(2)

    def trial(seed: int) -> tuple[list[float], set[str]]:
        with seeding(seed) as entered:
            meet.wait()
            numbers = [np.random.default_rng().random() for _ in range(50)]
            if shares:
                random.random()
            part.wait()
        assert entered is not None
        return numbers, entered.shared

    def alone(seed: int) -> list[float]:
        with seeding(seed):
            return [np.random.default_rng().random() for _ in range(50)]

    before = state()
    both = run_together(lambda: trial(1), lambda: trial(2))
    assert [numbers for numbers, _ in both] == [alone(1), alone(2)]
    assert [shared for _, shared in both] == [{"random"} if shares else set()] * 2
    assert state() == before


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_trials_that_overlap_leave_the_caller_s_state_whoever_ends_first(first_to_end: int) -> None:
    first_in, second_in, first_out = (threading.Event() for _ in range(3))
    before = state()

    def one() -> None:
        with seeding(1):
            first_in.set()
            second_in.wait()
            np.random.randn()
            if first_to_end == 1:
                first_out.wait()
        first_out.set()

    def two() -> None:
        first_in.wait()
        with seeding(2):
            second_in.set()
            random.random()
            if first_to_end == 0:
                first_out.wait()
        first_out.set()

    run_together(one, two)
    assert state() == before


def test_a_trial_is_undisturbed_by_one_that_came_and_went_without_drawing() -> None:
    with seeding(1):
        expected = [np.random.randn() for _ in range(3)]
    with seeding(1) as entered:
        numbers = [np.random.randn()]
        run_together(_enter_and_leave)
        numbers += [np.random.randn(), np.random.randn()]
    assert numbers == expected
    assert entered is not None
    assert not entered.shared


def _enter_and_leave() -> None:
    with seeding(2):
        pass


def _draw_in_a_child(answers: Any) -> None:
    answers.put(np.random.default_rng().random())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_a_trial_forks_do_not_all_draw_the_same() -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with seeding(7):
        children = [context.Process(target=_draw_in_a_child, args=(answers,)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join()
    assert answers.get() != answers.get()


class FromTheSharedGenerator(optuna.samplers.RandomSampler):
    """As people write samplers."""

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> float:
        return random.uniform(distribution.low, distribution.high)


@pytest.mark.parametrize("sampler", [optuna.samplers.RandomSampler, FromTheSharedGenerator])
def test_what_the_sampler_draws_is_none_of_the_trial_s(sampler: Any) -> None:
    """When the trial runs again, no sampler is asked."""

    def objective(trial: optuna.trial.BaseTrial) -> tuple[float, list[Any]]:
        return trial.suggest_float("x", 0, 1), drawn()

    def suggested() -> tuple[float, list[Any]]:
        trial = optuna.create_study(sampler=sampler()).ask()
        with seeding(7, trial):
            x, numbers = objective(trial)
        assert "_suggest" not in vars(trial)
        return x, numbers

    random.seed(5)
    (x, numbers), (other_x, others) = suggested(), suggested()
    assert x != other_x  # the trial's seed makes no sampler repeat itself
    with seeding(7):
        fixed = objective(optuna.trial.FixedTrial({"x": x}))
    assert fixed == (x, numbers) == (x, others)
    if sampler is FromTheSharedGenerator:
        random.seed(5)
        assert [x, other_x] == [random.random(), random.random()]  # as without any seed


def test_a_loop_of_ones_own_has_seeds_too() -> None:
    study = optuna.create_study()
    values: list[float] = []
    for _ in range(3):
        trial = study.ask()
        with seeded(trial) as seed:
            values.append(random.random())
        assert trial.user_attrs["seed"] == seed
        study.tell(trial, values[-1])
    storage, study_id = place_of(study)
    root = storage.get_study_system_attrs(study_id)[SEED]
    assert [t.user_attrs["seed"] for t in study.trials] == [trial_seed(root, n) for n in range(3)]
    for trial, value in zip(study.trials, values, strict=True):
        assert recorded_seed(trial, None) == trial.user_attrs["seed"]
        with seeded(optuna.trial.FixedTrial({}, number=trial.number), seed=root):
            assert random.random() == value


def test_the_user_s_own_seed_attribute_stays() -> None:
    study = optuna.create_study()
    study.enqueue_trial({}, user_attrs={"seed": "mine"})
    first = study.ask()
    with seeded(first, seed=1):
        pass
    second = study.ask()
    with seeded(second, seed=1):
        second.set_user_attr("seed", 42)
    assert [trial.user_attrs["seed"] for trial in study.trials] == ["mine", 42]
    assert [recorded_seed(t, None) for t in study.trials] == [trial_seed(1, 0), trial_seed(1, 1)]


def test_seeded_twice_is_the_same_seed_from_the_start() -> None:
    trial = optuna.create_study().ask()
    with seeded(trial) as seed:
        value = random.random()
        with seeded(trial) as again:
            assert random.random() == value
    assert again == seed


def test_a_study_keeps_what_its_seeds_come_from() -> None:
    study = optuna.create_study()
    of = place_of(study)
    drawn_once = study_seed(*of)
    assert study_seed(*of) == drawn_once
    assert study_seed(*of, given=5) == 5
    assert study_seed(*of) == drawn_once
    other = place_of(optuna.create_study())
    assert study_seed(*other, given=5) == 5
    assert study_seed(*other) == 5


def test_who_has_no_recorded_seed_has_none() -> None:
    """A former version has archived it; its attribute `seed` is the user's."""
    trial = optuna.trial.create_trial(value=1.0, user_attrs={"seed": 42})
    assert recorded_seed(trial, None) is None
    assert recorded_seed(trial, 1) == trial_seed(1, trial.number)


def test_a_repetition_has_the_seed_of_the_trial_that_was_lost() -> None:
    lost = optuna.trial.create_trial(value=1.0, system_attrs={"retry_history": [3, 5]})
    assert first_number(lost) == 3
    for nonsense in ([], "35", ["3"], None, {"3": 5}):
        odd = optuna.trial.create_trial(value=1.0, system_attrs={"retry_history": nonsense})
        assert first_number(odd) == odd.number


def test_people_are_told_which_trials_shared_a_generator() -> None:
    trials = [
        optuna.trial.create_trial(value=1.0, user_attrs={SHARED_KEY: ["random"]}),
        optuna.trial.create_trial(value=1.0),
    ]
    (note,) = shared_note(trials)
    assert "may not be reproduced" in note
    assert "(random)" in note
    assert shared_note(trials[1:]) == ()
