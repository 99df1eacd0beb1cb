"""What is set for a study has a name that is read, and the right type."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from prefect_optuna.tasks import auto_param, param_scope
from prefect_optuna.tasks.reevaluation.why import scope_that_is_read
from prefect_optuna.tasks.scope import InvalidParameterError
from prefect_optuna.tasks.scope.scope import check_types
from prefect_optuna.tasks.trial import TrialScope

DEFAULTS = {"rate": 0.5, "steps": 3, "fast": True, "name": "x", "units": [8]}


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("rate", "abc", "a float, such as 0.5"),
        ("rate", [1], "a float"),
        ("steps", 2.7, "an int, such as 3"),
        ("steps", "1.5", "an int"),
        ("steps", "abc", "an int"),
        ("steps", float("inf"), "an int"),
        ("fast", "maybe", "a bool, such as True"),
        ("fast", [], "a bool"),
    ],
)
def test_a_value_of_another_type_is_refused_with_key_and_type(
    key: str, value: Any, kind: str
) -> None:
    with pytest.raises(InvalidParameterError, match=f"'{key}' is {kind}.*found"):
        check_types({key: value}, DEFAULTS)


@pytest.mark.parametrize(
    "values",
    [
        {"rate": "1e-3"}, {"rate": 1}, {"rate": None}, {"steps": "1e3"}, {"steps": 2.0},
        {"steps": True}, {"fast": "no"}, {"fast": 0}, {"name": 3}, {"units": "[8]"}, {"other": "?"},
    ],
)  # fmt: skip
def test_what_becomes_of_the_type_is_taken(values: dict[str, Any]) -> None:
    check_types(values, DEFAULTS)


def test_a_study_s_scope_is_checked_with_what_auto_param_functions_take() -> None:
    @auto_param("checked")
    def simulate(dt: float = 0.5) -> float:
        return dt

    with pytest.raises(InvalidParameterError, match=r"'checked\.dt' is a float"):
        TrialScope({"checked": {"dt": "abc"}}).check()
    with (
        param_scope("checked.dt=abc").allow_unread(),
        pytest.raises(InvalidParameterError, match=r"checked\.dt"),
    ):
        TrialScope().check()
    TrialScope({"checked.dt": "0.1"}).check()
    assert simulate() == 0.5


def test_what_a_trial_has_not_read_is_told_with_the_nearest_name() -> None:
    scope = TrialScope({"simulat": {"dt": 1}, "seed": 2, "simulate.steps": 3})
    said = scope.unread({"simulate.dt", "simulate.steps"})
    assert said == (
        "'seed' was set and not read. 'simulat.dt' was set and not read; did you mean "
        "'simulate.dt'?"
    )
    assert scope.unread({"simulat.dt", "seed", "simulate.steps"}) == ""
    assert TrialScope({"seed": 2}, handed_out=True).unread(set()) == ""


def test_only_what_trials_read_can_have_changed_a_value() -> None:
    trial = optuna.trial.create_trial(value=1.0, user_attrs={"scope": {"simulate.dt": 0.1}})
    changed = scope_that_is_read({"simulate.dt": "0.2", "seed": 3}, [trial], {})
    assert changed == {"simulate.dt": "0.2"}
    assert scope_that_is_read({"seed": 3}, [trial], {"seed": 1}) == {"seed": 3}
    with pytest.raises(InvalidParameterError, match=r"reads 'simulat\.dt'; did you mean 'simula"):
        scope_that_is_read({"simulat.dt": 0.2}, [trial], {})
    with pytest.raises(InvalidParameterError, match=r"'simulate\.dt' is a float"):
        scope_that_is_read({"simulate.dt": "abc"}, [trial], {})


def test_what_may_be_a_secret_is_not_quoted() -> None:
    with pytest.raises(InvalidParameterError) as refused:
        check_types({"api_token": "hunter2"}, {"api_token": 5})
    assert "hunter2" not in str(refused.value)
    with pytest.raises(InvalidParameterError) as refused:
        check_types({"dt": "redis://:hunter2@lab/0"}, {"dt": 0.1})
    assert "hunter2" not in str(refused.value)
