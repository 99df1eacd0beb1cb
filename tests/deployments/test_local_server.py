"""`LocalServer`, with real servers in homes of their own."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import psutil
import pytest
from prefect import flow, task
from prefect.client.orchestration import SyncPrefectClient
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.settings import get_current_settings, temporary_settings
from servers import free_port, prefect_home, wait_until

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.deployments import LocalServer, ServerUnavailableError
from prefect_optuna.flows.temporary_server import BACKGROUND_HOME, prefect_command


@task
def increment(x: int) -> int:
    return x + 1


@flow
def forty_increments() -> UUID:
    for x in range(40):
        increment(x)
    context = FlowRunContext.get()
    assert context
    assert context.flow_run
    return context.flow_run.id


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for the module."""
    return prefect_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def no_heartbeat() -> Generator[None]:
    with temporary_settings({"flows.heartbeat_frequency": None}):
        yield


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("no_heartbeat")
def test_the_history_of_a_flow_that_just_ended_survives_a_restart(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with LocalServer(home) as server:
        flow_run_id = forty_increments()
        # More than the server can have taken in when the block ends.
        for _ in range(2000):
            emit_event("test.tick", resource={"prefect.resource.id": "test"})
    assert server.pid is None
    assert server.port is None
    assert "Still processing" not in caplog.text, "it waits, and warns nobody of it"

    with LocalServer(home) as server:
        server.wait_for_task_runs(flow_run_id, 40, timeout=0)
        with SyncPrefectClient(server.api_url) as client:
            assert client.read_flow_run(flow_run_id).state_name == "Completed"
            ticks = {"filter": {"event": {"name": ["test.tick"]}}, "limit": 1}
            assert client.request("POST", "/events/filter", json=ticks).json()["total"] == 2000
        with pytest.raises(ServerUnavailableError, match=r"expected 41 .* found 40 after"):
            server.wait_for_task_runs(flow_run_id, 41, timeout=0)
    assert server.log_file.read_text().strip() == ""


@pytest.mark.slow
def test_a_log_line_of_the_last_moment_is_kept(home: Path) -> None:
    flow_run_id = uuid4()
    with LocalServer(home):
        # It waits in this process for up to two seconds, to be sent with others.
        logging.getLogger("prefect.flow_runs").info("last", extra={"flow_run_id": flow_run_id})
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        query = "SELECT message FROM log WHERE flow_run_id = ?"
        assert database.execute(query, [str(flow_run_id)]).fetchall() == [("last",)]


@pytest.mark.slow
def test_this_process_and_its_children_talk_to_it_inside_the_block_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "of-another-server")
    before, api_url_before = dict(os.environ), get_current_settings().api.url
    script = "from prefect.settings import get_current_settings as s; print(s().api.url, s().home)"
    port = free_port()
    with LocalServer(home, port) as server:
        assert server.url == f"http://127.0.0.1:{port}"
        assert get_current_settings().api.url == server.api_url
        assert get_current_settings().api.key is None
        child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert child.stdout.split() == [server.api_url, str(home)]
        assert is_listening(port)
    assert not is_listening(port)
    assert dict(os.environ) == before
    assert get_current_settings().api.url == api_url_before


@pytest.mark.slow
def test_a_second_server_on_the_same_home_is_refused_with_the_address_of_the_first(
    home: Path,
) -> None:
    with LocalServer(home) as server:
        with pytest.raises(ServerUnavailableError) as refused, LocalServer(home):
            pass
        assert server.url in str(refused.value)
        assert f"pid {server.pid}" in str(refused.value)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ServerUnavailableError, match=rf"expected port {port} .* to be free"):
            LocalServer(tmp_path, port).__enter__()


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(ServerUnavailableError, match=f"expected port {port}"):
        LocalServer(tmp_path, port).__enter__()


def test_a_home_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PrefectOptunaError, match=r"expected .*/file/home to be a folder"):
        LocalServer(tmp_path / "file" / "home").__enter__()


@pytest.mark.slow
def test_a_server_that_ends_while_starting_shows_the_end_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_text("This is no database. " * 100)
    with pytest.raises(ServerUnavailableError, match="file is not a database"):
        LocalServer(tmp_path).__enter__()
    assert not (tmp_path / "server.json").exists()


@pytest.mark.slow
def test_a_home_of_a_later_prefect_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "prefect.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        database.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
        database.commit()
    with pytest.raises(ServerUnavailableError, match=r"version .*ffffffffffff") as refused:
        LocalServer(tmp_path).__enter__()
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_an_error_in_the_block_stops_the_server_and_goes_through(home: Path) -> None:
    server = LocalServer(home)
    processes: list[psutil.Process] = []

    def fail_inside() -> None:
        with server:
            processes.append(psutil.Process(server.pid))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert not processes[0].is_running()


def test_a_server_has_no_address_before_it_is_started(tmp_path: Path) -> None:
    server = LocalServer(tmp_path)
    assert repr(server) == f"LocalServer(home={str(tmp_path)!r}, stopped)"
    with pytest.raises(ServerUnavailableError, match="before it is started"):
        _ = server.url


@pytest.mark.heavy
def test_when_its_program_is_killed_the_server_takes_in_what_it_was_sent_and_stops(
    home: Path,
) -> None:
    program = f"""
from prefect.settings import temporary_settings
from prefect_optuna.deployments import LocalServer
from prefect_optuna.deployments.local_server import _send_pending
import importlib.util, time
spec = importlib.util.spec_from_file_location("flows_of_the_test", {__file__!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
no_heartbeat = temporary_settings({{"flows.heartbeat_frequency": None}})
with LocalServer({str(home)!r}) as server, no_heartbeat:
    flow_run_id = module.forty_increments()
    _send_pending()
    print(server.pid, flow_run_id, flush=True)
    time.sleep(100)
"""
    tests = str(Path(__file__).parents[1])
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": tests, "PREFECT_LOGGING_LEVEL": "ERROR"},
    ) as child:
        assert child.stdout
        pid, flow_run_id = child.stdout.readline().split()
        orphan = psutil.Process(int(pid))
        child.send_signal(signal.SIGKILL)
    wait_until(lambda: not orphan.is_running(), what="the orphaned server stops")

    with LocalServer(home) as server:
        server.wait_for_task_runs(flow_run_id, 40, timeout=0)


@pytest.mark.slow
def test_a_leftover_server_is_stopped_by_the_next_start(home: Path) -> None:
    with LocalServer(home) as first:
        record = json.loads((home / "server.json").read_text())
        assert record["pid"] == first.pid
    # Like a server whose program is dead, it ends when its input does.
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as leftover:
        assert leftover.stdin
        leftover.stdin.close()
        record |= {"pid": leftover.pid, "started": psutil.Process(leftover.pid).create_time()}
        (home / "server.json").write_text(json.dumps(record))
        with LocalServer(home):
            assert not psutil.pid_exists(leftover.pid)


@pytest.mark.heavy
def test_a_process_that_got_the_pid_of_a_leftover_server_is_let_alone(home: Path) -> None:
    bystander = psutil.Process()
    record = {"pid": bystander.pid, "started": bystander.create_time() - 1, "url": "http://x"}
    (home / "server.json").write_text(json.dumps(record))
    with LocalServer(home):
        assert bystander.is_running()


def test_commands_of_prefect_name_the_server_that_only_we_look_for(
    prefect_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert prefect_command("deployment", "ls") == "prefect deployment ls"
    home = tmp_path / BACKGROUND_HOME
    home.mkdir(parents=True)
    (home / "server.json").write_text(json.dumps({"url": prefect_server.url}), encoding="utf-8")
    named = f"PREFECT_API_URL={prefect_server.url}/api prefect deployment ls"
    assert prefect_command("deployment", "ls") == named
    with temporary_settings({"api.url": "http://elsewhere:4200/api"}):
        assert prefect_command("deployment", "ls") == "prefect deployment ls"
    monkeypatch.setenv("PREFECT_API_URL", f"{prefect_server.url}/api")
    assert prefect_command("deployment", "ls") == "prefect deployment ls"
