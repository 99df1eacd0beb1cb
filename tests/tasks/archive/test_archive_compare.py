"""What differs between two archived studies, and what an archive says of another Python."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import optuna
import pytest
from optuna.trial import TrialState

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InMemoryStudyStorage,
    StudyStorage,
)
from prefect_optuna.errors import OtherPythonWarning
from prefect_optuna.tasks import ArchivedStudy, Environment, OptunaArchive, Problem, diff
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code import restore
from prefect_optuna.tasks.archive.code.restore import restore_problem

MODULE = """
RATE = 0.5

def grow(x, years):
    for _ in range(years):
        x = x + RATE * x
    return x

def suggest(trial):
    return {"x": trial.suggest_float("x", 0, 1)}

def run(params, context):
    return grow(params["x"], context["years"])
"""


@pytest.fixture
def storage(tmp_path: Path) -> StudyStorage:
    return InMemoryStudyStorage(name=f"compare-{tmp_path.name}")


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=f"memory://compare-{tmp_path.name}")


@pytest.fixture(autouse=True)
def no_restored_modules() -> Generator[None]:
    """Restored code is restored anew in each test."""
    yield
    restore._restored.clear()
    for name in [name for name in sys.modules if name.startswith("prefect_optuna_archive_")]:
        if "." not in name:
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
        del sys.modules[name]


def loaded(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `model` with that text, whichever one was there before."""
    path = folder / name
    path.mkdir()
    (path / "model.py").write_text(text)
    monkeypatch.syspath_prepend(str(path))
    sys.modules.pop("model", None)
    importlib.invalidate_caches()
    return importlib.import_module("model")


@pytest.fixture
def two(
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, ArchivedStudy]:
    """Two studies of nearly the same."""
    found: dict[str, ArchivedStudy] = {}
    changed = MODULE.replace("RATE * x", "RATE * x * (1 - x)").replace("0, 1)", "0, 2)")
    for name, text, years in (("one", MODULE, 3), ("two", changed.replace("0.5", "0.25"), 5)):
        model = loaded(name, text, tmp_path, monkeypatch)
        problem = Problem(suggest=model.suggest, run=model.run, context={"years": years})
        study = storage.create_study(name)
        OptunaArchive(study, artifacts=artifacts).save_problem(problem, scope={"dt": years})
        for value in (0.5, 0.25)[: years - 2]:
            trial = study.ask()
            model.suggest(trial)
            study.tell(trial, value)
        found[name] = ArchivedStudy.load(name, storage=storage, artifacts=artifacts)
    study.tell(study.ask(), state=TrialState.FAIL)
    del sys.modules["model"]
    return found


def test_code_context_space_and_results_are_compared(two: dict[str, ArchivedStudy]) -> None:
    found = diff(two["one"], two["two"])
    assert found.names == ("one", "two")
    assert list(found.code) == ["model.grow", "model.suggest"]
    assert found.code["model.grow"].splitlines()[:2] == ["--- a/model.grow", "+++ b/model.grow"]
    assert "-        x = x + RATE * x" in found.code["model.grow"].splitlines()
    assert "+        x = x + RATE * x * (1 - x)" in found.code["model.grow"].splitlines()
    assert found.context == {
        "model.RATE": (0.5, 0.25),
        "context['years']": (3, 5),
        "scope['dt']": (3, 5),
    }
    assert found.environment == {}
    low, high = found.space["x"]
    assert (low["attributes"]["high"], high["attributes"]["high"]) == (1.0, 2.0)
    assert found.results == {
        "trials": (1, 3),
        "complete": (1, 2),
        "failed": (0, 1),
        "best": (0.5, 0.25),
    }
    text = str(found)
    for line in ("'one' against 'two'", "  model.RATE: 0.5 -> 0.25", "  best: 0.5 -> 0.25"):
        assert line in text.splitlines()
    assert repr(found) == text
    assert found


def test_a_study_does_not_differ_from_itself(
    two: dict[str, ArchivedStudy], storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    found = diff("one", two["one"], storage=storage, artifacts=artifacts)
    assert not found
    assert str(found) == "'one' and 'one' do not differ."


def test_what_only_one_of_them_has_stands_against_none(
    two: dict[str, ArchivedStudy], storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = storage.create_study("three", directions=["minimize", "maximize"])
    OptunaArchive(study, artifacts=artifacts).save_problem(Problem(objective=lambda t: (1.0, 2.0)))
    study.add_trial(optuna.create_trial(values=[1.0, 2.0]))
    found = diff(two["one"], "three", storage=storage, artifacts=artifacts)
    assert found.context["context['years']"] == (3, None)
    assert found.space["x"][1] is None
    assert found.results["best"] == (0.5, [1.0, 2.0])
    assert found.results["directions"] == (["minimize"], ["minimize", "maximize"])
    assert "-def grow(x, years):" in found.code["model.grow"]


# -- another Python ------------------------------------------------------------------------------


def square(params: dict[str, Any]) -> float:
    return params["x"] ** 2


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1)}


def test_code_of_another_python_that_compiles_runs_with_a_warning() -> None:
    capture = Capture.of(Problem(suggest=suggest, run=square))
    environment = replace(Environment.capture(), python="3.9.1")
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    with pytest.warns(OtherPythonWarning, match=f"ran in Python 3.9, and this is {here}"):
        problem = restore_problem(capture, environment)
    assert problem.call("run", {"x": 3.0}) == 9.0


def test_code_of_another_python_that_does_not_compile_says_which() -> None:
    capture = Capture.of(Problem(suggest=suggest, run=square))
    for symbol in capture.document["symbols"]:
        if symbol["name"] == "square":
            symbol["source"] = 'def square(params):\n    print "of another time"\n'
    environment = replace(Environment.capture(), python="2.7.18")
    with pytest.raises(ArchiveError, match=r"square ran in Python 2\.7, .*does not compile.*2\.7"):
        restore_problem(capture, environment)


def test_a_module_that_this_python_does_not_have_says_which_had_it() -> None:
    capture = Capture.of(Problem(suggest=suggest, run=square))
    module = capture.document["symbols"][0]["module"]
    lost = {"module": module, "name": "imp", "mode": "import", "value": {"$import": "nowhere_here"}}
    capture.document["symbols"].append(lost)
    environment = replace(Environment.capture(), python="3.9.1")
    with pytest.raises(ArchiveError, match=r"imports nowhere_here, .*It ran in Python 3\.9"):
        restore_problem(capture, environment)
