"""`make ui`, as a process of its own that a person ends with Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.settings import temporary_settings
from servers import prefect_home

from prefect_optuna.deployments import LocalServer, ui


@flow
def reported() -> None:
    create_markdown_artifact("Best value: **42**", key="study-of-the-test")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the history of one flow run and its report."""
    home = prefect_home(tmp_path_factory.mktemp("home"))
    with LocalServer(home), temporary_settings({"flows.heartbeat_frequency": None}):
        reported()
    return home


@pytest.mark.slow
def test_it_says_where_to_look_and_ends_with_ctrl_c(home: Path, page: Page) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "prefect_optuna.deployments.ui", str(home)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            lines = list(iter(process.stdout.readline, "Ctrl-C ends it.\n"))
            report, flow_run = re.findall(r"http://\S+/v2/\S+", "".join(lines))
            page.goto(report)
            page.get_by_text("Best value: 42").wait_for()
            page.goto(flow_run)
            page.get_by_text("Completed").first.wait_for()
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "Stopped.\n"
    assert process.returncode == 0


@pytest.mark.slow
def test_beside_a_running_server_it_shows_that_one(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalServer(home) as server:
        assert ui.main([str(home)]) == 0
        assert f"Prefect's UI: {server.url}\n" in capsys.readouterr().out


def test_without_history_it_says_what_makes_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ui.main([str(tmp_path / "none")]) == 1
    assert "run make demo first" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
