"""What a study gives, as objects of persistence classes."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import numpy as np
import optuna
import pytest
from prefect.cache_policies import INPUTS

from prefect_optuna.blocks import InvalidSettingError, as_study_storage
from prefect_optuna.errors import FileOfOthersError, InvalidPersistenceClassError, MissingKeyError
from prefect_optuna.flows import StudyResult
from prefect_optuna.tasks import (
    ArchivedStudy,
    OptunaArchive,
    PersistenceCachePolicy,
    Problem,
    field,
    load,
    persistence_class,
    save,
)


@persistence_class
class Spectrum:
    animal: str = field(validator=True, filename=True)
    power: np.ndarray
    channels: list[int]


@persistence_class
class Other:
    bird: str = field(filename=True)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def number(params: dict[str, float]) -> float:
    return params["x"]


def run(params: dict[str, float]) -> Spectrum:
    return Spectrum("lynx", power=params["x"] * np.arange(3.0), channels=[1, 2])


def test_an_archived_result_is_an_object_of_its_class_again(tmp_path: Path) -> None:
    storage = as_study_storage(f"memory://{uuid4()}")
    study = storage.create_study("spectra")
    archive = OptunaArchive(study, artifacts=tmp_path)
    archive.save_problem(Problem(suggest=suggest, run=number))
    trial = study.ask()
    trial.set_user_attr("result", archive.writer().write(0, run({"x": 2.0})))
    study.tell(trial, 0.0)
    archived = ArchivedStudy.load("spectra", storage=storage, artifacts=tmp_path)
    again = archived.result(0, Spectrum)
    assert isinstance(again, Spectrum)
    assert (again.animal, again.channels) == ("lynx", [1, 2])
    np.testing.assert_array_equal(again.power, [0.0, 2.0, 4.0])
    assert archived.result(0)["animal"] == "lynx", "without the class it is data"
    with pytest.raises(MissingKeyError, match="bird"):
        archived.result(0, Other)
    with pytest.raises(InvalidPersistenceClassError):
        archived.result(0, dict)


def test_what_a_study_came_to_is_kept_in_a_file_of_its_name(tmp_path: Path) -> None:
    result = StudyResult(
        study_name="lynx-hare",
        directions=("minimize",),
        best_trials=[{"number": 3, "values": (0.5,), "params": {"x": 2.0}}],
        n_trials=10,
        states={"complete": 9, "failed": 1},
        storage="memory://",
        artifacts="memory://",
    )
    save(result, tmp_path / "result.arrow")
    again = load(StudyResult, tmp_path / "result.arrow")
    assert again == result
    assert again.best_trials[0].params == {"x": 2.0}
    with pytest.raises((FileOfOthersError, TypeError)):
        load(Spectrum, tmp_path / "result.arrow")


def test_the_policy_of_a_persisted_task_cannot_be_combined() -> None:
    with pytest.raises(InvalidSettingError, match="the name of its file"):
        PersistenceCachePolicy(data_cls=Spectrum) + INPUTS
