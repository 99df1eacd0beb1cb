"""The running list of a signed study: which trials each run has told, and what else was signed.

A run is one process that tells trials. It has a list of its own, so that no two processes write
one. The entries are the signatures of the trials: each names its run, its place in the list, and
a digest of the entry before, so that the list costs no signature more. The record of the run, an
attribute of the study, says how long the list is. It is written when the run begins, every few
seconds, and when it ends; and it names what else was signed by then, other runs among it. So
whatever is missing is missed, unless everything that came after it is missing, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from prefect_optuna.tasks.archive.record.manifest import Manifest, manifest_of, with_ledger
from prefect_optuna.tasks.archive.record.signing import SigningKeys, canonical

SIGNATURE_OF = "signature:"
"""Comes before the name of the study attribute that it signs."""

AFTERWARDS = "trials"
"""The record of the trials that were signed when they had ended: `signature:trials`."""

WRITE_SECONDS = 5.0
"""A run writes its record so often, while it tells trials."""

_RUN = f"{SIGNATURE_OF}run:"
_SIGNED_PREFIXES = ("axis:", "timeseries:", "entrypoint:")  # of study attributes
_SHOWN = 5


@dataclass(frozen=True)
class Entry:
    """One trial in the list of a run, whose signature holds.

    Attributes:
        trial: the trial.
        signature: of the trial.
    """

    trial: FrozenTrial
    signature: Mapping[str, Any]

    @property
    def place(self) -> int:
        """Its place in the list, from 0 on."""
        return self.signature["place"]

    @property
    def head(self) -> list[Any]:
        """Reference of the next entry to this one: the number, and a digest of all up to here."""
        # Samplers write constraints the old way when the trial is told, after it was signed.
        late = self.trial.system_attrs.get("constraints")
        parts = [self.signature["before"], self.trial.number, self.signature["hmac"], late]
        return [self.trial.number, hashlib.sha256(canonical(parts)).hexdigest()[:32]]


@dataclass
class RunningList:
    """The list of one run, while it is written."""

    keys: SigningKeys
    study: Study
    manifest: Manifest
    version: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        self._count = 0
        self._last: list[Any] | None = None
        self._written: float | None = None
        self._knows: dict[str, dict[str, Any]] = {}

    def next(self) -> dict[str, Any]:
        """Return the place of the next trial in the list, as its signature gives it."""
        if self._written is None:
            self.manifest = with_ledger(self.study, self.manifest, self.keys)
            self._write(closed=False)
        return {"run": self.id, "place": self._count, "before": self._last}

    def append(self, entry: Entry) -> None:
        """Take a trial that was told into the list."""
        self._count += 1
        self._last = entry.head
        if self._written is None or time.monotonic() - self._written > WRITE_SECONDS:
            # The storage may be away for a moment; the next time will do.
            with contextlib.suppress(Exception):
                self._write(closed=False)

    def close(self) -> None:
        """Say that this is the whole list."""
        if self._written is not None:
            self._write(closed=True)

    def _write(self, *, closed: bool) -> None:
        # What it has known once it goes on to know: something may have been removed since.
        now = known_now(self.study, self.keys, but=self.id)
        self._knows = {kind: {**of, **self._knows.get(kind, {})} for kind, of in now.items()}
        record = {
            "version": self.version,
            "count": self._count,
            "last": self._last,
            "closed": closed,
            "knows": self._knows,
        }
        write_record(self.study, self.manifest, self.keys, self.id, record)
        self._written = time.monotonic()


def write_record(
    study: Study,
    manifest: Manifest,
    keys: SigningKeys,
    run: str,
    record: Mapping[str, Any],
    also: Any = None,
) -> None:
    """Sign the record of a run, and write it."""
    signature = keys.sign("run", manifest.uuid, [manifest.ledger, run, record, also])
    study.set_user_attr(_name_of(run), {**record, **signature})


def record_problem(
    manifest: Manifest, keys: SigningKeys, run: str, record: Any, also: Any = None
) -> str:
    """Say why a record does not hold, as the rest of a sentence; empty if it holds."""
    if not isinstance(record, Mapping):
        return "has something in place of a record"
    content = {name: value for name, value in record.items() if name not in ("key", "hmac")}
    return keys.problem("run", manifest.uuid, [manifest.ledger, run, content, also], record)


def records_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The records of all runs by their ids, from the user attributes of a study."""
    return {
        name.removeprefix(_RUN): record
        for name, record in attributes.items()
        if name.startswith(_RUN)
    }


def signed_names(attributes: Mapping[str, Any]) -> list[str]:
    """The names of the attributes that have to be signed, and of those that are."""
    return [
        name
        for name in attributes
        if name.startswith(_SIGNED_PREFIXES) or f"{SIGNATURE_OF}{name}" in attributes
    ]


def known_now(study: Study, keys: SigningKeys, *, but: str) -> dict[str, dict[str, Any]]:
    """Return what is signed in a study at this moment: versions, attributes, and lists of runs.

    Of runs only those that no other one names: the others are missed through them.
    """
    attributes = study.user_attrs
    manifest = manifest_of(study.study_name, attributes)
    if manifest is None:
        return {}
    records = {
        run: record
        for run, record in records_of(attributes).items()
        if run != but and not record_problem(manifest, keys, run, record)
    }
    afterwards = attributes.get(_name_of(AFTERWARDS))
    if but != AFTERWARDS and isinstance(afterwards, Mapping) and "count" in afterwards:
        records[AFTERWARDS] = afterwards
    named = {name for record in records.values() for name in record["knows"].get("runs", ())}
    return {
        "versions": {version.id: version.first_trial for version in manifest.versions},
        "attributes": {
            name: _digest(name, attributes[name])
            for name in signed_names(attributes)
            if f"{SIGNATURE_OF}{name}" in attributes
        },
        "runs": {run: record["count"] for run, record in records.items() if run not in named},
    }


def list_problems(
    attributes: Mapping[str, Any],
    manifest: Manifest,
    keys: SigningKeys,
    entries: Mapping[str, Sequence[Entry]],
    trials: Sequence[FrozenTrial],
) -> tuple[list[str], list[str]]:
    """Compare what is there with what the lists say."""
    problems: list[str] = []
    gaps: list[str] = []
    records: dict[str, Mapping[str, Any]] = {}
    for run, record in records_of(attributes).items():
        if why := record_problem(manifest, keys, run, record):
            problems.append(f"The record of the run {run} {why}.")
        else:
            records[run] = record
    there = set(records_of(attributes))
    knowing = dict(records)
    afterwards = attributes.get(_name_of(AFTERWARDS))
    if isinstance(afterwards, Mapping) and "knows" in afterwards:
        there.add(AFTERWARDS)
        knowing[AFTERWARDS] = afterwards
    told = {run: int(record["count"]) for run, record in records.items()}
    for record in knowing.values():
        problems += _unknown(record, attributes, manifest)
        for run, count in record["knows"].get("runs", {}).items():
            if run not in there:
                problems.append(f"The record of the run {run} is gone.")
            told[run] = max(told.get(run, 0), count)
    for run, told_here in entries.items():
        if run not in there:
            numbers = shown_numbers([entry.trial.number for entry in told_here])
            problems.append(f"{numbers}: the record of the run {run}, which told them, is gone.")
    for run, record in records.items():
        own = sorted(entries.get(run, ()), key=lambda entry: entry.place)
        problems += _run_problems(run, record, own, told[run], trials)
        if not record["closed"]:
            last = record["last"]
            after = f"after trial {last[0]}" if last else "at all"
            gaps.append(
                f"The run {run} is under way, or was killed: should trials be missing that it told "
                f"{after}, nobody could see that."
            )
    if not manifest.ledger:
        gaps.append(
            "A former version has signed this, without a list: what is missing altogether, such "
            "as trials, versions, axes, is not missed, and constraints may have been changed. "
            "OptunaArchive(study).sign() signs what is there now."
        )
    elif not knowing:
        gaps.append(
            "There is no list yet of what is signed, so that what is missing is not missed: "
            "OptunaArchive(study).sign() writes one."
        )
    return list(dict.fromkeys(problems)), gaps


def close_lists(
    study: Study,
    attributes: Mapping[str, Any],
    manifest: Manifest,
    keys: SigningKeys,
    entries: Mapping[str, Sequence[Entry]],
) -> None:
    """Close the lists of runs that were killed with what there is of them now."""
    for run, record in records_of(attributes).items():
        if not record["closed"]:
            own = sorted(entries.get(run, ()), key=lambda entry: entry.place)
            content = {name: value for name, value in record.items() if name not in ("key", "hmac")}
            last = own[-1].head if own else None
            content |= {"count": len(own), "last": last, "closed": True}
            write_record(study, manifest, keys, run, content)


def _run_problems(
    run: str,
    record: Mapping[str, Any],
    found: Sequence[Entry],
    count: int,
    trials: Sequence[FrozenTrial],
) -> Iterator[str]:
    by_place = {entry.place: entry for entry in found}
    if len(by_place) < len(found):
        numbers = shown_numbers([entry.trial.number for entry in found])
        yield f"{numbers}: two of them have one place in the list of the run {run}."
        return
    # How each entry should look to the next one, or to the record.
    heads = {place - 1: entry.signature["before"] for place, entry in by_place.items() if place}
    if record["count"]:
        heads.setdefault(record["count"] - 1, record["last"])
    missing = [p for p in range(max([count, *(p + 1 for p in by_place)])) if p not in by_place]
    numbers = sorted(heads[place][0] for place in missing if place in heads)
    for number in numbers:
        now = "is gone" if number >= len(trials) else f"is {trials[number].state.name} now"
        yield f"Trial {number} is not what the run {run} told: it {now}."
    if more := len(missing) - len(numbers):
        yield (
            f"Of what the run {run} told, so many{' more' if numbers else ''} trials are gone, or "
            f"are not what they were: {more}."
        )
    for place, entry in by_place.items():
        if place in heads and heads[place] != entry.head:
            yield f"Trial {entry.trial.number} has other constraints than when it was told."


def _unknown(
    record: Mapping[str, Any], attributes: Mapping[str, Any], manifest: Manifest
) -> Iterator[str]:
    knows = record["knows"]
    versions = {version.id for version in manifest.versions}
    for version, first in knows.get("versions", {}).items():
        if version not in versions and f"backupContext:{version}" not in attributes:
            yield f"The version {version}, from trial {first} on, is gone."
    for name, digest in knows.get("attributes", {}).items():
        if name not in attributes:
            yield f"The attribute {name!r} is gone, and it was signed."
        elif _digest(name, attributes[name]) != digest:
            yield f"The attribute {name!r} is another one than this study had."


def _digest(name: str, value: Any) -> str:
    return hashlib.sha256(canonical([name, value])).hexdigest()[:16]


def _name_of(run: str) -> str:
    return f"{SIGNATURE_OF}{run}" if run == AFTERWARDS else f"{_RUN}{run}"


def shown_numbers(numbers: Sequence[int]) -> str:
    """Some of these trials, for people."""
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"{'Trial' if len(numbers) == 1 else 'Trials'} {shown}{more}"
