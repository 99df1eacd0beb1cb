"""Replay of a journal, in the order of its file, and the index that spares most of it.

The records are those of Optuna's own `JournalStorage`, and so is what they mean: a record that
could not be followed when it was written, such as an attribute of a trial that somebody else had
finished, is in the file and is passed over by everybody.
"""

# A storage deals in ids, which are private in Optuna.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import logging
import operator
import os
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    check_distribution_compatibility,
    json_to_distribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks._journal_file import JournalFile, records_of
from prefect_optuna.blocks.codec.values import to_json
from prefect_optuna.blocks.redis_storage.layout import decode_time

_NESTED = (dict, list)
_SHARED = {*_NESTED, str}
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
        copied = FrozenTrial(
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
            self._give[record["op_code"]](copied, record)
        return copied

    def snapshot(self) -> Replay:
        """What has been read until now, which stays as it is."""
        taken = copy.copy(self)
        taken._waiting = {}  # none of it is in the file
        taken.studies = {key: copy.copy(study) for key, study in self.studies.items()}
        taken.distributions = self.distributions.copy()
        taken.trials = [
            trial if trial is None or trial.state in ENDED else taken.copied(trial)
            for trial in self.trials
        ]
        return taken

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
        for key, value in attributes.items():
            if type(value) in _NESTED and value is not self._last.get(key):
                attributes_of({key: value})
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


# An index of a journal: what its records came to, so that whoever opens it reads on from there.
#
# A journal has some ten records of each trial. `<journal>.index` has a line for each trial, as it
# was when that much of the journal had been read. Whoever opens a journal and has had to read
# much of it writes one, and so does a run that ends; nobody needs it, it may be deleted at any
# time, and Optuna's and Rustuna's readers do not know it.
#
# | line | a JSON list of |
# |---|---|
# | first | format, bytes of the journal, the last ones, the next study's id, distributions |
# | of a study | its id, name, directions, and both kinds of attributes |
# | of a layout | names of parameters, and the numbers of their distributions |
# | of a trial | its study, state, values, times, layout, parameters, both kinds of attributes, |
# |  | reports, and where attributes are the last trial's, in part or whole (null: as there) |
# | last | the number of lines before it, and their checksum |
#
# It is used where the journal has the same bytes at that place. Times are seconds since 1970.


_FORMAT = 2
_SUFFIX = ".index"
_WORTH = 1 << 23  # bytes of a journal that are read within a second
_PART = 8  # of what the index has, beyond which it is made anew
_LINES = 5_000  # that are written at once
_CHUNK = 1 << 22  # bytes that are read at once
_LAYOUT, _STUDY, _TRIAL = 2, 5, 11  # items of their lines
_STATES = {int(state): state for state in TrialState}
_ENDED = {int(state) for state in ENDED}

_logger = logging.getLogger(__name__)


def is_worth_an_index(file: JournalFile, indexed: int) -> bool:
    """Tell whether reading without another index takes longer than writing it."""
    return file.read_to - indexed >= max(_WORTH, indexed // _PART)


def write_index(file: JournalFile, replay: Replay, indexed: int) -> None:
    """Write an index, where reading without it has taken longer than that; errors are passed over.

    Args:
        file: the journal, as far as it has been read.
        replay: what its records came to.
        indexed: how many of its bytes an index has spared.
    """
    if not is_worth_an_index(file, indexed):
        return
    target = Path(f"{file.path}{_SUFFIX}")
    made: str | None = None
    try:
        if shutil.disk_usage(target.parent).free < file.read_to:
            return  # the journal itself needs it
        with tempfile.NamedTemporaryFile(
            dir=target.parent, prefix=f".{target.name}-", delete=False
        ) as output:
            made = output.name
            count = checksum = 0
            lines = _lines(file, replay)
            while some := list(itertools.islice(lines, _LINES)):
                count += len(some)
                text = "".join(f"{to_json(line)}\n" for line in some).encode()
                checksum = zlib.crc32(text, checksum)
                output.write(text)
            output.write(f"{to_json([count, checksum])}\n".encode())
        # For whoever may read the journal.
        Path(made).chmod(file.path.stat().st_mode & 0o666)
        Path(made).replace(target)
    except (OSError, *MALFORMED) as error:
        _logger.debug("No index of the journal %s was written: %r", file.path, error)
    finally:
        if made is not None:
            with contextlib.suppress(OSError):  # it is in its place, or nobody may have it
                Path(made).unlink()


def _lines(file: JournalFile, replay: Replay) -> Iterator[list[Any]]:
    places = {id(one): place for place, one in enumerate(replay.distributions.values())}
    texts = [*replay.distributions]
    yield [_FORMAT, file.read_to, file.last.hex(), replay.next_study_id, texts]
    for study in replay.studies.values():
        directions = [int(direction) for direction in study.directions]
        yield [study.study_id, study.name, directions, study.user, study.system]
    layouts: dict[tuple[tuple[str, ...], tuple[int, ...]], int] = {}
    before: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    last_same: Any = None
    for trial_id, trial in enumerate(replay.trials):
        if trial is None:
            yield []
            continue
        layout = (*trial.params,), tuple(places[id(trial.distributions[n])] for n in trial.params)
        if layout not in layouts:
            layouts[layout] = len(layouts)
            yield [*layout]
        reports = trial.intermediate_values
        if any(type(step) is not int for step in reports):
            raise TypeError("a step of a report is no integer")  # and would be read as one
        attributes = trial.user_attrs, trial.system_attrs
        own, same = zip(*map(_difference, before, attributes), strict=True)
        shared, last_same = (None if same == last_same else same), same
        for last, given in zip(before, attributes, strict=True):
            last.update(given)
        yield [
            replay.study_of(trial_id).study_id,
            int(trial.state),
            trial.values,
            _seconds(trial.datetime_start),
            _seconds(trial.datetime_complete),
            layouts[layout],
            [_internal(trial.distributions[name], value) for name, value in trial.params.items()],
            *own,
            reports,
            shared,
        ]


def _difference(before: Any, value: Any) -> tuple[Any, list[Any]]:
    """Part a value from what the replay has kept once for the one before: the rest, and where.

    What is the same is `None` in the value, and its key in the list; of what is the same in part,
    there is a list that begins with its key.

    Example:
        >>> of_all = {"dtype": "<f8"}
        >>> _difference({"a": {"b": of_all, "c": 1}}, {"a": {"b": of_all, "c": 2}})
        ({'a': {'b': None, 'c': 2}}, [['a', 'b']])
    """
    is_list = type(value) is list
    own: Any = value.copy()
    same: list[Any] = []
    for key, part in enumerate(value) if is_list else value.items():
        if type(part) not in _SHARED:
            continue
        was: Any = None
        if not is_list:
            was = before.get(key)
        elif key < len(before):
            was = before[key]
        if was is part:
            own[key] = None
            same.append(key)
        elif type(was) is type(part) and type(part) is not str:
            own[key], inner = _difference(was, part)
            if inner:
                same.append([key, *inner])
    return own, same


def _fill(value: Any, same: Sequence[Any], before: Any) -> None:
    """Put in what a value has from the one before, as `_difference` says it."""
    for key in same:
        if type(key) is list:
            _fill(value[key[0]], key[1:], before[key[0]])
        else:
            value[key] = before[key]


def _internal(distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        # By identity: `1 == True`, and both may be among the choices.
        return [*map(id, distribution.choices)].index(id(value))
    return value


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def read_index(file: JournalFile, replay: Replay) -> bool:
    """Take over what an index has, into the replay of nothing.

    Returns:
        Whether there is one of this journal; else the replay is of no use any more.
    """
    path = Path(f"{file.path}{_SUFFIX}")
    try:
        with path.open("rb") as index:
            if not _is_trustworthy(os.fstat(index.fileno()), file.path.stat()):
                return False
            return _take(file, replay, _checked(index, os.fstat(index.fileno()).st_size))
    except FileNotFoundError:
        return False
    except (OSError, *MALFORMED) as error:
        _logger.debug("The index %s is passed over: %r", path, error)
        return False


def indexed_bytes(file: JournalFile) -> int:
    """Count the bytes of a journal that its index spares, by what the index says of itself."""
    try:
        with Path(f"{file.path}{_SUFFIX}").open("rb") as index:
            if not _is_trustworthy(os.fstat(index.fileno()), file.path.stat()):
                return 0
            made, read_to, *_ = json.loads(index.readline())
    except (OSError, *MALFORMED):
        return 0
    return read_to if made == _FORMAT and 0 <= read_to <= file.read_to else 0


def _is_trustworthy(index: os.stat_result, journal: os.stat_result) -> bool:
    """Tell whether it is of somebody who could have written the journal as well."""
    own = os.geteuid() if hasattr(os, "geteuid") else 0
    return index.st_uid in (journal.st_uid, own, 0)


def _checked(index: Any, size: int) -> Iterator[Any]:
    """The lines, of which the last one has to fit."""
    checksum, rest, last, left = 0, b"", b"", size
    while left:
        chunk = index.read(min(_CHUNK, left))
        left -= len(chunk)
        lines, newline, rest = (rest + chunk).rpartition(b"\n")
        if not chunk or (not left and rest):
            raise ValueError("it is cut off")
        if not newline:
            continue
        if not left:
            lines, _, last = lines.rpartition(b"\n")
        if lines:
            checksum = zlib.crc32(lines + b"\n", checksum)
            yield from records_of(lines)
        if not left:
            count, expected = json.loads(last)
            if checksum != expected:
                raise ValueError("its checksum is another one")
            yield [count]


def _take(file: JournalFile, replay: Replay, lines: Iterator[Any]) -> bool:
    made, read_to, text, replay.next_study_id, texts = next(lines, [])
    last = bytes.fromhex(text)
    if made != _FORMAT or not file.ends_so(read_to, last):
        return False
    trials = _Trials(replay, [*map(replay.distribution, texts)])
    for count, line in enumerate(lines, start=1):
        if len(line) == _TRIAL:
            trials.take(*line)
        elif len(line) == _LAYOUT:
            trials.take_layout(*line)
        elif len(line) == _STUDY:
            study_id, name, directions, user, system = line
            study = replay.add_study(study_id, name, directions)
            study.user, study.system = attributes_of(user), attributes_of(system)
        elif not line:
            replay.add_deleted_trial()
        elif line != [count]:
            raise ValueError("it is not whole")
    file.read_to, file.last = read_to, last
    return True


class _Trials:
    """Adds the trials of an index to a replay."""

    def __init__(self, replay: Replay, distributions: Sequence[BaseDistribution]) -> None:
        self._replay = replay
        self._distributions = distributions
        self.layouts: list[tuple[dict[str, BaseDistribution], list[Callable[[float], Any]]]] = []
        self._before: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        self._same: Sequence[Sequence[Any]] = ()

    def take_layout(self, names: Sequence[str], places: Sequence[int]) -> None:
        """Add a layout of parameters."""
        found = [self._distributions[place] for place in places]
        kinds = dict(zip(map(sys.intern, names), found, strict=True))
        self.layouts.append((kinds, [kind.to_external_repr for kind in kinds.values()]))

    def take(
        self,
        study_id: int,
        state: int,
        values: list[float] | None,
        started: float | None,
        completed: float | None,
        layout: int,
        internal: Sequence[float],
        user: dict[str, Any],
        system: dict[str, Any],
        reports: Mapping[str, float],
        same: Sequence[Sequence[Any]] | None,
    ) -> None:
        """Add the next trial."""
        study = self._replay.studies[study_id]
        kinds, external = self.layouts[layout]
        if len(internal) != len(kinds):
            raise ValueError("parameters without a value")
        of_trial = [make(number_of(value)) for make, value in zip(external, internal, strict=True)]
        self._same = same = self._same if same is None else same
        for before, attributes, shared in zip(self._before, (user, system), same, strict=True):
            _fill(attributes, shared, before)
            attributes_of(attributes)
            before.update(attributes)
        trial = FrozenTrial(
            number=len(study.trials),
            trial_id=len(self._replay.trials),
            state=_STATES[state],
            value=None,
            values=None if values is None else [*map(number_of, values)],
            datetime_start=decode_time(started),
            datetime_complete=decode_time(completed),
            params=dict(zip(kinds, of_trial, strict=True)),
            distributions=kinds if state in _ENDED else kinds.copy(),
            user_attrs=user,
            system_attrs=system,
            intermediate_values={int(step): number_of(value) for step, value in reports.items()},
        )
        self._replay.add_trial(study, trial)
