"""Prefect's UI on the history that any `LocalServer` has left, and optuna-dashboard on any storage.

python -m prefect_optuna.deployments.ui [home]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import socketserver
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort
from rich.console import Console

from prefect_optuna.blocks import as_artifact_filesystem, as_study_storage
from prefect_optuna.blocks.locations import Artifacts, Storage
from prefect_optuna.blocks.texts import markup, terminal
from prefect_optuna.deployments.local_server import LocalServer
from prefect_optuna.errors import ServerUnavailableError, StorageUnavailableError
from prefect_optuna.flows.temporary_server import running_server_url

# Where people expect Prefect's UI.
if TYPE_CHECKING:
    from typing import Self

_USUAL_PORT = 4200


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the UI until Ctrl-C.

    Args:
        arguments: Those of the command line, by default the process's own: the folder of the
            history, `.prefect` when left out.

    Returns:
        The exit code: 0, or 1 where there is no history or no server could be started.
    """
    parser = argparse.ArgumentParser(
        prog="prefect_optuna.deployments.ui",
        description="Prefect's UI on the history that a `LocalServer` has left.",
    )
    parser.add_argument("home", nargs="?", default=".prefect", type=Path)
    home: Path = parser.parse_args(arguments).home
    console = terminal(soft_wrap=True)
    if not (home / "prefect.db").exists():
        console.print(
            f"There is no history in {markup(str(home))} yet: run [bold]make demo[/] first."
        )
        return 1
    if url := running_server_url(home):
        console.print(f"A server is running on {markup(str(home))} already.")
        _show(console, url)
        return 0
    try:
        with LocalServer(home, port=_usual_port_if_free()) as server:
            _show(console, server.url)
            console.print("[dim]Ctrl-C ends it.[/]")
            if _has_display():
                webbrowser.open(server.url)
            with contextlib.suppress(KeyboardInterrupt, psutil.NoSuchProcess):
                psutil.Process(server.pid).wait()
                console.print(
                    f"The server has ended by itself. Its log is {markup(str(server.log_file))}."
                )
                return 1
    except ServerUnavailableError as error:
        console.print(markup(str(error)))
        return 1
    console.print("Stopped.")
    return 0


def places_to_look_at(url: str) -> dict[str, str]:
    """Addresses in the UI of the latest study's report and of its flow run."""
    places: dict[str, str] = {}
    with SyncPrefectClient(f"{url}/api") as client:
        reports = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(like_="study-")),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
    flow_run_id = runs[0].id if runs else None
    if reports:
        places["the latest study's report"] = f"{url}/v2/artifacts/artifact/{reports[0].id}"
        flow_run_id = reports[0].flow_run_id or flow_run_id
    if flow_run_id:
        places["its flow run, with its task runs"] = f"{url}/v2/runs/flow-run/{flow_run_id}"
    return places


def _show(console: Console, url: str) -> None:
    console.print(f"\nPrefect's UI: [bold]{url}[/]")
    for what, address in places_to_look_at(url).items():
        console.print(f"  {what}: {address}")
    console.print()


def _usual_port_if_free() -> int | None:
    with socket.socket() as probe:
        busy = probe.connect_ex(("127.0.0.1", _USUAL_PORT)) == 0
    return None if busy else _USUAL_PORT


def _has_display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


# optuna-dashboard on the studies of any storage block.

_DASHBOARD_PORT = 8080


class Dashboard:
    """optuna-dashboard, for as long as a `with` block lasts.

    It has no passwords: anybody who reaches the address may change the studies.

    Args:
        storage: where the studies are kept, as `optimize` takes it.
        artifacts: where their artifacts are kept, as `optimize` takes it.
        host: the address to listen on.
        port: the TCP port; by default 8080 where it is free, and else any.

    Raises:
        StorageUnavailableError: the storage cannot be reached, or optuna-dashboard is missing.
        ServerUnavailableError: the port is taken.

    Example:
        >>> import urllib.request
        >>> from prefect_optuna.deployments import Dashboard
        >>> with Dashboard(storage="memory://docs", artifacts="memory://docs", port=0) as dashboard:
        ...     urllib.request.urlopen(f"{dashboard.url}/api/studies").status
        200
    """

    def __init__(
        self,
        *,
        storage: Storage = None,
        artifacts: Artifacts = None,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> None:
        try:
            from optuna_dashboard import wsgi
        except ImportError:
            raise StorageUnavailableError(
                'optuna-dashboard is not installed: pip install "prefect-optuna[dashboard]"'
            ) from None
        block = as_study_storage(storage)
        filesystem = as_artifact_filesystem(artifacts)
        application = wsgi(block.get_storage(), artifact_store=filesystem)
        self.location: str = block.location
        self._server = _listen(host, port, application)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        """The address of the dashboard."""
        host, port = self._server.server_address[:2]
        return f"http://{str(host).replace('0.0.0.0', 'localhost')}:{port}"  # noqa: S104

    def __enter__(self) -> Self:
        """Serve."""
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self) -> None:
        """Wait until another process stops it, or until Ctrl-C."""
        while self._thread.is_alive():
            self._thread.join(1)  # in between, Python looks whether a signal has come


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


def _listen(host: str, port: int | None, application: Any) -> WSGIServer:
    ports = [_DASHBOARD_PORT, 0] if port is None else [port]
    for candidate in ports:
        try:
            return make_server(host, candidate, application, _Server, _QuietHandler)
        except (OSError, OverflowError) as error:
            if candidate == ports[-1]:
                raise ServerUnavailableError(
                    f"The dashboard cannot listen on {host}:{candidate}: {error}. Name another "
                    "port, or leave the port out for a free one."
                ) from error
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(main())
