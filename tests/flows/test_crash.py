"""Ctrl-C, an exception and `kill -9`, all for real: nothing is lost, and nothing runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from servers import wait_until

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.flows.session import is_lost
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive
from prefect_optuna.tasks.archive.record.manifest import RESULT_KEY
from prefect_optuna.tasks.archive.record.trial_records import trial_signature

pytestmark = pytest.mark.usefixtures("prefect_server")

SCRIPT = """
    import sys, time
    from pathlib import Path
    import numpy as np
    from prefect_optuna.flows import Problem, optimize

    LOG = {log!r}

    def suggest(trial):
        return {{"x": trial.suggest_float("x", 0, 1), "number": trial.number}}

    def run(params):
        with Path(LOG).open("a") as log:
            print("start", params["number"], params["x"], file=log, flush=True)
        {trouble}
        time.sleep(0.1)
        with Path(LOG).open("a") as log:
            print("end", params["number"], params["x"], file=log, flush=True)
        return {{"series": params["x"] * np.arange(50_000.0), "x": params["x"]}}

    def evaluate(result):
        return result["x"]

    if __name__ == "__main__":
        optimize(Problem(suggest=suggest, run=run, evaluate=evaluate), study_name="crash",
                 n_trials=25, n_jobs={n_jobs}, storage={storage!r}, seed=1)
"""


class Program:
    """A user's script in a folder of its own, to be started, hurt, and started again."""

    def __init__(self, folder: Path, storage: str, n_jobs: int) -> None:
        self.folder = folder
        self.storage = storage
        self.n_jobs = n_jobs
        self.log = folder / "log.txt"

    def start(self, trouble: str = "pass") -> subprocess.Popen[bytes]:
        script = self.folder / "study.py"
        script.write_text(
            textwrap.dedent(SCRIPT).format(
                log=str(self.log), trouble=trouble, n_jobs=self.n_jobs, storage=self.storage
            )
        )
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, str(script)],
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,  # as from a terminal of its own
            )

    def lines(self, word: str) -> list[str]:
        text = self.log.read_text() if self.log.exists() else ""
        return [line.removeprefix(word + " ") for line in text.splitlines() if word in line]

    def is_in_its_seventh_trial(self) -> bool:
        ended = len(self.lines("end"))
        return 6 <= ended < len(self.lines("start"))

    def signing_runs(self) -> set[str]:
        """The runs that have told a trial with a signature."""
        signatures = [trial_signature(trial) for trial in self.study().trials]
        return {signature["run"] for signature in signatures if signature}

    def study(self) -> optuna.Study:
        return as_study_storage(self.storage).load_study("crash")


ONE, MANY = ("journal:///s.journal", 1), ("sqlite:///s.db", 2)


@pytest.fixture(params=[ONE], ids=["journal"])
def program(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Program:
    monkeypatch.chdir(tmp_path)
    return Program(tmp_path, *request.param)


def end(process: subprocess.Popen[bytes], program: Program, code: int | None = 0) -> None:
    try:
        found = process.wait(60)
    finally:
        process.kill()
        process.wait()
    output = (program.folder / "output.txt").read_text()
    assert code is None or found == code, output


def assert_consistent(program: Program) -> None:
    """What has to hold after the next start, whatever happened before."""
    study = program.study()
    trials = study.trials
    assert all(t.state.is_finished() for t in trials)
    counted = [t for t in trials if not is_lost(t)]
    assert len(counted) == 25
    # Each point was finished once: lost trials are repeated with the same parameters.
    assert len({t.params["x"] for t in counted}) == 25
    for lost in (t for t in trials if is_lost(t) and t.params):
        assert [t.params for t in counted].count(lost.params) == 1
    # No trial ran twice under one number.
    assert max(Counter(program.lines("start")).values()) == 1
    # Whatever the study refers to is whole, and nothing half-written lies about.
    archived = ArchivedStudy.load("crash", storage=program.storage)
    for trial in counted:
        if RESULT_KEY in trial.user_attrs:
            assert archived.result(trial.number)["x"] == trial.params["x"]
    files = [p for p in (program.folder / ".prefect-optuna").rglob("*") if p.is_file()]
    arrows = [p for p in files if p.suffix == ".arrow"]
    assert len(arrows) >= sum(RESULT_KEY in t.user_attrs for t in trials)


@pytest.mark.parametrize(
    "program",
    [ONE, pytest.param(MANY, marks=pytest.mark.slow)],
    ids=["journal", "sqlite"],
    indirect=True,
)
def test_kill_9(program: Program) -> None:
    process = program.start()
    wait_until(program.is_in_its_seventh_trial, what="the seventh trial", timeout=90)
    os.kill(process.pid, signal.SIGKILL)
    end(process, program, code=-signal.SIGKILL)
    left = [t.number for t in program.study().trials if t.state == TrialState.RUNNING]
    assert left

    end(program.start(), program)

    assert_consistent(program)
    lost = [t.number for t in program.study().trials if is_lost(t)]
    assert lost == left


@pytest.mark.slow
def test_ctrl_c(program: Program) -> None:
    process = program.start()
    wait_until(program.is_in_its_seventh_trial, what="the seventh trial", timeout=90)
    os.kill(process.pid, signal.SIGINT)
    end(process, program, code=None)
    assert process.returncode != 0
    states = {t.state for t in program.study().trials}
    assert TrialState.RUNNING not in states

    end(program.start(), program)

    assert_consistent(program)


@pytest.mark.slow
def test_an_exception_in_run(program: Program) -> None:
    end(program.start("1 / (params['number'] - 5)"), program, code=1)
    failed = program.study().trials[5]
    assert failed.state == TrialState.FAIL
    assert "ZeroDivisionError" in failed.user_attrs["error"]
    assert not is_lost(failed)  # its own error: it counts

    end(program.start(), program)

    assert_consistent(program)
    assert sum(t.state == TrialState.FAIL for t in program.study().trials) == 1


@pytest.mark.heavy
def test_kill_9_again_and_again(program: Program) -> None:
    for round_ in range(1, 3):
        process = program.start()
        before = len(program.lines("end"))
        wait_until(
            lambda before=before: len(program.lines("end")) >= before + 3,
            what=f"three trials of round {round_}",
            timeout=90,
        )
        os.kill(process.pid, signal.SIGKILL)
        end(process, program, code=-signal.SIGKILL)

    end(program.start(), program)

    assert_consistent(program)


@pytest.mark.heavy
@pytest.mark.parametrize("program", [MANY], ids=["sqlite"], indirect=True)
def test_two_signing_programs_on_one_study_and_kill_9_of_one(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", "k" * 32)
    killed, other = program.start(), program.start()
    try:
        wait_until(
            lambda: program.is_in_its_seventh_trial() and len(program.signing_runs()) == 2,
            what="both are at work",
            timeout=120,
        )
        os.kill(killed.pid, signal.SIGKILL)
        end(killed, program, code=-signal.SIGKILL)
    finally:
        killed.kill()
        end(other, program)
    end(program.start(), program)

    # Two that run at once may ask for a trial more than is wanted.
    assert sum(trial.state == TrialState.COMPLETE for trial in program.study().trials) >= 25
    archived = ArchivedStudy.load("crash", storage=program.storage)
    assert archived.signatures.holds, archived.signatures
    assert "was killed" in str(archived.signatures)
    OptunaArchive(program.study()).sign()
    archived = ArchivedStudy.load("crash", storage=program.storage)
    assert archived.signatures.complete, archived.signatures
