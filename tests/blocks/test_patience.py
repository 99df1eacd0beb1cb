"""What is an outage, and what is waited for."""

from __future__ import annotations

import errno
import threading
import time

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import IntegrityError, OperationalError, PendingRollbackError

from prefect_optuna.blocks import StorageUnavailableError
from prefect_optuna.blocks.patience import Patience, PatientStorage, is_outage
from prefect_optuna.errors import PathNotFoundError


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def operational(text: str) -> OperationalError:
    return OperationalError("SELECT 1", None, Exception(text))


@pytest.mark.parametrize(
    "error",
    [
        StorageUnavailableError("away"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        ConnectionError("could not connect"),
        TimeoutError(),
        OSError(errno.ENOSPC, "full"),
        operational("server closed the connection unexpectedly"),
        caused(StorageInternalError("x"), operational("database is locked")),
        caused(StorageInternalError("x"), PendingRollbackError("of a lost connection")),
    ],
    ids=repr,
)
def test_what_may_pass_is_an_outage(error: Exception) -> None:
    assert is_outage(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong"),
        KeyError(5),
        FileNotFoundError("without a number, as s3fs raises it"),
        FileExistsError("x"),
        PathNotFoundError("x"),
        OSError(errno.ENAMETOOLONG, "long"),
        caused(StorageUnavailableError("x"), OSError(errno.ENAMETOOLONG, "long")),
        operational("no such table: trials"),
        caused(StorageInternalError("x"), IntegrityError("INSERT", None, Exception("twice"))),
    ],
    ids=repr,
)
def test_what_stays_wrong_is_none(error: Exception) -> None:
    assert not is_outage(error)


class Away:
    """A call that fails a few times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self.calls = times, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.left > 0:
            self.left -= 1
            raise self.error
        return "done"


def test_a_call_is_repeated_until_it_is_done() -> None:
    patience, call = Patience(limit=60), Away(2, TimeoutError())
    assert patience(call) == "done"
    assert (call.calls, patience.outages) == (3, 1)


def test_after_the_limit_the_outage_is_an_error_of_ours() -> None:
    with pytest.raises(StorageUnavailableError, match="waited for 0 s: TimeoutError: slow"):
        Patience(limit=0.2)(Away(99, TimeoutError("slow")))


def test_the_limit_is_not_waited_for_once_more_by_whoever_cleans_up() -> None:
    patience = Patience(limit=0.5)
    with pytest.raises(StorageUnavailableError):
        patience(Away(99, TimeoutError()))
    again = Away(99, TimeoutError())
    with pytest.raises(StorageUnavailableError):
        patience(again)
    assert again.calls == 1
    assert patience(Away(0, TimeoutError())) == "done"
    assert patience(Away(1, TimeoutError())) == "done"  # another outage has its own time


def test_what_is_no_outage_is_raised_at_once_also_after_one() -> None:
    patience = Patience(limit=60)
    with pytest.raises(ValueError, match="wrong"):
        patience(Away(1, ValueError("wrong")))
    errors = iter([TimeoutError(), ValueError("wrong")])

    def call() -> None:
        raise next(errors)

    with pytest.raises(ValueError, match="wrong"):
        patience(call)


def test_whoever_waits_can_be_told_not_to() -> None:
    patience = Patience(limit=600)
    threading.Timer(0.2, patience.end).start()
    began = time.monotonic()
    with pytest.raises(StorageUnavailableError):
        patience(Away(99, StorageUnavailableError("away")))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("arrived", [True, False])
def test_a_trial_whose_making_was_answered_by_an_outage_is_made_once(arrived: bool) -> None:
    class Flaky(InMemoryStorage):
        fails = True

        def create_new_trial(self, study_id, template_trial=None):
            if self.fails and not arrived:
                self.fails = False
                raise ConnectionError
            made = super().create_new_trial(study_id, template_trial)
            if self.fails:
                self.fails = False
                raise ConnectionError
            return made

    plain = Flaky()
    storage = PatientStorage(plain, Patience(limit=60))
    study = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    template = create_trial(state=TrialState.RUNNING, system_attrs={"mark": 1})
    assert storage.create_new_trial(study, template) == 0
    assert len(plain.get_all_trials(study)) == 1
    again = create_trial(state=TrialState.RUNNING, system_attrs={"mark": 1})
    assert storage.create_new_trial(study, again) == 1
