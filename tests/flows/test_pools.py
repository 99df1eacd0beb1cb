"""One meaning of resources on every pool: what a run asks of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import WorkPool

import prefect_optuna.deployments
from prefect_optuna.blocks import InvalidSettingError
from prefect_optuna.flows._worker_runs import CLAIMS, job_variables
from prefect_optuna.tasks.machine import Resources

NEEDS = Resources(cpus=2, memory="4 GiB", gpus=1)
KUBERNETES = Path(prefect_optuna.deployments.__file__).parent / "kubernetes" / "work-pool.json"


def pool(kind: str, **defaults: Any) -> WorkPool:
    properties = {name: {"default": value} for name, value in defaults.items()}
    made = WorkPool(name="lab", type=kind, default_queue_id=uuid4())
    made.base_job_template = {"variables": {"properties": properties}}
    return made


def test_a_process_counts_what_its_machine_has() -> None:
    assert job_variables(pool("process"), NEEDS) == {}


def test_a_container_gets_them_times_the_trials_at_once_and_keeps_what_the_pool_has() -> None:
    found = job_variables(
        pool(
            "docker",
            volumes=["data:/data"],
            env={"A": "1"},
            container_create_kwargs={"shm_size": "1g"},
        ),
        NEEDS,
    )
    assert found == {
        "mem_limit": f"{4 << 30}b",
        "volumes": ["data:/data", f"prefect-optuna-claims:{CLAIMS}"],
        "env": {"A": "1", "PREFECT_INTEGRATIONS_OPTUNA_CLAIMS": CLAIMS},
        "container_create_kwargs": {
            "shm_size": "1g",
            "nano_cpus": 2_000_000_000,
            "device_requests": [{"count": -1, "capabilities": [["gpu"]]}],
        },
    }
    assert job_variables(pool("docker"), Resources(cpus=0.5), 3) == {
        "container_create_kwargs": {"nano_cpus": 1_500_000_000}
    }


def test_a_kubernetes_job_gets_them_through_the_template_of_this_package() -> None:
    template = json.loads(KUBERNETES.read_text(encoding="utf-8"))
    lab = pool("kubernetes")
    lab.base_job_template = template
    assert job_variables(lab, NEEDS, 2) == {"cpu": "4", "memory": "8192Mi", "gpus": "2"}
    assert job_variables(lab, Resources(cpus=0.5)) == {"cpu": "0.5"}
    with pytest.raises(InvalidSettingError, match="Kubernetes gives whole GPUs"):
        job_variables(lab, Resources(gpus=0.5))
    with pytest.raises(InvalidSettingError, match="has no variable cpu and no gpus and no memory"):
        job_variables(pool("kubernetes", image="x"), NEEDS)


def test_a_pool_of_another_type_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidSettingError, match="Known are process, docker, kubernetes"):
        job_variables(pool("ecs"), NEEDS)
