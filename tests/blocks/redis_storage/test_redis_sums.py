"""A study's sums: they say what all of its trials say, and are believed only where they can be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial
from redis_servers import RedisServer, make_user

from prefect_optuna.blocks.redis_storage import RedisStorage, acl_rules, study_check
from prefect_optuna.blocks.redis_storage import storage as redis_storage
from prefect_optuna.blocks.redis_storage.maintenance import check, repair
from prefect_optuna.blocks.redis_storage.study_copy import StudyCopy
from prefect_optuna.blocks.study_summary import LOST, look_at, summarize, summary_of

Open = Callable[..., RedisStorage]

BEGINNING = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - as Optuna's times are


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_check, "EVERY", 10)
    monkeypatch.setattr(redis_storage, "EVERY", 10)
    monkeypatch.setattr(study_check, "_CHUNK", 7)


@contextmanager
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    def refuse(*_: Any) -> bool:
        raise AssertionError("all trials are read")

    with monkeypatch.context() as patch:
        patch.setattr(StudyCopy, "load", refuse)
        yield


def grown(storage: RedisStorage, n_trials: int, name: str = "grown") -> optuna.Study:
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2, n_trials=n_trials)
    return study


def kept(storage: RedisStorage) -> dict[str, Any]:
    text = storage.client.hget(f"{{{storage.namespace}:1}}:meta", "sums")
    return json.loads(text) if text else {}


def keep(storage: RedisStorage, **changed: Any) -> None:
    document = {**kept(storage), **changed}
    storage.client.hset(f"{{{storage.namespace}:1}}:meta", "sums", json.dumps(document))


def seen_by_others(open_storage: Open, name: str = "grown") -> optuna.Study:
    return optuna.load_study(storage=open_storage(), study_name=name)


numbers = st.floats(-3, 3, allow_nan=False) | st.sampled_from([0.0, 1.0, math.inf, -math.inf])


@st.composite
def trials(draw: st.DrawFn, values: int) -> FrozenTrial:
    state = draw(st.sampled_from([TrialState.COMPLETE] * 4 + list(TrialState)))
    start = BEGINNING + timedelta(seconds=draw(st.integers(0, 9)))
    attributes = {LOST: {"why": "killed"}} if draw(st.booleans()) else {}
    constraints = draw(st.none() | st.lists(st.sampled_from([-1.0, 0.0, 0.5]), max_size=2))
    trial = create_trial(
        state=state,
        values=[draw(numbers) for _ in range(values)] if state == TrialState.COMPLETE else None,
        system_attrs=attributes,
        constraints=dict(zip("ab", constraints, strict=False)) if constraints else None,
    )
    waits = state == TrialState.WAITING
    trial.datetime_start = None if waits and draw(st.booleans()) else start
    if state.is_finished():
        trial.datetime_complete = start + timedelta(seconds=draw(st.integers(0, 9)))
    return trial


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["minimize", "maximize"]])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_they_say_what_all_trials_say(
    open_storage: Open, directions: list[str], data: st.DataObject
) -> None:
    storage = open_storage()
    for study_name in storage.get_all_studies():
        storage.delete_study(study_name._study_id)
    study = optuna.create_study(storage=storage, study_name="any", directions=directions)
    for part in data.draw(st.lists(st.lists(trials(len(directions)), max_size=25), max_size=3)):
        for trial in part:
            storage.create_new_trial(study._study_id, trial)
        with open_storage() as other:
            found = summarize(optuna.load_study(storage=other, study_name="any"))
        assert found == summary_of(study.get_trials(), directions)


def test_whoever_finishes_trials_keeps_them(open_storage: Open) -> None:
    storage = open_storage()
    grown(storage, 9)
    assert kept(storage) == {}
    grown(storage, 16)
    assert kept(storage)["count"] == 20
    assert kept(storage)["states"] == {"C": 20}


def test_whoever_finishes_a_trial_does_not_read_all_the_others_for_them(
    open_storage: Open,
) -> None:
    storage = open_storage()
    study = grown(storage, 125)
    storage.client.hdel(f"{{{storage.namespace}:1}}:meta", "sums")
    grown(storage, 10)
    assert kept(storage) == {}
    assert summarize(seen_by_others(open_storage)) == summary_of(study.trials, ["minimize"])
    grown(storage, 10)
    assert kept(storage)["count"] == 140


def test_a_reader_reads_on_from_them(open_storage: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    study = grown(open_storage(), 25)
    read: list[int] = []
    add = study_check.Sums.add

    def noted(self: study_check.Sums, records: list[bytes], directions: list[str]) -> None:
        read.append(len(records))
        add(self, records, directions)

    monkeypatch.setattr(study_check.Sums, "add", noted)
    with nothing_is_loaded(monkeypatch):
        summary = summarize(seen_by_others(open_storage))
    assert (summary.n_trials, summary.best[0]) == (25, study.best_trial)
    assert sum(read) == 5


def test_a_study_of_a_version_without_them_gets_them_once_it_is_looked_at(
    open_storage: Open,
) -> None:
    storage = open_storage()
    study = grown(storage, 25)
    storage.client.hdel(f"{{{storage.namespace}:1}}:meta", "sums")
    assert summarize(seen_by_others(open_storage)) == summary_of(study.trials, ["minimize"])
    assert kept(storage)["count"] == 25


@pytest.mark.parametrize(
    "changed",
    [
        {"count": 19},
        {"count": 10**9},
        {"count": -1},
        {"digest": "0" * 16},
        {"states": {"C": 5}, "digest": ""},
        {"best": [[[0.0], 3, 3]]},
        {"best": [[[0.0], 3, 10**9]]},
        {"best": 5},
        {"best": [[[0.0], 3, 3]] * 2000},
        {"states": {"Z": 20}},
        {"started": 1e300},
        {"more": 1},
    ],
)
def test_what_does_not_fit_the_list_is_not_believed(
    open_storage: Open, changed: dict[str, Any]
) -> None:
    storage = open_storage()
    study = grown(storage, 25)
    keep(storage, **changed)
    assert summarize(seen_by_others(open_storage)) == summary_of(study.trials, ["minimize"])


def test_a_list_that_was_put_back_is_read_anew(open_storage: Open) -> None:
    storage = open_storage()
    grown(storage, 25)
    key = f"{{{storage.namespace}:1}}:finished"
    storage.client.ltrim(key, 0, 14)
    storage.client.hset(f"{{{storage.namespace}:1}}:meta", "next", 15)
    with open_storage() as other:
        summary = summarize(optuna.load_study(storage=other, study_name="grown"))
        assert summary == summary_of(
            optuna.load_study(storage=open_storage(), study_name="grown").trials, ["minimize"]
        )
        assert summary.n_trials == 15


def test_a_study_that_is_deleted_meanwhile_leaves_nothing(open_storage: Open) -> None:
    storage = open_storage()
    study = grown(storage, 25)
    copy = StudyCopy(storage.namespace, study._study_id, storage._server.read)
    assert copy.load_head()
    storage.delete_study(study._study_id)
    storage._server.run(study_check.KEEP, [copy.keys.meta], ["{}"])
    assert storage.client.exists(copy.keys.meta) == 0
    with pytest.raises(KeyError):
        storage.summarize(study._study_id)


def test_who_may_not_write_may_look(open_storage: Open, tmp_path: Any) -> None:
    with RedisServer(tmp_path) as server:
        storage = open_storage(server.url)
        study = grown(storage, 25)
        storage.client.hdel(f"{{{storage.namespace}:1}}:meta", "sums")
        rules = [rule for rule in acl_rules(storage.namespace) if rule != "+hset"]
        reader = open_storage(make_user(server, "reader", "pw", rules))
        summary = summarize(optuna.load_study(storage=reader, study_name="grown"))
        assert summary == summary_of(study.trials, ["minimize"])
        assert kept(storage) == {}


def test_a_front_of_very_many_is_not_kept(
    open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_check, "_MOST_FRONT", 8)
    storage = open_storage()
    directions = ["minimize", "maximize"]
    study = optuna.create_study(storage=storage, study_name="grown", directions=directions)
    for number in range(25):
        study.add_trial(create_trial(values=[number, number]))
    assert kept(storage)["best"] is None
    assert len(summarize(seen_by_others(open_storage)).best) == 25


def test_some_trials_stand_for_very_many(
    open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_check, "_GROUP", 2)
    study = grown(open_storage(), 200)
    waiting = study.ask().number
    with nothing_is_loaded(monkeypatch):
        summary, some = look_at(seen_by_others(open_storage), 50)
    assert summary.n_trials == 201
    assert 50 <= len(some) <= 50 + 100 + 1
    chosen = [trial.number for trial in some]
    assert chosen == sorted(set(chosen))
    assert chosen[0] < 10
    assert chosen[-1] == waiting
    assert set(chosen) >= {trial.number for trial in summary.best}
    every = {trial.number: trial for trial in study.trials}
    assert all(trial == every[trial.number] for trial in some)


def test_of_few_trials_all_are_read(open_storage: Open) -> None:
    study = grown(open_storage(), 12)
    _, some = look_at(seen_by_others(open_storage), 50)
    assert list(some) == study.trials


def test_a_study_s_head_is_read_without_its_trials(
    open_storage: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(open_storage(), 12).set_user_attr("note", "å")
    with nothing_is_loaded(monkeypatch):
        study = seen_by_others(open_storage)
        assert (study.direction.name, study.user_attrs) == ("MINIMIZE", {"note": "å"})
        assert study._storage.get_study_name_from_id(study._study_id) == "grown"
        with pytest.raises(KeyError):
            study._storage.get_study_directions(study._study_id + 1)


def test_check_compares_them_with_the_trials_and_repair_forgets_them(open_storage: Open) -> None:
    storage = open_storage()
    grown(storage, 25)
    namespace = storage.namespace
    assert check(storage, namespace=namespace).problems == ()
    keep(storage, states={"C": 5})
    (problem,) = check(storage, namespace=namespace).problems
    assert (problem.kind, problem.found) == ("damaged", "has other sums than those of its trials")
    repair(storage, namespace=namespace)
    assert kept(storage) == {}
    assert check(storage, namespace=namespace).problems == ()
