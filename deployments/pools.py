"""Work pools that run studies, each made of a template of this package.

`pools/` and `kubernetes/` have them as files, which `prefect work-pool create --base-job-template`
takes as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists

from prefect_optuna.blocks._secrets import has_secret_urls
from prefect_optuna.deployments.work_pools import prefect_server
from prefect_optuna.errors import InvalidLocationError, InvalidSettingError
from prefect_optuna.flows.found_server import prefect_command

PoolKind = Literal["process", "docker", "kubernetes", "dask", "ray"]

_HERE = Path(__file__).parent
_ADDRESS = {"dask": "DASK_SCHEDULER_ADDRESS", "ray": "RAY_ADDRESS"}
_IMAGES = ("docker", "kubernetes")


def make_pool(
    name: str,
    kind: PoolKind = "process",
    *,
    address: str | None = None,
    image: str | None = None,
) -> bool:
    """Make a work pool of a template of this package, or renew it.

    Of a pool that is there, the defaults that it has and what somebody has added to its template
    stay; the rest is as in today's template.

    Args:
        name: of the pool.
        kind: what runs trials: processes of the worker's machine, a container or a Kubernetes job
            for each flow run, or a Dask or Ray cluster, to which a process on the worker's machine
            sends them.
        address: of the Dask scheduler, `"tcp://head:8786"`, or the Ray cluster,
            `"ray://head:10001"`; by default where `DASK_SCHEDULER_ADDRESS` or `RAY_ADDRESS` of the
            worker says, or else a cluster on its machine for each run.
        image: for containers; by default `prefect-optuna`.

    Returns:
        Whether it is new.

    Raises:
        InvalidSettingError: there is no such kind, an argument is not for it, or a pool of that
            name is of another type.
        InvalidLocationError: the address holds a password.
        ServerUnavailableError: there is no server.

    Example:
        >>> from prefect_optuna.deployments import make_pool
        >>> _ = make_pool("docs-ray", "ray", address="ray://head:10001")
        >>> make_pool("docs-ray", "ray")
        False
    """
    template = template_of(kind)
    if address is not None:
        if kind not in _ADDRESS:
            raise InvalidSettingError(f"`address` is of a pool for Dask or Ray; found {kind!r}.")
        if has_secret_urls(address):
            raise InvalidLocationError(
                "The address of the cluster holds a password, which everybody who may open the "
                f"pool would read. Set {_ADDRESS[kind]} where the worker runs."
            )
    if image is not None and kind not in _IMAGES:
        raise InvalidSettingError(f"`image` is of a pool for Docker or Kubernetes; found {kind!r}.")
    type_ = kind if kind in _IMAGES else "process"

    def chosen(template: dict[str, Any]) -> dict[str, Any]:
        properties = template["variables"]["properties"]
        if address is not None:
            properties["env"]["default"][_ADDRESS[kind]] = address
        if image is not None:
            properties["image"]["default"] = image
        return template

    with prefect_server() as client:
        try:
            client.create_work_pool(
                WorkPoolCreate(name=name, type=type_, base_job_template=chosen(template))
            )
        except ObjectAlreadyExists:
            pool = client.read_work_pool(name)
            if pool.type != type_:
                raise InvalidSettingError(
                    f"The work pool {name!r} exists and is of type {pool.type!r}, not {type_!r}. "
                    "Name another pool."
                ) from None
            renewed = chosen(_renewed(pool.base_job_template, template))
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=renewed))
            return False
    return True


def _renewed(old: dict[str, Any], template: dict[str, Any]) -> dict[str, Any]:
    """Return today's template with the defaults of an older one, and what it has beyond it."""
    properties = template["variables"]["properties"]
    for name, before in old.get("variables", {}).get("properties", {}).items():
        today = properties.setdefault(name, before)
        if isinstance(today.get("default"), dict) and isinstance(before.get("default"), dict):
            today["default"] = {**today["default"], **before["default"]}
        elif "default" in before:
            today["default"] = before["default"]
    for name, before in old.get("job_configuration", {}).items():
        template["job_configuration"].setdefault(name, before)
    return template


def template_of(kind: str) -> dict[str, Any]:
    """The template of a kind of pool, as Prefect takes it.

    Example:
        >>> from prefect_optuna.deployments.pools import template_of
        >>> template_of("docker")["job_configuration"]["image"]
        '{{ image }}'
    """
    if kind not in get_args(PoolKind):
        create = prefect_command("work-pool", "create", "NAME", "--type", "TYPE")
        raise InvalidSettingError(
            f"There is no kind of pool {kind!r}: {', '.join(get_args(PoolKind))}. For another type "
            f"that Prefect knows: {create}"
        )
    in_folder = Path("kubernetes", "work-pool.json")
    file = _HERE / (in_folder if kind == "kubernetes" else Path("pools", f"{kind}.json"))
    return json.loads(file.read_text(encoding="utf-8"))
