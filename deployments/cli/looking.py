"""Commands that look at studies, carry them, and manage their runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from prefect_optuna.deployments.cli.output import (
    FAILED,
    HERE,
    OK,
    Json,
    Places,
    Study,
    answer,
    command,
    markup,
    note,
    working,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from prefect_optuna.blocks import StudyStorage

# Commands for whoever runs a study, and for a study as a whole.


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
    from prefect_optuna.deployments.cli.views import facts, follow, work_done
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
    from prefect_optuna.deployments.cli.views import ago

    values = row["values"]
    shown = ", ".join(f"{v:g}" for v in values) if isinstance(values, list) else row["state"]
    when = ago(datetime.fromtimestamp(float(str(row["at"]))))  # noqa: DTZ006 - as `ago` takes it
    text = f"trial {row['trial']} of {row['study']!r} in {row['storage']}: {shown}, {when}"
    return visible_line(text)


def studies(*, places: Places = HERE, json: Json = False) -> None:
    """List the studies, the latest first.

    ```
    prefect-optuna studies
    prefect-optuna studies --storage redis-study-storage/lab
    prefect-optuna studies --json | jq -r '.[].name'
    ```
    """
    from prefect_optuna.blocks import as_study_storage
    from prefect_optuna.deployments.cli.views import studies_table

    block = as_study_storage(places.storage)
    with working("Reading the studies ..."):
        rows = [_overview(block, name) for name in block.study_names()]
    rows.sort(key=lambda row: str(row["last"] or ""), reverse=True)  # as text, they sort by time
    if not rows:
        note(f"There are no studies in {markup(block.location)} yet.")
    answer(rows, *([studies_table(rows)] if rows else []), as_json=json)


def show(
    study: Study,
    /,
    *,
    source: Annotated[
        bool,
        Parameter(negative="", help="The archived code instead, to be read before it is trusted."),
    ] = False,
    places: Places = HERE,
    json: Json = False,
) -> None:
    """Show one study: how it stands, its best trials, its archive.

    ```
    prefect-optuna show lynx-hare
    prefect-optuna show lynx-hare --json | jq .best_params
    prefect-optuna show lynx-hare --source
    ```
    """
    if source:
        from prefect_optuna.tasks import ArchivedStudy

        with working(f"Reading {study!r} ..."):
            text = ArchivedStudy.load(study, **places.keywords()).source()
        answer({"name": study, "source": text}, markup(text), as_json=json)
        return
    from rich.console import Console

    from prefect_optuna.blocks import (
        PrefectOptunaError,
        as_artifact_filesystem,
        as_study_storage,
        logged_metrics,
    )
    from prefect_optuna.blocks.artifacts.trial_log import logged_artifacts
    from prefect_optuna.blocks.study_summary import summarize
    from prefect_optuna.deployments.cli.views import facts
    from prefect_optuna.flows.session import state_of
    from prefect_optuna.flows.wording import (
        best_trials_table,
        format_duration,
        format_value,
        named_states,
        state_words,
    )
    from prefect_optuna.tasks import ArchivedStudy

    with working(f"Reading {study!r} ..."):
        block = as_study_storage(places.storage)
        loaded = block.load_study(study)
        filesystem = as_artifact_filesystem(places.artifacts)
        summary = summarize(loaded)
        state = state_of(loaded, summary.unfinished, summary.finished)
        try:
            archived = ArchivedStudy.of(loaded, artifacts=filesystem)
            reevaluations = archived.reevaluations()
            archive, headline = str(archived.signatures), ""
            code = archived.versions[-1].code_version[:12]
            python = archived.environment.python
            sampler, pruner = archived.environment.sampler, archived.environment.pruner
        except PrefectOptunaError as error:
            archived, reevaluations, code, python, sampler, pruner = None, [], "", "", "", ""
            archive, headline = "", str(error).splitlines()[0]
    ranked = summary.best
    counts = named_states(summary.states, summary.lost)
    directions = [direction.name.lower() for direction in loaded.directions]
    single = len(directions) == 1
    elapsed = summary.elapsed(until_now=state == "running")
    last = reevaluations[-1] if reevaluations else None
    document = {
        "name": study,
        "directions": directions,
        "state": state,
        "states": {**counts, "lost": summary.lost},
        "best_trials": [_trial(trial) for trial in (ranked[:1] if single else ranked)],
        "best_value": ranked[0].values[0] if single and ranked else None,
        "best_params": ranked[0].params if single and ranked else None,
        "best_artifacts": logged_artifacts(ranked[0]) if single and ranked else None,
        "best_metrics": logged_metrics(ranked[0]) if single and ranked else None,
        "seconds": elapsed,
        "storage": block.location,
        "artifacts": filesystem.location(),
        "archived": archived is not None,
        "code_version": archived.versions[-1].code_version if archived else None,
        "sampler": sampler or None,
        "pruner": pruner or None,
        "reevaluations": [
            {"created": past.created, "reproduced": past.reproduced, "headline": past.headline}
            for past in reevaluations
        ],
    }
    best = ""
    if ranked and single:
        best = f"[bold]{format_value(ranked[0].values[0])}[/] in trial {ranked[0].number}"
    elif ranked:
        best = f"{len(ranked)} trials are Pareto-best"
    elif counts["complete"]:
        best = "none: no trial is feasible"
    lost = [f"{summary.lost} lost"] if summary.lost else []
    words = ", ".join([*state_words(counts, summary.infeasible), *lost])
    rows = facts(
        {
            "best value": best,
            "trials": words or "none yet",
            "logged": markup(", ".join(logged_artifacts(ranked[0]))) if single and ranked else "",
            "metrics": markup(_named(logged_metrics(ranked[0]))) if single and ranked else "",
            "took": format_duration(elapsed) if elapsed else "",
            "study": markup(block.location),
            "archive": markup(filesystem.location() if archived else f"none ({headline})"),
            "code": markup(f"{code}, Python {python}") if archived else "",
            "sampler": markup(f"{sampler}, {pruner}") if sampler else "",
            "signature": markup(archive),
            "re-evaluated": markup(f"{last.created[:16].replace('T', ' ')}: {last.headline}")
            if last
            else "",
        }
    )
    title = f"[bold]{markup(study)}[/] [dim]{', '.join(directions)}, {state}[/]\n"
    shown: list[Any] = [title, rows]
    if ranked:
        width = Console().width
        shown += ["", best_trials_table(ranked, directions, width=width)]
    answer(document, *shown, as_json=json)


def trials(
    study: Study,
    /,
    *,
    which: Annotated[
        str | None,
        Parameter(
            metavar="SELECTION",
            help="*best:10*, *pareto*, *complete*, *pruned*, *failed*, *all* or numbers as *3,17*; "
            "by default every trial.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        Parameter(help="How many at most; by default 20, and all with --json; 0 for all."),
    ] = None,
    csv: Annotated[
        Path | None,
        Parameter(
            metavar="FILE",
            help="Write all of them to a CSV file; *-* is standard output.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    parquet: Annotated[
        Path | None, Parameter(metavar="FILE", help="Write all of them to a Parquet file.")
    ] = None,
    places: Places = HERE,
    json: Json = False,
) -> None:
    """List the trials of a study, the best first.

    Of a pruned trial the last value that it reported stands in brackets.

    ```
    prefect-optuna trials lynx-hare
    prefect-optuna trials lynx-hare --which pruned --limit 0
    prefect-optuna trials lynx-hare --which 3,17 --json
    prefect-optuna trials lynx-hare --csv - | head
    ```
    """
    from prefect_optuna.blocks import as_study_storage
    from prefect_optuna.blocks.study_summary import best_first, summarize
    from prefect_optuna.deployments.cli.views import trials_table
    from prefect_optuna.errors import InvalidSettingError
    from prefect_optuna.tasks.reevaluation.verdicts import select_trials

    if str(csv).startswith("--"):
        raise InvalidSettingError(f"`--csv` needs a file, or `-`; found the option {str(csv)!r}.")
    if json and csv == Path("-"):
        raise InvalidSettingError(
            "`--json` and `--csv -` both write to standard output. Give one of them, or --csv FILE."
        )
    with working(f"Reading {study!r} ..."):
        loaded = as_study_storage(places.storage).load_study(study)
        directions = [direction.name.lower() for direction in loaded.directions]
        if limit is None:
            limit = 0 if json else 20
        # The first page of a large study needs not all of it.
        is_page = which is None and limit > 0 and not csv and not parquet
        page = summarize(loaded) if is_page else None
        if page is not None and len(page.best) >= limit:
            chosen, total = page.best[:limit], page.n_trials
        elif which is None:
            every = loaded.get_trials(deepcopy=False)
            best = best_first(every, directions)
            numbers = {trial.number for trial in best}
            chosen = best + [trial for trial in every if trial.number not in numbers]
            total = len(chosen)
        else:
            chosen = select_trials(loaded, as_selection(which))
            total = len(chosen)
    if csv or parquet:
        from prefect_optuna.tasks.archive.record.trial_records import write_csv, write_parquet

        if parquet is not None:
            write_parquet(chosen, parquet)
        if csv == Path("-"):
            write_csv(chosen, sys.stdout)
            return
        if csv is not None:
            write_csv(chosen, csv)
        paths = [str(path) for path in (csv, parquet) if path is not None]
        shown_paths = [markup(f"{path} ({len(chosen)} trials)") for path in paths]
        answer({"paths": paths, "trials": len(chosen)}, *shown_paths, as_json=json)
        return
    shown = chosen[:limit] if limit > 0 else chosen
    table = trials_table(shown, directions)
    answer([_trial(trial) for trial in shown], table, as_json=json)
    if len(shown) < total:
        note(f"[dim]The first {len(shown):,} of {total:,}; --limit 0 shows all of them.[/]")


def export(
    study: Study,
    file: Annotated[
        Path | None, Parameter(help="The file; by default *STUDY.zip* in this directory.")
    ] = None,
    /,
    *,
    places: Places = HERE,
    json: Json = False,
) -> None:
    """Write a study with its archive to one file.

    *import* reads it anywhere, into any storage.

    ```
    prefect-optuna export lynx-hare
    prefect-optuna export lynx-hare /backup/lynx-hare.zip
    ```
    """
    from prefect_optuna.tasks import ArchivedStudy

    target = file or Path(f"{study.replace('/', '-')}.zip")
    with working(f"Exporting {study!r} ..."):
        archived = ArchivedStudy.load(study, **places.keywords())
        path = archived.export(target)
        versions = range(len(archived.versions))
        read = {file.name: file for version in versions for file in archived.inputs(version)}
    size = path.stat().st_size
    inputs = [{"name": n, "bytes": file.bytes, "kept": file.kept} for n, file in read.items()]
    document = {"path": str(path), "bytes": size, "inputs": inputs}
    answer(document, markup(f"{path} ({size:,} bytes)"), as_json=json)
    for item in read.values():
        where = "in the file" if item.kept else "not in the file; `keep_inputs` archives it"
        note(f"[dim]Its trials have read {markup(item.name)} ({item.bytes:,} bytes), {where}.[/]")


def import_(
    file: Annotated[Path, Parameter(help="A file that *export* has written.")],
    /,
    *,
    name: Annotated[
        str | None, Parameter(help="What to call the study here; by default as it was called.")
    ] = None,
    places: Places = HERE,
    json: Json = False,
) -> None:
    """Bring a study in from a file that *export* has written.

    Nothing of it is executed.

    ```
    prefect-optuna import lynx-hare.zip
    prefect-optuna import lynx-hare.zip --name lynx-hare-of-a-friend
    ```
    """
    from prefect_optuna.errors import StudyMismatchError
    from prefect_optuna.tasks import ArchivedStudy

    with working(f"Importing {file} ..."):
        try:
            archived = ArchivedStudy.import_(file, study_name=name, **places.keywords())
        except StudyMismatchError as error:
            said = str(error).replace("study_name=..., or to_study_name=...", "--name NAME")
            raise StudyMismatchError(said) from error
    brought = archived.study.study_name
    count = len(archived.study.get_trials(deepcopy=False))
    answer(
        {"study": brought, "trials": count},
        markup(f"{brought}: {count} trials. {command('prefect-optuna', 'show', brought)}"),
        as_json=json,
    )


def as_selection(words: str) -> str | list[int]:
    """Parse what somebody typed for `trials`: a word, or numbers with commas between them.

    Example:
        >>> from prefect_optuna.deployments.cli.looking import as_selection
        >>> as_selection("best:5"), as_selection("3,17")
        ('best:5', [3, 17])
    """
    parts = [part.strip() for part in words.split(",") if part.strip()]
    if parts and all(part.isdecimal() for part in parts):
        return [int(part) for part in parts]
    return words


def _overview(block: StudyStorage, name: str) -> dict[str, Any]:
    """A study in one row."""
    from prefect_optuna.blocks.study_summary import summarize
    from prefect_optuna.flows.session import state_of
    from prefect_optuna.flows.wording import named_states

    study = block.load_study(name)
    summary = summarize(study)
    counts = named_states(summary.states, summary.lost)
    best = summary.best[0] if summary.best else None
    directions = [direction.name.lower() for direction in study.directions]
    return {
        "name": name,
        "directions": directions,
        "finished": summary.finished,
        "state": state_of(study, summary.unfinished, summary.finished),
        "running": counts["running"],
        "states": counts,
        "best_trial": best.number if best else None,
        "best_values": best.values if best else None,
        "pareto": len(summary.best) if len(directions) > 1 else None,
        "last": summary.last,
    }


def _named(values: Mapping[str, Any]) -> str:
    from prefect_optuna.flows.wording import format_value

    return ", ".join(f"{name}={format_value(value)}" for name, value in values.items())


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": trial.values,
        "params": trial.params,
        "constraints": trial.constraints,
        "intermediate_values": trial.intermediate_values,
        "started": trial.datetime_start,
        "completed": trial.datetime_complete,
        "seconds": trial.duration.total_seconds() if trial.duration else None,
        "user_attrs": trial.user_attrs,
    }
