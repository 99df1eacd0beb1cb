"""Who runs which trial: the sessions of a study, and the trials that dead ones left behind.

Optuna's storages know that a trial is RUNNING, and most of them do not know whether anybody still
runs it. Each `optimize`, and each worker of `distribute`, therefore opens a session, a small
record among the study's system attributes, and marks its trials with it. A session whose process
is gone is dead: its trials are failed and asked again, each exactly once. This uses nothing but
Optuna's public storage interface and so works on every storage.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.patience import PatientStorage, trials_view
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.study_summary import LOST, is_lost
from prefect_optuna.tasks.archive.record.manifest import RESULT_KEY
from prefect_optuna.tasks.archive.record.trial_records import MARK
from prefect_optuna.tasks.sampling import Asks
from prefect_optuna.tasks.seeding import (
    SEED,
    SEED_KEY,
    first_number,
    recorded_seed,
    trial_seed,
)
from prefect_optuna.tasks.trial import FlowTrial, Stopping

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from prefect_optuna.flows.study import FlowStudy, StudyState

LEASE_SECONDS = 45.0
"""A session on another machine is dead when its record has not changed for so long, by default.

The observer's own clock says so: clocks of machines need not agree. Time in which the observer
could not look, for the storage was away, does not count. A session says in its record how long
its lease is.
"""

_RENEWALS = 3  # in the time of a lease
_MOST_BETWEEN_LOOKS = 15.0  # seconds; if there are more, the storage may have been away

CLAIM_SECONDS = 10.0
"""A trial that was taken from the queue bears the mark of its session at the latest after this."""

MAX_REPETITIONS = 3
"""A trial that took its process down so often, counting its repetitions, counts as failed."""

_GONE = "prefect_optuna:gone"  # on a study: when a session that died had last renewed its record
_ORDER = "prefect_optuna:order"  # on a study: what somebody asks a session for
_INNOCENT = "prefect_optuna:innocent"  # on a trial: how many of its losses were not its doing
_RELEASED = "prefect_optuna:released"  # on a trial: whose workers may take it from the queue

# The repetition is marked as Optuna's own retry callback marks it, so that
# `RetryHeartbeatStaleTrialCallback.retry_history` and the dashboard understand it.
_REPEATS = "failed_trial"
_HISTORY = "retry_history"

OF_ONE_ATTEMPT = frozenset({_REPEATS, _HISTORY, _INNOCENT, _RELEASED, LOST})
"""Attributes that say which attempt a trial is; another attempt's are not its own."""

_alive_here: set[str] = set()


def lost_trials(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials among these that were lost."""
    return [trial for trial in trials if is_lost(trial)]


def owner_of(trial: FrozenTrial) -> str | None:
    """The id of the session that has marked a trial; `None` if none has."""
    mark = trial.system_attrs.get(MARK)
    return mark.get("id") if isinstance(mark, Mapping) else mark


def history_of(trial: FrozenTrial) -> list[int]:
    """The numbers of the lost trials that this one repeats, the first one first."""
    return trial.system_attrs.get(_HISTORY, [])


def give_order(study: optuna.Study, session: str, **order: Any) -> None:
    """Ask a session for something, from any machine."""
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    study_id = study._study_id  # pyright: ignore[reportPrivateUsage]
    given = Session(study, storage).orders(session)
    storage.set_study_system_attr(study_id, f"{_ORDER}:{session}", {**given, **order})


def state_of(
    study: optuna.Study, trials: Sequence[FrozenTrial], finished: int | None = None
) -> StudyState:
    """Tell what a study is doing, or how it ended, seen from outside.

    Its trials are all of them, or those that have not ended, with the number of the others.

    It is running while a session of it lives, or somebody without this package may run a trial.
    Otherwise the session that was opened last says how it ended; a dead one, and trials that wait
    for nobody, mean that the study was interrupted, unless somebody has stopped it.
    """
    session = Session(study, study._storage)  # pyright: ignore[reportPrivateUsage]
    records = session.records()
    alive = {key for key, record in records.items() if _seems_alive(record)}
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    # One that no session has marked belongs to a program that uses Optuna alone.
    if alive or any(owner_of(trial) is None and not _is_ours(trial) for trial in running):
        starters = [key for key in alive if "parent" not in records[key]]
        paused = starters and all(session.asked(key) == "pause" for key in starters)
        return "paused" if paused else "running"
    if finished is None:
        finished = sum(trial.state.is_finished() and not is_lost(trial) for trial in trials)
    # One that died is not missed where others have finished all that it wanted.
    starters = [
        record
        for record in records.values()
        if "parent" not in record and (record["closed"] or _wants_more(record, finished))
    ]
    last = max(starters, key=lambda record: record["opened"], default=None)
    ended: StudyState = "completed" if last is None else "interrupted"
    if last is not None and last["closed"]:
        ended = last.get("state") or ("completed" if last["clean"] else "interrupted")
    waiting = any(trial.state == TrialState.WAITING for trial in trials)
    # Somebody has stopped it before its queue was empty; else trials that wait wait for nobody.
    left = running or (waiting and ended != "stopped")
    return "interrupted" if left else ended


def _wants_more(record: Mapping[str, Any], finished: int) -> bool:
    wanted = record.get("n_trials")
    return not isinstance(wanted, int) or finished < wanted


def ask_sessions(study: optuna.Study, what: Literal["stop", "pause", "resume"]) -> int:
    """Ask whoever runs a study, wherever that is, to stop or to pause, or to go on.

    They finish the trials that run. They hear of it within seconds, and a later run does not.
    """
    alive = [key for key, record in living_sessions(study).items() if "parent" not in record]
    for key in alive:
        give_order(study, key, do=what)
    return len(alive)


def living_sessions(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Return the records of the sessions that live, as far as one look can tell.

    A session of another machine whose record is older than two leases, by the clocks of both, is
    taken for dead: nobody looks for long enough to see whether it is renewed.
    """
    return {key: record for key, record in session_records(study).items() if record["alive"]}


def session_records(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Return the records of all sessions of a study, and whether they are `"alive"`.

    Whether one of another machine lives is told as by `living_sessions`.
    """
    records = Session(study, study._storage).records()  # pyright: ignore[reportPrivateUsage]
    return {key: {**record, "alive": _seems_alive(record)} for key, record in records.items()}


def _seems_alive(record: Mapping[str, Any]) -> bool:
    age = time.time() - record["renewed"]
    is_fresh = record["place"] == _place() or age < 2 * record.get("lease", LEASE_SECONDS)
    return record["alive"] and is_fresh and not record["gone"]


class OpenTrials:
    """Follows the trials of a study; a look costs as much as has happened since the one before.

    What has ended stays as it is, and a study may have a hundred thousand of it.

    Example:
        >>> import optuna
        >>> from prefect_optuna.flows.session import OpenTrials
        >>> study, follows = optuna.create_study(), OpenTrials()
        >>> trial = study.ask()
        >>> _, ended = follows.look(study.trials)
        >>> study.tell(trial, 1.0).number, len(ended), len(follows.open)
        (0, 0, 1)
        >>> _, ended = follows.look(study.trials)
        >>> len(ended), len(follows.open), follows.finished
        (1, 0, 1)
    """

    def __init__(self) -> None:
        self.open: list[FrozenTrial] = []
        """Those that have not ended, as they were at the last look."""
        self.finished: int = 0
        """Number of trials that have ended, without those that were lost."""
        self.unrepeated: set[int] = set()
        """The numbers of lost trials that are still to be asked again."""
        self.repeats: int = 0
        """Number of trials that are lost ones, asked again."""
        self._repeated: set[int] = set()
        self._ended_first = 0  # trials that have ended, each with its repetitions counted once
        self._seen = 0

    def look(self, trials: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Return the trials that are new, and those that have ended."""
        new = list(trials[self._seen :])
        self._seen = max(self._seen, len(trials))
        self.repeats += sum(_HISTORY in trial.system_attrs for trial in new)
        ended: list[FrozenTrial] = []
        still: list[FrozenTrial] = []
        for trial in [*(trials[one.number] for one in self.open), *new]:
            (ended if trial.state.is_finished() else still).append(trial)
        self.open = still
        lost = lost_trials(ended)
        self.finished += len(ended) - len(lost)
        self._ended_first += sum(map(_is_first, ended))
        self._repeated.update(*map(history_of, new))
        again = {t.number for t in lost if not _is_dropped(t)}
        self.unrepeated = (self.unrepeated | again) - self._repeated
        return new, ended

    def ahead_of(self, first: int, trials: Sequence[FrozenTrial]) -> int:
        """Count the trials asked before this one that have ended, run, or will be run.

        A lost trial and its repetitions are one: there is always another one until it has ended.

        Args:
            first: its number, or that of the lost one that it repeats.
            trials: those of the last look.
        """
        since = sum(_is_first(trial) and trial.state.is_finished() for trial in trials[first:])
        runs = sum(
            _is_first(trial)
            and trial.number < first
            and trial.state == TrialState.RUNNING
            and owner_of(trial) is not None
            for trial in self.open
        )
        return self._ended_first - since + runs


class Session:
    """One run of `optimize`, or one worker, on one study, from `open` to `close`."""

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        details: Mapping[str, Any] | None = None,
        version: str = "",
        seed: int | None = None,
        stopping: Stopping | None = None,
    ) -> None:
        self.stopping: Stopping = Stopping() if stopping is None else stopping
        self.id: str = uuid.uuid4().hex
        self._mark = {"id": self.id, "version": version}
        self.repeats: set[int] = set()
        """The trials of this session that are lost ones, asked again."""
        self.seed = seed
        self._next = 0  # the number of the next trial, if nobody else makes any
        self._n_repeats = 0  # of lost trials, before that
        self.asks: Asks | None = None
        """The way in which the sampler is asked; by default as several ask at once."""
        self._details = dict(details or {})
        self._study = study
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self.opened: float = time.time()
        """When this session began, in seconds since 1970."""
        self._lease = LEASE_SECONDS
        self._renewed = math.inf
        self._doubtful: dict[int, float] = {}
        self._follows = OpenTrials()
        self._recovering = threading.Lock()
        self._watched = 0.0  # seconds
        self._looked = time.monotonic()
        self._changed: dict[str, tuple[float, float]] = {}  # what was last renewed, and seen when
        self._closed = threading.Event()
        self._renewer = threading.Thread(
            target=self._renew, name="prefect-optuna-session", daemon=True
        )

    def open(self) -> None:
        """Write the record, and keep renewing it. Idempotent."""
        if self.id in _alive_here:
            return
        self._lease = OptunaSettings.here().lease
        _alive_here.add(self.id)
        self._write(closed=False)
        self._renewer.start()

    def say(self, **details: Any) -> None:
        """Have the record say something more, as JSON."""
        self._details.update(details)
        self._write(closed=False)

    def close(self, *, clean: bool = True, **details: Any) -> None:
        """Say that this session runs no trials any more."""
        if self._closed.is_set():
            return
        self._details.update(details)
        self._closed.set()
        self._renewer.join()
        _alive_here.discard(self.id)
        self._write(closed=True, clean=clean)

    def ask(self, study: FlowStudy) -> optuna.Trial:
        """Ask for a trial that is this session's: from the queue, or a new one."""
        if (trial := self.take(study)) is not None:
            return trial
        self._show_life()
        one = study.for_one_trial()
        asks = self._asks(study)
        trials = asks.trials_of(self._storage, self._study_id)
        mark = {**self._mark, "asked": asks.ask(one, trials)}
        self._next, self._n_repeats = len(trials), len(trials) - asks.next_place
        trial_id = self._create(state=TrialState.RUNNING, system_attrs={MARK: mark})
        trial = FlowTrial(one, trial_id, self.stopping)
        if self._correct(trial_id, trial.number):
            trial._cached_frozen_trial = self._storage.get_trial(trial_id)  # pyright: ignore[reportPrivateUsage]
        return trial

    def _asks(self, study: FlowStudy) -> Asks:
        if self.asks is None:
            self.asks = Asks(study.sampler)
        return self.asks

    def sampler_state(self) -> list[Any] | None:
        """Return the sampler's progress, if trials are asked one after the other."""
        return None if self.asks is None else self.asks.told()

    def take(
        self,
        study: FlowStudy,
        *,
        released_by: str | None = None,
    ) -> optuna.Trial | None:
        """Take a trial from the queue; `None` where nothing waits there.

        It can be marked only when it is taken. `Study.ask` would make a new one without any mark
        where another process is quicker.
        """
        self._settle_doubts()
        waiting = sorted(self._waiting(), key=first_number)
        if waiting:
            self._show_life()
        for trial in waiting:
            if released_by is not None and not _is_released(trial, released_by):
                continue
            trial_id = trial._trial_id  # pyright: ignore[reportPrivateUsage]
            before = self._storage.get_all_trials(self._study_id, deepcopy=False)
            outages = self._outages()
            # Somebody else was quicker, or took this process for dead before the mark was there.
            with contextlib.suppress(UpdateFinishedTrialError):
                if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    if not _is_copy(trial, before):
                        return self._taken(study, before, trial)
                    self._drop(trial_id, "two runs asked the same trial again at once")
            if self._outages() > outages:
                # It may be ours, and the answer got lost in the outage.
                self._doubtful[trial.number] = time.monotonic()
        return None

    def _taken(
        self, study: FlowStudy, trials: Sequence[FrozenTrial], trial: FrozenTrial
    ) -> optuna.Trial:
        one, asks = study.for_one_trial(), self._asks(study)
        asked = asks.ask(one, trials, trial)
        trial_id = trial._trial_id  # pyright: ignore[reportPrivateUsage]
        self._storage.set_trial_system_attr(trial_id, MARK, {**self._mark, "asked": asked})
        place = asks.place(trial)
        if SEED_KEY not in trial.user_attrs or place != first_number(trial):
            self._seed_trial(trial_id, trial, place)
        taken = FlowTrial(one, trial_id, self.stopping)
        if _HISTORY in trial.system_attrs:
            self.repeats.add(trial.number)
            asks.again(taken, trials[first_number(trial)])
        return taken

    def _settle_doubts(self) -> None:
        """Ask those trials again that this session may have taken, and that nobody has marked."""
        for number, since in list(self._doubtful.items()):
            if time.monotonic() - since > CLAIM_SECONDS:
                trial = self._storage.get_trial(self._trial_id(number))
                if owner_of(trial) is None and not trial.params:  # else somebody runs it
                    self.give_up(number, "who had taken it got lost in an outage")
                del self._doubtful[number]

    def _outages(self) -> int:
        storage = self._storage
        return storage.patience.outages if isinstance(storage, PatientStorage) else 0

    def release(self, count: int) -> None:
        """Let this session's workers take so many more trials.

        What waits in the queue already goes first. The parameters of the others are suggested by
        whoever takes them.
        """
        for trial in self._waiting():
            if count > 0 and not _is_released(trial, self.id):
                trial_id = trial._trial_id  # pyright: ignore[reportPrivateUsage]
                with contextlib.suppress(UpdateFinishedTrialError):
                    self._storage.set_trial_system_attr(trial_id, _RELEASED, self.id)
                    count -= 1
        if count > 0:
            trials = trials_view(self._storage, self._study_id)
            with self._recovering:
                self._follows.look(trials)
            self._next, self._n_repeats = len(trials), self._follows.repeats
        for _ in range(count):
            trial_id = self._create(state=TrialState.WAITING, system_attrs={_RELEASED: self.id})
            if self.seed is not None:
                self._correct(trial_id, self._storage.get_trial_number_from_id(trial_id))

    def seed_of(self, trial: FrozenTrial) -> int | None:
        """The seed of a trial of this session; `None` where its trials have none."""
        return None if self.seed is None else recorded_seed(trial, self.seed)

    def _create(self, *, system_attrs: dict[str, Any], **fields: Any) -> int:
        """Make a trial that says its seed; the id of the trial."""
        if self.seed is not None:
            # That takes no write of its own, but the number of the trial is not known before it is
            # there: it is as expected where nobody else makes trials.
            seed = trial_seed(self.seed, self._next - self._n_repeats)
            fields["user_attrs"] = {SEED_KEY: seed}
            if self._n_repeats:
                system_attrs = {**system_attrs, SEED: seed}
        template = optuna.trial.create_trial(system_attrs=system_attrs, **fields)
        return self._storage.create_new_trial(self._study_id, template_trial=template)

    def _correct(self, trial_id: int, number: int) -> bool:
        """Give a trial its own seed that was just made with that of another number."""
        expected, self._next = self._next, number + 1
        if number == expected or self.seed is None:
            return False
        self._seed_trial(trial_id, None, number - self._n_repeats)
        return True

    def _seed_trial(self, trial_id: int, trial: FrozenTrial | None, place: int) -> None:
        if self.seed is None:
            return
        seed = trial_seed(self.seed, place)
        with contextlib.suppress(UpdateFinishedTrialError):
            if self._n_repeats or (trial and place != first_number(trial)):
                self._storage.set_trial_system_attr(trial_id, SEED, seed)
            if trial is None or SEED_KEY not in trial.user_attrs:
                self._storage.set_trial_user_attr(trial_id, SEED_KEY, seed)

    def under_way(self, trials: Iterable[FrozenTrial]) -> tuple[int, int]:
        """Count the trials that run, and those that wait for this session's workers."""
        running = waiting = 0
        for trial in trials:
            running += trial.state == TrialState.RUNNING and _is_ours(trial)
            waiting += trial.state == TrialState.WAITING and _is_released(trial, self.id)
        return running, waiting

    def _waiting(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(
            self._study_id, deepcopy=False, states=(TrialState.WAITING,)
        )

    def claim(self, trial: optuna.Trial) -> None:
        """Mark a trial as run by this session."""
        self._storage.set_trial_system_attr(self._trial_id(trial.number), MARK, self._mark)

    def give_up(self, number: int, why: str, *, innocent: bool = False) -> int | None:
        """Fail a trial that will not be finished, and ask it again."""
        trial_id = self._trial_id(number)
        trial = self._storage.get_trial(trial_id)
        if trial.state != TrialState.RUNNING:
            return None
        count = trial.system_attrs.get(_INNOCENT, 0)
        repeat = innocent or len(trial.system_attrs.get(_HISTORY, ())) - count < MAX_REPETITIONS
        try:
            # The mark comes first: a finished trial cannot be changed. Whoever changes the state
            # has won, also against another process that saw the same dead session.
            if repeat:
                self._storage.set_trial_system_attr(
                    trial_id, LOST, {"session": self.id, "why": why}
                )
            else:
                self._storage.set_trial_user_attr(trial_id, "error", f"{why}, as often before")
            if not self._storage.set_trial_state_values(trial_id, TrialState.FAIL):
                return None
        except UpdateFinishedTrialError:
            return None
        return self._repeat(trial, count + innocent) if repeat else None

    def withdraw(self, number: int) -> None:
        """Take a trial back that is one too many: one from the queue waits there again."""
        trial_id = self._trial_id(number)
        attributes = self._storage.get_trial(trial_id).system_attrs
        if "fixed_params" in attributes or _HISTORY in attributes:
            self.give_up(number, "the study has enough trials", innocent=True)
        else:
            self._drop(trial_id, "the study has enough trials")

    def _drop(self, trial_id: int, why: str) -> None:
        mark = {"session": self.id, "why": why, "for good": True}
        self._storage.set_trial_system_attr(trial_id, LOST, mark)
        with contextlib.suppress(UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def recover(self) -> list[int]:
        """Fail the trials of dead sessions and ask them again."""
        with self._recovering:
            return self._recover()

    def _recover(self) -> list[int]:
        records = self._records()
        alive = {key for key, record in records.items() if self._is_alive(key, record)}
        for key in records.keys() - alive:
            if not (records[key]["closed"] or records[key]["gone"]):
                # For those who look once, by clocks that need not agree. Not in its own record: it
                # may live after all, and write there at the same moment.
                renewed = records[key]["renewed"]
                self._storage.set_study_system_attr(self._study_id, f"{_GONE}:{key}", renewed)
        trials = trials_view(self._storage, self._study_id)
        self._follows.look(trials)
        given_up = []
        for trial in self._follows.open:
            if trial.state != TrialState.RUNNING:
                continue
            owner = owner_of(trial)
            dead = owner not in alive if owner else _is_unclaimed(trial, records, alive - {self.id})
            if dead:
                self.give_up(trial.number, "the process that ran it is gone")
                given_up.append(trial.number)
        # Somebody gave a trial up and died before asking it again.
        for number in sorted(self._follows.unrepeated):
            if trials[number].system_attrs[LOST]["session"] not in alive:
                self._repeat(trials[number])  # the next look sees it
        return given_up

    def records(self) -> dict[str, dict[str, Any]]:
        """Return the record of each session by its id, and whether it is `"alive"`."""
        return {
            key: {**record, "alive": self._is_alive(key, record)}
            for key, record in self._records().items()
        }

    def orders(self, session: str | None = None) -> dict[str, Any]:
        """Return what a session was asked for, see `give_order`."""
        attributes = self._storage.get_study_system_attrs(self._study_id)
        return dict(attributes.get(f"{_ORDER}:{session or self.id}", {}))

    def declare_dead(self, session: str) -> None:
        """Say of another session that it has ended, where somebody knows it for sure."""
        record = {**self._records()[session], "closed": True, "clean": False}
        self._storage.set_study_system_attr(self._study_id, f"{MARK}:{session}", record)

    def asked(self, session: str | None = None) -> str | None:
        """Return what a session was asked to do: `"stop"`, `"pause"` or nothing."""
        asked = self.orders(session).get("do")
        return asked if asked in ("stop", "pause") else None

    def others_running(self, trials: Iterable[FrozenTrial]) -> int:
        """Count the trials that other sessions run."""
        return sum(
            trial.state == TrialState.RUNNING and owner_of(trial) not in (None, self.id)
            for trial in trials
        )

    def _repeat(self, trial: FrozenTrial, innocent: int | None = None) -> int:
        if innocent is None:
            innocent = trial.system_attrs.get(_INNOCENT, 0)
        history = [*trial.system_attrs.get(_HISTORY, ()), trial.number]
        template = optuna.trial.create_trial(
            state=TrialState.WAITING,
            user_attrs={key: value for key, value in trial.user_attrs.items() if key != RESULT_KEY},
            system_attrs={
                # As `Study.enqueue_trial` does it: the same parameters, whatever the sampler says.
                "fixed_params": {**trial.system_attrs.get("fixed_params", {}), **trial.params},
                _REPEATS: history[0],
                _HISTORY: history,
                **({_INNOCENT: innocent} if innocent else {}),
            },
        )
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=template)
        return self._storage.get_trial_number_from_id(trial_id)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _records(self) -> dict[str, dict[str, Any]]:
        attributes = self._storage.get_study_system_attrs(self._study_id)
        prefix = f"{MARK}:"
        records = {
            session: {**record, "gone": attributes.get(f"{_GONE}:{session}") == record["renewed"]}
            for key, record in attributes.items()
            if (session := key.removeprefix(prefix)) != key and _is_record(record)
        }
        now = time.monotonic()
        self._watched += min(now - self._looked, _MOST_BETWEEN_LOOKS)
        self._looked = now
        for key, record in records.items():
            if self._changed.get(key, (None,))[0] != record["renewed"]:
                self._changed[key] = (record["renewed"], self._watched)
        return records

    def _write(self, *, closed: bool, clean: bool = False, wait: bool = True) -> None:
        import psutil

        record = {
            "place": _place(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "opened": self.opened,
            "renewed": time.time(),
            "lease": self._lease,
            "closed": closed,
            "clean": clean,
            **self._details,
        }
        storage = self._storage
        if isinstance(storage, PatientStorage) and not wait:
            storage = storage.storage
        storage.set_study_system_attr(self._study_id, f"{MARK}:{self.id}", record)
        self._renewed = _uptime()

    def _show_life(self) -> None:
        """Renew the record before a trial is taken, if it may be taken for a dead one's.

        As after an outage, or when the machine has slept: the trial would be given up at once.
        """
        if _uptime() - self._renewed > self._lease / 2:
            self._write(closed=False)

    def _renew(self) -> None:
        while not self._closed.wait(self._lease / _RENEWALS):
            # The storage may be away for a while; the next time will do.
            with contextlib.suppress(Exception):
                self._write(closed=False, wait=False)

    def _is_alive(self, key: str, record: dict[str, Any]) -> bool:
        if record["closed"]:
            return False
        if record["place"] != _place():
            lease = record.get("lease", LEASE_SECONDS)
            return self._watched - self._changed[key][1] < lease
        if record["pid"] == os.getpid():
            return key in _alive_here
        import psutil

        try:
            process = psutil.Process(record["pid"])
            # A clock that is set shifts the start times that the system reports a little.
            same = abs(process.create_time() - record["process_started"]) < 5
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def _is_record(value: Any) -> bool:
    """Tell whether a record is one of a session: anybody could have written anything there."""
    if not isinstance(value, dict):
        return False
    numbers: list[Any] = [value.get(name) for name in ("process_started", "opened", "renewed")]
    numbers.append(value.get("lease", LEASE_SECONDS))
    return (
        all(type(number) in (int, float) and abs(number) < 1e11 for number in numbers)
        and all(isinstance(value.get(name), str) for name in ("place", "host"))
        and all(isinstance(value.get(name), bool) for name in ("closed", "clean"))
        and type(value.get("pid")) is int
        and 0 < value["pid"] < 1 << 31
    )


def _is_dropped(trial: FrozenTrial) -> bool:
    return is_lost(trial) and trial.system_attrs[LOST].get("for good", False)


def _is_first(trial: FrozenTrial) -> bool:
    """Tell whether a trial counts and repeats none."""
    return not history_of(trial) and not _is_dropped(trial)


def _is_copy(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> bool:
    """Tell whether an earlier trial repeats the same one.

    Several runs may find a lost trial that nobody has asked again, each at the same moment.
    """
    history = history_of(trial)
    others = trials[history[-1] + 1 : trial.number] if history else ()
    return any(history_of(other) == history for other in others)


def _is_released(trial: FrozenTrial, session: str) -> bool:
    return trial.system_attrs.get(_RELEASED) == session


def _is_ours(trial: FrozenTrial) -> bool:
    """Tell whether a session has made the trial, and no program that uses Optuna alone."""
    return not trial.system_attrs.keys().isdisjoint({MARK, _RELEASED, _HISTORY})


def _is_unclaimed(trial: FrozenTrial, records: dict[str, dict[str, Any]], alive: set[str]) -> bool:
    """Tell whether a session was killed between taking a trial from the queue and marking it.

    Such a trial has no mark and nothing in it, and was created while the dead session lived.
    Anything else without a mark belongs to somebody who uses the study without this package.
    """
    if trial.params or trial.intermediate_values or trial.datetime_start is None:
        return False
    created = trial.datetime_start.timestamp()
    if alive and time.time() - created < CLAIM_SECONDS:
        return False  # one that lives may be about to mark it
    return any(
        record["opened"] - 1 <= created <= record["renewed"] + record.get("lease", LEASE_SECONDS)
        for key, record in records.items()
        if key not in alive and not record["clean"]
    )


def _uptime() -> float:
    """Seconds since the machine was started, those in which it slept included, where it says so."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _place() -> str:
    """Where process ids mean the same: the machine since its last start, and its pid namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        namespace = Path("/proc/self/ns/pid").readlink().name
    except OSError:  # no Linux: containers do not share host names there
        boot = namespace = ""
    return f"{socket.gethostname()}/{boot}/{namespace}"
