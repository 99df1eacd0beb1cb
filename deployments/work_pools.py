"""The server that deployments go to, and the work pool whose workers run them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for
from prefect.workers.base import BaseWorker

from prefect_optuna.blocks._secrets import without_secrets
from prefect_optuna.blocks.texts import command
from prefect_optuna.errors import (
    InvalidSettingError,
    ServerUnavailableError,
    UnknownNameError,
)
from prefect_optuna.flows.found_server import prefect_command
from prefect_optuna.flows.pools import POOL_TYPES

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool

STUDIES_QUEUE = "studies"
"""The queue of a work pool for flow runs that distribute a study, and wait for its workers.

All other runs are in Prefect's queue `default`. A worker without `--work-queue` takes from both.
"""


@contextmanager
def prefect_server() -> Generator[SyncPrefectClient]:
    """A client of the Prefect server, which has to be a lasting one.

    Example:
        >>> from prefect_optuna.deployments.work_pools import prefect_server
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
        >>> from prefect_optuna.deployments.work_pools import page_of
        >>> page_of("flow-run", UUID(int=7))
        'http://.../flow-run/00000000-0000-0000-0000-000000000007'
    """
    url = url_for(kind, its_id)
    return without_secrets(url) if url else None


def find_work_pool(client: SyncPrefectClient, name: str | None = None) -> WorkPool:
    """The work pool of that name.

    Example:
        >>> from prefect_optuna.deployments.work_pools import find_work_pool, prefect_server
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
