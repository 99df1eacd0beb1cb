"""Constraints of trials: told, kept, signed, respected by whatever says "best", and run again."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from matplotlib.axes import Axes
from optuna.trial import FrozenTrial

from prefect_optuna.blocks import RedisStudyStorage, as_study_storage
from prefect_optuna.deployments.cli.views import reevaluation_table, trials_table
from prefect_optuna.errors import NoCompleteTrialError
from prefect_optuna.flows import Problem, optimize, reevaluate
from prefect_optuna.flows.plots import pareto_plot
from prefect_optuna.flows.reevaluate_flow import render_reevaluation
from prefect_optuna.flows.report import render_report
from prefect_optuna.flows.report_flow import read_status
from prefect_optuna.flows.task_runners import run_trials
from prefect_optuna.flows.wording import best_trials_table
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, copy_study, diff
from prefect_optuna.tasks.archive.record.trial_records import TrialSigner
from prefect_optuna.tasks.reevaluation.verdicts import Rerun, compare
from prefect_optuna.tasks.trial import Assignment, TrialRunner

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params: Mapping[str, float]) -> dict[str, list[float]]:
    return {"series": [params["x"], 2 * params["x"]]}


def evaluate(result: Mapping[str, list[float]], trial: optuna.trial.BaseTrial) -> float:
    x = result["series"][0]
    trial.set_constraint("too small", 0.5 - x)
    return x


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    trial.set_constraint("too small", 0.5 - x)
    return x


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate)


# -- told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", [PROBLEM, objective], ids=["problem", "objective"])
def test_a_constrained_study_and_its_seed_give_what_plain_optuna_gives(what: Any) -> None:
    expected = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    expected.optimize(objective, n_trials=20)

    result = optimize(what, study_name="c", n_trials=20, seed=1)

    study = result.load_study()
    assert [t.constraints for t in study.trials] == [t.constraints for t in expected.trials]
    assert [t.params for t in study.trials] == [t.params for t in expected.trials]
    assert min(t.value for t in study.trials) < 0.5, "an infeasible trial has the best value"
    assert result.best_trial.number == study.best_trial.number == expected.best_trial.number
    assert result.best_trial.constraints == study.best_trial.constraints
    assert "constraints too small=" in str(result)


@pytest.mark.parametrize(
    ("runner", "where"),
    [("threads", "file"), pytest.param("processes", "redis", marks=pytest.mark.slow)],
)
def test_constraints_are_told_from_wherever_a_trial_runs_before_it_is_signed(
    runner: str, where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", "a key of thirty-two characters.."
    )
    signed: list[dict[str, float]] = []
    sign = TrialSigner.signed

    def sign_and_note(self: TrialSigner, trial: FrozenTrial, *more: Any) -> dict[str, Any]:
        signed.append(trial.constraints)
        return sign(self, trial, *more)

    monkeypatch.setattr(TrialSigner, "signed", sign_and_note)
    storage = None
    if where == "redis":
        storage = RedisStudyStorage(
            url=request.getfixturevalue("redis_server"), namespace="constraints"
        )
    n_jobs = 2 if runner == "threads" else 1
    options: dict[str, Any] = {"n_jobs": n_jobs, "task_runner": runner, "storage": storage}
    result = optimize(PROBLEM, study_name="c", n_trials=6, **options)
    trials = result.load_study().trials
    assert [t.constraints for t in trials] == [{"too small": 0.5 - t.params["x"]} for t in trials]
    assert {one["too small"] for one in signed} == {0.5 - t.params["x"] for t in trials}
    assert str(ArchivedStudy.load("c", storage=storage).signatures)


def test_a_loop_of_one_s_own_sets_and_archives_them() -> None:
    study = as_study_storage(None).create_study("own")
    archive = OptunaArchive(study)
    archive.save_problem(PROBLEM)
    for mass in (0.25, -0.25):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_constraint("mass", mass)
        study.tell(trial, mass + 1)
    archived = ArchivedStudy.load("own")
    assert [t.constraints for t in archived.study.trials] == [{"mass": 0.25}, {"mass": -0.25}]


def best_of_study(name: str) -> Any:
    """What `diff` calls the best value, which it tells where the other study has another one."""
    empty = as_study_storage(None).create_study("empty")
    OptunaArchive(empty).save_problem(PROBLEM)
    return diff(name, "empty").results["best"][0]


# -- "best" ----------------------------------------------------------------------------------------


def test_where_nothing_is_feasible_nothing_is_best_and_everybody_says_so() -> None:
    def never(trial: optuna.Trial) -> float:
        trial.set_constraint("mass", math.inf)
        return trial.suggest_float("x", 0, 1)

    result = optimize(never, study_name="never", n_trials=3)
    assert result.best_trials == []
    with pytest.raises(NoCompleteTrialError, match="complete and meets its constraints"):
        _ = result.best_value
    assert "no feasible trial" in str(result)
    report = render_report(read_status("never"), pictures=False).markdown
    assert report.startswith("# No feasible trial\n")
    assert "3 complete (3 infeasible)" in report


def test_report_and_tables_show_constraints_and_no_infeasible_trial_as_the_best() -> None:
    result = optimize(objective, study_name="c", n_trials=20, seed=1)
    best, status = result.best_trial, read_status("c")
    markdown = render_report(status, pictures=True).markdown
    assert markdown.startswith(f"# Best value {best.values[0]:.5g}\n")
    assert "too small ≤ 0" in markdown
    table = best_trials_table(status.trials, status.directions, width=100)
    assert "too small ≤ 0" in [column.header for column in table.columns]
    assert next(iter(table.columns[0].cells)) == str(best.number)
    table = trials_table(sorted(status.trials, key=lambda t: t.value), status.directions, width=100)
    assert "too small ≤ 0" in [column.header for column in table.columns]
    assert "infeasible" in next(iter(table.columns[-1].cells))
    assert diff("c", "c").results == {}
    assert best_of_study("c") == best.values[0]


def test_the_name_of_a_task_run_is_the_best_value_that_is_feasible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names: list[str] = []
    context = types.SimpleNamespace(task_run=types.SimpleNamespace(name=""))
    module = sys.modules[run_trials.fn.__module__]
    monkeypatch.setattr(module, "TaskRunContext", types.SimpleNamespace(get=lambda: context))
    for xs in ([0.25, 0.75, 1.0], [0.25]):
        assignments = [
            Assignment(n, {"x": x}, optuna.trial.FixedTrial({}, number=n)) for n, x in enumerate(xs)
        ]
        run_trials.fn(0, assignments, TrialRunner(PROBLEM))
        names.append(context.task_run.name)
    assert names == ["trials 0 to 2: best 0.75", "trial 0: 0.25, infeasible"]


# -- run again -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_constraints_are_run_again_and_one_that_comes_out_otherwise_is_a_drift() -> None:
    def limited(params: Mapping[str, float], scope: Any, trial: optuna.trial.BaseTrial) -> float:
        trial.set_constraint("mass", params["x"] - scope["limit"])
        return params["x"]

    problem = Problem(suggest=suggest, run=limited)
    optimize(problem, study_name="again", n_trials=5, seed=1, scope={"limit": 2.0})

    same = reevaluate("again", trials="all", trusted=True)
    assert same.reproduced
    assert all(t.new_constraints == [t.constraints] != [{}] for t in same.trials)

    moved = reevaluate("again", trials="best:1", trusted=True, scope={"limit": 0.0})
    (trial,) = moved.trials
    assert trial.verdict == "drifted"
    assert trial.difference == 0.0, "its value is the same"
    assert "mass " in str(moved)
    assert ", now " in str(moved)
    shown = reevaluation_table(moved)
    assert shown.columns[-1].header == "constraints"
    assert render_reevaluation(moved).count(", now ") == 1
    assert ArchivedStudy.load("again").reevaluations()[-1] == moved


@pytest.mark.parametrize(
    ("then", "now", "reproduced"),
    [
        ({"a": 1.0}, {"a": 1.0}, True),
        ({"a": 1.0}, {"a": 1.05}, True),
        ({"a": 1.0}, {"a": 1.2}, False),
        ({"a": math.inf}, {"a": math.inf}, True),
        ({"a": math.inf}, {"a": 1.0}, False),
        ({"a": 1.0}, {}, False),
        ({}, {"a": 1.0}, False),
    ],
)
def test_constraints_are_compared_with_the_least_tolerance(
    then: dict[str, float], now: dict[str, float], reproduced: bool
) -> None:
    trial = optuna.trial.create_trial(values=[1.0, 2.0], constraints=then)
    rerun = Rerun(0, ((1.0, 2.0),), constraints=(now,))
    found = compare(trial, rerun, rtol=[0.1, 10.0], atol=[0.0, 10.0])
    assert (found.verdict == "reproduced") == reproduced


def test_what_a_sampler_s_function_has_computed_is_nothing_that_the_code_would_give_again() -> None:
    trial = optuna.trial.create_trial(value=1.0, system_attrs={"constraints": [0.5]})
    rerun = Rerun(0, ((1.0,),), constraints=({},))
    assert compare(trial, rerun, rtol=[0.0], atol=[0.0]).verdict == "reproduced"


# -- carried ---------------------------------------------------------------------------------------


CONSTRAINTS = {"mass": -0.5, "cost ≤ 3": 0.0, "": math.inf, "low": -math.inf}


def test_constraints_survive_export_import_and_a_copy(redis_server: str, tmp_path: Path) -> None:
    study = as_study_storage("sqlite:///one.db").create_study("s")
    study.add_trial(optuna.trial.create_trial(value=1.0, constraints=CONSTRAINTS))
    here = OptunaArchive(study)
    here.save_problem(PROBLEM)
    archived = ArchivedStudy.load("s", storage="sqlite:///one.db")
    file = archived.export(tmp_path / "s.zip")
    redis = RedisStudyStorage(url=redis_server, namespace="constraints-carried")

    brought = ArchivedStudy.import_(file, storage=redis)
    copy_study(from_study_name="s", from_storage=redis, to_storage="journal:///copy.journal")
    copied = as_study_storage("journal:///copy.journal").load_study("s")

    for one in (study, brought.study, copied):
        assert one.trials[0].constraints == CONSTRAINTS


def test_times_of_an_export_are_in_utc_and_those_of_0_1_0_are_read(tmp_path: Path) -> None:
    from prefect_optuna.tasks.archive.carrying.portable import trial_from_json, trial_to_json

    trial = optuna.trial.create_trial(value=1.0)
    told = trial_to_json(trial)
    assert told["datetime_start"].endswith("+00:00")
    assert trial_from_json(told).datetime_start == trial.datetime_start
    told["datetime_start"] = "2026-01-02T03:04:05"
    found = trial_from_json(told).datetime_start
    assert found is not None
    assert found.isoformat() == "2026-01-02T03:04:05"


def test_the_picture_of_a_pareto_front_marks_the_infeasible() -> None:
    trials = [
        optuna.trial.create_trial(values=[x, 1 - x], constraints={"mass": 0.5 - x})
        for x in (0.1, 0.6, 0.9)
    ]
    labels: list[str] = []
    plot = Axes.plot

    def plot_and_note(self: Axes, *points: Any, **style: Any) -> Any:
        labels.append(style.get("label", ""))
        return plot(self, *points, **style)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "plot", plot_and_note)
        assert pareto_plot(trials, ["minimize", "minimize"]).startswith(b"\x89PNG")
    assert labels[:2] == ["infeasible", "trials"]
    assert "2 Pareto-best" in labels
