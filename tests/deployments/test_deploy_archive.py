"""A script deployed from a machine that reaches Prefect alone, run by workers that have no file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import get_current_settings
from pydantic import SecretStr
from servers import Cable, log_of, redis_server, wait_until

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InvalidSettingError,
    JournalStudyStorage,
    RedisStudyStorage,
    StudyNotFoundError,
)
from prefect_optuna.blocks.locations import DeployedProblem
from prefect_optuna.deployments import LocalWorker, deploy_optimization, make_process_pool
from prefect_optuna.errors import (
    AlreadyExistsError,
    ArchiveSignatureError,
    CaptureError,
    InvalidProblemError,
    UntrustedArchiveError,
)
from prefect_optuna.flows import Problem, optimize, problem_source
from prefect_optuna.flows.problem_source import find_problem
from prefect_optuna.tasks import ArchivedStudy

POOL = "archive-tests"
STORAGE = "redis-study-storage/archive-lab"
ARTIFACTS = "artifact-file-system/archive-lab"
KEY = "0123456789abcdef0123456789abcdef"

SCRIPT = """
from curve import height


def objective(trial):
    return height(trial.suggest_float("x", -5, 5))
"""
CURVE = """
import numpy as np

LIFT = 0.0


def height(x):
    return float(np.square(x - 2)) + LIFT
"""


@pytest.fixture(scope="module", autouse=True)
def pool(prefect_server: object) -> str:
    make_process_pool(POOL)
    return POOL


@pytest.fixture(scope="module")
def cable(tmp_path_factory: pytest.TempPathFactory, pool: str) -> Generator[Cable]:
    """A lab: Redis behind a cable, files, and the saved blocks that lead to both."""
    folder = tmp_path_factory.mktemp("lab")
    with redis_server(folder) as url, Cable(urlsplit(url).port or 0) as cable:
        storage = SecretStr(f"redis://127.0.0.1:{cable.port}/0")
        RedisStudyStorage(url=storage, retry_limit=1).save("archive-lab", overwrite=True)
        ArtifactFileSystem(url=str(folder / "files")).save("archive-lab", overwrite=True)
        yield cable


@pytest.fixture(scope="module")
def worker(pool: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalWorker]:
    """A worker in an empty folder."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("nothing"))
    try:
        log = tmp_path_factory.mktemp("worker") / "worker.log"
        with LocalWorker(pool, log, query=0.5) as worker:
            yield worker
    finally:
        os.chdir(before)


def deploy(folder: Path, *options: str) -> Any:
    """Deploy the script in a folder as somebody does who has a terminal there."""
    command = [sys.executable, "-m", "prefect_optuna.deployments.cli"]
    deployed = subprocess.run(
        [*command, "deploy", "fit.py:objective", "--pool", POOL, "--storage", STORAGE,
         "--artifacts", ARTIFACTS, "--seed", "1", "--json",
         *(() if "--study" in options else ("--study", "fit")), *options],
        cwd=folder,
        env={
            **os.environ,
            **get_current_settings().to_environment_variables(exclude_unset=True),
        },
        capture_output=True,
        text=True,
        timeout=100,
    )  # fmt: skip
    assert deployed.returncode == 0, deployed.stderr
    return json.loads(deployed.stdout)


@contextmanager
def script(folder: Path, curve: str = CURVE) -> Generator[Path]:
    """A script that is gone at the end of the block."""
    folder.mkdir()
    (folder / "fit.py").write_text(SCRIPT)
    (folder / "curve.py").write_text(curve)
    yield folder
    shutil.rmtree(folder)


def ended(flow_run_id: str | UUID) -> Any:
    """The flow run, once it has ended."""

    def has_ended() -> bool:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(UUID(str(flow_run_id))).state
        return state is not None and state.is_final()

    wait_until(has_ended, what=f"flow run {flow_run_id} ends", every=0.2)
    with get_client(sync_client=True) as client:
        return client.read_flow_run(UUID(str(flow_run_id)))


def everything_on_the_server() -> str:
    """All deployments and flow runs, as the server hands them out."""
    with get_client(sync_client=True) as client:
        return json.dumps(
            [client.request("POST", f"/{kind}/filter", json={}).json()
             for kind in ("deployments", "flow_runs", "block_documents")]
        )  # fmt: skip


@pytest.mark.slow
def test_a_script_runs_where_neither_it_nor_its_folder_is_and_changed_code_is_a_version(
    cable: Cable, worker: LocalWorker, tmp_path: Path
) -> None:
    with script(tmp_path / "first") as folder, cable.out():
        deployed = deploy(folder, "--trials", "5")
        assert str(tmp_path) not in everything_on_the_server()
    assert deployed["parameters"]["problem"] == "archive"
    assert deployed["parameters"]["trusted"] is True
    with get_client(sync_client=True) as client:
        there = client.read_deployment(UUID(deployed["id"]))
        run = client.create_flow_run_from_deployment(there.id)
    assert (there.job_variables, there.path, there.pull_steps) == ({}, None, [])
    run = ended(run.id)
    assert run.state.is_completed(), run.state
    code = deployed["parameters"]["version"]
    assert f"version 0, code {code[:12]}, brought by the deployment" in log_of(str(run.id))

    lifted = CURVE.replace("LIFT = 0.0", "LIFT = 100.0")
    with script(tmp_path / "second", lifted) as folder:
        changed = deploy(folder, "--trials", "9", "--run")
    run = ended(changed["flow_run_id"])
    assert run.state.is_completed(), run.state
    assert f"version 1, code {changed['parameters']['version'][:12]}" in log_of(str(run.id))

    archived = ArchivedStudy.load("fit", storage=STORAGE, artifacts=ARTIFACTS)
    versions = [version.code_version for version in archived.versions]
    assert versions == [code, changed["parameters"]["version"]]
    assert versions[0] != versions[1]
    values = [trial.value for trial in archived.study.trials]
    assert [value >= 100 for value in values] == [False] * 5 + [True] * 4
    assert [archived.version_of(number) for number in (4, 5)] == [0, 1]
    with get_client(sync_client=True) as client:
        reports = client.request("POST", "/artifacts/latest/filter", json={}).json()
    [report] = [one["data"] for one in reports if one["key"] == "study-fit"]
    assert f"version `1, code {versions[1][:12]}`" in report


@pytest.mark.slow
@pytest.mark.timeout(400)  # a parent and two workers
def test_parent_and_workers_take_a_script_from_its_deployment(
    cable: Cable, worker: LocalWorker, tmp_path: Path
) -> None:
    with script(tmp_path / "spread") as folder, cable.out():
        deployed = deploy(folder, "--study", "spread-out", "--trials", "8", "--workers", "2")
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(UUID(deployed["id"]))
    run = ended(run.id)
    assert run.state.is_completed(), run.state
    archived = ArchivedStudy.load("spread-out", storage=STORAGE, artifacts=ARTIFACTS)
    assert len(archived.study.trials) == 8
    assert [version.code_version for version in archived.versions] == [
        deployed["parameters"]["version"]
    ]


@pytest.mark.slow
def test_a_worker_that_lacks_a_package_says_so_before_a_trial_is_begun(
    cable: Cable, worker: LocalWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    metadata = site / "fancy_fits-1.5.2.dist-info"
    metadata.mkdir(parents=True)
    (site / "fancy_fits.py").write_text("def fit(x): return x\n")
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fancy-fits\nVersion: 1.5.2\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    curve = "import fancy_fits\n\n\ndef height(x):\n    return fancy_fits.fit(x)\n"
    with script(tmp_path / "lacking", curve) as folder:
        deployed = deploy(folder, "--study", "lacking", "--run")
    run = ended(deployed["flow_run_id"])
    assert run.state.is_failed()
    lacks = "This worker lacks fancy-fits 1.5.2, which curve.py imports. No trial was begun."
    assert lacks in run.state.message
    assert "pip install fancy-fits==1.5.2" in run.state.message
    assert lacks in log_of(deployed["flow_run_id"])
    with pytest.raises(StudyNotFoundError):
        ArchivedStudy.load("lacking", storage=STORAGE, artifacts=ARTIFACTS)


def objective(trial: Any) -> float:
    return trial.suggest_float("x", 0, 1)


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Any]:
    return {
        "storage": f"journal:///{tmp_path}/studies.journal",
        "artifacts": str(tmp_path / "files"),
    }


def found(places: dict[str, Any], **options: Any) -> Problem:
    arguments: dict[str, Any] = {
        "directions": None,
        "study_name": "brought",
        "version": None,
        "trusted": False,
        **places,
        **options,
    }
    return find_problem("archive", **arguments).problem


def deployed_code(places: dict[str, Any]) -> str:
    name = Path(places["artifacts"]).parent.name  # each test has studies of its own
    deployed = deploy_optimization(objective, study_name="brought", name=name, pool=POOL, **places)
    return deployed.parameters["version"]


def test_what_came_with_a_deployment_runs_only_if_somebody_says_so(
    places: dict[str, Any],
) -> None:
    code = deployed_code(places)
    assert not Path(places["artifacts"]).exists()
    assert found(places, version=code, trusted=True).name == "objective"
    with pytest.raises(UntrustedArchiveError, match="trusted: true"):
        found(places, version=code)
    # And nothing is built for it, which runs code of those who wrote its packages.
    parameters = {**places, "problem": "archive", "study_name": "brought", "version": code}
    with pytest.raises(UntrustedArchiveError, match="trusted: true"):
        problem_source.deployed_code({**parameters, "trusted": False})
    told = problem_source.deployed_code({**parameters, "trusted": True})
    assert told is not None
    assert told[0].code_version == code


def test_what_somebody_changed_on_the_server_does_not_run(places: dict[str, Any]) -> None:
    code = deployed_code(places)
    block: Any = DeployedProblem.load(code)
    other = deploy_optimization(
        lambda trial: trial.suggest_float("y", 0, 1), study_name="other", pool=POOL, **places
    )
    stranger: Any = DeployedProblem.load(other.parameters["version"])
    for content in (stranger.content, SecretStr(block.content.get_secret_value()[:-8])):
        DeployedProblem(content=content).save(code, overwrite=True)
        with pytest.raises(ArchiveError, match=r"somebody has changed it.*Nothing of it has run"):
            found(places, version=code, trusted=True)


def test_with_a_key_what_is_signed_runs_and_nothing_else_does(
    places: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unsigned = deployed_code(places)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", KEY)
    with pytest.raises(ArchiveSignatureError, match=r"is not signed. Deploy it again"):
        found(places, version=unsigned, trusted=True)
    assert deployed_code(places) == unsigned
    assert found(places, version=unsigned).name == "objective"
    assert KEY not in everything_on_the_server()
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", KEY[::-1])
    with pytest.raises(ArchiveSignatureError, match="is signed with the key"):
        found(places, version=unsigned, trusted=True)


def test_a_version_that_is_nowhere_says_what_to_do(places: dict[str, Any]) -> None:
    with pytest.raises(ArchiveError, match=r"no version 'abcdef0123456789'.*Deploy the problem"):
        found(places, version="abcdef0123456789", trusted=True)
    with pytest.raises(InvalidSettingError, match="8 digits or more"):
        found(places, version="abc", trusted=True)
    with pytest.raises(InvalidSettingError, match="its `study_name`"):
        found(places, study_name=None)
    with pytest.raises(InvalidSettingError, match="problem='archive'"):
        find_problem(objective, directions=None, study_name="x", version="1", trusted=True,
                     storage=None, artifacts=None)  # fmt: skip


def test_a_secret_of_the_environment_and_one_in_a_url_do_not_travel(
    places: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIT_TEST_TOKEN", "correct-horse-battery")
    for secret in ("correct-horse-battery", "postgresql://me:hunter2@db/x"):
        problem = Problem(
            suggest=lambda trial: {}, run=lambda params: 0.0, context={"place": secret}
        )
        with pytest.raises(CaptureError) as refused:
            deploy_optimization(problem, study_name="secret", pool=POOL, **places)
        assert secret not in str(refused.value)
        assert secret not in everything_on_the_server()


def test_what_is_too_large_to_travel_is_put_into_the_archive_or_refused(
    places: dict[str, Any],
) -> None:
    import numpy as np

    noise = np.random.default_rng(1).bytes(600_000)
    problem = Problem(
        suggest=lambda trial: {"x": trial.suggest_float("x", 0, 1)},
        run=lambda params, context: params["x"] + len(context["noise"]),
        context={"noise": noise},
    )
    deployed = deploy_optimization(problem, study_name="brought", name="large", pool=POOL, **places)
    archived = ArchivedStudy.load("brought", **places)
    assert archived.versions[0].code_version == deployed.parameters["version"]
    assert found(places, version=deployed.parameters["version"], trusted=True).context == {
        "noise": noise
    }
    away: dict[str, Any] = {**places, "storage": "redis://127.0.0.1:1/0"}
    RedisStudyStorage(url=SecretStr("redis://127.0.0.1:1/0"), retry_limit=0).save(
        "archive-away", overwrite=True
    )
    away["storage"] = "redis-study-storage/archive-away"
    with pytest.raises(CaptureError, match=r"and up to 512 kB travel with a deployment"):
        deploy_optimization(problem, study_name="away", pool=POOL, **away)


def test_a_study_goes_on_with_the_problem_of_its_archive(places: dict[str, Any]) -> None:
    def parabola(trial: Any) -> float:
        return trial.suggest_float("x", -5, 5) ** 2

    optimize(parabola, study_name="goes on", n_trials=3, **places)
    with pytest.raises(UntrustedArchiveError, match="trusted=True"):
        optimize("archive", study_name="goes on", n_trials=6, **places)
    result = optimize("archive", study_name="goes on", n_trials=6, trusted=True, **places)
    assert result.n_trials == 6
    archived = ArchivedStudy.load("goes on", **places)
    assert len(archived.versions) == 1
    assert result.version == f"0, code {archived.versions[0].code_version[:12]}"
    assert "goes on" in result.study_name


def test_the_archive_s_problem_is_deployed_only_with_what_it_takes(
    places: dict[str, Any],
) -> None:
    options: dict[str, Any] = {"study_name": "by name", "pool": POOL, **places}
    trusted = deploy_optimization("archive", trusted=True, **options)
    assert trusted.parameters["problem"] == "archive"
    assert "version" not in trusted.parameters
    with pytest.raises(AlreadyExistsError, match="trusted=True"):
        deploy_optimization("archive", **options)


def test_what_workers_have_installed_is_named_where_that_is_said(
    places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lynx = "prefect_optuna.flows.examples.lynx_hare:problem"
    options: dict[str, Any] = {"study_name": "installed", "pool": POOL, **places}
    assert deploy_optimization(lynx, installed=True, **options).parameters["problem"] == lynx
    assert deploy_optimization(lynx, **options).parameters["problem"] == "archive"
    (tmp_path / "only_in_this_folder.py").write_text("def f(trial):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for problem in ("only_in_this_folder:f", "only_in_this_folder.py:f"):
        with pytest.raises(InvalidProblemError, match="Leave out `installed`"):
            deploy_optimization(problem, installed=True, **options)
    with pytest.raises(InvalidProblemError, match=r"package\.module:attribute"):
        deploy_optimization(objective, installed=True, **options)


def test_a_pool_of_any_type_gets_a_file_of_this_folder(places: dict[str, Any]) -> None:
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="archive-docker", type="docker"))
    JournalStudyStorage(path=Path("/data/studies.journal")).save("archive-data", overwrite=True)
    deployed = deploy_optimization(
        objective,
        study_name="any",
        pool="archive-docker",
        storage="journal-study-storage/archive-data",
        artifacts="s3://lab/studies",
    )
    assert deployed.parameters["problem"] == "archive"
