"""The contract of `task_runner=`: whatever runs the trials, it is the same study."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.flows import Problem, optimize
from prefect_optuna.tasks import ArchivedStudy, param_scope

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
]


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1), "number": trial.number}


def run(params: Mapping[str, float]) -> dict[str, Any]:
    if params["number"] == 3:
        raise ArithmeticError("three is too much")
    return {"series": params["x"] * np.arange(3.0), "unit": param_scope.unit(1.0)}


def evaluate(result: Mapping[str, Any]) -> float:
    return float(result["series"][1] * result["unit"])


def make_runner(name: str) -> Any:
    if name == "dask":
        return importlib.import_module("prefect_dask").DaskTaskRunner(
            cluster_kwargs={"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None}
        )
    if name == "ray":
        return importlib.import_module("prefect_ray").RayTaskRunner(
            init_kwargs={"num_cpus": 2, "include_dashboard": False}
        )
    return name


@pytest.fixture(autouse=True)
def a_ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Ray's workers find this module, and none is left for the next test, whatever happens."""
    # They get the folder of the program that runs, which here is pytest.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    yield
    if (ray := sys.modules.get("ray")) is not None:
        ray.shutdown()


@pytest.mark.parametrize(
    "name",
    [
        "threads",
        *(pytest.param(name, marks=pytest.mark.heavy) for name in ("processes", "ray")),
        pytest.param("dask", marks=pytest.mark.slow),
    ],
)
def test_a_task_runner_runs_every_trial_once_with_its_scope_and_archives_its_result(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = optimize(
        Problem(suggest=suggest, run=run, evaluate=evaluate),
        study_name="contract",
        n_trials=6,
        n_jobs=2,
        scope={"unit": 10.0},
        task_runner=make_runner(name),
        catch=ArithmeticError,
    )
    assert result.states == {"complete": 5, "pruned": 0, "failed": 1}
    archived = ArchivedStudy.load("contract")
    trials = as_study_storage().load_study("contract").trials
    assert "three is too much" in trials[3].user_attrs["error"]
    for trial in trials[:3] + trials[4:]:
        assert trial.value == 10.0 * trial.params["x"]
        assert archived.result(trial.number)["series"][2] == 2 * trial.params["x"]
        assert trial.user_attrs["scope"] == {"unit": 10.0}


def run_with_another(params: Mapping[str, float]) -> dict[str, Any]:
    """Note who runs which trial, and begin once there are two processes that do."""
    notes = Path(param_scope.notes(""))
    with notes.open("a", encoding="utf-8") as file:
        file.write(f"{params['number']:.0f} {os.getpid()}\n")
    deadline = time.monotonic() + 60
    while len({line.split()[1] for line in notes.read_text(encoding="utf-8").splitlines()}) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError("there is one process only")
        time.sleep(0.02)
    return {"series": params["x"] * np.arange(3.0), "unit": 1.0}


@pytest.mark.heavy
def test_sixty_trials_on_two_ray_workers_are_run_and_told_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes = tmp_path / "notes.txt"
    result = optimize(
        Problem(suggest=suggest, run=run_with_another, evaluate=evaluate),
        study_name="sixty",
        n_trials=60,
        n_jobs=2,
        scope={"notes": str(notes)},
        task_runner=make_runner("ray"),
    )
    assert result.states == {"complete": 60, "pruned": 0, "failed": 0}
    runs = [line.split() for line in notes.read_text(encoding="utf-8").splitlines()]
    assert sorted(int(number) for number, _ in runs) == list(range(60))
    trials = as_study_storage().load_study("sixty").trials
    assert [trial.value for trial in trials] == [trial.params["x"] for trial in trials]
    assert result.best_value == min(trial.params["x"] for trial in trials)
    archived = ArchivedStudy.load("sixty")
    for trial in trials:
        assert archived.result(trial.number)["series"][2] == 2 * trial.params["x"]
