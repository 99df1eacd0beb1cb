"""The command that shows, sends and drops what waits on this machine for its storage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from cyclopts import Parameter

from prefect_optuna.deployments.cli.arguments import HERE, Json, Places
from prefect_optuna.deployments.cli.exit_codes import FAILED, OK
from prefect_optuna.deployments.cli.output import answer, markup, note, working


def spool(
    action: Annotated[
        Literal["list", "send", "drop"], Parameter(help="What to do with them.")
    ] = "list",
    /,
    *ids: Annotated[str, Parameter(help="Only these, by the names that *list* shows.")],
    everything: Annotated[
        bool, Parameter(name="--all", negative="", help="For *drop*: all that is here.")
    ] = False,
    places: Places = HERE,
    json: Json = False,
) -> int:
    """List, send or drop trials that ended while their storage was away.

    They wait on this machine's disk. The next run of their study on this machine tells them;
    *send* does that now, and *drop* throws away what they came to.

    ```
    prefect-optuna spool
    prefect-optuna spool send --storage redis-study-storage/lab
    prefect-optuna spool drop 5c1f0a3e-000012-9b2d4c1e
    ```
    """
    from prefect_optuna.flows.spool import Spool, send

    kept = [one for one in Spool() if not ids or one.id in ids]
    if unknown := set(ids) - {one.id for one in kept}:
        note(f"[bold red]Error:[/] The spool has no {markup(', '.join(sorted(unknown)))}.")
        return FAILED
    done: list[str] = []
    if action == "send":
        with working("Sending ..."):
            done = [one.id for one in send(kept, **places.keywords())]
    elif action == "drop":
        if not ids and not everything:
            note("[bold red]Error:[/] Name what to drop, or give --all: it cannot be brought back.")
            return FAILED
        for one in kept:
            one.drop()
        done = [one.id for one in kept]
    words = {"list": "waits", "send": "sent", "drop": "dropped"}
    rows = [
        {
            "id": one.id,
            "study": one.study_name,
            "storage": one.storage,
            "trial": one.trial.number,
            "state": one.trial.state.name.lower(),
            "values": one.trial.values,
            "at": one.at,
            "bytes": 0 if one.encoded is None else len(one.encoded.content),
            "now": words[action] if one.id in done else "waits",
        }
        for one in kept
    ]
    lines = [f"{row['id']}  {row['now']}  {_words(row)}" for row in rows]
    answer(rows, markup("\n".join(lines) or "The spool is empty."), as_json=json)
    return OK if action == "list" or len(done) == len(kept) else FAILED


def _words(row: Mapping[str, object]) -> str:
    from prefect_optuna.blocks.texts import visible_line
    from prefect_optuna.deployments.cli.tables import ago

    values = row["values"]
    shown = ", ".join(f"{v:g}" for v in values) if isinstance(values, list) else row["state"]
    when = ago(datetime.fromtimestamp(float(str(row["at"]))))  # noqa: DTZ006 - as `ago` takes it
    text = f"trial {row['trial']} of {row['study']!r} in {row['storage']}: {shown}, {when}"
    return visible_line(text)
