"""A study is the same after a journey from SQLite to Redis to a journal, and back to Redis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks import JournalStudyStorage, SQLStudyStorage
from prefect_optuna.blocks.redis_storage import RedisStorage

EVERY_KIND = {
    "x": FloatDistribution(1e-5, 1.0, log=True),
    "step": FloatDistribution(0.0, 1.0, step=0.25),
    "layers": IntDistribution(1, 64, log=True),
    "kind": CategoricalDistribution([None, True, 1.5, "ä\0b"]),
    "only": IntDistribution(7, 7),
}


@pytest.fixture
def redis_storage(redis_server: str) -> Generator[RedisStorage]:
    with closing(RedisStorage(redis_server, namespace=f"copy-{uuid4()}")) as storage:
        yield storage


def one_objective(storage: BaseStorage) -> optuna.Study:
    """A study with every state, and every value that is easily lost."""
    study = optuna.create_study(storage=storage, study_name="origin", direction="maximize")
    study.set_user_attr("who", {"name": "Äva", "shares": [1, 2.5, None]})
    study.enqueue_trial({"x": 0.5, "layers": 3}, user_attrs={"why": "a good start"})
    for value in (0.25, -1e-300):
        trial = study.ask(EVERY_KIND)
        trial.set_user_attr("note", "line\nline")
        for step, intermediate in ((0, 1.0), (3, math.nan), (7, math.inf)):
            trial.report(intermediate, step)
        study.tell(trial, value)
    study.tell(study.ask({"x": EVERY_KIND["x"]}), state=TrialState.FAIL)
    pruned = study.ask(EVERY_KIND)
    pruned.report(0.125, 1)
    study.tell(pruned, state=TrialState.PRUNED)
    running = study.ask({"layers": EVERY_KIND["layers"]})
    running.set_user_attr("so far", 3)
    running.report(-math.inf, 0)
    study.enqueue_trial({"x": 0.75})
    return study


def two_objectives(storage: BaseStorage) -> optuna.Study:
    """A study with constraints, which Optuna keeps in an attribute of its own."""
    study = optuna.create_study(
        storage=storage, study_name="origin", directions=["minimize", "maximize"]
    )
    study.set_metric_names(["rmse", "speed"])
    for number in range(3):
        trial = study.ask({"x": FloatDistribution(0, 1)})
        storage.set_trial_system_attr(trial._trial_id, "constraints", [number - 0.5, -1.0])
        study.tell(trial, (number, math.inf))
    return study


def told(trial: FrozenTrial) -> dict[str, Any]:
    """All that a trial says; text, as NaN is not equal to itself."""
    return {
        "number": trial.number,
        "state": trial.state,
        "values": repr(trial.values),
        "params": list(trial.params.items()),
        "distributions": trial.distributions,
        "intermediate values": repr(sorted(trial.intermediate_values.items())),
        "user attributes": trial.user_attrs,
        "system attributes": trial.system_attrs,
        "start": trial.datetime_start,
        "end": trial.datetime_complete,
    }


def assert_same(copied: optuna.Study, original: optuna.Study) -> None:
    assert copied.directions == original.directions
    assert copied.user_attrs == original.user_attrs
    assert copied.metric_names == original.metric_names
    assert [told(t) for t in copied.trials] == [told(t) for t in original.trials]


def load(storage: BaseStorage, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("make", [one_objective, two_objectives])
def test_a_study_is_the_same_after_each_stage_of_a_journey(
    make: Any, redis_storage: RedisStorage, tmp_path: Path
) -> None:
    sqlite = SQLStudyStorage(url=f"sqlite:///{tmp_path}/studies.db").get_storage()
    journal = JournalStudyStorage(path=tmp_path / "studies.journal").get_storage()
    original = make(sqlite)
    stages = [(sqlite, "origin"), (redis_storage, "a"), (journal, "b"), (redis_storage, "c")]
    for (source, name), (target, copied) in itertools.pairwise(stages):
        optuna.copy_study(
            from_study_name=name, from_storage=source, to_storage=target, to_study_name=copied
        )
        assert_same(load(target, copied), original)
    sqlite.engine.dispose()


def test_a_copy_on_redis_is_what_another_process_reads(
    redis_storage: RedisStorage, redis_server: str
) -> None:
    original = one_objective(redis_storage)
    optuna.copy_study(
        from_study_name="origin",
        from_storage=redis_storage,
        to_storage=redis_storage,
        to_study_name="copy",
    )
    with closing(RedisStorage(redis_server, namespace=redis_storage.namespace)) as other:
        assert_same(load(other, "copy"), original)


def test_a_copied_study_goes_on_where_the_original_was(redis_storage: RedisStorage) -> None:
    one_objective(redis_storage)
    optuna.copy_study(
        from_study_name="origin",
        from_storage=redis_storage,
        to_storage=redis_storage,
        to_study_name="copy",
    )
    study = load(redis_storage, "copy")
    study.optimize(lambda trial: trial.suggest_float("x", 1e-5, 1.0, log=True), n_trials=3)
    assert [trial.state for trial in study.trials[5:]] == [TrialState.COMPLETE] * 3
    assert study.trials[5].params["x"] == 0.75, "it has waited for that"
    assert len(load(redis_storage, "origin").trials) == 6
