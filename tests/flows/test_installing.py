"""What a worker's process does before its run begins, as far as no worker is needed for it."""

from __future__ import annotations

import importlib
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect._internal import control_listener
from wheels_under_test import install_here, only_these_wheels, recorded

from prefect_optuna.errors import (
    EnvironmentUnavailableError,
    InvalidSettingError,
    StorageUnavailableError,
)
from prefect_optuna.flows import problem_source
from prefect_optuna.flows.problem_source import find_problem
from prefect_optuna.tasks import Environment, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code import inspection
from prefect_optuna.tasks.archive.code.capture import lacking
from prefect_optuna.tasks.archive.record import environment

SCRIPT = """
import tiny

def objective(trial):
    try:
        import nowhere
    except ImportError:
        pass
    return trial.suggest_float("x", 0, 1) * tiny.VALUE
"""


@pytest.fixture
def capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Capture:
    """A script with tiny 1.0, captured where that is installed, which this is not."""
    monkeypatch.chdir(tmp_path)
    wheels = only_these_wheels(tmp_path, monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        install_here(wheels, "tiny", "1.0", patch)
        patch.syspath_prepend(str(tmp_path))
        (tmp_path / "fitting.py").write_text(SCRIPT)
        fitting: Any = importlib.import_module("fitting")
        captured = Capture.of(Problem(objective=fitting.objective))
    shutil.rmtree(tmp_path / "site-packages")
    for name in ("fitting", "tiny"):
        sys.modules.pop(name, None)
    environment._here.cache_clear()
    inspection.distribution_of.cache_clear()
    importlib.invalidate_caches()
    return captured


def test_a_worker_looks_once_and_a_storage_that_was_away_then_is_named(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(uuid4()))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="prefect.engine"))
    monkeypatch.setattr(problem_source, "_looked", False)
    monkeypatch.setattr(problem_source, "_failure", None)
    asked: list[object] = []

    class Client:
        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def read_flow_run(self, _: object) -> SimpleNamespace:
            asked.append(None)
            return SimpleNamespace(parameters={"install": True})

    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda **_: Client())

    def away(_: object) -> None:
        raise StorageUnavailableError("The study's storage is away.")

    problem_source.enter_environment(away, dict)
    problem_source.enter_environment(away, dict)
    assert len(asked) == 1
    with pytest.raises(StorageUnavailableError, match="storage is away"):
        problem_source.require_installed(capture, Environment.capture())


def prepared(capture: Capture, there: Environment) -> Any:
    return problem_source._prepared(capture, there, ["tiny 1.0"], logging.getLogger("tests"))


def test_what_is_missing_or_another_is_named_and_what_makes_no_difference_is_not(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = recorded(tiny="1.0")
    assert lacking(capture, there) == ["tiny 1.0, which fitting.py imports"]
    install_here(tmp_path / "wheels", "tiny", "2.0", monkeypatch)
    assert lacking(capture, there) == ["tiny 1.0, which fitting.py imports and is 2.0 here"]
    shutil.rmtree(tmp_path / "site-packages")
    install_here(tmp_path / "wheels", "tiny", "1.0", monkeypatch)
    assert lacking(capture, there) == []
    major, minor = sys.version_info[:2]
    assert lacking(capture, replace(there, python=f"{major}.{minor}.99")) == []
    assert lacking(capture, replace(there, python=f"{major}.99.1")) == [f"Python {major}.99.1"]
    # It was there, and its code uses it where it is.
    found = {**capture.document["distributions"], "nowhere": "nowhere"}
    guarded = replace(capture, document={**capture.document, "distributions": found})
    with_it = recorded(tiny="1.0", nowhere="3.0")
    assert lacking(guarded, with_it) == ["nowhere 3.0, which fitting.py imports"]
    assert lacking(guarded, there) == []


@pytest.mark.slow
def test_the_last_number_of_python_needs_no_download_and_another_python_is_a_clear_no(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    major, minor, patch = sys.version_info[:3]
    built = prepared(capture, replace(recorded(tiny="1.0"), python=f"{major}.{minor}.{patch + 1}"))
    assert built.built
    assert built.notes == ()
    with pytest.raises(EnvironmentUnavailableError, match=rf"Python {major}\.99\.1: ") as refused:
        prepared(capture, replace(recorded(tiny="1.0"), python=f"{major}.99.1"))
    assert "install it where the workers are" in str(refused.value)


def test_an_index_that_is_away_is_one_error_that_says_what_to_do(
    capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UV_CONFIG_FILE")
    monkeypatch.setenv("UV_INDEX_URL", "http://lab:hunter2-4f1d@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(EnvironmentUnavailableError, match="cannot be fetched") as refused:
        prepared(capture, recorded(tiny="1.0"))
    text = str(problem_source._refusal(["tiny 1.0, which fitting.py imports"], refused.value))
    assert text.startswith(
        "This worker lacks tiny 1.0, which fitting.py imports, and cannot install it. "
        "No trial was begun.\nThe packages that were recorded cannot be fetched: "
    )
    assert "Where the network is away, install it where the workers are" in text
    assert "hunter2" not in text


def test_the_package_of_the_worker_and_what_reaches_its_places_are_in_the_environment(
    capture: Capture,
) -> None:
    built = prepared(capture, recorded(tiny="1.0"))
    folder = built.package()
    assert (folder / "prefect_optuna" / "flows" / "work.py").exists()
    assert built.package() == folder
    assert "psycopg" in problem_source.needed_here(
        problem_source._PLACES
    )  # the tests have that extra
    assert "psycopg" not in problem_source.needed_here()
    variables = built.variables({"PYTHONPATH": "/elsewhere", "PREFECT_API_URL": "x"}, folder)
    assert variables["PYTHONPATH"] == str(folder)
    assert variables["PREFECT_API_URL"] == "x"


def test_how_a_runner_reaches_its_process_is_told_to_the_one_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = {"PREFECT__CONTROL_PORT": "41", "PREFECT__CONTROL_TOKEN": "of a runner"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    control_listener.reset_for_testing()
    control_listener.configure_from_env()  # as Prefect's engine does first of all
    assert problem_source._control() == told
    control_listener.reset_for_testing()
    assert problem_source._control() == {}


def test_a_program_is_not_replaced(capture: Capture) -> None:
    with pytest.raises(EnvironmentUnavailableError, match=r"lacks tiny 1\.0.*deploy --install"):
        problem_source.require_installed(capture, recorded(tiny="1.0"))
    with pytest.raises(InvalidSettingError, match="`install` are of a problem that comes out"):
        find_problem(lambda trial: 1.0, directions=None, study_name=None, version=None,
                     trusted=False, install=True, storage=None, artifacts=None)  # fmt: skip
