"""Sums over the finished trials of a study, so that a large one can be looked at.

Finished trials never change, and stand in a list in the order in which they finished. So sums over
the first of them hold for ever, and whoever wants more reads on from there. Whoever finishes a
trial keeps them in the study's `meta`, once in a thousand trials, and so does a reader. They are
believed only where the last record that they are of, and the best ones, are in their places.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from prefect_optuna.blocks.redis_storage.encoding import STATES, decode_time
from prefect_optuna.blocks.redis_storage.findings import LOOK
from prefect_optuna.blocks.redis_storage.scripts import Script
from prefect_optuna.blocks.redis_storage.server import Server
from prefect_optuna.blocks.redis_storage.study_copy import StudyCopy, decoding, mapping
from prefect_optuna.blocks.study_summary import (
    MOST_BEST,
    StudySummary,
    is_feasible,
    is_lost,
    losses_of,
    pareto_rows,
)
from prefect_optuna.errors import PrefectOptunaError

EVERY = 1000
"""The number of finished trials after which the sums are kept again."""

_CHUNK = 10_000  # records that are read at once
_GROUP = 100  # records that stand together, for finding a place in a long list takes milliseconds
_MOST_FRONT = 1000  # trials that no other one beats; more are not kept

KEEP = Script("""
-- KEYS: meta. ARGV: the sums. A study that is gone, or is being deleted, stays so.
local found = redis.call('HMGET', KEYS[1], 'name', 'deleted')
if found[1] and not found[2] then redis.call('HSET', KEYS[1], 'sums', ARGV[1]) end
return 1
""")
"""Keeps the sums of a study."""

_Ranked = tuple[tuple[float, ...], int, NonNegativeInt]  # losses, number, place in the list
_Moment = Annotated[float, Field(ge=-62e9, le=253e9)]  # seconds since 1970 that are a date


class Sums(BaseModel):
    """Sums over the first `count` finished trials of a study.

    Attributes:
        count: the number of trials.
        digest: the beginning of the SHA-256 of the last one's record.
        states: the number of trials by the letter of their state.
        lost: the number of those that do not count.
        infeasible: the number of complete ones that break a constraint.
        started: when the first one was started, in seconds since 1970.
        last: when one was last started or ended.
        best: the best ones; `None` where they are too many.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, ser_json_inf_nan="constants"
    )

    count: NonNegativeInt = 0
    digest: str = ""
    states: dict[Literal["C", "P", "F"], NonNegativeInt] = {}
    lost: NonNegativeInt = 0
    infeasible: NonNegativeInt = 0
    started: _Moment | None = None
    last: _Moment | None = None
    best: Annotated[list[_Ranked], Field(max_length=_MOST_FRONT)] | None = []

    def add(self, records: Sequence[bytes], directions: Sequence[str]) -> None:
        """Add the records that come next."""
        states: Counter[Any] = Counter(self.states)
        candidates: list[_Ranked] = []
        for place, record in enumerate(records, self.count):
            number, letter, values, started, completed, *fields = json.loads(record)
            states[letter] += 1
            if (start := _seconds(started)) is not None:
                self.started = start if self.started is None else min(start, self.started)
            for moment in (start, _seconds(completed)):
                if moment is not None:
                    self.last = moment if self.last is None else max(moment, self.last)
            trial = _outline(number, letter, values, fields)
            self.lost += is_lost(trial)
            if trial.state == TrialState.COMPLETE and is_feasible(trial):
                candidates.append((losses_of(values, directions), number, place))
            else:
                self.infeasible += trial.state == TrialState.COMPLETE
        if records:
            self.states, self.count = dict(states), self.count + len(records)
            self.digest = _digest(records[-1])
            self._rank(candidates, len(directions))

    def _rank(self, candidates: list[_Ranked], directions: int) -> None:
        if self.best is None:
            return
        candidates = [*self.best, *candidates]
        if directions > 1:
            candidates = [candidates[row] for row in pareto_rows([one[0] for one in candidates])]
            self.best = sorted(candidates) if len(candidates) <= _MOST_FRONT else None
        else:
            self.best = sorted(candidates)[:MOST_BEST]


def _seconds(stored: Any) -> float | None:
    if stored is None or isinstance(stored, float):
        return stored
    moment = decode_time(stored)  # as version 0.1.0 wrote it
    return None if moment is None else moment.timestamp()


def _outline(
    number: int, letter: str, values: Any, fields: Sequence[dict[str, Any]]
) -> FrozenTrial:
    """What of a trial decides whether it counts: state, values, and Optuna's attributes."""
    system = {name[1:]: some[name] for some in fields for name in some if name[0] == "s"}
    return FrozenTrial(
        number, STATES[letter], None, None, None, {}, {}, {}, system, {}, 0, values=values
    )


def _digest(record: bytes) -> str:
    return hashlib.sha256(record).hexdigest()[:16]


def read_sums(study: StudyCopy, server: Server) -> Sums:
    """Read the sums that are kept, and on from there; keep them, if that took long."""
    return _read_on(study, server, _believed(study, server))


def keep_sums(study: StudyCopy, server: Server) -> None:
    """Renew the sums, unless so much is missing that whoever finishes a trial would wait for it."""
    sums = _believed(study, server)
    if study.finished - sums.count <= 10 * EVERY:
        _read_on(study, server, sums)


def _read_on(study: StudyCopy, server: Server, sums: Sums) -> Sums:
    kept = sums.count
    while True:
        records = _records(study, server, sums.count, sums.count + _CHUNK)
        with decoding(study.keys.finished):
            sums.add(records, _directions(study))
        if len(records) < _CHUNK:
            break
    if sums.count // EVERY > kept // EVERY:
        with suppress(PrefectOptunaError):  # who may only read, or a server that is full
            server.run(KEEP, [study.keys.meta], [sums.model_dump_json()])
    return sums


def _believed(study: StudyCopy, server: Server) -> Sums:
    """The sums that are kept, if the list is still the one that they are of; else new ones."""
    (text,) = server.read([("HGET", study.keys.meta, "sums")])
    if text is not None:
        with suppress(ValidationError):
            sums = Sums.model_validate_json(text)
            last = _records(study, server, sums.count - 1, sums.count) if sums.count else []
            if last and sums.digest == _digest(last[0]):
                return sums
    return Sums()


def sums_fit(text: bytes, records: Sequence[bytes], directions: Sequence[str]) -> bool:
    """Tell whether sums that are kept are those of the records."""
    with suppress(ValueError, TypeError, LookupError):  # what is wrong with a record is said there
        kept, sums = Sums.model_validate_json(text), Sums()
        sums.add(records[: kept.count], directions)
        if kept.best is None:  # there have been too many
            sums.best = None
        return kept == sums
    return False


def _records(study: StudyCopy, server: Server, start: int, stop: int) -> list[bytes]:
    (records,) = server.read([("LRANGE", study.keys.finished, start, stop - 1)])
    return records


def _directions(study: StudyCopy) -> list[str]:
    return [direction.name.lower() for direction in study.directions]


def read_summary(study: StudyCopy, server: Server) -> StudySummary | None:
    """Sum up a study without its trials; `None` where that is not possible, or it is not there."""
    if not study.load_head():
        return None
    sums = read_sums(study, server)
    keys = study.keys
    found = server.run(LOOK, [keys.finished, keys.meta, keys.live], [sums.count])
    (_, records), (_, meta), (_, live) = found
    directions = _directions(study)
    with decoding(keys.finished):
        sums.add(records, directions)
    if sums.best is None or not meta:
        return None
    with decoding(keys.meta):
        count = int(mapping(meta)["next"])
    study.take_heads(live, count)
    chosen = server.read([("LRANGE", keys.finished, place, place) for *_, place in sums.best])
    with decoding(keys.finished):
        best = [study.read_record(record) for records in chosen for record in records]
        named = [(losses_of(trial.values, directions), trial.number) for trial in best]
    if named != [(losses, number) for losses, number, _ in sums.best]:
        return None
    unfinished = [study.live[number].frozen() for number in sorted(study.live)]
    starts = [trial.datetime_start for trial in unfinished if trial.datetime_start]
    started, last = map(_moment, (sums.started, sums.last))
    states = Counter({STATES[letter]: number for letter, number in sums.states.items()})
    states.update(trial.state for trial in unfinished)
    return StudySummary(
        states=states,
        lost=sums.lost,
        infeasible=sums.infeasible,
        best=best,
        unfinished=unfinished,
        started=min([*starts, *([started] if started else [])], default=None),
        last=max([*starts, *([last] if last else [])], default=None),
    )


def read_some(study: StudyCopy, server: Server, number: int) -> list[FrozenTrial]:
    """Read about so many finished trials of a study, in small groups from its first to its last."""
    if not study.load_head():
        return []
    finished = study.keys.finished
    (length,) = server.read([("LLEN", finished)])
    groups = max(1, min(number, length) // _GROUP)
    starts = [length * group // groups for group in range(groups)]
    read = server.read([("LRANGE", finished, start, start + _GROUP - 1) for start in starts])
    with decoding(finished):
        return [study.read_record(record) for records in read for record in records]


def _moment(seconds: float | None) -> datetime | None:
    return decode_time(seconds)
