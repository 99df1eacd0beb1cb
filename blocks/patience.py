"""Waiting for a storage that is away: an outage costs time, and no trial.

A cable, a restart or a full disk is nobody's mistake and mostly passes. Flows wait for it, so that
what was computed meanwhile is told when the storage is back. What people ask for themselves, such
as a list of studies, fails at once and says why.
"""

from __future__ import annotations

import abc
import errno
import functools
import logging
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import (
    BaseStorage,
    RDBStorage,
    _CachedStorage,  # pyright: ignore[reportPrivateUsage]
)
from optuna.trial import FrozenTrial, TrialState
from prefect.logging import get_logger

from prefect_optuna.blocks._secrets import clean_cause, error_words
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.errors import StorageUnavailableError

if TYPE_CHECKING:
    from optuna.storages import InMemoryStorage as _Base  # its methods are made in a loop below

    from prefect_optuna.blocks.stores import ArtifactStore
else:
    _Base = BaseStorage

_Result = TypeVar("_Result")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries
_REMIND_SECONDS = 60.0
# What is wrong with a name or a path stays wrong.
_LASTING = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_LASTING_NUMBERS = (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EFBIG, errno.EBADF)


def is_outage(error: BaseException) -> bool:
    """Tell whether an error says that a storage is away, full or refuses, which may pass.

    Example:
        >>> is_outage(StorageUnavailableError("no answer")), is_outage(KeyError(5))
        (True, False)
    """
    if isinstance(error, StorageUnavailableError):
        return not _is_lasting(error) and not _is_lasting(error.__cause__)
    if isinstance(error, OSError):
        return not _is_lasting(error)
    return _is_outage_of_a_database(error) or _is_outage_of_a_proxy(error)


def _is_lasting(error: BaseException | None) -> bool:
    return isinstance(error, _LASTING) or getattr(error, "errno", None) in _LASTING_NUMBERS


def _is_outage_of_a_database(error: BaseException) -> bool:
    from sqlalchemy import exc

    if isinstance(error, optuna.exceptions.StorageInternalError):
        error = error.__cause__ or error
    if isinstance(error, exc.OperationalError):
        # SQLite says so of a table that is missing; the others have an error of its own for that.
        return not str(error.orig).startswith("no such")
    lost = isinstance(error, exc.DBAPIError) and error.connection_invalidated
    # The rollback is pending where Optuna goes on after a connection was lost.
    passing = (exc.InterfaceError, exc.TimeoutError, exc.PendingRollbackError)
    return lost or isinstance(error, passing)


def _is_outage_of_a_proxy(error: BaseException) -> bool:
    code = getattr(error, "code", None)  # of a grpc.RpcError; the package may be missing
    return callable(code) and getattr(code(), "name", "") in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


class Patience:
    """Repeats what an outage has kept from being done, until it is done or takes too long.

    Args:
        limit: seconds after which the outage is an error; `OptunaSettings.patience` if `None`.
        logger: hears of an outage, once a minute while it lasts, and of its end.

    Example:
        >>> patience = Patience(limit=60)
        >>> patience(lambda: 5)
        5
    """

    def __init__(
        self,
        limit: float | None = None,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ) -> None:
        self._limit = limit
        self._logger = logger
        self._ended = threading.Event()
        self._since: float | None = None  # when the outage began, until a call gets through
        self.outages: int = 0
        """Number of calls that have had to wait until now."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Patience, (self._limit,)

    def __call__(self, call: Callable[[], _Result]) -> _Result:
        """Call something, again and again while there is an outage."""
        try:
            result = call()
        except Exception as error:
            if not is_outage(error):
                raise
            return self._wait(call, error)
        self._since = None
        return result

    def end(self) -> None:
        """Wait no more: whatever waits fails now, and whatever comes later fails at once."""
        self._ended.set()

    @contextmanager
    def around(self) -> Generator[None]:
        """Let artifact filesystems wait as well, in the code within."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def _wait(self, call: Callable[[], _Result], error: Exception) -> _Result:
        self.outages += 1
        if (keep := _keep.get()) is not None:
            _keep.set(None)
            keep()
        limit = OptunaSettings.here().patience if self._limit is None else self._limit
        logger = self._logger or get_logger(__name__)
        # Cleaning up after the limit does not wait once more.
        began = self._since = self._since or time.monotonic()
        pause, reminder = _FIRST_PAUSE, 0.0
        while True:
            away = time.monotonic() - began
            if away >= limit or self._ended.is_set():
                if isinstance(error, StorageUnavailableError):
                    raise error
                raise StorageUnavailableError(
                    f"A storage is away, and was waited for {away:.0f} s: {_words(error)}"
                ) from clean_cause(error)
            if away >= reminder:
                reminder = away + _REMIND_SECONDS
                logger.warning(
                    "A storage is away, and is waited for, %.0f of at most %.0f s; no trial is "
                    "lost meanwhile. %s",
                    away,
                    limit,
                    _words(error),
                )
            self._ended.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            try:
                result = call()
            except Exception as again:
                if not is_outage(again):
                    raise
                error = again
            else:
                self._since = None
                logger.info("The storage is back after %.1f s.", time.monotonic() - began)
                return result


def _words(error: BaseException) -> str:
    # Optuna says of each error of a database that the data are too long, perhaps.
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = getattr(error.__cause__, "orig", None) or error.__cause__
    return error_words(error)


_current: ContextVar[Patience | None] = ContextVar("patience", default=None)
_keep: ContextVar[Callable[[], None] | None] = ContextVar("keep", default=None)


@contextmanager
def before_waiting(keep: Callable[[], None]) -> Generator[None]:
    """Call something once, before the code within waits for a storage for the first time."""
    token = _keep.set(keep)
    try:
        yield
    finally:
        _keep.reset(token)


def patient_store(store: ArtifactStore) -> ArtifactStore:
    """A store of artifacts that waits where `Patience.around` says so; else the store itself."""
    patience = _current.get()
    return store if patience is None else cast("ArtifactStore", _PatientStore(store, patience))


class _PatientStore:
    def __init__(self, store: ArtifactStore, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any) -> Any:
            return self._patience(lambda: method(*args))

        return call


class _CachedDatabase(_CachedStorage):
    """Optuna's cache in front of a database, which also changes and counts what it has not read."""

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        if trial_id in self._trial_id_to_study_id_and_number:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        else:  # of another process, and not read yet
            given = trial_id, param_name, param_value_internal, distribution
            self._backend.set_trial_param(*given)

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        if state is not None:
            return super().get_n_trials(study_id, state)
        self._read_trials_from_remote_storage(study_id)
        with self._lock:
            return len(self._studies[study_id].trials)


class PatientStorage(_Base):
    """A study storage whose calls wait while it is away.

    Example:
        >>> import optuna
        >>> storage = PatientStorage(optuna.storages.InMemoryStorage())
        >>> optuna.create_study(storage=storage).ask().number
        0
    """

    def __init__(self, storage: BaseStorage, patience: Patience | None = None) -> None:
        # Optuna does not see the database in here, and would read all trials for each.
        self.storage: BaseStorage = (
            _CachedDatabase(storage) if isinstance(storage, RDBStorage) else storage
        )
        self.patience: Patience = patience or Patience()

    def __getattr__(self, name: str) -> Any:
        if name == "storage":  # of a copy that has nothing yet
            raise AttributeError(name)
        return getattr(self.storage, name)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make a trial; one whose answer was lost in the outage is not made twice."""
        outages = self.patience.outages

        def make() -> int:
            if self.patience.outages > outages and template_trial is not None:
                made = self._made(study_id, template_trial)
                if made is not None:
                    return made
            return self.storage.create_new_trial(study_id, template_trial)

        return self.patience(make)

    def trials_view(self, study_id: int) -> Sequence[FrozenTrial]:
        """The trials, read-only; a storage that can makes no list of them for that."""
        return self.patience(lambda: trials_view(self.storage, study_id))

    def flush(self) -> None:
        """Send what the storage has gathered."""
        self.patience(lambda: send_writes(self.storage))

    def _made(self, study_id: int, template: FrozenTrial) -> int | None:
        for trial in reversed(self.storage.get_all_trials(study_id, deepcopy=False)):
            if (
                trial.state == template.state
                and trial.datetime_start == template.datetime_start
                and template.system_attrs.items() <= trial.system_attrs.items()
            ):
                return trial._trial_id  # pyright: ignore[reportPrivateUsage]
        return None


def trials_view(storage: BaseStorage, study_id: int) -> Sequence[FrozenTrial]:
    """The trials of a study, read-only, for those who look at a few of many.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.ask().number, len(trials_view(study._storage, study._study_id))
        (0, 1)
    """
    view = getattr(storage, "trials_view", None)
    return storage.get_all_trials(study_id, deepcopy=False) if view is None else view(study_id)


def send_writes(storage: BaseStorage) -> None:
    """Have a storage that gathers writes hold them all, for another process is to read them.

    Example:
        >>> import optuna
        >>> send_writes(optuna.storages.InMemoryStorage())
    """
    flush = getattr(storage, "flush", None)
    if flush is not None:
        flush()


def _patient(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(BaseStorage, name), updated=())
    def call(self: PatientStorage, *args: Any, **named: Any) -> Any:
        method = getattr(self.storage, name)
        return self.patience(lambda: method(*args, **named))

    return call


for _name in dir(BaseStorage):
    if not _name.startswith("_") and _name not in vars(PatientStorage):
        setattr(PatientStorage, _name, _patient(_name))
abc.update_abstractmethods(PatientStorage)
