"""Artifacts are whole, where they were put, and never outside of the root."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    ArtifactNotFoundError,
    ArtifactPathError,
    StorageUnavailableError,
)


@pytest.fixture(params=["local", "memory"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactFileSystem:
    if request.param == "local":
        return ArtifactFileSystem(url=str(tmp_path / "root"))
    return ArtifactFileSystem(url=f"memory://{uuid4()}")


@pytest.fixture
def local(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "root"))


def test_what_is_written_is_read(artifacts: ArtifactFileSystem) -> None:
    content = os.urandom(3_000_000)
    artifacts.write_path("trials/3/w.npy", content)
    assert artifacts.read_path("trials/3/w.npy") == content
    assert artifacts.sha256("trials/3/w.npy") == hashlib.sha256(content).hexdigest()
    with artifacts.open("trials/3/w.npy") as file:
        file.seek(10)
        assert file.read(5) == content[10:15]


def test_a_write_replaces_what_was_there(artifacts: ArtifactFileSystem) -> None:
    artifacts.write_path("a", b"long content")
    artifacts.write_path("a", b"")
    assert artifacts.read_path("a") == b""


def test_the_engine_s_keyword_is_accepted(artifacts: ArtifactFileSystem) -> None:
    artifacts.write_path("a", b"1", _sync=True)
    assert artifacts.read_path("a", _sync=True) == b"1"


def test_two_readers_have_positions_of_their_own(artifacts: ArtifactFileSystem) -> None:
    artifacts.write_path("a", b"12345")
    with artifacts.open("a") as first, artifacts.open("a") as second:
        assert (first.read(3), second.read(3), first.read()) == (b"123", b"123", b"45")


def test_only_reading_is_opened(artifacts: ArtifactFileSystem) -> None:
    with pytest.raises(ValueError, match="write_path"):
        artifacts.open("a", "wb")  # type: ignore[arg-type]


def test_what_is_missing_is_an_error_that_says_where(artifacts: ArtifactFileSystem) -> None:
    artifacts.write_path("dir/a", b"")
    for act in (
        artifacts.read_path,
        artifacts.open,
        artifacts.sha256,
        artifacts.rm,
        lambda path: artifacts.copy(path, "b"),
    ):
        with pytest.raises(ArtifactNotFoundError) as caught:
            act("dir/missing")
        assert "'dir/missing'" in str(caught.value)
        assert artifacts.location() in str(caught.value)
        assert isinstance(caught.value, FileNotFoundError)
    assert not artifacts.exists("dir/missing")
    assert artifacts.ls("missing") == []
    assert artifacts.glob("missing/*") == []


def test_an_empty_root_has_nothing(artifacts: ArtifactFileSystem) -> None:
    assert artifacts.ls() == []
    assert artifacts.glob("**") == []


def test_listings_are_sorted_paths_that_can_be_passed_back(artifacts: ArtifactFileSystem) -> None:
    for path in ("b/2", "b/1", "a", "b/c/3.png", "[x]*"):
        artifacts.write_path(path, path.encode())
    assert artifacts.ls() == ["[x]*", "a", "b"]
    assert artifacts.ls("b") == ["b/1", "b/2", "b/c"]
    assert artifacts.ls("a") == ["a"]
    for path in artifacts.glob("**"):
        assert artifacts.read_path(path) == path.encode()


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("trials/*/w.npy", ["trials/0/w.npy", "trials/1/w.npy"]),
        ("trials/[0]/*", ["trials/0/w.npy"]),
        ("trials/?/w.npy", ["trials/0/w.npy", "trials/1/w.npy"]),
        ("*", ["top.png"]),
        ("**/*.png", ["top.png", "trials/1/plots/fit.png"]),
        ("trials/**", ["trials/0/w.npy", "trials/1/plots/fit.png", "trials/1/w.npy"]),
        ("top.png", ["top.png"]),
        ("trials", []),
        ("*.PNG", []),
    ],
)
def test_glob(artifacts: ArtifactFileSystem, pattern: str, matches: list[str]) -> None:
    for path in ("trials/0/w.npy", "trials/1/w.npy", "trials/1/plots/fit.png", "top.png"):
        artifacts.write_path(path, b"")
    assert artifacts.glob(pattern) == matches


def test_a_bad_pattern_is_an_error(artifacts: ArtifactFileSystem) -> None:
    for pattern in ("a**", "../*", "/*", ""):
        with pytest.raises(ArtifactPathError):
            artifacts.glob(pattern)


def test_create_writes_once(artifacts: ArtifactFileSystem) -> None:
    assert artifacts.create("deep/a", b"first")
    assert not artifacts.create("deep/a", b"second")
    assert artifacts.read_path("deep/a") == b"first"
    assert artifacts.glob("**") == ["deep/a"]


def test_one_of_many_threads_creates(artifacts: ArtifactFileSystem) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(20):
            claims = pool.map(lambda n, path=f"a/{number}": artifacts.create(path, b"x"), range(8))
            assert sum(claims) == 1


CLAIM = """
import sys
from prefect_optuna.blocks import ArtifactFileSystem
artifacts = ArtifactFileSystem(url=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(sum(artifacts.create(f"claims/{n}", sys.argv[2].encode()) for n in range(200)), flush=True)
"""


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


def test_rm_removes_a_file_and_a_directory_only_when_asked(artifacts: ArtifactFileSystem) -> None:
    for path in ("dir/a", "dir/b/c", "d*", "other"):
        artifacts.write_path(path, b"")
    artifacts.rm("d*")
    assert artifacts.glob("**") == ["dir/a", "dir/b/c", "other"]
    with pytest.raises(ArtifactPathError, match="recursive=True"):
        artifacts.rm("dir")
    artifacts.rm("dir", recursive=True)
    assert artifacts.glob("**") == ["other"]
    artifacts.rm("other", recursive=True)
    assert artifacts.glob("**") == []
    with pytest.raises(ArtifactPathError, match="empty"):
        artifacts.rm("", recursive=True)


def test_copy_replaces_the_target(artifacts: ArtifactFileSystem) -> None:
    artifacts.write_path("a", b"new")
    artifacts.write_path("dir/b", b"old")
    artifacts.copy("a", "dir/b")
    assert artifacts.read_path("dir/b") == artifacts.read_path("a") == b"new"
    artifacts.copy("a", "deep/er/c")
    assert artifacts.read_path("deep/er/c") == b"new"


def test_a_file_is_no_directory_and_a_directory_no_file(artifacts: ArtifactFileSystem) -> None:
    artifacts.write_path("dir/a", b"1")
    for act in (
        lambda: artifacts.write_path("dir", b"2"),
        lambda: artifacts.write_path("dir/a/b", b"2"),
        lambda: artifacts.create("dir/a/b", b"2"),
        lambda: artifacts.copy("dir/a", "dir"),
    ):
        with pytest.raises(ArtifactPathError, match="Cannot write"):
            act()
    assert not artifacts.create("dir", b"2")
    assert not artifacts.exists("dir")
    assert not artifacts.exists("dir/a/b")
    with pytest.raises((ArtifactPathError, ArtifactNotFoundError)):
        artifacts.read_path("dir")
    with pytest.raises(ArtifactNotFoundError):
        artifacts.read_path("dir/a/b")
    assert artifacts.glob("**") == ["dir/a"]
    assert artifacts.read_path("dir/a") == b"1"


BAD_PATHS = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./a",
    "a//b",
    "a/",
    "a\0b",
    "a\\b",
    "..\\x",
    "C:x",
    "C:/x",
    "x" * 256,
    "ä" * 128,
    "a/" * 512 + "b",
    ".tmp-x",
    "a/.tmp-x",
    "\ud800",
    None,
    Path("a"),
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=repr)
def test_a_bad_path_is_refused_everywhere(artifacts: ArtifactFileSystem, path: str) -> None:
    artifacts.write_path("a", b"1")
    acts = [
        artifacts.read_path,
        artifacts.open,
        artifacts.exists,
        artifacts.sha256,
        artifacts.rm,
        lambda path: artifacts.write_path(path, b"x"),
        lambda path: artifacts.create(path, b"x"),
        lambda path: artifacts.copy("a", path),
        lambda path: artifacts.copy(path, "b"),
    ]
    if path:  # an empty path means the root
        acts += [artifacts.ls, artifacts.location]
    for act in acts:
        with pytest.raises(ArtifactPathError, match="is no artifact path") as caught:
            act(path)
        assert repr(path) in str(caught.value)


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
        with pytest.raises(ArtifactPathError, match="leads out of"):
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


def test_check_leaves_nothing(artifacts: ArtifactFileSystem) -> None:
    artifacts.check()
    assert artifacts.ls() == []
    if "://" not in artifacts.url:
        assert list(Path(artifacts.url).iterdir()) == []


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


def test_a_pickled_block_reaches_the_same_artifacts(local: ArtifactFileSystem) -> None:
    local.write_path("a", b"1")
    again = pickle.loads(pickle.dumps(local))
    assert again == local
    assert again.read_path("a") == b"1"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sandbox")


NAMES = st.text(st.sampled_from("ab./\\\0-~:*é"), max_size=12) | st.sampled_from(
    [path for path in BAD_PATHS if isinstance(path, str)]
)


@settings(deadline=None)
@given(path=NAMES)
def test_a_path_is_refused_or_stays_inside_the_root(sandbox: Path, path: str) -> None:
    artifacts = ArtifactFileSystem(url=str(sandbox / "root"))
    try:
        artifacts.write_path(path, b"content")
    except ArtifactPathError:
        assert [entry.name for entry in sandbox.iterdir()] in ([], ["root"])
        return
    assert artifacts.read_path(path) == b"content"
    place = Path(artifacts.location(path))
    assert place.is_file()
    assert place.resolve().is_relative_to(sandbox / "root")
    assert artifacts.glob("**") == [path]
    assert [entry.name for entry in sandbox.iterdir()] == ["root"]
    artifacts.rm(path.partition("/")[0], recursive=True)


class ArtifactsAgreeWithADict(RuleBasedStateMachine):
    """Files `f…` lie in directories `d…`, so that no path is both."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.artifacts = ArtifactFileSystem(url=f"{self.url}/{uuid4()}")
        self.model: dict[str, bytes] = {}

    paths = Bundle("paths")
    contents = st.binary(max_size=8)

    @rule(
        target=paths,
        directories=st.lists(st.sampled_from(["d", "d*", "dé"]), max_size=2),
        name=st.sampled_from(["f", "f[x]", "f.png"]),
    )
    def path(self, directories: list[str], name: str) -> str:
        return "/".join([*directories, name])

    @rule(path=paths, content=contents)
    def write(self, path: str, content: bytes) -> None:
        self.artifacts.write_path(path, content)
        self.model[path] = content

    @rule(path=paths, content=contents)
    def create(self, path: str, content: bytes) -> None:
        assert self.artifacts.create(path, content) == (path not in self.model)
        self.model.setdefault(path, content)

    @rule(path=paths)
    def rm(self, path: str) -> None:
        if self.model.pop(path, None) is not None:
            self.artifacts.rm(path)
        else:
            with pytest.raises(ArtifactNotFoundError):
                self.artifacts.rm(path)

    @rule(path=paths)
    def rm_directory(self, path: str) -> None:
        directory = path.rpartition("/")[0]
        inside = [other for other in self.model if other.startswith(f"{directory}/")]
        if directory and inside:
            self.artifacts.rm(directory, recursive=True)
            for other in inside:
                del self.model[other]

    @rule(source=paths, destination=paths)
    def copy(self, source: str, destination: str) -> None:
        if source in self.model:
            self.artifacts.copy(source, destination)
            self.model[destination] = self.model[source]
        else:
            with pytest.raises(ArtifactNotFoundError):
                self.artifacts.copy(source, destination)

    @rule(path=paths)
    def read(self, path: str) -> None:
        assert self.artifacts.exists(path) == (path in self.model)
        if path in self.model:
            assert self.artifacts.read_path(path) == self.model[path]

    @rule(path=paths)
    def ls(self, path: str) -> None:
        directory = path.rpartition("/")[0]
        start = f"{directory}/" if directory else ""
        children = {
            start + other[len(start) :].partition("/")[0]
            for other in self.model
            if other.startswith(start)
        }
        listed = set(self.artifacts.ls(directory))
        assert children <= listed
        # A local directory stays when its last file has gone.
        assert not any(self.artifacts.exists(other) for other in listed - children)

    @invariant()
    def the_artifacts_are_those_of_the_model(self) -> None:
        assert self.artifacts.glob("**") == sorted(self.model)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_artifacts_agree_with_a_dict(kind: str, tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    class Machine(ArtifactsAgreeWithADict):
        url = str(tmp_path) if kind == "local" else "memory://machine"

    run_state_machine_as_test(
        Machine, settings=settings(max_examples=40, stateful_step_count=20, deadline=None)
    )
