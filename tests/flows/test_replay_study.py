"""`replay`: a study of several workers again, in the order in which it was asked and told."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from sampler_cases import EACH_SAMPLER, SAMPLERS, lives, on_a_grid, problem_of, run_study, told

from prefect_optuna import optimize, replay
from prefect_optuna.blocks import as_study_storage
from prefect_optuna.errors import ArchiveError, DamagedStorageError, InvalidSettingError
from prefect_optuna.flows.study import Sampler
from prefect_optuna.tasks.archive.record.trial_records import MARK

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def load(storage: Any) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=storage)


@pytest.mark.parametrize("n_jobs", [1, 8])
@pytest.mark.parametrize("sampler", EACH_SAMPLER)
def test_a_study_is_replayed_with_the_same_parameters(sampler: str, n_jobs: int) -> None:
    storage, seed = InMemoryStorage(), None if n_jobs > 1 else 1
    given: dict[str, Any] = {"sampler": SAMPLERS[sampler], "seed": seed, "n_jobs": n_jobs}
    run_study(storage, problem_of(sampler), 24, slow=0.002 * (n_jobs > 1), **given)
    result = replay(load(storage), sampler=SAMPLERS[sampler])
    assert result.same, str(result)
    assert result.n_taken == 0
    assert told(result.trials) == told(storage.get_all_trials(0))
    assert str(result).endswith("asked again, and have the parameters that they had.")


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "qmc"])
def test_a_study_that_was_killed_is_replayed_as_well(sampler: str) -> None:
    storage, rng = InMemoryStorage(), random.Random(3)
    given: dict[str, Any] = {"problem": problem_of(sampler), "sampler": SAMPLERS[sampler]}
    for n_jobs, n_trials in ((1, 12), (4, 24), (1, 30)):
        given |= {"n_trials": n_trials, "n_jobs": n_jobs}
        if n_jobs == 1:
            for _ in lives(storage, rng, 120, **given):
                pass
        else:
            run_study(storage, **given)
    result = replay(load(storage), sampler=SAMPLERS[sampler])
    assert result.same, str(result)
    assert len(result.trials) == storage.get_n_trials(0)


def in_a_process(url: str, sampler: str, n_trials: int, n_jobs: int) -> None:
    storage = as_study_storage(url).get_storage()
    given: dict[str, Any] = {"sampler": SAMPLERS[sampler], "seed": None, "n_jobs": n_jobs}
    run_study(storage, problem_of(sampler), n_trials, slow=0.01, **given)


def replayed(folder: Path, sampler: str, n_trials: int, processes: int) -> Any:
    """A study of processes with two workers each, again."""
    url = f"journal:///{folder}/study.journal"
    in_a_process(url, sampler, 1, 1)
    context = multiprocessing.get_context("fork")
    arguments = (url, sampler, n_trials, 2)
    running = [context.Process(target=in_a_process, args=arguments) for _ in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
        assert process.exitcode == 0
    return replay(as_study_storage(url).load_study("study"), sampler=SAMPLERS[sampler])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsgaiii", "qmc-scrambled", "brute-force"])
def test_a_study_of_several_processes_is_replayed(tmp_path: Path, sampler: str) -> None:
    result = replayed(tmp_path, sampler, 60, 4)
    assert result.same, str(result)


@pytest.mark.heavy
@pytest.mark.timeout(3000)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("attempt", range(20))
def test_500_trials_of_8_workers_are_replayed(tmp_path: Path, attempt: int) -> None:
    result = replayed(tmp_path, "tpe", 500, 4)
    assert result.same, str(result)
    assert result.n_trials >= 500


def test_the_first_trial_that_differs_is_named() -> None:
    storage = InMemoryStorage()
    run_study(storage, problem_of("random"), 12, sampler="random", n_jobs=2)
    trial = storage._studies[0].trials[7]  # pyright: ignore[reportPrivateUsage]
    trial.params["x"] = 0.5
    result = replay(load(storage), sampler="random")
    assert result.first_difference == 7
    assert not result.same
    assert str(result).startswith("Trial 7 of the study 'study' is the first that differs: x is ")
    assert str(result).endswith(", and was 0.5.")
    other = replay(load(storage), sampler="tpe")
    assert other.first_difference is not None


def test_what_nobody_asked_through_this_package_stands_as_it_was() -> None:
    storage = InMemoryStorage()
    run_study(storage, problem_of("brute-force"), 3, sampler="random")
    load(storage).optimize(on_a_grid, n_trials=2)
    load(storage).enqueue_trial({"x": 1, "y": 0.5})
    run_study(storage, problem_of("brute-force"), 8, sampler="random")
    result = replay(load(storage), sampler="random")
    assert result.same, str(result)
    assert (result.n_trials, result.n_taken) == (6, 2)
    assert str(result).endswith("; 2 that this package did not ask stand as they were.")


def test_where_nothing_was_asked_through_this_package_nothing_is_the_same() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    result = replay(study, sampler="random")
    assert (result.same, result.n_trials) == (False, 0)
    assert "none of its 3 trials was asked through this package" in str(result)


def test_the_trials_go_into_an_empty_study_if_one_is_given() -> None:
    storage = InMemoryStorage()
    run_study(storage, problem_of("random"), 5, sampler="random")
    into = optuna.create_study()
    assert replay(load(storage), sampler="random", into=into).trials == into.trials
    assert len(into.trials) == 5
    with pytest.raises(InvalidSettingError, match="found one with 5 trials"):
        replay(load(storage), sampler="random", into=into)
    with pytest.raises(ArchiveError, match="no archive"):
        replay(load(storage))
    with pytest.raises(InvalidSettingError, match="asked by a RandomSampler, and not by a TPE"):
        replay(load(storage), sampler=optuna.samplers.TPESampler())


def test_a_note_of_what_was_seen_is_small() -> None:
    storage = InMemoryStorage()
    run_study(storage, problem_of("tpe"), 60, sampler="tpe", n_jobs=8, slow=0.002)
    for trial in storage.get_all_trials(0):
        assert len(str(trial.system_attrs[MARK]["asked"])) < 250


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "task_runner", ["threads", pytest.param("processes", marks=pytest.mark.slow)]
)
def test_a_study_is_replayed_by_its_name_with_its_archived_sampler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task_runner: str
) -> None:
    monkeypatch.chdir(tmp_path)
    sampler = Sampler(name="tpe", options={"n_startup_trials": 5, "multivariate": True})
    optimize(
        on_a_grid,
        study_name="mine", n_trials=24, n_jobs=4, sampler=sampler, task_runner=task_runner,
    )  # fmt: skip
    result = replay("mine")
    assert result.same, str(result)
    assert result.n_trials == 24


def test_a_sampler_that_is_misspelt_is_said_before_anything_is_asked() -> None:
    study = optuna.create_study()
    with pytest.raises(InvalidSettingError, match="tpe"):
        replay(study, sampler="tpee")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "asked",
    [
        None,
        {"seen": 5, "place": 0, "seed": 1},
        {"seen": [1, {"a": [1]}], "place": 0, "seed": 1},
        {"seen": [0, {}], "place": 0, "seed": "x"},
        {"seen": [0, {}], "place": 0, "seed": -1},
    ],
)
def test_a_forged_note_of_how_a_trial_was_asked_is_an_error_of_ours(asked: Any) -> None:
    study = optuna.create_study()
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    mark = {"id": "forged", "version": "", "asked": asked}
    study._storage.set_trial_system_attr(trial._trial_id, "prefect_optuna:session", mark)
    study.tell(trial, 1.0)
    with pytest.raises(DamagedStorageError, match="how its trials were asked"):
        replay(study, sampler="random")
