"""Types of work pools, and the names that each has for the resources of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import WorkPool

from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.resources import Resources

POOL_TYPES = ("process", "docker", "kubernetes")
"""The types of work pools that are known to give a trial its resources."""

CLAIMS = "/var/lib/prefect-optuna/claims"
"""Where containers of one machine write down which GPUs they have."""

CLAIMS_VOLUME = "prefect-optuna-claims"
"""The volume that they share for it."""


def job_variables_of(
    pool: str, resources: Resources | None, n_jobs: int, client: SyncPrefectClient | None = None
) -> dict[str, Any]:
    """Return the job variables that ask a pool for the resources of so many trials at once.

    Raises:
        InvalidSettingError: pools of this type, or this pool's template, cannot say it.
    """
    if resources is None:
        return {}
    if client is not None:
        return job_variables(client.read_work_pool(pool), resources, n_jobs)
    with get_client(sync_client=True) as opened:
        return job_variables(opened.read_work_pool(pool), resources, n_jobs)


def job_variables(pool: WorkPool, resources: Resources, n_jobs: int = 1) -> dict[str, Any]:
    """The same, for a pool as the server describes it."""
    jobs = max(n_jobs, 1)
    if pool.type == "process":
        return {}  # the run counts what its machine has
    if pool.type == "docker":
        return _docker(pool, resources, jobs)
    if pool.type == "kubernetes":
        return _kubernetes(pool, resources, jobs)
    raise InvalidSettingError(
        f"The work pool {pool.name!r} is of type {pool.type!r}, and how that gives a trial "
        f"{resources} is not known here. Known are {', '.join(POOL_TYPES)}. Leave out `resources`, "
        "and say it in the pool's template."
    )


def _docker(pool: WorkPool, needs: Resources, jobs: int) -> dict[str, Any]:
    defaults = _defaults(pool)
    variables: dict[str, Any] = {}
    more = dict(defaults.get("container_create_kwargs") or {})
    if needs.cpus is not None:
        more["nano_cpus"] = int(needs.cpus * jobs * 1e9)
    if (memory := needs.memory_bytes) is not None:
        variables["mem_limit"] = f"{memory * jobs}b"
    if needs.gpus:
        # Docker would give the same first ones to each container. They see all, and take free ones.
        more["device_requests"] = [{"count": -1, "capabilities": [["gpu"]]}]
        volumes = list(defaults.get("volumes") or [])
        mounted = f"{CLAIMS_VOLUME}:{CLAIMS}"
        variables["volumes"] = [*(volume for volume in volumes if volume != mounted), mounted]
        variables["env"] = {
            **(defaults.get("env") or {}),
            "PREFECT_INTEGRATIONS_OPTUNA_CLAIMS": CLAIMS,
        }
    if more:
        variables["container_create_kwargs"] = more
    return variables


def _kubernetes(pool: WorkPool, needs: Resources, jobs: int) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if needs.cpus is not None:
        asked["cpu"] = f"{needs.cpus * jobs:g}"
    if (memory := needs.memory_bytes) is not None:
        asked["memory"] = f"{-(-memory * jobs // 2**20)}Mi"
    if needs.gpus:
        if needs.gpus * jobs != int(needs.gpus * jobs):
            raise InvalidSettingError(
                f"Kubernetes gives whole GPUs, and a run with {needs.gpus * jobs:g} was asked for: "
                "`gpus` is 1, 2, ... there; or let several trials of a run share one, by `n_jobs`."
            )
        asked["gpus"] = f"{needs.gpus * jobs:g}"
    variables = pool.base_job_template.get("variables", {}).get("properties", {})
    if missing := sorted(asked.keys() - variables.keys()):
        raise InvalidSettingError(
            f"The template of the work pool {pool.name!r} has no variable "
            f"{' and no '.join(missing)}, by which a run would get {needs}. The template of this "
            "package has them: prefect-optuna make-pool NAME --type kubernetes."
        )
    return asked


def _defaults(pool: WorkPool) -> dict[str, Any]:
    properties: Mapping[str, Mapping[str, Any]]
    properties = pool.base_job_template.get("variables", {}).get("properties", {})
    return {name: spec["default"] for name, spec in properties.items() if "default" in spec}
