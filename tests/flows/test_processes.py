"""Trials in processes of this program: one that dies is replaced, and none outlives the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import optuna
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner
from servers import prefect_home, wait_until

from prefect_optuna.blocks import InvalidSettingError, as_study_storage
from prefect_optuna.errors import WorkerFailedError
from prefect_optuna.flows import optimize
from prefect_optuna.flows.session import is_lost
from prefect_optuna.flows.task_runners import Processes
from prefect_optuna.tasks import Problem


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dies_at_the_top(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    with Path("log.txt").open("a", encoding="utf-8") as log:
        print(x, os.getpid(), file=log)
    time.sleep(0.05)
    if x == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def test_what_processes_log_goes_to_the_server_of_the_study_and_to_no_other() -> None:
    seen: list[str | None] = []

    class Pool(ProcessPoolTaskRunner):
        def _forward_subprocess_messages(self) -> None:
            seen.append(PREFECT_API_URL.value())

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}),
        Processes(Pool(max_workers=1), 1) as processes,
    ):
        processes._open().__exit__(None, None, None)
    assert seen == ["http://127.0.0.1:1/api"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_process_that_dies_takes_its_own_trial_along_and_the_study_goes_on() -> None:
    study = as_study_storage().create_study("s")
    study.enqueue_trial({"x": 0.5})
    study.enqueue_trial({"x": 1})
    result = optimize(
        dies_at_the_top, study_name="s", n_trials=8, n_jobs=2, task_runner="processes"
    )

    assert result.states == {"complete": 7, "pruned": 0, "failed": 1, "lost": 3}
    trials = study.trials
    lost = [t for t in trials if is_lost(t)]
    # Asked again as often as a trial may be, and then it counts as failed.
    assert sum(t.params.get("x") == 1 for t in lost) == 3
    (failed,) = [t for t in trials if t.state == optuna.trial.TrialState.FAIL and not is_lost(t)]
    assert failed.params == {"x": 1}
    assert "is gone" in failed.user_attrs["error"]
    ran = [line.split() for line in Path("log.txt").read_text(encoding="utf-8").splitlines()]
    assert sum(float(x) == 1 for x, _ in ran) == 4
    assert len({pid for x, pid in ran if float(x) == 1}) == 4


def dies(trial: optuna.Trial) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def compare(params: dict[str, float], trial: optuna.Trial) -> dict[str, float]:
    return {"same": float(trial.params == params)}


def evaluate(result: dict[str, float]) -> float:
    return result["same"]


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_process_sees_at_once_what_its_trial_was_given_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prefect_optuna.blocks._journal_storage._FLUSH_AFTER", 3600.0)
    problem = Problem(suggest=suggest, run=compare, evaluate=evaluate)
    optimize(problem, study_name="s", n_trials=4, task_runner="processes")
    assert [trial.value for trial in as_study_storage().load_study("s").trials] == [1.0] * 4


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_processes_that_all_die_end_the_study() -> None:
    with pytest.raises(WorkerFailedError, match="BrokenProcessPool"):
        optimize(dies, study_name="s", n_trials=3, task_runner="processes")


PROGRAM = """
    import os, sys, time
    from pathlib import Path
    from prefect_optuna.flows import optimize

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        Path(f"started-{os.getpid()}").touch()
        time.sleep(0.01 if sys.argv[1] == "ends" else 600)
        return x

    if __name__ == "__main__":
        print(optimize(objective, study_name="s", n_trials=4, n_jobs=2, task_runner="processes"))
"""


def start(tmp_path: Path, how: str) -> subprocess.Popen[bytes]:
    """A program that has no Prefect server."""
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    environment.update(
        PREFECT_HOME=str(prefect_home(tmp_path / "home")),
        PREFECT_SERVER_EPHEMERAL_ENABLED="true",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    )
    with (tmp_path / "output.txt").open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "program.py", how], env=environment, stdout=output, stderr=output
        )


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("is killed", marks=pytest.mark.slow),
        pytest.param("ends", marks=pytest.mark.heavy),
    ],
)
def test_a_program_without_a_server_has_one_and_nothing_outlives_it(
    how: str, tmp_path: Path
) -> None:
    program = start(tmp_path, how)
    seen: dict[int, psutil.Process] = {}
    servers: set[int] = set()

    def look() -> bool:
        for process in psutil.Process(program.pid).children(recursive=True):
            seen[process.pid] = process
            try:
                if "prefect.server.api.server:create_app" in process.cmdline():
                    servers.add(process.pid)
            except psutil.Error:
                pass
        return program.poll() is not None or (
            how == "is killed" and len(list(tmp_path.glob("started-*"))) == 2
        )

    try:
        wait_until(look, what="two trials", timeout=180, every=0.1)
        if how == "is killed":
            os.kill(program.pid, signal.SIGKILL)
    finally:
        if how == "is killed":
            program.kill()
        program.wait(60)
    _, left = psutil.wait_procs(list(seen.values()), timeout=15)
    for process in left:
        process.kill()
    output = (tmp_path / "output.txt").read_text()
    assert not left, (left, output)
    assert len(servers) == 1, output
    assert how == "is killed" or program.returncode == 0, output


def test_a_home_that_cannot_be_written_is_said_before_a_server_is_started(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.touch()
    elsewhere = {
        "home": home,
        "api.url": None,
        "server.ephemeral.enabled": True,
        "server.database.connection_url": f"sqlite+aiosqlite:///{home}/prefect.db",
    }
    with (
        temporary_settings(elsewhere),
        pytest.raises(InvalidSettingError, match=f"{home}.* PREFECT_HOME"),
    ):
        optimize(dies_at_the_top, n_trials=1)
