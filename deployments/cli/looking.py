"""Commands that look at studies, and carry them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from prefect_optuna.deployments.cli.arguments import HERE, Json, Places, Study
from prefect_optuna.deployments.cli.output import answer, command, markup, note, working

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from prefect_optuna.blocks import StudyStorage


def studies(*, places: Places = HERE, json: Json = False) -> None:
    """List the studies, the latest first.

    ```
    prefect-optuna studies
    prefect-optuna studies --storage redis-study-storage/lab
    prefect-optuna studies --json | jq -r '.[].name'
    ```
    """
    from prefect_optuna.blocks import as_study_storage
    from prefect_optuna.deployments.cli.tables import studies_table

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
    from prefect_optuna.deployments.cli.tables import facts
    from prefect_optuna.flows.progress import best_trials_table
    from prefect_optuna.flows.session import state_of
    from prefect_optuna.flows.wording import (
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
    from prefect_optuna.deployments.cli.tables import trials_table
    from prefect_optuna.errors import InvalidSettingError
    from prefect_optuna.tasks.selection import select_trials

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
        from prefect_optuna.tasks.archive.record.trial_table import write_csv, write_parquet

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
