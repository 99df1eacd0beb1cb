"""The default storage survives what happens to files and to the processes that write them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from prefect_optuna.blocks import JournalStudyStorage, StorageUnavailableError
from prefect_optuna.blocks._journal_file import PortableLock, os_lock
from prefect_optuna.blocks._journal_replay import Replay

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

LOCKS = [os_lock, PortableLock]


@pytest.fixture
def block(tmp_path: Path) -> JournalStudyStorage:
    return JournalStudyStorage(path=tmp_path / "folder" / "studies.journal")


def reopened(block: JournalStudyStorage) -> JournalStudyStorage:
    return block.model_copy()


HOLD = """
import sys
from pathlib import Path
from prefect_optuna.blocks import _journal_file
lock = getattr(_journal_file, sys.argv[2])(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("lock", LOCKS)
def test_a_killed_holder_of_the_lock_delays_nobody(child, lock, tmp_path: Path) -> None:
    journal = tmp_path / "studies.journal"
    with child(HOLD, str(journal), lock.__name__) as holder:
        waiter = lock(journal)
        acquired = threading.Event()
        thread = threading.Thread(target=lambda: (waiter.acquire(), acquired.set()))
        thread.start()
        assert not acquired.wait(0.2), "the lock was held, and was given to another process"
        holder.kill()
        killed = time.monotonic()
        assert acquired.wait(10)
        assert time.monotonic() - killed < 1
        thread.join()


def test_a_writer_killed_while_it_holds_the_lock_does_not_delay_the_study(
    child, block: JournalStudyStorage
) -> None:
    block.create_study("before")
    with child(HOLD, str(block.path), "os_lock") as holder:
        holder.kill()
        holder.wait()
        started = time.monotonic()
        block.create_study("after")
    assert time.monotonic() - started < 1
    assert block.study_names() == ["before", "after"]


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_lets_one_thread_in_at_a_time(lock, tmp_path: Path) -> None:
    shared, inside, most = lock(tmp_path / "j"), [], []

    def work() -> None:
        for _ in range(50):
            shared.acquire()
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            shared.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert max(most) == 1
    assert len(most) == 200


@pytest.mark.parametrize("lock", LOCKS)
def test_a_pickled_lock_is_not_held(lock, tmp_path: Path) -> None:
    first = lock(tmp_path / "j")
    first.acquire()
    second = pickle.loads(pickle.dumps(first))
    first.release()
    second.acquire()
    second.release()


TELL = """
import sys
import optuna
from prefect_optuna.blocks import JournalStudyStorage
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = JournalStudyStorage(path=sys.argv[1]).load_study("shared")
print("ready", flush=True)
while True:
    trial = study.ask()
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("twice", 2 * x)
    trial.report(x, 3)
    print("running", trial.number, x, flush=True)
    study.tell(trial, x)
    print("told", trial.number, x, flush=True)
"""


@pytest.mark.slow
def test_writers_killed_at_any_moment_leave_a_whole_journal_with_all_that_they_have_written(
    child, block: JournalStudyStorage
) -> None:
    study = block.create_study("shared")
    said: list[tuple[str, int, float]] = []
    for lines in (7, 12):
        with child(TELL, str(block.path)) as first, child(TELL, str(block.path)) as second:
            for writer in (first, second):
                assert writer.stdout
                for _ in range(lines):
                    what, number, x = writer.stdout.readline().split()
                    said.append((what, int(number), float(x)))
            first.kill()
    trials = reopened(block).load_study("shared").trials
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert len({number for _, number, _ in said}) >= 18
    for what, number, x in said:
        trial = trials[number]
        found = (trial.params, trial.user_attrs, trial.intermediate_values)
        assert found == ({"x": x}, {"twice": 2 * x}, {3: x})
        if what == "told":
            assert (trial.state, trial.value) == (TrialState.COMPLETE, x)
    study.tell(study.ask(), -1.0)
    assert study.best_value == -1.0


FILL = """
import resource, signal, sys
from pathlib import Path
from prefect_optuna.blocks import JournalStudyStorage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
study = JournalStudyStorage(path=path).load_study("shared")
trial = study.ask()
print("ready", flush=True)
size = path.stat().st_size
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, most))
try:
    study.tell(trial, 1.0)
except OSError as error:
    print(error.strerror, path.stat().st_size - size, trial.number)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print(study.tell(trial, 1.0).number, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no limit for the size of a file")
def test_a_record_for_which_there_is_no_room_leaves_nothing_and_can_be_written_later(
    child, block: JournalStudyStorage, caplog: pytest.LogCaptureFixture
) -> None:
    block.create_study("shared")
    with child(FILL, str(block.path)) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == "File too large 0 0\n"
        assert writer.stdout.readline() == "0\n"
    assert [t.value for t in reopened(block).load_study("shared").trials] == [1.0]
    assert not caplog.text


def test_a_disk_is_waited_for_once_a_trial_when_it_is_told(
    block: JournalStudyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronized: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synchronized.append(1), fsync(file)))

    def waits(call: Callable[[], object]) -> int:
        synchronized.clear()
        call()
        return len(synchronized)

    assert waits(lambda: block.create_study("tuning")) == 1
    study = block.load_study("tuning")
    trials: list[optuna.Trial] = []
    assert waits(lambda: trials.append(study.ask())) == 0
    (trial,) = trials
    assert waits(lambda: [trial.suggest_float(name, 0, 1) for name in "abcde"]) == 0
    assert waits(lambda: trial.set_user_attr("note", [1, 2])) == 0
    assert waits(lambda: trial.report(0.5, 1)) == 0
    assert waits(lambda: study.tell(trial, 1.0)) == 1
    assert waits(lambda: study.enqueue_trial({"a": 0.5})) == 1
    assert waits(lambda: study.set_user_attr("note", "done")) == 1


def test_an_interrupt_in_the_middle_of_a_write_does_nothing_twice(
    block: JournalStudyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = block.create_study("tuning")
    apply = Replay.apply

    def interrupted(self: Replay, record: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    for number in range(3):
        assert len(study.trials) == number
        monkeypatch.setattr(Replay, "apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            study.ask()
        monkeypatch.setattr(Replay, "apply", apply)
    assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert study.ask().number == 3
    assert study.trials == reopened(block).load_study("tuning").trials


def test_a_journal_that_was_deleted_and_made_anew_is_read_anew(
    block: JournalStudyStorage,
) -> None:
    block.create_study("old")
    block.path.unlink()
    JournalStudyStorage(path=block.path).create_study("a longer name than the one before")
    assert block.study_names() == ["a longer name than the one before"]


def test_of_two_workers_that_have_taken_a_trial_at_once_the_first_has_it(
    block: JournalStudyStorage,
) -> None:
    study = block.create_study("tuning")
    study.enqueue_trial({"x": 0.5})
    take = {"op_code": 6, "trial_id": 0, "state": 0, "values": None}
    JournalFileBackend(str(block.path)).append_logs(
        [
            {**take, "worker_id": "a", "datetime_start": "2026-01-02T03:04:05.000006+00:00"},
            {**take, "worker_id": "b", "datetime_start": "2027-01-02T03:04:05.000006+00:00"},
        ]
    )
    (trial,) = study.trials
    assert trial.datetime_start
    assert trial.datetime_start.year == 2026
    assert trial == JournalStorage(JournalFileBackend(str(block.path))).get_trial(0)


POP = """
import sys, warnings
import optuna
from prefect_optuna.blocks import JournalStudyStorage
from prefect_optuna.blocks._journal_file import os_lock
from optuna.storages.journal import JournalFileBackend
from pathlib import Path
warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)
path = Path(sys.argv[1])
if sys.argv[2] == "ours":
    storage = JournalStudyStorage(path=path).get_storage()
else:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), os_lock(path)))
study = optuna.load_study(study_name="shared", storage=storage)
print("ready", flush=True)
sys.stdin.readline()
numbers = []
while "fixed_params" in storage.get_trial((trial := study.ask())._trial_id).system_attrs:
    numbers.append(trial.number)
    trial.suggest_float("x", 0, 1000)
    study.tell(trial, 1.0)
print(*numbers, flush=True)
"""


@pytest.mark.slow
def test_optuna_s_own_storage_takes_part_and_each_waiting_trial_is_taken_once(
    child, block: JournalStudyStorage
) -> None:
    study = block.create_study("shared")
    for x in range(60):
        study.enqueue_trial({"x": x})
    with ExitStack() as stack:
        workers = [
            stack.enter_context(child(POP, str(block.path), who)) for who in ("ours", "optuna")
        ]
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        taken = [list(map(int, worker.stdout.readline().split())) for worker in workers]
    assert sorted(number for numbers in taken for number in numbers) == list(range(60))
    trials = study.get_trials(states=[TrialState.COMPLETE])
    assert [trial.params["x"] for trial in trials] == list(range(60))


TORN = b'{"op_code":0,"worker_id":"somebody","study_na'


def test_a_torn_last_line_is_cut_off_on_opening(
    block: JournalStudyStorage, caplog: pytest.LogCaptureFixture
) -> None:
    block.create_study("kept")
    whole = block.path.read_bytes()
    block.path.write_bytes(whole + TORN)
    with caplog.at_level(logging.WARNING, "prefect_optuna"):
        again = reopened(block)
        assert again.study_names() == ["kept"]
    assert block.path.read_bytes() == whole
    assert f"{len(TORN)} bytes" in caplog.text
    assert str(block.path) in caplog.text
    again.create_study("new")
    assert reopened(block).study_names() == ["kept", "new"]


def test_a_line_torn_while_others_have_the_journal_open_is_cut_before_they_write(
    block: JournalStudyStorage,
) -> None:
    block.create_study("kept")
    with block.path.open("ab") as journal:
        journal.write(TORN)
    block.create_study("new")
    assert block.study_names() == ["kept", "new"]
    assert reopened(block).study_names() == ["kept", "new"]


@settings(max_examples=30)
@given(data=st.data())
def test_a_journal_cut_anywhere_keeps_all_its_finished_lines(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    block = JournalStudyStorage(path=tmp_path_factory.mktemp("cut") / "studies.journal")
    for name in "abc":
        block.create_study(name)
    content = block.path.read_bytes()
    length = data.draw(st.integers(0, len(content)))
    block.path.write_bytes(content[:length])
    again = reopened(block)
    finished = content[:length].count(b"\n")
    assert again.study_names() == list("abc")[:finished]
    again.create_study("new")
    assert reopened(block).study_names() == [*"abc"[:finished], "new"]


@pytest.mark.parametrize(
    "content",
    [b"SQLite format 3\0", b"trial,value\n1,2\n", b"{}", b'[{"op_code":0}]\n', b"\0\0\0", b"\n"],
)
def test_a_file_that_is_no_journal_is_left_as_it_is(
    block: JournalStudyStorage, content: bytes
) -> None:
    block.path.parent.mkdir()
    block.path.write_bytes(content)
    with pytest.raises(StorageUnavailableError, match="no Optuna journal") as caught:
        block.get_storage()
    assert str(block.path) in str(caught.value)
    assert block.path.read_bytes() == content


@pytest.mark.parametrize("after", [b"", b'{"op_code":4}\n'], ids=["at the end", "in between"])
def test_a_damaged_line_is_an_error_that_says_which(
    block: JournalStudyStorage, after: bytes
) -> None:
    block.create_study("kept")
    damaged = block.path.read_bytes() + TORN + b"\n" + after
    block.path.write_bytes(damaged)
    with pytest.raises(StorageUnavailableError, match=r"damaged: line 2 is no record"):
        reopened(block).get_storage()
    assert block.path.read_bytes() == damaged


def test_a_journal_that_optuna_cannot_replay_is_an_error(block: JournalStudyStorage) -> None:
    block.path.parent.mkdir()
    block.path.write_text(json.dumps({"op_code": 99, "worker_id": "x"}) + "\n")
    with pytest.raises(StorageUnavailableError, match="cannot replay"):
        block.get_storage()


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailableError, match="directory") as caught:
        JournalStudyStorage(path=tmp_path).get_storage()
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    block = JournalStudyStorage(path=tmp_path / "file" / "studies.journal")
    with pytest.raises(StorageUnavailableError, match="cannot be opened") as caught:
        block.get_storage()
    assert str(block.path) in str(caught.value)


@pytest.mark.parametrize("lock", ["symlink", "open"])
def test_optuna_s_lock_files_can_be_chosen(block: JournalStudyStorage, lock: str) -> None:
    chosen = JournalStudyStorage(path=block.path, lock=lock)
    chosen.create_study("tuning")
    assert reopened(chosen).study_names() == ["tuning"]
    assert [path.name for path in block.path.parent.iterdir()] == ["studies.journal"]


def test_a_relative_path_is_made_absolute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = JournalStudyStorage(path="studies.journal")
    monkeypatch.chdir("/")
    assert block.path == tmp_path / "studies.journal"
    assert JournalStudyStorage(path="~/j").path == Path.home() / "j"
