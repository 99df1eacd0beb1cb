"""The templates of work pools: taken by a server, and filled by the workers of their types."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import kubernetes_validate
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.workers.process import ProcessJobConfiguration

from prefect_optuna.blocks import InvalidSettingError
from prefect_optuna.deployments import make_pool
from prefect_optuna.deployments.cli import main
from prefect_optuna.deployments.pools import PoolKind, template_of
from prefect_optuna.flows._worker_runs import CLAIMS, job_variables
from prefect_optuna.tasks.machine import Resources

pytestmark = [pytest.mark.usefixtures("prefect_server")]

NEEDS = Resources(cpus=2, memory="4 GiB", gpus=1)
FLOW_RUN = FlowRun(id=uuid4(), name="some-run", flow_id=uuid4())


def pool(kind: str, type_: str) -> WorkPool:
    made = WorkPool(name="lab", type=type_, default_queue_id=uuid4())
    made.base_job_template = template_of(kind)
    return made


def filled(configuration: Any, kind: str, asked: dict[str, Any]) -> Any:
    """What a worker makes of a template, and of what a run asks for."""
    made = asyncio.run(
        configuration.from_template_and_values(copy.deepcopy(template_of(kind)), asked)
    )
    made.prepare_for_flow_run(FLOW_RUN)
    return made


def test_each_kind_is_made_and_renewed_and_another_type_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for kind in get_args(PoolKind):
        assert make_pool(f"pools-{kind}", kind)
        assert not make_pool(f"pools-{kind}", kind)
    assert main(["make-pool", "pools-ray", "--type", "ray", "--address", "ray://head:10001"]) == 0
    assert "prefect worker start --pool pools-ray" in capsys.readouterr().out
    assert not make_pool("pools-docker", "docker", image="lab:7")
    with get_client(sync_client=True) as client:
        types = {kind: client.read_work_pool(f"pools-{kind}").type for kind in get_args(PoolKind)}
        ray = client.read_work_pool("pools-ray").base_job_template
        docker = client.read_work_pool("pools-docker").base_job_template
    assert types == {
        "process": "process",
        "docker": "docker",
        "kubernetes": "kubernetes",
        "dask": "process",
        "ray": "process",
    }
    assert ray["variables"]["properties"]["env"]["default"] == {
        "PREFECT_INTEGRATIONS_OPTUNA_TASK_RUNNER": "ray",
        "RAY_ADDRESS": "ray://head:10001",
    }
    assert docker["variables"]["properties"]["image"]["default"] == "lab:7"
    with pytest.raises(InvalidSettingError, match="is of type 'docker', not 'process'"):
        make_pool("pools-docker", "process")
    assert main(["make-pool", "pools-x", "--type", "slurm"]) == 1
    assert "process, docker, kubernetes, dask, ray" in capsys.readouterr().err


def test_a_pool_that_is_renewed_keeps_what_somebody_has_set() -> None:
    make_pool("pools-kept", "docker")
    with get_client(sync_client=True) as client:
        template = client.read_work_pool("pools-kept").base_job_template
        properties = template["variables"]["properties"]
        properties["mem_limit"]["default"] = "8g"
        properties["env"]["default"]["LICENSE_SERVER"] = "lab"
        del properties["env"]["default"]["UV_CACHE_DIR"]
        properties["site"] = {"type": "string", "default": "north"}
        template["job_configuration"] |= {"site": "{{ site }}", "image": "broken"}
        client.update_work_pool("pools-kept", WorkPoolUpdate(base_job_template=template))
        assert not make_pool("pools-kept", "docker", image="lab:8")
        template = client.read_work_pool("pools-kept").base_job_template
    properties = template["variables"]["properties"]
    assert properties["mem_limit"]["default"] == "8g"
    assert properties["image"]["default"] == "lab:8"
    assert properties["env"]["default"] == {
        **template_of("docker")["variables"]["properties"]["env"]["default"],
        "LICENSE_SERVER": "lab",
    }
    assert properties["site"]["default"] == "north"
    assert template["job_configuration"]["site"] == "{{ site }}"
    assert template["job_configuration"]["image"] == "{{ image }}"


def test_what_is_not_for_a_kind_and_what_is_a_secret_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="`address` is of a pool for Dask or Ray"):
        make_pool("pools-x", "docker", address="ray://head:10001")
    with pytest.raises(InvalidSettingError, match="`image` is of a pool for Docker"):
        make_pool("pools-x", "process", image="lab")
    with pytest.raises(InvalidSettingError, match="Set RAY_ADDRESS where the worker runs"):
        make_pool("pools-x", "ray", address="ray://lab:hunter2@head:10001")


@pytest.mark.parametrize(("kind", "runner"), [("process", None), ("ray", "ray"), ("dask", "dask")])
def test_a_process_gets_the_task_runner_of_its_pool(kind: str, runner: str | None) -> None:
    made = filled(ProcessJobConfiguration, kind, job_variables(pool(kind, "process"), NEEDS))
    assert made.env.get("PREFECT_INTEGRATIONS_OPTUNA_TASK_RUNNER") == runner
    assert made.command.endswith("-m prefect.engine")


@pytest.mark.heavy
def test_a_container_gets_the_resources_and_what_its_pool_gives_all() -> None:
    from prefect_docker.worker import DockerWorkerJobConfiguration

    asked = job_variables(pool("docker", "docker"), NEEDS)
    made = filled(DockerWorkerJobConfiguration, "docker", asked)
    assert made.image == "prefect-optuna"
    assert made.mem_limit == f"{4 << 30}b"
    assert made.container_create_kwargs["nano_cpus"] == 2_000_000_000
    assert f"prefect-optuna-claims:{CLAIMS}" in made.volumes
    assert any(volume.startswith("prefect-optuna-environments:") for volume in made.volumes)
    assert made.env["PREFECT_INTEGRATIONS_OPTUNA_CLAIMS"] == CLAIMS
    assert "PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS" in made.env
    plain = filled(DockerWorkerJobConfiguration, "docker", {})
    assert plain.mem_limit is None


class _Kubernetes(BaseHTTPRequestHandler):
    """Kubernetes' API as far as making a job goes; what comes is written down."""

    posted: list[tuple[str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.posted.append((self.path, body))
        name = {"name": f"{body['metadata']['generateName']}x7k2p", "namespace": "prefect-optuna"}
        answer = json.dumps({**body, "metadata": {**body["metadata"], **name}}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        """Says nothing."""


@pytest.fixture
def kubernetes_api() -> Generator[tuple[str, list[tuple[str, dict[str, Any]]]]]:
    posted: list[tuple[str, dict[str, Any]]] = []
    handler = type("Handler", (_Kubernetes,), {"posted": posted})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()
        thread.join()


@pytest.mark.heavy
def test_prefect_s_worker_posts_a_valid_kubernetes_job_with_the_resources(
    kubernetes_api: tuple[str, list[tuple[str, dict[str, Any]]]],
) -> None:
    from kubernetes_asyncio.client import ApiClient, Configuration
    from prefect_kubernetes.worker import KubernetesWorker, KubernetesWorkerJobConfiguration

    url, posted = kubernetes_api
    asked = job_variables(pool("kubernetes", "kubernetes"), NEEDS, 2)

    async def post(values: dict[str, Any]) -> None:
        made = await KubernetesWorkerJobConfiguration.from_template_and_values(
            template_of("kubernetes"), values
        )
        made.prepare_for_flow_run(FLOW_RUN)
        worker = KubernetesWorker("pools-kubernetes")
        async with ApiClient(Configuration(host=url)) as client:
            job = await worker._create_job(made, client)  # pyright: ignore[reportPrivateUsage]
            assert job.metadata.name == "prefect-optuna-run-x7k2p"

    make_pool("pools-kubernetes", "kubernetes")
    asyncio.run(post(asked))
    asyncio.run(post({}))
    limits: list[Any] = []
    for path, body in posted:
        assert path == "/apis/batch/v1/namespaces/prefect-optuna/jobs"
        for name in ("parallelism", "completions"):  # Kubernetes ignores them there
            assert body["spec"]["template"]["spec"].pop(name) == 1
        kubernetes_validate.validate(body, kubernetes_validate.latest_version(), strict=True)
        [container] = body["spec"]["template"]["spec"]["containers"]
        assert {one["name"] for one in container["env"]} >= {"PREFECT_API_URL"}
        limits.append(container["resources"])
    assert limits == [
        {
            "requests": {"cpu": "4", "memory": "8192Mi"},
            "limits": {"memory": "8192Mi", "nvidia.com/gpu": "2"},
        },
        {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
    ]


def test_the_files_are_what_prefect_s_own_command_takes() -> None:
    folder = Path(str(template_of.__globals__["__file__"])).parent / "pools"
    assert {file.stem for file in folder.glob("*.json")} == {"process", "docker", "dask", "ray"}
    for kind in get_args(PoolKind):
        assert set(template_of(kind)) == {"variables", "job_configuration"}
