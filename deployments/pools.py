"""Work pools: the types that run studies, and the server that deployments go to.

`pools/` and `kubernetes/` have them as files, which `prefect work-pool create --base-job-template`
takes as well.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for
from prefect.workers.base import BaseWorker

from prefect_optuna.blocks._secrets import has_secret_urls, without_secrets
from prefect_optuna.blocks.texts import command
from prefect_optuna.errors import (
    InvalidSettingError,
    ServerUnavailableError,
    UnknownNameError,
)
from prefect_optuna.flows._worker_runs import POOL_TYPES
from prefect_optuna.flows.temporary_server import prefect_command

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool

# The server that deployments go to, and the work pool whose workers run them.


STUDIES_QUEUE = "studies"
"""The queue of a work pool for flow runs that distribute a study, and wait for its workers.

All other runs are in Prefect's queue `default`. A worker without `--work-queue` takes from both.
"""


@contextmanager
def prefect_server() -> Generator[SyncPrefectClient]:
    """A client of the Prefect server, which has to be a lasting one.

    Example:
        >>> from prefect_optuna.deployments.pools import prefect_server
        >>> with prefect_server() as client:
        ...     client.hello().json()
        '👋'
    """
    url = without_secrets(get_current_settings().api.url or "")
    if not url:
        raise ServerUnavailableError(
            "This needs a Prefect server that stays, and none is configured. On this machine: "
            "prefect-optuna up, or with a worker prefect-optuna serve. For a server that you have: "
            "prefect config set PREFECT_API_URL=http://HOST:4200/api"
        )
    try:
        with get_client(sync_client=True) as client:
            _refuse_another_version(client, url)
            client.hello()
            yield client
    except httpx.TransportError as error:
        raise ServerUnavailableError(
            f"No Prefect server answers at {url} ({type(error).__name__}). Start it (prefect "
            "server start, or prefect-optuna serve), or correct PREFECT_API_URL."
        ) from error


def _refuse_another_version(client: SyncPrefectClient, url: str) -> None:
    try:
        client.raise_for_api_version_mismatch_once()
    except RuntimeError as error:
        if isinstance(error.__cause__, httpx.TransportError):
            raise error.__cause__ from None
        if error.__cause__ is not None:  # it says something else than its version
            return
        raise ServerUnavailableError(
            f"The Prefect server at {url} is of another version than the "
            f"Prefect here: {error} Install the server's Prefect here, or correct PREFECT_API_URL."
        ) from None


def page_of(kind: str, its_id: UUID) -> str | None:
    """The page of something in Prefect's UI; the URL of the server may have a login in it.

    Example:
        >>> from uuid import UUID
        >>> from prefect_optuna.deployments.pools import page_of
        >>> page_of("flow-run", UUID(int=7))
        'http://.../flow-run/00000000-0000-0000-0000-000000000007'
    """
    url = url_for(kind, its_id)
    return without_secrets(url) if url else None


def find_work_pool(client: SyncPrefectClient, name: str | None = None) -> WorkPool:
    """The work pool of that name.

    Example:
        >>> from prefect_optuna.deployments.pools import find_work_pool, prefect_server
        >>> with prefect_server() as client:
        ...     find_work_pool(client, "none-of-this-name")
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.UnknownNameError: There is no work pool ...
    """
    name = name or get_current_settings().deployments.default_work_pool_name
    if name:
        try:
            return _of_known_type(client, client.read_work_pool(name))
        except ObjectNotFound:
            pass
    pools = [pool for pool in client.read_work_pools() if pool.type != "prefect-agent"]
    if name is None and len(pools) == 1:
        return _of_known_type(client, pools[0])
    names = ", ".join(repr(pool.name) for pool in pools)
    create = command("prefect-optuna", "make-pool", name or "lab", "--type", "process")
    if name:
        missing = f"There is no work pool {name!r} on the server"
        start = prefect_command("worker", "start", "--pool", name)
        raise UnknownNameError(
            f"{missing}; it has {names or 'none'}. Make it with: {create}{os.linesep}"
            f"and start a worker for it with: {start}"
        )
    raise UnknownNameError(
        f"Which work pool is meant? The server has {names}. Name one of them."
        if pools
        else f"The server has no work pool. Make one with: {create}"
    )


def _of_known_type(client: SyncPrefectClient, pool: WorkPool) -> WorkPool:
    """Refuse a pool for which nobody can start a worker: its runs would wait for ever."""
    if pool.type in POOL_TYPES or pool.type in BaseWorker.get_all_available_worker_types():
        return pool
    known = {kind for kinds in client.read_worker_metadata().values() for kind in kinds}
    if pool.type in known:
        return pool
    raise InvalidSettingError(
        f"The work pool {pool.name!r} is of type {pool.type!r}, of which Prefect has no worker. It "
        f"has: {', '.join(sorted(known | {*POOL_TYPES}))}. "
        f"Make one that runs: {command('prefect-optuna', 'make-pool', 'lab', '--type', 'process')}"
    )


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
        InvalidSettingError: the address holds a password.
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
            raise InvalidSettingError(
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
