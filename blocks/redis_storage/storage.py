"""The storage itself: what Optuna asks, in terms of the scripts and of the client's copies."""

from __future__ import annotations

import atexit
import copy
import json
import os
import secrets
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from typing import Any, Literal, NoReturn, Self

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks._journal_file import Flusher
from prefect_optuna.blocks.redis_storage.layout import (
    FORMAT,
    LETTERS,
    Registry,
    StoredDistribution,
    StudyKeys,
    attribute_field,
    encode,
    encode_fields,
    encode_number,
    encode_time,
    encode_values,
    location_of,
    parameter_field,
    plain,
    stored_distribution,
    trial_id,
    trial_place,
)
from prefect_optuna.blocks.redis_storage.server import (
    ADD,
    BEATS,
    COMMIT,
    OPEN,
    REGISTER,
    UNREGISTER,
)
from prefect_optuna.blocks.redis_storage.study_check import (
    EVERY,
    keep_sums,
    read_some,
    read_summary,
)
from prefect_optuna.blocks.redis_storage.study_copy import (
    Operation,
    StudyCopy,
    TrialsView,
    UnfinishedTrial,
    decoding,
)
from prefect_optuna.blocks.study_summary import StudySummary, summary_of
from prefect_optuna.errors import (
    DamagedStorageError,
    InvalidSettingError,
    PrefectOptunaError,
    StorageFormatError,
    StorageUnavailableError,
)

_StaleTrialCallback = Callable[["optuna.Study", FrozenTrial], None]

_FLUSH_AFTER = 0.025  # seconds; the flusher looks every 20 ms, so that 50 ms are kept
_FRESH_FOR = 0.001  # seconds that a read may be old in the fast mode
_MOST_RELOADS = 10
_LOOKS = 3  # at two counts, between which a study may have been made
_WAITING = (TrialState.WAITING,)
_PICKLED = (
    *("_target", "location", "namespace", "write_mode", "_timeout", "_retry_limit", "_options"),
    *("heartbeat_interval", "grace_period", "heartbeat_stale_trial_callback"),
    *("_sentinel_options", "_registry"),
)

_opened: weakref.WeakSet[RedisStorage] = weakref.WeakSet()
# What this thread has done last, with any storage: see `_is_second_half`.
_last = threading.local()


class RedisStorage(BaseStorage, BaseHeartbeat):
    """An Optuna storage on Redis: many workers, on many machines, on one study.

    It takes Redis 6.2 or later, or Valkey: one server, the primary that a Sentinel knows, or a
    cluster. Every change is one script, done whole or not at all, and safe to send again when
    the connection fails. Finished trials are read once and kept; nothing is pickled.

    A storage may be used by many threads, and goes on in a forked process. A pickle holds the
    URL, with its password.

    Args:
        target: `redis://`, `rediss://` (TLS) or `unix://`, as redis-py reads them;
            `redis+sentinel://host:26379,host2/service/0`; `redis+cluster://host:6379`; or a
            client of redis-py, whose settings are taken over. TLS and users go into the URL:
            `rediss://lab:secret@host:6380/0?ssl_ca_certs=ca.pem`.
        namespace: begins the name of every key, so that one server can hold several storages.
        write_mode: `"buffered"`: parameters and attributes of a trial travel with its next
            report, read or state, and at the latest after 50 ms. `"strict"`: every call is on the
            server when it returns. `"fast"`: as buffered, reports wait as well, and reads may be
            1 ms old, so that `tell(..., skip_if_finished=True)` can miss that another worker has
            finished the trial. In all three, a state is on the server when the call returns.
        heartbeat_interval: seconds between two heartbeats of a trial that `Study.optimize` runs;
            None for no heartbeats.
        grace_period: seconds of silence after which a trial is failed; twice the interval if None.
        heartbeat_stale_trial_callback: called with the study and the trial after that, such as
            `optuna.storages.RetryHeartbeatStaleTrialCallback()`.
        timeout: seconds to wait for a connection and for each reply.
        retry_limit: seconds for which a call is tried again when the server cannot be reached.
        connection_options: more settings for redis-py's connections, such as `password`.
        sentinel_options: the same for the connections to the Sentinels.

    Raises:
        InvalidSettingError: the URL is none that this storage knows.
        InvalidSettingError: an argument has a value that cannot work.
        StorageUnavailableError: the server cannot be reached, is full, or is none that will do;
            `StoragePermissionError`: it does not take this user, or no writes.
        StorageFormatError: the namespace holds something else, or a newer version has written it.

    Example:
        With a server on this machine:
        ```python
        import optuna
        from prefect_optuna.blocks import RedisStorage

        study = optuna.create_study(storage=RedisStorage("redis://localhost:6379/0"))
        study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=20)
        ```
    """

    def __init__(
        self,
        target: Any,
        *,
        namespace: str = "optuna",
        write_mode: Literal["buffered", "strict", "fast"] = "buffered",
        heartbeat_interval: int | None = None,
        grace_period: int | None = None,
        heartbeat_stale_trial_callback: _StaleTrialCallback | None = None,
        timeout: float = 10.0,
        retry_limit: float = 30.0,
        connection_options: dict[str, Any] | None = None,
        sentinel_options: dict[str, Any] | None = None,
    ) -> None:
        _check_settings(namespace, write_mode, heartbeat_interval, grace_period)
        if timeout <= 0 or retry_limit < 0:
            raise InvalidSettingError(
                f"expected a positive timeout and a retry_limit of at least 0 seconds, and found "
                f"{timeout!r} and {retry_limit!r}."
            )
        self._target = target
        self.location: str = location_of(target)
        self.namespace: str = namespace
        self.write_mode: Literal["buffered", "strict", "fast"] = write_mode
        self.heartbeat_interval: int | None = heartbeat_interval
        self.grace_period: int | None = grace_period
        self.heartbeat_stale_trial_callback: _StaleTrialCallback | None = (
            heartbeat_stale_trial_callback
        )
        self._timeout = timeout
        self._retry_limit = retry_limit
        self._options = dict(connection_options or {})
        self._sentinel_options = dict(sentinel_options or {})
        self._registry = Registry(namespace)
        self._start()
        self._next_study_id(0)

    def _start(self) -> None:
        """Set up the state that belongs to this process alone."""
        from prefect_optuna.blocks.redis_storage.server import Server

        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._writer = secrets.token_urlsafe(6)
        self._operations = count()
        self._copies: dict[int, StudyCopy] = {}
        self._beating = threading.local()
        self._waiting: dict[int, tuple[StudyCopy, UnfinishedTrial]] = {}
        self._failure: Exception | None = None
        self._flusher = Flusher(self._flush_old, "RedisStorage")
        self._closed = False
        self._server = Server(
            self._target,
            namespace=self.namespace,
            timeout=self._timeout,
            retry_limit=self._retry_limit,
            options=self._options,
            sentinel_options=self._sentinel_options,
        )
        _opened.add(self)

    # Life

    def __getstate__(self) -> dict[str, Any]:
        if not isinstance(self._target, str):
            raise InvalidSettingError(
                "a RedisStorage with a client of redis-py cannot be pickled. Make it with a URL: "
                "another process needs connections of its own."
            )
        self.flush()
        return {name: self.__dict__[name] for name in _PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    @property
    def client(self) -> Any:
        """The client of redis-py, `redis.Redis` or `RedisCluster`, without its own retries."""
        return self._server.client

    def __repr__(self) -> str:
        return (
            f"RedisStorage({self.location!r}, namespace={self.namespace!r}, "
            f"write_mode={self.write_mode!r})"
        )

    def close(self) -> None:
        """Send what is waiting, and close the connections; a later call opens new ones.

        Raises:
            StorageUnavailableError: something was waiting, and the server cannot be reached.
        """
        try:
            self.flush()
        finally:
            self._flusher.close()
            self._flusher = Flusher(self._flush_old, "RedisStorage")
            self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def remove_session(self) -> None:
        """Send what is waiting; the connections stay for the next study."""
        self.flush()

    # Asking the server

    def _commit(
        self,
        study: StudyCopy,
        commands: Sequence[Any] = (),
        *,
        trial: int | None = None,
        distributions: Sequence[StoredDistribution] = (),
        operation: str = "-",
        apply: Callable[[str], None] | None = None,
    ) -> str:
        """Run the script, and take over what others have done, and then what this has done."""
        _last.created = None
        keys = study.keys.fixed if trial is None else (*study.keys.fixed, study.keys.trial(trial))
        for _ in range(_MOST_RELOADS):
            new = [d for d in distributions if d.key not in study.stored]
            with study.lock:
                since, token, finished = study.version, study.token, study.finished
                generation = study.generation
            arguments: list[Any] = [since, token, finished, operation, "0"]
            for distribution in new:
                arguments += ["d", distribution.key, distribution.text]
            arguments += commands
            again = None if operation == "-" else 4
            reply = self._checked(study, self._server.run(COMMIT, keys, arguments, again=again))
            if reply[0] == b"gap":
                # The copy is older than the log, or the server was put back. Nothing was done.
                self._load(study)
                if commands:
                    continue
                return ""
            study.synced = time.monotonic()
            if reply[0] == b"same":
                return ""
            study.take(reply, since, finished, generation, apply)
            study.stored.update(distribution.key for distribution in new)
            if commands and study.finished // EVERY > finished // EVERY:
                with suppress(PrefectOptunaError):  # what was to be done is done
                    keep_sums(study, self._server)
            return reply[3].decode()
        raise StorageUnavailableError(
            f"{self._server.where} changes study {study.study_id} faster than this process can "
            "follow. Nothing was written. Is the server being restored?"
        )

    def _checked(self, study: StudyCopy, reply: list[Any]) -> list[Any]:
        status = reply[0]
        if status == b"gone":
            self._refuse_missing(study.study_id)
        if status == b"damaged":
            raise DamagedStorageError(
                f"{self._server.where} has a key {reply[1].decode()} whose counters are no "
                "numbers. Somebody has changed it. Run `check` on the storage."
            )
        if status == b"unknown":
            study.forget_live()
            raise StorageUnavailableError(
                f"{self._server.where} could not be reached for so long that it cannot be known "
                f"whether a change to study {study.study_id} has arrived. Read the trial, and "
                "repeat the change if it is not there."
            )
        return reply

    def _operation(self) -> str:
        return f"{self._writer}{next(self._operations)}"

    def _study(self, study_id: int) -> StudyCopy:
        """The copy of a study, loaded."""
        if self._pid != os.getpid():
            self._start()
        if self._failure is not None:
            error, self._failure = self._failure, None
            raise error
        study = self._copies.get(study_id)
        if study is None:
            study = self._unread(study_id)
            self._load(study)
            study = self._copies.setdefault(study_id, study)
        elif study.version < 0:
            self._load(study)
        return study

    def _load(self, study: StudyCopy) -> None:
        def ask() -> list[Any]:
            arguments = [-1, "", study.finished, "-", "0"]
            return self._checked(study, self._server.run(COMMIT, study.keys.fixed, arguments))

        if not study.load(ask):
            self._refuse_missing(study.study_id)
        study.synced = time.monotonic()

    def _refuse_missing(self, study_id: int) -> NoReturn:
        self._copies.pop(study_id, None)
        keys = StudyKeys(self.namespace, study_id)
        # In the order in which a study is deleted, its name before its last key: so one that is
        # being deleted meanwhile is not taken for a damaged one.
        ((deleted,),) = self._server.read([("HMGET", keys.meta, "deleted")])
        ((name,),) = self._server.read([("HMGET", self._registry.studies, study_id)])
        if name is not None and deleted is None:
            raise DamagedStorageError(
                f"{self._server.where} has a study {_text(name)!r}, and its key {keys.meta} is "
                "missing. Run `check` on the storage, and restore a backup."
            )
        raise KeyError(f"No study with the id {study_id} exists.")

    def _fresh(self, study_id: int) -> StudyCopy:
        """The copy of a study, as the study is now."""
        study = self._study(study_id)
        if self.write_mode == "fast" and time.monotonic() - study.synced < _FRESH_FOR:
            return study
        thread, sent = threading.get_ident(), False
        for other, trial in list(self._waiting.values()):
            if other is study and trial.outbox.thread == thread:
                sent = self._flush(study, trial) or sent
        if not sent:
            self._commit(study)
        if study.version < 0:
            self._load(study)
        return study

    def _fresh_head(self, study_id: int) -> StudyCopy:
        """The copy of a study, as the study is now, or one without trials if there is none yet."""
        if self._pid != os.getpid():
            self._start()
        if study_id in self._copies:
            return self._fresh(study_id)
        study = self._unread(study_id)
        if not study.load_head():
            self._refuse_missing(study_id)
        return study

    def _unread(self, study_id: int) -> StudyCopy:
        if type(study_id) is not int or study_id < 1:
            raise KeyError(f"No study with the id {study_id} exists.")
        return StudyCopy(self.namespace, study_id, self._server.read)

    # Studies

    def _next_study_id(self, wanted: int) -> int:
        reply = self._server.run(OPEN, [self._registry.root], [FORMAT, wanted])
        answer = reply[0].decode("utf-8", "replace")
        if len(reply) == 2:
            return int(reply[1])
        if answer.isdigit():
            raise StorageFormatError(
                f"{self._server.where} is of format {answer}, and this version of prefect-optuna "
                f"knows {FORMAT}. Update prefect-optuna, or take another namespace."
            )
        raise StorageFormatError(
            f"{self._server.where} holds something else: expected {self._registry.root} to be a "
            f"hash with a format, and found a {answer}. Take another namespace."
        )

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Make a study, and return its id, which no other study has had."""
        if self._pid != os.getpid():
            self._start()
        name = study_name
        if name is None:
            name = DEFAULT_STUDY_NAME_PREFIX + str(uuid.uuid4())
        encoded = json.dumps([int(direction) for direction in directions])
        operation = self._operation()
        while True:
            study_id = self._next_study_id(1)
            keys = StudyKeys(self.namespace, study_id)
            # An id is taken if the registry was lost, and the study was not.
            if self._server.run(ADD, [keys.meta, keys.log], [_bytes(name), encoded, operation]):
                break
        replaced = ""
        while True:
            owner = self._server.run(
                REGISTER,
                [self._registry.names, self._registry.studies],
                [_bytes(name), study_id, replaced],
            )
            if owner is None:
                self._server.read([("UNLINK", keys.meta, keys.log)])
                raise self._uneven_registry()
            with decoding(self._registry.names):
                replaced = int(owner)
            if replaced == study_id:
                return study_id
            meta = StudyKeys(self.namespace, replaced).meta
            ((version, deleted),) = self._server.read([("HMGET", meta, "version", "deleted")])
            if version is not None and deleted is None:
                self._server.read([("UNLINK", keys.meta, keys.log)])
                raise DuplicatedStudyError(
                    f"{self._server.where} has a study {name!r} already. Take another name, or "
                    "load_if_exists=True."
                )

    def delete_study(self, study_id: int) -> None:
        """Delete a study, and free all that it has on the server."""
        if self._pid != os.getpid():
            self._start()
        if type(study_id) is not int or study_id < 1:
            raise KeyError(f"No study with the id {study_id} exists.")
        registry, keys = self._registry, StudyKeys(self.namespace, study_id)
        (name,) = self._server.read([("HGET", registry.studies, study_id)])
        if name is None:
            raise KeyError(f"No study with the id {study_id} exists.")
        _last.created = None
        # Everybody else sees it gone from here on; a name without a study can be deleted again.
        self._server.read([("HSET", keys.meta, "deleted", "1")])
        (numbers,) = self._server.read([("HKEYS", keys.live)])
        trials = [f"{keys.prefix}trial:{_text(number)}" for number in numbers]
        self._server.read([("UNLINK", *keys.fixed[1:], *trials)])
        removed = self._server.run(
            UNREGISTER, [registry.names, registry.studies], [study_id, "0"], again=1
        )
        self._server.read([("UNLINK", keys.meta)])
        with self._lock:
            self._copies.pop(study_id, None)
        if removed != b"1":
            raise KeyError(f"No study with the id {study_id} exists: somebody has deleted it.")

    def get_study_id_from_name(self, study_name: str) -> int:
        """The id of the study of that name."""
        if self._pid != os.getpid():
            self._start()
        names, studies = self._registry.names, self._registry.studies
        for _ in range(_LOOKS):
            study_id, named, known = self._server.read(
                [("HGET", names, _bytes(study_name)), ("HLEN", names), ("HLEN", studies)]
            )
            if study_id is not None:
                with decoding(names):
                    return int(study_id)
            if named >= known:
                raise KeyError(f"No study with the name {study_name!r} exists.")
        raise self._uneven_registry()

    def _uneven_registry(self) -> DamagedStorageError:
        return DamagedStorageError(
            f"{self._server.where} has not as many studies in {self._registry.names} as in "
            f"{self._registry.studies}. Somebody has changed these keys. Run `check` on the "
            "storage."
        )

    def get_study_name_from_id(self, study_id: int) -> str:
        """The name of a study."""
        return self._fresh_head(study_id).name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The directions of a study."""
        return list(self._fresh_head(study_id).directions)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """The user's attributes of a study."""
        return dict(self._fresh_head(study_id).user)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Optuna's attributes of a study."""
        return dict(self._fresh_head(study_id).system)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set a user's attribute of a study, at once in every write mode."""
        self._set_study_attribute(study_id, "u", key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's of a study, at once in every write mode."""
        self._set_study_attribute(study_id, "s", key, value)

    def _set_study_attribute(self, study_id: int, which: str, name: str, value: Any) -> None:
        text = encode(value, name)
        study = self._study(study_id)
        self._commit(
            study,
            ["a", which, encode(name), text],
            operation=self._operation(),
            apply=lambda _: study.set_attribute(which, name, plain(value, text)),
        )

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies, the oldest first."""
        if self._pid != os.getpid():
            self._start()
        (studies,) = self._server.read([("HKEYS", self._registry.studies)])
        frozen: list[FrozenStudy] = []
        with decoding(self._registry.studies):
            ids = sorted(map(int, studies))
        for study_id in ids:
            study = self._unread(study_id)
            if not study.load_head():
                with suppress(KeyError):  # or it is damaged
                    self._refuse_missing(study_id)
                continue
            frozen.append(
                FrozenStudy(
                    study_name=study.name,
                    direction=None,
                    directions=study.directions,
                    user_attrs=study.user,
                    system_attrs=study.system,
                    study_id=study_id,
                )
            )
        return frozen

    # Trials: making and changing

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make a trial, and return its id."""
        fields, distributions = "{}", []
        if template_trial is not None:
            fields, distributions = encode_fields(template_trial)
        study = self._study(study_id)
        operation = self._operation()
        head = ""
        commands: list[Any] = []
        if template_trial is None:
            started = encode_time(datetime.now())  # noqa: DTZ005
            head = f"R{operation}\t{started}\tnull\t{{}}"
            commands += ["c", "R", started, "null", "{}", self._is_beating(study_id)]
        else:
            letter = LETTERS[template_trial.state]
            started = encode_time(template_trial.datetime_start)
            completed = encode_time(template_trial.datetime_complete)
            if template_trial.state.is_finished():
                values = encode_values(template_trial.values)
                commands += ["f", f'"{letter}",{values},{started},{completed},{fields}]']
            else:
                head = f"{letter}{operation}\t{started}\t{completed}\t{fields}"
                commands += ["c", letter, started, completed, fields, "0"]

        def apply(answer: str) -> None:
            if head:
                study.add_live(int(answer[1:]), head)

        answer = self._commit(
            study, commands, distributions=distributions, operation=operation, apply=apply
        )
        if template_trial is None:
            self._beating.study_id = None
        made = trial_id(study_id, int(answer[1:]))
        _last.created = (self._writer, made, time.monotonic())
        return made

    def _live(self, of: int) -> tuple[StudyCopy, UnfinishedTrial]:
        """A trial that can still be changed, and its study."""
        study_id, number = trial_place(of)
        try:
            study = self._study(study_id)
            trial = study.live.get(number)
            if trial is None:
                self._commit(study)
                trial = study.live.get(number)
        except KeyError:
            raise KeyError(f"No trial with the id {of} exists.") from None
        if trial is None:
            self._refuse_finished(study, number)
        return study, trial

    def _refuse_finished(self, study: StudyCopy, number: int) -> NoReturn:
        trial = study.trial(number)
        raise UpdateFinishedTrialError(
            f"Trial {trial.number} of the study {study.name!r} has already finished and can not be "
            "updated."
        )

    def _set(
        self,
        of: int,
        field: str,
        text: str,
        value: Any,
        distribution: BaseDistribution | None = None,
        *,
        now: bool = False,
    ) -> None:
        study, trial = self._live(of)
        _last.created = None
        kind = ""
        if distribution is not None:
            key, _, stored = value
            study.distributions.setdefault(key, distribution)
            kind = stored.kind
            known = study.kinds.get(field)
            if known is None:
                now = True  # another worker may have decided on another kind
            elif known != kind:
                raise _incompatible(field, study)
            else:
                kind = ""
        name = json.loads(field) if "\\" in field else field[1:-1]
        operation: Operation = (field, text, kind, name, value)
        outbox = trial.outbox
        with outbox.lock:
            if now or self.write_mode == "strict":
                self._send(study, trial, [operation])
                return
            with study.lock:
                # It may have been loaded again since, or finished by another client.
                if (current := study.live.get(trial.number)) is None:
                    self._refuse_finished(study, trial.number)
                current.set(name, value)
                if not outbox.operations:
                    outbox.since, outbox.thread = time.monotonic(), threading.get_ident()
                    self._waiting[of] = (study, trial)
                outbox.operations.append(operation)
        if not self._flusher.running:
            self._flusher.wake()

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Set a parameter of a trial."""
        stored = stored_distribution(distribution)
        number = encode_number(param_value_internal)
        self._set(
            trial_id,
            parameter_field(param_name),
            f'["{stored.key}",{number}]',
            (stored.key, float(param_value_internal), stored),
            distribution,
        )

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Report an intermediate value of a trial."""
        text = encode_number(intermediate_value)
        self._set(
            trial_id,
            f'"i{int(step)}"',
            text,
            float(intermediate_value),
            now=self.write_mode == "buffered",
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set a user's attribute of a trial."""
        text = encode(value, key)
        self._set(trial_id, attribute_field("u", key), text, plain(value, text))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's of a trial."""
        text = encode(value, key)
        self._set(trial_id, attribute_field("s", key), text, plain(value, text))

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Change the state of a trial; it is on the server when this returns."""
        told = None if values is None else [float(value) for value in values]
        study, trial = self._live(trial_id)
        moment = datetime.now()  # noqa: DTZ005
        beats = self._is_beating(study.study_id) if state == TrialState.RUNNING else "0"
        operations: list[Operation] = []
        if told is not None and not state.is_finished():
            operations.append(('"v"', encode_values(told), "", "v", told))

        def apply(live: UnfinishedTrial) -> None:
            live.state, live.snapshot = state, None
            if state == TrialState.RUNNING:
                live.started = moment

        with trial.outbox.lock:
            changed = self._send(
                study,
                trial,
                operations,
                (LETTERS[state], encode_values(told), encode_time(moment), beats),
                apply,
            )
        if changed and state == TrialState.RUNNING:
            self._beating.study_id = None
        return changed

    def _send(
        self,
        study: StudyCopy,
        trial: UnfinishedTrial,
        operations: list[Operation],
        change: Sequence[Any] = ("", "null", "null", "0"),
        apply: Callable[[UnfinishedTrial], None] | None = None,
    ) -> bool:
        """Send what waits for a trial, more operations, and a change of its state.

        The lock of the trial's outbox is held by the caller.
        """
        outbox = trial.outbox
        waiting, outbox.operations = outbox.operations, []
        sent = [*waiting, *operations]
        fields = [part for operation in sent for part in operation[:3]]
        commands = ["w", trial.number, trial.birth, *change, len(sent), *fields]

        def apply_all(answer: str) -> None:
            live = study.live.get(trial.number)
            if live is not None and answer == "s1":
                for *_, name, value in sent:
                    live.set(name, value)
                if apply is not None:
                    apply(live)

        try:
            answer = self._commit(
                study,
                commands,
                trial=trial.number,
                distributions=[value[2] for field, *_, value in sent if field[1] == "p"],
                operation=self._operation(),
                apply=apply_all,
            )
        except Exception:
            # It may have arrived: setting the same once more does no harm.
            with study.lock:
                outbox.operations = waiting
                if (live := study.live.get(trial.number)) is not None:
                    for *_, name, value in waiting:
                        live.set(name, value)
            raise
        self._waiting.pop(trial.trial_id, None)
        result = answer[-1]
        if result in "01":
            for field, _, kind, _, _ in operations:
                if kind:
                    study.kinds[field] = kind
            return result == "1"
        if result == "f":
            self._refuse_finished(study, trial.number)
        study.forget_live()
        if result == "i":
            raise _incompatible(operations[-1][0], study)
        raise KeyError(f"No trial with the id {trial.trial_id} exists.")

    def _flush(self, study: StudyCopy, trial: UnfinishedTrial) -> bool:
        """Send what waits for a trial; whether anything was sent.

        What waits for a trial that somebody else has finished, or that is gone with its study,
        is dropped. The next call that writes to the trial says so.
        """
        outbox = trial.outbox
        with outbox.lock:
            if not outbox.operations:
                return False
            try:
                self._send(study, trial, [])
            except (KeyError, UpdateFinishedTrialError):
                outbox.operations = []
                self._waiting.pop(trial.trial_id, None)
                return False
            return True

    def flush(self) -> None:
        """Send everything that is waiting to be sent.

        Raises:
            StorageUnavailableError: the server cannot be reached.
        """
        if self._pid != os.getpid():
            self._start()
        for study, trial in list(self._waiting.values()):
            self._flush(study, trial)

    def _flush_old(self) -> bool:
        """Send what has waited long enough; errors are raised by the next call."""
        limit = time.monotonic() - _FLUSH_AFTER
        for study, trial in list(self._waiting.values()):
            if trial.outbox.since < limit:
                try:
                    self._flush(study, trial)
                except Exception as error:  # noqa: BLE001
                    trial.outbox.since, self._failure = time.monotonic(), error
        return bool(self._waiting)

    # Trials: reading

    def _is_second_half(self, of: int) -> bool:
        """Tell whether this thread has just made the trial, in its last call.

        Optuna reads each trial right after it has made it. Nobody can have changed it since
        then and have told this thread; what the thread itself writes goes out with a read.
        """
        created = getattr(_last, "created", None)
        if created is None or created[0] != self._writer or created[1] != of:
            return False
        _last.created = None
        return time.monotonic() - created[2] < _FRESH_FOR

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial, which its reader may change."""
        study_id, number = trial_place(trial_id)
        try:
            if self._is_second_half(trial_id):
                return self._study(study_id).trial(number)
            return self._fresh(study_id).trial(number)
        except KeyError:
            raise KeyError(f"No trial with the id {trial_id} exists.") from None

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The trials of a study, by their numbers; without `deepcopy`, not to be changed."""
        study = self._fresh(study_id)
        trials = study.waiting() if states == _WAITING else study.trials()
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        if not deepcopy:
            return trials
        with decoding(study.keys.prefix):  # forged, and nested too deeply to be copied
            return copy.deepcopy(trials)

    def trials_view(self, study_id: int) -> Sequence[FrozenTrial]:
        """The trials, read-only, for those who look at a few: a list of all takes time itself."""
        return TrialsView(self._fresh(study_id))

    def summarize(self, study_id: int) -> StudySummary:
        """Sum up a study, without reading all of its trials, unless this process has them."""
        self.flush()
        if study_id not in self._copies:
            summary = read_summary(self._unread(study_id), self._server)
            if summary is not None:
                return summary
        directions = [direction.name.lower() for direction in self.get_study_directions(study_id)]
        return summary_of(self.get_all_trials(study_id, deepcopy=False), directions)

    def some_trials(self, study_id: int, number: int) -> list[FrozenTrial]:
        """Read about so many finished trials, from the study's beginning to its end."""
        return read_some(self._unread(study_id), self._server, number)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id of a trial by its number."""
        study = self._fresh(study_id)
        if not 0 <= trial_number < len(study):
            raise KeyError(f"No trial {trial_number} exists in the study with the id {study_id}.")
        return trial_id(study_id, trial_number)

    def get_trial_number_from_id(self, trial_id: int) -> int:
        """The number of a trial by its id."""
        return self.get_trial(trial_id).number

    def get_trial_param(self, trial_id: int, param_name: str) -> float:
        """A parameter of a trial, as Optuna keeps it inside."""
        trial = self.get_trial(trial_id)
        return trial.distributions[param_name].to_internal_repr(trial.params[param_name])

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        """Count the trials of a study, in all states or in some."""
        if state is None:
            return len(self._fresh(study_id))
        return super().get_n_trials(study_id, state)

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best completed trial of a study with one direction."""
        study = self._fresh(study_id)
        if len(study.directions) == 1:
            if (best := study.best()) is None:
                raise ValueError("No trials are completed yet.")
            return best
        return super().get_best_trial(study_id)

    # Heartbeats

    def record_heartbeat(self, trial_id: int) -> None:
        """Say that the worker of a trial is alive."""
        study_id, number = trial_place(trial_id)
        study = self._study(study_id)
        if number not in study.live:
            self._commit(study)
        if (trial := study.live.get(number)) is not None:
            self._commit(study, ["b", number, trial.birth])

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        interval = self.heartbeat_interval
        if interval is None:
            return []
        # Only `Study.optimize` asks this, right before it makes or takes a trial, whose
        # heartbeats it then records. So they can begin with the trial, and none is missed.
        self._beating.study_id = study_id
        grace_period = self.grace_period or 2 * interval
        keys = self._study(study_id).keys
        numbers = self._server.run(BEATS, [keys.live, keys.heartbeats], [int(grace_period * 1000)])
        return sorted(trial_id(study_id, int(number)) for number in numbers)

    def _is_beating(self, study_id: int) -> str:
        return "1" if getattr(self._beating, "study_id", None) == study_id else "0"

    def get_heartbeat_interval(self) -> int | None:
        """Seconds between two heartbeats, or None."""
        return self.heartbeat_interval

    def get_heartbeat_stale_trial_callback(self) -> _StaleTrialCallback | None:
        """Return the callback for a trial that has lost its worker."""
        return self.heartbeat_stale_trial_callback


def _check_settings(
    namespace: str, write_mode: str, heartbeat_interval: int | None, grace_period: int | None
) -> None:
    if not namespace or not namespace.isprintable() or set(namespace) & set("{}"):
        raise InvalidSettingError(
            f"expected a namespace of printable characters without {{ and }}, and found "
            f"{namespace!r}."
        )
    if write_mode not in ("buffered", "strict", "fast"):
        raise InvalidSettingError(
            f"expected the write_mode 'buffered', 'strict' or 'fast', and found {write_mode!r}."
        )
    for name, value in (("heartbeat_interval", heartbeat_interval), ("grace_period", grace_period)):
        if value is not None and value <= 0:
            raise InvalidSettingError(f"expected a positive {name}, or None, and found {value!r}.")


def _incompatible(field: str, study: StudyCopy) -> ValueError:
    return ValueError(
        f"The parameter {json.loads(field)[1:]!r} has another kind of distribution in the study "
        f"{study.name!r}: its type, log, and a categorical's choices must stay the same."
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")


def _flush_all() -> None:
    for storage in list(_opened):
        if storage._pid == os.getpid() and storage._waiting:  # pyright: ignore[reportPrivateUsage]
            try:
                storage.flush()
            except Exception as error:  # noqa: BLE001 (the process ends)
                warnings.warn(f"{storage!r} could not send its last writes: {error}", stacklevel=1)


atexit.register(_flush_all)
