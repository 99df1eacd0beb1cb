"""Pickle is for those who ask for it, and who run the archived code."""

from __future__ import annotations

import re
import threading
from typing import Any

import optuna
import pytest

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.errors import CaptureError, UntrustedArchiveError
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code.restore import restore_problem


class OrderedKeys(dict[str, int]):
    """It is pickled in a way of its own, which nobody may call."""

    def __reduce__(self) -> Any:
        return OrderedKeys, (dict(self),)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def total(params: dict[str, float], context: dict[str, Any]) -> float:
    return params["x"] * sum(context["keys"].values())


def problem_with(value: Any) -> Problem:
    return Problem(suggest=suggest, run=total, context={"keys": value})


def test_OA14_nothing_is_pickled_unless_somebody_asks() -> None:
    with pytest.raises(CaptureError, match="OrderedKeys, which cannot be written down exactly"):
        Capture.of(problem_with(OrderedKeys(a=2)))


def test_OA14_what_was_pickled_on_request_is_named_and_comes_back() -> None:
    study = optuna.create_study(storage="sqlite:///:memory:", study_name="pickled")
    archive = OptunaArchive(study, artifacts="memory://oa14", allow_pickle=True)
    archive.save_problem(problem_with(OrderedKeys(a=2, b=3)))
    from prefect_optuna.blocks import InMemoryStudyStorage

    block = InMemoryStudyStorage(name="oa14")
    optuna.copy_study(
        from_study_name="pickled", from_storage=study._storage, to_storage=block.get_storage()
    )
    archived = ArchivedStudy.load("pickled", storage=block, artifacts="memory://oa14")
    assert re.search(r"unpickle .*of Python 3.*\(context\['keys'\]\)", archived.describe())
    with pytest.raises(UntrustedArchiveError):
        archived.problem()
    restored = archived.problem(trusted=True)
    assert restored.call("run", {"x": 2.0}) == 10.0


def test_OA14_what_cannot_be_pickled_either_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"lock.*cannot be pickled either"):
        Capture.of(problem_with(threading.Lock()), allow_pickle=True)


def test_OA14_a_pickle_that_cannot_be_read_here_says_who_wrote_it() -> None:
    capture = Capture.of(problem_with(OrderedKeys(a=2)), allow_pickle=True)
    document = {**capture.document, "context": {"keys": {"$pickle": ["3.7.0", {"$bytes": "AAAA"}]}}}
    with pytest.raises(ArchiveError, match=r"Python 3\.7\.0 has pickled.*Use that version"):
        restore_problem(Capture(document, capture.blobs))
