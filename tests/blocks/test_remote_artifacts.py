"""Artifacts behind a network: failures of every kind, credentials, and those who use them."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from urllib.request import urlopen
from uuid import uuid4
from wsgiref.simple_server import WSGIRequestHandler, make_server

import fsspec
import optuna
import pytest
from filesystems import gcs_filesystem, s3_filesystem, s3_options, sftp_filesystem
from optuna_dashboard import wsgi
from prefect import flow, task
from prefect.cache_policies import INPUTS
from servers import FaultyNetwork, free_port, s3_server, sftp_server

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    StorageUnavailableError,
    as_artifact_filesystem,
)
from prefect_optuna.blocks.stores.local import LocalStore
from prefect_optuna.blocks.stores.opening import RetryingStore
from prefect_optuna.errors import InvalidSettingError, StorageNotFoundError, StoragePermissionError


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


@pytest.fixture
def s3(s3_server: str) -> ArtifactFileSystem:
    return s3_filesystem(s3_server)


def through(
    network: FaultyNetwork, artifacts: ArtifactFileSystem, **options: object
) -> ArtifactFileSystem:
    """The same artifacts, by way of a bad network."""
    given = artifacts.options.get_secret_value()
    options = {**given, "endpoint_url": f"http://127.0.0.1:{network.port}", **options}
    return ArtifactFileSystem(url=artifacts.url, options=options)


def test_a_network_that_fails_for_a_moment_is_asked_again(
    s3: ArtifactFileSystem, s3_server: str
) -> None:
    s3.write_path("a", b"old")
    content = os.urandom(300_000)
    with FaultyNetwork(port_of(s3_server), cut_requests=2, after=100_000) as network:
        through(network, s3).write_path("a", content)
        assert network.cut_requests == 0
    assert s3.read_path("a") == content
    assert s3.glob("**") == ["a"]


def test_a_network_that_goes_in_the_middle_of_a_write_leaves_the_old_content(
    s3: ArtifactFileSystem, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_optuna.blocks.stores.opening._ATTEMPTS", 2)
    s3.write_path("a", b"old")
    with FaultyNetwork(port_of(s3_server), cut_requests=10**6, after=100_000) as network:
        far = through(network, s3)
        acts: list[Callable[[], object]] = [
            lambda: far.write_path("a", os.urandom(300_000)),
            lambda: far.create("b", os.urandom(300_000)),
        ]
        for act in acts:
            with pytest.raises(StorageUnavailableError, match="nothing has been left half written"):
                act()
        file = far.open("a", "wb")
        file.write(os.urandom(300_000))
        with pytest.raises(StorageUnavailableError):
            file.close()
    assert s3.read_path("a") == b"old"
    assert s3.glob("**") == ["a"]


def test_a_creation_whose_reply_is_lost_is_recognized(
    s3: ArtifactFileSystem, s3_server: str
) -> None:
    with FaultyNetwork(port_of(s3_server), cut_replies=1) as network:
        assert through(network, s3).create("claim", b"mine")
        assert network.cut_replies == 0
    assert not s3.create("claim", b"mine")
    with FaultyNetwork(port_of(s3_server)) as network:
        # A connection of its own, or the first request would use one that is open already.
        file = through(network, s3, username=None).open("by parts", "xb")
        file.write(b"mine")
        network.cut_replies = 1
        file.close()
        assert network.cut_replies == 0
    assert s3.read_path("by parts") == b"mine"


@pytest.mark.heavy
def test_a_creation_on_gcs_whose_reply_is_lost_is_recognized(gcs_server: str) -> None:
    gcs = gcs_filesystem(gcs_server)
    with FaultyNetwork(port_of(gcs_server), cut_replies=1, of=b"POST") as network:
        assert through(network, gcs).create("claim", b"mine")
        assert network.cut_replies == 0
    assert not gcs.create("claim", b"mine")


def test_a_removal_whose_reply_is_lost_is_done(s3: ArtifactFileSystem, s3_server: str) -> None:
    s3.write_path("a", b"")
    with FaultyNetwork(port_of(s3_server), cut_replies=1, of=b"DELETE") as network:
        through(network, s3).rm("a")
        assert network.cut_replies == 0
    assert not s3.exists("a")


class LosesTheFirstReply(LocalStore):
    """A disk behind a network that fails once, after the work is done: S3's client hides this."""

    lost = False

    def rm(self, path: str, recursive: bool) -> None:
        super().rm(path, recursive)
        if not self.lost:
            self.lost = True
            raise ConnectionResetError


def test_a_repeated_removal_that_finds_nothing_is_done_and_a_first_one_is_an_error(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").touch()
    connected = LosesTheFirstReply(str(tmp_path))
    store = RetryingStore("sftp://host/x", lambda: connected)
    store.rm("a", False)
    assert connected.lost
    assert not (tmp_path / "a").exists()
    with pytest.raises(FileNotFoundError):
        store.rm("a", False)


def test_a_server_that_is_gone_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_optuna.blocks.stores.opening._ATTEMPTS", 2)
    gone = f"http://127.0.0.1:{free_port()}"
    artifacts = ArtifactFileSystem(url="s3://tests/x", options=s3_options(gone))
    acts: list[Callable[[], object]] = [
        artifacts.check,
        artifacts.ls,
        lambda: artifacts.read_path("a"),
        lambda: artifacts.exists("a"),
        lambda: artifacts.glob("**"),
    ]
    for act in acts:
        with pytest.raises(StorageUnavailableError, match="a server that answers") as caught:
            act()
        assert gone in str(caught.value)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(StorageUnavailableError):
        ArtifactFileSystem(url=f"sftp://lab@127.0.0.1:{free_port()}/x").check()


def test_a_bucket_that_is_not_there_is_an_error_of_its_own(s3_server: str) -> None:
    artifacts = ArtifactFileSystem(url="s3://nobody-s/x", options=s3_options(s3_server))
    acts: list[Callable[[], object]] = [
        artifacts.check,
        artifacts.ls,
        lambda: artifacts.read_path("a"),
        lambda: artifacts.open("a").read(),
        lambda: artifacts.write_path("a", b""),
        lambda: artifacts.create("a", b""),
        lambda: artifacts.rm("a"),
        lambda: artifacts.copy("a", "b"),
    ]
    for act in acts:
        with pytest.raises(StorageNotFoundError, match="Make the bucket") as caught:
            act()
        assert "s3://nobody-s/x" in str(caught.value)
        assert isinstance(caught.value, FileNotFoundError)


def test_missing_permission_is_an_error_of_its_own_and_is_not_asked_again(tmp_path: Path) -> None:
    with s3_server(tmp_path, INITIAL_NO_AUTH_ACTION_COUNT="1") as url:
        options = s3_options(url)
        fsspec.filesystem("s3", **options).call_s3("create_bucket", Bucket="tests")
        with FaultyNetwork(port_of(url)) as network:
            options["endpoint_url"] = f"http://127.0.0.1:{network.port}"
            artifacts = ArtifactFileSystem(url="s3://tests/x", options=options)
            started = time.monotonic()
            for act in (artifacts.check, artifacts.ls, lambda: artifacts.write_path("a", b"")):
                with pytest.raises(StoragePermissionError, match="credentials") as caught:
                    act()
                assert isinstance(caught.value, PermissionError)
                assert "hunter2" not in str(caught.value)
            assert time.monotonic() - started < 5


def test_another_writer_s_artifacts_are_seen_at_once(
    s3: ArtifactFileSystem, s3_server: str
) -> None:
    assert s3.ls() == []
    other = fsspec.filesystem("s3", **s3_options(s3_server), skip_instance_cache=True)
    other.pipe_file(f"{s3.url[5:]}/a", b"1")
    assert (s3.ls(), s3.exists("a"), s3.info("a").size) == (["a"], True, 1)
    other.pipe_file(f"{s3.url[5:]}/a", b"22")
    other.pipe_file(f"{s3.url[5:]}/b", b"")
    assert (s3.ls(), s3.glob("*"), s3.info("a").size) == (["a", "b"], ["a", "b"], 2)


FORK = """
import json, multiprocessing, sys
from prefect_optuna.blocks import ArtifactFileSystem
artifacts = ArtifactFileSystem(url=sys.argv[1], options=json.loads(sys.stdin.read()))
artifacts.write_path("parent", b"1")
child = multiprocessing.get_context("fork").Process(
    target=lambda: artifacts.write_path("child", artifacts.read_path("parent"))
)
child.start()
child.join(20)
child.kill()
print(artifacts.glob("*"))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork"
)
def test_a_forked_process_has_connections_of_its_own(s3: ArtifactFileSystem) -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORK, s3.url],
        input=json.dumps(s3.options.get_secret_value()),
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "['child', 'parent']", result.stderr


WITHOUT_S3FS = """
import sys
sys.modules["s3fs"] = None  # what Python itself does for a module that cannot be imported
from prefect_optuna.blocks import ArtifactFileSystem
ArtifactFileSystem(url="s3://bucket/x").check()
"""


@pytest.mark.slow
def test_a_client_that_is_not_installed_is_named_with_the_command_that_installs_it() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_S3FS], capture_output=True, text=True, check=False
    )
    assert 'pip install "prefect-optuna[s3]"' in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://", "bucket"),
        ("s3:///a", "bucket"),
        ("s3://key:secret@bucket/x", "options"),
        ("s3://key:hunter2", "options"),
        ("sftp://lab:hunter2/x", "no valid URL"),
        ("s3://bucket/x?versionId=1", "query"),
        ("s3://bucket/a/../b", "part '..'"),
        ("sftp://host", "absolute path"),
        ("sftp://host:port/x", "no valid URL"),
        ("sftp://lab:hunter2@host/x", "options"),
        ("ftp://host/x", "not supported"),
        ("https://host/x", "not supported"),
    ],
)
def test_a_bad_url_is_an_error_that_keeps_its_secrets(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        as_artifact_filesystem(url)
    assert "hunter2" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_roots_are_written_in_one_way() -> None:
    for url, root in {
        "s3://bucket": "s3://bucket",
        "s3://bucket/": "s3://bucket",
        "s3://bucket/a/b/": "s3://bucket/a/b",
        "gs://bucket/a": "gs://bucket/a",
        "abfs://container@account.dfs.core.windows.net/a/": (
            "abfs://container@account.dfs.core.windows.net/a"
        ),
        "sftp://lab@host:22/a/": "sftp://lab@host:22/a",
    }.items():
        artifacts = as_artifact_filesystem(url)
        assert artifacts.url == root
        assert artifacts.location("b") == f"{root}/b"


def test_secrets_are_in_no_text(s3: ArtifactFileSystem) -> None:
    assert "hunter2" not in f"{s3!r} {s3} {s3.model_dump_json()} {s3.location('a')}"


@pytest.fixture
def sftp_root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_a_wrong_password_and_an_unknown_server_are_refused(
    sftp_server: tuple[int, Path], sftp_root: Path
) -> None:
    nobody_s = sftp_root.parent / "known_hosts"
    nobody_s.touch()
    for options in ({"password": "wrong"}, {"known_hosts": str(nobody_s)}):
        with pytest.raises(StoragePermissionError):
            sftp_filesystem(sftp_server, sftp_root, **options).check()
    assert not sftp_root.exists()


def test_the_servers_one_knows_are_asked_for_unless_options_say_otherwise(
    sftp_server: tuple[int, Path], sftp_root: Path
) -> None:
    port, _ = sftp_server
    artifacts = ArtifactFileSystem(
        url=f"sftp://lab@127.0.0.1:{port}{sftp_root}", options={"password": "hunter2"}
    )
    with pytest.raises(StoragePermissionError):
        artifacts.check()


def test_links_on_a_server_lead_nowhere_else(
    sftp_server: tuple[int, Path], sftp_root: Path
) -> None:
    artifacts = sftp_filesystem(sftp_server, sftp_root)
    outside = sftp_root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    artifacts.write_path("inside/a", b"1")
    (sftp_root / "dir").symlink_to(outside)
    (sftp_root / "file").symlink_to(outside / "secret")
    (sftp_root / "alias").symlink_to("inside")
    acts: list[Callable[[], object]] = [
        lambda: artifacts.read_path("file"),
        lambda: artifacts.open("dir/secret"),
        lambda: artifacts.info("file"),
        lambda: artifacts.exists("file"),
        lambda: artifacts.write_path("dir/new/deep", b""),
        lambda: artifacts.create("dir/new", b""),
        lambda: artifacts.ls("dir"),
        lambda: artifacts.glob("dir/*"),
        lambda: artifacts.rm("dir", recursive=True),
        lambda: artifacts.copy("file", "copy"),
    ]
    for act in acts:
        with pytest.raises(InvalidSettingError, match="leads out of"):
            act()
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert artifacts.read_path("alias/a") == b"1"


def test_what_a_killed_writer_has_left_on_a_server_is_swept(
    sftp_server: tuple[int, Path], sftp_root: Path
) -> None:
    artifacts = sftp_filesystem(sftp_server, sftp_root)
    artifacts.write_path("dir/a", b"")
    (sftp_root / "dir" / ".tmp-0123").touch()
    assert artifacts.glob("**") == ["dir/a"]
    assert artifacts.ls("dir") == ["dir/a"]
    assert artifacts.sweep() == [], "it may belong to a writer that is at work"
    assert artifacts.sweep(timedelta(0), dry_run=True) == ["dir/.tmp-0123"]
    assert artifacts.sweep(timedelta(0)) == ["dir/.tmp-0123"]
    assert [path.name for path in (sftp_root / "dir").iterdir()] == ["a"]


def test_a_connection_that_is_cut_is_made_again(tmp_path: Path, sftp_root: Path) -> None:
    with sftp_server(tmp_path) as (port, known_hosts), FaultyNetwork(port) as network:
        known_hosts.write_text(known_hosts.read_text().replace(str(port), str(network.port)))
        artifacts = sftp_filesystem((network.port, known_hosts), sftp_root)
        artifacts.write_path("a", b"1")
        network.cut_replies = 1
        assert artifacts.read_path("a") == b"1"
        assert network.connections == 2


def test_results_of_tasks_are_kept(s3: ArtifactFileSystem, prefect_server: object) -> None:
    name = f"s3-{uuid4().hex[:8]}"
    s3.save(name, _sync=True)
    calls: list[int] = []

    @task(
        result_storage=f"artifact-file-system/{name}",
        result_serializer="json",
        persist_result=True,
        cache_policy=INPUTS,
    )
    def square(x: int) -> int:
        calls.append(x)
        return x * x

    @flow
    def squares() -> list[int]:
        return [square(3), square(3)]

    assert squares() == [9, 9]
    assert calls == [3]
    assert len(s3.glob("**")) == 1


@pytest.fixture
def dashboard(s3: ArtifactFileSystem) -> Generator[tuple[str, optuna.Study]]:
    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    with make_server(
        "127.0.0.1", 0, wsgi(storage, artifact_store=s3), handler_class=Quiet
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", study
        server.shutdown()
        thread.join()


def test_optuna_dashboard_shows_artifacts(
    dashboard: tuple[str, optuna.Study], s3: ArtifactFileSystem, tmp_path: Path
) -> None:
    url, study = dashboard
    (tmp_path / "note.txt").write_text("a good start")
    trial = study.ask()
    artifact_id = optuna.artifacts.upload_artifact(
        artifact_store=s3, file_path=str(tmp_path / "note.txt"), study_or_trial=trial
    )
    study.tell(trial, 0.0)
    with urlopen(f"{url}/artifacts/{study._study_id}/{trial._trial_id}/{artifact_id}") as reply:
        assert reply.read() == b"a good start"
