"""Each trial names the code that ran it, however it came to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.flows import Problem, optimize, reevaluate
from prefect_optuna.flows.session import Session, is_lost, owner_of
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def before(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def after(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1) + 10


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def after_params(params: dict[str, float]) -> float:
    return params["x"] + 10


AFTER = Problem(suggest=suggest, run=after_params)


def study_with_a_queue() -> optuna.Study:
    """One trial of the old code, an enqueued one, and one that a killed process has left."""
    optimize(before, study_name="s", n_trials=1)
    study = as_study_storage().load_study("s")
    study.enqueue_trial({"x": 0.25})
    dead = Session(study, study._storage)
    dead.open()
    sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.NopPruner()
    trial = dead.take(FlowStudy.open("s", study._storage, sampler, pruner))
    assert trial is not None
    trial.suggest_float("x", 0, 1)
    dead.close(clean=False)
    study.enqueue_trial({"x": 0.75})
    return study


@pytest.mark.parametrize(
    "how",
    [
        "here",
        "problem",
        *(pytest.param(n, marks=pytest.mark.heavy) for n in ("threads", "processes")),
    ],
)
def test_a_trial_that_was_queued_before_the_code_changed_runs_again_with_what_ran_it(
    how: str,
) -> None:
    study_with_a_queue()
    runner: Any = {"threads": "threads", "processes": "processes"}.get(how)
    optimize(
        AFTER if how == "problem" else after,
        study_name="s",
        n_trials=4,
        n_jobs=2 if how == "threads" else 1,
        task_runner=runner,
    )

    archived = ArchivedStudy.load("s")
    trials = [t for t in archived.study.trials if not is_lost(t)]
    assert [archived.version_of(t.number) for t in trials] == [0, 1, 1, 1]
    assert all(owner_of(t) for t in trials)
    if how == "processes":  # it takes seconds, and depends on the versions alone
        again = reevaluate("s", trials="complete", trusted=True)
        assert again.reproduced, again


@pytest.mark.slow
def test_a_loop_of_ones_own_names_the_new_code_for_what_was_queued_under_the_old() -> None:
    storage = as_study_storage()
    study = storage.create_study("own")
    archive = OptunaArchive(study)
    with archive.register():

        def suggest(trial):
            return {"x": trial.suggest_float("x", 0, 1)}

        def simulate(params):
            return params["x"]

        def misfit(result):
            return float(result)

    archive.set_suggest_entrypoint("suggest")
    archive.set_run_entrypoint("simulate")
    archive.set_eval_entrypoint("misfit")
    study.optimize(lambda trial: misfit(simulate(suggest(trial))), n_trials=1)
    study.enqueue_trial({"x": 0.25})
    study.enqueue_trial({"x": 0.5})
    archive = OptunaArchive(study)
    with archive.register():
        shift = 10

        def suggest(trial):
            return {"x": trial.suggest_float("x", 0, 1)}

        def simulate(params):
            return params["x"] + shift

        def misfit(result):
            return float(result)

    archive.set_suggest_entrypoint("suggest")
    archive.set_run_entrypoint("simulate")
    archive.set_eval_entrypoint("misfit")
    archive.study_add_axis("t", [0, 1])

    def objective(trial: optuna.Trial) -> float:
        result = simulate(suggest(trial))
        if trial.number == 2:
            archive.trial_add_timeseries(trial, "amount", [result, 0.0], ["t"])
        return misfit(result)

    study.optimize(objective, n_trials=3)

    archived = ArchivedStudy.load("own")
    assert [archived.version_of(number) for number in range(4)] == [0, 1, 1, 1]
    assert archived.study.trials[2].user_attrs["timeseries:amount"]["version"]
    assert {t.state for t in archived.study.trials} == {TrialState.COMPLETE}
    assert reevaluate("own", trials="complete", trusted=True).reproduced
