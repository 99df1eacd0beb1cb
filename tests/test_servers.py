"""The servers that the tests use are the real ones."""

from pathlib import Path

import psutil
import pytest
import redis
from playwright.sync_api import Page
from servers import find_redis_server

from prefect_optuna.deployments import LocalServer


def test_the_redis_server_is_a_real_process_of_ours(redis_server: str) -> None:
    with redis.Redis.from_url(redis_server) as client:
        info = client.info("server")
    process = psutil.Process(info["process_id"])
    assert process.parent() == psutil.Process()
    assert Path(process.exe()).samefile(find_redis_server())
    mode = info.get("redis_mode") or info["server_mode"]  # of Redis, of Valkey
    assert mode == "standalone"


@pytest.mark.slow
def test_the_browser_shows_the_prefect_server_s_ui(prefect_server: LocalServer, page: Page) -> None:
    page.goto(prefect_server.url)
    page.get_by_role("link", name="Runs").first.wait_for()
