"""`reevaluate`: archived trials again, in a process that never saw the script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from prefect.client.orchestration import get_client

from prefect_optuna.blocks import ArchiveError, StudyNotFoundError, as_study_storage
from prefect_optuna.blocks.errors import InvalidSettingError, UntrustedArchiveError
from prefect_optuna.flows import Problem, optimize, reevaluate
from prefect_optuna.tasks import ArchivedStudy

pytestmark = pytest.mark.usefixtures("prefect_server")

MODULE = """
    import os
    import numpy as np
    from helper_of_the_script import gain

    STEPS = np.arange(4.0)

    def suggest(trial, scope):
        return {"x": trial.suggest_float("x", 0, scope.get("high", 1.0))}

    def run(params, scope):
        print("archived code may print")
        return {"series": gain() * params["x"] * STEPS + scope.get("offset", 0.0)}

    def evaluate(result):
        return float(result["series"].sum())
"""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def square(params: dict[str, float]) -> float:
    return params["x"] ** 2


def test_a_trial_runs_again_where_the_script_and_its_modules_are_gone(tmp_path: Path) -> None:
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "helper_of_the_script.py").write_text("def gain():\n    return 1 / 3\n")
    lines = [line[4:] for line in MODULE.splitlines()]
    (folder / "the_script.py").write_text("\n".join(lines))
    program = (
        "from prefect_optuna.flows import Problem, optimize\n"
        "from the_script import suggest, run, evaluate\n"
        "problem = Problem(suggest=suggest, run=run, evaluate=evaluate)\n"
        "optimize(problem, study_name='gone', n_trials=8, seed=1, scope={'offset': 0.1})\n"
    )
    (folder / "start.py").write_text(program)
    subprocess.run([sys.executable, str(folder / "start.py")], check=True, cwd=tmp_path)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    assert "the_script" not in sys.modules

    again = reevaluate("gone", trials="best:3", repeats=2, trusted=True)

    study = as_study_storage(None).load_study("gone")
    ranked = sorted(study.trials, key=lambda trial: trial.value)
    assert [trial.number for trial in again.trials] == [t.number for t in ranked[:3]]
    for trial, archived in zip(again.trials, ranked, strict=False):
        assert trial.verdict == "reproduced"
        assert trial.archived == archived.value
        assert trial.values == [archived.value, archived.value]
        assert trial.difference == 0.0
    assert again.reproduced
    assert "the_script" not in sys.modules


def test_a_scope_may_be_overridden_and_the_drift_is_told() -> None:
    def run_in_scope(params: dict[str, float], scope: dict[str, float]) -> float:
        return params["x"] + scope["offset"]

    problem = Problem(suggest=suggest, run=run_in_scope)
    optimize(problem, study_name="scope", n_trials=3, scope={"offset": 1.0})
    assert reevaluate("scope", trials=[0, 2], trusted=True).reproduced
    drifted = reevaluate("scope", trials=1, trusted=True, scope={"offset": 1.5})
    [trial] = drifted.trials
    assert trial.verdict == "drifted"
    assert trial.difference == pytest.approx(0.5)
    assert "drifted" in repr(drifted)
    assert reevaluate("scope", trials=1, trusted=True, scope={"offset": 1.5}, atol=0.6).reproduced


def test_a_trial_that_fails_now_says_why() -> None:
    def picky(params: dict[str, float], scope: dict[str, bool]) -> float:
        if scope.get("strict"):
            raise ArithmeticError("too strict")
        return params["x"]

    optimize(Problem(suggest=suggest, run=picky), study_name="picky", n_trials=2)
    [trial] = reevaluate("picky", trusted=True, scope={"strict": True}).trials
    assert trial.verdict == "failed"
    assert trial.values == []
    assert "too strict" in trial.message


def test_plain_objectives_and_several_directions() -> None:
    def two(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", -1, 1)
        return x**2, trial.suggest_categorical("flip", [1, -1]) * x

    optimize(two, study_name="two", n_trials=10, seed=1, directions=["minimize", "maximize"])
    again = reevaluate("two", trials="pareto", trusted=True)
    assert again.reproduced
    assert isinstance(again.trials[0].archived, tuple)
    assert again.trials[0].values == [again.trials[0].archived]


def test_each_trial_runs_with_the_code_that_it_ran_with() -> None:
    optimize(Problem(suggest=suggest, run=square), study_name="versions", n_trials=2)

    def cube(params: dict[str, float]) -> float:
        return params["x"] ** 3

    optimize(Problem(suggest=suggest, run=cube), study_name="versions", n_trials=4)
    assert len(ArchivedStudy.load("versions").versions) == 2
    assert reevaluate("versions", trials=[3, 0, 2, 1], trusted=True).reproduced


def test_it_works_on_studies_and_archives_in_memory() -> None:
    places: dict[str, Any] = {"storage": "memory://again", "artifacts": "memory://again"}
    optimize(Problem(suggest=suggest, run=square), study_name="m", n_trials=3, **places)
    assert reevaluate("m", trusted=True, **places).reproduced


def test_prefect_shows_the_table() -> None:
    optimize(Problem(suggest=suggest, run=square), study_name="shown-again", n_trials=3)
    reevaluate("shown-again", trials="best:2", trusted=True)
    with get_client(sync_client=True) as client:
        [table] = [a for a in client.read_artifacts() if a.key == "reevaluation-shown-again"]
    assert str(table.data).startswith("# 2 of 2 trials reproduced")


def test_nothing_runs_unless_somebody_trusts_it() -> None:
    optimize(Problem(suggest=suggest, run=square), study_name="untrusted", n_trials=1)
    with pytest.raises(UntrustedArchiveError, match=r"describe\(\).*trusted=True"):
        reevaluate("untrusted")


def test_bad_input_is_told() -> None:
    optimize(Problem(suggest=suggest, run=square), study_name="known", n_trials=2)
    for trials, message in {
        "worst:2": "best:K",
        "best:0": "best:K",
        "best:x": "best:K",
        7: "has no trial 7; it has 2",
        -1: "has no trial -1",
        (): "names no trial",
    }.items():
        with pytest.raises(InvalidSettingError, match=message):
            reevaluate("known", trials=trials, trusted=True)
    with pytest.raises(InvalidSettingError, match="repeats"):
        reevaluate("known", repeats=0, trusted=True)
    with pytest.raises(StudyNotFoundError, match="known"):
        reevaluate("knwon", trusted=True)
    as_study_storage(None).create_study("bare")
    with pytest.raises(ArchiveError, match="has no archive"):
        reevaluate("bare", trusted=True)


def test_a_failed_trial_has_no_value_to_compare_with() -> None:
    def fails(trial: optuna.Trial) -> float:
        if trial.number == 1:
            raise ValueError
        return trial.suggest_float("x", 0, 1)

    optimize(fails, study_name="fails", n_trials=3, catch=(ValueError,))
    with pytest.raises(InvalidSettingError, match="Trial 1 is FAIL"):
        reevaluate("fails", trials=[0, 1], trusted=True)
