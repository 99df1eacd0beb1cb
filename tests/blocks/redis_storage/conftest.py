"""A storage in a namespace of its own, on the server that the tests share."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest

from prefect_optuna.blocks.redis_storage import RedisStorage


@pytest.fixture
def namespace() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def open_storage(redis_server: str, namespace: str) -> Generator[Callable[..., RedisStorage]]:
    """Opens storages in one namespace, and closes them."""
    with ExitStack() as stack:

        def opened(url: Any = redis_server, **options: Any) -> RedisStorage:
            options = {"namespace": namespace, "retry_limit": 5.0, **options}
            return stack.enter_context(RedisStorage(url, **options))

        yield partial(opened)
