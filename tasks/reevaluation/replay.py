"""A real trial of a real study, in memory, for archived code that runs again.

The parameters are fixed to the archived ones. Where the code mentions its study, the study has the
trials that had ended before the archived one began, as they were. A pruner repeats what was decided
then, and no sampler draws anything.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
import os
import sys
import time
from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.study_summary import is_lost
from prefect_optuna.tasks.archive.carrying.portable import trial_from_json, trial_to_json
from prefect_optuna.tasks.archive.code.inspection import ARCHIVED_AS
from prefect_optuna.tasks.archive.record.manifest import is_of_the_archive
from prefect_optuna.tasks.archive.record.trial_records import MARK
from prefect_optuna.tasks.trial import FlowTrial

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.code.capture import Capture

# Questions of archived code to its process: environment variables, and the time.


_ON_THE_WAY = ("os", "_collections_abc", "collections.abc", __name__)
_CLOCKS = {"time": 1.0, "time_ns": 1e9}
_CALENDARS = ("localtime", "gmtime", "ctime", "asctime")
_STOPWATCHES = ("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")


@dataclass
class Asked:
    """The variables and clocks that archived code has asked for.

    Attributes:
        variables: names of environment variables.
        clock: the functions that say what time it is.
        offset: how many seconds its clock is ahead of the real one.
    """

    variables: set[str] = field(default_factory=set[str])
    clock: set[str] = field(default_factory=set[str])
    offset: float = 0.0

    def start_at(self, started: dt.datetime | None) -> None:
        """Have its clock start anew."""
        self.offset = started.timestamp() - _now() if started is not None else 0.0


@contextmanager
def what_is_asked_for(*, clock: bool = False) -> Generator[Asked]:
    """Record what archived code asks for.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.replay import what_is_asked_for
        >>> with what_is_asked_for() as asked:
        ...     exec("import os; os.getenv('GAIN')", {"__archived_as__": "script"})
        >>> asked.variables
        {'GAIN'}
    """
    asked = Asked()
    environ: Any = type(os.environ)
    look_up = environ.__getitem__

    def noted(self: Any, name: Any) -> str:
        if isinstance(name, str) and _is_asked_by_archived_code():
            asked.variables.add(name)
        return look_up(self, name)

    environ.__getitem__ = noted
    replaced = _with_a_clock(asked) if clock else []
    try:
        yield asked
    finally:
        environ.__getitem__ = look_up
        for module, name, real in replaced:
            setattr(module, name, real)


_now, _local, _format = time.time, time.localtime, time.strftime


def _with_a_clock(asked: Asked) -> list[tuple[Any, str, Any]]:
    """Replace what tells the time."""

    def note(name: str) -> None:
        if _is_asked_by_archived_code():
            asked.clock.add(name)

    def shifted(name: str, scale: float) -> Callable[[], Any]:
        def tell() -> Any:
            note(f"time.{name}")
            now = _now() + asked.offset
            return now if scale == 1.0 else int(now * scale)

        return tell

    def told(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """`localtime()` and its like, which take the present where they are given no time."""

        def tell(*given: Any) -> Any:
            if given and given[0] is not None:
                return real(*given)
            note(f"time.{name}")
            now = _now() + asked.offset
            return real(_local(now) if name == "asctime" else now)

        return tell

    def formatted(form: str, *given: Any) -> str:
        if not given:
            note("time.strftime")
        return _format(form, *(given or (_local(_now() + asked.offset),)))

    def plain(name: str, real: Callable[[], Any]) -> Callable[[], Any]:
        def tell() -> Any:
            note(f"time.{name}")
            return real()

        return tell

    class Datetime(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            note("datetime.now")
            return cls.fromtimestamp(_now() + asked.offset, tz)

        @classmethod
        def utcnow(cls) -> Any:
            note("datetime.utcnow")
            return cls.fromtimestamp(_now() + asked.offset, dt.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            note("datetime.today")
            return cls.fromtimestamp(_now() + asked.offset)

    class Date(dt.date):
        @classmethod
        def today(cls) -> Any:
            note("date.today")
            return cls.fromtimestamp(_now() + asked.offset)

    made: dict[tuple[Any, str], Any] = {
        **{(time, name): shifted(name, scale) for name, scale in _CLOCKS.items()},
        **{(time, name): told(name, getattr(time, name)) for name in _CALENDARS},
        (time, "strftime"): formatted,
        **{(time, name): plain(name, getattr(time, name)) for name in _STOPWATCHES},
        (dt, "datetime"): Datetime,
        (dt, "date"): Date,
    }
    Datetime.__name__ = Datetime.__qualname__ = "datetime"
    Date.__name__ = Date.__qualname__ = "date"
    before: list[tuple[Any, str, Any]] = []
    for (module, name), new in made.items():
        before.append((module, name, getattr(module, name)))
        setattr(module, name, new)
    return before


def _is_asked_by_archived_code() -> bool:
    """Tell whether the caller, past Python's own functions on the way, is archived code."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_globals.get("__name__") in _ON_THE_WAY and frame.f_back is not None:
        frame = frame.f_back
    return ARCHIVED_AS in frame.f_globals


# Trials after those that ran before them: code may keep something from one trial to the next.
#
# A counter, a list of what was tried, the best value so far, a generator that the script has
# made: a trial of such code comes out as it did after the same trials only, in a process of its
# own.


MOST_SECONDS = 120.0
"""Maximum number of seconds that the trials before may have taken, unless somebody asks why."""


def histories(
    drifted: Iterable[int],
    trials: Sequence[FrozenTrial],
    ran: Sequence[int],
    *,
    most_seconds: float = MOST_SECONDS,
) -> list[list[FrozenTrial]]:
    """The trials to be run, in order, up to the last that drifted of each process.

    Args:
        drifted: the numbers of those that did not give their values again.
        trials: all of the study.
        ran: the numbers of those that have been run, in order.
        most_seconds: how long they may have taken.

    Returns:
        One list for each process, which ends with a trial that drifted. There is none where
        nothing ran before, where trials ran at the same time, and where it would take too long.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.replay import histories
        >>> histories([], [], [])
        []
    """
    last: dict[str, int] = {}
    by_number = {trial.number: trial for trial in trials}
    for number in drifted:
        session = _session(by_number[number])
        last[session] = max(number, last.get(session, -1))
    groups: list[list[FrozenTrial]] = []
    for session, number in last.items():
        ended = [
            trial
            for trial in trials
            if trial.number <= number and _session(trial) == session and _has_run(trial)
        ]
        ended.sort(key=lambda trial: (trial.datetime_start, trial.number))
        numbers = [trial.number for trial in ended]
        if len(ended) < 2 or numbers == list(ran)[: len(numbers)]:
            continue
        one_by_one = not any(_ran_into(trial, other) for trial, other in pairwise(ended))
        seconds = sum(trial.duration.total_seconds() for trial in ended if trial.duration)
        if one_by_one and seconds <= most_seconds:
            groups.append(ended)
    return groups


def _ran_into(one: FrozenTrial, other: FrozenTrial) -> bool:
    ended, began = one.datetime_complete, other.datetime_start
    return ended is None or began is None or ended > began


def _session(trial: FrozenTrial) -> str:
    mark = trial.system_attrs.get(MARK)
    return str(mark.get("id") if isinstance(mark, dict) else mark)


def _has_run(trial: FrozenTrial) -> bool:
    """Tell whether a trial's code came to an end, and it is known when it began."""
    timed = trial.datetime_start is not None and trial.datetime_complete is not None
    return trial.state.is_finished() and timed and not is_lost(trial)


_LOOKING = ("study", "storage")


@dataclass(frozen=True)
class Past:
    """The part of its study that archived code may see: data, and picklable."""

    name: str = "study"
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    trials: Sequence[FrozenTrial] = ()

    @classmethod
    def of(cls, study: optuna.Study, capture: Capture) -> Past:
        """Take it from a study."""
        sources = [str(symbol.get("source", "")) for symbol in capture.document["symbols"]]
        looks = any(word in source for source in sources for word in _LOOKING)
        return cls(
            study.study_name,
            own_attributes(study.user_attrs),
            study.get_trials(deepcopy=False) if looks else (),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON, for `from_json`."""
        trials: list[dict[str, Any]] = []
        for trial in self.trials:
            data = trial_to_json(trial)
            data["user_attrs"] = own_attributes(data["user_attrs"])
            data["system_attrs"] = {}
            if is_json(data):
                trials.append(data)
        return {"name": self.name, "user_attrs": dict(self.user_attrs), "trials": trials}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Past:
        """Read what `to_json` gave."""
        trials = [trial_from_json(stored) for stored in data["trials"]]
        return cls(data["name"], data["user_attrs"], trials)


def own_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The user attributes that are not the archive's, as far as they travel."""
    return {
        name: value
        for name, value in attributes.items()
        if not is_of_the_archive(name) and is_json(value)
    }


def is_json(value: Any) -> bool:
    """Tell whether a value travels; a study in memory has attributes of any kind."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


class Replay:
    """A study in memory, in which one archived trial after the other runs again."""

    def __init__(self, past: Past, directions: Sequence[str]) -> None:
        self._storage = _PastStorage(past)
        self._pruner = _ArchivedPruner()
        with _quiet():
            self._storage.create_new_study([StudyDirection[d.upper()] for d in directions])
        self._study = optuna.load_study(
            study_name=self._storage.get_study_name_from_id(0),
            storage=self._storage,
            sampler=_NoSampler(),
            pruner=self._pruner,
        )

    def trial(
        self,
        number: int,
        params: Mapping[str, Any],
        *,
        pruned_at: int | None = None,
        told_to_prune: Sequence[int] = (),
        started: datetime | None = None,
        user_attrs: Mapping[str, Any] | None = None,
    ) -> optuna.Trial:
        """The trial, as it was when it began.

        It is told to end after as many reports as it was, else from `pruned_at` reports on.
        """
        self._pruner.pruned_at, self._pruner.told = pruned_at, told_to_prune
        self._storage.begin(number, dict(params), dict(user_attrs or {}), started)
        return FlowTrial(self._study, number)


class _PastStorage(InMemoryStorage):
    """Memory with the trials of a study, which shows those that one of them could see."""

    def __init__(self, past: Past) -> None:
        super().__init__()
        self._past = past
        self._number = -1
        self._started: datetime | None = None
        self._known = 0

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        study_id = super().create_new_study(directions, study_name or self._past.name)
        for trial in self._past.trials:
            self.create_new_trial(study_id, trial)
        self._known = len(self._past.trials)
        return study_id

    def begin(
        self,
        number: int,
        params: dict[str, Any],
        user_attrs: dict[str, Any],
        started: datetime | None,
    ) -> None:
        """Put a trial that runs in the place of an archived one, and all others back."""
        info = self._studies[0]
        if 0 <= self._number < len(self._past.trials):
            self._set_trial(self._number, copy.deepcopy(self._past.trials[self._number]))
        while len(info.trials) <= number:
            self.create_new_trial(0)
        running = self._create_running_trial()
        running.number = running._trial_id = number  # pyright: ignore[reportPrivateUsage]
        running.user_attrs = user_attrs
        running.system_attrs = {"fixed_params": params}
        self._set_trial(number, running)
        info.user_attrs = copy.deepcopy(dict(self._past.user_attrs))
        info.param_distribution = {}
        self._number, self._started, self._known = number, started, len(info.trials)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        self._check_study_id(study_id)
        seen = filter(None, map(self._as_seen, list(self._studies[study_id].trials)))
        chosen = [trial for trial in seen if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(self, study_id)

    def _as_seen(self, trial: FrozenTrial) -> FrozenTrial | None:
        """A trial as the one that runs could see it."""
        number = trial.number
        if number == self._number or number >= self._known:
            return trial
        if number >= len(self._past.trials):
            return None  # nothing is known of it
        ended, started = trial.datetime_complete, self._started
        if ended is not None and (ended <= started if started else number < self._number):
            return trial
        if number > self._number:
            return None
        under_way = copy.copy(trial)
        under_way.state = TrialState.RUNNING
        under_way.values = None
        under_way.datetime_complete = None
        return under_way


class _ArchivedPruner(optuna.pruners.BasePruner):
    """Prunes where the archived trial was told to end, and nowhere else.

    By the number of reports: their steps may come in any order.
    """

    pruned_at: int | None = None
    told: Sequence[int] = ()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        reports = len(trial.intermediate_values)
        if self.told:
            return reports in self.told
        return self.pruned_at is not None and reports >= self.pruned_at


class _NoSampler(optuna.samplers.BaseSampler):
    """Says which parameter the archived trial does not have."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        known = ", ".join(trial.system_attrs["fixed_params"]) or "none"
        raise ValueError(
            f"the archived trial has no parameter {param_name!r}; it has: {known}. The code went "
            "another way this time"
        )


@contextmanager
def _quiet() -> Generator[None]:
    """Silence Optuna's log line about a new study, which is not the user's."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
