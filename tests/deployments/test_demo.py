"""The demo, as a person runs it, and what it leaves behind for `make ui`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from prefect.client.orchestration import get_client
from prefect.logging.configuration import setup_logging

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.deployments.demo import PROBLEM, TRIALS, main, study_name
from prefect_optuna.flows.examples.lynx_hare import PUBLISHED
from prefect_optuna.tasks import OptunaArchive, Problem


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    result = subprocess.run(
        [sys.executable, "-m", "prefect_optuna.deployments.demo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert not re.search(r"Traceback|INFO|WARNING|ERROR", result.stdout + result.stderr)
    return folder, result.stdout


@pytest.mark.slow
def test_it_finds_the_published_fit(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    study = as_study_storage(f"journal:///{folder}/.prefect-optuna/studies.journal").load_study(
        "lynx-hare"
    )
    assert len(study.trials) == TRIALS
    assert study.best_value < 0.26
    for name, value in PUBLISHED.items():
        assert study.best_params[name] == pytest.approx(value, rel=0.3), name


@pytest.mark.slow
def test_it_says_what_a_person_wants_to_know(demo: tuple[Path, str]) -> None:
    folder, output = demo
    [picture] = re.findall(r"picture\s+(\S+\.png)", output)
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert str(folder / ".prefect-optuna" / "artifacts") in output
    archived, again = re.findall(r"(?:archived|now)\s+(0\.\d+)", output)
    assert archived == again
    assert "make ui shows it in Prefect" in output
    assert len(re.findall(r"^ +\d+ +0\.\d+ ", output, re.M)) == 5


@pytest.mark.slow
def test_all_of_its_history_is_there_afterwards(demo: tuple[Path, str]) -> None:
    folder, output = demo
    [task_runs] = re.findall(r"300 in (\d+) task runs", output)
    with LocalServer(folder / ".prefect"), get_client(sync_client=True) as client:
        runs = {run.name: run for run in client.read_flow_runs()}
        artifacts = {a.key: a for a in client.read_artifacts()}
        logged = [log.message for log in client.read_logs()]
        of_the_study = [
            run
            for run in client.read_task_runs(limit=200)
            if run.flow_run_id == runs["lynx-hare"].id
        ]
    assert len(of_the_study) == int(task_runs)
    assert all(run.state is not None and run.state.is_completed() for run in of_the_study)
    trials = [re.match(r"(\d+) trial", run.state.message or "") for run in of_the_study]  # type: ignore[union-attr]
    assert sum(int(found[1]) for found in trials if found) == TRIALS
    report = str(artifacts["study-lynx-hare"].data)
    assert report.startswith("# Best value 0.2")
    assert report.count("data:image/png") >= 2  # as many as there is time for
    assert "reevaluation-lynx-hare" in artifacts
    assert any("StudyResult of 'lynx-hare'" in message for message in logged)


@pytest.mark.parametrize("name", [".prefect", ".prefect-optuna"])
def test_a_folder_that_it_cannot_write_is_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    verbosity = optuna.logging.get_verbosity()
    try:
        with monkeypatch.context() as put_back:
            put_back.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")
            assert main() == 1
    finally:
        optuna.logging.set_verbosity(verbosity)
        setup_logging()
    assert f"Error: expected {tmp_path / name}" in (said := capsys.readouterr().err) or (
        f"Error: The journal {tmp_path / name}" in said
    )
    assert "Traceback" not in said


def test_a_study_that_is_done_is_left_alone_and_an_interrupted_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    problem = Problem.of(PROBLEM)
    assert study_name(problem) == "lynx-hare"
    study = as_study_storage(None).create_study("lynx-hare")
    assert study_name(problem) == "lynx-hare-2"  # without an archive, it is somebody else's
    OptunaArchive(study).save_problem(problem)
    assert study_name(problem) == "lynx-hare"
    other = Problem.of(lambda trial: 1.0)
    assert study_name(other) == "lynx-hare-2"  # the model has changed
