"""Workers with a limit share a study; who distributes it takes none of their places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from servers import free_port, prefect_home

from prefect_optuna.blocks import InvalidSettingError, as_study_storage
from prefect_optuna.deployments import LocalWorker

COMMAND = [sys.executable, "-m", "prefect_optuna.deployments.cli"]
LOGS = ["worker-1", "worker-2", "studies"]

# Each trial ends once two workers have one, so that it takes both of them at the same time.
MEETING = """
import os, time
from pathlib import Path

def meet(trial):
    here = Path("FOLDER")
    (here / f"{os.environ['PREFECT__WORKER_NAME']}.here").touch()
    while len(list(here.glob("*.here"))) < 2:
        time.sleep(0.05)
    return trial.suggest_float("x", 0, 1)
"""


@pytest.mark.heavy
@pytest.mark.timeout(700)  # on a busy machine, three workers and three flow runs take minutes
def test_a_study_takes_two_workers_with_one_place_each_and_none_for_who_distributes_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "meeting.py").write_text(MEETING.replace("FOLDER", str(tmp_path)), encoding="utf-8")
    prefect_home(tmp_path / ".prefect")  # where `serve` keeps its history
    environment = {key: text for key, text in os.environ.items() if key != "PREFECT_API_URL"}
    serve = ["serve", "--workers", "2", "--limit", "1", "--port", str(free_port()), "--json"]
    deploy = ["deploy", "meeting:meet", "--study", "limits", "--trials", "2", "--workers", "2"]
    with subprocess.Popen(
        [*COMMAND, *serve], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as serving:
        try:
            assert serving.stdout is not None
            # What it says once it is ready.
            lines = takewhile(lambda line: line != "}\n", serving.stdout)
            assert len(json.loads("".join([*lines, "}"]))["workers"]) == 3
            deployed = subprocess.run(
                [*COMMAND, *deploy, "--watch", "--json"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=540,
            )
        finally:
            serving.terminate()
            serving.wait(60)
    assert deployed.returncode == 0, deployed.stderr
    storage = as_study_storage(f"journal:///{tmp_path}/.prefect-optuna/studies.journal")
    assert len(storage.load_study("limits").trials) == 2
    met = {path.stem for path in tmp_path.glob("*.here")}
    logs = {log: (tmp_path / ".prefect" / f"{log}.log").read_text() for log in LOGS}
    where = sorted(log for log, text in logs.items() for name in met if f"{name!r}" in text)
    assert where == ["worker-1", "worker-2"]


def test_a_limit_that_lets_nothing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match="1 or more; found 0"):
        LocalWorker("limits", tmp_path / "log", limit=0)
