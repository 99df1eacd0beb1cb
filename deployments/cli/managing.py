"""Commands for whoever runs a study, and for a study as a whole."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from prefect_optuna.deployments.cli.arguments import HERE, Json, Places, Study
from prefect_optuna.deployments.cli.output import FAILED, OK, answer, command, markup, note, working

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


_RETRIES = "retries"  # on a trial: the failed one whose parameters it has


def watch(study: Study, /, *, places: Places = HERE, json: Json = False) -> int:
    """Show how far a study is that runs somewhere, until it ends.

    The progress, how many work on it, the best value, and the traceback of the first trial that
    fails. Ctrl-C leaves the study running, and the same command takes it up again.

    ```
    prefect-optuna watch lynx-hare
    ```
    """
    from collections import Counter

    from prefect_optuna.blocks import as_study_storage
    from prefect_optuna.blocks.study_summary import best_first
    from prefect_optuna.deployments.cli.tables import facts
    from prefect_optuna.deployments.cli.watching import follow, work_done
    from prefect_optuna.flows.session import living_sessions, state_of
    from prefect_optuna.flows.wording import count_states, count_words, format_value

    with working(f"Reading {study!r} ..."):
        loaded = as_study_storage(places.storage).load_study(study)
    totals = [one["n_trials"] for one in living_sessions(loaded).values() if one.get("n_trials")]

    def is_over() -> bool:
        state = state_of(loaded, loaded.get_trials(deepcopy=False))
        return state not in ("running", "paused")

    try:
        follow(loaded, max(totals, default=None), is_over)
    except KeyboardInterrupt:
        note(f"[dim]It goes on. {markup(command('prefect-optuna', 'watch', study))}[/]")
        raise
    trials = loaded.get_trials(deepcopy=False)
    state = state_of(loaded, trials)
    directions = [direction.name.lower() for direction in loaded.directions]
    best = best_first(trials, directions)
    causes = Counter(str(trial.user_attrs.get("error", "")) for trial in _failed(trials))
    works = work_done(loaded, trials)
    document = {
        "study": study,
        "state": state,
        "states": count_states(trials),
        "best_value": best[0].values[0] if best and len(directions) == 1 else None,
        "workers": [vars(work) for work in works],
        "failures": [{"error": cause, "trials": n} for cause, n in causes.most_common()],
    }
    rows = {
        "state": state,
        "trials": ", ".join(count_words(trials)) or "none yet",
        "best value": f"[bold]{format_value(best[0].values[0])}[/] in trial {best[0].number}"
        if document["best_value"] is not None
        else "",
    }
    for work in works:
        some = f", {work.failed} failed" if work.failed else ""
        rows[markup(work.name)] = f"{work.finished} trials{some}"
    shown = [f"[red]{n} failed:[/] {markup(cause)}" for cause, n in causes.most_common(5)]
    answer(document, facts(rows), *shown, as_json=json)
    return FAILED if state in ("failed", "interrupted") else OK


def retry_failed(study: Study, /, *, places: Places = HERE, json: Json = False) -> int:
    """Put the parameters of failed trials into the study's queue again, each once.

    Whoever runs the study takes them before new ones, and so does its next run. They count as
    trials of their own.

    ```
    prefect-optuna retry-failed lynx-hare
    ```
    """
    from prefect_optuna.blocks import as_study_storage
    from prefect_optuna.flows.session import state_of

    with working(f"Reading {study!r} ..."):
        loaded = as_study_storage(places.storage).load_study(study)
        trials = loaded.get_trials(deepcopy=False)
        asked = {trial.user_attrs.get(_RETRIES) for trial in trials}
        again = [trial for trial in _failed(trials) if trial.number not in asked]
        for trial in again:
            loaded.enqueue_trial(trial.params, user_attrs={_RETRIES: trial.number})
    runs = state_of(loaded, trials) in ("running", "paused")
    then = (
        "Whoever runs the study takes them next."
        if runs
        else "The next run takes them first; ask it for so many more trials."
    )
    words = f"{len(again)} failed trials wait in the queue. {then}" if again else ""
    document = {"study": study, "trials": [trial.number for trial in again]}
    answer(document, *([words] if words else []), as_json=json)
    if not again:
        note(f"No trial of {markup(study)} has failed that was not asked again.")
    return OK


def _failed(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """List the trials that failed by their own error."""
    from optuna.trial import TrialState

    from prefect_optuna.flows.session import is_lost

    return [trial for trial in trials if trial.state == TrialState.FAIL and not is_lost(trial)]


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
    from prefect_optuna.blocks.study_summary import summarize
    from prefect_optuna.flows.session import state_of
    from prefect_optuna.tasks import delete_study

    with working(f"Reading {study!r} ..."):
        loaded = as_study_storage(places.storage).load_study(study)
        summary = summarize(loaded)
        state = state_of(loaded, summary.unfinished, summary.finished)
    if state in ("running", "paused"):
        raise InvalidSettingError(
            f"The study {study!r} is {state}. First: {command('prefect-optuna', 'stop', study)}"
        )
    if not yes:
        if not sys.stdin.isatty():
            raise InvalidSettingError(
                f"{study!r} has {summary.n_trials} trials, and nobody is here to be asked. "
                "With --yes it is deleted."
            )
        question = f"Delete {study} with its {summary.n_trials} trials and its archive? [y/N]"
        note(markup(question))
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            note("Kept.")
            return FAILED
    with working(f"Deleting {study!r} ..."):
        gone = delete_study(study, **places.keywords())
    document = {
        "study": study,
        "trials": summary.n_trials,
        "archive": {"files": gone.files, "bytes": gone.size} if gone else None,
    }
    archive = f" and {gone.files} files of its archive" if gone else ""
    answer(document, markup(f"Deleted: {study}, {summary.n_trials} trials{archive}."), as_json=json)
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
    loaded = block.load_study(study)
    leaders = {key: run for key, run in living_sessions(loaded).items() if run.get("leads")}
    if not leaders:
        raise InvalidSettingError(
            f"Expected a study that runs on workers, found that no `distribute` runs {study!r} in "
            f"{block.location} now. Start one: prefect-optuna deploy --workers {workers} --run ..."
        )
    for key in leaders:
        give_order(loaded, key, workers=workers)
    before = next(iter(leaders.values()))["workers"]
    answer(
        {"study": study, "workers": workers, "before": before},
        markup(f"{study}: {workers} workers, in place of {before}."),
        as_json=json,
    )


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

    kept = [trial for trial in Spool() if not ids or trial.id in ids]
    if unknown := set(ids) - {trial.id for trial in kept}:
        note(f"[bold red]Error:[/] The spool has no {markup(', '.join(sorted(unknown)))}.")
        return FAILED
    done: list[str] = []
    if action == "send":
        with working("Sending ..."):
            done = [trial.id for trial in send(kept, **places.keywords())]
    elif action == "drop":
        if not ids and not everything:
            note("[bold red]Error:[/] Name what to drop, or give --all: it cannot be brought back.")
            return FAILED
        for trial in kept:
            trial.drop()
        done = [trial.id for trial in kept]
    words = {"list": "waits", "send": "sent", "drop": "dropped"}
    rows = [
        {
            "id": trial.id,
            "study": trial.study_name,
            "storage": trial.storage,
            "trial": trial.trial.number,
            "state": trial.trial.state.name.lower(),
            "values": trial.trial.values,
            "at": trial.at,
            "bytes": 0 if trial.encoded is None else len(trial.encoded.content),
            "now": words[action] if trial.id in done else "waits",
        }
        for trial in kept
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
