"""Setup of a lab once its servers are there: saved blocks, a work pool, and its deployment.

    python -m prefect_optuna.deployments.lab

`compose.yaml` and `kubernetes/` run it after the servers have started; it may run again at any
time. It reads from the environment:

============================ ====================================================================
LAB_NAME                     of the blocks and the work pool; `lab`
LAB_REDIS_URL                where studies are kept
LAB_REDIS_PASSWORD_FILE      the file with the password for it
LAB_ARTIFACTS_URL            where archives are kept, such as `s3://lab/studies`
LAB_S3_ENDPOINT              the address of the store, where it is not Amazon's
LAB_S3_KEY_FILE              the file with the key for it
LAB_S3_SECRET_FILE           the file with the secret for it
LAB_POOL_TEMPLATE            the JSON file of a work pool for Kubernetes; without it, workers run
                             flows as processes of their own machine
============================ ====================================================================
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists

from prefect_optuna.blocks import ArtifactFileSystem, RedisStudyStorage
from prefect_optuna.deployments.deploy import deploy_worker
from prefect_optuna.deployments.pools import prefect_server
from prefect_optuna.deployments.serve import make_process_pool
from prefect_optuna.errors import InvalidSettingError, PrefectOptunaError


def set_up(environment: Mapping[str, str]) -> str:
    """Save the blocks of a lab, and make its work pool and deployment. Idempotent.

    Example:
        >>> from prefect_optuna.deployments.lab import set_up
        >>> set_up({})
        Traceback (most recent call last):
        ...
        prefect_optuna.errors.InvalidSettingError: LAB_REDIS_URL is not set...
    """
    name = environment.get("LAB_NAME", "lab")
    storage = RedisStudyStorage.model_validate(
        {
            "url": _required(environment, "LAB_REDIS_URL"),
            "password": _secret(environment, "LAB_REDIS_PASSWORD_FILE"),
        }
    )
    options: dict[str, Any] = {
        "key": _secret(environment, "LAB_S3_KEY_FILE"),
        "secret": _secret(environment, "LAB_S3_SECRET_FILE"),
        "endpoint_url": environment.get("LAB_S3_ENDPOINT"),
    }
    options = {key: value for key, value in options.items() if value}
    url = _required(environment, "LAB_ARTIFACTS_URL")
    template = environment.get("LAB_POOL_TEMPLATE")
    # First whatever can fail; a block that is saved works.
    _make_bucket(url, options)
    artifacts = ArtifactFileSystem.model_validate({"url": url, "options": options})
    artifacts.check()
    storage.study_names()
    with prefect_server():
        storage.save(name, overwrite=True)
        artifacts.save(name, overwrite=True)
    if template:
        make_kubernetes_pool(name, json.loads(Path(template).read_text(encoding="utf-8")))
    else:
        make_process_pool(name)
    worker = deploy_worker(name)
    return (
        f"Studies are in redis-study-storage/{name}, archives in artifact-file-system/{name}; "
        f"the work pool {name} runs {worker.name}."
    )


def make_kubernetes_pool(name: str, template: Mapping[str, Any]) -> bool:
    """Make a work pool whose worker starts a Kubernetes job for each flow run, or update it.

    Example:
        >>> from prefect_optuna.deployments.lab import make_kubernetes_pool
        >>> template = {"job_configuration": {"command": "{{ command }}"},
        ...             "variables": {"properties": {"command": {"type": "string"}}}}
        >>> _ = make_kubernetes_pool("docs-k8s", template)
        >>> make_kubernetes_pool("docs-k8s", template)
        False
    """
    with prefect_server() as client:
        try:
            client.create_work_pool(
                WorkPoolCreate(name=name, type="kubernetes", base_job_template=dict(template))
            )
        except ObjectAlreadyExists:
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=dict(template)))
            return False
    return True


def main() -> int:
    """Set up the lab that the environment describes; return 0, or 1 if that fails."""
    try:
        sys.stdout.write(set_up(os.environ) + "\n")
    except PrefectOptunaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _required(environment: Mapping[str, str], name: str) -> str:
    if value := environment.get(name):
        return value
    raise InvalidSettingError(
        f"{name} is not set. `prefect_optuna.deployments.lab` describes what it reads."
    )


def _secret(environment: Mapping[str, str], name: str) -> str | None:
    path = environment.get(name)
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidSettingError(
            f"{name} names the file with a secret; it cannot be read: {error}."
        ) from error


def _make_bucket(url: str, options: Mapping[str, Any]) -> None:
    """Make the bucket of a store of one's own; elsewhere there is one already."""
    protocol, _, path = url.partition("://")
    if protocol != "s3":
        return
    import fsspec

    store = fsspec.filesystem("s3", **options, skip_instance_cache=True)
    bucket = path.partition("/")[0]
    try:
        store.mkdir(bucket)
    except (OSError, ValueError):  # `check` says what is wrong, in words for people
        return


if __name__ == "__main__":
    sys.exit(main())
