"""Attributes with NumPy's numbers and arrays in them, on the storages that are ours."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from uuid import uuid4

import numpy as np
import optuna
import pytest

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.errors import AttributeEncodingError

SCORES = np.array([0.5, 0.25, float("inf")])
PLAIN = [0.5, 0.25, float("inf")]
MIXED = {"n": np.int64(3), "ok": np.bool_(True), "rate": np.float32(0.5), "grid": np.eye(2)}
MIXED_PLAIN = {"n": 3, "ok": True, "rate": 0.5, "grid": [[1.0, 0.0], [0.0, 1.0]]}


@pytest.fixture(params=["journal", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "journal":
        return f"journal:///{tmp_path}/s.journal"
    return request.getfixturevalue("redis_server")


def test_arrays_are_kept_as_lists_wherever_an_attribute_may_be(url: str) -> None:
    name = f"arrays-{uuid4().hex[:8]}"
    study = as_study_storage(url).create_study(name)
    storage, study_id = study._storage, study._study_id
    study.set_user_attr("scores", SCORES)
    storage.set_study_system_attr(study_id, "mixed", MIXED)
    trial = study.ask()
    trial.set_user_attr("mixed", MIXED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the terminator is to leave Optuna
        terminator = importlib.import_module("optuna.terminator")
        terminator.report_cross_validation_scores(trial, SCORES)
    study.tell(trial, 1.0)
    study.enqueue_trial({"x": 1}, user_attrs={"scores": SCORES})
    study.add_trial(optuna.trial.create_trial(value=1.0, system_attrs={"mixed": MIXED}))

    again = as_study_storage(url).load_study(name)
    assert again.user_attrs["scores"] == PLAIN
    assert storage.get_study_system_attrs(study_id)["mixed"] == MIXED_PLAIN
    told, queued, added = again.trials
    assert told.user_attrs["mixed"] == MIXED_PLAIN
    assert told.system_attrs["terminator:cv_scores"] == PLAIN
    assert queued.user_attrs["scores"] == PLAIN
    assert added.system_attrs["mixed"] == MIXED_PLAIN


def test_what_json_has_not_is_told_with_its_name_and_leaves_nothing_behind(url: str) -> None:
    name = f"arrays-{uuid4().hex[:8]}"
    study = as_study_storage(url).create_study(name)
    trial = study.ask()
    with pytest.raises(AttributeEncodingError, match=r"'when'.*Convert it first"):
        trial.set_user_attr("when", {"at": np.datetime64("2026-01-02")})
    with pytest.raises(AttributeEncodingError, match="'things'"):
        study.set_user_attr("things", {1, 2})
    study.tell(trial, 1.0)

    again = as_study_storage(url).load_study(name)
    assert "things" not in again.user_attrs
    assert "when" not in again.trials[0].user_attrs
