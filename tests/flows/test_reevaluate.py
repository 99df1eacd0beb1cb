"""`reevaluate`: archived trials again, in a process that never saw the script."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import optuna
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from servers import wait_until

from prefect_optuna.blocks import ArchiveError, StudyNotFoundError, as_study_storage
from prefect_optuna.errors import InvalidSettingError, UntrustedArchiveError
from prefect_optuna.flows import DriftError, Problem, optimize, reevaluate
from prefect_optuna.tasks import ArchivedStudy, param_scope

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


@pytest.mark.slow
def test_a_scope_may_be_overridden_and_the_drift_is_told() -> None:
    def run_in_scope(params: dict[str, float], scope: dict[str, float]) -> float:
        return params["x"] + scope["offset"]

    problem = Problem(suggest=suggest, run=run_in_scope)
    optimize(problem, study_name="scope", n_trials=3, scope={"offset": 1.0})
    drifted = reevaluate("scope", trials=1, trusted=True, scope={"offset": 1.5})
    [trial] = drifted.trials
    assert trial.verdict == "drifted"
    assert trial.difference == pytest.approx(0.5)
    assert "drifted" in repr(drifted)
    assert reevaluate("scope", trials=1, trusted=True, scope={"offset": 1.5}, atol=0.6).reproduced


@pytest.mark.slow
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


@pytest.mark.slow
def test_plain_objectives_and_several_directions() -> None:
    def two(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", -1, 1)
        return x**2, trial.suggest_categorical("flip", [1, -1]) * x

    optimize(two, study_name="two", n_trials=10, seed=1, directions=["minimize", "maximize"])
    again = reevaluate("two", trials="pareto", trusted=True)
    assert again.reproduced
    assert isinstance(again.trials[0].archived, tuple)
    assert again.trials[0].values == [again.trials[0].archived]


@pytest.mark.slow
def test_each_trial_runs_with_the_code_that_it_ran_with() -> None:
    optimize(Problem(suggest=suggest, run=square), study_name="versions", n_trials=2)

    def cube(params: dict[str, float]) -> float:
        return params["x"] ** 3

    optimize(Problem(suggest=suggest, run=cube), study_name="versions", n_trials=4)
    assert len(ArchivedStudy.load("versions").versions) == 2
    assert reevaluate("versions", trials=[3, 0, 2, 1], trusted=True).reproduced


@pytest.mark.slow
def test_it_works_on_studies_and_archives_in_memory() -> None:
    places: dict[str, Any] = {"storage": "memory://again", "artifacts": "memory://again"}
    optimize(Problem(suggest=suggest, run=square), study_name="m", n_trials=3, **places)
    assert reevaluate("m", trusted=True, **places).reproduced


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("task_runner", [None, "processes"])
def test_several_processes_give_what_one_gives(task_runner: Any) -> None:
    name = f"many-{task_runner}"
    optimize(Problem(suggest=suggest, run=square), study_name=name, n_trials=4, seed=1)
    options: dict[str, Any] = {"trusted": True, "n_jobs": 2, "task_runner": task_runner}
    again = reevaluate(name, trials=[3, 0, 2, 1], repeats=2, **options)
    assert [trial.number for trial in again.trials] == [3, 0, 2, 1]
    assert again.reproduced
    assert all(len(trial.values) == 2 for trial in again.trials)


@pytest.mark.slow
def test_pruned_and_failed_trials_run_again_too() -> None:
    def descend(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        for step in range(4):
            trial.report(x + step, step)
            if trial.number == 1 and step == 2:
                raise optuna.TrialPruned
        if trial.number == 2:
            raise ValueError("as bad as ever")
        return x

    optimize(descend, study_name="ends", n_trials=4, catch=ValueError)
    pruned, failed = reevaluate("ends", trials=[1, 2], trusted=True).trials
    study = as_study_storage(None).load_study("ends")
    assert pruned.verdict == "reproduced"
    assert pruned.archived == study.trials[1].params["x"] + 2
    assert failed.verdict == "failed"
    assert failed.archived is None
    assert "as bad as ever" in failed.message


@pytest.mark.slow
def test_each_direction_may_have_a_tolerance_of_its_own() -> None:
    def two(trial: optuna.Trial) -> tuple[float, float]:
        x = trial.suggest_float("x", 1, 2)
        return x, x + float(param_scope.offset(0.0))

    optimize(two, study_name="tolerance", n_trials=2, directions=["minimize", "minimize"])
    options: dict[str, Any] = {"trials": [0], "trusted": True, "scope": {"offset": 0.5}}
    assert reevaluate("tolerance", atol=[0.0, 0.6], **options).reproduced
    for bad in ([0.1], [0.1, -1.0], -0.1, [0.1, float("nan")]):
        with pytest.raises(InvalidSettingError, match="`atol` is a number, 0 or more"):
            reevaluate("tolerance", atol=bad, **options)


@pytest.mark.slow
def test_chance_is_found_out_by_repetition() -> None:
    def noisy(params: dict[str, float]) -> float:
        import random

        return params["x"] + random.random()

    problem = Problem(suggest=suggest, run=noisy)
    optimize(problem, study_name="noisy", n_trials=1, seed_trials=False)
    assert "seed" not in as_study_storage(None).load_study("noisy").trials[0].user_attrs
    [trial] = reevaluate("noisy", repeats=3, trusted=True).trials
    assert trial.verdict == "drifted"
    assert "random numbers without a seed" in trial.cause
    assert trial.spread[0] > 0


@pytest.mark.slow
def test_a_data_file_that_has_changed_is_found() -> None:
    """And with the files that were kept, it is not drifted; without any, a sentence says so."""
    path = Path("gain.csv")
    path.write_text("2.0", encoding="utf-8")

    def scaled(params: dict[str, float]) -> float:
        from pathlib import Path

        return params["x"] * float(Path("gain.csv").read_text(encoding="utf-8"))

    problem = Problem(suggest=suggest, run=scaled)
    optimize(problem, study_name="data", n_trials=1, keep_inputs="1 MB")
    path.write_text("3.25", encoding="utf-8")
    [trial] = reevaluate("data", trusted=True).trials
    assert trial.verdict == "drifted"
    assert trial.cause is not None  # the fresh process may differ in its threads besides
    assert trial.cause.split("; ")[0] == "data: gain.csv is another one: 3 B then, 4 B now"
    path.unlink()
    [trial] = reevaluate("data", trusted=True).trials
    there = f"gain.csv is not there: 3 B then, read from {path.absolute()}"
    assert (trial.verdict, trial.message) == ("failed", there)
    assert reevaluate("data", trusted=True, inputs="archived").reproduced


@pytest.mark.slow
def test_every_reevaluation_is_kept_beside_the_archive() -> None:
    def shifted(params: dict[str, float]) -> float:
        return params["x"] + float(param_scope.offset(0.0))

    optimize(Problem(suggest=suggest, run=shifted), study_name="kept", n_trials=3)
    first = reevaluate("kept", trials="best:2", trusted=True)
    second = reevaluate("kept", trials=2, trusted=True, scope={"offset": float("inf")})
    archived = ArchivedStudy.load("kept")
    assert archived.reevaluations() == [first, second]
    assert archived.reevaluations(last=1) == [second]
    assert second.scope == {"offset": "inf"}
    assert second.trials[0].values == [float("inf")]
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["reevaluation-kept"]))
        )
    pages = sorted((str(a.data) for a in artifacts), key=len)
    assert len(pages) == 2, "one version of the page for each re-evaluation"
    assert "## History" not in pages[0]
    assert "## History" in pages[1]


@pytest.mark.slow
def test_a_drift_is_an_event_and_on_request_a_failed_flow_run(prefect_server: Any) -> None:
    def moved(params: dict[str, float]) -> float:
        return params["x"] + float(param_scope.offset(0.0))

    optimize(Problem(suggest=suggest, run=moved), study_name="moved", n_trials=2)
    options: dict[str, Any] = {"trials": [1, 0], "trusted": True, "scope": {"offset": 1.0}}
    state = reevaluate("moved", **options, return_state=True)
    assert state.is_completed()
    with pytest.raises(DriftError, match="trial 1: drifted") as failure:
        reevaluate("moved", **options, fail_on_drift=True)
    assert [trial.number for trial in failure.value.result.trials] == [1, 0]
    assert pickle.loads(pickle.dumps(failure.value)).result == failure.value.result

    uuid = ArchivedStudy.load("moved").manifest.uuid
    wanted = {
        "filter": {
            "event": {"name": ["prefect-optuna.trial.drifted"]},
            "related": {"id": [f"prefect-optuna.study.{uuid}"]},
        }
    }

    def arrived() -> bool:
        nonlocal events
        answer = httpx.post(f"{prefect_server.api_url}/events/filter", json=wanted)
        events = answer.raise_for_status().json()["events"]
        return len(events) == 4

    events: list[Any] = []
    wait_until(arrived, what="two events of each of the two runs that drifted")
    assert {event["resource"]["prefect.resource.id"] for event in events} == {
        f"prefect-optuna.study.{uuid}.trial.{number}" for number in (0, 1)
    }
    assert events[0]["payload"]["study_name"] == "moved"
    roles = {related["prefect.resource.role"] for related in events[0]["related"]}
    assert {"study", "flow-run", "flow"} <= roles


def test_bad_input_is_told() -> None:
    optimize(Problem(suggest=suggest, run=square), study_name="known", n_trials=2)
    with pytest.raises(InvalidSettingError, match="best:K"):
        reevaluate("known", trials="worst:2", trusted=True)
    with pytest.raises(InvalidSettingError, match="n_jobs"):
        reevaluate("known", n_jobs=0, trusted=True)
    with pytest.raises(InvalidSettingError, match="repeats"):
        reevaluate("known", repeats=0, trusted=True)
    with pytest.raises(StudyNotFoundError, match="known"):
        reevaluate("knwon", trusted=True)
    as_study_storage(None).create_study("bare")
    with pytest.raises(ArchiveError, match="has no archive"):
        reevaluate("bare", trusted=True)


@pytest.mark.slow
def test_a_variable_reaches_the_archived_code_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_with_offset(params: dict[str, float]) -> float:
        import os

        return params["x"] + float(os.environ.get("LAB_OFFSET", "0"))

    optimize(Problem(suggest=suggest, run=run_with_offset), study_name="named", n_trials=1)
    monkeypatch.setenv("LAB_OFFSET", "2")
    assert reevaluate("named", trusted=True).reproduced
    named = ["LAB_OFFSET", "NOT_SET_HERE"]
    [trial] = reevaluate("named", trusted=True, environment_variables=named).trials
    assert trial.difference == pytest.approx(2.0)


@pytest.mark.parametrize(
    "names",
    [
        ["prefect_integrations_optuna_archive_key"],
        ["PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY_BLOCK"],
        ["NAME=value"],
        [""],
    ],
)
def test_the_key_for_signing_is_passed_on_to_nobody(names: list[str]) -> None:
    with pytest.raises(InvalidSettingError):
        reevaluate("no key", trusted=True, environment_variables=names)
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    assert "no key-again" not in [run.name for run in runs], "a value would be on the server"


@pytest.mark.slow
def test_code_that_keeps_something_gives_it_again_after_the_same_trials() -> None:
    seen: list[float] = []
    numbers = np.random.default_rng(0)

    def objective(trial: optuna.Trial) -> float:
        seen.append(trial.suggest_float("x", -1, 1))
        return sum(seen) + numbers.random()

    optimize(objective, study_name="history", n_trials=5)
    again = reevaluate("history", trials=[3, 2], trusted=True, rtol=0.0)
    assert again.reproduced, again
    assert [trial.after for trial in again.trials] == [3, 2]
    assert "after the 3 trials before it" in str(again)
