"""RedisStorage keeps Optuna's contract and the one beyond it; peers keep what the README says."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from redis_servers import RedisServer
from storages_under_test import redis_storage

from prefect_optuna.blocks.testing import StorageUnderTest, StudyStorageContract, contract_rows

README = Path(__file__).resolve().parents[3] / "blocks" / "README.md"
STORAGES = ["Redis, buffered", "Redis, strict", "a journal, ours", "JournalRedis", "JournalFile"]
STORAGES += ["SQLite", "PostgreSQL", "gRPC"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), append_only=True) as server:
        yield server


class TestBuffered(StudyStorageContract):
    @pytest.fixture
    def under_test(self, server: RedisServer) -> StorageUnderTest:
        return redis_storage(server)


class OnlyCheapRows(StudyStorageContract):
    """What does not differ between the write modes is proved in one of them."""

    test_enqueued_trials_are_popped_once: Any = None
    test_a_study_is_created_once: Any = None
    test_a_killed_worker_s_trial_is_tried_again: Any = None
    test_a_mixed_load_under_random_kills_has_a_true_history: Any = None
    test_a_killed_server_loses_nothing: Any = None
    test_damage_is_an_error_and_no_hang: Any = None
    test_a_hostile_value_runs_no_code: Any = None


class TestStrict(OnlyCheapRows):
    @pytest.fixture
    def under_test(self, server: RedisServer) -> StorageUnderTest:
        return redis_storage(server, write_mode="strict")


class TestFast(OnlyCheapRows):
    # What it reads may be a millisecond old, and so what this row would compare with.
    test_a_dropped_connection_changes_nothing: Any = None

    @pytest.fixture
    def under_test(self, server: RedisServer) -> StorageUnderTest:
        return redis_storage(server, write_mode="fast")


def test_the_readme_s_table_has_the_rows_and_the_columns_of_the_contract() -> None:
    table = re.findall(r"^\|(.*)\|$", README.read_text().split("<!-- conformance -->")[1], re.M)
    header, _, *rows = [[cell.strip() for cell in line.split("|")] for line in table]
    assert header[1:] == STORAGES
    assert [row[0] for row in rows] == list(contract_rows().values())
    assert all(set(row[1:]) <= {"yes", "no", "—"} for row in rows)
    assert all(row[1] == "yes" for row in rows)
