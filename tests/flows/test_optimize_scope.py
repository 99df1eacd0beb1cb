"""`param_scope` around a study: what its trials read, where they run, and when they run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from optuna.trial import FrozenTrial

from prefect_optuna.errors import CaptureError
from prefect_optuna.flows import optimize, reevaluate
from prefect_optuna.tasks import ArchivedStudy, Problem, param_scope
from prefect_optuna.tasks.scope import UnreadParameterWarning

pytestmark = pytest.mark.usefixtures("prefect_server")

PROBLEM = """
from prefect_optuna.tasks import Problem, auto_param, param_scope


@auto_param
def simulate(x, dt=0.1, steps=3):
    return [x * dt * n for n in range(steps)]


@auto_param("model.solver")
class Solver:
    def __init__(self, order=4):
        self.order = order


def suggest(trial):
    return {"x": trial.suggest_float("x", 0, param_scope.limit(1.0))}


def run(params):
    return {
        "series": simulate(params["x"]),
        "seen": param_scope.x(0.0),
        "order": Solver().order,
        "seed": param_scope.seed(0),
    }


def evaluate(result):
    return result["series"][-1] + result["seed"] + result["order"] + param_scope.offset(0)


problem = Problem(suggest=suggest, run=run, evaluate=evaluate)
"""


@pytest.fixture
def problem(tmp_path: Path) -> str:
    name = f"scoped_{uuid4().hex}.py"
    (tmp_path / name).write_text(PROBLEM)
    return f"{tmp_path / name}:problem"


@pytest.fixture
def where(tmp_path: Path) -> dict[str, Any]:
    return {
        "storage": f"journal:///{tmp_path}/studies.journal",
        "artifacts": str(tmp_path / "artifacts"),
    }


def trial_of(study_name: str, where: dict[str, Any]) -> FrozenTrial:
    return ArchivedStudy.load(study_name, **where).study.trials[0]


@pytest.mark.parametrize(
    ("task_runner", "n_jobs"),
    [(None, 1), ("threads", 2), pytest.param("processes", 1, marks=pytest.mark.slow)],
)
def test_trials_see_the_scope_wherever_they_run(
    task_runner: Any, n_jobs: int, problem: str, where: dict[str, Any]
) -> None:
    with param_scope(**{"simulate.dt": "0.5", "offset": 10, "seed": 3}):
        optimize(
            problem,
            study_name="scoped",
            n_trials=2,
            seed=1,
            scope={"seed": 7, "limit": 0.25, "model": {"solver": {"order": 2}}},
            task_runner=task_runner,
            n_jobs=n_jobs,
            **where,
        )
    archived = ArchivedStudy.load("scoped", **where)
    trial = archived.study.trials[0]
    assert trial.params["x"] <= 0.25, "`suggest` saw the scope"
    assert trial.value == trial.params["x"] * 0.5 * 2 + 7 + 2 + 10
    assert archived.result(0)["seen"] == trial.params["x"], "the trial's own parameters"
    # What was really read, as the type that the code got; the trial's own are in the study.
    assert trial.user_attrs["scope"] == {
        "simulate.dt": 0.5,
        "simulate.steps": 3,
        "model.solver.order": 2,
        "seed": 7,
        "offset": 10,
    }
    assert archived.scope()["seed"] == 7
    assert archived.scope()["simulate.dt"] == "0.5"


@pytest.mark.slow
def test_a_trial_runs_again_under_its_scope_or_another(problem: str, where: dict[str, Any]) -> None:
    with param_scope(**{"simulate.dt": 0.5}):
        optimize(problem, study_name="again", n_trials=1, seed=1, **where)
    again = reevaluate("again", trials=0, trusted=True, **where).trials[0]
    assert again.verdict == "reproduced"
    other = reevaluate("again", trials=0, trusted=True, scope={"seed": 5}, **where).trials[0]
    assert other.verdict == "drifted"
    assert other.values[0] == pytest.approx(again.values[0] + 5)


def test_a_plain_objective_sees_the_scope_too(where: dict[str, Any]) -> None:
    def objective(trial: Any) -> float:
        return trial.suggest_float("x", 0, 1) + param_scope.offset(0)

    result = optimize(objective, study_name="plain", n_trials=1, scope={"offset": 10}, **where)
    assert result.best_value >= 10
    assert trial_of("plain", where).user_attrs["scope"] == {"offset": 10}


def test_what_reads_nothing_stores_nothing(where: dict[str, Any]) -> None:
    optimize(lambda trial: trial.suggest_float("x", 0, 1), study_name="none", n_trials=1, **where)
    assert "scope" not in trial_of("none", where).user_attrs


def test_functions_that_name_scope_get_both(where: dict[str, Any]) -> None:
    def run(params: dict[str, Any], scope: dict[str, Any]) -> float:
        return scope["a"] + scope["b"]

    problem = Problem(suggest=lambda trial: {"x": trial.suggest_float("x", 0, 1)}, run=run)
    with param_scope(a=1, b=2):
        result = optimize(problem, n_trials=1, scope={"b": 20}, **where)
    assert result.best_value == 21


def test_a_value_that_cannot_be_archived_is_named(where: dict[str, Any]) -> None:
    with (
        param_scope(**{"simulate.hook": object()}),
        pytest.raises(CaptureError, match=r"simulate\.hook"),
    ):
        optimize(lambda trial: 0.0, n_trials=1, **where)


def test_a_misspelt_parameter_around_a_study_is_told(problem: str, where: dict[str, Any]) -> None:
    with (
        pytest.warns(UnreadParameterWarning, match=r"simulat\.dt was .*mean simulate\.dt\?"),
        param_scope(**{"simulat.dt": 0.5, "seed": 3}),
    ):
        optimize(problem, study_name="misspelt", n_trials=1, **where)


def test_the_scope_of_one_study_does_not_reach_the_next(where: dict[str, Any]) -> None:
    seen: list[int] = []

    def objective(trial: Any) -> float:
        seen.append(param_scope.seed(0))
        return 0.0

    optimize(objective, study_name="one", n_trials=1, scope={"seed": 7}, **where)
    optimize(objective, study_name="two", n_trials=1, **where)
    assert seen == [7, 0]
    assert param_scope.seed(0) == 0
