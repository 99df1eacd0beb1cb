"""Verdicts on archived trials that ran again, and which trials of a study are asked for."""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field

from prefect_optuna.blocks.study_summary import best_first
from prefect_optuna.blocks.texts import card, visible_line
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.environments import EnvironmentChoice

# Uploads of archived code that runs again: kept in a scratch folder, and compared.
#
# `optuna.artifacts.upload_artifact` writes to the store that the code names, beside what the
# study has there. Here its place is taken: the file is compared with the archived trial's upload
# of that name, where the store still has it, and nobody's store is written to.


UploadVerdict = Literal["same", "other", "unknown"]
_PREFIX = "artifacts:"  # Optuna's


def uploads_of(system_attrs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The uploads of a trial: the id of each, and the name of its file."""
    uploads: list[tuple[str, str]] = []
    for name, text in system_attrs.items():
        if name.startswith(_PREFIX):
            try:
                data: Any = json.loads(text)
                uploads.append((str(data["artifact_id"]), str(data["filename"])))
            except (ValueError, TypeError, KeyError):
                continue  # not of Optuna's making
    return uploads


class Uploads:
    """Takes the place of Optuna's stores of artifacts.

    Attributes:
        archived: the archived trial's uploads, as `uploads_of` gives them.
        verdicts: for each file uploaded now whether it is the `same` as then, an `other` one, or
            `unknown`, where the trial had none of that name or its store cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        # Optuna's stores import boto3 where it is installed, which takes a quarter of a second.
        from optuna.artifacts import FileSystemArtifactStore

        self._scratch = FileSystemArtifactStore(folder)
        self._made: set[str] = set()
        self.archived: Sequence[tuple[str, str]] = ()
        self.verdicts: dict[str, UploadVerdict] = {}

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Stand in for `upload_artifact` and `download_artifact` while this holds."""
        names = ("optuna.artifacts", "optuna.artifacts._upload", "optuna.artifacts._download")
        places: list[Any] = [importlib.import_module(name) for name in names]
        upload: Any = places[0].upload_artifact
        download: Any = places[0].download_artifact

        def upload_artifact(*arguments: Any, **options: Any) -> str:
            # Optuna still takes them by place, the store last.
            options |= dict(
                zip(("study_or_trial", "file_path", "artifact_store"), arguments, strict=False)
            )
            store, path = options["artifact_store"], Path(options["file_path"])
            made = upload(**{**options, "artifact_store": self._scratch})
            self._made.add(made)
            self._compare(store, path)
            return made

        def download_artifact(*, artifact_store: Any, **options: Any) -> None:
            mine = options.get("artifact_id") in self._made
            download(artifact_store=self._scratch if mine else artifact_store, **options)

        replaced = {"upload_artifact": upload_artifact, "download_artifact": download_artifact}
        before = [
            (place, name, getattr(place, name, None)) for place in places for name in replaced
        ]
        for place, name, held in before:
            if held is not None:
                setattr(place, name, replaced[name])
        try:
            yield
        finally:
            for place, name, held in before:
                if held is not None:
                    setattr(place, name, held)

    def _compare(self, store: Any, path: Path) -> None:
        with path.open("rb") as file:
            now = _digest(file)
        then: list[bytes] = []
        for artifact_id, name in self.archived:
            if name != path.name:
                continue
            try:
                with store.open_reader(artifact_id) as file:
                    then.append(_digest(file))
            except Exception:  # noqa: BLE001, S112 - whatever stores raise that are not here
                continue
        verdict: UploadVerdict = "unknown" if not then else "same" if now in then else "other"
        if self.verdicts.get(path.name) != "other":  # of several, the one that differs counts
            self.verdicts[path.name] = verdict


def _digest(file: Any) -> bytes:
    digest = sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.digest()


# Selection of trials of a study: `best:5`, `pareto`, `pruned`, 17, or a rule.


Selection = str | int | Sequence[int] | Callable[[FrozenTrial], bool]
"""`"best:K"`, `"pareto"`, `"all"`, `"complete"`, `"pruned"`, `"failed"`, one number or several,
or a function that says of a finished trial whether it is meant."""

_STATES = {
    "complete": (TrialState.COMPLETE,),
    "pruned": (TrialState.PRUNED,),
    "failed": (TrialState.FAIL,),
    "all": (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL),
}


def select_trials(study: optuna.Study, trials: Selection) -> list[FrozenTrial]:
    """The trials of a study that a selection means.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.reevaluation.verdicts import select_trials
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=5)
        >>> [trial.number for trial in select_trials(study, [3, 1])]
        [3, 1]
        >>> select_trials(study, "best:1")[0].number == study.best_trial.number
        True
        >>> [trial.number for trial in select_trials(study, lambda trial: trial.number > 2)]
        [3, 4]
    """
    if isinstance(trials, int) and not isinstance(trials, bool):
        trial = _numbered(study, trials)
        if trial is not None:
            return [trial]
    every = study.get_trials(deepcopy=False)
    if isinstance(trials, str):
        return _by_word(study, every, trials)
    if callable(trials):
        chosen = [trial for trial in every if trial.state.is_finished() and trials(trial)]
        if not chosen:
            raise InvalidSettingError(
                f"None of the {len(every)} trials of study {study.study_name!r} is one that "
                "`trials` means."
            )
        return chosen
    numbers = [trials] if isinstance(trials, int) else list(dict.fromkeys(trials))
    if not numbers:
        raise InvalidSettingError("`trials` names no trial.")
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise _unknown(trials)
        if not 0 <= number < len(every):
            raise InvalidSettingError(
                f"Study {study.study_name!r} has no trial {number}; it has {len(every)}, "
                "numbered from 0."
            )
        if not every[number].state.is_finished():
            raise InvalidSettingError(
                f"Trial {number} is {every[number].state.name} and has not ended yet."
            )
    return [every[number] for number in numbers]


def _numbered(study: optuna.Study, number: int) -> FrozenTrial | None:
    """The trial of that number, if it has ended, without reading the others."""
    storage, study_id = study._storage, study._study_id  # pyright: ignore[reportPrivateUsage]
    if number < 0:
        return None
    with suppress(KeyError):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
        trial = storage.get_trial(trial_id)
        return trial if trial.state.is_finished() else None
    return None


def _by_word(study: optuna.Study, every: list[FrozenTrial], trials: str) -> list[FrozenTrial]:
    word, colon, count = trials.partition(":")
    if trials in _STATES:
        chosen = [trial for trial in every if trial.state in _STATES[trials]]
        missing = "has ended" if trials == "all" else f"is {trials}"
    elif trials == "pareto" or (word == "best" and colon and count.isdecimal() and int(count) > 0):
        ranked = best_first(every, [direction.name.lower() for direction in study.directions])
        chosen = ranked[: int(count)] if colon else ranked
        missing = "is complete and meets its constraints"
    else:
        raise _unknown(trials)
    if not chosen:
        raise InvalidSettingError(f"No trial of study {study.study_name!r} {missing}.")
    return chosen


def _unknown(found: object) -> InvalidSettingError:
    return InvalidSettingError(
        '`trials` is "best:K", "pareto", "all", "complete", "pruned", "failed", a number, several '
        f"numbers, or a function of a trial; found {found!r}."
    )


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
        >>> from prefect_optuna.tasks.reevaluation.verdicts import UploadVerdict
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
