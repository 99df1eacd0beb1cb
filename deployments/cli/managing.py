"""Commands for whoever runs a study, and for a study as a whole."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from prefect_optuna.deployments.cli.arguments import HERE, Json, Places, Study
from prefect_optuna.deployments.cli.exit_codes import FAILED, OK
from prefect_optuna.deployments.cli.output import answer, markup, note, working

__all__ = ["delete", "pause", "resume", "stop"]


def stop(study: Study, /, *, places: Places = HERE, json: Json = False) -> int:
    """Have whoever runs a study finish its running trials, and end.

    It works wherever the study runs, and within seconds. The same call goes on with the study.

    ```
    prefect-optuna stop lynx-hare
    ```
    """
    return _ask(study, "stop", "It finishes the trials that run, and ends.", places, json)


def pause(study: Study, /, *, places: Places = HERE, json: Json = False) -> int:
    """Have whoever runs a study ask no more trials, until *resume*.

    ```
    prefect-optuna pause lynx-hare
    ```
    """
    return _ask(study, "pause", "It waits for `prefect-optuna resume`.", places, json)


def resume(study: Study, /, *, places: Places = HERE, json: Json = False) -> int:
    """Have whoever runs a study go on after *pause*.

    ```
    prefect-optuna resume lynx-hare
    ```
    """
    return _ask(study, "resume", "It goes on.", places, json)


def delete(
    study: Study,
    /,
    *,
    yes: Annotated[
        bool, Parameter(name=("--yes", "-y"), negative="", help="Do not ask first.")
    ] = False,
    places: Places = HERE,
    json: Json = False,
) -> int:
    """Delete a study with its archive, after a question.

    ```
    prefect-optuna delete lynx-hare
    prefect-optuna delete lynx-hare --yes
    ```
    """
    from prefect_optuna.blocks import InvalidSettingError, as_study_storage
    from prefect_optuna.blocks.texts import command
    from prefect_optuna.flows.session import state_of
    from prefect_optuna.tasks import delete_study

    with working(f"Reading {study!r} ..."):
        loaded = as_study_storage(places.storage).load_study(study)
        trials = loaded.get_trials(deepcopy=False)
        state = state_of(loaded, trials)
    if state in ("running", "paused"):
        raise InvalidSettingError(
            f"The study {study!r} is {state}. First: {command('prefect-optuna', 'stop', study)}"
        )
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidSettingError(
                f"{study!r} has {len(trials)} trials, and nobody is here to be asked. With --yes "
                "it is deleted."
            )
        note(f"Delete {markup(study)} with its {len(trials)} trials and its archive? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            note("Kept.")
            return FAILED
    with working(f"Deleting {study!r} ..."):
        gone = delete_study(study, **places.keywords())
    document = {
        "study": study,
        "trials": len(trials),
        "archive": {"files": gone.files, "bytes": gone.size} if gone else None,
    }
    archive = f" and {gone.files} files of its archive" if gone else ""
    answer(document, markup(f"Deleted: {study}, {len(trials)} trials{archive}."), as_json=json)
    return OK


def _ask(
    study: str, what: Literal["stop", "pause", "resume"], then: str, places: Places, json: bool
) -> int:
    from prefect_optuna.blocks import as_study_storage
    from prefect_optuna.flows.session import ask_sessions

    with working(f"Asking who runs {study!r} ..."):
        count = ask_sessions(as_study_storage(places.storage).load_study(study), what)
    answer({"study": study, "asked": count}, *([then] if count else []), as_json=json)
    if not count:
        note(f"Nobody runs {markup(study)}.")
    return OK if count else FAILED
