"""The process that `LocalServer` starts: a Prefect server that ends when its standard input does.

A pipe from the parent is the whole protocol. The parent closes it to stop the server politely;
the operating system closes it when the parent dies, `kill -9` included. Either way the server
first takes in what it was sent: Prefect keeps task runs in a queue in memory on their way to the
database, and drops that queue when it is told to stop.

    python -m prefect_optuna.deployments._serve
"""

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from prefect.server.api.server import create_app
from prefect.server.utilities.messaging.memory import METRICS
from prefect.settings import get_current_settings

from prefect_optuna.deployments.local_server import USED_FILE

# Nothing has come for so long: all is taken in.
_QUIET_SECONDS = 0.5
# Nothing has moved for so long: what is left has failed for good.
_STUCK_SECONDS = 5.0
# At more than 100 task runs a second this is 10,000, the most that the queue holds.
_DRAIN_SECONDS = 100.0


def _wait_until_quiet() -> None:
    """Wait until every queued message is consumed and no new one has come for a moment."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    seen, since = None, time.monotonic()
    while (now := time.monotonic()) < deadline:
        topics = list(METRICS.values())
        published, consumed = (sum(t[key] for t in topics) for key in ("published", "consumed"))
        if seen != (published, consumed):
            seen, since = (published, consumed), now
        if now - since >= (_QUIET_SECONDS if consumed >= published else _STUCK_SECONDS):
            return
        time.sleep(0.05)


def _stop_at_end_of_input(server: uvicorn.Server) -> None:
    while os.read(sys.stdin.fileno(), 4096):  # `sys.stdin` would hold a lock while Python ends
        pass
    _wait_until_quiet()
    server.should_exit = True


class _Noted:
    """The server, which notes when it was last used."""

    def __init__(self, app: Any, file: Path) -> None:
        self._app = app
        self._file = file
        self._noted = 0.0
        self._connected = 0
        threading.Thread(target=self._look, daemon=True).start()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        lasting = scope["type"] == "websocket"
        self._connected += lasting
        try:
            if lasting or (scope["type"] == "http" and scope["path"] != "/api/health"):
                self._note()
            await self._app(scope, receive, send)
        finally:
            self._connected -= lasting

    def _note(self) -> None:
        if time.monotonic() - self._noted > 1:
            self._noted = time.monotonic()
            self._file.touch()

    def _look(self) -> None:
        while True:
            time.sleep(1)
            if self._connected:
                self._note()


def main() -> None:
    """Serve Prefect's API and UI until the standard input ends."""
    settings = get_current_settings().server
    server = uvicorn.Server(
        uvicorn.Config(
            _Noted(create_app(final=True), get_current_settings().home / USED_FILE),
            host=settings.api.host,
            port=settings.api.port,
            log_level=settings.logging_level.lower(),
            timeout_keep_alive=settings.api.keepalive_timeout,
            # A browser tab with the UI keeps a connection open; do not wait for it.
            timeout_graceful_shutdown=2,
        )
    )
    threading.Thread(target=_stop_at_end_of_input, args=(server,), daemon=True).start()
    server.run()


if __name__ == "__main__":
    main()
