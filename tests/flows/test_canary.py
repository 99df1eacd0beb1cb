"""A secret is put wherever a user can put one, and is found nowhere afterwards."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import pickle
import sqlite3
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, quote_plus

import canary_places
import cloudpickle
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from canary import Canary
from redis_servers import RedisServer
from servers import azure_server, sftp_server
from storages_under_test import PostgresServer

from prefect_optuna.deployments import LocalServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set"),
    pytest.mark.timeout(480),
]

PLACES = Path(canary_places.__file__)
PARTS = 2
PATIENCE = 400  # seconds; a busy machine takes its time
PROBLEM = """
from prefect_optuna.flows import Problem

def suggest(trial):
    return {"x": trial.suggest_float("x", 0, 1)}

def run(params):
    return params["x"] ** 2

problem = Problem(suggest=suggest, run=run)
"""


class Planted:
    """What is left when the secret has been put everywhere.

    Args:
        folder: the working directory, with the home and the temporary folder of the program.
        canary: the secret.
        mark: what is no secret, and has gone the same ways.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary, self.mark = Canary(), Canary(f"mark{token_hex(6)}")
        self.outcomes: dict[str, str] = {}
        self.redis: list[tuple[str, list[Any]]] = []
        self.postgresql: list[tuple[str, list[Any]]] = []
        self.server_home = Path()


@pytest.fixture(scope="module")
def planted(
    prefect_server: LocalServer, s3_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Planted]:
    """Runs the program."""
    planted = Planted(tmp_path_factory.mktemp("canary"))
    with ExitStack() as stack:
        # A folder of pytest's may be closed to other users, as one of which root's PostgreSQL runs.
        others = Path(stack.enter_context(TemporaryDirectory()))
        others.chmod(0o711)
        redis = stack.enter_context(
            RedisServer(others / "redis", password=planted.canary.secret("redis"))
        )
        postgresql = stack.enter_context(PostgresServer(others / "postgresql"))
        sftp_port, known_hosts = stack.enter_context(
            sftp_server(others, planted.canary.secret("sftp"))
        )
        (blobs := planted.folder / "azure").mkdir()
        key = base64.b64encode(planted.canary.secret("azure").encode()).decode()
        azure = stack.enter_context(azure_server(blobs, f"canary:{key}"))
        inputs = write_inputs(others / "inputs", planted.canary.secret("sources"))
        settings = {
            "core": planted.canary.core,
            "mark": planted.mark.core,
            "postgresql": postgresql.port,
            "redis": redis.port,
            "s3": s3_server,
            "sftp": sftp_port,
            "known_hosts": str(known_hosts),
            "azure": azure,
            "inputs": str(inputs),
        }
        run_program(planted, settings)
        with redis.client() as client:
            for key in client.scan_iter():
                planted.redis.append(("keys", [key, client.dump(key)]))
        planted.postgresql = rows_of_postgresql(postgresql.port)
        planted.server_home = prefect_server.home
        yield planted


def write_inputs(folder: Path, secret: str) -> Path:
    """A repository, and packages that were installed from URLs, with a secret everywhere."""
    (repository := folder / "repository").mkdir(parents=True)
    (repository / "canary_problem.py").write_text(PROBLEM, encoding="utf-8")
    (repository / "notes.py").write_text("URL = None\n", encoding="utf-8")
    plain = quote(secret, safe="")
    for command in (
        ("init", "--quiet", "--initial-branch", "main"),
        ("remote", "add", "origin", f"https://oauth2:{plain}@example.org/lab.git"),
        ("remote", "add", "other", f"https://{plain}@example.org/lab.git"),
        ("add", "."),
        ("-c", "user.name=lab", "-c", "user.email=lab", "commit", "--quiet", "-m", "first"),
    ):
        subprocess.run(["git", *command], cwd=repository, check=True)
    changed = f"URL = 'https://oauth2:{plain}@example.org'\n"
    (repository / "notes.py").write_text(changed, encoding="utf-8")
    vcs = {"vcs_info": {"vcs": "git", "commit_id": "0" * 40}}
    records = [
        {"url": f"https://example.org/x.whl?private_token={plain}", "archive_info": {}},
        {"url": f"https://example.org/x.whl?se=1&sig={plain}#x={plain}", "archive_info": {}},
        {"url": f"ssh://git:{plain}@example.org/x.git", **vcs},
        {"url": f"https://{plain}@example.org/x.git", **vcs},
        {"url": f"https://oauth2:{plain}@example.org/x.git", "subdirectory": "x", **vcs},
        {"url": f"https://me:/{secret}@example.org/x.git", **vcs},
        {"url": f"https:/me:{plain}@example.org/x.git", **vcs},
        {"url": f"file:///x?token={plain}", "dir_info": {}},
    ]
    for number, record in enumerate(records):
        (info := folder / f"site/canary_{number}-1.0.dist-info").mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: canary-{number}\nVersion: 1.0\n", encoding="utf-8")
        (info / "direct_url.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def run_program(planted: Planted, settings: dict[str, Any]) -> None:
    """Run the program in its folder, twice at once, each with half of the places."""
    for name in ("home", "tmp", "work"):
        (planted.folder / name).mkdir()
    environment = {
        **os.environ,
        "HOME": str(planted.folder / "home"),
        "PREFECT_HOME": str(planted.folder / "home/prefect"),
        "TMPDIR": str(planted.folder / "tmp"),
        "PYTHONPATH": f"{settings['inputs']}/site",
        "COLUMNS": "1000",  # or a terminal's lines would cut the secret into pieces
        "MY_TOKEN": planted.canary.secret("variable"),
        "MY_DATABASE": f"postgresql://me:{quote(planted.canary.secret('login'), safe='')}@host/db",
    }
    with ExitStack() as stack:
        started: list[subprocess.Popen[bytes]] = []
        for part in range(PARTS):
            said = stack.enter_context((planted.folder / f"said-{part}.txt").open("wb"))
            program = subprocess.Popen(
                [sys.executable, str(PLACES), str(planted.folder / f"outcomes-{part}.json")],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                cwd=planted.folder / "work",
                env=environment,
            )
            started.append(program)
            stack.callback(program.wait)
            stack.callback(program.kill)
            assert program.stdin is not None
            with program.stdin as given:  # no file has the secret in it
                given.write(json.dumps({**settings, "part": part}).encode())
        for part, program in enumerate(started):
            code = program.wait(PATIENCE)
            text = (planted.folder / f"said-{part}.txt").read_text(encoding="utf-8")
            assert code == 0, text[-3000:]
            outcomes = planted.folder / f"outcomes-{part}.json"
            planted.outcomes |= json.loads(outcomes.read_text(encoding="utf-8"))


def rows_of_postgresql(port: int) -> list[tuple[str, list[Any]]]:
    """All that is in its database."""
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    found: list[tuple[str, list[Any]]] = []
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()
            found += [(table, list(row)) for row in rows]
    return found


@pytest.mark.heavy  # a minute and more
def test_each_place_takes_the_secret_or_refuses_it_as_it_says(planted: Planted) -> None:
    expected = {name: outcome for name, (outcome, _) in canary_places.PLACES.items()}
    assert planted.outcomes == expected


@pytest.mark.heavy
def test_the_secret_is_in_no_file_and_in_nothing_that_the_program_said(planted: Planted) -> None:
    assert planted.mark.found_in_files(planted.folder)
    assert planted.canary.found_in_files(planted.folder) == []


@pytest.mark.heavy
def test_the_secret_is_not_on_the_server_nor_in_its_log(planted: Planted) -> None:
    assert planted.mark.found_in_files(planted.server_home)
    assert planted.canary.found_in_files(planted.server_home) == []


@pytest.mark.heavy
def test_the_secret_is_not_in_redis(planted: Planted) -> None:
    assert planted.mark.found_in_rows(planted.redis, "Redis")
    assert planted.canary.found_in_rows(planted.redis, "Redis") == []


@pytest.mark.heavy
def test_the_secret_is_not_in_postgresql(planted: Planted) -> None:
    assert planted.mark.found_in_rows(planted.postgresql, "PostgreSQL")
    assert planted.canary.found_in_rows(planted.postgresql, "PostgreSQL") == []


def _base64(secret: str, before: str) -> bytes:
    return base64.b64encode(f"{before}{secret}.".encode())


def _zip(secret: str) -> bytes:
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("note.txt", secret)
    with zipfile.ZipFile(outer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.zip", inner.getvalue())
    return outer.getvalue()


def _arrow(secret: str) -> bytes:
    file = io.BytesIO()
    table = pa.table({"x": [secret]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)
    return file.getvalue()


def _sqlite(secret: str) -> bytes:
    with TemporaryDirectory() as folder, closing(sqlite3.connect(f"{folder}/x")) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute("CREATE TABLE t (x)")
        # Long enough to be cut into pages, in the middle of it.
        database.execute("INSERT INTO t VALUES (?)", ("x" * 450 + secret * 40,))
        database.commit()
        return Path(folder, "x").read_bytes()


@pytest.mark.parametrize(
    "encode",
    [
        str.encode,
        str.upper,
        partial(quote, safe=""),
        quote_plus,
        lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
        json.dumps,
        lambda secret: json.dumps(json.dumps({"x": secret})),
        repr,
        lambda secret: secret.encode("utf-16"),
        lambda secret: np.array([secret]).tobytes(),
        lambda secret: secret.encode().hex(),
        lambda secret: secret.encode().hex().upper(),
        partial(_base64, before=""),
        partial(_base64, before="x"),
        partial(_base64, before="xx"),
        lambda secret: base64.urlsafe_b64encode(f"?>{secret}".encode()),
        lambda secret: base64.encodebytes(b"x" * 50 + secret.encode()),
        lambda secret: base64.b64encode(_base64(secret, "x")),
        lambda secret: base64.b64encode(cloudpickle.dumps({"x": secret})),
        pickle.dumps,
        lambda secret: gzip.compress(secret.encode()),
        lambda secret: zlib.compress(secret.encode()),
        _zip,
        _arrow,
        _sqlite,
    ],
)
@pytest.mark.parametrize("place", ["a", "ab", "abc"])
def test_the_search_finds_the_secret_however_it_is_written(
    encode: Callable[[str], str | bytes], place: str, tmp_path: Path
) -> None:
    canary = Canary()
    written = encode(canary.secret(place))
    content = written.encode() if isinstance(written, str) else written
    (tmp_path / "file").write_bytes(content)
    assert canary.found_in_files(tmp_path)
    assert Canary().found_in_files(tmp_path) == []


def test_the_search_finds_the_secret_in_names_of_files_and_in_rows(tmp_path: Path) -> None:
    canary = Canary()
    (tmp_path / canary.core).touch()
    assert canary.found_in_files(tmp_path)
    assert canary.found_in_rows([("t", (1, None, {"x": canary.core}))], "database")
    assert canary.found_in_rows([("t", (1, canary.core.encode()))], "database")
    assert not canary.found_in_rows([("t", (1, "x", b"y", None))], "database")
