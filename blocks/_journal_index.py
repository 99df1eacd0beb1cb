"""An index of a journal: what its records came to, so that whoever opens it reads on from there.

A journal has some ten records of each trial. `<journal>.index` has a line for each trial, as it
was when that much of the journal had been read. Whoever opens a journal and has had to read much
of it writes one; nobody needs it, it may be deleted at any time, and Optuna's and Rustuna's readers
do not know it.

| line | a JSON list of |
|---|---|
| first | the format, the bytes of the journal, the last ones, the next study's id, distributions |
| of a study | its id, name, directions, and both kinds of attributes |
| of a layout | names of parameters, and the numbers of their distributions |
| of a trial | its study, state, values, times, layout, parameters, both kinds of attributes, |
|  | reports, and the names of attributes that are as they were before |
| last | the number of lines before it, and their checksum |

It is used where the journal has the same bytes at that place. Times are seconds since 1970.
"""

# A storage deals in ids, which are private in Optuna.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks._journal_file import JournalFile, records_of
from prefect_optuna.blocks._journal_replay import (
    ENDED,
    MALFORMED,
    Replay,
    attributes_of,
    number_of,
)
from prefect_optuna.blocks.attribute_json import to_json
from prefect_optuna.blocks.redis_storage.encoding import decode_time

_FORMAT = 1
_SUFFIX = ".index"
_WORTH = 1 << 23  # bytes of a journal that are read within a second
_PART = 8  # of what the index has, beyond which it is made anew
_LINES = 5_000  # that are written at once
_CHUNK = 1 << 22  # bytes that are read at once
_LAYOUT, _STUDY, _TRIAL = 2, 5, 12  # items of their lines
_STATES = {int(state): state for state in TrialState}
_ENDED = {int(state) for state in ENDED}

_logger = logging.getLogger(__name__)


def write_index(file: JournalFile, replay: Replay, indexed: int) -> None:
    """Write an index, where reading without it has taken longer than that; errors are passed over.

    Args:
        file: the journal, as far as it has been read.
        replay: what its records came to.
        indexed: how many of its bytes an index has spared.
    """
    if file.read_to - indexed < max(_WORTH, indexed // _PART):
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
        if made is not None:
            with contextlib.suppress(OSError):
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
        same = [_same(*both) for both in zip(before, attributes, strict=True)]
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
            *(
                {key: None if key in shared else value for key, value in given.items()}
                for shared, given in zip(same, attributes, strict=True)
            ),
            reports,
            *same,
        ]


def _same(before: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[str]:
    """The attributes that the replay has kept once for both."""
    return [
        key
        for key, value in attributes.items()
        if type(value) in (dict, list) and before.get(key) is value
    ]


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


def _is_trustworthy(index: os.stat_result, journal: os.stat_result) -> bool:
    """Whether it is of somebody who could have written the journal as well."""
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
        *same: Sequence[str],
    ) -> None:
        """Add the next trial."""
        study = self._replay.studies[study_id]
        kinds, external = self.layouts[layout]
        if len(internal) != len(kinds):
            raise ValueError("parameters without a value")
        of_trial = [make(number_of(value)) for make, value in zip(external, internal, strict=True)]
        for before, attributes, shared in zip(self._before, (user, system), same, strict=True):
            attributes_of(attributes)
            for key in shared:
                attributes[key] = before[key]
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
