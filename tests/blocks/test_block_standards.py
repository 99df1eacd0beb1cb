"""Prefect's own bar for blocks, and a round trip through a real server."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prefect import flow, task
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import SecretStr

from prefect_optuna import blocks
from prefect_optuna.blocks import (
    ArtifactFileSystem,
    GrpcStudyStorage,
    InMemoryStudyStorage,
    JournalStudyStorage,
    RedisStudyStorage,
    SQLStudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)

BLOCKS = [
    ArtifactFileSystem,
    GrpcStudyStorage,
    InMemoryStudyStorage,
    JournalStudyStorage,
    RedisStudyStorage,
    SQLStudyStorage,
]
SLUGS = {
    "artifact-file-system",
    "grpc-study-storage",
    "in-memory-study-storage",
    "journal-study-storage",
    "redis-study-storage",
    "sql-study-storage",
}

# Prefect's client leaves its sockets open when the event loop of an async flow ends.
LEAKY_CLIENT = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.mark.parametrize("block", BLOCKS)
class TestBlockStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        return request.param

    # The original opens the URL, and tests use no network. Its other rules are checked here.
    def test_has_a_valid_image(self, block: type[Block]) -> None:
        url = urlsplit(str(block._logo_url))
        assert url.scheme == "https"
        assert url.hostname == "avatars.githubusercontent.com"
        assert "s=200" in url.query

    def test_its_link_leads_to_a_page_of_the_site(self, block: type[Block]) -> None:
        url = urlsplit(str(block._documentation_url))
        assert url.hostname == "prefect-optuna.github.io"
        page = url.path.removeprefix("/prefect-optuna/").replace(".html", ".md")
        assert (Path(__file__).parents[2] / "deployments" / "site" / page).is_file()


def test_the_slugs_are_the_documented_ones() -> None:
    assert {block.get_block_type_slug() for block in BLOCKS} == SLUGS


def test_every_block_of_the_package_is_exported_and_tested_here() -> None:
    exported = [getattr(blocks, name) for name in blocks.__all__]
    concrete = {b for b in exported if Block.is_block_class(b) and not inspect.isabstract(b)}
    assert concrete == set(BLOCKS)


def test_public_names_are_sorted_and_there() -> None:
    assert blocks.__all__ == sorted(blocks.__all__)
    assert all(hasattr(blocks, name) for name in blocks.__all__)


def test_importing_the_blocks_imports_nothing_heavy() -> None:
    code = (
        "import prefect, optuna, sys; before = set(sys.modules); import prefect_optuna.blocks;"
        "heavy = {'sqlalchemy', 'alembic', 'grpc', 'google.protobuf', 'pandas', 'pyarrow',"
        " 'matplotlib', 'scipy', 'filelock'};"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.usefixtures("prefect_server")
class TestThroughAServer:
    @pytest.mark.slow
    def test_the_command_line_registers_every_block(self) -> None:
        command = ["-m", "prefect", "block", "register", "-m", "prefect_optuna.blocks"]
        result = subprocess.run([sys.executable, *command], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert "Successfully registered 6 blocks" in result.stdout

    @pytest.mark.parametrize(
        "block",
        [
            SQLStudyStorage(
                url="postgresql://me:se%40cret@db.example.org/studies",
                engine_options={"pool_size": 3, "connect_args": {"sslmode": "require"}},
                heartbeat_interval=60,
            ),
            JournalStudyStorage(path="studies.journal", lock="open"),
            InMemoryStudyStorage(name="shared"),
            GrpcStudyStorage(host="proxy.example.org", port=1234, timeout=2.5),
            RedisStudyStorage(
                url="rediss://redis.example.org/2",
                username="lab",
                password="hunter2",
                write_mode="fast",
                heartbeat_interval=60,
                tls_ca_file="ca.pem",
            ),
        ],
        ids=lambda block: type(block).__name__,
    )
    def test_a_saved_storage_is_loaded_as_it_was(self, block: Block) -> None:
        block.save("round-trip", overwrite=True)
        loaded = as_study_storage(f"{block.get_block_type_slug()}/round-trip")
        assert type(loaded) is type(block)
        assert loaded.model_dump() == block.model_dump()
        assert loaded.location == block.location

    def test_a_saved_filesystem_is_loaded_as_it_was(self) -> None:
        block = ArtifactFileSystem(url="some/folder")
        block.save("round-trip", overwrite=True)
        loaded = as_artifact_filesystem("artifact-file-system/round-trip")
        assert loaded.model_dump() == block.model_dump()

    @pytest.mark.parametrize(
        "block",
        [
            SQLStudyStorage(
                url="postgresql://me:hunter2@host/db",
                engine_options={"connect_args": {"p": "s3cr3t"}},
            ),
            RedisStudyStorage(url="redis://me:hunter2@host"),
            RedisStudyStorage(
                url="rediss+sentinel://host/lab",
                username="me",
                password="hunter2",
                tls_key_password="s3cr3t",
                sentinel_password="s3cr3t",
            ),
        ],
        ids=["SQL", "a Redis URL", "Redis"],
    )
    def test_the_server_masks_what_is_secret(self, block: Block) -> None:
        block.save("masked", overwrite=True)
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            document = client.read_block_document_by_name(
                "masked", block.get_block_type_slug(), include_secrets=False
            )
        assert "hunter2" not in str(document.data)
        assert "s3cr3t" not in str(document.data)

    @LEAKY_CLIENT
    def test_a_block_is_loaded_by_name_in_a_sync_and_in_an_async_flow(self) -> None:
        InMemoryStudyStorage(name="in a flow").save("in-a-flow", overwrite=True)

        @flow
        def sync_flow() -> str:
            return as_study_storage("in-memory-study-storage/in-a-flow").location

        @flow
        async def async_flow() -> str:
            return as_study_storage("in-memory-study-storage/in-a-flow").location

        assert sync_flow() == asyncio.run(async_flow()) == "memory://in a flow"

    def test_a_name_that_is_not_saved_is_an_error_that_says_where_to_look(self) -> None:
        with pytest.raises(blocks.StorageUnavailableError, match="prefect block ls"):
            as_study_storage("sql-study-storage/never-saved")

    @LEAKY_CLIENT
    @pytest.mark.parametrize("url", ["folder", "memory://results"])
    def test_results_are_kept_where_result_storage_says(
        self, url: str, tmp_path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        artifacts = ArtifactFileSystem(url=url)
        artifacts.save("results", overwrite=True)

        @task(result_storage=artifacts, result_serializer="json", persist_result=True)
        def sync_task() -> str:
            return "sync result"

        @task(result_storage=artifacts, result_serializer="json", persist_result=True)
        async def async_task() -> str:
            return "async result"

        @flow
        def sync_flow() -> str:
            return sync_task(return_state=True).result()

        @flow
        async def async_flow() -> str:
            return await (await async_task(return_state=True)).aresult()

        assert sync_flow() == "sync result"
        assert asyncio.run(async_flow()) == "async result"
        stored = b"".join(artifacts.read_path(path) for path in artifacts.glob("**"))
        assert b"sync result" in stored
        assert b"async result" in stored


@pytest.mark.parametrize(
    "block",
    [
        SQLStudyStorage(url=SecretStr("mysql://me:hunter2@host/db"), timeout=3),
        JournalStudyStorage(path="studies.journal"),
        InMemoryStudyStorage(name="shared"),
        GrpcStudyStorage(port=1234),
        RedisStudyStorage(
            url=SecretStr("redis+sentinel://host/lab"), sentinel_password=SecretStr("hunter2")
        ),
        ArtifactFileSystem(url="memory://x", options={"some": "thing"}),
    ],
    ids=lambda block: type(block).__name__,
)
def test_a_pickled_block_is_equal_with_its_secrets(block: Block) -> None:
    again = pickle.loads(pickle.dumps(block))
    assert again == block
    assert again.model_dump() == block.model_dump()
