"""Servers of this directory: everything for trying, or Prefect in the background."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import filelock
import psutil
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings

from prefect_optuna.deployments.local_server import USED_FILE, LocalServer, end_process_tree
from prefect_optuna.deployments.pools import prefect_server
from prefect_optuna.errors import (
    InvalidSettingError,
    PrefectOptunaError,
    ServerUnavailableError,
    WorkerFailedError,
)
from prefect_optuna.flows.temporary_server import BACKGROUND_HOME, HOME, running_server_url

if TYPE_CHECKING:
    from typing import Self

# A Prefect server of this directory in the background: up, down, and what there is.


HOLDER_FILE = "background.json"
_UP_SECONDS = 190.0
_DOWN_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """A server that runs for this directory.

    Attributes:
        url: of its UI.
        home: where its history is.
        background: whether `prefect-optuna up` has started it.
    """

    url: str
    home: Path
    background: bool


def running_server() -> Server | None:
    """The server that runs for this directory, if there is one.

    Example:
        >>> import os, tempfile
        >>> from prefect_optuna.deployments.serve import running_server
        >>> os.chdir(tempfile.mkdtemp())
        >>> print(running_server())
        None
    """
    for home in (HOME, BACKGROUND_HOME):
        if url := running_server_url(home):
            path = Path(home).absolute()
            return Server(url, path, _holder(path) is not None)
    return None


def bring_up(idle_minutes: float = 10.0) -> Server:
    """Start a server in the background, unless one runs already."""
    if (running := running_server()) is not None:
        return running
    home = Path(BACKGROUND_HOME).absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        log = (home / "background.log").open("ab")
    except OSError as error:
        raise ServerUnavailableError(
            f"expected {home} to be a folder that can be written, found: {error}. Call it in "
            "another directory."
        ) from error
    with log:
        begun = log.tell()
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "prefect_optuna.deployments.serve",
             str(home), str(60 * idle_minutes)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # neither Ctrl-C nor the end of the terminal is for it
        )  # fmt: skip
    deadline = time.monotonic() + _UP_SECONDS
    while (running := running_server()) is None:
        # Another `up` may have been quicker, and its server is about to answer.
        if process.poll() is not None and not _is_held(home):
            with (home / "background.log").open("rb") as written:
                written.seek(begun)
                said = written.read().decode(errors="replace").strip()
            raise ServerUnavailableError(
                f"The server has not started. {said or 'It has said nothing.'}"
            )
        if time.monotonic() > deadline:
            raise ServerUnavailableError(
                f"The server does not answer after {_UP_SECONDS:g} s. Its log is in {home}."
            )
        time.sleep(0.1)
    return replace(running, background=running.home == home)  # it is about to say so itself


def bring_down() -> Server | None:
    """End the server that `bring_up` has started; it takes in first what it was sent."""
    running = running_server()
    holder = _holder(Path(BACKGROUND_HOME).absolute())
    if holder is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            holder.terminate()
            try:
                holder.wait(_DOWN_SECONDS)
            except psutil.TimeoutExpired:
                end_process_tree(holder.pid)
        return running
    if running is not None:
        raise ServerUnavailableError(
            f"The server at {running.url} was not started by `up`: end it with Ctrl-C where "
            "`prefect-optuna serve` runs."
        )
    return None


def _holder(home: Path) -> psutil.Process | None:
    """The process that keeps the server of a home, if `up` has started it."""
    try:
        known = json.loads((home / HOLDER_FILE).read_text(encoding="utf-8"))
        process = psutil.Process(known["pid"])
        # Process ids are used again, and so the time of its start belongs to its name.
        return process if process.create_time() == known["started"] else None
    except (OSError, ValueError, LookupError, TypeError, psutil.Error):
        return None


def _is_held(home: Path) -> bool:
    try:
        with filelock.FileLock(home / "server.lock").acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


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


# The process behind `prefect-optuna up`: a `LocalServer` that ends when nobody uses it.
#
#     python -m prefect_optuna.deployments.serve HOME IDLE_SECONDS

_LOOK_SECONDS = 1.0


def _main(arguments: list[str]) -> None:
    try:
        _serve(Path(arguments[0]), float(arguments[1]))
    except PrefectOptunaError as error:
        sys.exit(str(error))


def _serve(home: Path, idle: float) -> None:
    """Serve until nobody has asked the server anything for `idle` seconds, or until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())  # pyright: ignore[reportUnknownLambdaType]
    with LocalServer(home, port=usual_port_if_free()) as server:
        holder = home / HOLDER_FILE
        started = psutil.Process().create_time()
        holder.write_text(json.dumps({"pid": os.getpid(), "started": started}), encoding="utf-8")
        begun = time.time()
        try:
            while not ended.wait(_LOOK_SECONDS) and server.pid and psutil.pid_exists(server.pid):
                used = home / USED_FILE
                last = used.stat().st_mtime if used.exists() else begun
                if time.time() - max(last, begun) > idle:
                    return
        finally:
            holder.unlink(missing_ok=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
