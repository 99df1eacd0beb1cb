"""The page of a re-evaluation in Prefect's UI; the pages of one study are one timeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from prefect.artifacts import create_markdown_artifact

from prefect_optuna.blocks.artifacts.markdown import code, data_uri, escape
from prefect_optuna.flows.plot_style import (
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
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.reevaluation.verdicts import (
    ReevaluatedTrial,
    Reevaluation,
    as_tuple,
    constraint_words,
    luck_words,
    upload_words,
)

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
