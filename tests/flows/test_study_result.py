"""`StudyResult` in a terminal, in a notebook, and in a script."""

from __future__ import annotations

import pytest

from prefect_optuna.errors import NoCompleteTrialError
from prefect_optuna.flows import BestTrial, StudyResult

ONE = StudyResult(
    study_name="<lab>",
    directions=("minimize",),
    best_trials=[BestTrial(number=4, values=(0.125,), params={"x": 1.5, "kind": "a"})],
    n_trials=9,
    states={"complete": 7, "pruned": 0, "failed": 2, "lost": 1},
    storage="memory://here",
    artifacts="memory://there",
)


def test_a_terminal_shows_the_answer_first() -> None:
    assert repr(ONE).splitlines() == [
        "StudyResult of '<lab>': best value 0.125 in trial 4 of 9",
        "  parameters  x=1.5, kind='a'",
        "  trials      7 complete, 2 failed, 1 lost",
        "  study       memory://here",
        "  archive     memory://there",
    ]


def test_a_notebook_shows_it_escaped() -> None:
    html = ONE._repr_html_()
    assert "<strong>&lt;lab&gt;: best value 0.125" in html
    assert ">x=1.5, kind=&#x27;a&#x27;</td>" in html


def test_one_direction_has_one_best_trial() -> None:
    assert (ONE.best_value, ONE.best_params) == (0.125, {"x": 1.5, "kind": "a"})
    assert ONE.best_values == [(0.125,)]


def test_nothing_complete_is_told() -> None:
    none = ONE.model_copy(update={"best_trials": [], "states": {"complete": 0, "failed": 3}})
    assert "no complete trial" in repr(none)
    with pytest.raises(NoCompleteTrialError, match="3 failed"):
        _ = none.best_value


def test_it_travels_as_json() -> None:
    assert StudyResult.model_validate_json(ONE.model_dump_json()) == ONE
