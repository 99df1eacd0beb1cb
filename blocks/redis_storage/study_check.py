"""Check that the keys of one study fit together, and repair them if not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState

from prefect_optuna.blocks.redis_storage.encoding import (
    STATES,
    Parts,
    attribute_field,
    decode_distribution,
    decode_time,
    encode,
    encode_time,
    stored_distribution,
)
from prefect_optuna.blocks.redis_storage.findings import Findings, integer
from prefect_optuna.blocks.redis_storage.layout import StudyKeys, trial_id
from prefect_optuna.blocks.redis_storage.sums import sums_fit

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
