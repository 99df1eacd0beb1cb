"""A run writes and packs the files of its trials while it goes on."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import optuna
import pytest
from filesystems import s3_filesystem
from optuna.trial import TrialState
from servers import wait_until

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    JournalStudyStorage,
    StorageUnavailableError,
)
from prefect_optuna.flows import optimize, task_runners
from prefect_optuna.tasks import ArchivedStudy, Problem
from prefect_optuna.tasks.archive.series import blobs
from prefect_optuna.tasks.trial import Assignment, Outcome, TrialRunner

pytestmark = pytest.mark.usefixtures("prefect_server")


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def run(params: dict[str, float]) -> dict[str, np.ndarray]:
    return {"curve": params["x"] * np.arange(600.0)}


def evaluate(result: dict[str, np.ndarray]) -> float:
    return float(result["curve"].sum())


@pytest.mark.parametrize("size", [600, 20])
def test_many_trials_are_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(blobs, "_FILES", 10)
    artifacts = ArtifactFileSystem(url=str(tmp_path / "artifacts"))

    def short(params: dict[str, float]) -> dict[str, np.ndarray]:
        return {"curve": params["x"] * np.arange(20.0)}

    problem = Problem(suggest=suggest, run=run if size == 600 else short, evaluate=evaluate)
    storage = JournalStudyStorage(path=tmp_path / "s.journal")
    optimize(problem, study_name="s", n_trials=35, storage=storage, artifacts=artifacts)
    archived = ArchivedStudy.load("s", storage=storage, artifacts=artifacts)
    if size == 600:
        wait_until(lambda: len(artifacts.glob("studies/*/trials/*")) <= 25, what="it is packed")
        assert artifacts.glob("studies/*/packs/*")
    else:
        assert artifacts.glob("studies/*/trials/*") == []
    for trial in archived.study.trials:
        expected = trial.params["x"] * np.arange(float(size))
        np.testing.assert_array_equal(archived.result(trial.number)["curve"], expected)


class Uploads:
    """What is written of trials to an object store, which waits until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, server: str, folder: Path) -> None:
        artifacts = s3_filesystem(server, f"uploads-{folder.name}")
        storage = JournalStudyStorage(path=folder / "s.journal")
        self.places: dict[str, Any] = {"storage": storage, "artifacts": artifacts}
        self.may_go_on = Event()
        self.fail = False
        original = ArtifactFileSystem.create

        def create(filesystem: ArtifactFileSystem, path: str, content: bytes) -> bool:
            if "/trials/" in path or "/packs/" in path:
                assert self.may_go_on.wait(30)
                if self.fail:
                    raise StorageUnavailableError("The bucket is away.")
            return original(filesystem, path, content)

        monkeypatch.setattr(ArtifactFileSystem, "create", create)
        self.patch = monkeypatch

    def study(self, n_jobs: int, at: int) -> dict[int, int]:
        """Run a study, let uploads go on when that trial begins; how many were told when each did.

        Args:
            n_jobs: how many trials run at once.
            at: at the beginning of which the uploads go on.
        """
        told: list[int] = []
        when: dict[int, int] = {}

        original = TrialRunner.__call__

        def run_one(runner: TrialRunner, assignment: Assignment) -> Outcome:
            when[len(when)] = len(told)
            if len(when) > at:
                self.may_go_on.set()
            return original(runner, assignment)

        self.patch.setattr(TrialRunner, "__call__", run_one)
        optimize(
            Problem(suggest=suggest, run=run, evaluate=evaluate),
            study_name="s",
            n_trials=12,
            n_jobs=n_jobs,
            sampler="random",
            callbacks=[lambda _, trial: told.append(trial.number)],
            **self.places,
        )
        archived = ArchivedStudy.load("s", **self.places)
        complete = archived.study.get_trials(states=[TrialState.COMPLETE])
        assert len(complete) == 12
        for trial in complete:
            expected = trial.params["x"] * np.arange(600.0)
            np.testing.assert_array_equal(archived.result(trial.number)["curve"], expected)
        return when


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch, s3_server: str, tmp_path: Path) -> Uploads:
    return Uploads(monkeypatch, s3_server, tmp_path)


def test_results_are_uploaded_beside_the_trials_that_follow(uploads: Uploads) -> None:
    when = uploads.study(n_jobs=2, at=8)
    assert [when[n] for n in range(9)] == [0] * 9  # eight results on their way: 4 for each job
    assert when[11] > 0


def test_a_trial_of_one_job_is_asked_when_the_one_before_is_told(uploads: Uploads) -> None:
    uploads.may_go_on.set()
    when = uploads.study(n_jobs=1, at=0)
    assert [*when.values()] == [*range(12)]


def test_an_upload_that_takes_little_beside_its_trial_is_waited_for(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runners, "_WORTH_WAITING", 1e9)
    uploads.may_go_on.set()
    when = uploads.study(n_jobs=2, at=0)
    assert all(told >= n - 1 for n, told in when.items())


def test_uploads_take_so_much_memory_at_most(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_runners, "_MOST_HELD", 12_000)  # two results
    when = uploads.study(n_jobs=2, at=3)
    assert [when[n] for n in range(4)] == [0] * 4
    assert when[4] > 0


def test_results_that_cannot_be_uploaded_are_no_fault_of_their_trials(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_PATIENCE", "0.1")
    uploads.fail = True
    with pytest.raises(StorageUnavailableError):
        uploads.study(n_jobs=2, at=3)
    trials = uploads.places["storage"].load_study("s").trials
    assert not [trial for trial in trials if trial.state.is_finished() and trial.values]
    uploads.fail = False
    uploads.study(n_jobs=2, at=0)
