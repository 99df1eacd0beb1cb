"""`Problem`: what is accepted as one, and what is said when it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from prefect_optuna.errors import InvalidProblemError
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.trial import Assignment, TrialRunner


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params: dict[str, float]) -> float:
    return params["x"]


def test_parts_get_what_they_name_and_nothing_else() -> None:
    def greedy(params: Any, *, ctx: Any, scope: Any, other: int = 5) -> Any:
        return params, ctx, scope, other

    problem = Problem(suggest=suggest, run=greedy, context={"a": 1})
    assert problem.call("run", {"x": 1}, scope={"b": 2}) == ({"x": 1}, {"a": 1}, {"b": 2}, 5)
    assert problem.call("evaluate", 3.5) == 3.5


def test_only_functions_that_name_the_trial_need_it() -> None:
    def with_trial(params: Any, trial: Any) -> float:
        return 0.0

    assert not Problem(suggest=suggest, run=run).needs_trial
    assert Problem(suggest=suggest, run=with_trial).needs_trial
    assert Problem(suggest=suggest, run=run, evaluate=with_trial).needs_trial
    assert Problem(objective=lambda trial: 1.0).needs_trial


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "got neither"),
        ({"run": run, "suggest": suggest, "objective": run}, "got both"),
        ({"objective": run, "suggest": suggest}, "by itself"),
        ({"run": run}, "needs `suggest`"),
        ({"run": run, "suggest": {"x": 1}}, "`suggest` has to be a function, found dict"),
        ({"run": lambda: 1, "suggest": suggest}, r"called as run\(params\)"),
        ({"run": lambda params, speed: 1, "suggest": suggest}, "Give a default to: speed"),
        ({"run": run, "suggest": suggest, "directions": ["down"]}, "minimize"),
        ({"run": run, "suggest": suggest, "directions": []}, "minimize"),
    ],
)
def test_a_mistake_is_told_when_the_problem_is_made(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidProblemError, match=message):
        Problem(**arguments)


def test_a_direction_may_be_given_alone() -> None:
    assert Problem(objective=run, directions="maximize").directions == ("maximize",)  # type: ignore[arg-type]


def test_files_and_modules_are_found_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neighbour_of_it.py").write_text("FACTOR = 3\n")
    (tmp_path / "problem_in_file.py").write_text(
        "from neighbour_of_it import FACTOR\n"
        "class holder:\n"
        "    @staticmethod\n"
        "    def objective(trial):\n"
        "        return FACTOR\n"
    )
    for path in ("problem_in_file.py:holder.objective", "problem_in_file:holder.objective"):
        problem = Problem.of(path)
        assert problem.objective is not None
        assert problem.objective(None) == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.py:problem", "no such file"),
        ("syntax_error.py:problem", "SyntaxError"),
        ("json:loads.nothing", "has no 'loads.nothing'"),
        (":x", "package.module:attribute"),
    ],
)
def test_what_cannot_be_imported_is_told(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "syntax_error.py").write_text("def f(:\n")
    with pytest.raises(InvalidProblemError, match=message):
        Problem.of(path)


@pytest.mark.parametrize("value", [3, None, Problem, "x"])
def test_what_is_no_problem_is_told(value: Any) -> None:
    with pytest.raises(InvalidProblemError):
        Problem.of(value)


def test_an_outcome_says_where_in_the_users_code_it_failed() -> None:
    def broken(params: Any) -> float:
        return params["y"]

    outcome = TrialRunner(Problem(suggest=suggest, run=broken))(Assignment(3, {"x": 1.0}))
    assert outcome.state == "failed"
    assert "KeyError: 'y'" in outcome.message
    assert "test_problem.py" in outcome.message
    assert "in broken" in outcome.message


@pytest.mark.parametrize(
    ("value", "directions", "message"),
    [
        ("three", ("minimize",), "a number, found 'three'"),
        (None, ("minimize",), "a number, found None"),
        ({"a": 1}, ("minimize",), "Give the problem an `evaluate` function"),
        ((1.0, 2.0), ("minimize",), "2 values for 1 directions"),
        (1.0, ("minimize", "maximize"), "2 numbers, found float"),
    ],
)
def test_a_value_that_is_none_is_told(
    value: Any, directions: tuple[Any, ...], message: str
) -> None:
    problem = Problem(suggest=suggest, run=lambda params: value, directions=directions)
    outcome = TrialRunner(problem)(Assignment(0, {}))
    assert outcome.state == "failed"
    assert message in outcome.message


def test_infinity_is_a_value_and_nan_is_none() -> None:
    def value(params: Any) -> float:
        return params["value"]

    runner = TrialRunner(Problem(suggest=suggest, run=value))
    assert runner(Assignment(0, {"value": float("inf")})).values == (float("inf"),)
    assert runner(Assignment(0, {"value": float("nan")})).state == "failed"
