"""The first process of a worker's container, and a worker that tells its runs nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from servers import wait_until

RUN = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(1)
    pathlib.Path("handed back").touch()
    sys.exit()
signal.signal(signal.SIGTERM, end)
pathlib.Path("running").touch()
time.sleep(60)
"""
WORKER = f"""
import pathlib, signal, subprocess, sys, time
def end(*_):
    pathlib.Path("ended").write_text(str(pathlib.Path("handed back").exists()))
    sys.exit(5)
signal.signal(signal.SIGTERM, end)
subprocess.Popen([sys.executable, "-c", {RUN!r}], start_new_session=True)
time.sleep(60)
"""


def start(folder: Path, worker: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefect_optuna.deployments.container"]
    return subprocess.Popen([*command, sys.executable, "-c", worker], cwd=folder)


def test_runs_hear_of_sigterm_and_the_worker_ends_after_them(tmp_path: Path) -> None:
    process = start(tmp_path, WORKER)
    wait_until((tmp_path / "running").exists, what="a run")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert (tmp_path / "handed back").exists()
    assert (tmp_path / "ended").read_text() == "True"


def test_a_worker_that_ends_by_itself_says_how(tmp_path: Path) -> None:
    assert start(tmp_path, "raise SystemExit(7)").wait(60) == 7
