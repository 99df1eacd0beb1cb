"""Ctrl-C is one line, and twice Ctrl-C too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows.interruption import interruptible, note_study

SLOW_TO_END = """
import sys, threading, time
from prefect_optuna.flows.interruption import interruptible, note_study

with interruptible():
    note_study(lambda: "Study 'slow' keeps its 3 finished trials; the same call goes on with it.")
    try:
        print("ready", flush=True)
        time.sleep(100)
    finally:
        print("ending", flush=True)
        time.sleep(float(sys.argv[1]))
"""

PROCESSES = """
import time
from prefect_optuna.flows import Problem, optimize


def suggest(trial):
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params):
    time.sleep(1)
    return params["x"]


def told(study, trial):
    print("ready", flush=True)


if __name__ == "__main__":
    optimize(
        Problem(suggest=suggest, run=run), study_name="slow", n_trials=500, n_jobs=2,
        task_runner="processes", callbacks=[told],
    )
"""


def test_an_interruption_says_what_was_kept() -> None:
    def interrupted() -> None:
        note_study(lambda: "Study 'mine' keeps 3.")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="keeps 3") as raised, interruptible():
        interrupted()
    assert type(raised.value) is KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt, match="before the first trial"), interruptible():
        raise KeyboardInterrupt
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_is_one_line_and_code_130(times: int, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TO_END)
    process = _start(tmp_path / "slow.py", str(30 * (times - 1)))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "ending\n"
    if times == 2:
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert said == (
        "Interrupted. Study 'slow' keeps its 3 finished trials; the same call goes on with it.\n"
    )
    assert process.returncode in (130, -signal.SIGINT)


@pytest.mark.heavy
def test_processes_of_trials_say_nothing_of_it(prefect_server: LocalServer, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(PROCESSES)
    process = _start(tmp_path / "slow.py", PREFECT_LOGGING_LEVEL="WARNING")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    lines = [line for line in said.splitlines() if not line.startswith("[I ")]
    assert len(lines) == 1, said
    assert lines[0].startswith("Interrupted. Study 'slow' keeps its ")


def _start(program: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    # A shell gives the programs that it starts in the background no Ctrl-C, and Python keeps that.
    begin = "import signal, os, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    begin += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return subprocess.Popen(
        [sys.executable, "-c", begin, str(program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=program.parent,
        env={**os.environ, **environment},
    )
