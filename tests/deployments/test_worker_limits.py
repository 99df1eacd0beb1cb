"""Workers with a limit share a study; who distributes it takes none of their places."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import StateType
from servers import wait_until

from prefect_optuna.blocks import InvalidSettingError
from prefect_optuna.deployments import LocalServer, LocalWorker, deploy_optimization
from prefect_optuna.deployments.serve import make_process_pool
from prefect_optuna.deployments.work_pools import STUDIES_QUEUE

PROBLEM = "prefect_optuna.flows.examples.lynx_hare:problem"


@pytest.mark.skipif("WORKER_LIMITS" not in os.environ, reason="slow: set WORKER_LIMITS=1")
@pytest.mark.timeout(240)
def test_two_runs_of_a_study_land_on_two_workers(
    prefect_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_process_pool("limits")
    workers = [
        LocalWorker("limits", tmp_path / "one.log", name="one", limit=1, queue="default"),
        LocalWorker("limits", tmp_path / "two.log", name="two", limit=1, queue="default"),
        LocalWorker("limits", tmp_path / "studies.log", name="studies", queue=STUDIES_QUEUE),
    ]
    with ExitStack() as stack, get_client(sync_client=True) as client:
        for worker in workers:
            stack.callback(worker.stop)
            worker.start()
        for worker in workers:
            worker.wait_until_ready()
        run = deploy_optimization(
            PROBLEM,
            study_name="limits",
            n_trials=None,
            timeout=90,
            workers=2,
            pool="limits",
            storage=f"journal:///{tmp_path}/studies.journal",
            artifacts=str(tmp_path / "artifacts"),
        ).run()
        children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run]))

        def running() -> set[str]:
            found = client.read_flow_runs(flow_run_filter=children)
            return {
                str(one.labels["prefect.worker.name"])
                for one in found
                if one.state and one.state.type == StateType.RUNNING
            }

        wait_until(lambda: running() == {"one", "two"}, what="one run on each", timeout=150)
        parent = client.read_flow_run(run)
        assert parent.labels["prefect.worker.name"] == "studies"


def test_a_limit_that_lets_nothing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match="1 or more; found 0"):
        LocalWorker("limits", tmp_path / "log", limit=0)
