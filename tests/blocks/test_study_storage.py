"""What every storage block does, whatever is behind it."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import optuna
import pytest
from optuna.exceptions import DuplicatedStudyError

from prefect_optuna.blocks import (
    InMemoryStudyStorage,
    JournalStudyStorage,
    SQLStudyStorage,
    StudyNotFoundError,
    StudyStorage,
)
from prefect_optuna.errors import StudyMismatchError


@pytest.fixture
def memory() -> InMemoryStudyStorage:
    return InMemoryStudyStorage(name=str(uuid4()))


@pytest.fixture(params=["journal", "sqlite"])
def on_disk(request: pytest.FixtureRequest, tmp_path: Path) -> StudyStorage:
    if request.param == "journal":
        return JournalStudyStorage(path=tmp_path / "deep" / "studies.journal")
    return SQLStudyStorage(url=f"sqlite:///{tmp_path}/deep/studies.db")


def test_a_study_is_made_and_loaded_by_name(memory: InMemoryStudyStorage) -> None:
    memory.create_study("tuning", directions=["minimize", "maximize"])
    sampler = optuna.samplers.RandomSampler(seed=1)
    pruner = optuna.pruners.NopPruner()
    study = memory.load_study("tuning", sampler=sampler, pruner=pruner)
    assert [d.name for d in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.sampler is sampler
    assert study.pruner is pruner
    assert memory.study_names() == ["tuning"]


def test_a_study_without_a_name_gets_one(memory: InMemoryStudyStorage) -> None:
    name = memory.create_study().study_name
    assert memory.study_names() == [name]


def test_a_study_of_that_name_is_an_error_unless_it_may_be_loaded(
    memory: InMemoryStudyStorage,
) -> None:
    memory.create_study("tuning").add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(DuplicatedStudyError):
        memory.create_study("tuning")
    assert len(memory.create_study("tuning", load_if_exists=True).trials) == 1


@pytest.mark.parametrize(
    "asked",
    [
        {"direction": "minimize"},
        {"directions": ["maximize", "minimize"]},
        {"direction": optuna.study.StudyDirection.MINIMIZE},
    ],
)
def test_a_study_with_other_directions_is_not_loaded(
    memory: InMemoryStudyStorage, asked: dict
) -> None:
    memory.create_study("tuning", direction="maximize")
    with pytest.raises(StudyMismatchError, match=r"'tuning'.*\['maximize'\]"):
        memory.create_study("tuning", load_if_exists=True, **asked)


def test_no_direction_asked_for_takes_the_study_as_it_is(memory: InMemoryStudyStorage) -> None:
    memory.create_study("tuning", direction="maximize")
    assert memory.create_study("tuning", load_if_exists=True).direction.name == "MAXIMIZE"


def test_a_missing_study_is_an_error_that_names_the_near_ones(
    memory: InMemoryStudyStorage,
) -> None:
    with pytest.raises(StudyNotFoundError, match="no studies yet"):
        memory.load_study("lynx-hare")
    memory.create_study("lynx-hare")
    memory.create_study("other")
    with pytest.raises(StudyNotFoundError, match=r"'lynx-har' in memory://.*mean 'lynx-hare'\?"):
        memory.load_study("lynx-har")
    with pytest.raises(StudyNotFoundError, match=r"2 studies.*'lynx-hare', 'other'"):
        memory.load_study("zzzzzz")


def test_the_storage_is_opened_once_by_many_threads(on_disk: StudyStorage) -> None:
    with ThreadPoolExecutor(8) as pool:
        storages = list(pool.map(lambda _: on_disk.get_storage(), range(64)))
    assert len(set(map(id, storages))) == 1


def test_a_copy_and_a_pickle_open_their_own_storage(on_disk: StudyStorage) -> None:
    storage = on_disk.get_storage()
    on_disk.create_study("tuning")
    for twin in (
        copy.copy(on_disk),
        copy.deepcopy(on_disk),
        on_disk.model_copy(),
        pickle.loads(pickle.dumps(on_disk)),
    ):
        assert twin == on_disk
        assert twin.get_storage() is not storage
        assert twin.study_names() == ["tuning"]


def test_an_opened_block_shows_only_its_fields(memory: InMemoryStudyStorage) -> None:
    before = repr(memory), memory.model_dump()
    memory.get_storage()
    assert (repr(memory), memory.model_dump()) == before


def test_memory_blocks_of_one_name_share_their_studies(memory: InMemoryStudyStorage) -> None:
    memory.create_study("tuning")
    assert InMemoryStudyStorage(name=memory.name).study_names() == ["tuning"]
    assert InMemoryStudyStorage(name=str(uuid4())).study_names() == []


def test_memory_blocks_of_one_name_share_under_threads() -> None:
    name = str(uuid4())
    with ThreadPoolExecutor(8) as pool:
        storages = pool.map(lambda _: InMemoryStudyStorage(name=name).get_storage(), range(64))
        assert len(set(map(id, storages))) == 1


def _in_fork(block: StudyStorage, answers: multiprocessing.Queue) -> None:
    storage = block.get_storage()
    block.create_study(f"from {os.getpid()}")
    answers.put((id(storage), block.study_names()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_storage(on_disk: StudyStorage) -> None:
    storage = on_disk.get_storage()
    on_disk.create_study("parent")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_fork, args=(on_disk, answers))
    child.start()
    child_storage, names = answers.get()
    child.join()
    assert child_storage != id(storage)
    assert names == ["parent", f"from {child.pid}"]
    assert on_disk.get_storage() is storage
    assert on_disk.study_names() == names


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_an_empty_memory_storage(memory: InMemoryStudyStorage) -> None:
    memory.create_study("parent")
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_in_fork, args=(memory, answers))
    child.start()
    _, names = answers.get()
    child.join()
    assert names == [f"from {child.pid}"]
    assert memory.study_names() == ["parent"]
