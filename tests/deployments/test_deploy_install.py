"""A worker that lacks what a deployed script imports installs it, and runs trials with that."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling
from servers import log_of, wait_until
from wheels_under_test import install_here, only_these_wheels, record_only

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InvalidSettingError,
    JournalStudyStorage,
    StudyNotFoundError,
)
from prefect_optuna.deployments import LocalWorker, deploy_optimization, make_process_pool
from prefect_optuna.deployments.cli import main
from prefect_optuna.deployments.deploy import Deployed
from prefect_optuna.tasks import ArchivedStudy

POOL = "install-tests"
PLACES: dict[str, Any] = {
    "storage": "journal-study-storage/install-lab",
    "artifacts": "artifact-file-system/install-lab",
}

SCRIPT = """
import os
import sys
import time

import tiny


def objective(trial):
    trial.set_user_attr("tiny", tiny.VALUE)
    trial.set_user_attr("prefix", sys.prefix)
    trial.set_user_attr("pid", os.getpid())
    time.sleep(SECONDS)
    return trial.suggest_float("x", 0, 1)
"""


@pytest.fixture(scope="module")
def lab(prefect_server: object, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A worker that has this package, and nothing of what scripts import; and wheels."""
    folder = tmp_path_factory.mktemp("lab")
    make_process_pool(POOL)
    JournalStudyStorage(path=folder / "studies.journal").save("install-lab", overwrite=True)
    ArtifactFileSystem(url=str(folder / "files")).save("install-lab", overwrite=True)
    (folder / "empty").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        only_these_wheels(folder, patch)
        patch.delenv("PYTHONPATH", raising=False)
        patch.chdir(folder / "empty")
        with LocalWorker(POOL, folder / "worker.log", query=0.5):
            yield folder


@pytest.fixture
def deployer(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Whoever deploys has tiny 1.0."""
    install_here(lab / "wheels", "tiny", "1.0", monkeypatch)
    record_only(monkeypatch, tiny="1.0")
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def deploy(study: str, seconds: float = 0.0, **options: Any) -> Deployed:
    Path("fit.py").write_text(SCRIPT.replace("SECONDS", str(seconds)), encoding="utf-8")
    options = {"install": True, "pool": POOL, **PLACES, **options}
    return deploy_optimization("fit.py:objective", study_name=study, **options)


def read(flow_run_id: UUID) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id)


def ended(flow_run_id: UUID) -> Any:
    """The state of a flow run, once it has ended."""
    what = f"flow run {flow_run_id} ends"
    wait_until(lambda: read(flow_run_id).state.is_final(), what=what, every=0.2)
    return read(flow_run_id).state


def trials(study: str) -> list[Any]:
    return ArchivedStudy.load(study, **PLACES).study.trials


@pytest.mark.slow
@pytest.mark.usefixtures("deployer")
def test_a_worker_installs_what_was_recorded_once_and_runs_trials_with_it(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("fit.py").write_text(SCRIPT.replace("SECONDS", "0"), encoding="utf-8")
    places = ("--storage", PLACES["storage"], "--artifacts", PLACES["artifacts"])
    command = ["deploy", "fit.py:objective", "--study", "once", "--pool", POOL, *places]
    assert main([*command, "--trials", "3", "--install", "--run", "--json"]) == 0
    first = UUID(json.loads(capsys.readouterr().out)["flow_run_id"])
    state = ended(first)
    assert state.is_completed(), (state, log_of(first))
    log = log_of(first)
    assert "This worker lacks tiny 1.0, which fit.py imports." in log
    assert "The environment was built in" in log
    attributes = [trial.user_attrs for trial in trials("once")]
    assert {one["tiny"] for one in attributes} == {1.0}
    [prefix] = {one["prefix"] for one in attributes}
    assert Path(prefix).parent == lab / "environments"
    assert len({one["pid"] for one in attributes}) == 1
    environment = ArchivedStudy.load("once", **PLACES).environment
    assert environment.distributions["tiny"] == "1.0"

    second = deploy("once", n_trials=5).run()
    assert ended(second).is_completed()
    assert "The environment is there already" in log_of(second)
    assert [trial.user_attrs["prefix"] for trial in trials("once")] == [prefix] * 5


def a_process_of(study: str) -> int:
    """One that runs trials of a study, once there is one."""
    found: list[int] = []

    def is_there() -> bool:
        # A study is there a moment before its archive is.
        with contextlib.suppress(StudyNotFoundError, ArchiveError):
            found[:] = [one.user_attrs["pid"] for one in trials(study) if "pid" in one.user_attrs]
        return bool(found)

    wait_until(is_there, what=f"a trial of {study}", every=0.2)
    return found[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("deployer")
def test_such_a_run_is_cancelled_and_killed_as_any_other_and_goes_on(lab: Path) -> None:
    cancelled = deploy("goes on", seconds=0.3, n_trials=1000).run()
    process = psutil.Process(a_process_of("goes on"))
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(cancelled, Cancelling())
    assert ended(cancelled).name == "Cancelled"
    wait_until(lambda: not process.is_running(), what="its process ends")

    killed = deploy("goes on", seconds=0.3, n_trials=1000).run()
    wait_until(lambda: a_process_of("goes on") != process.pid, what="another process")
    os.kill(a_process_of("goes on"), signal.SIGKILL)
    assert ended(killed).is_crashed()

    done = len([one for one in trials("goes on") if one.state.name == "COMPLETE"])
    last = deploy("goes on", n_trials=done + 3).run()
    assert ended(last).is_completed()
    complete = [one for one in trials("goes on") if one.state.name == "COMPLETE"]
    assert len(complete) == done + 3
    assert {one.user_attrs["tiny"] for one in complete} == {1.0}


@pytest.mark.slow
@pytest.mark.usefixtures("deployer")
def test_each_worker_of_a_distributed_study_installs_it_and_one_that_dies_is_replaced(
    lab: Path,
) -> None:
    run = deploy("spread-installed", seconds=0.3, n_trials=120, workers=2).run()
    os.kill(a_process_of("spread-installed"), signal.SIGKILL)
    assert ended(run).is_completed()
    complete = [one for one in trials("spread-installed") if one.state.name == "COMPLETE"]
    assert len(complete) == 120
    assert {one.user_attrs["tiny"] for one in complete} == {1.0}
    assert len({one.user_attrs["pid"] for one in complete}) >= 2
    [prefix] = {one.user_attrs["prefix"] for one in complete}
    assert Path(prefix).parent == lab / "environments"


@pytest.mark.slow
def test_what_cannot_be_installed_is_said_before_a_trial_and_is_no_trial_s_failure(
    lab: Path, deployer: pytest.MonkeyPatch
) -> None:
    record_only(deployer, tiny="1.0", nowhere="3.0")
    run = deploy("nowhere").run()
    state = ended(run)
    assert state.is_failed()
    assert (
        "EnvironmentUnavailableError: This worker lacks tiny 1.0, which fit.py imports, and "
        in (state.message)
    )
    assert "cannot install it. No trial was begun." in state.message
    assert "nowhere==3.0" in state.message
    assert "environment=" not in state.message  # that is of `reevaluate`
    with pytest.raises(StudyNotFoundError):
        ArchivedStudy.load("nowhere", **PLACES)


@pytest.mark.slow
def test_a_run_is_cancelled_while_its_packages_are_fetched(
    lab: Path, deployer: pytest.MonkeyPatch
) -> None:
    record_only(deployer, tiny="1.0", other="1.0")

    def builds() -> bool:
        commands = (" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"]))
        return any(str(lab / "environments") in command for command in commands)

    settings = lab / "settings.toml"
    with socket.create_server(("127.0.0.1", 0)) as index:  # it never answers
        before = settings.read_text()
        settings.write_text(f'index-url = "http://127.0.0.1:{index.getsockname()[1]}/simple"\n')
        try:
            run = deploy("waits").run()
            index.settimeout(100)
            with index.accept()[0]:
                assert builds()
                with get_client(sync_client=True) as client:
                    client.set_flow_run_state(run, Cancelling())
                assert ended(run).name == "Cancelled"
                wait_until(lambda: not builds(), what="uv ends")
        finally:
            settings.write_text(before)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_is_installed_already_is_not_to_be_installed() -> None:
    make_process_pool(POOL)
    with pytest.raises(InvalidSettingError, match="give one of the two"):
        deploy_optimization("optuna:Trial", study_name="both", installed=True, install=True)
