"""Replay of the records of a journal, in the order in which they are in the file.

The records are those of Optuna's own `JournalStorage`, and so is what they mean: a record that
could not be followed when it was written, such as an attribute of a trial that somebody else had
finished, is in the file and is passed over by everybody.
"""

# A storage deals in ids, which are private in Optuna.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import contextlib
import operator
import sys
from collections import Counter
from datetime import datetime
from enum import IntEnum
from itertools import chain, repeat
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    json_to_distribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

_NESTED = (dict, list)
_SHORT = 32  # items
_LEVELS = 250  # of an attribute; a copy of what is nested further cannot be made

# The errors at a record that no client has written.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)

ENDED: frozenset[TrialState] = frozenset(state for state in TrialState if state.is_finished())
"""The states that a trial keeps."""


class Operation(IntEnum):
    """The operation of a record: its `op_code`."""

    CREATE_STUDY = 0
    DELETE_STUDY = 1
    SET_STUDY_USER_ATTR = 2
    SET_STUDY_SYSTEM_ATTR = 3
    CREATE_TRIAL = 4
    SET_TRIAL_PARAM = 5
    SET_TRIAL_STATE_VALUES = 6
    SET_TRIAL_INTERMEDIATE_VALUE = 7
    SET_TRIAL_USER_ATTR = 8
    SET_TRIAL_SYSTEM_ATTR = 9
    DISCARD_TRIALS = 10  # by Rustuna


class ReplayedStudy:
    """A study: its trials by their numbers, and what would be slow to count again and again.

    A trial that is not finished is changed in place, so that only copies of it are handed out.
    """

    __slots__ = (
        "best",
        "counts",
        "directions",
        "distributions",
        "kinds",
        "live",
        "name",
        "study_id",
        "system",
        "trials",
        "user",
    )

    def __init__(self, study_id: int, name: str, directions: list[StudyDirection]) -> None:
        self.study_id: int = study_id
        self.name: str = name
        self.directions: list[StudyDirection] = directions
        self.user: dict[str, Any] = {}
        self.system: dict[str, Any] = {}
        self.trials: list[FrozenTrial] = []
        self.live: dict[int, FrozenTrial] = {}
        self.counts: Counter[TrialState] = Counter()
        self.kinds: dict[str, BaseDistribution] = {}
        self.distributions: dict[str, BaseDistribution] = {}  # of the last trial
        self.best: FrozenTrial | None = None

    def check_kind(self, name: str, distribution: BaseDistribution) -> None:
        """Raise `ValueError` if trials before have had another kind of parameter of that name."""
        known = self.kinds.get(name)
        if known is not None and known is not distribution:
            check_distribution_compatibility(known, distribution)

    def ended(self, trial: FrozenTrial) -> None:
        """A trial has its last state; it is never changed again."""
        self.live.pop(trial.number, None)
        last, own = self.distributions, trial.distributions
        if (
            last is not own
            and [*last] == [*own]
            and all(map(operator.is_, last.values(), own.values()))
        ):
            trial.distributions = last  # once for all trials, which mostly have the same
        self.distributions = trial.distributions
        if trial.state != TrialState.COMPLETE or len(self.directions) != 1 or not trial.values:
            return
        if self.best is not None and self.best.values:
            value, best = trial.values[0], self.best.values[0]
            maximize = self.directions[0] == StudyDirection.MAXIMIZE
            better = value > best if maximize else value < best
            # Of equals, the first one, in whatever order they finished.
            if not better and not (value == best and trial.number < self.best.number):
                return
        self.best = trial


_DELETED = ReplayedStudy(-1, "", [])


class Replay:
    """All studies of a journal, as of the last record that it was given.

    What waits to be written, by the ids of its trials, is in the copies of trials that are handed
    out, and nowhere else: until it is in the file, others may come first.
    """

    def __init__(self, waiting: dict[int, list[dict[str, Any]]]) -> None:
        self._waiting = waiting
        self.studies: dict[int, ReplayedStudy] = {}
        self.ids: dict[str, int] = {}  # of studies, by their names
        # By their ids; None for those of studies that are deleted.
        self.trials: list[FrozenTrial | None] = []
        self._study_of: list[ReplayedStudy] = []
        self.next_study_id = 0
        self.distributions: dict[str, BaseDistribution] = {}
        self._last: dict[str, Any] = {}  # attributes of trials, of each name
        self.shown: dict[int, FrozenTrial] = {}  # copies of live trials, until they change
        self._do = {
            Operation.CREATE_STUDY: self._create_study,
            Operation.DELETE_STUDY: self._delete_study,
            Operation.SET_STUDY_USER_ATTR: self._set_study_user_attr,
            Operation.SET_STUDY_SYSTEM_ATTR: self._set_study_system_attr,
            Operation.CREATE_TRIAL: self._create_trial,
            Operation.SET_TRIAL_PARAM: self._set_trial_param,
            Operation.SET_TRIAL_STATE_VALUES: self._set_trial_state_values,
            Operation.SET_TRIAL_INTERMEDIATE_VALUE: self._set_trial_intermediate_value,
            Operation.SET_TRIAL_USER_ATTR: self._set_trial_attr,
            Operation.SET_TRIAL_SYSTEM_ATTR: self._set_trial_attr,
            Operation.DISCARD_TRIALS: self._pass_over,
        }
        self._give = {
            Operation.SET_TRIAL_PARAM: self._give_param,
            Operation.SET_TRIAL_USER_ATTR: self._give_user_attr,
            Operation.SET_TRIAL_SYSTEM_ATTR: self._give_system_attr,
        }

    def apply(self, record: dict[str, Any]) -> None:
        """Do what a record says."""
        self._do[record["op_code"]](record)

    def _pass_over(self, record: dict[str, Any]) -> None:
        """Ignore a record, as Optuna does."""

    def trial(self, trial_id: int) -> FrozenTrial | None:
        """The trial itself, which its reader may not change."""
        return self.trials[trial_id] if 0 <= trial_id < len(self.trials) else None

    def study_of(self, trial_id: int) -> ReplayedStudy:
        """The study of a trial that there is."""
        return self._study_of[trial_id]

    def shared(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a read-only trial that does not change."""
        if trial.state in ENDED:
            return trial
        shown = self.shown.get(trial._trial_id)
        if shown is None:
            shown = self.shown[trial._trial_id] = self.copied(trial)
        return shown

    def copied(self, trial: FrozenTrial) -> FrozenTrial:
        """Return a copy whose parameters, attributes and reports can be changed."""
        copy = FrozenTrial(
            number=trial.number,
            trial_id=trial._trial_id,
            state=trial.state,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=trial.params.copy(),
            distributions=trial.distributions.copy(),
            user_attrs=trial.user_attrs.copy(),
            system_attrs=trial.system_attrs.copy(),
            intermediate_values=trial.intermediate_values.copy(),
        )
        for record in self._waiting.get(trial._trial_id, ()):
            self._give[record["op_code"]](copy, record)
        return copy

    # Studies

    def _create_study(self, record: dict[str, Any]) -> None:
        name = record["study_name"]
        directions = record["directions"]
        if name in self.ids:
            return
        self.add_study(self.next_study_id, name, directions)
        self.next_study_id += 1

    def add_study(self, study_id: int, name: Any, directions: list[Any]) -> ReplayedStudy:
        """Add a study without trials."""
        if not isinstance(name, str):
            raise TypeError("the name of a study is no text")
        study = ReplayedStudy(study_id, name, [*map(StudyDirection, directions)])
        self.studies[study_id] = study
        self.ids[name] = study_id
        return study

    def _delete_study(self, record: dict[str, Any]) -> None:
        study = self.studies.pop(record["study_id"], None)
        if study is not None:
            del self.ids[study.name]
            for trial in study.trials:
                self.trials[trial._trial_id] = None
                self.shown.pop(trial._trial_id, None)
            study.trials, study.live, study.best = [], {}, None

    # What was handed out before stays as it is, so each change makes new dictionaries.

    def _set_study_user_attr(self, record: dict[str, Any]) -> None:
        if (study := self.studies.get(record["study_id"])) is not None:
            study.user = {**study.user, **attributes_of(record["user_attr"])}

    def _set_study_system_attr(self, record: dict[str, Any]) -> None:
        if (study := self.studies.get(record["study_id"])) is not None:
            study.system = {**study.system, **attributes_of(record["system_attr"])}

    # Trials

    def _create_trial(self, record: dict[str, Any]) -> None:
        study = self.studies.get(record["study_id"])
        if study is None:
            return
        distributions = {
            sys.intern(name): self.distribution(text)
            for name, text in record.get("distributions", {}).items()
        }
        trial = FrozenTrial(
            number=len(study.trials),
            trial_id=len(self.trials),
            state=TrialState(record.get("state", TrialState.RUNNING)),
            value=None if record.get("value") is None else number_of(record["value"]),
            values=None if record.get("values") is None else [*map(number_of, record["values"])],
            datetime_start=_time(record["datetime_start"]),
            datetime_complete=_time(record.get("datetime_complete")),
            params={
                sys.intern(name): distributions[name].to_external_repr(number_of(value))
                for name, value in record.get("params", {}).items()
            },
            distributions=distributions,
            user_attrs=self.kept(record.get("user_attrs", {})),
            system_attrs=self.kept(record.get("system_attrs", {})),
            intermediate_values={
                int(step): number_of(value)
                for step, value in record.get("intermediate_values", {}).items()
            },
        )
        self.add_trial(study, trial)

    def add_trial(self, study: ReplayedStudy, trial: FrozenTrial) -> None:
        """Add a trial, whose id and number are the next ones."""
        for name in trial.params:
            study.kinds.setdefault(name, trial.distributions[name])
        self.trials.append(trial)
        self._study_of.append(study)
        study.trials.append(trial)
        study.counts[trial.state] += 1
        if trial.state in ENDED:
            study.ended(trial)
        else:
            study.live[trial.number] = trial

    def add_deleted_trial(self) -> None:
        """Add a trial that nobody can ask for, as its study is deleted."""
        self.trials.append(None)
        self._study_of.append(_DELETED)

    def _live(self, record: dict[str, Any]) -> FrozenTrial | None:
        """The trial of a record, if it can still be changed, which is about to happen."""
        trial = self.trial(record["trial_id"])
        if trial is None or trial.state in ENDED:
            return None
        if self.shown:
            self.shown.pop(trial._trial_id, None)
        return trial

    def _set_trial_param(self, record: dict[str, Any]) -> None:
        if (trial := self._live(record)) is None:
            return
        name, distribution = record["param_name"], self.distribution(record["distribution"])
        study = self._study_of[trial._trial_id]
        try:
            study.check_kind(name, distribution)
        except ValueError:
            return
        study.kinds.setdefault(sys.intern(name), distribution)
        self._give_param(trial, record)

    def _give_param(self, trial: FrozenTrial, record: dict[str, Any]) -> None:
        name, distribution = (
            sys.intern(record["param_name"]),
            self.distribution(record["distribution"]),
        )
        internal = number_of(record["param_value_internal"])
        trial.params[name] = distribution.to_external_repr(internal)
        trial.distributions[name] = distribution

    def _set_trial_state_values(self, record: dict[str, Any]) -> None:
        if (trial := self._live(record)) is None:
            return
        state = TrialState(record["state"])
        if state == TrialState.RUNNING:
            if trial.state == TrialState.RUNNING:
                return  # another worker was quicker
            trial.datetime_start = _time(record["datetime_start"])
        study = self._study_of[trial._trial_id]
        study.counts[trial.state] -= 1
        study.counts[state] += 1
        trial.state = state
        if record["values"] is not None:
            trial.values = [*map(number_of, record["values"])]
        if state in ENDED:
            trial.datetime_complete = _time(record["datetime_complete"])
            study.ended(trial)

    def _set_trial_intermediate_value(self, record: dict[str, Any]) -> None:
        if (trial := self._live(record)) is not None:
            trial.intermediate_values[record["step"]] = number_of(record["intermediate_value"])

    def _set_trial_attr(self, record: dict[str, Any]) -> None:
        if (trial := self._live(record)) is not None:
            of_user = record["op_code"] == Operation.SET_TRIAL_USER_ATTR
            self.kept(record["user_attr" if of_user else "system_attr"])
            self._give[record["op_code"]](trial, record)

    def _give_user_attr(self, trial: FrozenTrial, record: dict[str, Any]) -> None:
        trial.user_attrs.update(record["user_attr"])

    def _give_system_attr(self, trial: FrozenTrial, record: dict[str, Any]) -> None:
        trial.system_attrs.update(record["system_attr"])

    def kept(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Return attributes of a trial, which share with the last ones what they have in common."""
        for key, value in attributes_of(attributes).items():
            if type(value) in _NESTED:
                # At the end of the stack it is kept as it is.
                with contextlib.suppress(RecursionError):
                    attributes[key] = self._last[key] = _like(self._last.get(key), value)
        return attributes

    def distribution(self, text: str) -> BaseDistribution:
        """A distribution by its JSON; the same object for the same text."""
        distribution = self.distributions.get(text)
        if distribution is None:
            distribution = json_to_distribution(text)
            attributes_of({"choices": [*getattr(distribution, "choices", ())]})
            self.distributions[text] = distribution
        return distribution


# Of what anybody may have written into the file.


def number_of(value: Any) -> float:
    if isinstance(value, (float, int)):
        return value
    raise TypeError("a value is no number")


def attributes_of(given: dict[str, Any]) -> dict[str, Any]:
    level = [value for value in given.values() if type(value) in _NESTED]
    for _ in range(_LEVELS if level else 0):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if type(inner) in _NESTED
        ]
        if not level:
            return given
    if level:
        raise ValueError("an attribute is nested too deeply")
    return given


def _like(before: Any, value: Any) -> Any:
    """Return a JSON value made of as much as possible of an earlier one.

    What is noted with each trial is the same for the most part, and so takes memory once. Long
    lists and mappings are data, which differ, and stay as they are.
    """
    if value is before or len(value) > _SHORT:
        return value
    made: Any
    if type(value) is dict:
        parts: Any = before if type(before) is dict else {}
        made = {sys.intern(key): _part_like(parts.get(key), part) for key, part in value.items()}
        same = [*made] == [*parts] and all(map(operator.is_, made.values(), parts.values()))
    else:
        parts = before if type(before) is list else []
        made = [*map(_part_like, chain(parts, repeat(None)), value)]
        same = len(made) == len(parts) and all(map(operator.is_, made, parts))
    return parts if same and before is not None else made


def _part_like(was: Any, value: Any) -> Any:
    kind = type(value)
    if kind in _NESTED:
        return _like(was, value)
    return was if kind is type(was) and kind is not float and value == was else value


def _time(text: str | None) -> datetime | None:
    """A time, on the clock of this process and without its zone, as Optuna has them."""
    return None if text is None else datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
