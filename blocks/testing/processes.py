"""Processes that work on one storage, and that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import select
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeAlias

from optuna.storages import BaseStorage

# A network that fails when it is told to.


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


# Description of a storage that the contract puts to the test.


Connect: TypeAlias = Callable[[], BaseStorage]
"""Opens the storage, in whichever process; picklable, such as a `functools.partial`."""


@dataclass(frozen=True)
class StorageUnderTest:
    """One empty database, how to open it, and what can be done to it.

    Only `connect` is needed. Each of the others belongs to rows of the contract that make no
    sense without it: there is no server to kill where there is none.

    Args:
        connect: opens the database anew, as another process would. It is pickled, so make it a
            `functools.partial` of something that can be imported.
        connect_with_heartbeat: the same with a heartbeat each second, a grace period of 2 s, and
            a callback that tries a stale trial once more
            (`optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1)`). Without it,
            `connect`.
        heartbeat_on_ask: whether a trial has a heartbeat from the moment on in which a worker gets
            it. On Optuna's own databases it has none before the worker's first, so that a worker
            that is killed in between leaves a trial that nobody takes for stale.
        server_port: where the server listens on 127.0.0.1, if there is one.
        connect_through: given another port, returns a `connect` that goes there. The contract
            puts a proxy of its own on it, which drops connections.
        kill_server: ends the server as a power cut would. It has to be one that keeps on disk
            what it has acknowledged.
        start_server: starts it again, on its port and its data, and waits until it answers.
        save_state: keeps what the database holds, and returns a function that puts it back
            behind the back of everybody who is connected.
        damage: damages one thing after the other, such as a key, and puts the whole database back
            before the next. It yields what is damaged now. Given None, the thing is missing;
            given bytes, it holds them.
        stored_bytes: how much the database holds.

    Example:
        >>> from functools import partial
        >>> from optuna.storages import RDBStorage
        >>> from prefect_optuna.blocks.testing import StorageUnderTest
        >>> StorageUnderTest(connect=partial(RDBStorage, "sqlite:///studies.db")).kill_server
    """

    connect: Connect
    connect_with_heartbeat: Connect | None = None
    heartbeat_on_ask: bool = True
    server_port: int | None = None
    connect_through: Callable[[int], Connect] | None = None
    kill_server: Callable[[], None] | None = None
    start_server: Callable[[], None] | None = None
    save_state: Callable[[], Callable[[], None]] | None = None
    damage: Callable[[bytes | None], Iterator[str]] | None = None
    stored_bytes: Callable[[], int] | None = None


_P = ParamSpec("_P")

Start: TypeAlias = Callable[[], None]
"""Waits until all processes of the crew are ready."""

_PRELOADED = ["prefect_optuna.blocks.testing.work", "sqlalchemy", "redis"]


@dataclass
class _Worker:
    name: str
    process: BaseProcess
    answer: Connection[Any, Any]


class Crew:
    """Processes that start together, each of which opens the storage for itself.

    They are forked from a process that has imported Optuna, and shares nothing else with them:
    neither connections nor threads nor locks. That costs some 20 ms for each of them. A script
    that uses it needs `if __name__ == "__main__":`, as everywhere in `multiprocessing`.

    Args:
        connect: opens the storage.
        together: how many workers wait for each other in `start()`.

    Example:
        >>> from optuna.storages import InMemoryStorage
        >>> from prefect_optuna.blocks.testing import Crew
        >>> from prefect_optuna.blocks.testing.work import count_studies
        >>> with Crew(InMemoryStorage, together=2) as crew:
        ...     numbers = [crew.send(count_studies) for _ in range(2)]
        ...     crew.answers()
        [0, 0]
    """

    def __init__(self, connect: Connect, *, together: int = 0) -> None:
        self._connect = connect
        self._context = _context()
        self._barrier = self._context.Barrier(together) if together else None
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for index in range(len(self._workers)):
            self.kill(index)

    def send(
        self, work: Callable[Concatenate[Connect, Start, _P], Any], *args: _P.args, **_: _P.kwargs
    ) -> int:
        """Start another process.

        Args:
            work: what it does, given `connect`, a function that waits for the others, and `args`.
                It has to be importable, and what it returns picklable.
            args: of the work.

        Returns:
            The number of the process, for `kill`.

        Example:
            See the class.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_main, args=(theirs, self._barrier, work, self._connect, args)
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(work.__name__, process, ours))
        return len(self._workers) - 1

    def kill(self, worker: int) -> None:
        """End a process at once, as `kill -9` does. Its answer will be None.

        Args:
            worker: the number that `send` has returned.

        Example:
            >>> from optuna.storages import InMemoryStorage
            >>> from prefect_optuna.blocks.testing import Crew
            >>> from prefect_optuna.blocks.testing.work import count_studies
            >>> with Crew(InMemoryStorage) as crew:
            ...     crew.kill(crew.send(count_studies))
        """
        process = self._workers[worker].process
        process.kill()
        process.join()

    def answers(self, *, limit: float = 60.0) -> list[Any]:
        """Wait until all processes have ended.

        Args:
            limit: seconds to wait for all of them together.

        Returns:
            What the work has returned, in the order of `send`; None for who was killed.

        Raises:
            AssertionError: some have raised or died, or are still at it after the limit; those are
                killed. It says how many, and quotes the first.

        Example:
            See the class.
        """
        deadline = time.monotonic() + limit
        answers: dict[int, tuple[str, Any]] = {}
        waiting = {worker.answer: index for index, worker in enumerate(self._workers)}
        while waiting and (left := deadline - time.monotonic()) > 0:
            for ready in wait(list(waiting), left):
                assert isinstance(ready, Connection)  # noqa: S101 -- for the type checker
                index = waiting.pop(ready)
                try:
                    answers[index] = ready.recv()
                except (EOFError, OSError):
                    answers[index] = ("died", None)
                ready.close()
        for pipe, index in waiting.items():
            self.kill(index)
            pipe.close()
        problems: list[str] = []
        for index, worker in enumerate(self._workers):
            worker.process.join()
            how, answer = answers.get(index, ("hung", None))
            if how == "hung":
                problems.append(f"{worker.name} had not ended after {limit:g} s.")
            elif how == "failed":
                problems.append(f"{worker.name} failed:\n{answer}")
            elif how == "died" and worker.process.exitcode != -9:
                problems.append(f"{worker.name} died with code {worker.process.exitcode}.")
        self._workers = []
        if problems:
            raise AssertionError(
                f"{len(problems)} of {len(answers) + len(waiting)} processes did not do their "
                f"work. The first: {problems[0]}"
            )
        return [answers[index][1] for index in sorted(answers)]


def _context() -> ForkServerContext | SpawnContext:
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)  # what cannot be imported is passed over
    return context


def _main(
    answer: Connection[Any, Any],
    barrier: Any,
    work: Callable[..., Any],
    connect: Connect,
    args: tuple[Any, ...],
) -> None:
    import optuna

    # Of the processes, only what they return or raise is of interest.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    try:
        result = ("done", work(connect, barrier.wait if barrier else _at_once, *args))
    except BaseException:  # noqa: BLE001 -- whatever it was, the parent reports it
        result = ("failed", traceback.format_exc())
    answer.send(result)
    answer.close()
    # What the storage has left behind, such as threads of its own, must not keep the process.
    os._exit(0)


def _at_once() -> None:
    pass
