"""Real Redis servers of every shape: kept on disk, with users, behind TLS, in a cluster."""

from __future__ import annotations

import datetime as dt
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import redis
from servers import TcpProxy, find_redis_server, free_port, wait_until

SLOTS = 16384


def _free_port() -> int:
    """A free port, low enough for the bus of a cluster, whose port is 10,000 higher."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port - 10_000))
            except OSError:
                continue
            return port - 10_000


class RedisServer:
    """A redis-server that can be killed and started again on its port and its directory.

    Args:
        directory: for its data and its log; made if it is not there.
        *options: as on its command line: `"--maxmemory", "2mb"`.
        append_only: keeps every write on disk before it answers, so that a kill loses nothing.
        password: of the default user.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        append_only: bool = False,
        password: str | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.password = directory, password
        self.port = _free_port()
        self.unix_socket = directory / "redis.sock"
        self.log_file = directory / "redis.log"
        self.process: subprocess.Popen[bytes] | None = None
        # fmt: off
        self.command = [
            find_redis_server(), "--bind", "127.0.0.1", "--port", str(self.port),
            "--dir", str(directory), "--unixsocket", str(self.unix_socket), "--save", "",
        ]
        # fmt: on
        if append_only:
            self.command += ["--appendonly", "yes", "--appendfsync", "always"]
        if password is not None:
            self.command += ["--requirepass", password]
        self.command += options

    @property
    def url(self) -> str:
        """The URL of database 0, with the password."""
        secret = f":{self.password}@" if self.password is not None else ""
        return f"redis://{secret}127.0.0.1:{self.port}/0"

    def client(self, **options: object) -> redis.Redis:
        """A new client of the default user; close it after use."""
        return redis.Redis(port=self.port, password=self.password, **options)  # type: ignore[arg-type]

    def start(self, *, wait: bool = True) -> None:
        """Start it, and wait until it answers; without `wait`, it may still be loading."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it answers."""
        with self.client() as client:

            def answers() -> bool:
                assert self.process is not None
                if self.process.poll() is not None:
                    raise RuntimeError(f"redis-server ended:\n{self.log_file.read_text()}")
                try:
                    return bool(client.ping())
                except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                    return False

            wait_until(answers, what=f"redis-server on port {self.port} answers")

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in peace."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Let it hang: connections stand, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def redis_cluster(directory: Path, nodes: int = 3) -> Generator[str]:
    """A real Redis Cluster, each node with its share of the slots; yields its URL."""
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                RedisServer(
                    directory / str(number),
                    *("--cluster-enabled", "yes", "--cluster-node-timeout", "2000"),
                )
            )
            for number in range(nodes)
        ]
        clients = [stack.enter_context(server.client()) for server in servers]
        for number, client in enumerate(clients):
            share = range(number * SLOTS // nodes, (number + 1) * SLOTS // nodes)
            client.execute_command("CLUSTER", "ADDSLOTS", *share)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)

        def is_whole() -> bool:
            infos = [client.cluster("INFO") for client in clients]
            return all(
                info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(nodes)
                for info in infos
            )

        wait_until(is_whole, what="all nodes of the cluster know each other")
        yield f"redis+cluster://127.0.0.1:{servers[0].port}"


class SentinelSetup:
    """A primary, a replica, and a Sentinel that knows them as `lab`."""

    def __init__(self, primary: RedisServer, replica: RedisServer, sentinel_port: int) -> None:
        self.primary, self.replica, self.sentinel_port = primary, replica, sentinel_port
        self.url = f"redis+sentinel://127.0.0.1:{sentinel_port}/lab/0"

    def fail_over(self) -> None:
        """Kill the primary, and wait until the replica has taken over."""
        self.primary.kill()
        with self.replica.client() as client:
            wait_until(
                lambda: client.execute_command("ROLE")[0] == b"master",
                what="the replica takes over",
            )


@contextmanager
def redis_sentinel(directory: Path) -> Generator[SentinelSetup]:
    """A real Sentinel in front of a primary and its replica, which is in step with it."""
    with (
        RedisServer(directory / "primary") as primary,
        RedisServer(
            directory / "replica",
            *("--replicaof", "127.0.0.1", str(primary.port)),
        ) as replica,
    ):
        with replica.client() as client:
            wait_until(
                lambda: client.info("replication")["master_link_status"] == "up",
                what="the replica is in step",
            )
        port = free_port()
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor lab 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds lab 300\n"
            "sentinel failover-timeout lab 1000\n"
        )
        log_file = directory / "sentinel.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [find_redis_server(), str(config), "--sentinel"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            with redis.Redis(port=port) as sentinel:

                def knows_both() -> bool:
                    try:
                        return bool(sentinel.execute_command("SENTINEL", "REPLICAS", "lab"))
                    except redis.ConnectionError:
                        return False

                wait_until(knows_both, what="the Sentinel knows the replica")
            yield SentinelSetup(primary, replica, port)
        finally:
            process.terminate()
            process.wait(10)


class TlsProxy(TcpProxy):
    """Speaks TLS on its port and hands on to a server, as stunnel does.

    Args:
        directory: for its certificate, `ca.pem`, which it has signed itself for 127.0.0.1.
        port: of the server.
    """

    def __init__(self, directory: Path, port: int) -> None:
        super().__init__(port)
        self.certificate, key = self_signed_certificate(directory)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)

    def serve(self, client: socket.socket) -> None:
        try:
            plain = self._context.wrap_socket(client, server_side=True)
        except OSError:  # the client does not trust this certificate
            client.close()
            return
        server = socket.create_connection(("127.0.0.1", self.target))
        threading.Thread(target=_copy, args=(server, plain), daemon=True).start()
        _copy(plain, server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    finally:
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


def self_signed_certificate(directory: Path) -> tuple[Path, Path]:
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    directory.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("localhost"),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "ca.pem", directory / "key.pem"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file


def make_user(server: RedisServer, name: str, password: str, rules: Sequence[str]) -> str:
    """Make an ACL user who may do what the rules say; returns the URL that logs in as that user."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", name, "reset", "on", f">{password}", *rules)
    return f"redis://{name}:{password}@127.0.0.1:{server.port}/0"
