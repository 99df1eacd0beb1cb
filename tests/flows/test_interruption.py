"""Ctrl-C is one line, and twice Ctrl-C too."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from pydantic import BaseModel, model_serializer

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import optimize
from prefect_optuna.flows.study_flow import interruptible, note_study
from prefect_optuna.flows.task_runners import ctrl_c_waits

SLOW_TO_END = """
import sys, threading, time
from prefect_optuna.flows.study_flow import interruptible, note_study

with interruptible():
    note_study(lambda: "Study 'slow' keeps its 3 finished trials; the same call goes on with it.")
    try:
        print("ready", flush=True)
        time.sleep(100)
    finally:
        print("ending", flush=True)
        time.sleep(float(sys.argv[1]))
"""

STUDY = """
import sys, time
from prefect_optuna.flows import Problem, optimize


def suggest(trial):
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params):
    time.sleep(0.3)
    return params["x"]


def told(study, trial):
    print("ready", flush=True)


if __name__ == "__main__":
    optimize(
        Problem(suggest=suggest, run=run), study_name="slow", n_trials=int(sys.argv[2]), n_jobs=2,
        task_runner=sys.argv[1], callbacks=[told],
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


def test_an_interruption_of_which_pydantic_makes_an_error_is_one() -> None:
    class Slow(BaseModel):
        @model_serializer
        def interrupted(self) -> str:
            note_study(lambda: "Study 'mine' keeps 3.")
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
            return "never"

    with pytest.raises(KeyboardInterrupt, match="keeps 3"), interruptible():
        Slow().model_dump()
    with pytest.raises(ValueError, match="another"), interruptible():
        raise ValueError("another")


def test_ctrl_c_waits_while_a_trial_is_handed_to_a_process() -> None:
    done: list[str] = []

    def handed_over() -> None:
        with ctrl_c_waits():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
            done.append("whole")

    # As in a program with threads: one of them gets the signal.
    idle = threading.Event()
    thread = threading.Thread(target=idle.wait)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            handed_over()
    finally:
        idle.set()
        thread.join()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.heavy
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("runner", ["processes", "threads"])
def test_ctrl_c_in_a_study_is_one_line_and_the_same_call_goes_on(
    runner: str, times: int, prefect_server: LocalServer, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(STUDY)
    # As `prefect-optuna up` leaves it: the program finds the server by itself.
    (tmp_path / ".prefect-optuna/prefect").mkdir(parents=True)
    found = json.dumps({"url": prefect_server.url})
    (tmp_path / ".prefect-optuna/prefect/server.json").write_text(found)
    environment = {
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_API_URL": "",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    }
    process = _start(tmp_path / "slow.py", runner, "100", **environment)
    assert process.stdout is not None
    try:
        for _ in range(3):
            assert process.stdout.readline() == "ready\n"
        children = psutil.Process(process.pid).children(recursive=True)
        assert not [child for child in children if "uvicorn" in child.cmdline()]
        os.killpg(process.pid, signal.SIGINT)
        if times == 2:
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    lines = [line for line in said.splitlines() if not line.startswith("[I ")]
    assert len(lines) == 1, said
    assert lines[0].startswith("Interrupted. Study 'slow' keeps its ")
    assert psutil.wait_procs(children, timeout=20)[1] == []
    kept = as_study_storage(f"journal:///{tmp_path}/.prefect-optuna/studies.journal")
    finished = sum(t.state.is_finished() for t in kept.load_study("slow").trials)
    again = _start(tmp_path / "slow.py", runner, str(finished + 2), **environment)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    states = [t.state for t in kept.load_study("slow").trials]
    assert states.count(TrialState.COMPLETE) == finished + 2
    assert TrialState.RUNNING not in states


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


def handler_of_a_child() -> str:
    return str(signal.getsignal(signal.SIGTERM))


def forking(trial: optuna.Trial) -> float:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        trial.set_user_attr("child", pool.apply(handler_of_a_child))
    trial.set_user_attr("own", handler_of_a_child())
    return 0.0


@pytest.mark.usefixtures("prefect_server")
def test_what_a_trial_forks_dies_of_sigterm_as_it_would_without_us() -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = optimize(forking, study_name="forking", n_trials=2, storage="memory://forking")
    for trial in result.load_study().trials:
        assert trial.user_attrs["child"] == str(signal.SIG_DFL)  # or Pool.terminate may hang
        assert "hear" in trial.user_attrs["own"]
    assert signal.getsignal(signal.SIGTERM) is before
