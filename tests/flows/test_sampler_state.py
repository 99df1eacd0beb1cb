"""A killed study gives the trials of one that was not, and goes on where it was."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage
from sampler_cases import EACH_SAMPLER, SAMPLERS, counted, lives, problem_of, run_study, told

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.flows.study import make_sampler

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.mark.slow
@pytest.mark.parametrize("sampler", EACH_SAMPLER)
def test_a_study_that_is_killed_at_random_gives_the_trials_of_one_that_is_not(sampler: str) -> None:
    given: dict[str, Any] = {
        "problem": problem_of(sampler), "n_trials": 14, "sampler": SAMPLERS[sampler],
    }  # fmt: skip
    expected = told(run_study(InMemoryStorage(), **given))
    rng = random.Random(1)
    for _ in range(4):
        storage = InMemoryStorage()
        kills = sum(1 for _ in lives(storage, rng, 90, **given))
        found = counted(storage.get_all_trials(0))
        assert told(found) == expected, f"{kills} kills"


def in_a_process(url: str, sampler: str) -> None:
    if sampler == "gp":
        # The threads of OpenMP, which another test may have started, are not there after a fork.
        importlib.import_module("torch").set_num_threads(1)
    storage = as_study_storage(url).get_storage()
    run_study(storage, problem_of(sampler), 24, sampler=SAMPLERS[sampler], slow=0.02)


def size_of(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("sampler", EACH_SAMPLER)
def test_25_times_kill_9_at_random_moments_change_no_trial(tmp_path: Path, sampler: str) -> None:
    if sampler == "gp":
        importlib.import_module("torch")  # or each process takes seconds to do so
    context, rng = multiprocessing.get_context("fork"), random.Random(sampler)

    def trials_of(name: str, kills: int) -> tuple[list[Any], int]:
        """The trials of a study that is killed until it is there, or has been often enough."""
        journal, killed = tmp_path / f"{name}.journal", 0
        url = f"journal:///{journal}"
        while True:
            process = context.Process(target=in_a_process, args=(url, sampler))
            process.start()
            # By what it has written, however busy the machine is, and far enough in each third
            # life: a trial with which four processes have ended is not asked again.
            written = rng.randrange(6_000 if killed % 3 == 2 else 1, 9_000)
            last = size_of(journal) + (written if killed < kills else 1 << 40)
            while process.is_alive() and size_of(journal) < last:
                time.sleep(0.001)
            if process.is_alive():
                process.kill()
                killed += 1
            process.join()
            if process.exitcode != -signal.SIGKILL:
                assert process.exitcode == 0
                study = as_study_storage(url).load_study("study")
                return told(counted(study.trials)), killed

    expected, _ = trials_of("whole", 0)
    assert len(expected) == 24
    kills = 0
    while kills < 25:
        trials, killed = trials_of(f"killed-{kills}", 25 - kills)
        assert trials == expected, f"{killed} kills"
        kills += killed


@pytest.mark.parametrize("sampler", EACH_SAMPLER)
def test_in_two_parts_it_is_the_study_of_plain_optuna(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)
    problem = problem_of(sampler)
    made = make_sampler(SAMPLERS[sampler], seed=1)
    plain = optuna.create_study(directions=problem.directions, sampler=made)
    assert problem.objective is not None
    plain.optimize(problem.objective, n_trials=14)
    storage = InMemoryStorage()
    run_study(storage, problem, 6, sampler=SAMPLERS[sampler])
    assert told(run_study(storage, problem, 14, sampler=SAMPLERS[sampler])) == told(plain.trials)


@pytest.mark.parametrize("seeded", [True, False])
def test_a_sampler_of_ones_own_goes_on_as_well(seeded: bool) -> None:
    def sampler() -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=3 if seeded else None, n_startup_trials=4)

    storage, problem = InMemoryStorage(), problem_of("tpe")
    one = sampler()
    found = run_study(storage, problem, 4, sampler=one, seed=None)
    again = run_study(storage, problem, 8, sampler=sampler(), seed=None)
    points = [trial.params["x"] for trial in again]
    assert len(set(points)) == 8
    if seeded:
        whole = run_study(InMemoryStorage(), problem, 8, sampler=sampler(), seed=None)
        assert told(again) == told(whole)
    # The same object knows how far it is.
    assert told(run_study(storage, problem, 8, sampler=one, seed=None)[:4]) == told(found)


def test_another_seed_or_sampler_begins_anew() -> None:
    storage, problem = InMemoryStorage(), problem_of("random")
    first = run_study(storage, problem, 4, sampler="random", seed=1)
    for n_trials, sampler, seed in ((8, "random", 2), (12, "random", 1), (16, "tpe", 1)):
        run_study(storage, problem, n_trials, sampler=sampler, seed=seed)
    points = [trial.params["x"] for trial in counted(storage.get_all_trials(0))]
    assert len(set(points)) == 16
    assert points[:4] == [trial.params["x"] for trial in first]


def test_a_sampler_that_somebody_seeds_anew_is_let_be() -> None:
    storage, problem = InMemoryStorage(), problem_of("random")
    sampler = optuna.samplers.RandomSampler(seed=1)

    def reseeding(trial: optuna.Trial) -> float:
        sampler.reseed_rng()
        return trial.suggest_float("x", 0, 1)

    problem = type(problem)(objective=reseeding)
    run_study(storage, problem, 3, sampler=sampler)
    assert (
        len({trial.params["x"] for trial in run_study(storage, problem, 6, sampler=sampler)}) == 6
    )


def test_what_a_trial_notes_is_the_same_once_it_was_stored() -> None:
    """An outage may hide the answer to its making; it is found again by what it notes."""
    storage = InMemoryStorage()
    run_study(storage, problem_of("tpe"), 12, sampler="tpe", n_jobs=4, slow=0.002)
    for trial in storage.get_all_trials(0):
        assert json.loads(json.dumps(trial.system_attrs)) == trial.system_attrs
