"""A client's copy of one study, brought up to date by what the server says has happened.

Finished trials never change, so that they are read once. An entry of the log says in lines,
with tabs between their parts, what happened to the others:

| line | what happened |
|---|---|
| `c`, number, state, times, fields | a trial was made; the rest of its head is the operation |
| `o`, number, field, value | a field was set |
| `s`, number, state, time of start | the state of a trial that is not finished |
| `f`, number | a trial finished; its record tells the rest |
| `a`, `u` or `s`, name, value | an attribute of the study |
| `~`, number, or `b`, `u` or `s`, name | the same, and too large for the log: read it |
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.codec.values import check_nesting
from prefect_optuna.blocks.redis_storage.layout import (
    STATES,
    Parts,
    StudyKeys,
    decode_distribution,
    decode_time,
    stored_distribution,
    trial_id,
)
from prefect_optuna.errors import DamagedStorageError

_CHUNK = 10_000  # finished trials that are asked for at once

Operation = tuple[str, str, str, str, Any]
"""A field, its value and its kind as they are sent; the field and the value as read back."""

Read = Callable[[Sequence[tuple[Any, ...]]], list[Any]]
"""Sends commands that change nothing, all at once."""


class Outbox:
    """Operations that this client has still to send for one trial; it outlives the trial's copies.

    `lock` is held while something is added or sent, so that what comes first arrives first.
    """

    __slots__ = ("lock", "operations", "since", "thread")

    def __init__(self) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.operations: list[Operation] = []
        self.since: float = 0.0
        self.thread: int = 0


class UnfinishedTrial:
    """A trial that is not finished, with what this client has still to send."""

    __slots__ = (
        "birth",
        "completed",
        "number",
        "outbox",
        "parts",
        "snapshot",
        "started",
        "state",
        "trial_id",
    )

    def __init__(
        self, study_id: int, number: int, head: str, find: Callable[[str], BaseDistribution]
    ) -> None:
        first, started, completed, fields = head.split("\t")
        self.number: int = number
        self.trial_id: int = trial_id(study_id, number)
        self.state: TrialState = STATES[first[0]]
        self.birth: str = first[1:]
        self.started: datetime | None = decode_time(json.loads(started))
        self.completed: datetime | None = decode_time(json.loads(completed))
        self.parts: Parts = Parts(find)
        if fields != "{}":
            self.parts.update(json.loads(fields))
        self.snapshot: FrozenTrial | None = None
        self.outbox: Outbox = Outbox()

    def set(self, field: str, value: Any) -> None:
        """Set a field; what was handed out before stays as it is."""
        self.parts.set(field, value)
        self.snapshot = None

    def frozen(self) -> FrozenTrial:
        """Return a trial that its reader may change."""
        return self.parts.copy().frozen(
            self.number, self.trial_id, self.state, self.started, self.completed
        )

    def shared(self) -> FrozenTrial:
        """Return a read-only trial, the same object until something happens."""
        if self.snapshot is None:
            self.snapshot = self.frozen()
        return self.snapshot

    def adopt(self, before: UnfinishedTrial) -> None:
        """Take over what the client's former copy of this trial still had to send."""
        self.outbox = before.outbox
        for *_, field, value in self.outbox.operations:
            self.set(field, value)


class StudyCopy:
    """A client's copy of one study."""

    def __init__(self, namespace: str, study_id: int, read: Read) -> None:
        self.study_id: int = study_id
        self.keys: StudyKeys = StudyKeys(namespace, study_id)
        self.lock: threading.RLock = threading.RLock()
        self.name: str = ""
        self.directions: list[StudyDirection] = []
        self.generation: int = 0
        self.synced: float = 0.0
        self.kinds: dict[str, str] = {}
        self.stored: set[str] = set()
        self.user: dict[str, Any] = {}
        self.system: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self.live: dict[int, UnfinishedTrial] = {}
        self._read = read
        self._forget_all()

    def _forget_all(self) -> None:
        self.version: int = -1
        self.token: str = ""
        self.finished: int = 0
        self._last_record: bytes = b""
        self._trials: list[FrozenTrial | None] = []
        self._best: FrozenTrial | None = None
        self.generation += 1

    def forget_live(self) -> None:
        """Ask for everything but the finished trials again, at the next read."""
        with self.lock:
            self.version = -1
            self.generation += 1

    # Reading the whole study

    def load(self, ask: Callable[[], list[Any]]) -> bool:
        """Read what this client does not know, from its finished trials on."""
        with self.lock, without_garbage_collector():
            # Often enough for a server that is put back while it is read.
            for _ in range(5):
                if not self.load_head():
                    return False
                self._load_finished()
                self.version = -1
                reply = ask()
                if reply[0] == b"gone":
                    return False
                if reply[0] == b"live":
                    self._take_live(reply)
                    return True
                self._forget_all()
            raise DamagedStorageError(
                f"{self.keys.prefix} changed under the reader again and again: expected a study "
                "that grows. Is the server being restored? Try again when that is done."
            )

    def load_head(self) -> bool:
        """Read all but the trials; whether the study is there."""
        meta, names, kinds, user, system = self._read(
            [
                ("HMGET", self.keys.meta, "name", "directions", "deleted"),
                ("HGETALL", self.keys.distributions),
                ("HGETALL", self.keys.kinds),
                ("HGETALL", self.keys.user),
                ("HGETALL", self.keys.system),
            ]
        )
        if meta[0] is None or meta[2] is not None:
            return False
        with decoding(self.keys.meta):
            self.name = meta[0].decode("utf-8", "surrogatepass")
            self.directions = [StudyDirection(d) for d in json.loads(meta[1])]
        self._learn_distributions(names)
        self.stored = set(self.distributions)
        with decoding(self.keys.kinds):
            self.kinds = {field: kind.decode() for field, kind in mapping(kinds).items()}
        with decoding(self.keys.prefix):
            self.user, self.system = read_attributes(user), read_attributes(system)
        return True

    def _load_finished(self) -> None:
        if self.finished:
            last = self.finished - 1
            (records,) = self._read([("LRANGE", self.keys.finished, last, last)])
            if records != [self._last_record]:
                self._forget_all()
        while True:
            (records,) = self._read(
                [("LRANGE", self.keys.finished, self.finished, self.finished + _CHUNK - 1)]
            )
            self._take_records(self.finished, records)
            if len(records) < _CHUNK:
                return

    def _take_live(self, reply: list[Any]) -> None:
        _, version, token, heads, records, count = reply
        self._take_records(self.finished, records)
        self.take_heads(heads, count)
        user, system = self._read([("HGETALL", self.keys.user), ("HGETALL", self.keys.system)])
        with decoding(self.keys.prefix):
            self.user, self.system = read_attributes(user), read_attributes(system)
        self.version, self.token = version, token.decode()
        self.generation += 1
        self._check_complete()

    def take_heads(self, heads: Any, count: int) -> None:
        """Read the trials that are not finished, of `count` in all."""
        with decoding(self.keys.live):
            heads = {int(number): head.decode() for number, head in mapping(heads).items()}
        before, self.live = self.live, {}
        self._make_room(count)
        self._read_live(heads, before)

    def _read_live(self, heads: dict[int, str], before: dict[int, UnfinishedTrial]) -> None:
        numbers = list(heads)
        later = self._read([("HGETALL", self.keys.trial(number)) for number in numbers])
        for number, fields in zip(numbers, later, strict=True):
            with decoding(f"{self.keys.live}, {self.keys.trial(number)}"):
                if not 0 <= number < len(self._trials):
                    raise ValueError(f"trial {number} of {len(self._trials)}")
                trial = UnfinishedTrial(self.study_id, number, heads[number], self.distribution)
                placed: list[tuple[int, str, str]] = []
                for field, value in mapping(fields).items():
                    place, _, text = value.decode().partition(" ")
                    placed.append((int(place), field, text))
                for _, field, text in sorted(placed):
                    trial.set(json.loads(field), json.loads(text))
            if (former := before.get(number)) is not None and former.birth == trial.birth:
                trial.adopt(former)
            self.live[number] = trial

    # Following what others do

    def take(
        self,
        reply: list[Any],
        since: int,
        count: int,
        generation: int,
        apply: Callable[[str], None] | None,
    ) -> None:
        """Take over what has happened since a version."""
        _, version, token, answer, entries, records = reply
        with self.lock:
            if generation != self.generation:
                return  # it has been loaded in the meantime; the next reply tells the rest
            large: dict[int, None] = {}
            for number, entry in enumerate(entries, since + 1):
                if number > self.version:
                    with decoding(self.keys.log):
                        self._take_entry(entry.decode(), large)
            if version > self.version:
                if apply is not None and version == since + len(entries) + 1:
                    apply(answer.decode())
                self.version, self.token = version, token.decode()
            if records:
                self._take_records(count, records)
            if large:
                self._refresh(list(large))

    def _take_entry(self, entry: str, large: dict[int, None]) -> None:
        head, *lines = entry.split("\n")
        for line in lines:
            kind, first, *rest = line.split("\t")
            if kind == "c":
                state, *others = rest
                birth = head.partition("\t")[0]
                self.add_live(int(first), "\t".join([state + birth, *others]))
            elif kind == "o":
                if (trial := self.live.get(int(first))) is not None:
                    field, value = json.loads(rest[0]), json.loads(rest[1])
                    trial.set(field, value)
                    if field[0] == "p":
                        self.kinds[rest[0]] = stored_distribution(
                            trial.parts.distributions[field[1:]]
                        ).kind
            elif kind == "s":
                if (trial := self.live.get(int(first))) is not None:
                    trial.state, trial.snapshot = STATES[rest[0]], None
                    trial.started = decode_time(json.loads(rest[1]))
            elif kind == "a":
                self.set_attribute(first, json.loads(rest[0]), json.loads(rest[1]))
            elif kind == "b":
                key = self.keys.user if first == "u" else self.keys.system
                (text,) = self._read([("HGET", key, rest[0])])
                self.set_attribute(first, json.loads(rest[0]), json.loads(text))
            elif kind == "~":
                self._make_room(int(first) + 1)
                large[int(first)] = None

    def _refresh(self, numbers: list[int]) -> None:
        heads = self._read([("HGET", self.keys.live, number) for number in numbers])
        self._read_live(
            {n: head.decode() for n, head in zip(numbers, heads, strict=True) if head is not None},
            self.live,
        )

    def add_live(self, number: int, head: str) -> UnfinishedTrial:
        """Add a trial that is not finished."""
        self._make_room(number + 1)
        trial = self.live[number] = UnfinishedTrial(self.study_id, number, head, self.distribution)
        return trial

    def set_attribute(self, which: str, name: str, value: Any) -> None:
        """Set an attribute; what was handed out before stays as it is."""
        check_nesting(name, value)
        if which == "u":
            self.user = {**self.user, name: value}
        else:
            self.system = {**self.system, name: value}

    def _make_room(self, count: int) -> None:
        if count > _MOST_TRIALS:
            raise DamagedStorageError(
                f"{self.keys.meta} claims {count:,} trials, more than any study has. Run `check` "
                "on the storage, and restore a backup if it cannot be repaired."
            )
        if count > len(self._trials):
            self._trials += [None] * (count - len(self._trials))

    def _take_records(self, start: int, records: list[bytes]) -> None:
        trials = self._trials
        with decoding(self.keys.finished):
            for record in records[max(self.finished - start, 0) :]:
                trial = self.read_record(record)
                number = trial.number
                if number >= len(trials):
                    self._make_room(number + 1)
                trials[number] = trial
                self.live.pop(number, None)
                self._compare_with_best(trial)
                self.finished += 1
                self._last_record = record

    def read_record(self, record: bytes) -> FrozenTrial:
        """The finished trial that a record tells of."""
        number, letter, values, started, completed, *fields = json.loads(record)
        parts = Parts(self.distribution)
        for some in fields:
            parts.update(some)
        if values is not None:
            parts.values = values
        return parts.frozen(
            number,
            trial_id(self.study_id, number),
            STATES[letter],
            decode_time(started),
            decode_time(completed),
        )

    def _compare_with_best(self, trial: FrozenTrial) -> None:
        if trial.state != TrialState.COMPLETE or len(self.directions) != 1 or not trial.values:
            return
        best, value = self._best, trial.values[0]
        if best is not None and best.values:
            if self.directions[0] == StudyDirection.MAXIMIZE:
                better = value > best.values[0]
            else:
                better = value < best.values[0]
            # Of equals, the first one, in whatever order they finished.
            if not better and not (value == best.values[0] and trial.number < best.number):
                return
        self._best = trial

    # Distributions

    def distribution(self, key: str) -> BaseDistribution:
        """Find a distribution by its short id, on the server if it is new."""
        distribution = self.distributions.get(key)
        if distribution is None:
            (names,) = self._read([("HGETALL", self.keys.distributions)])
            self._learn_distributions(names)
            distribution = self.distributions.get(key)
        if distribution is None:
            raise DamagedStorageError(
                f"{self.keys.distributions} has no distribution {key!r}, and a trial was made with "
                "it. Run `check` on the storage, and restore a backup if it cannot be repaired."
            )
        return distribution

    def _learn_distributions(self, stored: Any) -> None:
        with decoding(self.keys.distributions):
            for key, text in mapping(stored).items():
                if key not in self.distributions:
                    self.distributions[key] = decode_distribution(text.decode())
                self.stored.add(key)

    # What is there

    def trial(self, number: int) -> FrozenTrial:
        """A trial by its number; whoever gets one that is not finished may change it."""
        with self.lock:
            if (live := self.live.get(number)) is not None:
                return live.frozen()
            return self._finished(number)

    def _finished(self, number: int) -> FrozenTrial:
        if number >= len(self._trials):
            raise KeyError(
                f"No trial with the id {trial_id(self.study_id, number)} exists: study "
                f"{self.study_id} has {len(self._trials)} trials."
            )
        if (trial := self._trials[number]) is None:
            raise self._incomplete(number)
        return trial

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, which are read-only."""
        with self.lock:
            trials: list[Any] = self._trials.copy()
            for number, live in self.live.items():
                trials[number] = live.shared()
            return trials

    def shared(self, numbers: Iterable[int]) -> list[FrozenTrial]:
        """Return some trials, which are read-only."""
        with self.lock:
            return [
                self._finished(number) if (live := self.live.get(number)) is None else live.shared()
                for number in numbers
            ]

    def waiting(self) -> list[FrozenTrial]:
        """The trials that wait for a worker."""
        with self.lock:
            return sorted(t.shared() for t in self.live.values() if t.state == TrialState.WAITING)

    def best(self) -> FrozenTrial | None:
        """The best completed trial, if the study has one direction."""
        return self._best

    def __len__(self) -> int:
        return len(self._trials)

    def _check_complete(self) -> None:
        missing = len(self._trials) - self.finished - len(self.live)
        if missing:
            for number, trial in enumerate(self._trials):
                if trial is None and number not in self.live:
                    raise self._incomplete(number)

    def _incomplete(self, number: int) -> DamagedStorageError:
        return DamagedStorageError(
            f"Trial {number} of the study {self.name!r} is neither in {self.keys.live} nor in "
            f"{self.keys.finished}: expected {len(self._trials)} trials. Somebody has changed "
            "these keys. Run `check` on the storage, and restore a backup if it cannot be repaired."
        )


class TrialsView(Sequence[FrozenTrial]):
    """The trials of a study, read-only, without a copy of their list."""

    def __init__(self, study: StudyCopy) -> None:
        self._study = study
        self._numbers = range(len(study))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self._study.shared(self._numbers[place])
        return self._study.shared([self._numbers[place]])[0]


def mapping(flat: Any) -> dict[str, bytes]:
    """Return the reply to HGETALL as a mapping, of either protocol and inside a script."""
    if isinstance(flat, dict):
        return {key.decode(): value for key, value in flat.items()}
    return {key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


@contextmanager
def without_garbage_collector() -> Generator[None]:
    """Pause the collector, which would scan thousands of new objects that all stay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_attributes(stored: Any) -> dict[str, Any]:
    """The attributes of a study, from the reply of `HGETALL`."""
    attributes = {json.loads(name): json.loads(value) for name, value in mapping(stored).items()}
    for name, value in attributes.items():
        check_nesting(name, value)  # how deep JSON is read depends on the version of Python
    return attributes


_MOST_TRIALS = 1 << 27  # a list of them takes a gigabyte

# What decoding raises of what was forged: RecursionError for what is nested too deeply.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@contextmanager
def decoding(key: str) -> Generator[None]:
    """Say which key it is that cannot be read."""
    try:
        yield
    except DamagedStorageError:
        raise
    except _MALFORMED as error:
        raise DamagedStorageError(
            f"{key} holds what no RedisStorage has written: {error!r}. Somebody has changed "
            "it. Run `check` on the storage, and restore a backup if it cannot be repaired."
        ) from error
