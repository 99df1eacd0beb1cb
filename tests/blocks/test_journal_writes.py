"""What a trial is given travels with its next report or state, and is never lost by waiting."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState
from servers import wait_until

from prefect_optuna.blocks import JournalStudyStorage

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

LONG = 3600.0  # seconds


@pytest.fixture
def block(tmp_path: Path) -> JournalStudyStorage:
    return JournalStudyStorage(path=tmp_path / "studies.journal")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written because it has waited for long."""
    monkeypatch.setattr("prefect_optuna.blocks._journal_storage._FLUSH_AFTER", LONG)


def elsewhere(block: JournalStudyStorage) -> optuna.Study:
    """The study as another process sees it."""
    return block.model_copy().load_study("tuning")


def started(block: JournalStudyStorage) -> tuple[optuna.Study, optuna.Trial]:
    """A study whose first trial has decided on the kinds of its parameters, and its second."""
    study = block.create_study("tuning", sampler=optuna.samplers.RandomSampler(seed=1))
    first = study.ask()
    for name in "abcde":
        first.suggest_float(name, 0, 1)
    study.tell(first, 1.0)
    return study, study.ask()


@pytest.mark.usefixtures("patient")
def test_a_trial_of_five_parameters_is_two_writes(
    block: JournalStudyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, trial = started(block)
    writes: list[str] = []
    file = block.get_storage()._file
    append = file.append
    monkeypatch.setattr(file, "append", lambda line: (writes.append(line), append(line))[1])
    for name in "abcde":
        trial.suggest_float(name, 0, 1)
    trial.set_user_attr("note", [1, {"deep": 2}])
    assert writes == []
    study.tell(trial, 2.0)
    assert len(writes) == 1
    assert len(writes[0].splitlines()) == 7
    study.ask()
    assert len(writes) == 2
    assert elsewhere(block).trials == study.trials


@pytest.mark.usefixtures("patient")
def test_what_waits_is_seen_here_at_once_and_elsewhere_with_the_next_report(
    block: JournalStudyStorage,
) -> None:
    study, trial = started(block)
    x = trial.suggest_float("a", 0, 1)
    trial.set_user_attr("note", "ü\n")
    storage = block.get_storage()
    for shown in (
        storage.get_trial(trial._trial_id),
        study.get_trials(deepcopy=False)[1],
        study.get_trials(states=[TrialState.RUNNING])[0],
    ):
        assert (shown.params, shown.user_attrs) == ({"a": x}, {"note": "ü\n"})
    assert elsewhere(block).trials[1].params == {}
    before = study.get_trials(deepcopy=False)[1]
    trial.set_user_attr("more", 1)
    assert "more" not in before.user_attrs, "what was returned has changed later"
    assert "more" in study.get_trials(deepcopy=False)[1].user_attrs
    trial.report(0.5, step=1)
    (there,) = elsewhere(block).get_trials(states=[TrialState.RUNNING])
    assert there == study.trials[1]
    assert there.params == {"a": x}


def test_what_waits_is_seen_elsewhere_soon(block: JournalStudyStorage) -> None:
    study, trial = started(block)
    other = elsewhere(block)
    trial.suggest_float("a", 0, 1)
    trial.set_user_attr("note", 1)
    wait_until(lambda: other.trials[1].user_attrs == {"note": 1}, what="the attribute is there")
    assert other.trials == study.trials


@pytest.mark.usefixtures("patient")
def test_a_parameter_of_a_new_name_is_seen_at_once_for_all_have_to_agree_on_its_kind(
    block: JournalStudyStorage,
) -> None:
    _, trial = started(block)
    trial.suggest_int("new", 0, 9)
    other = elsewhere(block)
    assert "new" in other.trials[1].params
    with pytest.raises(ValueError, match="distribution"):
        other.ask().suggest_float("new", 0, 1)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("deleted", [False, True])
def test_what_waits_for_a_trial_that_others_have_ended_is_nobody_s(
    block: JournalStudyStorage, deleted: bool
) -> None:
    study, trial = started(block)
    trial.suggest_float("a", 0, 1)
    other = block.model_copy().get_storage()
    if deleted:
        other.delete_study(study._study_id)
    else:
        other.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    size = block.path.stat().st_size
    block.get_storage().flush()
    assert block.path.stat().st_size == size
    with pytest.raises(KeyError if deleted else UpdateFinishedTrialError):
        trial.set_user_attr("late", 1)
    with pytest.raises(KeyError if deleted else UpdateFinishedTrialError):
        block.get_storage().set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    if not deleted:
        assert elsewhere(block).trials[1].params == {} == study.trials[1].params


@pytest.mark.usefixtures("patient")
def test_what_waits_is_not_given_to_a_trial_of_a_file_that_has_taken_the_place(
    block: JournalStudyStorage,
) -> None:
    _, trial = started(block)
    trial.suggest_float("a", 0, 1)
    block.path.unlink()
    fresh = block.model_copy()
    study = fresh.create_study("another")
    study.ask()
    study.ask()
    block.get_storage().flush()
    assert [t.params for t in fresh.model_copy().load_study("another").trials] == [{}, {}]


@pytest.mark.usefixtures("patient")
def test_a_pickle_of_the_storage_and_its_end_write_what_waits(block: JournalStudyStorage) -> None:
    _, trial = started(block)
    trial.set_user_attr("note", 1)
    there = pickle.loads(pickle.dumps(block.get_storage()))
    assert there.get_trial(trial._trial_id).user_attrs == {"note": 1}
    there.set_trial_user_attr(trial._trial_id, "there", 1)  # at once: it was not asked there
    assert elsewhere(block).trials[1].user_attrs == {"note": 1, "there": 1}
    trial.set_user_attr("note", 2)
    block.get_storage().remove_session()
    assert there.get_trial(trial._trial_id).user_attrs == {"note": 2, "there": 1}


LAST = """
import sys
from pathlib import Path
from prefect_optuna.blocks import JournalStudyStorage, _journal_storage
_journal_storage._FLUSH_AFTER = 3600.0
trial = JournalStudyStorage(path=Path(sys.argv[1])).load_study("tuning").ask()
trial.suggest_float("a", 0, 1)
trial.set_user_attr("note", "last")
print("given", flush=True)
"""


@pytest.mark.slow
def test_a_process_that_ends_writes_what_waits(child: Any, block: JournalStudyStorage) -> None:
    study, _ = started(block)
    with child(LAST, str(block.path)) as writer:
        assert writer.wait(60) == 0
    last = study.trials[-1]
    assert (last.number, last.user_attrs, [*last.params]) == (2, {"note": "last"}, ["a"])


@pytest.mark.usefixtures("patient")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_knows_what_its_trial_was_given(block: JournalStudyStorage) -> None:
    _, trial = started(block)
    trial.set_user_attr("note", "before")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            there = trial.storage.get_trial(trial._trial_id)
            code = 0 if there.user_attrs == {"note": "before"} else 2
            trial.set_user_attr("child", 1)  # written at once: it may end at any moment
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    trial.set_user_attr("parent", 1)
    block.get_storage().flush()
    assert elsewhere(block).trials[1].user_attrs == {"note": "before", "child": 1, "parent": 1}


@pytest.mark.usefixtures("patient")
def test_what_cannot_be_written_goes_on_waiting(
    block: JournalStudyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, trial = started(block)
    trial.set_user_attr("note", 1)
    file = block.get_storage()._file
    append = file.append

    def full(line: str) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "append", full)
    with pytest.raises(OSError, match="No space"):
        block.get_storage().flush()
    with pytest.raises(OSError, match="No space"):
        block.get_storage().set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])
    assert study.trials[1].user_attrs == {"note": 1}
    monkeypatch.setattr(file, "append", append)
    study.tell(trial, 1.0)
    assert elsewhere(block).trials[1].user_attrs == {"note": 1}


def test_a_full_disk_is_not_tried_all_the_time_and_nothing_is_read_again(
    block: JournalStudyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trial = started(block)
    storage = block.get_storage()
    file, tried, read = storage._file, [], []
    append, known = file.append, storage._replay

    def full(line: str) -> int:
        tried.append(line)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "append", full)
    monkeypatch.setattr(file, "read", lambda: read.append(1) or iter(()))
    monkeypatch.setattr("prefect_optuna.blocks._journal_storage._TRY_AGAIN_AFTER", LONG)
    trial.set_user_attr("note", 1)
    wait_until(lambda: tried, what="it is written")
    time.sleep(0.2)
    assert len(tried) == 1
    assert read == []
    assert storage._replay is known
    monkeypatch.setattr(file, "append", append)
    storage.flush()
    assert block.model_copy().load_study("tuning").trials[1].user_attrs == {"note": 1}
