"""A sampler that learns from the newest trials alone, so that asking costs the same for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from prefect_optuna.blocks import InvalidSettingError
from prefect_optuna.flows import Sampler, optimize, replay
from prefect_optuna.flows.opening import checked_names
from prefect_optuna.tasks import ArchivedStudy

pytestmark = pytest.mark.usefixtures("prefect_server")


def objective(trial: optuna.Trial) -> float:
    x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
    return x**2 + y


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Any]:
    return {"storage": tmp_path / "studies.journal", "artifacts": tmp_path / "artifacts"}


def params(name: str, places: dict[str, Any], *, most: int | None, trials: int = 30) -> Any:
    options = {} if most is None else {"max_trials": most}
    sampler = Sampler(name="tpe", options={"n_startup_trials": 5, **options})
    optimize(objective, study_name=name, n_trials=trials, sampler=sampler, seed=1, **places)
    archived = ArchivedStudy.load(name, **places)
    return [trial.params for trial in archived.study.trials]


def test_a_sampler_sees_the_newest_trials_alone(
    places: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    sample = optuna.samplers.TPESampler.sample_independent

    def spy(self: Any, study: optuna.Study, trial: Any, *rest: Any) -> Any:
        seen.append([t.number for t in study.get_trials(deepcopy=False)])
        return sample(self, study, trial, *rest)

    monkeypatch.setattr(optuna.samplers.TPESampler, "sample_independent", spy)
    sampler = Sampler(name="tpe", options={"max_trials": 10, "n_startup_trials": 100})
    optimize(objective, study_name="seen", n_trials=15, sampler=sampler, **places)
    assert seen[0] == [0]
    assert seen[-1] == [*range(4, 15)]  # ten, and its own


@pytest.mark.slow
def test_it_goes_on_and_is_replayed_as_it_was(places: dict[str, Any]) -> None:
    whole = params("whole", places, most=10)
    assert whole != params("all", places, most=None)
    assert whole[:10] == params("all", places, most=None)[:10]
    params("resumed", places, most=10, trials=17)
    assert params("resumed", places, most=10) == whole
    archived = ArchivedStudy.load("whole", **places)
    said = archived.environment_of(0).sampler
    assert said == "TPESampler(n_startup_trials=5, max_trials=10)"
    assert replay("whole", **places).same
    assert not replay("all", sampler=Sampler(name="tpe", options={"max_trials": 10}), **places).same


@pytest.mark.parametrize(
    ("name", "most"), [("random", 10), ("nsgaii", 10), ("tpe", 0), ("tpe", True), ("gp", "10")]
)
def test_a_number_that_cannot_be_is_refused_before_anything_begins(name: str, most: Any) -> None:
    with pytest.raises(InvalidSettingError, match="number of trials, 1 or more, as `max_trials`"):
        checked_names({"sampler": {"name": name, "options": {"max_trials": most}}})
