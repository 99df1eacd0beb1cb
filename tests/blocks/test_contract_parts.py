"""The contract's own parts do what they say, and the blocks for files keep the rows they can."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from storages_under_test import open_journal_of_one_process

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.blocks.testing import (
    Crew,
    FaultyProxy,
    StorageUnderTest,
    StudyStorageContract,
    contract_rows,
)
from prefect_optuna.blocks.testing.processes import count_studies


def open_block(url: str) -> BaseStorage:
    return as_study_storage(url).get_storage()


class RowsForFiles(StudyStorageContract):
    """Optuna's journal has no heartbeats, frees nothing, and belongs to one process."""

    test_a_storage_object_survives_a_fork: Any = None
    test_a_killed_worker_s_trial_is_tried_again: Any = None
    test_an_earlier_state_is_noticed: Any = None
    test_a_dropped_connection_changes_nothing: Any = None
    test_dropped_idle_connections_are_made_again: Any = None
    test_a_killed_server_loses_nothing: Any = None
    test_damage_is_an_error_and_no_hang: Any = None
    test_a_hostile_value_runs_no_code: Any = None
    test_delete_study_frees_everything: Any = None
    test_overwriting_an_attribute_takes_no_more_room: Any = None


class TestJournalStudyStorage(RowsForFiles):
    @pytest.fixture
    def under_test(self, tmp_path: Path) -> StorageUnderTest:
        return StorageUnderTest(partial(open_block, f"journal:///{tmp_path}/studies.journal"))


# The rows fail storages that do not keep them.


def test_a_storage_object_that_is_lost_in_a_fork_fails_the_row(tmp_path: Path) -> None:
    under_test = StorageUnderTest(
        partial(open_journal_of_one_process, tmp_path / "studies.journal")
    )
    with pytest.raises(AssertionError, match="1 of 1 processes did not do their work"):
        StudyStorageContract().test_a_storage_object_survives_a_fork(under_test)


def test_a_storage_that_no_other_process_sees_fails_the_row() -> None:
    with pytest.raises(AssertionError):
        StudyStorageContract().test_a_study_is_created_once(StorageUnderTest(InMemoryStorage))


def test_a_storage_without_heartbeats_fails_the_row(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no heartbeats"):
        StudyStorageContract().test_a_killed_worker_s_trial_is_tried_again(
            StorageUnderTest(InMemoryStorage), tmp_path
        )


def test_rows_without_their_hook_are_skipped_and_name_it(tmp_path: Path) -> None:
    contract, bare = StudyStorageContract(), StorageUnderTest(InMemoryStorage)
    for row, hook in [
        (contract.test_an_earlier_state_is_noticed, "save_state"),
        (contract.test_dropped_idle_connections_are_made_again, "server_port"),
        (partial(contract.test_a_killed_server_loses_nothing, tmp_path=tmp_path), "kill_server"),
        (partial(contract.test_a_hostile_value_runs_no_code, tmp_path=tmp_path), "damage"),
        (contract.test_delete_study_frees_everything, "stored_bytes"),
    ]:
        with pytest.raises(pytest.skip.Exception, match=hook):
            row(bare)


def test_every_row_has_a_sentence_of_its_own() -> None:
    sentences = list(contract_rows().values())
    assert all(sentence.endswith(".") for sentence in sentences)
    assert len(set(sentences)) == len(sentences) > 14


@pytest.mark.slow
def test_the_blocks_need_no_pytest() -> None:
    script = "import sys, prefect_optuna.blocks; print('pytest' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout == "False\n"


# Processes.


def raise_an_error(connect: Any, start: Any) -> None:
    raise RuntimeError("on purpose")


def end_itself(connect: Any, start: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def hang(connect: Any, start: Any) -> None:
    time.sleep(600)


@pytest.mark.parametrize(
    ("work", "sentence"),
    [
        (raise_an_error, "1 of 2 processes did not do their work(.|\n)*on purpose"),
        (end_itself, "end_itself died with code -15"),
        (hang, "hang had not ended after 1 s"),
    ],
)
def test_a_process_that_fails_dies_or_hangs_fails_the_crew(
    work: Any, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process has to find the functions of this file by its name.
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(sys.modules, "test_contract_parts", sys.modules[__name__])
    monkeypatch.setattr(work, "__module__", "test_contract_parts")
    with Crew(InMemoryStorage) as crew:
        crew.send(count_studies)
        crew.send(work)
        with pytest.raises(AssertionError, match=sentence):
            crew.answers(limit=60 if work is not hang else 1)


def test_who_is_killed_by_the_crew_has_no_answer_and_is_no_failure() -> None:
    with Crew(InMemoryStorage, together=2) as crew:
        victim = crew.send(count_studies)  # waits for a second one, which never comes
        crew.kill(victim)
        assert crew.answers() == [None]


# The network.


@pytest.fixture
def echo() -> Generator[int]:
    """The port of a server that answers every message with itself, and counts nothing."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(1024):
                    connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def say(connection: socket.socket, word: bytes) -> bytes:
    connection.sendall(word)
    return connection.recv(1024)


@pytest.mark.parametrize("what", ["request", "reply"])
def test_the_proxy_cuts_once_and_after_as_many_as_were_to_pass(what: Any, echo: int) -> None:
    with FaultyProxy(echo) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
            assert say(connection, b"a") == b"a"
            proxy.cut(what, passing=1)
            assert say(connection, b"b") == b"b"
            assert say(connection, b"c") == b""
        assert not proxy.disarm()
        with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
            assert say(connection, b"d") == b"d"


def test_the_proxy_drops_what_is_open_and_takes_new_connections(echo: int) -> None:
    with FaultyProxy(echo) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
            assert say(connection, b"a") == b"a"
            proxy.drop_connections()
            assert connection.recv(1024) == b""
        with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
            assert say(connection, b"b") == b"b"
