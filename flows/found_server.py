"""The server that runs for this directory: `prefect-optuna serve`, or `prefect-optuna up`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from pathlib import Path

from prefect_optuna.blocks.texts import command

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
    """Tell whether a Prefect server answers."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/api/health")
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
