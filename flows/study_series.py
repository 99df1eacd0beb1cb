"""Studies in a row: each run is one of its own, and begins with the best of the last one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run as current_flow_run

from prefect_optuna.blocks import StudyStorage
from prefect_optuna.blocks.artifacts.markdown import code, data_uri, escape
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.flows.plot_style import BLUE, figure_png, new_figure, style
from prefect_optuna.flows.report import report_key
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.selection import select_trials

WARM = "prefect_optuna:warm_start"
"""The user attribute of a trial that was asked since it was among the best of another study."""

_SHOWN = 30


@dataclass(frozen=True)
class StudySeries:
    """The studies of a schedule: `fit-20261130-040000` and those before it.

    Attributes:
        base: what they are called without the time.
        name: the study of this run.
    """

    base: str
    name: str

    @classmethod
    def of_run(cls, base: str | None, warm_start: int) -> StudySeries:
        """The series that this flow run goes on with."""
        base = cls.checked(base, warm_start)
        at = current_flow_run.scheduled_start_time
        return cls(base, f"{base}-{datetime.fromtimestamp(at.timestamp(), UTC):%Y%m%d-%H%M%S}")

    @staticmethod
    def checked(base: str | None, warm_start: int) -> str:
        """Refuse what makes no series, also before a server is started."""
        if not base:
            raise InvalidSettingError(
                "`warm_start` makes studies in a row, called after `study_name` and the time: give "
                "its name."
            )
        if warm_start < 0:
            raise InvalidSettingError(
                "`warm_start` is how many of the best trials of the last study are asked first, 0 "
                f"or more; found {warm_start}."
            )
        return base

    def before(self, block: StudyStorage) -> list[str]:
        """The studies before this one, the first one first."""
        mine = re.compile(re.escape(self.base) + r"-\d{8}-\d{6}")
        names = set(block.study_names())
        later = sorted(name for name in names if mine.fullmatch(name) and name < self.name)
        return [self.base, *later] if self.base in names else later

    def warm(self, study: optuna.Study, block: StudyStorage, count: int) -> str | None:
        """Have the parameters of the best trials of the last study be asked first.

        Returns:
            That study; `None` where there is none with a complete trial, or they are there already.
        """
        if not count or study.get_trials(deepcopy=False):
            return None
        for name in reversed(self.before(block)):
            last = block.load_study(name)
            best = select_trials(last, f"best:{count}") if _complete(last) else []
            if not best:
                continue
            for trial in best:
                study.enqueue_trial(trial.params, user_attrs={WARM: f"{name}:{trial.number}"})
            return name
        return None

    def publish(self, block: StudyStorage) -> None:
        """Show all of them in Prefect's UI, as one page that is renewed."""
        names = [*self.before(block), self.name][-_SHOWN:]
        studies = [block.load_study(name) for name in names]
        create_markdown_artifact(
            render_series(self.base, studies),
            key="series-" + report_key(self.base).removeprefix("study-"),
            description=escape(f"Studies of {self.base!r}: {len(names)}"),
        )


def render_series(base: str, studies: Sequence[optuna.Study]) -> str:
    """Studies in a row as Markdown: the best value of each, the last one first."""
    bests = [_best(study) for study in studies]
    lines = [f"# Studies of {code(base)}", ""]
    if len(studies[-1].directions) == 1 and any(best is not None for best in bests):
        lines += [f"![best values]({data_uri(_plot(studies, bests))})", ""]
    lines += ["| study | trials | best | from the last one |", "|---|---:|---:|---:|"]
    for study, best in zip(reversed(studies), reversed(bests), strict=True):
        trials = study.get_trials(deepcopy=False)
        value = "" if best is None else ", ".join(format_value(v) for v in best.values or ())
        warm = sum(WARM in trial.user_attrs for trial in trials)
        lines.append(f"| {code(study.study_name)} | {len(trials)} | {value} | {warm or ''} |")
    return "\n".join(lines)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _best(study: optuna.Study) -> FrozenTrial | None:
    best = select_trials(study, "best:1") if _complete(study) else []
    return best[0] if best else None


def _plot(studies: Sequence[optuna.Study], bests: Sequence[FrozenTrial | None]) -> bytes:
    figure = new_figure(2.4)
    axes = figure.add_subplot()
    style(axes)
    times: list[Any] = []
    values: list[float] = []
    for study, best in zip(studies, bests, strict=True):
        started = [t.datetime_start for t in study.get_trials(deepcopy=False) if t.datetime_start]
        if best is not None and best.values and started:
            times.append(min(started))
            values.append(best.values[0])
    axes.plot(times, values, "o-", color=BLUE)
    axes.set_ylabel("best value")
    axes.tick_params(axis="x", labelrotation=20)
    return figure_png(figure)
