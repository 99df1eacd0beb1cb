"""optuna-dashboard on the studies of any storage block."""

from __future__ import annotations

import socketserver
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prefect_optuna.blocks import as_artifact_filesystem, as_study_storage
from prefect_optuna.blocks.locations import Artifacts, Storage
from prefect_optuna.errors import ServerUnavailableError, StorageUnavailableError

if TYPE_CHECKING:
    from typing import Self

_USUAL_PORT = 8080


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
    ports = [_USUAL_PORT, 0] if port is None else [port]
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
