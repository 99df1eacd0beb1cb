"""Which storages pass which row of the contract: prints the table of blocks/README.md.

Optuna's own storages are taken as they come. A row is `yes` if the storage passes it in all its
variants, and three times where processes race, `no` if not, and `—` if it makes no sense for the
storage, such as killing the server of a file. Below the table stands why each `no` is one. It
takes some ten minutes, most of them PostgreSQL's; leave the machine alone meanwhile.

    python tests/benchmarks/conformance.py [-k PostgreSQL]
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
import storages_under_test as storages
from redis_servers import RedisServer

from prefect_optuna.blocks.testing import StorageUnderTest, StudyStorageContract, contract_rows


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), append_only=True) as server:
        yield server


@pytest.fixture(scope="module")
def postgresql() -> Generator[storages.PostgresServer]:
    # As root, its server runs as another user, from whom every new run of pytest takes the
    # permission to look into pytest's own folders.
    with (
        tempfile.TemporaryDirectory(prefix="postgresql-") as folder,
        storages.PostgresServer(Path(folder)) as server,
    ):
        yield server


class TestRedisBuffered(StudyStorageContract):
    @pytest.fixture
    def under_test(self, redis_server: RedisServer) -> StorageUnderTest:
        return storages.redis_storage(redis_server)


class TestRedisStrict(StudyStorageContract):
    @pytest.fixture
    def under_test(self, redis_server: RedisServer) -> StorageUnderTest:
        return storages.redis_storage(redis_server, write_mode="strict")


class TestOurJournal(StudyStorageContract):
    @pytest.fixture
    def under_test(self, tmp_path: Path) -> StorageUnderTest:
        return storages.our_journal(tmp_path)


class TestJournalRedis(StudyStorageContract):
    @pytest.fixture
    def under_test(self, redis_server: RedisServer) -> StorageUnderTest:
        return storages.journal_redis(redis_server)


class TestJournalFile(StudyStorageContract):
    @pytest.fixture
    def under_test(self, tmp_path: Path) -> StorageUnderTest:
        return storages.journal_file(tmp_path)


class TestSQLite(StudyStorageContract):
    @pytest.fixture
    def under_test(self, tmp_path: Path) -> StorageUnderTest:
        return storages.sqlite(tmp_path)


class TestPostgreSQL(StudyStorageContract):
    @pytest.fixture
    def under_test(self, postgresql: storages.PostgresServer) -> StorageUnderTest:
        return postgresql.new_database()


class TestGRPC(StudyStorageContract):
    @pytest.fixture
    def under_test(self, tmp_path: Path) -> Generator[StorageUnderTest]:
        with storages.grpc(tmp_path) as under_test:
            yield under_test


COLUMNS = {
    "Redis, buffered": TestRedisBuffered,
    "Redis, strict": TestRedisStrict,
    "a journal, ours": TestOurJournal,
    "JournalRedis": TestJournalRedis,
    "JournalFile": TestJournalFile,
    "SQLite": TestSQLite,
    "PostgreSQL": TestPostgreSQL,
    "gRPC": TestGRPC,
}


ATTEMPTS = 3
RACES = (
    "test_enqueued_trials_are_popped_once",
    "test_a_study_is_created_once",
    "test_a_storage_object_survives_a_fork",
    "test_a_killed_worker_s_trial_is_tried_again",
    "test_a_mixed_load_under_random_kills_has_a_true_history",
    "test_dropped_idle_connections_are_made_again",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat what may go well by luck."""
    if metafunc.function.__name__ in RACES:
        metafunc.fixturenames.append("attempt")
        metafunc.parametrize("attempt", range(ATTEMPTS))


class Outcomes:
    """A plugin for pytest that keeps how each row went."""

    def __init__(self) -> None:
        self.of: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.why: dict[tuple[str, str], str] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        _, storage, row = item.nodeid.split("::")
        if "failed" in self.of[storage, row.partition("[")[0]]:
            pytest.skip("it has failed before")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, storage, row = report.nodeid.split("::")
        place = (storage, row.partition("[")[0])
        if report.when == "call" or report.failed:  # a row skips itself in its call
            self.of[place].add(report.outcome if report.when == "call" else f"{report.when} failed")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash else str(report.longrepr)
            lines = [line for line in text.splitlines() if line.strip()]
            ends = [lines[0], lines[-1] if "did not do their work" in text else "".join(lines[1:2])]
            self.why.setdefault(place, " ".join(ends).strip()[:300])

    def cell(self, storage: str, row: str) -> str:
        """What the table says."""
        outcomes = self.of[storage, row]
        if "failed" in outcomes:
            return "no"
        if outcomes & {"setup failed", "teardown failed"}:
            return "?"  # the test bed is broken, not the storage
        if "passed" in outcomes:
            return "yes"
        return "—" if outcomes else ""


def main() -> None:
    """Run the contract on all storages, and print the table."""
    outcomes = Outcomes()
    options = ["-q", "--tb=no", "-rN", "-p", "no:cacheprovider", "-W", "ignore", "--timeout=150"]
    pytest.main([__file__, *options, *sys.argv[1:]], plugins=[outcomes])
    print("\n<!-- conformance -->")
    print("|", *(f" {name} |" for name in ["", *COLUMNS]), sep="")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for row, sentence in contract_rows().items():
        cells = [outcomes.cell(storage.__name__, row) for storage in COLUMNS.values()]
        print(f"| {sentence} |", *(f" {cell} |" for cell in cells), sep="")
    print("<!-- conformance -->\n")
    for (storage, row), why in outcomes.why.items():
        print(f"{storage.removeprefix('Test')}: {contract_rows()[row]} {why}")


if __name__ == "__main__":
    main()
