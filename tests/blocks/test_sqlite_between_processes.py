"""SQLite between processes: no trial is run twice, which Optuna alone cannot promise there."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from prefect_optuna.blocks import SQLStudyStorage, as_study_storage

WORKER = """
    import sys
    from prefect_optuna.blocks import as_study_storage

    study = as_study_storage(sys.argv[1]).load_study("queue")
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(10):
        trial = study.ask()
        if "job" not in trial.user_attrs:
            break
        print(trial.user_attrs["job"])
"""


@pytest.mark.slow
def test_each_waiting_trial_is_taken_by_one_of_many_processes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    block = as_study_storage(url)
    assert isinstance(block, SQLStudyStorage)
    study = block.create_study("queue")
    for job in range(24):
        study.enqueue_trial({}, user_attrs={"job": job})
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER), url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    taken: list[str] = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        output, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0
        taken += output.split()
    assert Counter(taken) == Counter(map(str, range(24)))
