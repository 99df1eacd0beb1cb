"""Check that the keys of one study fit together, with its sums, and repair them if not."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from prefect_optuna.blocks.redis_storage.layout import (
    STATES,
    Parts,
    StudyKeys,
    attribute_field,
    decode_distribution,
    decode_time,
    encode,
    encode_time,
    stored_distribution,
    trial_id,
)
from prefect_optuna.blocks.redis_storage.server import Script, Server
from prefect_optuna.blocks.redis_storage.study_copy import StudyCopy, decoding, mapping
from prefect_optuna.blocks.study_summary import (
    MOST_BEST,
    StudySummary,
    is_feasible,
    is_lost,
    losses_of,
    pareto_rows,
)
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.errors import PrefectOptunaError

# Problems of the keys of a namespace, and the commands that mend them.


LOOK = Script("""
-- KEYS: any, of one slot. ARGV: how many items of the first, if it is a list, are known.
-- Returns the type and the content of each, all of one moment.
local found = {}
for i, key in ipairs(KEYS) do
  local kind, content = redis.call('TYPE', key).ok, {}
  if kind == 'hash' then content = redis.call('HGETALL', key)
  elseif kind == 'list' then content = redis.call('LRANGE', key, i == 1 and ARGV[1] or 0, -1)
  elseif kind == 'zset' then content = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  found[i] = {kind, content}
end
return found
""")
"""Reads whole keys, of whatever type."""

MEND = Script("""
-- KEYS: a hash, then all keys that the commands touch. ARGV: a field of the hash and its value,
-- then each command as its length and its parts. Returns 0 if the field has another value by now.
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
elseif ARGV[2] ~= '' then return 0 end
local i = 3
while ARGV[i] do
  local length = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + length))
  i = i + length + 1
end
return 1
""")
"""Runs commands, unless the hash has been written meanwhile."""


@dataclass(frozen=True)
class RedisProblem:
    """One thing that is wrong in a namespace.

    Args:
        key: of the server.
        kind: `"damaged"`: `repair` mends it; `"lost"`: only a backup helps; `"stale"`: nothing is
            damaged, and a worker has been silent for long.
        found: what is wrong.
        remedy: what `repair` does about it, or what a person can do.

    Example:
        >>> from prefect_optuna.blocks.redis_storage import RedisProblem
        >>> print(RedisProblem("{lab}:names", "damaged", "has no study 's'", "add it"))
        {lab}:names has no study 's' (damaged: add it)
    """

    key: str
    kind: Literal["damaged", "lost", "stale"]
    found: str
    remedy: str

    def __str__(self) -> str:
        return visible_line(f"{self.key} {self.found} ({self.kind}: {self.remedy})")


@dataclass(frozen=True)
class KeyContent:
    """Type and content of a key, as `LOOK` returns them."""

    kind: str
    items: Sequence[bytes]

    @property
    def fields(self) -> dict[bytes, bytes]:
        """Fields of a hash, or members and scores of a sorted set."""
        return dict(zip(self.items[::2], self.items[1::2], strict=True))


_NOTHING = KeyContent("none", ())


class Findings:
    """The problems of the keys of one slot, gathered with what mends them."""

    def __init__(self, contents: dict[str, KeyContent], anchor: tuple[str, str]) -> None:
        self.problems: list[RedisProblem] = []
        self._contents = contents
        self._anchor = anchor
        self._value = self.fields(anchor[0]).get(anchor[1].encode(), b"")
        self._commands: list[tuple[Any, ...]] = []
        self._keys: dict[str, None] = {}
        self._suffix = f":damaged-{secrets.token_hex(4)}"

    def fields(self, key: str) -> dict[bytes, bytes]:
        """Return the content of a hash or a sorted set; empty for other types."""
        content = self._contents.get(key, _NOTHING)
        return content.fields if content.kind in ("hash", "zset") else {}

    def items(self, key: str) -> Sequence[bytes]:
        """Return the content of a list; empty for other types."""
        content = self._contents.get(key, _NOTHING)
        return content.items if content.kind == "list" else ()

    def exists(self, key: str) -> bool:
        """Tell whether there is such a key, of any type."""
        return self._contents.get(key, _NOTHING).kind != "none"

    def check_type(self, key: str, expected: str) -> None:
        """A key of another type is set aside, and its content counts as missing."""
        actual = self._contents.get(key, _NOTHING).kind
        if actual not in (expected, "none"):
            self.damaged(
                key,
                f"is a {actual}, and a {expected} was expected",
                f"set it aside as {key}:damaged-...",
                ("RENAME", key, key + self._suffix),
            )

    def damaged(self, key: str, found: str, remedy: str, *commands: tuple[Any, ...]) -> None:
        """Add a problem with the commands that mend it; their second part is a key."""
        self.problems.append(RedisProblem(key, "damaged", found, remedy))
        self.mend(*commands)

    def lost(self, key: str, found: str, remedy: str) -> None:
        """Add a problem that cannot be mended from what is there."""
        self.problems.append(RedisProblem(key, "lost", found, remedy))

    def stale(self, key: str, found: str, remedy: str) -> None:
        """Add a problem that needs no repair."""
        self.problems.append(RedisProblem(key, "stale", found, remedy))

    def mend(self, *commands: tuple[Any, ...]) -> None:
        """Add commands."""
        for command in commands:
            self._commands.append(command)
            touched = command[1:] if command[0] in ("UNLINK", "RENAME") else command[1:2]
            self._keys.update(dict.fromkeys(touched))

    def keep(self, key: str, raw: Iterable[bytes]) -> tuple[Any, ...]:
        """The command that sets aside what is taken out of a key."""
        return ("RPUSH", key + self._suffix, *raw)

    @property
    def is_mendable(self) -> bool:
        """True if there are commands."""
        return bool(self._commands)

    def script(self) -> tuple[list[str], list[Any]]:
        """Keys and arguments for `MEND`."""
        arguments: list[Any] = [self._anchor[1], self._value]
        for command in self._commands:
            arguments += [len(command), *command]
        return [self._anchor[0], *self._keys], arguments


def integer(raw: bytes | None) -> int | None:
    """A whole number that is not negative, or None."""
    return int(raw) if raw is not None and raw.isdigit() else None


# Sums over the finished trials of a study, so that a large one can be looked at.
#
# Finished trials never change, and stand in a list in the order in which they finished. So sums
# over the first of them hold for ever, and whoever wants more reads on from there. Whoever
# finishes a trial keeps them in the study's `meta`, once in a thousand trials, and so does a
# reader. They are believed only where the last record that they are of, and the best ones, are in
# their places.


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


_BAD = (ValueError, TypeError, LookupError, AttributeError)
_NOTE = attribute_field("u", "redis:damaged")


class StudyCheck:
    """Looks through one study; what it finds is in `findings`.

    Args:
        keys: of the study.
        study_id: its id.
        name: of the study.
        findings: with all that is in the keys.
        trial_numbers: of which there is a key `trial:<n>`.
        spare: distributions from elsewhere by their short ids, as JSON.
        silent_since: in the server's milliseconds; a heartbeat from before is old.
    """

    def __init__(
        self,
        keys: StudyKeys,
        study_id: int,
        name: bytes,
        findings: Findings,
        trial_numbers: Iterable[int],
        spare: Mapping[str, str],
        silent_since: float,
    ) -> None:
        self.findings: Findings = findings
        self.trials: int = 0
        self._keys = keys
        self._study_id = study_id
        self._name = name
        self._numbers = set(trial_numbers)
        self._spare = spare
        self._directions: list[str] = []
        self._silent_since = silent_since
        self._distributions: dict[str, BaseDistribution] = {}
        self._kinds: dict[str, str] = {}
        self._unknown: dict[str, None] = {}
        # Of what is found broken: the place in the list, and which trials can be told whole.
        self._broken: list[tuple[int, bytes]] = []
        self._finished: set[int] = set()
        self._live: set[int] = set()

    def run(self) -> None:
        """Look at everything."""
        findings, keys = self.findings, self._keys
        for key in keys.fixed:
            kind = {keys.log: "list", keys.finished: "list", keys.heartbeats: "zset"}
            findings.check_type(key, kind.get(key, "hash"))
        for number in self._numbers:
            findings.check_type(keys.trial(number), "hash")
        self._check_distributions()
        self._check_finished()
        self._check_live()
        count = self._check_meta()
        self._check_complete(count)
        self._check_trial_keys()
        self._check_unknown_distributions()
        self._check_kinds()
        self._check_heartbeats()
        self._check_attributes()
        self._check_log()
        self._check_sums()
        self.trials = count

    def _check_distributions(self) -> None:
        for raw, text in self.findings.fields(self._keys.distributions).items():
            try:
                key = raw.decode()
                self._distributions[key] = decode_distribution(text.decode())
            except _BAD:
                continue  # it is missed by the trials that need it

    def _distribution(self, key: str) -> BaseDistribution:
        if key in self._distributions:
            return self._distributions[key]
        self._unknown[key] = None
        raise KeyError(key)

    def _parts(self, fields: Mapping[str, Any], *, later: bool) -> Parts:
        """The parts of a trial, as far as its distributions are known.

        Only parameters that were set later bind those that follow: a trial may be made with any.
        """
        parts = Parts(self._distribution)
        for field, value in fields.items():
            try:
                parts.set(field, value)
            except KeyError:
                if field[:1] != "p" or value[0] in self._distributions:
                    raise
                continue  # told once for all trials
            if later and field[:1] == "p":
                kind = stored_distribution(self._distributions[value[0]]).kind
                self._kinds[json.dumps(field, separators=(",", ":"))] = kind
        return parts

    def _check_finished(self) -> None:
        for place, record in enumerate(self.findings.items(self._keys.finished)):
            try:
                number, letter, values, started, completed, *fields = json.loads(record)
                if not isinstance(number, int) or number < 0 or number in self._finished:
                    raise ValueError(f"a second trial {number}")
                for when, some in enumerate(fields):
                    self._parts(some, later=when > 0)
                if not STATES[letter].is_finished():
                    raise ValueError(letter)
                _ = [float(value) for value in values or ()]
                decode_time(started)
                decode_time(completed)
            except _BAD:
                self._broken.append((place, record))
            else:
                self._finished.add(number)

    def _check_live(self) -> None:
        findings, keys = self.findings, self._keys
        for raw, head in findings.fields(keys.live).items():
            number = integer(raw)
            if number is None:
                findings.damaged(
                    keys.live,
                    f"has a field {raw!r}, which is no number",
                    "set it aside",
                    findings.keep(keys.live, [raw, head]),
                    ("HDEL", keys.live, raw),
                )
            elif number in self._finished:
                findings.damaged(
                    keys.live,
                    f"still has trial {number}, which has finished",
                    "remove it",
                    ("HDEL", keys.live, raw),
                    ("UNLINK", keys.trial(number)),
                )
                self._numbers.discard(number)
            elif self._is_head(head.decode(errors="replace")):
                self._live.add(number)
            else:
                findings.damaged(
                    keys.live,
                    f"has for trial {number} what cannot be read",
                    "set it aside",
                    findings.keep(keys.live, [raw, head]),
                    ("HDEL", keys.live, raw),
                )
                self._finish_damaged(number)

    def _is_head(self, head: str) -> bool:
        try:
            first, started, completed, fields = head.split("\t")
            state = STATES[first[0]]
            decode_time(json.loads(started))
            decode_time(json.loads(completed))
            self._parts(json.loads(fields), later=False)
        except _BAD:
            return False
        return state in (TrialState.RUNNING, TrialState.WAITING)

    def _check_meta(self) -> int:
        """Check names and counters; how many trials the study has had."""
        findings, meta = self.findings, self._keys.meta
        fields = findings.fields(meta)
        if fields.get(b"name") != self._name:
            findings.damaged(
                meta,
                f"has the name {_shown(fields.get(b'name'))}",
                f"call it {_shown(self._name)}",
                ("HSET", meta, "name", self._name),
            )
        try:
            directions = [StudyDirection(d) for d in json.loads(fields[b"directions"])]
        except _BAD:
            directions = []
        self._directions = [direction.name.lower() for direction in directions]
        if not directions:
            findings.lost(
                meta,
                "does not say in which directions the study optimizes",
                f"restore a backup, or set it: HSET {meta} directions [1] minimizes, [2] maximizes",
            )
        count, least = (
            integer(fields.get(b"next")),
            max(self._finished | self._live, default=-1) + 1,
        )
        # Every trial that was made is an operation of its own.
        version = integer(fields.get(b"version"))
        highest = least + 1_000_000 if version is None else max(version, least)
        if count is None or not least <= count <= highest:
            made = max([least, *(n + 1 for n in self._numbers if n < highest)])
            findings.damaged(
                meta,
                f"says that the next trial is {_shown(fields.get(b'next'))}, and there are {least}",
                f"set it to {made}",
                ("HSET", meta, "next", made),
            )
            return made
        return count

    def _check_sums(self) -> None:
        findings, meta = self.findings, self._keys.meta
        text, records = findings.fields(meta).get(b"sums"), findings.items(self._keys.finished)
        if text is None:
            return
        drop = ("HDEL", meta, "sums")
        if findings.is_mendable:  # they are of the records before that
            findings.mend(drop)
        elif not sums_fit(text, records, self._directions):
            what = "has other sums than those of its trials"
            findings.damaged(meta, what, "forget them; the next reader adds up anew", drop)

    def _check_complete(self, count: int) -> None:
        findings, key = self.findings, self._keys.finished
        missing = sorted(set(range(count)) - self._finished - self._live)
        broken = list(self._broken)
        if gone := missing[len(broken) :]:
            shown = ", ".join(map(str, gone[:5])) + (", ..." if len(gone) > 5 else "")
            findings.damaged(
                key,
                f"lacks {len(gone)} trials that {self._keys.live} has not either: {shown}",
                "put failed trials in their place; what they were is lost",
            )
            for number in gone:
                self._finish_damaged(number)
        for number in missing[: len(broken)]:
            place, record = broken.pop(0)
            findings.damaged(
                key,
                f"has at place {place} what cannot be read, perhaps trial {number}",
                "set it aside, and put a failed trial in its place",
                findings.keep(key, [record]),
                ("LSET", key, place, self._failed(number)),
            )
            self._finished.add(number)
        for place, record in broken:
            findings.damaged(
                key,
                f"has at place {place} what cannot be read or is there twice",
                "set it aside",
                findings.keep(key, [record]),
                ("LSET", key, place, "damaged"),
            )
        if broken:
            findings.mend(("LREM", key, 0, "damaged"))

    def _finish_damaged(self, number: int) -> None:
        self._finished.add(number)
        self.findings.mend(("RPUSH", self._keys.finished, self._failed(number)))

    def _failed(self, number: int) -> str:
        """The record of a failed trial, with what its own key still tells."""
        now = encode_time(datetime.now())  # noqa: DTZ005
        fields = [f"{_NOTE}:{encode('its record was damaged, and has been replaced')}"]
        fields += [f"{field}:{text}" for field, text, whole in self._later(number) if whole]
        if number in self._numbers:
            self.findings.mend(("UNLINK", self._keys.trial(number)))
            self._numbers.discard(number)
        return f'[{number},"F",null,{now},{now},{{{",".join(fields)}}}]'

    def _later(self, number: int) -> list[tuple[str, str, bool]]:
        """List what was set on a live trial: field, value, and whether they can be read."""
        placed: list[tuple[int, str, str, bool]] = []
        for raw, value in self.findings.fields(self._keys.trial(number)).items():
            place, _, text = value.decode(errors="replace").partition(" ")
            field = raw.decode(errors="replace")
            try:
                self._parts({json.loads(field): json.loads(text)}, later=True)
                placed.append((int(place), field, text, True))
            except _BAD:
                placed.append((0, field, text, False))
        return [(field, text, whole) for _, field, text, whole in sorted(placed)]

    def _check_trial_keys(self) -> None:
        findings = self.findings
        for number in sorted(self._numbers):
            key = self._keys.trial(number)
            if number not in self._live:
                findings.damaged(
                    key, "belongs to no trial that is alive", "remove it", ("UNLINK", key)
                )
                continue
            readable = {field for field, _, whole in self._later(number) if whole}
            for raw, value in findings.fields(key).items():
                if raw.decode(errors="replace") not in readable:
                    findings.damaged(
                        key,
                        f"has a field {_shown(raw)} that cannot be read",
                        "set it aside",
                        findings.keep(key, [raw, value]),
                        ("HDEL", key, raw),
                    )

    def _check_unknown_distributions(self) -> None:
        key = self._keys.distributions
        for name in self._unknown:
            if (text := self._spare.get(name)) is not None:
                self.findings.damaged(
                    key,
                    f"has no distribution {name}, which trials need",
                    "write it again",
                    ("HSET", key, name, text),
                )
                continue
            self.findings.lost(
                key,
                f"has no distribution {name}, which trials need",
                "restore a backup, or pass the distributions of your search space to `repair`",
            )

    def _check_kinds(self) -> None:
        key = self._keys.kinds
        kinds = self.findings.fields(key)
        for field, kind in self._kinds.items():
            if kinds.get(field.encode()) != kind.encode():
                self.findings.damaged(
                    key,
                    f"has the wrong kind of distribution for {field}",
                    f"set it to {kind}",
                    ("HSET", key, field, kind),
                )

    def _check_heartbeats(self) -> None:
        key = self._keys.heartbeats
        for raw, score in self.findings.fields(key).items():
            number = integer(raw)
            if number not in self._live:
                self.findings.damaged(
                    key,
                    f"has {_shown(raw)}, which is no trial that is alive",
                    "remove it",
                    ("ZREM", key, raw),
                )
            elif float(score) < self._silent_since:
                self.findings.stale(
                    key,
                    f"has heard nothing of trial {number} (id {trial_id(self._study_id, number)}) "
                    "for long",
                    "a worker with a heartbeat_interval fails it, before its next trial",
                )

    def _check_attributes(self) -> None:
        for key in (self._keys.user, self._keys.system):
            for raw, value in self.findings.fields(key).items():
                try:
                    is_name = isinstance(json.loads(raw), str)
                    json.loads(value)
                except ValueError:
                    is_name = False
                if not is_name:
                    self.findings.damaged(
                        key,
                        f"has an attribute {_shown(raw)} that cannot be read",
                        "set it aside",
                        self.findings.keep(key, [raw, value]),
                        ("HDEL", key, raw),
                    )

    def _check_log(self) -> None:
        """Check the log, which can always begin anew: it only saves clients some reading."""
        findings, keys = self.findings, self._keys
        fields, log = findings.fields(keys.meta), findings.items(keys.log)
        version, tip = integer(fields.get(b"version")), fields.get(b"tip")
        remedy, is_bad = "begin a new log", True
        if version is None or tip is None or len(log) > version:
            findings.damaged(keys.meta, "does not say which version the study has", remedy)
        elif not log or not log[-1].startswith(tip + b"\t") or not all(map(_is_entry, log)):
            findings.damaged(keys.log, "is not what has happened last", remedy)
        else:
            is_bad = False
        if is_bad or findings.is_mendable:
            # Whatever has changed: this makes every client read the study again.
            new = max(version or 0, len(self._finished) + len(self._live), len(log)) + 1
            findings.mend(
                ("UNLINK", keys.log),
                ("RPUSH", keys.log, "repaired\t"),
                ("HSET", keys.meta, "version", new, "tip", "repaired"),
            )


def _is_entry(entry: bytes) -> bool:
    """Tell whether this can be an entry of the log."""
    try:
        first, *lines = entry.decode().split("\n")
        for line in lines:
            kind, _, *rest = line.split("\t")
            if kind not in tuple("cosfab~"):
                return False
            if kind in ("o", "a"):
                _ = [json.loads(text) for text in rest]
    except _BAD:
        return False
    return "\t" in first


def _shown(raw: bytes | None) -> str:
    """Text from the server, cut short."""
    if raw is None:
        return "missing"
    text = raw.decode(errors="replace")
    return repr(text if len(text) <= 40 else text[:37] + "...")
