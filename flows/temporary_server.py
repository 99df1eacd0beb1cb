"""The Prefect server of a program: the one that runs for this directory, or a temporary one.

Prefect starts it in a process of its own. Other processes of the program would each start another
one, and all of them would outlive a program that is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import IO, Any

import httpx
from prefect.context import SettingsContext, get_settings_context
from prefect.logging import get_logger
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_EPHEMERAL_ENABLED,
    get_current_settings,
    temporary_settings,
)

from prefect_optuna.blocks.texts import command
from prefect_optuna.errors import InvalidSettingError, ServerUnavailableError

# The server that runs for this directory: `prefect-optuna serve`, or `prefect-optuna up`.


HOME = ".prefect"
"""Folder in which the server of `prefect-optuna serve`, and of the demo, keeps its history."""

BACKGROUND_HOME = ".prefect-optuna/prefect"
"""The same of the server of `prefect-optuna up`."""


def running_server_url(home: str | os.PathLike[str] | None = None) -> str | None:
    """Address of the UI of the server that runs on a home, or None."""
    for place in (HOME, BACKGROUND_HOME) if home is None else (home,):
        url = str(read_server_file(Path(place).absolute()).get("url", ""))
        if url and is_healthy(url):
            return url
    return None


def prefect_command(*words: str) -> str:
    """A command of Prefect's own that somebody may copy into a shell.

    Prefect does not look for the server of this directory, as we do; so it is named.
    """
    from prefect.settings import get_current_settings

    url = running_server_url()
    unsaid = url and "PREFECT_API_URL" not in os.environ
    named = unsaid and get_current_settings().api.url == f"{url}/api"
    return (f"PREFECT_API_URL={url}/api " if named else "") + command("prefect", *words)


def read_server_file(home: Path) -> dict[str, object]:
    """Read what the server of a home has written about itself; nothing where there is none."""
    try:
        return dict(json.loads((home / "server.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def is_healthy(url: str) -> bool:
    """Tell whether a Prefect server of this machine answers."""
    # Without the certificates of all authorities, which take longer to read than this to answer.
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    health = f"{url}/api/health"
    try:
        return httpx.get(health, timeout=5, trust_env=False, verify=empty).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


# Its input ends when the program does, however that ends. psutil knows a process from another one
# that has got its number.
_GUARD = """
import sys
import httpx
import psutil
try:
    server = psutil.Process(int(sys.argv[1]))
    if not sys.stdin.buffer.read(1):
        server.terminate()
        try:
            server.wait(2)
        except psutil.TimeoutExpired:
            server.kill()
except psutil.NoSuchProcess:
    pass
"""

_guarded: set[int] = set()
_said = False
_START_SECONDS = 180  # on a busy machine; Prefect alone waits 20


def end_temporary_server() -> None:
    """See to it that this program's temporary server, if it has one, ends when the program does.

    Prefect ends it with an exit handler, which a signal leaves out.
    """
    if PREFECT_API_URL.value() or not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        return
    _check_home()
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    if not server.running:
        _say_once()
    ephemeral = get_current_settings().server.ephemeral
    seconds = ephemeral.startup_timeout_seconds
    if "startup_timeout_seconds" not in ephemeral.model_fields_set:
        seconds = _START_SECONDS
    log = get_logger()
    log.addFilter(_is_not_its_start)
    try:
        # As Prefect's client would at once, with more patience, and nothing sent elsewhere: what
        # goes wrong with that on a busy machine is a traceback among the program's own words.
        with temporary_settings(
            {
                "server.ephemeral.startup_timeout_seconds": seconds,
                "server.analytics_enabled": False,
            }
        ):
            server.start()
    except RuntimeError as error:
        raise ServerUnavailableError(
            f"Prefect's temporary server has not started within {seconds} s. Start one that stays "
            "(prefect-optuna up), or name one by PREFECT_API_URL."
        ) from error
    finally:
        log.removeFilter(_is_not_its_start)
    if server.server_process is None or server.server_process.pid in _guarded:
        return
    _guarded.add(server.server_process.pid)
    guard = subprocess.Popen(  # noqa: S603 - Python, and a number
        [sys.executable, "-P", "-c", _GUARD, str(server.server_process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the program
    )
    assert guard.stdin is not None  # noqa: S101 - it is a pipe
    atexit.register(_stand_down, guard, guard.stdin, os.getpid())


def _say_once() -> None:
    global _said
    if not _said:
        _said = True
        get_logger(__name__).warning(
            "No Prefect server runs for this directory: the study and its archive are kept, what "
            "Prefect sees of this run is lost. `prefect-optuna up` keeps it, and starts at once."
        )


def _is_not_its_start(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Starting temporary server")


def _check_home() -> None:
    """Say at once what Prefect says, after a minute, as that its server does not answer."""
    home = PREFECT_HOME.value()
    if str(home) not in str(PREFECT_API_DATABASE_CONNECTION_URL.value()):
        return  # the history is kept elsewhere
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise InvalidSettingError(
            f"Prefect keeps its history in {home}, which has to be a folder that can be written: "
            f"{error.strerror}. Name another one by PREFECT_HOME, or a server by PREFECT_API_URL."
        ) from error


def _stand_down(guard: subprocess.Popen[bytes], line: IO[bytes], program: int) -> None:
    if os.getpid() != program:  # a fork
        return
    with contextlib.suppress(OSError):
        line.write(b".")
        line.close()
    guard.wait()


@contextlib.contextmanager
def other_settings(**changes: Any) -> Generator[None]:
    """Have some of Prefect's settings be others, on which no more of them depend.

    `temporary_settings` reads all of them anew, and takes as long as ten requests to a server.
    """
    context = get_settings_context()
    for name, value in changes.items():
        if isinstance(value, Mapping):
            changes[name] = getattr(context.settings, name).model_copy(update=value)
    settings = context.settings.model_copy(update=changes)
    with SettingsContext(profile=context.profile, settings=settings):
        yield


@contextlib.contextmanager
def share_temporary_server() -> Generator[None]:
    """Have the processes that get this one's settings use its temporary server, if it has one."""
    if PREFECT_API_URL.value() or not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer

    with temporary_settings({PREFECT_API_URL: SubprocessASGIServer().api_url}):
        yield
