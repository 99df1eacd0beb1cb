"""Verdicts on archived trials that ran again: their new values beside the archived ones."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any, ClassVar, Literal

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field

from prefect_optuna.blocks.texts import card, visible_line
from prefect_optuna.tasks.environments import EnvironmentChoice
from prefect_optuna.tasks.reevaluation.uploads import UploadVerdict

REEVALUATION_FORMAT = 1

Verdict = Literal["reproduced", "drifted", "varies", "failed"]
Value = float | tuple[float, ...]


@dataclass(frozen=True)
class Rerun:
    """The outcome of a trial that was run again."""

    number: int
    values: tuple[tuple[float, ...], ...]
    error: str = ""
    files: tuple[str, ...] = ()
    constraints: tuple[Mapping[str, float], ...] = ()
    seeds: tuple[int | None, ...] = ()
    unseeded: tuple[str, ...] = ()
    uploads: Mapping[str, UploadVerdict] = field(default_factory=dict)
    variables: tuple[str, ...] = ()
    clock: tuple[str, ...] = ()


class ReevaluatedTrial(BaseModel):
    """An archived trial and what it gave when it was run again."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    number: int = Field(description="The trial's number in the study.")
    verdict: Verdict = Field(
        description="`reproduced` where every new value and constraint is within the tolerance, "
        "`drifted` where one is not, `varies` where it is not because of other seeds, `failed` "
        "where a run gave none."
    )
    archived: Value | None = Field(
        description="The archived value; with several directions, a tuple. Of a pruned trial the "
        "last value that it had reported; `None` where there is none."
    )
    values: list[Value] = Field(description="The new value of each repetition.")
    constraints: dict[str, float] = Field(
        default_factory=dict, description="The archived constraints."
    )
    new_constraints: list[dict[str, float]] = Field(
        default_factory=list, description="The constraints of each repetition."
    )
    difference: float | None = Field(
        description="The largest difference to the archived value; `None` where there is none."
    )
    params: dict[str, Any] = Field(description="The trial's parameters.")
    cause: str = Field(default="", description="Why it did not give the archived value, likely.")
    experiments: list[str] = Field(
        default_factory=list[str],
        description="How the cause was looked for (`why=True`): what was put back, and what came "
        "of it.",
    )
    message: str = Field(default="", description="Why it failed.")
    after: int = Field(
        default=0,
        description="After how many of the trials before it: its code keeps something from one to "
        "the next, and it comes out as it did after those only.",
    )
    uploads: dict[str, Literal["same", "other", "unknown"]] = Field(
        default_factory=dict,
        description="Of each file that it uploads as an artifact of Optuna's whether it is the "
        "`same` as then; `unknown` where there is none of that name to compare it with.",
    )
    seeds: list[int | None] = Field(
        default_factory=list[int | None],
        description="The seed of each repetition; `None` where it had none.",
    )

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of the new values, one for each direction; empty if there is none."""
        return tuple(statistics.fmean(column) for column in self._columns())

    @property
    def spread(self) -> tuple[float, ...]:
        """The standard deviation of the new values; empty where there are fewer than two."""
        if len(self.values) < 2:
            return ()
        return tuple(map(_deviation, self._columns()))

    @property
    def distance(self) -> tuple[float, ...]:
        """Distance of the archived value above the mean of the new ones, in standard deviations.

        Of values that other seeds gave (`reseed=True`), it says how much of the archived one is
        luck. It is below zero where that is less than the mean, and empty where there is none.
        """
        if self.archived is None or not self.spread:
            return ()
        return tuple(
            _distance(old, mean, spread)
            for old, mean, spread in zip(
                as_tuple(self.archived), self.mean, self.spread, strict=False
            )
        )

    def _columns(self) -> list[tuple[float, ...]]:
        return list(zip(*map(as_tuple, self.values), strict=True))


class Reevaluation(BaseModel):
    """The outcome of running archived trials again."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    format: int = Field(default=REEVALUATION_FORMAT, description="The format of the record.")
    study_name: str = Field(description="The study.")
    created: str = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"),
        description="When it ended, in UTC.",
    )
    trials: list[ReevaluatedTrial] = Field(description="The trials, in the order asked for.")
    repeats: int = Field(default=1, description="How many times each trial was run.")
    reseeded: bool = Field(
        default=False, description="Whether each run had another seed, to measure luck."
    )
    rtol: Value = Field(description="The relative tolerance, or one for each direction.")
    atol: Value = Field(description="The absolute tolerance, or one for each direction.")
    scope: dict[str, str] = Field(
        default_factory=dict, description="What replaced parts of the archived scope, as text."
    )
    changes: dict[str, tuple[Any, Any]] = Field(
        default_factory=dict,
        description="How the environment differs from the archived one: then and now, as "
        "`Environment.diff` gives it.",
    )
    environment: EnvironmentChoice = Field(
        default="here",
        description="Whether they ran with the Python and the packages that are `here`, that were "
        "`recorded`, or that come `closest` to those.",
    )
    upgraded: dict[str, str] = Field(
        default_factory=dict,
        description="The versions of packages that took the place of those that were recorded.",
    )
    notes: list[str] = Field(
        default_factory=list[str],
        description="What of the recorded environment could not be had, and what took its place.",
    )
    flow_run_id: str | None = Field(default=None, description="The flow run that did it.")

    @property
    def reproduced(self) -> bool:
        """True if every trial gave its archived value again."""
        return all(trial.verdict == "reproduced" for trial in self.trials)

    @property
    def drifted(self) -> bool:
        """True if a trial gave another value, or none, and not because of another seed."""
        return any(trial.verdict in ("drifted", "failed") for trial in self.trials)

    @property
    def headline(self) -> str:
        """The number of reproduced trials, in a line."""
        count = sum(trial.verdict == "reproduced" for trial in self.trials)
        varies = sum(trial.verdict == "varies" for trial in self.trials)
        more = f", {varies} with other values for other seeds" if varies else ""
        return f"{count} of {len(self.trials)} reproduced{more}"

    def __repr__(self) -> str:
        rows = [
            f"  trial {t.number}: {t.verdict}, archived {_text(t.archived)}, "
            f"now {', '.join(map(_text, t.values)) or t.message}"
            + (f"; after {_trials(t.after)}" if t.after else "")
            + (f"; {words}" if (words := upload_words(t)) else "")
            + (f"; {words}" if (words := constraint_words(t, repr)) else "")
            + (f"; {words}" if (words := luck_words(t, "{:.4g}".format)) else "")
            + (f" ({t.cause})" if t.cause else "")
            for t in self.trials
        ]
        rows += [f"  environment: {note}" for note in self.notes]
        return "\n".join(
            map(visible_line, [f"Reevaluation of {self.study_name!r}: {self.headline}", *rows])
        )

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return the card that notebooks show."""
        return card(
            f"Reevaluation of {self.study_name}: {self.headline}",
            [("environment", note) for note in self.notes],
            headings=("trial", "verdict", "archived", "now", "cause"),
            rows=[
                (
                    str(trial.number),
                    trial.verdict,
                    _text(trial.archived),
                    ", ".join(map(_text, trial.values)) or trial.message,
                    trial.cause,
                )
                for trial in self.trials
            ],
        )


def _trials(count: int) -> str:
    return f"the {count} trials before it" if count > 1 else "the trial before it"


def compare(
    trial: FrozenTrial,
    rerun: Rerun,
    rtol: Sequence[float],
    atol: Sequence[float],
    *,
    reseeded: bool = False,
) -> ReevaluatedTrial:
    """Compare a trial with what it gave when it was run again.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.reevaluation.verdicts import compare
        >>> from prefect_optuna.tasks.reevaluation.uploads import UploadVerdict
        >>> trial = optuna.trial.create_trial(value=2.0)
        >>> compare(trial, Rerun(0, values=((2.0,), (2.25,))), [0.1], [0.0]).verdict
        'drifted'
    """
    archived = None if trial.values is None else tuple(trial.values)
    # The function of a sampler has computed those that lie in a list: archived code knows no more
    # of them than of the sampler.
    constraints = {} if "constraints" in trial.system_attrs else trial.constraints
    differences: list[float] = []
    within = archived is not None and trial.state != TrialState.FAIL
    if trial.state == TrialState.PRUNED and archived is None:  # before it had reported anything
        within = not any(rerun.values)
    for values in rerun.values if archived is not None else ():
        for old, new, relative, absolute in zip(archived or (), values, rtol, atol, strict=False):
            differences.append(_difference(old, new))
            within = within and _is_within(old, new, relative, absolute)
    for new_constraints in rerun.constraints:
        within = (
            within
            and new_constraints.keys() == constraints.keys()
            and all(
                _is_within(old, new_constraints[name], min(rtol), min(atol))
                for name, old in constraints.items()
            )
        )
    varies = reseeded and (len(set(rerun.values)) > 1 or _differ(rerun.constraints))
    verdict: Verdict = (
        "failed"
        if rerun.error
        else "reproduced"
        if within
        else "varies"
        if varies and trial.state != TrialState.FAIL
        else "drifted"
    )
    return ReevaluatedTrial(
        number=trial.number,
        verdict=verdict,
        archived=None if archived is None else _value(archived),
        values=[_value(values) for values in rerun.values],
        constraints=constraints,
        new_constraints=[dict(given) for given in rerun.constraints],
        difference=max(differences, default=None),
        params=trial.params,
        message=rerun.error,
        seeds=list(rerun.seeds),
        uploads=dict(rerun.uploads),
    )


def constraint_words(trial: ReevaluatedTrial, number: Callable[[float], str]) -> str:
    """The constraints of a re-evaluated trial, and what has become of those that differ now.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.verdicts import constraint_words
        >>> trial = ReevaluatedTrial(
        ...     number=0, verdict="drifted", archived=1.0, values=[1.0], difference=0.0, params={},
        ...     constraints={"mass": -0.5, "cost": 0.0}, new_constraints=[{"mass": 0.25}])
        >>> constraint_words(trial, repr)
        'mass -0.5, now 0.25; cost 0.0, now not set'
    """
    words: list[str] = []
    for name in dict.fromkeys([*trial.constraints, *(n for c in trial.new_constraints for n in c)]):
        then = trial.constraints.get(name)
        now = list(dict.fromkeys(given.get(name) for given in trial.new_constraints))
        text = f"{name} {'not set' if then is None else number(then)}"
        if now and now != [then]:
            new = ["not set" if value is None else number(value) for value in now]
            text += f", now {' or '.join(new)}"
        words.append(text)
    return "; ".join(words)


def luck_words(trial: ReevaluatedTrial, number: Callable[[float], str]) -> str:
    """Describe how much of a value is luck, for a trial that ran with other seeds.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.verdicts import luck_words
        >>> trial = ReevaluatedTrial(
        ...     number=0, verdict="varies", archived=3.0, values=[1.0, 2.0], seeds=[1, 2],
        ...     difference=2.0, params={})
        >>> luck_words(trial, "{:.3g}".format)
        '2 other seeds give 1.5 ± 0.707; the archived value is 2.1 standard deviations above'
    """
    if trial.verdict != "varies" or not trial.distance:
        return ""
    spreads = zip(trial.mean, trial.spread, strict=True)
    given = ", ".join(f"{number(mean)} ± {number(spread)}" for mean, spread in spreads)
    away = ", ".join(
        f"{abs(distance):.1f} standard deviations {'below' if distance < 0 else 'above'}"
        for distance in trial.distance
    )
    noun = "value is" if len(trial.distance) == 1 else "values are"
    return f"{len(trial.values)} other seeds give {given}; the archived {noun} {away}"


def upload_words(trial: ReevaluatedTrial) -> str:
    """The files that a re-evaluated trial uploads, as far as they are others than then.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.verdicts import upload_words
        >>> trial = ReevaluatedTrial(
        ...     number=0, verdict="reproduced", archived=1.0, values=[1.0], difference=0.0,
        ...     params={}, uploads={"model.bin": "other", "log.txt": "same"})
        >>> upload_words(trial)
        'it uploads another model.bin'
    """
    others = [name for name, verdict in trial.uploads.items() if verdict == "other"]
    return f"it uploads another {', another '.join(others)}" if others else ""


def as_tuple(value: Value) -> tuple[float, ...]:
    """A value as one number for each direction."""
    return value if isinstance(value, tuple) else (value,)


def scope_as_text(scope: Mapping[str, Any] | None) -> dict[str, str]:
    """Values of a scope as people read them, short."""
    return {name: repr(value)[:200] for name, value in (scope or {}).items()}


def _value(values: Sequence[float]) -> Value:
    return values[0] if len(values) == 1 else tuple(values)


def _difference(old: float, new: float) -> float:
    """Equality first: infinities are equal, and their difference is no number."""
    return 0.0 if old == new else abs(new - old)


def _is_within(old: float, new: float, relative: float, absolute: float) -> bool:
    """Tell whether two values are close; no relative tolerance holds for an infinite one."""
    return _difference(old, new) <= absolute + (relative * abs(old) if isfinite(old) else 0)


def _differ(ones: Sequence[Any]) -> bool:
    return any(value != ones[0] for value in ones)


def _distance(old: float, mean: float, spread: float) -> float:
    if old == mean:
        return 0.0
    return (old - mean) / spread if spread else float("inf") if old > mean else float("-inf")


def _deviation(column: Sequence[float]) -> float:
    try:
        return statistics.stdev(column)
    except (AttributeError, ValueError, OverflowError):  # infinities have none
        return float("nan")


def _text(value: Value | None) -> str:
    if value is None or value == ():
        return "no value"
    return ", ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
