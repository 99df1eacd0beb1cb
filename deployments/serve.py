"""Everything on this machine, for trying: a Prefect server, a work pool and its worker."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings

from prefect_optuna.deployments.local_server import (
    end_process_tree,
)
from prefect_optuna.deployments.work_pools import prefect_server
from prefect_optuna.errors import InvalidSettingError, WorkerFailedError

if TYPE_CHECKING:
    from typing import Self

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


def usual_port_if_free() -> int | None:
    """4200, where people expect Prefect's UI, unless something listens there.

    Example:
        >>> from prefect_optuna.deployments.serve import usual_port_if_free
        >>> usual_port_if_free() in (4200, None)
        True
    """
    with socket.socket() as probe:
        return None if probe.connect_ex(("127.0.0.1", 4200)) == 0 else 4200


def make_process_pool(name: str) -> bool:
    """Make a work pool whose workers run flows as processes of their own machine.

    Args:
        name: of the pool.

    Returns:
        Whether it is new.

    Raises:
        InvalidSettingError: a pool of that name and of another type exists.
        ServerUnavailableError: there is no server.

    Example:
        >>> from prefect_optuna.deployments.serve import make_process_pool
        >>> _ = make_process_pool("docs-pool")
        >>> make_process_pool("docs-pool")
        False
    """
    from prefect.workers.process import ProcessWorker

    with prefect_server() as client:
        try:
            client.create_work_pool(
                WorkPoolCreate(
                    name=name,
                    type=ProcessWorker.type,
                    base_job_template=ProcessWorker.get_default_base_job_template(),
                )
            )
        except ObjectAlreadyExists:
            pool = client.read_work_pool(name)
            if pool.type != ProcessWorker.type:
                raise InvalidSettingError(
                    f"The work pool {name!r} exists and is of type {pool.type!r}, not "
                    f"{ProcessWorker.type!r}. Name another pool."
                ) from None
            return False
    return True


class LocalWorker:
    """A Prefect worker on this machine for as long as a `with` block lasts.

    It works for a pool of type `process`: each flow run is a process of its own. At the end of the
    block it is asked to stop, and what it runs is stopped with it.

    Args:
        pool: the work pool.
        log_file: where it writes what it says.
        name: of the worker; by default Prefect makes one up.
        query: seconds between two looks at the pool.
        limit: how many flow runs it has at once; the others are left to other workers. By
            default there is no limit.
        queue: the queue of the pool that it takes from; by default all of them.

    Example:
        >>> from prefect_optuna.deployments import LocalWorker
        >>> LocalWorker("lab", "worker.log").pool
        'lab'
    """

    def __init__(
        self,
        pool: str,
        log_file: str | Path,
        *,
        name: str | None = None,
        query: float = 2.0,
        limit: int | None = None,
        queue: str | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise InvalidSettingError(f"A worker's limit is 1 or more; found {limit}.")
        self.pool: str = pool
        self.log_file: Path = Path(log_file).absolute()
        self.name: str = name or f"prefect-optuna-{time.time_ns():x}"
        self._query = query
        self._options = [
            *(["--limit", str(limit)] if limit is not None else []),
            *(["--work-queue", queue] if queue is not None else []),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker while it runs, else None."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        """Start the worker, and wait until the server knows it."""
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the worker."""
        self.stop()

    def start(self) -> None:
        """Start the process, and do not wait."""
        environment = {
            **os.environ,
            **get_current_settings().to_environment_variables(exclude_unset=True),
            "PREFECT_WORKER_QUERY_SECONDS": str(self._query),
        }
        command = [sys.executable, "-m", "prefect", "worker", "start", "--type", "process"]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                [*command, "--pool", self.pool, "--name", self.name, *self._options],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for this program, which then stops the worker before the server.
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until the server has heard of the worker.

        Raises:
            WorkerFailedError: it ended while starting, or the server does not hear of it.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_known():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                happened = "ended while starting" if ended else "did not report to the server"
                lines = self.log_file.read_text(errors="replace").splitlines()[-15:]
                raise WorkerFailedError(
                    f"The worker of pool {self.pool!r} {happened}. The end of its log, "
                    f"{self.log_file}:\n" + "\n".join(lines)
                )
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop the worker and what it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_process_tree(process.pid)
            process.wait()

    def _is_known(self) -> bool:
        with prefect_server() as client:
            known = client.read_workers_for_work_pool(self.pool)
        return any(worker.name == self.name for worker in known)
