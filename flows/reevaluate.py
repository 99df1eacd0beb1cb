"""`reevaluate`: archived trials again, in a process that never saw the script."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.tasks import task
from pydantic import BaseModel, ConfigDict, Field

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks.errors import InvalidSettingError, UntrustedArchiveError
from prefect_optuna.flows.optimize import Storage
from prefect_optuna.flows.ranking import best_first
from prefect_optuna.flows.report import report_key
from prefect_optuna.flows.study_flow import study_flow
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.archive import ArchivedStudy
from prefect_optuna.tasks.rerun import Rerun, rerun_trials

__all__ = ["ReevaluatedTrial", "Reevaluation", "reevaluate"]

Verdict = Literal["reproduced", "drifted", "failed"]
Value = float | tuple[float, ...]


class ReevaluatedTrial(BaseModel):
    """An archived trial and what it gave when it was run again."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    number: int = Field(description="The trial's number in the study.")
    verdict: Verdict = Field(
        description="`reproduced` where every new value is within the tolerance, `drifted` where "
        "one is not, `failed` where a run gave none."
    )
    archived: Value = Field(description="The archived value; with several directions, a tuple.")
    values: list[Value] = Field(description="The new value of each repetition.")
    difference: float | None = Field(
        description="The largest difference to the archived value; `None` where there is none."
    )
    params: dict[str, Any] = Field(description="The trial's parameters.")
    message: str = Field(default="", description="Why it failed.")


class Reevaluation(BaseModel):
    """What came of running archived trials again."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    study_name: str = Field(description="The study.")
    trials: list[ReevaluatedTrial] = Field(description="The trials, in the order asked for.")
    rtol: float = Field(description="The relative tolerance.")
    atol: float = Field(description="The absolute tolerance.")

    @property
    def reproduced(self) -> bool:
        """Whether every trial gave its archived value again."""
        return all(trial.verdict == "reproduced" for trial in self.trials)

    def __repr__(self) -> str:
        rows = [
            f"  trial {t.number}: {t.verdict}, archived {_text(t.archived)}, "
            f"now {', '.join(_text(v) for v in t.values) or t.message}"
            for t in self.trials
        ]
        count = sum(t.verdict == "reproduced" for t in self.trials)
        title = f"Reevaluation of {self.study_name!r}: {count} of {len(rows)} reproduced"
        return "\n".join([title, *rows])

    __str__ = __repr__


@task(name="run-archived-trials", cache_policy=NO_CACHE, persist_result=False)
def _rerun(
    archived: ArchivedStudy,
    trials: Sequence[FrozenTrial],
    repeats: int,
    scope: Mapping[str, Any] | None,
) -> list[Rerun]:
    return rerun_trials(archived, trials, repeats=repeats, scope=scope)


@study_flow(name="reevaluate", flow_run_name="{study_name}-again")
def reevaluate(
    study_name: str,
    *,
    trials: str | int | Sequence[int] = "best:1",
    repeats: Annotated[int, Field(json_schema_extra={"minimum": 1})] = 1,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    trusted: bool = False,
    scope: Mapping[str, Any] | None = None,
    rtol: Annotated[float, Field(json_schema_extra={"minimum": 0})] = 1e-9,
    atol: Annotated[float, Field(json_schema_extra={"minimum": 0})] = 0.0,
) -> Reevaluation:
    """Run archived trials again, in a fresh process, and compare.

    The code is the archived one, which the present code, if there is any, cannot influence.

    Args:
        study_name: The study.
        trials: Which ones: `best:K`, `pareto`, a number, or several numbers.
        repeats: How many times each is run.
        storage: Where the study is kept, as `optimize` takes it.
        artifacts: Where its archive is kept, as `optimize` takes it.
        trusted: Whether the archived code may run. Look at it first with
            `ArchivedStudy.load(study_name).describe()`.
        scope: Values that replace some of the archived scope.
        rtol: How far a value may differ, relative to the archived one.
        atol: How far a value may differ, absolutely.

    Returns:
        The archived and the new values of each trial, with a verdict.

    Raises:
        UntrustedArchiveError: Nobody has said that the archived code may run.
        ArchiveError: The study has no archive, or it is incomplete or damaged.
        StudyNotFoundError: There is no such study.
        InvalidSettingError: `trials` or another argument cannot work.

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
    archived = ArchivedStudy.load(study_name, storage=storage, artifacts=artifacts)
    if not trusted:
        raise UntrustedArchiveError(
            f"`reevaluate` runs code from the archive of study {study_name!r}. Look at it with "
            f"ArchivedStudy.load({study_name!r}).describe(), and if you trust it, pass "
            "trusted=True."
        )
    chosen = select_trials(archived.study, trials)
    reruns = _rerun(archived, chosen, repeats=repeats, scope=scope)
    result = Reevaluation(
        study_name=study_name,
        trials=[
            _compare(trial, rerun, rtol, atol) for trial, rerun in zip(chosen, reruns, strict=True)
        ],
        rtol=rtol,
        atol=atol,
    )
    for trial in result.trials:
        if trial.verdict != "reproduced":
            get_run_logger().warning("Trial %d %s. %s", trial.number, trial.verdict, trial.message)
    create_markdown_artifact(
        _markdown(result),
        key="reevaluation-" + report_key(study_name).removeprefix("study-"),
        description=repr(result).splitlines()[0],
    )
    return result


def select_trials(study: optuna.Study, trials: str | int | Sequence[int]) -> list[FrozenTrial]:
    """The trials of a study that a selection means.

    Args:
        study: the study.
        trials: `"best:K"`, `"pareto"`, a number, or several numbers.

    Returns:
        Complete trials.

    Raises:
        InvalidSettingError: there is no such selection, or no such complete trial.

    Example:
        >>> import optuna
        >>> from prefect_optuna.flows.reevaluate import select_trials
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=5)
        >>> [trial.number for trial in select_trials(study, [3, 1])]
        [3, 1]
        >>> select_trials(study, "best:1")[0].number == study.best_trial.number
        True
    """
    every = study.get_trials(deepcopy=False)
    if isinstance(trials, str):
        ranked = best_first(every, [d.name.lower() for d in study.directions])
        word, colon, count = trials.partition(":")
        if trials == "pareto":
            chosen = ranked
        elif word == "best" and colon and count.isdigit() and int(count) > 0:
            chosen = ranked[: int(count)]
        else:
            raise InvalidSettingError(
                f'`trials` is "best:K", "pareto", a number or several numbers; found {trials!r}.'
            )
        if not chosen:
            raise InvalidSettingError(f"No trial of study {study.study_name!r} is complete.")
        return chosen
    numbers = [trials] if isinstance(trials, int) else list(trials)
    if not numbers:
        raise InvalidSettingError("`trials` names no trial.")
    for number in numbers:
        if not 0 <= number < len(every):
            raise InvalidSettingError(
                f"Study {study.study_name!r} has no trial {number}; it has {len(every)}, "
                "numbered from 0."
            )
        if every[number].state != TrialState.COMPLETE:
            raise InvalidSettingError(
                f"Trial {number} is {every[number].state.name} and has no value to compare with."
            )
    return [every[number] for number in numbers]


def _compare(trial: FrozenTrial, rerun: Rerun, rtol: float, atol: float) -> ReevaluatedTrial:
    archived = tuple(trial.values)
    pairs = [
        (old, new) for values in rerun.values for old, new in zip(archived, values, strict=True)
    ]
    # Equality first: infinities are equal, and their difference is no number.
    differences = [0.0 if old == new else abs(new - old) for old, new in pairs]
    within = [
        difference <= atol + rtol * abs(old)
        for (old, _), difference in zip(pairs, differences, strict=True)
    ]
    verdict: Verdict = "reproduced" if all(within) else "drifted"
    return ReevaluatedTrial(
        number=trial.number,
        verdict="failed" if rerun.error else verdict,
        archived=_value(archived),
        values=[_value(values) for values in rerun.values],
        difference=max(differences, default=None),
        params=trial.params,
        message=rerun.error,
    )


def _value(values: Sequence[float]) -> Value:
    return values[0] if len(values) == 1 else tuple(values)


def _text(value: Value) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def _markdown(result: Reevaluation) -> str:
    count = sum(trial.verdict == "reproduced" for trial in result.trials)
    lines = [
        f"# {count} of {len(result.trials)} trials reproduced",
        "",
        f"Tolerance: {result.rtol:g} relative, {result.atol:g} absolute.",
        "",
        "| trial | archived | now | spread | difference | verdict |",
        "|---:|---:|---:|---:|---:|---|",
    ]
    for trial in result.trials:
        mark = {"reproduced": "✅", "drifted": "⚠️", "failed": "❌"}[trial.verdict]
        now, spread = _now(trial)
        difference = "" if trial.difference is None else f"{trial.difference:.3g}"
        archived = trial.archived if isinstance(trial.archived, tuple) else (trial.archived,)
        lines.append(
            f"| {trial.number} | {', '.join(map(format_value, archived))} | {now} | {spread} "
            f"| {difference} | {mark} {trial.verdict} |"
        )
    failures = [t for t in result.trials if t.message]
    lines += ["", *(f"- Trial {t.number}: `{t.message.replace('`', ' ')}`" for t in failures)]
    return "\n".join(lines)


def _now(trial: ReevaluatedTrial) -> tuple[str, str]:
    """The mean of the new values, and their standard deviation."""
    columns = list(zip(*(v if isinstance(v, tuple) else (v,) for v in trial.values), strict=True))
    means = ", ".join(format_value(statistics.fmean(column)) for column in columns)
    if len(trial.values) < 2:
        return means, ""
    return means, ", ".join(f"{statistics.stdev(column):.2g}" for column in columns)
