"""The deploy helpers, on a real server: what it has stored, and what a worker makes of it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import temporary_settings
from prefect.types import SecretDict
from pydantic import SecretStr
from servers import free_port, wait_until

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    InvalidSettingError,
    JournalStudyStorage,
    PrefectOptunaError,
    SQLStudyStorage,
    StorageUnavailableError,
)
from prefect_optuna.deployments import (
    LocalWorker,
    deploy_gc,
    deploy_optimization,
    deploy_reevaluation,
    deploy_report,
    make_pool,
    make_process_pool,
    run_on,
)
from prefect_optuna.deployments.deploy import Deployed
from prefect_optuna.errors import (
    AlreadyExistsError,
    InvalidProblemError,
    ServerUnavailableError,
    UnknownNameError,
)
from prefect_optuna.tasks import ArchivedStudy

PASSWORD = "correct-horse-battery"
LYNX = "prefect_optuna.flows.examples.lynx_hare:problem"
POOL = "deploy-tests"

SCRIPT = """
def parabola(trial):
    return (trial.suggest_float("x", -5, 5) - 2) ** 2
"""


@pytest.fixture(scope="module", autouse=True)
def pool(prefect_server: object) -> str:
    make_process_pool(POOL)
    return POOL


@pytest.fixture(scope="module")
def lab(prefect_server: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with studies, archives and the saved blocks that lead there."""
    folder = tmp_path_factory.mktemp("lab")
    JournalStudyStorage(path=folder / "studies.journal").save("deploy-lab", overwrite=True)
    ArtifactFileSystem(url=str(folder / "artifacts")).save("deploy-lab", overwrite=True)
    return folder


STORAGE = "journal-study-storage/deploy-lab"
ARTIFACTS = "artifact-file-system/deploy-lab"


def stored(deployment_id: UUID) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_deployment(deployment_id)


def everything_on_the_server() -> str:
    """All deployments, flow runs and their states, as the server hands them out."""
    with get_client(sync_client=True) as client:
        return json.dumps(
            [
                client.request("POST", "/deployments/filter", json={}).json(),
                client.request("POST", "/flow_runs/filter", json={}).json(),
                client.request("POST", "/logs/filter", json={}).json(),
            ]
        )


def test_a_deployment_names_module_blocks_schedule_tags_limit_and_version(lab: Path) -> None:
    deployed = deploy_reevaluation(
        "lynx-hare",
        best=5,
        cron="0 3 * * *",
        timezone="Europe/Berlin",
        storage=JournalStudyStorage.load("deploy-lab"),
        artifacts=ARTIFACTS,
        pool=POOL,
        tags=["nightly"],
        concurrency_limit=2,
        version="7",
        options={"rtol": 1e-6, "environment_variables": ["LAB_DATA"]},
    )
    there = stored(deployed.id)
    assert deployed.name == "reevaluate/lynx-hare"
    assert there.entrypoint == "prefect_optuna.flows.reevaluate_flow.reevaluate"
    assert there.parameters == {
        "study_name": "lynx-hare",
        "trials": "best:5",
        "storage": STORAGE,
        "artifacts": ARTIFACTS,
        "trusted": False,
        "rtol": 1e-6,
        "environment_variables": ["LAB_DATA"],
    }
    [schedule] = there.schedules
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 3 * * *", "Europe/Berlin")
    assert there.tags == ["nightly", "prefect-optuna"]
    assert there.global_concurrency_limit.limit == 2
    assert there.version == "7"
    assert there.work_pool_name == POOL
    assert not there.pull_steps
    assert "path" not in str(there.job_variables)


@pytest.mark.slow
def test_the_same_call_twice_is_once_and_a_changed_one_changes(lab: Path) -> None:
    def deploy(cron: str | None) -> Deployed:
        return deploy_report("twice", cron=cron, storage=STORAGE, artifacts=ARTIFACTS, pool=POOL)

    first = deploy("0 3 * * *")
    before = stored(first.id)
    assert deploy("0 3 * * *").id == first.id
    after = stored(first.id)
    assert after.parameters == before.parameters
    assert [s.schedule.cron for s in after.schedules] == ["0 3 * * *"]
    deploy("0 4 * * *")
    assert [s.schedule.cron for s in stored(first.id).schedules] == ["0 4 * * *"]
    deploy(None)
    assert stored(first.id).schedules == []


URL = f"postgresql://lab:{PASSWORD}@db.example.org/studies"


@pytest.mark.parametrize(
    "options",
    [
        {"callbacks": [URL]},
        {"sampler": {"name": "tpe", "storage": URL}},
        {"scope": {"db": [f"https://example.org/x?private_token={PASSWORD}"]}},
        {"scope": {"header": f"Bearer {PASSWORD}"}},
        {"scope": {"login": SecretStr(PASSWORD)}},
    ],
)
def test_a_secret_in_options_or_in_the_parameters_of_a_run_reaches_no_server(
    lab: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("DEPLOY_TEST_TOKEN", PASSWORD)
    deployed = deploy_report("options", storage=STORAGE, artifacts=ARTIFACTS, pool=POOL)
    calls = [
        lambda: deploy_optimization(LYNX, study_name="options", pool=POOL, options=options),
        lambda: deploy_reevaluation(
            "options", storage=STORAGE, artifacts=ARTIFACTS, pool=POOL, options=options
        ),
        lambda: deployed.run(**options),
        lambda: run_on("study.completed", deployed.name, parameters=options),
    ]
    for call in calls:
        with pytest.raises(InvalidSettingError, match="Save a block") as refused:
            call()
        assert PASSWORD not in str(refused.value)
    assert PASSWORD not in everything_on_the_server()


def test_the_places_of_a_run_are_given_as_those_of_a_deployment(lab: Path) -> None:
    deployed = deploy_report("places", storage=STORAGE, artifacts=ARTIFACTS, pool=POOL)
    block = SQLStudyStorage(url=SecretStr(URL))
    for storage in (URL, block):
        with pytest.raises(InvalidSettingError, match="sql-study-storage/lab") as refused:
            deployed.run(storage=storage)
        assert PASSWORD not in str(refused.value)
        with pytest.raises(InvalidSettingError, match="sql-study-storage/lab"):
            run_on("study.completed", deployed.name, parameters={"storage": storage})
    block.save("deploy-places", overwrite=True)
    run = deployed.run(storage=block)
    with get_client(sync_client=True) as client:
        given = client.read_flow_run(run).parameters
    assert given["storage"] == "sql-study-storage/deploy-places"
    assert PASSWORD not in everything_on_the_server()


def test_no_secret_is_stored_for_a_storage_with_a_password(lab: Path) -> None:
    url = f"postgresql://lab:{PASSWORD}@db.example.org/studies"
    block = SQLStudyStorage(url=SecretStr(url))
    for storage in (url, block):
        with pytest.raises(InvalidSettingError, match=r"\.save\(\"lab\"\)") as refused:
            deploy_report("secret", storage=storage, artifacts=ARTIFACTS, pool=POOL)
        assert PASSWORD not in str(refused.value)
        assert '"sql-study-storage/lab"' in str(refused.value)
    block.save("deploy-secret", overwrite=True)
    files = ArtifactFileSystem(
        url="s3://lab/studies",
        options=SecretDict({"secret": PASSWORD}),
    )
    with pytest.raises(InvalidSettingError, match="artifact-file-system/lab"):
        deploy_report("secret", storage=block, artifacts=files, pool=POOL)
    files.save("deploy-secret", overwrite=True)
    deployed = deploy_report("secret", storage=block, artifacts=files, pool=POOL)
    assert deployed.parameters["storage"] == "sql-study-storage/deploy-secret"
    assert deployed.parameters["artifacts"] == "artifact-file-system/deploy-secret"
    assert str(deployed.run()) in everything_on_the_server()
    assert PASSWORD not in everything_on_the_server()


def test_files_are_named_by_their_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = deploy_gc(
        storage=["sqlite:///study.db", "journal:///studies.journal"],
        artifacts="files",
        pool=POOL,
        name="relative",
    )
    assert relative.parameters == {
        "storage": [
            f"sqlite:///{tmp_path}/study.db",
            f"journal:///{tmp_path}/studies.journal",
        ],
        "artifacts": str(tmp_path / "files"),
        "delete": False,
    }


def test_several_workers_are_a_distributed_study_and_the_pool_s_worker(lab: Path) -> None:
    deployed = deploy_optimization(
        LYNX, study_name="wide", workers=3, storage=STORAGE, artifacts=ARTIFACTS, pool=POOL
    )
    assert deployed.name == "distribute/wide"
    there = stored(deployed.id)
    assert there.entrypoint == "prefect_optuna.flows.distribute_flow.distribute"
    # A run whose machine has died would keep the next one from beginning for five minutes.
    assert there.global_concurrency_limit is None
    assert deployed.parameters["workers"] == 3
    assert deployed.parameters["deployment"] == f"work/{POOL}"
    with get_client(sync_client=True) as client:
        worker = client.read_deployment_by_name(f"work/{POOL}")
    assert worker.entrypoint == "prefect_optuna.flows.work.work"
    assert worker.work_pool_name == POOL


def test_a_limit_that_is_no_longer_given_is_none(lab: Path) -> None:
    given = {"study_name": "limited", "storage": STORAGE, "artifacts": ARTIFACTS, "pool": POOL}
    deployed = deploy_optimization(LYNX, concurrency_limit=1, **given)
    assert stored(deployed.id).global_concurrency_limit.limit == 1
    assert deploy_optimization(LYNX, **given).id == deployed.id
    assert stored(deployed.id).global_concurrency_limit is None


@pytest.mark.slow
def test_resources_are_asked_of_the_pool_and_counted_by_the_run(lab: Path) -> None:
    make_pool("deploy-docker", "docker")
    given = {"storage": STORAGE, "artifacts": ARTIFACTS, "pool": "deploy-docker"}
    options = {"n_jobs": 2}
    one = deploy_optimization(
        LYNX, study_name="sized", resources="cpus=1,memory=2GiB", options=options, **given
    )
    assert one.parameters["resources"] == {"cpus": 1.0, "memory": "2GiB"}
    assert stored(one.id).job_variables == {
        "mem_limit": f"{4 << 30}b",
        "container_create_kwargs": {"nano_cpus": 2_000_000_000},
    }
    several = deploy_optimization(
        LYNX, study_name="sized-too", workers=2, resources={"cpus": 1}, **given
    )
    assert stored(several.id).job_variables == {}  # its parent has none of the trials
    counted = deploy_optimization(
        LYNX, study_name="counted", resources="cpus=1", **{**given, "pool": POOL}
    )
    assert stored(counted.id).job_variables == {}
    assert stored(counted.id).parameters["resources"] == {"cpus": 1.0}


@pytest.mark.slow
def test_a_pool_that_no_worker_works_for_is_refused_with_the_types_that_there_are(
    lab: Path,
) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="deploy-odd", type="slurm-of-mine"))
        client.create_work_pool(WorkPoolCreate(name="deploy-ecs", type="ecs"))
    given: dict[str, Any] = {"study_name": "odd", "storage": STORAGE, "artifacts": ARTIFACTS}
    with pytest.raises(InvalidSettingError, match="of which Prefect has no worker") as caught:
        deploy_optimization(LYNX, pool="deploy-odd", **given)
    assert "docker" in str(caught.value)
    assert "process" in str(caught.value)
    with pytest.raises(InvalidSettingError, match="Known are process, docker, kubernetes"):
        deploy_optimization(LYNX, pool="deploy-ecs", resources="cpus=1", **given)
    assert deploy_optimization(LYNX, pool="deploy-ecs", **given).pool == "deploy-ecs"
    with pytest.raises(InvalidSettingError, match=r"no kind of pool.*process, docker"):
        make_pool("deploy-slurm", "slurm")


def test_two_studies_do_not_share_a_deployment(lab: Path) -> None:
    arguments: dict[str, Any] = {"storage": STORAGE, "artifacts": ARTIFACTS, "pool": POOL}
    deploy_report("one", name="shared", **arguments)
    with pytest.raises(AlreadyExistsError, match=r"study_name 'one', and 'two' was asked for"):
        deploy_report("two", name="shared", **arguments)
    with pytest.raises(AlreadyExistsError, match="prefect deployment delete report/shared"):
        deploy_report("one", name="shared", **{**arguments, "storage": "sqlite:////other.db"})


BAD = [
    ({"cron": "3 o'clock"}, InvalidSettingError, "five fields"),
    ({"cron": "0 3 * * *", "timezone": "Mars"}, InvalidSettingError, "'Mars' is no time zone"),
    ({"storage": "memory://"}, InvalidSettingError, "one process only"),
    ({"artifacts": "memory://x"}, InvalidSettingError, "one process only"),
    ({"storage": "sql-study-storage/nobody"}, StorageUnavailableError, "prefect block ls"),
    ({"artifacts": "artifact-file-system/nobody"}, StorageUnavailableError, "prefect block ls"),
    ({"pool": "nowhere"}, UnknownNameError, "prefect-optuna make-pool nowhere"),
    ({"best": 0}, InvalidSettingError, "1 or more"),
    ({"options": {"rtoll": 1}}, InvalidSettingError, "rtol, .*found 'rtoll'"),
    ({"options": {"storage": "x"}}, InvalidSettingError, "found 'storage'"),
    ({"options": {"environment_variables": ["A=hunter2"]}}, InvalidSettingError, "without their"),
    ({"options": {"repeats": "often"}}, InvalidSettingError, "does not take 'reevaluate/bad'"),
]


@pytest.mark.parametrize(("argument", "error", "words"), BAD, ids=[str(bad[0]) for bad in BAD])
def test_bad_input_is_said_before_anything_is_stored(
    argument: dict[str, Any], error: type[PrefectOptunaError], words: str, lab: Path
) -> None:
    arguments = {"storage": STORAGE, "artifacts": ARTIFACTS, "pool": POOL, **argument}
    with pytest.raises(error, match=words):
        deploy_reevaluation("bad", **arguments)
    with get_client(sync_client=True) as client:
        assert "bad" not in {deployment.name for deployment in client.read_deployments()}


def test_a_problem_that_cannot_be_imported_is_said_here() -> None:
    with pytest.raises(InvalidProblemError, match="Cannot import 'nothing_here'"):
        deploy_optimization("nothing_here:problem", study_name="bad", pool=POOL)


def test_without_a_server_it_says_how_to_come_to_one() -> None:
    with (
        temporary_settings({"api.url": None}),
        pytest.raises(ServerUnavailableError, match="prefect-optuna serve"),
    ):
        make_process_pool("x")
    with (
        temporary_settings({"api.url": f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(ServerUnavailableError, match=r"No Prefect server answers at http://127"),
    ):
        make_process_pool("x")


def test_a_server_of_another_version_is_said_in_one_sentence() -> None:
    class Old(BaseHTTPRequestHandler):
        """Answers as Prefect 2 does, which cannot be installed beside this one."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'"2.20.1"')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with (
                temporary_settings({"api.url": f"http://127.0.0.1:{server.server_port}/api"}),
                pytest.raises(ServerUnavailableError, match=r"server: 2\.20\.1"),
            ):
                make_process_pool("x")
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def worker(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalWorker]:
    log_file = tmp_path_factory.mktemp("worker") / "worker.log"
    with LocalWorker(pool, log_file, query=0.5) as worker:
        yield worker


def ended(flow_run_id: UUID) -> Any:
    """The flow run, once it has ended."""

    def has_ended() -> bool:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run_id).state
        return state is not None and state.is_final()

    wait_until(has_ended, what=f"flow run {flow_run_id} ends", every=0.2)
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id)


@pytest.mark.slow
def test_a_worker_optimizes_and_another_run_reevaluates_without_the_script(
    lab: Path, worker: LocalWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worked_parabola.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    study: dict[str, Any] = {"storage": STORAGE, "artifacts": ARTIFACTS, "pool": POOL}
    optimization = deploy_optimization(
        "worked_parabola:parabola", study_name="worked", n_trials=5, options={"seed": 1}, **study
    )
    run = ended(optimization.run())
    assert run.state.is_completed(), run.state
    archived = ArchivedStudy.load("worked", storage=STORAGE, artifacts=ARTIFACTS)
    assert len(archived.study.trials) == 5

    (tmp_path / "worked_parabola.py").unlink()
    again = ended(deploy_reevaluation("worked", best=2, trusted=True, **study).run())
    assert again.state.is_completed(), again.state
    [reevaluation] = archived.reevaluations()
    assert reevaluation.headline == "2 of 2 reproduced"
