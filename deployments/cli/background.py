"""Commands for the server of this directory, and the demo."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_optuna.deployments.cli.arguments import Json
from prefect_optuna.deployments.cli.output import OK, answer, markup, note, working


def demo() -> int:
    """Fit a predator-prey model, from the first trial to the picture in Prefect's UI.

    It takes about a minute, and keeps its studies in *.prefect-optuna* and its history in
    *.prefect* below this directory.

    ```
    prefect-optuna demo
    ```
    """
    from prefect_optuna.deployments.demo import main

    return main(shows="prefect-optuna serve")


def up(
    *,
    idle: Annotated[
        float, Parameter(metavar="MINUTES", help="It ends when nobody has used it for so long.")
    ] = 10.0,
    json: Json = False,
) -> None:
    """Start a Prefect server for this directory in the background.

    `optimize` and the other commands in this directory find it, and its history stays in
    *.prefect-optuna/prefect*. Nothing happens where one runs already.

    ```
    prefect-optuna up
    python study.py
    prefect-optuna down
    ```
    """
    from prefect_optuna.blocks import InvalidSettingError
    from prefect_optuna.deployments.up import bring_up

    if not idle > 0:
        raise InvalidSettingError(f"--idle is in minutes, more than 0; found {idle:g}.")
    with working("Starting the server ..."):
        server = bring_up(idle)
    answer(
        {"url": server.url, "api_url": f"{server.url}/api", "home": str(server.home)},
        f"Prefect: [bold]{server.url}[/]",
        as_json=json,
    )
    if server.background:
        note(f"[dim]Ends with prefect-optuna down, or when unused. History: {server.home}[/]")


def down(*, json: Json = False) -> None:
    """End the server that *up* has started; its history stays.

    ```
    prefect-optuna down
    ```
    """
    from prefect_optuna.deployments.up import bring_down

    with working("Stopping the server ..."):
        ended = bring_down()
    document = {"url": ended.url if ended else None, "ended": ended is not None}
    text = f"Stopped: {ended.url}" if ended else "No server runs for this directory."
    answer(document, text, as_json=json)


def status(*, json: Json = False) -> int:
    """Say which Prefect server programs in this directory use.

    ```
    prefect-optuna status
    ```
    """
    from prefect.settings import get_current_settings

    from prefect_optuna.blocks._secrets import without_secrets
    from prefect_optuna.deployments.cli.tables import facts
    from prefect_optuna.deployments.up import running_server

    server = running_server()
    used = without_secrets(get_current_settings().api.url or "") or None
    here = server is not None and used == f"{server.url}/api"
    started = None if server is None else f"prefect-optuna {'up' if server.background else 'serve'}"
    document = {
        "url": server.url if server else None,
        "home": str(server.home) if server else None,
        "started_by": started,
        "used_api_url": used,
    }
    rows = {
        "server": f"[bold]{server.url}[/] ({started})" if server else "none for this directory",
        "history": markup(str(server.home)) if server else "",
        "used": "" if here else markup(used or "a temporary one, whose history is lost"),
    }
    answer(document, facts(rows), as_json=json)
    if server is None and used is None:
        note("[dim]prefect-optuna up starts one that stays, in the background.[/]")
    return OK
