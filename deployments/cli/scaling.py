"""The command that gives a running study more workers, or fewer."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from prefect_optuna.deployments.cli.arguments import HERE, Json, Places, Study
from prefect_optuna.deployments.cli.output import answer, markup

__all__ = ["scale"]


def scale(
    study: Study,
    /,
    *,
    workers: Annotated[int, Parameter(help="How many there are to be.")],
    places: Places = HERE,
    json: Json = False,
) -> None:
    """Give a study that runs on workers more of them, or fewer.

    Those that are too many end when the trials that they run have ended. New ones run where the
    study's work pool has room.

    ```
    prefect-optuna scale lynx-hare --workers 8
    ```
    """
    from prefect_optuna.blocks import InvalidSettingError, as_study_storage
    from prefect_optuna.blocks.texts import command
    from prefect_optuna.flows.session import give_order, living_sessions

    if workers < 1:
        raise InvalidSettingError(
            f"`--workers` is 1 or more; found {workers}. To end the study: "
            + command("prefect-optuna", "stop", study)
        )
    block = as_study_storage(places.storage)
    found = block.load_study(study)
    leaders = {key: one for key, one in living_sessions(found).items() if one.get("leads")}
    if not leaders:
        raise InvalidSettingError(
            f"Expected a study that runs on workers, found that no `distribute` runs {study!r} in "
            f"{block.location} now. Start one: prefect-optuna deploy --workers {workers} --run ..."
        )
    for key in leaders:
        give_order(found, key, workers=workers)
    before = next(iter(leaders.values()))["workers"]
    answer(
        {"study": study, "workers": workers, "before": before},
        markup(f"{study}: {workers} workers, in place of {before}."),
        as_json=json,
    )
