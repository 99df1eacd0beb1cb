"""Processes that work on one storage, and that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeAlias

from prefect_optuna.blocks.testing.storage_under_test import Connect

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
