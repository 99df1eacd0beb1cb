"""Optuna's own tests for storages, in each write mode."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from typing import Any

import pytest
from optuna.testing.pytest_storages import StorageTestCase

from prefect_optuna.blocks.redis_storage import RedisStorage


class TestRedisStorageAsOptunaWantsIt(StorageTestCase):
    @pytest.fixture(params=["buffered", "strict", "fast"])
    def storage(self, redis_server: str, request: pytest.FixtureRequest) -> Generator[Any]:
        with RedisStorage(
            redis_server, namespace=uuid.uuid4().hex, write_mode=request.param
        ) as storage:
            yield storage
