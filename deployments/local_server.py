"""A Prefect server of one's own, for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import filelock
import prefect
import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import refresh_global_settings_context
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import temporary_settings
from prefect.utilities.asyncutils import run_coro_as_sync

from prefect_optuna.errors import ServerUnavailableError
from prefect_optuna.flows.temporary_server import HOME, is_healthy, read_server_file

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

_HOST = "127.0.0.1"
USED_FILE = "used"
"""File in a server's home whose time is that of the last request to the server."""
# Longer than the server itself takes to empty its queue, see _serve.py.
_STOP_SECONDS = 110.0
_FINISHED_STATES = ["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]

# Set for the server only. It inherits no other PREFECT_* variable: a database or a password
# that somebody exported for another server must not leak into this one.
_SERVER_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_API_HOST": _HOST,
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    # One transaction for many task runs, rather than one each: SQLite then takes in several
    # times as many a second. What waits is written after a second at the latest.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
}


class LocalServer:
    """A real Prefect server on this machine, its history kept in a folder.

    Inside the `with` block this process, and every process it starts, talks to the server.
    At the end of the block the server takes in all it was sent, and stops; the history stays
    in `home`, and the next `LocalServer` on the same folder shows it again. Should this
    process be killed, the server stops by itself.

    Prefect's ephemeral mode needs no server either, and loses history: what has not reached
    its database when the program ends is gone.

    Args:
        home: Folder of the server's database, settings and log. Made if absent. One server
            at a time may use it.
        port: TCP port on 127.0.0.1. A free one by default.
        start_timeout: Seconds to wait for the server to answer. The first start on a new
            home makes the database and takes about 7 s, a later one about 3 s.

    Example:
        >>> import tempfile
        >>> from prefect.client.orchestration import get_client
        >>> from prefect_optuna.deployments import LocalServer
        >>> with tempfile.TemporaryDirectory() as home, LocalServer(home) as server:
        ...     with get_client(sync_client=True) as client:
        ...         client.count_flow_runs()
        0
    """

    def __init__(
        self,
        home: str | os.PathLike[str] = HOME,
        port: int | None = None,
        *,
        start_timeout: float = 180.0,
    ) -> None:
        self.home: Path = Path(home).absolute()
        self.port = port
        self._start_timeout = start_timeout
        self._cleanup = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        where = self.url if self._process else "stopped"
        return f"LocalServer(home={str(self.home)!r}, {where})"

    @property
    def url(self) -> str:
        """Address of the UI.

        Raises:
            ServerUnavailableError: The server has no port yet, because it was not started.
        """
        if self.port is None:
            raise ServerUnavailableError(
                "a local server has no address before it is started. "
                "Use it as `with LocalServer() as server: ...`."
            )
        return f"http://{_HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        """Address of the API, as in `PREFECT_API_URL`."""
        return f"{self.url}/api"

    @property
    def pid(self) -> int | None:
        """Process id of the server while it runs, else None."""
        return self._process.pid if self._process else None

    @property
    def log_file(self) -> Path:
        """The file with what the server has printed since it was last started."""
        return self.home / "server.log"

    def __enter__(self) -> Self:
        """Start the server and point this process at it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_exclusive_use_of(self.home))
            port = self.port
            stack.callback(setattr, self, "port", port)
            self.port = _check_port(port) if port else _free_port()
            stack.callback(self._stop)
            self._start()
            # Events that are still under way belong to the server they were meant for.
            _send_pending()
            # Threads that inherit no context, such as a process pool's, see what is global.
            stack.callback(refresh_global_settings_context)
            stack.enter_context(_environment(self._client_environment()))
            refresh_global_settings_context()
            stack.enter_context(
                temporary_settings({"home": self.home, "api.url": self.api_url, "api.key": None})
            )
            stack.callback(_send_pending)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until the server has taken in everything, then stop it."""
        self._cleanup.close()

    def wait_for_task_runs(
        self, flow_run_id: UUID | str, expected: int, timeout: float = 60.0
    ) -> None:
        """Wait until the server knows so many finished task runs of a flow run.

        Task runs reach the server's database some time after they have ended. The end of the
        `with` block waits for all of them; this is for those who want to count.

        Args:
            flow_run_id: Id of the flow run.
            expected: Number of task runs that have ended, in whichever state.
            timeout: Seconds to wait.

        Raises:
            ServerUnavailableError: Fewer have arrived in that time.
        """
        _send_pending()
        deadline = time.monotonic() + timeout
        with SyncPrefectClient(self.api_url) as client:
            while (found := _count_finished_task_runs(client, flow_run_id)) < expected:
                if time.monotonic() > deadline:
                    raise ServerUnavailableError(
                        f"expected {expected} finished task runs of flow run {flow_run_id}, "
                        f"found {found} after {timeout:g} s. The server's log is {self.log_file}."
                    )
                time.sleep(0.1)

    def _client_environment(self) -> dict[str, str | None]:
        no_proxy = ",".join(filter(None, [os.environ.get("NO_PROXY"), _HOST]))
        return {
            "PREFECT_HOME": str(self.home),
            "PREFECT_API_URL": self.api_url,
            # These belong to another server, and a profile may not exist in this home.
            "PREFECT_API_KEY": None,
            "PREFECT_PROFILE": None,
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "DO_NOT_TRACK": "1",
        }

    def _start(self) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect_optuna.deployments._serve"],
                env=inherited
                | _SERVER_SETTINGS
                # The UI calls the port that the settings name, so --port would not do.
                | {"PREFECT_HOME": str(self.home), "PREFECT_SERVER_API_PORT": str(self.port)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the program, which needs its server until it has cleaned up.
                start_new_session=True,
            )
        _write_server_file(self.home, self._process.pid, self.url)
        self._wait_until_healthy(self._process)

    def _wait_until_healthy(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not is_healthy(self.url):
            if (code := process.poll()) is not None:
                self._refuse_another_version()
                raise ServerUnavailableError(
                    f"the Prefect server on {self.url} ended with code {code} while starting. "
                    f"The end of its log, {self.log_file}:\n{self._log_tail()}"
                )
            if time.monotonic() > deadline:
                raise ServerUnavailableError(
                    f"expected the Prefect server on {self.url} to answer within "
                    f"{self._start_timeout:g} s, and it did not. "
                    f"The end of its log, {self.log_file}:\n{self._log_tail()}"
                )
            time.sleep(0.05)

    def _refuse_another_version(self) -> None:
        log = self.log_file.read_text(errors="replace")
        if match := re.search(r"Can't locate revision identified by '(\w+)'", log):
            raise ServerUnavailableError(
                f"expected {self.home} to hold the history of Prefect {prefect.__version__} or of "
                f"an earlier one, found a database of another version (revision {match[1]}, which "
                "this one does not know). It is left as it is. Move that folder away, name "
                "another home, or use the Prefect that wrote it."
            )

    def _log_tail(self) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-15:])

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.stdin:
                process.stdin.close()
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_process_tree(process.pid)
            process.wait()
            _server_file(self.home).unlink(missing_ok=True)


def _send_pending() -> None:
    """Send the events and log lines that wait in this process."""
    workers = (APILogWorker, EventsWorker)

    async def drain() -> None:
        for worker in workers:
            await worker.drain_all(at_exit=False)  # pyright: ignore[reportGeneralTypeIssues]

    # Each warns of what is still to be sent, and that is what is waited for.
    levels = {(logger := logging.getLogger(one.__name__)): logger.level for one in workers}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        run_coro_as_sync(drain())
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _count_finished_task_runs(client: SyncPrefectClient, flow_run_id: UUID | str) -> int:
    response = client.request(
        "POST",
        "/task_runs/count",
        json={
            "flow_runs": {"id": {"any_": [str(flow_run_id)]}},
            "task_runs": {"state": {"type": {"any_": _FINISHED_STATES}}},
        },
    )
    return int(response.json())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]


def _check_port(port: int) -> int:
    with socket.socket() as probe:
        if os.name == "posix":  # A port in TIME_WAIT is free; on Windows this would steal it.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            raise ServerUnavailableError(
                f"expected port {port} on {_HOST} to be free for a Prefect server, found: {error}. "
                "Stop what listens there, name another port, or leave the port out for a free one."
            ) from error
    return port


@contextlib.contextmanager
def _environment(updates: Mapping[str, str | None]) -> Generator[None]:
    """Set environment variables, or unset those given as None, and put them back at the end."""

    def put(variables: Mapping[str, str | None]) -> None:
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    before = {name: os.environ.get(name) for name in updates}
    put(updates)
    try:
        yield
    finally:
        put(before)


@contextlib.contextmanager
def _exclusive_use_of(home: Path) -> Generator[None]:
    """Hold the home's lock, and stop a server that a dead process has left behind."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(home / "server.lock", thread_local=False)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ServerUnavailableError(
            f"expected no other server on {home}, found {_describe_running_server(home)}. "
            "Use that one, wait until it has stopped, or name another home."
        ) from None
    except OSError as error:
        raise ServerUnavailableError(
            f"expected {home} to be a folder that can be written, found: {error}. "
            "Name another home."
        ) from error
    try:
        _stop_leftover_server(home)
        yield
    finally:
        lock.release()


def _server_file(home: Path) -> Path:
    return home / "server.json"


def _write_server_file(home: Path, pid: int, url: str) -> None:
    content = {"pid": pid, "started": psutil.Process(pid).create_time(), "url": url}
    temporary = home / "server.json.tmp"
    temporary.write_text(json.dumps(content))
    temporary.replace(_server_file(home))


def _describe_running_server(home: Path) -> str:
    server = read_server_file(home)
    return f"one at {server['url']} (pid {server['pid']})" if server else "one that is starting"


def _stop_leftover_server(home: Path) -> None:
    server = read_server_file(home)
    with contextlib.suppress(psutil.NoSuchProcess, KeyError):
        process = psutil.Process(int(str(server["pid"])))
        # Process ids are used again, and so the time of its start belongs to its name.
        if process.create_time() == server["started"]:
            # Its parent is dead, so it is stopping already; let it take in what it was sent.
            with contextlib.suppress(psutil.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            end_process_tree(process.pid)
    _server_file(home).unlink(missing_ok=True)


def end_process_tree(pid: int) -> None:
    """Ask a process and its children to end, then make them."""
    try:
        root = psutil.Process(pid)
        processes = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        _, processes = psutil.wait_procs(processes, timeout=5)
