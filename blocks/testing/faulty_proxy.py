"""A network that fails when it is told to."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Literal, Self


class FaultyProxy:
    """A TCP proxy on a free port of 127.0.0.1 whose connections can be cut.

    Args:
        port: of the server behind it, on 127.0.0.1.

    Attributes:
        port: its own.

    Example:
        >>> import socket
        >>> from prefect_optuna.blocks.testing import FaultyProxy
        >>> with socket.create_server(("127.0.0.1", 0)) as server:
        ...     with FaultyProxy(server.getsockname()[1]) as proxy:
        ...         proxy.cut("reply")
        ...         proxy.disarm()
        True
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._armed: list[str] = []
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing alone does not wake the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.drop_connections()
        for thread in self._threads:
            thread.join()

    def cut(self, what: Literal["request", "reply"], *, passing: int = 0) -> None:
        """Cut a connection once, at the next occasion.

        Args:
            what: `"request"` before the server has it, or `"reply"`: the server has done what was
                asked, and its answer never arrives.
            passing: how many still get through before that.

        Example:
            >>> from prefect_optuna.blocks.testing import FaultyProxy
            >>> FaultyProxy(6379).cut("request", passing=1)
        """
        with self._lock:
            self._armed = ["pass"] * passing + [what]

    def disarm(self) -> bool:
        """Cut nothing any more.

        Returns:
            Whether a cut was still to come.

        Example:
            >>> from prefect_optuna.blocks.testing import FaultyProxy
            >>> FaultyProxy(6379).disarm()
            False
        """
        with self._lock:
            armed, self._armed = self._armed, []
        return bool(armed)

    def drop_connections(self) -> None:
        """Cut every connection that is open, as a firewall does with idle ones.

        Example:
            >>> from prefect_optuna.blocks.testing import FaultyProxy
            >>> FaultyProxy(6379).drop_connections()
        """
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),  # a lost connection ends it, on whichever side
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            with self._lock:
                self._open |= {client, server}
            try:
                self._copy(client, server)
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _copy(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(65536)
                if not data or self._fails("request" if source is client else "reply"):
                    return
                (server if source is client else client).sendall(data)

    def _fails(self, what: str) -> bool:
        with self._lock:
            if not self._armed or self._armed[-1] != what:
                return False
            return self._armed.pop(0) == what
