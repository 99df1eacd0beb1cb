"""An index of a journal says what the journal says, or is passed over."""

from __future__ import annotations

import json
import os
import threading
import zlib
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from storages_under_test import everything

from prefect_optuna.blocks import JournalStudyStorage, _journal_replay, _journal_storage
from prefect_optuna.blocks._journal_replay import Replay

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Studies with trials of all kinds, of which one is deleted and some go on."""
    path = tmp_path / "studies.journal"
    block = JournalStudyStorage(path=path)
    for name in ("deleted", "lab"):
        study = block.create_study(name)
        study.set_user_attr("who", {"name": "Ada"})
        study.optimize(objective, n_trials=7, catch=ValueError)
        study.enqueue_trial({"x": 0.25})
        study.ask().suggest_float("x", 0, 1)
    block.load_study("lab").add_trial(
        create_trial(
            values=[0.5],
            params={"c": True},
            distributions={"c": CategoricalDistribution([1, True, None])},
            intermediate_values={3: float("nan")},
        )
    )
    optuna.delete_study(study_name="deleted", storage=block.get_storage())
    block.get_storage().flush()
    index_of(path).unlink(missing_ok=True)
    return path


def result(number: int) -> dict[str, Any]:
    """An attribute that differs in part: in a value, an order, a length, a type."""
    series = {"dtype": "<f8", "shape": [3, [4]]}
    whole = {"series": series, "inline": [{"curve": 0}, f"of {number}", [number]], "none": None}
    if number % 3 == 1:
        whole = dict(reversed(whole.items()))
        whole["inline"].append([])
    whole["marks"] = [True if number % 2 else 1]
    return {**whole, "is_even": number % 2 == 0 or number % 2, "": {"version": "605a1711df7d8b5c"}}


def objective(trial: optuna.Trial) -> float:
    x, n = trial.suggest_float("x", 0, 1), trial.suggest_int("n", 1, 9, log=True)
    trial.set_user_attr("scope", {"model": {"kind": "lynx"}})
    trial.set_user_attr("number", trial.number)
    trial.set_user_attr("result", result(trial.number))
    trial.report(x, 2)
    if trial.number == 3:
        raise ValueError
    if trial.number == 4:
        raise optuna.TrialPruned
    return x * n


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals of a few lines are worth an index."""
    monkeypatch.setattr(_journal_replay, "_WORTH", 1)


def opened(path: Path) -> Any:
    return JournalStudyStorage(path=path).get_storage()


def index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


def records_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many records somebody reads who opens the journal."""
    count = 0
    apply = Replay.apply

    def counting(self: Replay, record: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        apply(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "apply", counting)
        opened(path)
    return count


def test_who_opens_a_long_journal_reads_what_its_index_has_not(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(opened(journal))
    assert not index_of(journal).exists()  # short ones are read at once
    monkeypatch.setattr(_journal_replay, "_WORTH", 1)
    every = records_read(journal, monkeypatch)
    assert every > 60
    assert records_read(journal, monkeypatch) == 0
    assert everything(opened(journal)) == expected
    assert everything(JournalStorage(JournalFileBackend(str(journal)))) == expected

    JournalStudyStorage(path=journal).load_study("lab").ask()
    made = index_of(journal).stat().st_mtime_ns
    assert 0 < records_read(journal, monkeypatch) < 5
    assert index_of(journal).stat().st_mtime_ns == made  # for so little it is not made anew
    assert everything(opened(journal)) == everything(
        JournalStorage(JournalFileBackend(str(journal)))
    )


@pytest.mark.usefixtures("small")
def test_a_session_that_ends_leaves_an_index_to_whoever_opens_the_journal(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = JournalStudyStorage(path=journal).load_study("lab")
    index_of(journal).unlink()
    study.optimize(objective, n_trials=20, catch=ValueError)  # Optuna ends its session
    made = index_of(journal).stat().st_mtime_ns
    assert records_read(journal, monkeypatch) == 0
    assert everything(opened(journal)) == everything(
        JournalStorage(JournalFileBackend(str(journal)))
    )
    study.ask()
    study._storage.remove_session()
    assert index_of(journal).stat().st_mtime_ns == made  # for so little it is not made anew
    index_of(journal).write_bytes(b"[2]\n")
    study._storage.remove_session()
    assert records_read(journal, monkeypatch) == 0


@pytest.mark.usefixtures("small")
def test_while_an_index_is_written_others_go_on_and_it_is_of_when_it_was_begun(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = JournalStudyStorage(path=journal)
    study = block.load_study("lab")
    running = study.ask()
    running.suggest_float("x", 0, 1)
    index_of(journal).unlink()
    begun, ended, write = threading.Event(), threading.Event(), _journal_storage.write_index

    def wait(*args: Any) -> None:
        begun.set()
        assert ended.wait(20)
        write(*args)

    monkeypatch.setattr(_journal_storage, "write_index", wait)
    writing = threading.Thread(target=study._storage.remove_session)
    writing.start()
    assert begun.wait(20)
    running.set_user_attr("later", [1])
    study.tell(running, 0.5)
    study.set_user_attr("later", True)
    study.tell(study.ask({"new": optuna.distributions.FloatDistribution(0, 1)}), 1.0)
    block.create_study("another")
    ended.set()
    writing.join(20)
    assert 0 < records_read(journal, monkeypatch) < 20
    assert everything(opened(journal)) == everything(
        JournalStorage(JournalFileBackend(str(journal)))
    )


@pytest.mark.usefixtures("small")
def test_who_interrupts_the_writing_of_an_index_leaves_nothing_of_it(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {*journal.parent.iterdir()}
    monkeypatch.setattr(_journal_replay, "_lines", interrupt)
    with pytest.raises(KeyboardInterrupt):
        opened(journal)
    assert {*journal.parent.iterdir()} == before


@pytest.mark.usefixtures("small")
def test_what_trials_have_in_common_is_in_an_index_and_in_memory_once(journal: Path) -> None:
    study = JournalStudyStorage(path=journal).load_study("lab")
    study.optimize(objective, n_trials=50, catch=ValueError)
    index_of(journal).unlink(missing_ok=True)
    expected = everything(opened(journal))
    assert index_of(journal).read_bytes().count(b"605a1711df7d8b5c") == 1
    storage = opened(journal)
    assert everything(storage) == expected
    trials = storage.get_all_trials(storage.get_study_id_from_name("lab"), deepcopy=False)
    parts = [t.user_attrs["result"] for t in trials if "result" in t.user_attrs]
    assert len(parts) > 50
    assert len({id(part["series"]) for part in parts}) == 1
    assert len({id(part[""]) for part in parts}) == 1
    assert len({id(part["inline"][0]) for part in parts}) == 1
    assert len({id(part["inline"]) for part in parts}) == len(parts)


@pytest.mark.usefixtures("small")
def test_ids_go_on_behind_an_index(journal: Path) -> None:
    opened(journal)
    index = index_of(journal).read_bytes()
    ours = opened(journal)
    trial = ours.create_new_trial(ours.get_study_id_from_name("lab"))
    ours.set_trial_state_values(trial, TrialState.COMPLETE, [0.0])
    study = ours.create_new_study(ours.get_study_directions(1), "later")
    theirs = JournalStorage(JournalFileBackend(str(journal)))
    assert index_of(journal).read_bytes() == index
    assert theirs.get_trial(trial).values == [0.0]
    assert theirs.get_study_id_from_name("later") == study
    assert everything(ours) == everything(theirs) == everything(opened(journal))


@pytest.mark.usefixtures("small")
def test_whatever_has_become_of_an_index_the_journal_counts(journal: Path) -> None:
    expected = everything(opened(journal))
    index = index_of(journal)
    whole = index.read_bytes()
    assert len(whole) > 1500
    for place in range(0, len(whole), 23):
        for damaged in (whole[:place], whole[:place] + b"?" + whole[place + 1 :]):
            index.write_bytes(damaged)
            assert everything(opened(journal)) == expected, place
    for forged in (b"", b"\n", b"[]\n[1,0]\n", b"[" * 100_000, b"\0" * 4096, b"{}\n[0,0]\n"):
        index.write_bytes(forged)
        assert everything(opened(journal)) == expected


def forge(index: Path) -> None:
    """Change a value, and have the checksum say so."""
    *lines, end = index.read_bytes().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if len(json.loads(line)) == 11)
    trial = json.loads(lines[place])
    trial[2] = [-1234.5]
    lines[place] = json.dumps(trial).encode() + b"\n"
    index.write_bytes(
        b"".join(lines)
        + json.dumps([json.loads(end)[0], zlib.crc32(b"".join(lines))]).encode()
        + b"\n"
    )


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(not hasattr(os, "chown") or os.geteuid() != 0, reason="only root gives away")
def test_an_index_of_somebody_who_could_not_write_the_journal_is_passed_over(
    journal: Path,
) -> None:
    storage = opened(journal)
    expected = everything(storage)
    os.chown(index_of(journal), 4711, -1)
    storage.remove_session()
    assert index_of(journal).stat().st_uid == os.geteuid()  # made anew
    forge(index_of(journal))
    assert "-1234.5" in repr(everything(opened(journal)))
    os.chown(index_of(journal), 4711, -1)
    assert everything(opened(journal)) == expected
    os.chown(journal, 4711, -1)
    forge(index_of(journal))
    assert "-1234.5" in repr(everything(opened(journal)))


@pytest.mark.usefixtures("small")
def test_an_index_of_another_journal_is_passed_over(journal: Path, tmp_path: Path) -> None:
    opened(journal)
    shorter = journal.read_bytes()
    study = JournalStudyStorage(path=journal).load_study("lab")
    study.optimize(objective, n_trials=3, catch=ValueError)
    index_of(journal).unlink()
    opened(journal)
    journal.write_bytes(shorter)  # from a backup
    expected = everything(JournalStorage(JournalFileBackend(str(journal))))
    assert everything(opened(journal)) == expected

    other = JournalStudyStorage(path=tmp_path / "other.journal")
    other.create_study("another").optimize(objective, n_trials=20, catch=ValueError)
    journal.write_bytes((tmp_path / "other.journal").read_bytes())
    assert [s.study_name for s in opened(journal).get_all_studies()] == ["another"]


@pytest.mark.usefixtures("small")
def test_where_no_index_can_be_written_nothing_is_left(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_of(journal).mkdir()
    expected = everything(JournalStorage(JournalFileBackend(str(journal))))
    assert everything(opened(journal)) == expected
    index_of(journal).rmdir()
    monkeypatch.setattr(_journal_replay.shutil, "disk_usage", lambda _: (1, 1, 0))
    assert everything(opened(journal)) == expected
    assert [path.suffix for path in journal.parent.iterdir() if "index" in path.name] == []


@pytest.mark.usefixtures("small")
def test_an_index_is_for_whoever_may_read_the_journal(journal: Path) -> None:
    journal.chmod(0o640)
    opened(journal)
    assert index_of(journal).stat().st_mode & 0o777 == 0o640


@pytest.mark.usefixtures("small")
def test_nobody_who_holds_the_lock_writes_an_index(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait for it."""
    storage = opened(journal)
    index_of(journal).unlink()
    copy = _journal_storage.FileStorage.__new__(_journal_storage.FileStorage)
    copy.__setstate__(storage.__getstate__())
    copy.set_study_user_attr(1, "first", "it writes before it reads")
    assert not index_of(journal).exists()
    assert copy.get_study_user_attrs(1)["first"]
