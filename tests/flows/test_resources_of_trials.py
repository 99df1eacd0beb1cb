"""What a trial gets of a machine: the same on threads, processes, Dask, Ray and workers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    InvalidSettingError,
    JournalStudyStorage,
    as_study_storage,
)
from prefect_optuna.deployments import LocalWorker, deploy_worker, make_process_pool
from prefect_optuna.flows import Problem, StudyResult, distribute, optimize
from prefect_optuna.tasks import ArchivedStudy, param_scope
from prefect_optuna.tasks.machine import DEVICES, Resources

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.timeout(400),  # Ray's processes take half a minute to start on a busy machine
]


@pytest.fixture(autouse=True)
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A machine of two GPUs, on which nobody has taken anything; and no Ray is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DEVICES, "3,5")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_CLAIMS", str(tmp_path / "claims"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    yield
    if (ray := sys.modules.get("ray")) is not None:
        ray.shutdown()


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1), "number": trial.number}


def run(params: Mapping[str, float]) -> dict[str, Any]:
    """Say what this trial sees, and for how long."""
    began = time.time()
    marks = Path(param_scope.marks(""))
    (marks / f"{os.getpid()}").touch()
    end = time.monotonic() + 60
    while len(list(marks.iterdir())) < param_scope.processes(1) and time.monotonic() < end:
        time.sleep(0.05)  # until all processes have a trial
    time.sleep(0.1)
    line = f"{os.environ[DEVICES]};{os.environ['OMP_NUM_THREADS']};{began};{time.time()}\n"
    with Path(param_scope.notes("")).open("a", encoding="utf-8") as file:
        file.write(line)
    return {"x": params["x"]}


def evaluate(result: Mapping[str, float]) -> float:
    return result["x"]


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate, resources={"cpus": 0.5, "gpus": 1})


def seen(
    tmp_path: Path,
    runs: Callable[..., StudyResult],
    processes: int,
    n_trials: int = 6,
    **options: Any,
) -> list[tuple[str, str, float, float]]:
    """For each trial its GPUs, its threads, and from when to when it ran."""
    (tmp_path / "marks").mkdir()
    notes = tmp_path / "notes"
    result = runs(
        PROBLEM,
        study_name="seen",
        n_trials=n_trials,
        scope={"notes": str(notes), "marks": str(tmp_path / "marks"), "processes": processes},
        progress=False,
        **options,
    )
    assert result.states["complete"] == n_trials
    lines = [line.split(";") for line in notes.read_text(encoding="utf-8").splitlines()]
    return [(gpus, threads, float(begin), float(end)) for gpus, threads, begin, end in lines]


def assert_no_two_had_the_same(found: list[tuple[str, str, float, float]]) -> None:
    assert {one[0] for one in found} == {"3", "5"}
    assert {one[1] for one in found} == {"1"}
    for gpu in ("3", "5"):
        times = sorted(one[2:] for one in found if one[0] == gpu)
        assert all(first[1] <= second[0] for first, second in pairwise(times))


def test_one_after_the_other_they_have_one_gpu_and_as_many_threads_as_processors(
    tmp_path: Path,
) -> None:
    found = seen(tmp_path, optimize, 1)
    assert {one[:2] for one in found} == {("3", "1")}
    assert os.environ[DEVICES] == "3,5"
    assert not list((tmp_path / "claims").glob("*.json"))
    archived = ArchivedStudy.load("seen")
    assert archived.problem(trusted=True).resources == Resources(cpus=0.5, gpus=1)
    assert archived.environment.variables["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    "task_runner",
    [
        pytest.param("processes", marks=pytest.mark.slow),
        *(pytest.param(name, marks=pytest.mark.heavy) for name in ("dask", "ray")),
    ],
)
def test_at_the_same_time_no_two_have_the_same_gpu(tmp_path: Path, task_runner: str) -> None:
    found = seen(tmp_path, optimize, 2, n_jobs=2, task_runner=task_runner)
    assert_no_two_had_the_same(found)


@pytest.mark.slow
def test_of_three_workers_on_two_gpus_one_waits_for_its_turn(tmp_path: Path) -> None:
    make_process_pool("sized")
    deploy_worker("sized")
    JournalStudyStorage(path=tmp_path / "studies.journal").save("sized")
    ArtifactFileSystem(url=str(tmp_path / "artifacts")).save("sized")
    kept = {
        "storage": "journal-study-storage/sized",
        "artifacts": "artifact-file-system/sized",
    }
    with LocalWorker("sized", tmp_path / "worker.log", query=1.0):
        # So many that the third has come before the others have done them.
        found = seen(tmp_path, distribute, 2, 120, workers=3, deployment="sized", **kept)
    assert_no_two_had_the_same(found)
    assert "Waiting for 0.5 CPUs and 1 GPU" in (tmp_path / "worker.log").read_text(encoding="utf-8")
    assert not list((tmp_path / "claims").glob("*.json"))


@pytest.mark.parametrize(
    ("resources", "options", "found"),
    [
        ("cpus=1000", {}, "A trial wants 1000 CPUs, and this machine has"),
        ("gpus=3", {}, "and 2 GPUs"),
        ("gpus=1", {"n_jobs": 3, "task_runner": "processes"}, "Give `n_jobs=2`"),
        ("gpus=1", {"n_jobs": 2}, "would share them"),
        pytest.param(
            "gpus=3", {"task_runner": "dask"}, "no worker of the Dask", marks=pytest.mark.heavy
        ),
        pytest.param(
            "gpus=3", {"task_runner": "ray"}, "no worker of the Ray", marks=pytest.mark.heavy
        ),
    ],
)
def test_what_no_worker_has_is_said_before_a_trial_is_begun(
    resources: str, options: dict[str, Any], found: str
) -> None:
    with pytest.raises(InvalidSettingError, match=found):
        optimize(PROBLEM, study_name="large", n_trials=2, resources=resources, **options)
    assert not as_study_storage().load_study("large").trials


def test_what_cannot_be_read_is_said_before_there_is_a_study() -> None:
    with pytest.raises(InvalidSettingError, match="there is no 'cores'"):
        optimize(PROBLEM, n_trials=2, resources={"cores": 2})
    assert not Path(".prefect-optuna").exists()
