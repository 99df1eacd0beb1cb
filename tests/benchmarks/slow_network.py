"""A TCP proxy that counts the requests that pass, and holds each back for a while.

As a program it runs beside the benchmark, so as not to take turns with it for the interpreter:

    python tests/benchmarks/slow_network.py SERVER_PORT SECONDS
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from queue import SimpleQueue


class SlowNetwork:
    """What lies between a client and a server on this machine.

    Args:
        port: of the server.
        delay: seconds that each request needs to get there; the replies need none, so this is
            the time of the round trip.
    """

    def __init__(self, port: int, delay: float = 0.0) -> None:
        self.requests = 0
        self._target, self._delay = port, delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections; those that are open last until their client ends them."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def wait(self) -> None:
        """Serve until the process is ended."""
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()
            # The threads hold the sockets, and the last to end lets go of them.
            del client, server, source, sink, end

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        is_request = sink.getpeername()[1] == self._target
        # Everything is late by as much, however much of it there is: a way has a length, and what
        # is on it does not wait for what is ahead to arrive.
        under_way: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
        arriving = threading.Thread(target=self._deliver, args=(under_way, sink), daemon=True)
        arriving.start()
        with source:
            while data := _received(source):
                self.requests += is_request
                under_way.put((time.monotonic() + self._delay * is_request, data))
        under_way.put((0.0, b""))
        arriving.join()

    def _deliver(self, under_way: SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for due, data in iter(under_way.get, (0.0, b"")):
                time.sleep(max(0.0, due - time.monotonic()))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(1 << 20)
    except OSError:
        return b""


@contextlib.contextmanager
def slow_port(port: int, delay: float) -> Generator[int]:
    """The port of a network to a server of this machine, in a process of its own."""
    command = [sys.executable, __file__, str(port), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


if __name__ == "__main__":
    between = SlowNetwork(int(sys.argv[1]), float(sys.argv[2]))
    print(between.port, flush=True)
    between.wait()
