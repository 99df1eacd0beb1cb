"""Artifacts on a local disk: whole under kill -9, links, full disks, names."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from filesystems import BAD_PATHS
from hypothesis import given
from hypothesis import strategies as st

from prefect_optuna.blocks import ArtifactFileSystem, StorageUnavailableError
from prefect_optuna.errors import InvalidSettingError


@pytest.fixture
def local(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "root"))


CLAIM = """
import sys
from prefect_optuna.blocks import ArtifactFileSystem
artifacts = ArtifactFileSystem(url=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(sum(artifacts.create(f"claims/{n}", sys.argv[2].encode()) for n in range(200)), flush=True)
"""


@pytest.mark.slow
def test_one_of_many_processes_creates(child, local: ArtifactFileSystem) -> None:
    with ExitStack() as stack:
        children = [stack.enter_context(child(CLAIM, local.url, str(n))) for n in range(4)]
        for process in children:
            process.stdin.write("go\n")
            process.stdin.flush()
        won = [int(process.stdout.readline()) for process in children]
    assert sum(won) == 200
    owners = [int(local.read_path(path)) for path in local.glob("claims/*")]
    assert [owners.count(n) for n in range(4)] == won
    assert len(list(Path(local.url).rglob("*"))) == 201, "a temporary file was left"


OVERWRITE = """
import sys
from prefect_optuna.blocks import ArtifactFileSystem
artifacts = ArtifactFileSystem(url=sys.argv[1])
print("ready", flush=True)
for n in range(10**9):
    artifacts.write_path("dir/big", bytes([n % 256]) * 5_000_000)
    print("written", flush=True)
"""


@pytest.mark.slow
def test_readers_and_a_killed_writer_see_whole_content_only(
    child, local: ArtifactFileSystem
) -> None:
    local.write_path("dir/big", b"\0" * 5_000_000)
    for _ in range(3):
        with child(OVERWRITE, local.url) as writer:
            for _ in range(10):
                writer.stdout.readline()
                content = local.read_path("dir/big")  # in the middle of the next write
                assert content == content[:1] * 5_000_000
            writer.kill()
            writer.wait()
        content = local.read_path("dir/big")
        assert content == content[:1] * 5_000_000
    assert local.ls("dir") == ["dir/big"]
    assert local.glob("**") == ["dir/big"]


def test_unfinished_writes_are_in_no_listing(local: ArtifactFileSystem) -> None:
    local.write_path("dir/a", b"")
    (Path(local.url) / "dir" / ".tmp-0123").touch()
    (Path(local.url) / ".tmp-0123").touch()
    assert local.ls() == ["dir"]
    assert local.ls("dir") == ["dir/a"]
    assert local.glob("**") == ["dir/a"]


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(
    local: ArtifactFileSystem,
) -> None:
    local.write_path("dir/a", b"old")
    with pytest.raises(TypeError):
        local.write_path("dir/a", "text")  # type: ignore[arg-type]
    assert local.read_path("dir/a") == b"old"
    assert [path.name for path in Path(local.location("dir")).iterdir()] == ["a"]


def test_a_link_that_leads_out_of_the_root_is_refused(
    local: ArtifactFileSystem, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    root = Path(local.url)
    root.mkdir()
    (root / "inside").mkdir()
    (root / "dir").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    (root / "alias").symlink_to(root / "inside")
    for act in (
        lambda: local.read_path("file"),
        lambda: local.read_path("dir/secret"),
        lambda: local.write_path("dir/new", b""),
        lambda: local.create("dir/new", b""),
        lambda: local.ls("dir"),
        lambda: local.rm("dir", recursive=True),
        lambda: local.rm("dir/secret"),
        lambda: local.copy("file", "copy"),
        lambda: local.exists("dir/secret"),
    ):
        with pytest.raises(InvalidSettingError, match="leads out of"):
            act()
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert "dir/secret" not in local.glob("**")
    local.write_path("alias/a", b"fine")
    assert local.read_path("inside/a") == b"fine"


def test_a_root_behind_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    artifacts = ArtifactFileSystem(url=str(tmp_path / "link"))
    artifacts.write_path("dir/a", b"1")
    (tmp_path / "real" / "alias").symlink_to("dir")
    assert artifacts.read_path("alias/a") == b"1"


def test_a_root_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    artifacts = ArtifactFileSystem(url=str(tmp_path / "file" / "root"))
    for act in (artifacts.check, lambda: artifacts.write_path("a", b"")):
        with pytest.raises(StorageUnavailableError, match="name another one") as caught:
            act()
        assert artifacts.url in str(caught.value)


# The nearest to a full disk that needs no disk: the kernel refuses to write beyond 1,000 bytes.
FULL_DISK = """
import resource, signal, sys
from prefect_optuna.blocks import ArtifactFileSystem, StorageUnavailableError
artifacts = ArtifactFileSystem(url=sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
print("ready", flush=True)
try:
    artifacts.write_path("a", b"x" * 5000)
except StorageUnavailableError as error:
    print(error, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_is_full_leaves_the_old_content(child, local: ArtifactFileSystem) -> None:
    local.write_path("a", b"old")
    with child(FULL_DISK, local.url) as writer:
        assert "File too large" in writer.stdout.readline()
    assert local.read_path("a") == b"old"
    assert [path.name for path in Path(local.url).iterdir()] == ["a"]


def test_a_relative_root_is_made_absolute_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    artifacts = ArtifactFileSystem(url="root")
    monkeypatch.chdir("/")
    artifacts.write_path("a", b"1")
    assert (tmp_path / "root" / "a").read_bytes() == b"1"
    assert artifacts.location("a") == str(tmp_path / "root" / "a")


def test_options_are_secret_and_not_for_a_folder() -> None:
    artifacts = ArtifactFileSystem(url="memory://x", options={"key": "hunter2"})
    assert "hunter2" not in f"{artifacts} {artifacts!r} {artifacts.model_dump_json()}"
    with pytest.raises(ValueError, match="takes no options") as caught:
        ArtifactFileSystem(url="folder", options={"key": "hunter2"})
    assert "hunter2" not in str(caught.value)


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


NAMES = st.text(st.sampled_from("ab./\\\0-~:*é"), max_size=12) | st.sampled_from(
    [path for path in BAD_PATHS if isinstance(path, str)]
)


@given(path=NAMES)
def test_a_path_is_refused_or_stays_inside_the_root(sandbox: Path, path: str) -> None:
    artifacts = ArtifactFileSystem(url=str(sandbox / "root"))
    try:
        artifacts.write_path(path, b"content")
    except InvalidSettingError:
        assert [entry.name for entry in sandbox.iterdir()] in ([], ["root"])
        return
    assert artifacts.read_path(path) == b"content"
    place = Path(artifacts.location(path))
    assert place.is_file()
    assert place.resolve().is_relative_to(sandbox / "root")
    assert artifacts.glob("**") == [path]
    assert [entry.name for entry in sandbox.iterdir()] == ["root"]
    artifacts.rm(path.partition("/")[0], recursive=True)
