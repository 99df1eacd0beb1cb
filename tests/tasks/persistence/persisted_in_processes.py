"""A program of the tests: processes that save at the same moment, and one that dies of it.

It has no threads of its own, so that it may fork: the imports are paid for once.

python persisted_in_processes.py FOLDER
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from prefect_optuna.tasks.persistence import (
    ArrowHandler,
    PickleHandler,
    autoinc_field,
    field,
    persistence_class,
)


@persistence_class
class Count:
    """One of many saves."""

    key: str = field(validator=True, filename=True)
    run: int = autoinc_field()
    writer: int


@persistence_class
class Dying:
    """What is saved when its process is killed."""

    key: str = field(validator=True, filename=True)
    value: str


class DyingHandler(PickleHandler[Dying]):
    """Is killed in the middle of a save."""

    def _save_persistence(self, result: Dying, path: Path) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def save_many(root: str, writer: int) -> list[int]:
    """Save 50 objects, and tell their numbers."""
    handler = ArrowHandler(Count, root)
    return [handler.save_persistence(Count("k", writer=writer)).run for _ in range(50)]


def save_and_die(root: str) -> None:
    """Never return."""
    DyingHandler(Dying, root).save_persistence(Dying("k", value="new"))


if __name__ == "__main__":
    folder = sys.argv[1]
    fork = multiprocessing.get_context("fork")
    with fork.Pool(16) as pool:
        numbers = pool.starmap(save_many, [(folder, writer) for writer in range(16)], 1)
        pool.close()
        pool.join()
    PickleHandler(Dying, folder).save_persistence(Dying("k", value="good"))
    process = fork.Process(target=save_and_die, args=(folder,))
    process.start()
    process.join()
    print(json.dumps([numbers, process.exitcode]))
