"""The whole way on Redis: optimize in processes, go on after a kill, run again from the archive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from optuna.trial import TrialState
from servers import wait_until

from prefect_optuna.blocks import RedisStudyStorage
from prefect_optuna.flows import optimize, reevaluate
from prefect_optuna.flows.session import is_lost
from prefect_optuna.tasks import ArchivedStudy

PROBLEM = """
import os
from pathlib import Path
from prefect_optuna.tasks import Problem

def suggest(trial):
    return {"x": trial.suggest_float("x", -1, 1), "number": trial.number}

def run(params):
    folder = Path(os.environ["FOLDER_OF_THE_TEST"])
    (folder / f"started-{params['number']}").touch()
    while params["number"] == 2 and (folder / "hang").exists():
        pass
    return {"series": [params["x"] * n for n in range(100)]}

def evaluate(result):
    return result["series"][-1] ** 2

problem = Problem(suggest=suggest, run=run, evaluate=evaluate)
"""
PROGRAM = """
import sys
from prefect_optuna.flows import optimize
optimize(sys.argv[1], study_name=sys.argv[2], storage=sys.argv[3], n_trials=4, seed=1)
"""


pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def in_a_folder_with_the_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOLDER_OF_THE_TEST", str(tmp_path))
    (tmp_path / "redis_problem.py").write_text(PROBLEM)


@pytest.mark.slow
def test_a_study_in_processes_is_kept_on_redis_by_a_saved_block_and_runs_again(
    redis_server: str, tmp_path: Path
) -> None:
    name = f"redis-{uuid4().hex[:8]}"
    block = RedisStudyStorage(url=redis_server, namespace=name)
    block.save(name, _sync=True)
    storage = f"redis-study-storage/{name}"
    result = optimize(
        "redis_problem.py:problem",
        study_name=name,
        storage=storage,
        n_jobs=2,
        task_runner="processes",
        n_trials=4,
        seed=1,
    )
    assert result.n_trials == 4
    assert len(block.load_study(name).trials) == 4
    archived = ArchivedStudy.load(name, storage=storage)
    assert len(archived.result(3)["series"]) == 100
    again = reevaluate(
        name,
        storage=storage,
        trials="best:1",
        trusted=True,
        environment_variables=["FOLDER_OF_THE_TEST"],
    )
    assert [trial.verdict for trial in again.trials] == ["reproduced"]
    assert block.describe().trials == 4
    block.get_storage().close()


@pytest.mark.slow
def test_a_study_on_a_redis_url_goes_on_after_its_process_was_killed(
    redis_server: str, tmp_path: Path
) -> None:
    (tmp_path / "hang").touch()
    name = f"redis-{uuid4().hex[:8]}"
    arguments = ["redis_problem.py:problem", name, redis_server]
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.PIPE)
    assert process.stderr
    try:
        wait_until((tmp_path / "started-2").exists, what="the third trial")
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    (tmp_path / "hang").unlink()

    optimize("redis_problem.py:problem", study_name=name, storage=redis_server, n_trials=4, seed=1)

    block = RedisStudyStorage(url=redis_server)
    trials = block.load_study(name).trials
    assert [t.number for t in trials if is_lost(t)] == [2]
    counted = [t for t in trials if not is_lost(t)]
    assert [t.state for t in counted] == [TrialState.COMPLETE] * 4
    assert len({t.params["x"] for t in counted}) == 4
    block.get_storage().close()
