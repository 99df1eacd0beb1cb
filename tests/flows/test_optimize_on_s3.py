"""The whole way on an object store: optimize in processes, read, run again from the archive."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from filesystems import s3_filesystem

from prefect_optuna.flows import optimize, reevaluate
from prefect_optuna.tasks import ArchivedStudy, Problem

PROBLEM = """
from prefect_optuna.tasks import Problem

def suggest(trial):
    return {"x": trial.suggest_float("x", -1, 1)}

def run(params):
    return {"series": [params["x"] * n for n in range(100)]}

def evaluate(result):
    return result["series"][-1] ** 2

problem = Problem(suggest=suggest, run=run, evaluate=evaluate)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_study_is_archived_in_a_bucket_and_runs_again_from_there(
    s3_server: str, tmp_path: Path
) -> None:
    (tmp_path / "s3_problem.py").write_text(PROBLEM)
    name = f"s3-{uuid4().hex[:8]}"
    s3_filesystem(s3_server).save(name, _sync=True)
    where = {
        "storage": f"journal:///{tmp_path}/studies.journal",
        "artifacts": f"artifact-file-system/{name}",
    }
    result = optimize(
        f"{tmp_path}/s3_problem.py:problem",
        study_name=name,
        n_trials=4,
        seed=1,
        n_jobs=2,
        task_runner="processes",
        **where,
    )
    assert result.n_trials == 4
    archived = ArchivedStudy.load(name, **where)
    assert len(archived.result(3)["series"]) == 100
    assert isinstance(archived.problem(trusted=True), Problem)
    again = reevaluate(name, trials="best:1", trusted=True, **where)
    assert [trial.verdict for trial in again.trials] == ["reproduced"]
    assert "hunter2" not in f"{result!r} {archived.describe()} {again!r}"
