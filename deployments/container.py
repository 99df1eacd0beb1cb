"""The first process of a worker's container: flow runs hear of SIGTERM, and are waited for.

    python -m prefect_optuna.deployments.container prefect worker start --pool lab --type process

Prefect's worker ends at SIGTERM without a word to the flow runs that it has started, and when the
first process of a container ends, all others are killed. From here they hear of it, so that their
trials are handed back, and the worker ends after them.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import psutil

_LOOK_SECONDS = 0.2


def main(command: Sequence[str]) -> int:
    """Run a worker until it ends, or until this process is asked to.

    Args:
        command: of the worker; the flow runs are its children.

    Returns:
        The exit code: the worker's, or 0 where it was asked to end.
    """
    asked = threading.Event()

    def hear(number: int, frame: object) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)
    worker = subprocess.Popen(command)  # noqa: S603 - what the container was given
    while worker.poll() is None:
        if asked.wait(_LOOK_SECONDS):
            _end(worker)
            return 0
    return worker.returncode


def _end(worker: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(worker.pid)
    process.suspend()  # it starts no other run meanwhile
    runs = process.children()
    for run in runs:
        _signal(run, signal.SIGTERM)
    while any(_runs(run) for run in runs):
        threading.Event().wait(_LOOK_SECONDS)
    _signal(process, signal.SIGTERM)
    process.resume()
    worker.wait()


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
