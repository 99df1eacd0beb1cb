"""An Optuna storage in one append-only file, which costs little and does not grow slower.

The file has the records of Optuna's `JournalStorage`, which reads and writes it at the same time.
Who writes holds the file's lock and has read everything before, so that it knows what its record
does, and refuses what cannot be done before it is written. Parameters and attributes of a trial,
set where it was asked, travel with its next report or state, or with whatever else this process
writes, at the latest after 50 ms. Every other record is in the file when its call returns, for all
processes to see, and outlives the death of its writer. It outlives a power cut when it is
synchronized, which takes most of the time: so that is done for what was told, and takes along
everything before it.
"""

# A storage deals in ids, which are private in Optuna.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import atexit
import copy
import json
import logging
import os
import secrets
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Container, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks._journal_file import Flusher, JournalFile, ReplacedError, damaged_line
from prefect_optuna.blocks._journal_replay import (
    ENDED,
    MALFORMED,
    Operation,
    Replay,
    ReplayedStudy,
    indexed_bytes,
    is_worth_an_index,
    read_index,
    write_index,
)
from prefect_optuna.blocks.codec.values import FLAT, encode, to_json
from prefect_optuna.blocks.redis_storage.layout import stored_distribution
from prefect_optuna.blocks.redis_storage.study_copy import without_garbage_collector
from prefect_optuna.errors import DamagedStorageError, StorageFormatError

_FLUSH_AFTER = 0.05  # seconds
_TRY_AGAIN_AFTER = 1.0  # seconds, where that failed

_logger = logging.getLogger(__name__)
_opened: weakref.WeakSet[FileStorage] = weakref.WeakSet()


class FileStorage(BaseStorage):
    """All studies of one journal.

    Many threads, and many processes, may use it at once; it goes on in a forked child, and a
    pickle of it opens the file anew.
    """

    def __init__(self, path: Path, lock: BaseJournalFileLock) -> None:
        self.path: Path = path
        self._lock = lock
        self._start()
        with self._mutex:
            self._known()  # most of it, while others go on writing
            self._lock.acquire()
            try:
                self._known_alone()
            finally:
                self._lock.release()

    def _start(self) -> None:
        """Set up the state that belongs to this process alone."""
        self._mutex = threading.RLock()
        self._writer = secrets.token_urlsafe(8)
        self._file = JournalFile(self.path)
        self._own: set[int] = set()  # the running trials that were made, or taken, here
        self._waiting: dict[int, list[dict[str, Any]]] = {}  # records, by the ids of their trials
        self._since = 0.0  # when the oldest of them has come
        self._flusher = Flusher(self._flush_old, "Journal")
        self._replay = Replay(self._waiting)
        _opened.add(self)

    def __getstate__(self) -> tuple[Path, BaseJournalFileLock]:
        self.flush()
        return self.path, self._lock

    def __setstate__(self, state: tuple[Path, BaseJournalFileLock]) -> None:
        self.path, self._lock = state
        self._start()

    def __repr__(self) -> str:
        return f"FileStorage({str(self.path)!r})"

    # Reading and writing the file: whoever calls `_known` holds the mutex while it uses that.

    def _known(self, *, alone: bool = False) -> Replay:
        """Everything that is in the file now; `alone`, nobody else can write meanwhile."""
        try:
            if self._file.news():
                self._read_on(alone=alone)
        except ReplacedError:
            self._waiting.clear()  # its trials are no more, or others
            self._own.clear()
            self._forget()
            self._read_on(alone=alone)
        return self._replay

    def _read_on(self, *, alone: bool) -> None:
        begins = self._file.read_to == 0
        try:
            with without_garbage_collector():
                if begins and not read_index(self._file, self._replay):
                    self._replay = Replay(self._waiting)
                indexed = self._file.read_to
                for records in self._file.read():
                    for record in records:
                        self._replay.apply(record)
                if begins and not alone:  # or the others would wait for it
                    write_index(self._file, self._replay, indexed)
        except BaseException as error:
            self._forget()
            if isinstance(error, MALFORMED) and not isinstance(error, StorageFormatError):
                raise self._damaged() from error
            raise

    def _known_alone(self) -> Replay:
        """The same under the lock, when an unfinished line at the end is one that stays so."""
        known = self._known(alone=True)
        if self._file.torn:
            self._file.mend()
        return known

    def _forget(self) -> None:
        """Read everything again: what is known may be a part of a record more, or less."""
        self._file.rewind()
        self._replay = Replay(self._waiting)

    def _damaged(self) -> DamagedStorageError:
        number = damaged_line(self.path)
        return DamagedStorageError(
            f"The journal {self.path} is damaged: "
            + (f"line {number} is no record. " if number else "Optuna cannot replay it. ")
            + "Restore it from a backup, or keep a copy and delete the damaged line."
        )

    def _write(
        self,
        operation: Operation,
        fields: dict[str, Any],
        check: Callable[[Replay], bool | None],
        *,
        synchronized: bool = True,
        again: bool = False,
    ) -> bool:
        """Append a record, behind those that wait, and do what they say."""
        record = self._record(operation, fields)
        line = to_json(record)
        if again:
            record = json.loads(line)
        with self._mutex:
            self._lock.acquire()
            try:
                known = self._known_alone()
                if check(known) is False:
                    return False
                descriptor = self._append(known, [record], line)
            finally:
                self._lock.release()
        # Others need not wait for the disk, and who synchronizes at the same time shares it.
        try:
            if synchronized:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return True

    def _record(self, operation: Operation, fields: dict[str, Any]) -> dict[str, Any]:
        return {"op_code": operation.value, "worker_id": self._writer, **fields}

    def _append(self, known: Replay, records: list[dict[str, Any]], *lines: str) -> int:
        """Append what waits, and more, and return the file's descriptor; the lock is held."""
        waiting = self._still(known)
        try:
            descriptor = self._file.append("\n".join([*map(to_json, waiting), *lines]))
            self._waiting.clear()
            for record in (*waiting, *records):
                known.apply(record)
        except OSError:
            raise  # nothing of it is in the file
        except BaseException:
            self._forget()
            raise
        return descriptor

    def _still(self, known: Replay) -> list[dict[str, Any]]:
        """Return what waits, but for trials that others have ended."""
        return [
            record
            for trial_id, records in self._waiting.items()
            if (trial := known.trial(trial_id)) is not None and not trial.state.is_finished()
            for record in records
        ]

    def flush(self) -> None:
        """Write what waits to be written."""
        if not self._waiting:
            return
        with self._mutex:
            self._lock.acquire()
            try:
                known = self._known_alone()
                if self._still(known):
                    os.close(self._append(known, []))
                self._waiting.clear()
            finally:
                self._lock.release()

    def _flush_old(self) -> bool:
        if self._waiting and time.monotonic() - self._since > _FLUSH_AFTER:
            try:
                self.flush()
            except Exception:  # noqa: BLE001 (the next state of its trial raises it)
                self._since = time.monotonic() + _TRY_AGAIN_AFTER
        return bool(self._waiting)

    def remove_session(self) -> None:
        """Write what waits to be written, and an index, by which others open a long journal.

        Optuna calls it at the end of `study.optimize`.
        """
        self.flush()
        with self._mutex:
            spared = indexed_bytes(self._file)
            if not is_worth_an_index(self._file, spared):
                return
            file, replay = copy.copy(self._file), self._replay.snapshot()
        write_index(file, replay, spared)  # other runs of this process go on

    # Studies

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Make a study, and return its id, which no other study has had."""
        name = DEFAULT_STUDY_NAME_PREFIX + str(uuid.uuid4()) if study_name is None else study_name

        def check(replay: Replay) -> None:
            if name in replay.ids:
                raise DuplicatedStudyError(
                    f"The journal {self.path} has a study {name!r} already. Take another name, "
                    "or load_if_exists=True."
                )

        fields = {"study_name": name, "directions": [int(direction) for direction in directions]}
        with self._mutex:
            self._write(Operation.CREATE_STUDY, fields, check)
            return self._replay.ids[name]

    def delete_study(self, study_id: int) -> None:
        """Delete a study."""
        self._write_study(Operation.DELETE_STUDY, study_id, {})

    def _write_study(self, operation: Operation, study_id: int, fields: dict[str, Any]) -> None:
        def check(replay: Replay) -> None:
            _study(replay, study_id)

        self._write(operation, {"study_id": study_id, **fields}, check, again=True)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set a user's attribute of a study."""
        encode(value, key)
        self._write_study(Operation.SET_STUDY_USER_ATTR, study_id, {"user_attr": {key: value}})

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's of a study."""
        encode(value, key)
        self._write_study(Operation.SET_STUDY_SYSTEM_ATTR, study_id, {"system_attr": {key: value}})

    def get_study_id_from_name(self, study_name: str) -> int:
        """The id of the study of that name."""
        with self._mutex:
            known = self._known()
            if study_name not in known.ids:
                raise KeyError(f"No study with the name {study_name!r} exists.")
            return known.ids[study_name]

    def get_study_name_from_id(self, study_id: int) -> str:
        """The name of a study."""
        with self._mutex:
            known = self._known()
            return _study(known, study_id).name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The directions of a study."""
        with self._mutex:
            known = self._known()
            return list(_study(known, study_id).directions)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """The user's attributes of a study."""
        with self._mutex:
            known = self._known()
            return dict(_study(known, study_id).user)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Optuna's attributes of a study."""
        with self._mutex:
            known = self._known()
            return dict(_study(known, study_id).system)

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies, the oldest first."""
        with self._mutex:
            known = self._known()
            return [
                FrozenStudy(
                    study_name=study.name,
                    direction=None,
                    directions=list(study.directions),
                    user_attrs=copy.deepcopy(study.user),
                    system_attrs=copy.deepcopy(study.system),
                    study_id=study.study_id,
                )
                for study in known.studies.values()
            ]

    # Trials: making and changing

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make a trial, and return its id."""
        given = template_trial is not None
        fields = _template(template_trial) if given else {"datetime_start": _now()}

        def check(replay: Replay) -> None:
            _study(replay, study_id)

        with self._mutex:
            # One that runs is synchronized with what is told of it, and worth nothing before.
            runs = template_trial is None or template_trial.state == TrialState.RUNNING
            self._write(
                Operation.CREATE_TRIAL,
                {"study_id": study_id, **fields},
                check,
                synchronized=not runs,
                again=given,
            )
            trial_id = len(self._replay.trials) - 1
            if runs:
                self._own.add(trial_id)
            return trial_id

    def _change(
        self,
        operation: Operation,
        trial_id: int,
        fields: dict[str, Any],
        check: Callable[[Replay, FrozenTrial], bool | None] | None = None,
        *,
        synchronized: bool = False,
    ) -> bool:
        """Change a trial that has not ended; without synchronizing, for its state will."""

        def check_trial(replay: Replay) -> bool | None:
            trial = _live(replay, trial_id)
            return None if check is None else check(replay, trial)

        fields = {"trial_id": trial_id, **fields}
        return self._write(operation, fields, check_trial, synchronized=synchronized)

    def _waits(
        self,
        operation: Operation,
        trial_id: int,
        fields: dict[str, Any],
        may_wait: Callable[[Replay], bool] | None = None,
    ) -> bool:
        """Keep a change until its trial is next written; false where it has to be written now."""
        if trial_id not in self._own:
            return False
        with self._mutex:
            known = self._known()
            _live(known, trial_id)
            if may_wait is not None and not may_wait(known):
                return False
            known.shown.pop(trial_id, None)
            if not self._waiting:
                self._since = time.monotonic()
            record = self._record(operation, {"trial_id": trial_id, **fields})
            self._waiting.setdefault(trial_id, []).append(record)
        self._flusher.wake()
        return True

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Set a parameter of a trial."""
        text = stored_distribution(distribution).text

        def check(replay: Replay) -> None:
            replay.study_of(trial_id).check_kind(param_name, replay.distribution(text))

        fields = {
            "param_name": param_name,
            "param_value_internal": float(param_value_internal),
            "distribution": text,
        }

        def may_wait(replay: Replay) -> bool:
            if param_name not in replay.study_of(trial_id).kinds:
                return False  # another process may be about to decide on another kind
            check(replay)
            return True

        if not self._waits(Operation.SET_TRIAL_PARAM, trial_id, fields, may_wait):
            self._change(Operation.SET_TRIAL_PARAM, trial_id, fields, lambda r, _: check(r))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Report an intermediate value of a trial."""
        fields = {"step": int(step), "intermediate_value": float(intermediate_value)}
        self._change(Operation.SET_TRIAL_INTERMEDIATE_VALUE, trial_id, fields)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a user's attribute of a trial."""
        self._set_attribute(Operation.SET_TRIAL_USER_ATTR, trial_id, "user_attr", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's of a trial."""
        self._set_attribute(Operation.SET_TRIAL_SYSTEM_ATTR, trial_id, "system_attr", key, value)

    def _set_attribute(
        self, operation: Operation, trial_id: int, field: str, key: str, value: Any
    ) -> None:
        if type(value) not in FLAT:
            value = json.loads(encode(value, key))
        with self._mutex:
            fields = {field: self._replay.kept({key: value})}
        if not self._waits(operation, trial_id, fields):
            self._change(operation, trial_id, fields)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Change the state of a trial, which outlives a power cut when this returns."""
        fields: dict[str, Any] = {
            "state": int(state),
            "values": None if values is None else [float(value) for value in values],
        }
        if state == TrialState.RUNNING:
            fields["datetime_start"] = _now()
        elif state.is_finished():
            fields["datetime_complete"] = _now()

        def check(_: Replay, trial: FrozenTrial) -> bool:
            return state != TrialState.RUNNING or trial.state != TrialState.RUNNING

        changed = self._change(
            Operation.SET_TRIAL_STATE_VALUES, trial_id, fields, check, synchronized=True
        )
        if state != TrialState.RUNNING:
            self._own.discard(trial_id)
        elif changed:
            self._own.add(trial_id)
        return changed

    # Trials: reading

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial, which its reader may change while it has not ended."""
        with self._mutex:
            known = self._known()
            trial = _trial(known, trial_id)
            return trial if trial.state.is_finished() else known.copied(trial)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The trials of a study, by their numbers; without `deepcopy`, not to be changed."""
        with self._mutex:
            known = self._known()
            study = _study(known, study_id)
            if states is not None and not any(state in states for state in ENDED):
                # All that wait, or run: they are few, whatever has ended before.
                live = sorted(study.live.items())
                trials = [known.shared(trial) for _, trial in live if trial.state in states]
            else:
                trials = study.trials.copy()
                for number, trial in study.live.items():
                    trials[number] = known.shared(trial)
                if states is not None:
                    trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id of a trial by its number."""
        with self._mutex:
            known = self._known()
            trials = _study(known, study_id).trials
            if not 0 <= trial_number < len(trials):
                raise KeyError(
                    f"No trial {trial_number} exists in the study with the id {study_id}."
                )
            return trials[trial_number]._trial_id

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        """Count the trials of a study, in all states or in some."""
        with self._mutex:
            known = self._known()
            counts = _study(known, study_id).counts
            states = (state,) if isinstance(state, TrialState) else state
            return sum(n for counted, n in counts.items() if states is None or counted in states)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best completed trial of a study with one direction."""
        with self._mutex:
            known = self._known()
            study = _study(known, study_id)
            if len(study.directions) == 1:
                if study.best is None:
                    raise ValueError("No trials are completed yet.")
                return study.best
        return super().get_best_trial(study_id)


def _study(replay: Replay, study_id: int) -> ReplayedStudy:
    if (study := replay.studies.get(study_id)) is None:
        raise KeyError(f"No study with the id {study_id} exists.")
    return study


def _trial(replay: Replay, trial_id: int) -> FrozenTrial:
    if (trial := replay.trial(trial_id)) is None:
        raise KeyError(f"No trial with the id {trial_id} exists.")
    return trial


def _live(replay: Replay, trial_id: int) -> FrozenTrial:
    trial = _trial(replay, trial_id)
    if trial.state.is_finished():
        raise UpdateFinishedTrialError(
            f"Trial {trial.number} of the study {replay.study_of(trial_id).name!r} has already "
            "finished and can not be updated."
        )
    return trial


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _in_utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")


def _template(trial: FrozenTrial) -> dict[str, Any]:
    """The fields of a record that makes a trial like this one."""
    for attributes in (trial.user_attrs, trial.system_attrs):
        for key, value in attributes.items():
            encode(value, key)
    several = trial.values is not None and len(trial.values) > 1
    fields: dict[str, Any] = {
        "datetime_start": _in_utc(trial.datetime_start),
        "state": int(trial.state),
        "value": None if several else trial.value,
        "values": trial.values if several else None,
        "distributions": {
            name: stored_distribution(d).text for name, d in trial.distributions.items()
        },
        "params": {
            name: trial.distributions[name].to_internal_repr(value)
            for name, value in trial.params.items()
        },
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate_values": trial.intermediate_values,
    }
    if trial.datetime_complete is not None:
        fields["datetime_complete"] = _in_utc(trial.datetime_complete)
    return fields


def _flush_all() -> None:
    for storage in list(_opened):
        try:
            storage.flush()
        except Exception as error:  # noqa: BLE001 (the process ends, or forks)
            _logger.warning("%r could not write its last attributes: %s", storage, error)


def _start_in_child() -> None:
    # Another thread of the parent may have held the lock, or have been in the middle of reading.
    for storage in list(_opened):
        storage._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_flush_all, after_in_child=_start_in_child)
atexit.register(_flush_all)
