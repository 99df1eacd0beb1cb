"""Every trial has a seed: what people really write runs again to the last bit."""

from __future__ import annotations

import functools
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.flows import Problem, optimize, reevaluate
from prefect_optuna.flows.report_flow import read_status
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, seeded
from prefect_optuna.tasks.seeding import trial_seed

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def again(name: str, **options: Any) -> Any:
    return reevaluate(name, trials="all", trusted=True, rtol=0.0, **options)


def study_of(name: str) -> optuna.Study:
    return as_study_storage(None).load_study(name)


@functools.cache
def both() -> threading.Barrier:
    """Where two trials that run at once meet."""
    return threading.Barrier(2)


def python_and_numpy(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    rng = np.random.default_rng()
    split = np.random.permutation(20)[:15]
    numbers = [random.random(), random.gauss(0, 1), np.random.randn(), rng.normal()]
    numbers += [np.random.RandomState().rand(), random.Random().random()]
    y = trial.suggest_float("y", -1, 1)
    return x + y + sum(numbers) + float(split.sum())


def split_and_classify(trial: optuna.Trial) -> float:
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    x, y = make_classification(200)
    x_train, x_test, y_train, y_test = train_test_split(x, y)
    depth = trial.suggest_int("depth", 1, 8)
    forest = RandomForestClassifier(n_estimators=10, max_depth=depth).fit(x_train, y_train)
    return float(forest.predict_proba(x_test)[:, 1].sum() + forest.score(x_test, y_test))


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        (python_and_numpy, {"n_jobs": 1}),
        pytest.param(
            python_and_numpy,
            {"n_jobs": 2, "task_runner": "processes"},
            marks=pytest.mark.heavy,
        ),
        pytest.param(split_and_classify, {"n_jobs": 1}, marks=pytest.mark.slow),
    ],
)
def test_a_script_that_seeds_nothing_runs_again_to_the_last_bit(
    objective: Any, options: dict[str, Any]
) -> None:
    optimize(objective, study_name="unseeded", n_trials=5, **options)
    study = study_of("unseeded")
    assert len({trial.value for trial in study.trials}) == 5
    version = ArchivedStudy.load("unseeded").environment_of(0)
    assert version.trials_seed is not None
    expected = [trial_seed(version.trials_seed, number) for number in range(5)]
    assert [trial.user_attrs["seed"] for trial in study.trials] == expected
    # In another order, and after other trials of the same process.
    assert reevaluate("unseeded", trials=[4, 1, 2], repeats=2, trusted=True, rtol=0.0).reproduced


@pytest.mark.slow
def test_the_seed_of_a_study_is_that_of_its_trials() -> None:
    for name in ("one", "two"):
        optimize(python_and_numpy, study_name=name, n_trials=4, seed=3)
    one, two = (
        [(t.value, t.params, t.user_attrs["seed"]) for t in study_of(n).trials]
        for n in ("one", "two")
    )
    assert one == two
    assert [seed for _, _, seed in one] == [trial_seed(3, number) for number in range(4)]
    # A study that goes on keeps what its seeds come from.
    optimize(python_and_numpy, study_name="one", n_trials=6)
    assert study_of("one").trials[5].user_attrs["seed"] == trial_seed(3, 5)
    assert [v.first_trial for v in ArchivedStudy.load("one").versions] == [0, 4]


@pytest.mark.slow
def test_what_the_caller_has_drawn_from_goes_on_as_if_nothing_had_been() -> None:
    def noisy_suggest(trial: optuna.Trial) -> dict[str, float]:
        return {"x": trial.suggest_float("x", -1, 1), "start": random.random()}

    def noisy(params: dict[str, float]) -> float:
        return params["x"] + params["start"] + random.random() + np.random.randn()

    random.seed(1)
    np.random.seed(1)
    problem = Problem(suggest=noisy_suggest, run=noisy)
    optimize(problem, study_name="polite", n_trials=3)
    assert random.random() == random.Random(1).random()
    assert np.random.rand() == np.random.RandomState(1).rand()
    assert again("polite").reproduced


def test_threads_keep_their_own_and_what_they_share_is_said() -> None:
    def own(trial: optuna.Trial) -> float:
        both().wait(60)
        return trial.suggest_float("x", -1, 1) + np.random.default_rng().random()

    optimize(own, study_name="own", n_trials=4, n_jobs=2)
    assert not any("shared_random" in trial.user_attrs for trial in study_of("own").trials)

    def shared(trial: optuna.Trial) -> float:
        both().wait(60)
        value = trial.suggest_float("x", -1, 1) + random.random()
        both().wait(60)
        return value

    optimize(shared, study_name="shared", n_trials=4, n_jobs=2)
    study = study_of("shared")
    assert [t.user_attrs["shared_random"] for t in study.trials] == [["random"]] * 4
    (note,) = read_status("shared").notes
    assert "Trials 0, 1, 2, 3 ran in threads that drew from the same generator" in note


@pytest.mark.slow
def test_threads_of_trials_run_again() -> None:
    def own(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", -1, 1) + np.random.default_rng().random()

    optimize(own, study_name="threads", n_trials=4, n_jobs=2)
    assert again("threads").reproduced


@pytest.mark.slow
def test_a_seed_of_the_script_wins_and_so_does_its_attribute() -> None:
    def own(trial: optuna.Trial) -> float:
        seed = random.randrange(1000)
        trial.set_user_attr("seed", seed)
        trial.set_user_attr("first", random.random())
        random.seed(5)
        rng = np.random.default_rng(seed=5)
        return trial.suggest_float("x", -1, 1) + random.random() + rng.random() + seed

    optimize(own, study_name="own", n_trials=3, seed=1)
    study = study_of("own")
    for trial in study.trials:
        seed = random.Random(trial_seed(1, trial.number)).randrange(1000)
        assert trial.user_attrs["seed"] == seed
        drawn = random.Random(5).random() + np.random.default_rng(5).random()
        assert trial.value == pytest.approx(trial.params["x"] + drawn + seed)
    assert again("own").reproduced


@pytest.mark.slow
def test_an_attempt_that_comes_later_has_other_numbers_which_are_kept() -> None:
    def unlucky(params: dict[str, float]) -> float:
        draw = random.random()
        if draw < 0.7:
            raise RuntimeError("diverged")
        return params["x"] + draw

    problem = Problem(suggest=suggest, run=unlucky)
    optimize(problem, study_name="unlucky", n_trials=4, retries=30, seed=2)
    seeds = [trial.user_attrs["seed"] for trial in study_of("unlucky").trials]
    assert seeds != [trial_seed(2, number) for number in range(4)]
    assert again("unlucky").reproduced


@pytest.mark.slow
def test_enqueued_trials_have_seeds_too() -> None:
    def noisy(trial: optuna.Trial) -> float:
        seed = trial.user_attrs["seed"]  # as for a key of JAX
        return trial.suggest_float("x", -1, 1) + random.random() + len(str(seed))

    study = as_study_storage(None).create_study("queue")
    study.enqueue_trial({"x": 0.5})
    study.enqueue_trial({"x": 0.25}, user_attrs={"seed": "mine"})
    optimize(noisy, study_name="queue", n_trials=3, seed=1)
    seeds = [trial.user_attrs["seed"] for trial in study_of("queue").trials]
    assert seeds == [trial_seed(1, 0), "mine", trial_seed(1, 2)]
    assert again("queue").reproduced


def test_a_seed_takes_no_write_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []
    storage = optuna.storages.InMemoryStorage
    write = storage.set_trial_user_attr

    def noted(self: Any, trial_id: int, key: str, value: Any) -> None:
        writes.append(key)
        write(self, trial_id, key, value)

    monkeypatch.setattr(storage, "set_trial_user_attr", noted)
    result = optimize(
        lambda trial: trial.suggest_float("x", -1, 1), n_trials=5, storage="memory://seeds"
    )
    assert result.n_trials == 5
    assert writes == []


@pytest.mark.slow
def test_other_seeds_say_how_much_of_a_value_is_luck() -> None:
    def noisy(params: dict[str, float]) -> float:
        return params["x"] + random.gauss(0, 1)

    optimize(Problem(suggest=suggest, run=noisy), study_name="luck", n_trials=8, seed=1)
    result = reevaluate("luck", repeats=5, reseed=True, trusted=True, fail_on_drift=True)
    [trial] = result.trials
    assert trial.verdict == "varies"
    assert not result.reproduced
    assert not result.drifted
    assert len({*trial.values, trial.archived}) == 6
    assert len({*trial.seeds, study_of("luck").best_trial.user_attrs["seed"]}) == 6
    assert trial.distance[0] == (trial.archived - trial.mean[0]) / trial.spread[0]
    assert trial.distance[0] < 0  # the best of eight was lucky
    assert "5 other seeds give" in str(result)
    assert "standard deviations below" in str(result)
    assert ArchivedStudy.load("luck").reevaluations()[-1].reseeded
    with pytest.raises(InvalidSettingError, match="`reseed` measures"):
        reevaluate("luck", reseed=True, trusted=True)


@pytest.mark.slow
def test_randomness_that_no_seed_reaches_is_named() -> None:
    def secretive(params: dict[str, float]) -> float:
        import secrets

        return params["x"] + secrets.randbelow(1 << 30)

    optimize(Problem(suggest=suggest, run=secretive), study_name="secretive", n_trials=1)
    [trial] = again("secretive", repeats=2).trials
    assert trial.verdict == "drifted"
    assert "random numbers of secrets, which no seed reaches" in trial.cause


@pytest.mark.slow
def test_a_loop_of_ones_own_runs_again() -> None:
    study = as_study_storage(None).create_study("loop")
    archive = OptunaArchive(study)
    archive.save_problem(Problem(objective=python_and_numpy))
    for _ in range(3):
        trial = study.ask()
        with seeded(trial):
            value = python_and_numpy(trial)
        study.tell(trial, value)
    assert again("loop").reproduced


@pytest.mark.heavy
def test_pytorch_runs_again_and_the_objective_may_be_who_imports_it() -> None:
    def network(trial: optuna.Trial) -> float:
        import torch

        x = torch.randn(16, 4)
        layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1)
        )
        optimizer = torch.optim.SGD(layers.parameters(), lr=trial.suggest_float("lr", 1e-3, 1e-1))
        for _ in range(3):
            optimizer.zero_grad()
            loss = layers(x).square().mean()
            loss.backward()
            optimizer.step()
        return loss.item()

    optimize(network, study_name="torch", n_trials=3)
    import torch

    torch.manual_seed(1)
    before = torch.get_rng_state()
    optimize(network, study_name="torch", n_trials=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert len({trial.value for trial in study_of("torch").trials}) == 4
    assert reevaluate("torch", trials=[3, 0, 1], trusted=True, rtol=0.0).reproduced
