"""What a study takes on the server, and that nothing stays when it goes."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from prefect_optuna.blocks.redis_storage import RedisStorage

Open = Callable[..., RedisStorage]
MINIMIZE = [StudyDirection.MINIMIZE]
BIG = "å" + "x" * 5_000_000


def keys(storage: RedisStorage) -> set[bytes]:
    return set(storage.client.keys(f"{{{storage.namespace}[:}}]*"))


def size(storage: RedisStorage) -> int:
    return sum(storage.client.memory_usage(key, samples=0) for key in keys(storage))


def test_deleting_a_study_frees_every_key_of_it(open_storage: Open) -> None:
    storage = open_storage()
    other = storage.create_new_study(MINIMIZE, "other")
    storage.create_new_trial(other)
    before = keys(storage)
    study = optuna.create_study(storage=storage)
    study.set_user_attr("k", 1)
    study.enqueue_trial({"x": 1.0})
    study.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=3)
    for number in range(3):
        study.ask().set_user_attr("k", number)
    storage.flush()
    assert len(keys(storage)) > len(before) + 8
    storage.delete_study(study._study_id)
    assert keys(storage) == before
    assert storage.client.hgetall(storage._registry.studies) == {b"1": b"other"}


def test_a_deleted_study_is_gone_for_everybody_and_its_id_is_never_used_again(
    open_storage: Open,
) -> None:
    storage, other = open_storage(), open_storage(write_mode="strict")
    study = storage.create_new_study(MINIMIZE, "s")
    trial = other.create_new_trial(study)
    storage.delete_study(study)
    for call in (
        lambda: other.get_trial(trial),
        lambda: other.set_trial_user_attr(trial, "k", 1),
        lambda: other.get_study_user_attrs(study),
        lambda: other.create_new_trial(study),
        lambda: other.delete_study(study),
    ):
        with pytest.raises(KeyError):
            call()
    assert other.create_new_study(MINIMIZE, "s") == study + 1
    assert storage.get_all_trials(study + 1) == []


def test_a_study_whose_deletion_was_interrupted_can_be_deleted_and_made_again(
    open_storage: Open,
) -> None:
    storage = open_storage()
    study = storage.create_new_study(MINIMIZE, "s")
    trial = storage.create_new_trial(study)
    assert storage.get_trial(trial).number == 0
    storage.client.hset(f"{{{storage.namespace}:1}}:meta", "deleted", 1)  # and then it was killed
    with pytest.raises(KeyError):
        storage.get_trial(trial)
    assert storage.get_all_studies() == []
    assert storage.create_new_study(MINIMIZE, "s") == study + 1
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study(MINIMIZE, "s")


def test_making_a_study_that_is_there_leaves_nothing_behind(open_storage: Open) -> None:
    storage = open_storage()
    storage.create_new_study(MINIMIZE, "s")
    before = keys(storage)
    with pytest.raises(DuplicatedStudyError, match="'s' already"):
        storage.create_new_study(MINIMIZE, "s")
    assert keys(storage) == before


@pytest.mark.parametrize("length", [50, 2000])
def test_overwriting_attributes_does_not_grow_the_server(open_storage: Open, length: int) -> None:
    storage = open_storage(write_mode="strict")
    study = storage.create_new_study(MINIMIZE)
    trial = storage.create_new_trial(study)

    def overwrite(count: int) -> None:
        for number in range(count):
            value = f"{number:0{length}}"
            storage.set_trial_user_attr(trial, "k", value)
            storage.set_study_user_attr(study, "k", value)

    overwrite(10)
    before = size(storage) - storage.client.memory_usage(f"{{{storage.namespace}:1}}:log")
    overwrite(100)
    after = size(storage) - storage.client.memory_usage(f"{{{storage.namespace}:1}}:log")
    assert after <= before + 100
    log = storage.client.lrange(f"{{{storage.namespace}:1}}:log", 0, -1)
    assert max(map(len, log)) < 300


def test_the_log_stays_short(open_storage: Open) -> None:
    storage = open_storage()
    study = storage.create_new_study(MINIMIZE)
    done = create_trial(value=1.0)
    for _ in range(600):
        storage.create_new_trial(study, done)
    log = f"{{{storage.namespace}:1}}:log"
    storage.client.ltrim(log, -300, -1)
    assert storage.client.llen(log) == 300
    for _ in range(4200 - 600):
        storage.create_new_trial(study, done)
    assert storage.client.llen(log) <= 4096 + 256
    assert len(open_storage().get_all_trials(study)) == 4200


def test_a_trial_takes_few_bytes(open_storage: Open) -> None:
    storage = open_storage()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(lambda t: sum(t.suggest_float(f"x{i}", 0, 1) for i in range(5)), n_trials=200)
    optuna.logging.set_verbosity(optuna.logging.INFO)
    records = storage.client.memory_usage(f"{{{storage.namespace}:1}}:finished", samples=0)
    log = storage.client.memory_usage(f"{{{storage.namespace}:1}}:log", samples=0)
    assert records / 200 < 300
    assert size(storage) - records - log < 3000, "what does not grow with the trials"


def test_ids_are_small_and_never_meet(open_storage: Open) -> None:
    storage = open_storage()
    seen: list[int] = []
    for _ in range(10):
        study = storage.create_new_study(MINIMIZE)
        seen += [storage.create_new_trial(study) for _ in range(5)]
    assert len(set(seen)) == 50
    assert max(seen) < 2**12


@pytest.mark.parametrize(
    "name",
    ["", " ", "a\0b", "ü — 研究", "x" * 600, "{optuna:1}:meta", "\ud800", "1", "a\tb\nc"],
    ids=ascii,
)
def test_any_text_is_the_name_of_a_study_a_parameter_and_an_attribute(
    open_storage: Open, name: str
) -> None:
    storage, reader = open_storage(), open_storage()
    study = storage.create_new_study(MINIMIZE, name)
    assert reader.get_study_id_from_name(name) == study
    assert reader.get_study_name_from_id(study) == name
    storage.set_study_user_attr(study, name, name)
    done = create_trial(
        value=float("inf"),
        user_attrs={name: name},
        system_attrs={name: [float("nan")]},
        params={name: name},
        distributions={name: optuna.distributions.CategoricalDistribution([name, "other"])},
    )
    storage.create_new_trial(study, done)
    live = storage.create_new_trial(study)
    storage.set_trial_user_attr(live, name, name)
    storage.set_trial_param(live, name, 0, done.distributions[name])
    storage.set_trial_state_values(live, TrialState.PRUNED)
    first, second = reader.get_all_trials(study)
    assert first.params == second.params == {name: name}
    assert first.user_attrs == second.user_attrs == reader.get_study_user_attrs(study)
    assert str(first.system_attrs) == str(done.system_attrs)
    assert reader.get_all_studies()[0].study_name == name


def test_an_attribute_of_five_megabytes_reaches_everybody(open_storage: Open) -> None:
    storage, reader = open_storage(), open_storage()
    study = storage.create_new_study(MINIMIZE)
    trial = storage.create_new_trial(study)
    assert reader.get_trial(trial).user_attrs == {}
    storage.set_trial_user_attr(trial, "big", BIG)
    storage.set_study_user_attr(study, "big", BIG)
    storage.flush()
    assert reader.get_trial(trial).user_attrs == {"big": BIG}
    assert reader.get_study_user_attrs(study) == {"big": BIG}
    storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    assert reader.get_trial(trial).user_attrs == {"big": BIG}
