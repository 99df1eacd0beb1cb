"""The page of a re-evaluation in Prefect's UI; the pages of one study are one timeline."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.artifacts import create_markdown_artifact

from prefect_optuna.blocks.artifacts.markdown import code, escape
from prefect_optuna.flows.report import report_key
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
SHOWN_REEVALUATIONS = 10
"""How many re-evaluations of a study its page lists, the latest ones."""


def reevaluation_key(study_name: str) -> str:
    """The key of a study's re-evaluations among Prefect's artifacts.

    Example:
        >>> reevaluation_key("lynx-hare")
        'reevaluation-lynx-hare'
    """
    return "reevaluation-" + report_key(study_name).removeprefix("study-")


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
            lines += [f"    - {escape(one)}" for one in trials[0].experiments]
    if result.environment != "here":
        lines += ["", "## Environment", "", _ENVIRONMENTS[result.environment]]
        lines += ["", *(f"- {escape(note)}" for note in result.notes)] if result.notes else []
    if failures := [trial for trial in result.trials if trial.message]:
        lines += ["", "## Failures", ""]
        lines += [f"- Trial {t.number}: {code(t.message)}" for t in failures]
    if result.scope:
        lines += ["", "## Scope that was changed", "", "| parameter | value |", "|---|---|"]
        lines += [f"| {escape(name)} | {escape(value)} |" for name, value in result.scope.items()]
    if len(history) > 1:
        lines += ["", "## History", "", "| time (UTC) | reproduced | largest difference |"]
        lines += ["|---|---|---:|", *map(_past, reversed(history[-SHOWN_REEVALUATIONS:]))]
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
    largest = max((t.difference for t in result.trials if t.difference is not None), default=None)
    time = result.created[:16].replace("T", " ")
    mark = _MARKS["reproduced" if result.reproduced else "drifted" if result.drifted else "varies"]
    shown = "" if largest is None else f"{largest:.3g}"
    return f"| {time} | {mark} {result.headline.replace(' reproduced', '', 1)} | {shown} |"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(map(format_value, values))


def _tolerance(value: float | tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in as_tuple(value))
