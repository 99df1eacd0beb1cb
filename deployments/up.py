"""A Prefect server of this directory in the background: up, down, and what there is."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import psutil

from prefect_optuna.deployments.local_server import end_process_tree
from prefect_optuna.errors import ServerUnavailableError
from prefect_optuna.flows.found_server import BACKGROUND_HOME, HOME, running_server_url

HOLDER_FILE = "background.json"
_START_SECONDS = 190.0
_STOP_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """A server that runs for this directory.

    Attributes:
        url: of its UI.
        home: where its history is.
        background: whether `prefect-optuna up` has started it.
    """

    url: str
    home: Path
    background: bool


def running_server() -> Server | None:
    """The server that runs for this directory, if there is one.

    Example:
        >>> import os, tempfile
        >>> from prefect_optuna.deployments.up import running_server
        >>> os.chdir(tempfile.mkdtemp())
        >>> print(running_server())
        None
    """
    for home in (HOME, BACKGROUND_HOME):
        if url := running_server_url(home):
            path = Path(home).absolute()
            return Server(url, path, _holder(path) is not None)
    return None


def bring_up(idle_minutes: float = 10.0) -> Server:
    """Start a server in the background, unless one runs already."""
    if (running := running_server()) is not None:
        return running
    home = Path(BACKGROUND_HOME).absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        log = (home / "background.log").open("ab")
    except OSError as error:
        raise ServerUnavailableError(
            f"expected {home} to be a folder that can be written, found: {error}. Call it in "
            "another directory."
        ) from error
    with log:
        begun = log.tell()
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-m", "prefect_optuna.deployments._background",
             str(home), str(60 * idle_minutes)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # neither Ctrl-C nor the end of the terminal is for it
        )  # fmt: skip
    deadline = time.monotonic() + _START_SECONDS
    while (running := running_server()) is None:
        # Another `up` may have been quicker, and its server is about to answer.
        if process.poll() is not None and not _is_held(home):
            with (home / "background.log").open("rb") as written:
                written.seek(begun)
                said = written.read().decode(errors="replace").strip()
            raise ServerUnavailableError(
                f"The server has not started. {said or 'It has said nothing.'}"
            )
        if time.monotonic() > deadline:
            raise ServerUnavailableError(
                f"The server does not answer after {_START_SECONDS:g} s. Its log is in {home}."
            )
        time.sleep(0.1)
    return replace(running, background=running.home == home)  # it is about to say so itself


def bring_down() -> Server | None:
    """End the server that `bring_up` has started; it takes in first what it was sent."""
    running = running_server()
    holder = _holder(Path(BACKGROUND_HOME).absolute())
    if holder is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            holder.terminate()
            try:
                holder.wait(_STOP_SECONDS)
            except psutil.TimeoutExpired:
                end_process_tree(holder.pid)
        return running
    if running is not None:
        raise ServerUnavailableError(
            f"The server at {running.url} was not started by `up`: end it with Ctrl-C where "
            "`prefect-optuna serve` runs."
        )
    return None


def _holder(home: Path) -> psutil.Process | None:
    """The process that keeps the server of a home, if `up` has started it."""
    try:
        known = json.loads((home / HOLDER_FILE).read_text(encoding="utf-8"))
        process = psutil.Process(known["pid"])
        # Process ids are used again, and so the time of its start belongs to its name.
        return process if process.create_time() == known["started"] else None
    except (OSError, ValueError, LookupError, TypeError, psutil.Error):
        return None


def _is_held(home: Path) -> bool:
    try:
        with filelock.FileLock(home / "server.lock").acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
