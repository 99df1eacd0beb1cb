"""`reevaluate`: archived trials again, in a process that never saw the script, and their page."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import datetime
from functools import partial
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from optuna.trial import FrozenTrial
from packaging.version import InvalidVersion, Version
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as current_flow_run
from prefect.states import Completed
from prefect.task_runners import TaskRunner
from prefect.tasks import task
from pydantic import Field

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks.artifacts.pages import code, data_uri, escape
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.errors import DriftError, InvalidSettingError, UntrustedArchiveError
from prefect_optuna.flows.events import emit_drifted
from prefect_optuna.flows.optimize_flow import Storage
from prefect_optuna.flows.plots import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    VERMILION,
    figure_png,
    new_figure,
    style,
)
from prefect_optuna.flows.report import reevaluation_key
from prefect_optuna.flows.study_flow import note_result, study_flow
from prefect_optuna.flows.task_runners import RunnerName, open_task_runner
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.archive import ArchivedStudy
from prefect_optuna.tasks.archive.code.capture import (
    Needed,
    lack_words,
    missing_packages,
    require_packages,
)
from prefect_optuna.tasks.environments import EnvironmentChoice, newest_version
from prefect_optuna.tasks.reevaluation.replay import MOST_SECONDS, histories
from prefect_optuna.tasks.reevaluation.rerun import (
    Inputs,
    RerunAnswer,
    RerunRequest,
    Threads,
    check_variables,
    prepared_for,
    rerun,
    variables_without_secrets,
)
from prefect_optuna.tasks.reevaluation.verdicts import (
    ReevaluatedTrial,
    Reevaluation,
    as_tuple,
    compare,
    constraint_words,
    luck_words,
    scope_as_text,
    select_trials,
    upload_words,
)
from prefect_optuna.tasks.reevaluation.why import (
    Drift,
    find_causes,
    likely_cause,
    scope_that_is_read,
)
from prefect_optuna.tasks.seeding import recorded_seed

# The page of a re-evaluation in Prefect's UI; the pages of one study are one timeline.


_MARKS = {"reproduced": "✅", "drifted": "⚠️", "varies": "🎲", "failed": "❌"}
_ENVIRONMENTS = {
    "recorded": "They ran with the Python and the packages that were recorded.",
    "closest": "They ran with the Python and the packages that come closest to what was recorded.",
}
SHOWN_REEVALUATIONS = 40
"""Number of re-evaluations of a study that its page draws, the latest ones."""

_LISTED = 10


def publish_reevaluation(result: Reevaluation, history: Sequence[Reevaluation]) -> None:
    """Show a re-evaluation in Prefect's UI."""
    create_markdown_artifact(
        render_reevaluation(result, history),
        key=reevaluation_key(result.study_name),
        description=escape(f"Reevaluation of {result.study_name!r}: {result.headline}"),
    )


def render_reevaluation(result: Reevaluation, history: Sequence[Reevaluation] = ()) -> str:
    """A re-evaluation as Markdown."""
    count = sum(trial.verdict == "reproduced" for trial in result.trials)
    lines = [
        f"# {count} of {len(result.trials)} trials reproduced",
        "",
        f"Study {code(result.study_name)}, tolerance {_tolerance(result.rtol)} relative, "
        f"{_tolerance(result.atol)} absolute"
        + (f", {result.repeats} repetitions" if result.repeats > 1 else "")
        + (", each with another seed than the trial's own." if result.reseeded else "."),
        "",
        "| trial | archived | now | spread | difference | verdict |",
        "|---:|---:|---:|---:|---:|---|",
        *map(_row, result.trials),
    ]
    if constrained := [trial for trial in result.trials if constraint_words(trial, format_value)]:
        lines += ["", "## Constraints", "", "| trial | constraints |", "|---:|---|"]
        lines += [
            f"| {t.number} | {escape(constraint_words(t, format_value))} |" for t in constrained
        ]
    if uploaded := [trial for trial in result.trials if upload_words(trial)]:
        lines += ["", "## Artifacts", ""]
        lines += [f"- Trial {t.number}: {escape(upload_words(t))}" for t in uploaded]
    if lucky := [trial for trial in result.trials if luck_words(trial, format_value)]:
        lines += ["", "## Luck", ""]
        lines += [f"- Trial {t.number}: {escape(luck_words(t, format_value))}" for t in lucky]
    causes: dict[str, list[ReevaluatedTrial]] = {}
    for trial in result.trials:
        if trial.verdict in ("drifted", "failed"):
            causes.setdefault(trial.cause, []).append(trial)
    if causes:
        looked_for = any(trial.experiments for trials in causes.values() for trial in trials)
        lines += ["", "## Cause" if looked_for else "## Likely cause", ""]
        for cause, trials in causes.items():
            noun = "Trial" if len(trials) == 1 else "Trials"
            numbers = ", ".join(str(trial.number) for trial in trials)
            lines.append(f"- {noun} {numbers}: {escape(cause)}")
            lines += [f"    - {escape(line)}" for line in trials[0].experiments]
    if result.environment != "here":
        lines += ["", "## Environment", "", _ENVIRONMENTS[result.environment]]
        lines += [
            f"\n- {escape(name)} {escape(version)} took the place of what was recorded"
            for name, version in result.upgraded.items()
        ]
        lines += ["", *(f"- {escape(note)}" for note in result.notes)] if result.notes else []
    if failures := [trial for trial in result.trials if trial.message]:
        lines += ["", "## Failures", ""]
        lines += [f"- Trial {t.number}: {code(t.message)}" for t in failures]
    if result.scope:
        lines += ["", "## Scope that was changed", "", "| parameter | value |", "|---|---|"]
        lines += [f"| {escape(name)} | {escape(value)} |" for name, value in result.scope.items()]
    if len(history) > 1:
        lines += ["", "## History", "", f"![drift]({data_uri(drift_plot(history))})", ""]
        lines += [
            "| time (UTC) | packages | reproduced | largest difference |",
            "|---|---|---|---:|",
        ]
        lines += map(_past, reversed(history[-_LISTED:]))
    return "\n".join(lines)


def _row(trial: ReevaluatedTrial) -> str:
    archived = "none" if trial.archived is None else _numbers(as_tuple(trial.archived))
    difference = "" if trial.difference is None else f"{trial.difference:.3g}"
    spread = ", ".join(f"{value:.2g}" for value in trial.spread)
    return (
        f"| {trial.number} | {archived} | {_numbers(trial.mean)} | {spread} | {difference} "
        f"| {_MARKS[trial.verdict]} {trial.verdict} |"
    )


def _past(result: Reevaluation) -> str:
    largest = _largest(result)
    time = result.created[:16].replace("T", " ")
    mark = _MARKS["reproduced" if result.reproduced else "drifted" if result.drifted else "varies"]
    shown = "" if largest is None else f"{largest:.3g}"
    words = result.headline.replace(" reproduced", "", 1)
    return f"| {time} | {escape(packages_words(result))} | {mark} {words} | {shown} |"


def packages_words(result: Reevaluation) -> str:
    """Name the packages with which trials ran again, in a word or two."""
    newer = ", ".join(f"{name} {version}" for name, version in result.upgraded.items())
    return newer or {"here": "today's"}.get(result.environment, result.environment)


def _largest(result: Reevaluation) -> float | None:
    differences = [t.difference for t in result.trials if t.difference is not None]
    return max(differences, default=None)


def drift_plot(history: Sequence[Reevaluation]) -> bytes:
    """Draw how far trials were from their archived values, each time that they ran again.

    There is a line for each of the packages; where a trial was not reproduced, it has a cross.
    """
    figure = new_figure(2.4)
    axes = figure.add_subplot()
    style(axes)
    lines: dict[str, list[Reevaluation]] = {}
    for past in history:
        name = "newer" if past.upgraded else packages_words(past)
        lines.setdefault(name, []).append(past)
    sizes = [size for past in history if (size := _largest(past)) and math.isfinite(size)]
    for (name, several), colour in zip(lines.items(), (BLUE, ORANGE, GREEN, PURPLE), strict=False):
        edge = max(sizes, default=1.0)  # for those that have no value at all
        times: Any = [datetime.fromisoformat(past.created) for past in several]
        heights = [
            size if (size := _largest(past)) is not None and math.isfinite(size) else edge
            for past in several
        ]
        axes.plot(times, heights, "o-", color=colour, label=f"{name} packages")
        bad = [place for place, past in enumerate(several) if past.drifted]
        axes.plot(
            [times[n] for n in bad], [heights[n] for n in bad], "x", color=VERMILION, markersize=9
        )
    axes.set_yscale("symlog", linthresh=min(sizes, default=1.0))
    axes.set_ylim(0, 3 * max(sizes, default=1.0))
    axes.set_ylabel("largest difference")
    axes.tick_params(axis="x", labelrotation=20)
    axes.legend(frameon=False, loc="upper left")
    return figure_png(figure)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(map(format_value, values))


def _tolerance(value: float | tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in as_tuple(value))


_RECORDED = "environment='recorded' (--environment recorded) runs it with the packages that it had."


@task(name="run-archived-trials", cache_policy=NO_CACHE, persist_result=False)
def run_archived_trials(request: RerunRequest) -> RerunAnswer:
    """Run archived trials again, in a fresh process on whichever machine this task runs."""
    return rerun(request)


def _checked(_: Set[str], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments whose `environment_variables` are names: the server records them."""
    check_variables(arguments.get("environment_variables", ()))
    return dict(arguments)


@study_flow(name="reevaluate", flow_run_name="{study_name}-again", check=_checked)
def reevaluate(
    study_name: str,
    *,
    trials: str | int | Sequence[int] | Callable[[FrozenTrial], bool] = "best:1",
    repeats: Annotated[int, Field(json_schema_extra={"minimum": 1})] = 1,
    reseed: bool = False,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    trusted: bool = False,
    scope: Mapping[str, Any] | None = None,
    environment_variables: Sequence[str] = (),
    threads: Threads = "recorded",
    inputs: Inputs = "here",
    environment: EnvironmentChoice | Literal["both"] = "here",
    when: str | None = None,
    why: bool = False,
    rtol: float | Sequence[float] = 1e-9,
    atol: float | Sequence[float] = 0.0,
    n_jobs: Annotated[int, Field(json_schema_extra={"minimum": -1})] = 1,
    task_runner: RunnerName | TaskRunner[Any] | None = None,
    fail_on_drift: bool = False,
) -> Reevaluation:
    """Run archived trials again, in a fresh process, and compare.

    The code is the archived one, which the present code, if there is any, cannot influence. Its
    process gets the environment variables that Python needs and an empty home folder: no
    credentials, no settings of Prefect, not the storage and no key. It runs as the same user. A
    pruned trial is pruned again after the same step, and compared by the last value it reported.
    Its random numbers follow from the seed that it had. Where it does not come out as it did, and
    the trials that ran before it in its process took two minutes at most, it is run once more
    after those: code may keep something from one trial to the next.
    What came of it is kept beside the archive, where `ArchivedStudy.reevaluations()` reads it, and
    shown as a Prefect artifact. For each trial that is not reproduced there is a Prefect event,
    `prefect-optuna.trial.drifted`.

    Args:
        study_name: The study.
        trials: Which ones: `best:K`, `pareto`, `complete`, `pruned`, `failed`, `all`, a number,
            several numbers, or a function of a trial.
        repeats: How many times each is run.
        reseed: Whether each repetition has another seed in place of the trial's own, which says
            how much of its value is luck: `mean`, `spread` and `distance` of each trial, whose
            verdict is `varies`, which is no drift. It needs two repetitions or more.
        storage: Where the study is kept, as `optimize` takes it.
        artifacts: Where its archive is kept, as `optimize` takes it.
        trusted: Whether the archived code may run. Look at it first with
            `ArchivedStudy.load(study_name).describe()`. Not needed where a key for archives is
            configured and the archive's signature holds.
        scope: Values that replace some of the archived scope.
        environment_variables: The names of variables that the archived code needs as well, such
            as `["DATA_FOLDER"]`; with `"HOME"`, it gets the real home folder. Where it runs, those
            that are set are passed on.
        threads: `recorded` starts its process with the variables for threads and hashes, the
            numbers of threads and the kernel of OpenBLAS that were recorded with the trials, as
            far as the processor has it; `here` with what holds here.
        inputs: `here` lets the code read what is here now; `archived` runs it in a folder of its
            own, where the files that `optimize(..., keep_inputs=...)` has kept lie at their
            relative paths. That needs `trusted`, for signatures do not cover them.
        environment: `here` runs them with the Python and the packages of this process; `recorded`
            with those that were recorded, in an environment that uv builds on the machine where
            they run, and that is kept in its user's cache folder; `closest` likewise, with what
            comes closest to what cannot be had, which the result's `notes` say; `both` with
            those of this process, and then with those that were recorded, as two re-evaluations;
            where this process lacks a package of the code, the first one is left out, and the
            second one's `notes` say so.
        when: The name of a package. Only where a newer version of it is out than was recorded, and
            than an earlier such run had, are they run: with the Python and the packages that were
            recorded, and that version. Else the flow run ends at once, and says so.
        why: Whether the cause of a drift is found by experiment: the trial runs again with one
            thing after the other put back as it was, the recorded packages first. Among those that
            differ, it is found by halving, in at most log2(n) + 2 runs. With `trusted`, archived
            data is put back, and environment variables that the code reads are passed on, except
            for secret ones and the home folder. `experiments` of each trial says what was tried.
        rtol: How far a value may differ, relative to the archived one; with several directions,
            perhaps one for each.
        atol: How far a value may differ, absolutely; with several directions, perhaps one for
            each.
        n_jobs: In how many processes they run at once; -1 for the number of processors.
        task_runner: Where those processes are started: `threads` (of this one), `processes`, or a
            Prefect task runner.
        fail_on_drift: Whether the flow run fails where a trial is not reproduced.

    Returns:
        The archived and the new values of each trial, with a verdict; of `both`, those with the
        recorded packages. `None` with `when`, where nothing is new.

    Raises:
        UntrustedArchiveError: Nobody has said that the archived code may run, or its signature
            does not hold.
        ArchiveError: The study has no archive, or it is incomplete or damaged.
        StudyNotFoundError: There is no such study.
        InvalidSettingError: `trials` or another argument cannot work.
        EnvironmentUnavailableError: The recorded environment cannot be had.
        DriftError: `fail_on_drift`, and a trial was not reproduced.

    Example:
        >>> from prefect_optuna.flows import optimize, reevaluate
        >>> def parabola(trial):
        ...     return (trial.suggest_float("x", -5, 5) - 2) ** 2
        >>> import tempfile, os
        >>> os.chdir(tempfile.mkdtemp())
        >>> result = optimize(parabola, study_name="docs", n_trials=20, seed=1)
        >>> again = reevaluate("docs", trials="best:2", trusted=True)
        >>> again.trials[0].verdict
        'reproduced'
        >>> again.trials[0].values[0] == result.best_value
        True
    """
    if repeats < 1:
        raise InvalidSettingError(f"`repeats` is 1 or more; found {repeats}.")
    if n_jobs == 0 or n_jobs < -1:
        raise InvalidSettingError(
            f"`n_jobs` is 1 or more, or -1 for the number of processors; found {n_jobs}."
        )
    if reseed and repeats < 2:
        raise InvalidSettingError(
            f"`reseed` measures how values vary with the seed: give `repeats`, 2 or more; found "
            f"{repeats}."
        )
    check_variables(environment_variables)
    archived = ArchivedStudy.load(study_name, storage=storage, artifacts=artifacts)
    n_values = len(archived.study.directions)
    relative = _for_each("rtol", rtol, n_values)
    absolute = _for_each("atol", atol, n_values)
    archived.require_trust(trusted)
    if inputs == "archived" and not trusted:
        raise UntrustedArchiveError(
            "No signature covers the files that trials have read, and code may run what it reads. "
            "inputs='archived' needs trusted=True."
        )
    chosen = select_trials(archived.study, trials)
    archived.verify_trials(chosen)
    scope_read = scope_that_is_read(scope, chosen, archived.scope())
    n_jobs = n_jobs if n_jobs > 0 else os.cpu_count() or 1
    is_here = task_runner is None or isinstance(task_runner, str)  # they run on this machine
    not_today: list[str] = []

    def once(packages: EnvironmentChoice, upgraded: dict[str, str]) -> Reevaluation:
        requests_for = partial(
            RerunRequest.of,
            archived,
            scope=scope,
            environment_variables=environment_variables,
            threads=threads,
            inputs=inputs,
            packages=packages,
            upgraded=upgraded,
        )
        requests = requests_for(chosen, repeats=repeats, reseed=reseed, parts=n_jobs)
        if is_here:
            for request in requests:
                prepared_for(request)  # what cannot be had is said before anything runs
        answers = _run(requests, n_jobs, task_runner)
        by_number = {trial.number: trial for trial in chosen}
        compared: dict[int, ReevaluatedTrial] = {}
        for request, answer in zip(requests, answers, strict=True):
            drifted: list[Drift] = []
            for again in answer.reruns:
                trial = by_number[again.number]
                rated = compare(trial, again, relative, absolute, reseeded=reseed)
                if rated.verdict in ("drifted", "failed"):
                    cause = likely_cause(trial, again, request, answer, scope_read)
                    missing = [str(file) for file in answer.inputs if file.now is None]
                    message = "; ".join(missing) if again.error and missing else rated.message
                    rated = rated.model_copy(update={"cause": cause, "message": message})
                    version = archived.version_of(again.number)
                    drifted.append(
                        Drift(
                            trial,
                            request,
                            answer,
                            run=lambda request: _run([request], 1, task_runner)[0],
                            is_reproduced=lambda again, trial=trial: (
                                compare(trial, again, relative, absolute).verdict == "reproduced"
                            ),
                            scope=archived.scope(version),
                            changed=scope_read,
                            inputs=partial(archived.archived_inputs, version) if trusted else None,
                            seed=recorded_seed(trial, request.environment.trials_seed),
                            variables=variables_without_secrets() if trusted else (),
                        )
                    )
                compared[again.number] = rated
            if drifted and not reseed and not scope_read:
                numbers = [drift.trial.number for drift in drifted]
                for ended in histories(
                    numbers,
                    archived.study.get_trials(deepcopy=False),
                    [t.number for t in request.trials],
                    most_seconds=inf if why else MOST_SECONDS,
                ):
                    archived.verify_trials(ended)
                    remembered = [
                        again
                        for answer in _run(requests_for(ended), 1, task_runner)
                        for again in answer.reruns
                    ]
                    for before, again in enumerate(remembered):
                        if again.number in numbers:
                            rated = compare(by_number[again.number], again, relative, absolute)
                            if rated.verdict == "reproduced":
                                compared[again.number] = rated.model_copy(update={"after": before})
                drifted = [d for d in drifted if not compared[d.trial.number].after]
            if why:
                for number, cause in find_causes(drifted).items():
                    compared[number] = compared[number].model_copy(
                        update={"cause": cause.text, "experiments": list(cause.experiments)}
                    )
        result = Reevaluation(
            study_name=study_name,
            trials=[compared[trial.number] for trial in chosen],
            repeats=repeats,
            reseeded=reseed,
            rtol=rtol if isinstance(rtol, (int, float)) else tuple(rtol),
            atol=atol if isinstance(atol, (int, float)) else tuple(atol),
            scope=scope_as_text(scope),
            environment=packages,
            upgraded=upgraded,
            notes=list(dict.fromkeys([*not_today, *(n for a in answers for n in a.notes)])),
            changes=requests[-1].environment.surroundings.diff(
                answers[-1].environment.surroundings
            ),
            flow_run_id=str(current_flow_run.id),
        )
        archived.record_reevaluation(result)
        _report_drift(archived, result)
        publish_reevaluation(result, archived.reevaluations(last=SHOWN_REEVALUATIONS))
        return result

    upgraded: dict[str, str] = {}
    choices: list[EnvironmentChoice]
    if when is not None:
        newest = _news(archived, when, environment, chosen)
        if newest is None:
            message = f"Nothing to do: no version of {when} is out that these trials have not had."
            get_run_logger().info("%s", message)
            return cast("Reevaluation", Completed(message=message))
        upgraded, choices = {when: newest}, ["recorded"]
    else:
        choices = ["here", "recorded"] if environment == "both" else [environment]
        if is_here and "here" in choices and (why_not := _lacking(archived, chosen, environment)):
            get_run_logger().warning("%s", why_not)
            not_today.append(why_not)
            choices.remove("here")
    results = [once(choice, upgraded) for choice in choices]
    drifted = [outcome for outcome in results if outcome.drifted]
    result = results[-1]
    if fail_on_drift and drifted:
        raise DriftError(f"{drifted[0]}", drifted[0])
    return note_result(result)


def _run(
    requests: Sequence[RerunRequest], n_jobs: int, task_runner: RunnerName | TaskRunner[Any] | None
) -> list[RerunAnswer]:
    if n_jobs == 1 and task_runner is None:
        return [run_archived_trials(request) for request in requests]
    with open_task_runner(task_runner, n_jobs) as runner:
        futures = [
            runner.submit(run_archived_trials, parameters={"request": request})
            for request in requests
        ]
        return [future.result() for future in futures]


def _news(
    archived: ArchivedStudy, package: str, environment: str, trials: Sequence[FrozenTrial]
) -> str | None:
    """The newest version of a package, if it is one that the trials have not run with."""
    if environment not in ("here", "recorded"):
        raise InvalidSettingError(
            "`when` runs them with the packages that were recorded, and one newer: leave out "
            f"`environment`; found {environment!r}."
        )
    known: set[str] = set()
    python = ""
    for version in {archived.version_of(trial.number) for trial in trials}:
        recorded = archived.environment_of(version)
        python = recorded.python
        if package not in recorded.distributions:
            near = difflib.get_close_matches(package, recorded.distributions, n=1)
            raise InvalidSettingError(
                f"`when` is a package that was recorded with the study; {package!r} was not"
                + (f". Did you mean {near[0]!r}?" if near else ".")
            )
        known.add(recorded.distributions[package])
    known |= {one.upgraded[package] for one in archived.reevaluations() if package in one.upgraded}
    newest = newest_version(package, python)
    try:
        return newest if all(Version(newest) > Version(used) for used in known) else None
    except InvalidVersion as error:
        raise InvalidSettingError(
            f"`when` compares versions of {package}, and one that was recorded is none: {error}."
        ) from None


def _lacking(archived: ArchivedStudy, trials: Sequence[FrozenTrial], environment: str) -> str:
    """Say what this process lacks for these trials; refuse them where they shall run with that."""
    versions = sorted({archived.version_of(trial.number) for trial in trials})
    missing: dict[str, Needed] = {}
    for version in versions:
        code = archived.capture(version), archived.environment_of(version)
        if environment == "here":
            require_packages(*code, otherwise=_RECORDED)
        # A worker may have this package and no other, and install those of each study.
        missing |= {package.name: package for package in missing_packages(*code)}
    if not missing:
        return ""
    return visible_line(
        f"{lack_words(missing.values())}: they ran with the recorded packages, and not with today's"
    )


def _for_each(name: str, tolerance: float | Sequence[float], n_values: int) -> list[float]:
    """A tolerance for each direction."""
    several = not isinstance(tolerance, (int, float))
    given = [float(t) for t in (tolerance if several else [tolerance] * n_values)]
    if len(given) != n_values or not all(number >= 0 for number in given):
        raise InvalidSettingError(
            f"`{name}` is a number, 0 or more, or one for each of the study's directions "
            f"({n_values}); found {tolerance!r}."
        )
    return given


def _report_drift(archived: ArchivedStudy, result: Reevaluation) -> None:
    """Say which trials were not reproduced: to people in the log, to automations by events."""
    for trial in result.trials:
        if trial.verdict in ("reproduced", "varies"):
            continue
        get_run_logger().warning(
            "Trial %d %s. %s", trial.number, trial.verdict, trial.message or trial.cause
        )
        emit_drifted(archived.manifest.uuid, result.study_name, trial)
