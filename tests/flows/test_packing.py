"""A run packs the files of its trials while it goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from servers import wait_until

from prefect_optuna.blocks import ArtifactFileSystem, JournalStudyStorage
from prefect_optuna.flows import optimize
from prefect_optuna.tasks import ArchivedStudy, Problem
from prefect_optuna.tasks.archive.series import blobs

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
