"""Prefect's own command makes every block of the package known to a server."""

import subprocess
import sys

import pytest
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client

from prefect_optuna import blocks

SLUGS = {
    "artifact-file-system",
    "grpc-study-storage",
    "in-memory-study-storage",
    "journal-study-storage",
    "redis-study-storage",
    "sql-study-storage",
}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_every_block_is_registered() -> None:
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "prefect_optuna.blocks"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

    exported = [getattr(blocks, name) for name in blocks.__all__]
    concrete = [
        value
        for value in exported
        if isinstance(value, type) and issubclass(value, Block) and not value.__abstractmethods__
    ]
    assert {block.get_block_type_slug() for block in concrete} >= SLUGS
    with get_client(sync_client=True) as client:
        for block in concrete:
            registered = client.read_block_type_by_slug(block.get_block_type_slug())
            assert registered.name == block.get_block_type_name()
            assert block.get_block_type_name() in result.stdout
