"""Trials as records: signed, listed as each run tells them, and as a table.

A trial is signed by the process that tells its values, just before it does, since a storage
changes nothing in a trial that has ended. The signature is part of an attribute that the trial
gets anyway: its reference to the archived result, or else the attribute `signature`. It is also
an entry in the list of its run.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.codec.tables import from_arrow
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.archive.record.manifest import (
    RESULT_KEY,
    Manifest,
    SigningKeys,
    canonical,
    manifest_of,
    with_ledger,
)
from prefect_optuna.tasks.archive.series.timeseries import KEY_TIMESERIES
from prefect_optuna.tasks.seeding import SEED

# The trials of a study as a table: for pandas, polars and Arrow, and as CSV and Parquet files.


TableKind = Literal["arrow", "pandas", "polars"]

_KINDS = {"arrow": "pyarrow.Table", "pandas": "pandas.DataFrame", "polars": "polars.DataFrame"}
# What spreadsheets take for a formula, after the white space that some of them skip; the wide ones
# are read as the narrow ones where Chinese or Japanese is spoken.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def trial_columns(trials: Sequence[FrozenTrial]) -> dict[str, list[Any]]:
    """The trials as columns: each a list with a value or `None` for each trial.

    Returns:
        `number`, `state`, `value` (or `value.0`, `value.1`, ...), `started`, `completed`,
        `seconds`; then `param.NAME`, `metric.NAME`, `constraint.NAME` and `user.NAME`. Attributes
        that are lists or mappings are JSON; where an archived result is, is not among them.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.archive.record.trial_records import trial_columns
        >>> trial = optuna.trial.create_trial(value=0.5, user_attrs={"fold": 3})
        >>> columns = trial_columns([trial])
        >>> columns["value"], columns["user.fold"]
        ([0.5], [3])
    """
    from prefect_optuna.blocks import logged_metrics

    columns: dict[str, list[Any]] = {
        "number": [trial.number for trial in trials],
        "state": [trial.state.name.lower() for trial in trials],
    }
    values = [trial.values or [] for trial in trials]
    count = max(map(len, values), default=1) or 1
    for index in range(count):
        name = "value" if count == 1 else f"value.{index}"
        columns[name] = [float(row[index]) if index < len(row) else None for row in values]
    columns["started"] = [trial.datetime_start for trial in trials]
    columns["completed"] = [trial.datetime_complete for trial in trials]
    columns["seconds"] = [t.duration.total_seconds() if t.duration else None for t in trials]
    metrics = [logged_metrics(trial) for trial in trials]
    groups: dict[str, Sequence[Mapping[str, Any]]] = {
        "param": [trial.params for trial in trials],
        "metric": metrics,
        "constraint": [trial.constraints for trial in trials],
        "user": [
            {
                name: value
                for name, value in trial.user_attrs.items()
                if name.removeprefix("metric:") not in logged and not _is_reference(name, value)
            }
            for trial, logged in zip(trials, metrics, strict=True)
        ],
    }
    for group, rows in groups.items():
        for name in dict.fromkeys(name for row in rows for name in row):
            cells = _one_type([row.get(name) for row in rows])
            columns[_utf8(f"{group}.{name}")] = [
                _utf8(cell) if isinstance(cell, str) else cell for cell in cells
            ]
    return columns


def _is_reference(name: str, value: Any) -> bool:
    """Tell whether an attribute says where a result is archived."""
    return name == RESULT_KEY and isinstance(value, Mapping) and "sha256" in value


def trial_table(trials: Sequence[FrozenTrial], kind: TableKind = "arrow") -> Any:
    """The trials as a table, with the columns of `trial_columns`.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.archive.record.trial_records import trial_table
        >>> trial_table([optuna.trial.create_trial(value=0.5)])["value"].to_pylist()
        [0.5]
    """
    import pyarrow as pa

    if kind not in _KINDS:
        raise InvalidSettingError(f"`kind` is one of {', '.join(_KINDS)}; found {kind!r}.")
    return from_arrow(pa.table(trial_columns(trials)), _KINDS[kind])


def write_csv(trials: Sequence[FrozenTrial], place: str | Path | TextIO) -> None:
    """Write the trials to a CSV file, by its path or open.

    A text that a spreadsheet would take for a formula gets an apostrophe in front. On a terminal
    all texts are written so that it only shows them.
    """
    if isinstance(place, (str, Path)):
        with Path(place).open("w", encoding="utf-8", newline="") as file:
            write_csv(trials, file)
        return
    columns = trial_columns(trials)
    writer = csv.writer(place, lineterminator="\n")
    cell_of = _seen if place.isatty() else _harmless
    writer.writerow(map(cell_of, columns))
    writer.writerows([cell_of(cell) for cell in row] for row in zip(*columns.values(), strict=True))


def write_parquet(trials: Sequence[FrozenTrial], path: str | Path) -> None:
    """Write the trials to a Parquet file."""
    import pyarrow.parquet as pq

    pq.write_table(trial_table(trials), path)


def _one_type(cells: list[Any]) -> list[Any]:
    """A column has one type: numbers, flags, or text."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {int} and all(-(2**63) <= cell < 2**63 for cell in cells if cell is not None):
        return cells
    if kinds <= {bool} or kinds <= {str}:
        return cells
    if kinds <= {int, float}:
        with suppress(OverflowError):  # an integer that is larger than any float is text
            return [cell if cell is None else float(cell) for cell in cells]
    return [cell if cell is None or isinstance(cell, str) else _text(cell) for cell in cells]


def _utf8(text: str) -> str:
    """Text that every file takes: JSON may have halves of letters, which are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _seen(cell: Any) -> Any:
    cell = _harmless(cell)
    return visible_line(cell) if isinstance(cell, str) else cell


def _harmless(cell: Any) -> Any:
    if isinstance(cell, datetime):
        return cell.isoformat()
    if isinstance(cell, str) and (
        cell.lstrip().startswith(_FORMULA) or cell[:1] in ("\t", "\r", "\n")
    ):
        return f"'{cell}"
    return cell


# The running list of a signed study: which trials each run has told, and what else was signed.
#
# A run is one process that tells trials. It has a list of its own, so that no two processes write
# one. The entries are the signatures of the trials: each names its run, its place in the list,
# and a digest of the entry before, so that the list costs no signature more. The record of the
# run, an attribute of the study, says how long the list is. It is written when the run begins,
# every few seconds, and when it ends; and it names what else was signed by then, other runs among
# it. So whatever is missing is missed, unless everything that came after it is missing, too.


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


MARK = "prefect_optuna:session"
"""The system attribute of a trial that says who took it: the `id` of the session, and the
`version` of the archive that it runs. What 0.1.0 wrote is the session's id alone."""

VERSION = "prefect_optuna:version"
"""The system attribute of a trial in the queue: the id of the version that was saved last."""

SIGNATURE = "signature"
"""The user attribute of a trial that holds its signature, where it has no archived result."""


# The system attributes that say what a trial is worth, or where its parameters and its random
# numbers come from. That of constraints as samplers write them is in the list of the run: it comes
# after the signature.
_SYSTEM = ("constraints:", "fixed_params", "prefect_optuna:lost", SEED)
_LINK = ("run", "place", "before")
_MAX_NAMES = 1000


class TrialSigner:
    """Signs the trials that one run tells, one after the other, and keeps the list of them."""

    def __init__(self, keys: SigningKeys, study: Study, manifest: Manifest, version: str) -> None:
        self._keys = keys
        self._version = version
        self._directions = [direction.name for direction in study.directions]
        self._list = RunningList(keys, study, manifest, version)
        self._pending: tuple[Any, ...] = ()

    def signed(
        self,
        trial: FrozenTrial,
        attributes: Mapping[str, Any],
        state: TrialState,
        values: Sequence[float] | None,
    ) -> dict[str, Any]:
        """Add the signature of a trial to the attributes that it is about to get."""
        attributes = dict(attributes)
        content = full_content(
            trial,
            directions=self._directions,
            version=self._version,
            attributes={**trial.user_attrs, **attributes},
            state=state,
            values=self._values(trial, state, values),
        )
        link = self._list.next()
        manifest = self._list.manifest
        signature: dict[str, Any] = {
            **self._keys.sign("told", manifest.uuid, [manifest.ledger, link, content]),
            "version": self._version,
            **link,
        }
        if isinstance(result := attributes.get(RESULT_KEY), dict):
            attributes[RESULT_KEY] = {**result, SIGNATURE: signature}
        else:
            attributes[SIGNATURE] = signature
        self._pending = (trial.number, signature, state, content["values"])
        return attributes

    def told(self, trial: FrozenTrial) -> None:
        """Take a trial that has been signed and told into the list; another one is left out."""
        signature = trial_signature(trial)
        values = None if trial.values is None else [_number(value) for value in trial.values]
        # Whether the signature holds, readers work out; here it matters that it is this one.
        if (trial.number, signature, trial.state, values) == self._pending:
            self._list.append(Entry(trial, signature))
        self._pending = ()

    def close(self) -> None:
        """Say that this run tells no trials any more: the list is complete."""
        self._list.close()

    def _values(
        self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> Sequence[float] | None:
        """The values that a trial will have: of a pruned one, Optuna takes the last it reported."""
        if state != TrialState.PRUNED or trial.last_step is None or len(self._directions) > 1:
            return values
        last = trial.intermediate_values[trial.last_step]
        return None if math.isnan(last) else [last]


def trial_content(
    trial: FrozenTrial,
    *,
    directions: Sequence[str],
    version: str,
    attributes: Mapping[str, Any] | None = None,
    state: TrialState | None = None,
    values: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return the signed content of a trial, as JSON."""
    attributes = dict(trial.user_attrs if attributes is None else attributes)
    attributes.pop(SIGNATURE, None)
    if isinstance(result := attributes.get(RESULT_KEY), Mapping):
        attributes[RESULT_KEY] = {k: v for k, v in result.items() if k != SIGNATURE}
    if state is None:
        state, values = trial.state, trial.values
    return {
        "number": trial.number,
        "state": state.name,
        "values": None if values is None else [_number(value) for value in values],
        "directions": list(directions),
        "version": version,
        # As Optuna stores them: a category is its place in the list of choices.
        "params": {
            name: _number(trial.distributions[name].to_internal_repr(value))
            for name, value in trial.params.items()
        },
        "distributions": {
            name: _distribution_json(name, distribution)
            for name, distribution in trial.distributions.items()
        },
        "intermediate_values": {
            str(step): _number(value) for step, value in trial.intermediate_values.items()
        },
        "attributes": attributes,
    }


def full_content(trial: FrozenTrial, **rest: Any) -> dict[str, Any]:
    """The same, with what system attributes say of its worth, and `1` told from `True`."""
    return {
        **trial_content(trial, **rest),
        "system": {
            name: value for name, value in trial.system_attrs.items() if name.startswith(_SYSTEM)
        },
        "confused": [
            *(name for name in trial.params if _is_confused(trial, name)),
            *(str(number) for number in trial.values or () if type(number) is bool),
        ],
    }


def trial_problem(
    keys: SigningKeys,
    manifest: Manifest,
    trial: FrozenTrial,
    signature: Any,
    directions: Sequence[str],
) -> str:
    """Say why the signature of a trial does not hold, as the rest of a sentence, or nothing."""
    rest: dict[str, Any] = {"directions": directions, "version": trial_version(trial) or ""}
    if (link := _link(signature)) is None:
        # Of a former version, or none.
        return keys.problem("trial", manifest.uuid, trial_content(trial, **rest), signature)
    content = [manifest.ledger, link, full_content(trial, **rest)]
    return keys.problem("told", manifest.uuid, content, signature)


def _link(signature: Any) -> dict[str, Any] | None:
    """Return a signature's place in the list of its run; `None` if it is in none."""
    if isinstance(signature, Mapping) and "run" in signature:
        return {name: signature.get(name) for name in _LINK}
    return None


_last: dict[str, tuple[BaseDistribution, str]] = {}


def _distribution_json(name: str, distribution: BaseDistribution) -> str:
    """A distribution as JSON; the trials of a study often have one object for all."""
    known = _last.get(name)
    if known is None or known[0] is not distribution:
        if len(_last) > _MAX_NAMES:
            _last.clear()
        known = _last[name] = distribution, distribution_to_json(distribution)
    return known[1]


def _is_confused(trial: FrozenTrial, name: str) -> bool:
    """Tell whether a parameter equals what was suggested but has another type: `1` for `True`."""
    value, distribution = trial.params[name], trial.distributions[name]
    if not isinstance(distribution, CategoricalDistribution):
        return isinstance(value, bool)  # the others have numbers
    exact = distribution.to_external_repr(distribution.to_internal_repr(value))
    return isinstance(value, bool) != isinstance(exact, bool)


def trial_signature(trial: FrozenTrial) -> Any:
    """The signature of a trial; `None` if it has none."""
    result = trial.user_attrs.get(RESULT_KEY)
    if isinstance(result, Mapping) and SIGNATURE in result:
        return result[SIGNATURE]
    return trial.user_attrs.get(SIGNATURE)


def trial_version(trial: FrozenTrial) -> str | None:
    """The id of the version that a trial says it ran with; `None` if it does not say.

    What is signed says it first, then whoever took the trial, then what a loop of one's own has
    kept with it. What a repetition has of its predecessor comes after that.
    """
    version = _named(trial_signature(trial)) or _named(trial.user_attrs.get(RESULT_KEY))
    if version or (version := _named(trial.system_attrs.get(MARK))):
        return version
    for key, value in trial.user_attrs.items():
        if key.startswith(KEY_TIMESERIES) and (version := _named(value)):
            return version
    return _named({"version": trial.system_attrs.get(VERSION)})


def _named(record: Any) -> str | None:
    version = record.get("version") if isinstance(record, Mapping) else None
    return version if isinstance(version, str) and version else None


def _number(value: float) -> float:
    return float(value) + 0.0  # SQLite has no negative zero
