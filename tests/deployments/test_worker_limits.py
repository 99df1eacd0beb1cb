"""Workers with a limit share a study; who distributes it takes none of their places."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from servers import wait_until

from prefect_optuna.blocks import InvalidSettingError, as_study_storage
from prefect_optuna.deployments import LocalServer, LocalWorker, deploy_optimization
from prefect_optuna.deployments.serve import make_process_pool
from prefect_optuna.deployments.work_pools import STUDIES_QUEUE

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
@pytest.mark.timeout(400)
def test_a_study_takes_two_workers_with_one_place_each_and_none_for_who_distributes_it(
    prefect_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "meeting.py").write_text(MEETING.replace("FOLDER", str(tmp_path)))
    storage = f"journal:///{tmp_path}/studies.journal"
    make_process_pool("limits")
    workers = [
        LocalWorker("limits", tmp_path / "one.log", name="one", limit=1, queue="default"),
        LocalWorker("limits", tmp_path / "two.log", name="two", limit=1, queue="default"),
        LocalWorker("limits", tmp_path / "studies.log", name="studies", queue=STUDIES_QUEUE),
    ]
    deployed = deploy_optimization(
        "meeting.py:meet",
        study_name="limits",
        n_trials=2,
        workers=2,
        pool="limits",
        storage=storage,
        artifacts=str(tmp_path / "artifacts"),
    )
    with ExitStack() as stack, get_client(sync_client=True) as client:
        for worker in workers:
            stack.callback(worker.stop)
            worker.start()
        run = deployed.run()

        def ended() -> bool:
            state = client.read_flow_run(run).state
            return state is not None and state.is_final()

        wait_until(ended, what="the end of the study", timeout=330, every=0.2)
        state = client.read_flow_run(run).state
        assert state is not None
        assert state.is_completed(), state.message
    assert {path.stem for path in tmp_path.glob("*.here")} == {"one", "two"}
    assert len(as_study_storage(storage).load_study("limits").trials) == 2


def test_a_limit_that_lets_nothing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match="1 or more; found 0"):
        LocalWorker("limits", tmp_path / "log", limit=0)
