"""Artifacts are whole, where they were put, and never outside of the root: on every backend."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import optuna
import pytest
from filesystems import (
    BAD_PATHS,
    azure_filesystem,
    gcs_filesystem,
    s3_filesystem,
    sftp_filesystem,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from prefect.results import ResultRecord, ResultRecordMetadata
from prefect.serializers import JSONSerializer

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.errors import AlreadyExistsError, InvalidSettingError, PathNotFoundError


class ArtifactFileSystemContract:
    """What holds for every kind of filesystem; a subclass has the fixture `artifacts`."""

    examples = 40

    def test_what_is_written_is_read(self, artifacts: ArtifactFileSystem) -> None:
        content = os.urandom(3_000_000)
        artifacts.write_path("trials/3/w.npy", content)
        assert artifacts.read_path("trials/3/w.npy") == content
        assert artifacts.sha256("trials/3/w.npy") == hashlib.sha256(content).hexdigest()
        with artifacts.open("trials/3/w.npy") as file:
            file.seek(10)
            assert file.read(5) == content[10:15]

    def test_a_write_replaces_what_was_there(self, artifacts: ArtifactFileSystem) -> None:
        artifacts.write_path("a", b"long content")
        artifacts.write_path("a", b"")
        assert artifacts.read_path("a") == b""

    def test_the_engine_s_keyword_is_accepted(self, artifacts: ArtifactFileSystem) -> None:
        # It reads results with it, which have to be plain JSON.
        metadata = ResultRecordMetadata(serializer=JSONSerializer(), storage_key="a")
        record = ResultRecord(result=[1.5], metadata=metadata)
        artifacts.write_path("a", record.serialize(), _sync=True)
        assert ResultRecord.deserialize(artifacts.read_path("a", _sync=True)).result == [1.5]

    def test_two_readers_have_positions_of_their_own(self, artifacts: ArtifactFileSystem) -> None:
        artifacts.write_path("a", b"12345")
        with artifacts.open("a") as first, artifacts.open("a") as second:
            assert (first.read(3), second.read(3), first.read()) == (b"123", b"123", b"45")

    def test_what_is_missing_is_an_error_that_says_where(
        self, artifacts: ArtifactFileSystem
    ) -> None:
        artifacts.write_path("dir/a", b"")
        for act in (
            artifacts.read_path,
            artifacts.open,
            artifacts.sha256,
            artifacts.rm,
            lambda path: artifacts.copy(path, "b"),
        ):
            with pytest.raises(PathNotFoundError) as caught:
                act("dir/missing")
            assert "'dir/missing'" in str(caught.value)
            assert artifacts.location() in str(caught.value)
            assert isinstance(caught.value, FileNotFoundError)
        assert not artifacts.exists("dir/missing")
        assert artifacts.ls("missing") == []
        assert artifacts.glob("missing/*") == []

    def test_an_empty_root_has_nothing(self, artifacts: ArtifactFileSystem) -> None:
        assert artifacts.ls() == []
        assert artifacts.glob("**") == []

    def test_listings_are_sorted_paths_that_can_be_passed_back(
        self, artifacts: ArtifactFileSystem
    ) -> None:
        for path in ("b/2", "b/1", "a", "b/c/3.png", "[x]*"):
            artifacts.write_path(path, path.encode())
        assert artifacts.ls() == ["[x]*", "a", "b"]
        assert artifacts.ls("b") == ["b/1", "b/2", "b/c"]
        assert artifacts.ls("a") == ["a"]
        for path in artifacts.glob("**"):
            assert artifacts.read_path(path) == path.encode()

    def test_glob(self, artifacts: ArtifactFileSystem) -> None:
        for path in ("trials/0/w.npy", "trials/1/w.npy", "trials/1/plots/fit.png", "top.png"):
            artifacts.write_path(path, b"")
        matches = {
            "trials/*/w.npy": ["trials/0/w.npy", "trials/1/w.npy"],
            "trials/[0]/*": ["trials/0/w.npy"],
            "trials/?/w.npy": ["trials/0/w.npy", "trials/1/w.npy"],
            "*": ["top.png"],
            "**/*.png": ["top.png", "trials/1/plots/fit.png"],
            "trials/**": ["trials/0/w.npy", "trials/1/plots/fit.png", "trials/1/w.npy"],
            "top.png": ["top.png"],
            "trials": [],
            "*.PNG": [],
        }
        assert {pattern: artifacts.glob(pattern) for pattern in matches} == matches

    def test_a_bad_pattern_is_an_error(self, artifacts: ArtifactFileSystem) -> None:
        for pattern in ("a**", "../*", "/*", ""):
            with pytest.raises(InvalidSettingError):
                artifacts.glob(pattern)

    def test_create_writes_once(self, artifacts: ArtifactFileSystem) -> None:
        assert artifacts.create("deep/a", b"first")
        assert not artifacts.create("deep/a", b"second")
        assert artifacts.read_path("deep/a") == b"first"
        assert artifacts.glob("**") == ["deep/a"]

    def test_one_of_many_threads_creates(self, artifacts: ArtifactFileSystem) -> None:
        with ThreadPoolExecutor(8) as pool:
            for number in range(20):
                claims = pool.map(
                    lambda n, path=f"a/{number}": artifacts.create(path, b"x"), range(8)
                )
                assert sum(claims) == 1

    def test_rm_removes_a_file_and_a_directory_only_when_asked(
        self, artifacts: ArtifactFileSystem
    ) -> None:
        for path in ("dir/a", "dir/b/c", "d*", "other"):
            artifacts.write_path(path, b"")
        artifacts.rm("d*")
        assert artifacts.glob("**") == ["dir/a", "dir/b/c", "other"]
        with pytest.raises(InvalidSettingError, match="recursive=True"):
            artifacts.rm("dir")
        artifacts.rm("dir", recursive=True)
        assert artifacts.glob("**") == ["other"]
        artifacts.rm("other", recursive=True)
        assert artifacts.glob("**") == []
        with pytest.raises(InvalidSettingError, match="empty"):
            artifacts.rm("", recursive=True)

    def test_copy_replaces_the_target(self, artifacts: ArtifactFileSystem) -> None:
        artifacts.write_path("a", b"new")
        artifacts.write_path("dir/b", b"old")
        artifacts.copy("a", "dir/b")
        assert artifacts.read_path("dir/b") == artifacts.read_path("a") == b"new"
        artifacts.copy("a", "deep/er/c")
        assert artifacts.read_path("deep/er/c") == b"new"

    def test_a_file_is_no_directory_and_a_directory_no_file(
        self, artifacts: ArtifactFileSystem
    ) -> None:
        artifacts.write_path("dir/a", b"1")
        for act in (
            lambda: artifacts.write_path("dir", b"2"),
            lambda: artifacts.write_path("dir/a/b", b"2"),
            lambda: artifacts.create("dir/a/b", b"2"),
            lambda: artifacts.copy("dir/a", "dir"),
        ):
            with pytest.raises(InvalidSettingError, match="Cannot write"):
                act()
        assert not artifacts.create("dir", b"2")
        assert not artifacts.exists("dir")
        assert not artifacts.exists("dir/a/b")
        with pytest.raises((InvalidSettingError, PathNotFoundError)):
            artifacts.read_path("dir")
        with pytest.raises(PathNotFoundError):
            artifacts.read_path("dir/a/b")
        assert artifacts.glob("**") == ["dir/a"]
        assert artifacts.read_path("dir/a") == b"1"

    def test_check_leaves_nothing(self, artifacts: ArtifactFileSystem) -> None:
        artifacts.check()
        assert artifacts.ls() == []
        assert artifacts.sweep(timedelta(0)) == []
        if "://" not in artifacts.url:
            assert list(Path(artifacts.url).iterdir()) == []

    def test_a_bad_path_is_refused_everywhere(self, artifacts: ArtifactFileSystem) -> None:
        artifacts.write_path("a", b"1")
        acts: list[Callable[..., object]] = [
            artifacts.read_path,
            artifacts.open,
            artifacts.exists,
            artifacts.info,
            artifacts.sha256,
            artifacts.rm,
            lambda path: artifacts.read_many([path]),
            lambda path: artifacts.open(path, "wb"),
            lambda path: artifacts.write_path(path, b"x"),
            lambda path: artifacts.create(path, b"x"),
            lambda path: artifacts.copy("a", path),
            lambda path: artifacts.copy(path, "b"),
        ]
        for path in BAD_PATHS:
            # An empty path means the root where a directory is asked for.
            for act in [*acts, artifacts.ls, artifacts.location] if path else acts:
                with pytest.raises(InvalidSettingError, match="is no artifact path") as caught:
                    act(path)
                assert repr(path) in str(caught.value)
        assert artifacts.glob("**") == ["a"]

    def test_a_file_that_is_written_in_parts_appears_when_it_is_closed(
        self, artifacts: ArtifactFileSystem
    ) -> None:
        with artifacts.open("deep/big", "wb") as file:
            for number in range(3):
                file.write(bytes([number]) * 1_000_000)
            assert not artifacts.exists("deep/big")
        assert artifacts.read_path("deep/big") == b"".join(
            bytes([number]) * 1_000_000 for number in range(3)
        )
        with artifacts.open("deep/big", "wb") as file:
            file.write(b"again")
        assert artifacts.read_path("deep/big") == b"again"
        assert artifacts.glob("**") == ["deep/big"]

    def test_a_writer_that_fails_or_is_forgotten_changes_nothing(
        self, artifacts: ArtifactFileSystem
    ) -> None:
        artifacts.write_path("a", b"old")

        def fail() -> None:
            with artifacts.open("a", "wb") as file:
                file.write(b"half")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        file = artifacts.open("a", "wb")
        file.write(b"half")
        del file
        assert artifacts.read_path("a") == b"old"
        assert artifacts.ls() == ["a"]
        assert artifacts.sweep(timedelta(0)) == []

    def test_an_exclusive_writer_replaces_nothing(self, artifacts: ArtifactFileSystem) -> None:
        with artifacts.open("a", "xb") as file:
            file.write(b"first")
        with pytest.raises(AlreadyExistsError, match="mode 'wb'"):
            artifacts.open("a", "xb")
        slow = artifacts.open("b", "xb")
        slow.write(b"slow")
        with artifacts.open("b", "xb") as fast:
            fast.write(b"fast")
        with pytest.raises(AlreadyExistsError):
            slow.close()
        assert artifacts.read_many(["a", "b"]) == {"a": b"first", "b": b"fast"}
        assert artifacts.sweep(timedelta(0)) == []

    def test_any_other_mode_is_refused(self, artifacts: ArtifactFileSystem) -> None:
        for mode in ("r", "w", "ab", "r+b"):
            with pytest.raises(ValueError, match=f"not '{mode[:1]}"):
                artifacts.open("a", mode)  # type: ignore[arg-type]

    def test_info_says_size_and_time(self, artifacts: ArtifactFileSystem) -> None:
        artifacts.write_path("dir/a", b"12345")
        info = artifacts.info("dir/a")
        assert (info.path, info.size) == ("dir/a", 5)
        assert abs(datetime.now(UTC) - info.modified) < timedelta(minutes=1)

    def test_many_are_read_at_once(self, artifacts: ArtifactFileSystem) -> None:
        contents = {f"many/{number}*": str(number).encode() for number in range(20)}
        for path, content in contents.items():
            artifacts.write_path(path, content)
        assert artifacts.read_many(contents) == contents
        with pytest.raises(PathNotFoundError):
            artifacts.read_many(["many/0*", "many/missing"])

    def test_many_are_removed_at_once(self, artifacts: ArtifactFileSystem) -> None:
        for path in ("many/0", "many/1*", "many/10", "deep/er/a"):
            artifacts.write_path(path, b"1")
        artifacts.rm_files(["many/0", "many/1*", "many/missing", "missing/too"])
        assert artifacts.glob("**") == ["deep/er/a", "many/10"]
        with pytest.raises(InvalidSettingError):
            artifacts.rm_files(["many/10", "../many/10"])
        artifacts.rm_files([])
        artifacts.write_path("m", b"1")
        artifacts.rm_files("deep/er/a")
        assert artifacts.glob("**") == ["m", "many/10"]
        artifacts.rm_files("many/10")
        assert artifacts.glob("**") == ["m"]

    def test_a_pickled_block_reaches_the_same_artifacts(
        self, artifacts: ArtifactFileSystem
    ) -> None:
        artifacts.write_path("a", b"1")
        again = pickle.loads(pickle.dumps(artifacts))
        assert again == artifacts
        assert again.read_path("a") == b"1"

    def test_optuna_uploads_and_downloads_artifacts(
        self, artifacts: ArtifactFileSystem, tmp_path: Path
    ) -> None:
        file = tmp_path / "fit.bin"
        file.write_bytes(os.urandom(100_000))
        trial = optuna.create_study().ask()
        artifact_id = optuna.artifacts.upload_artifact(
            artifact_store=artifacts, file_path=str(file), study_or_trial=trial
        )
        optuna.artifacts.download_artifact(
            artifact_store=artifacts, artifact_id=artifact_id, file_path=str(tmp_path / "again")
        )
        assert (tmp_path / "again").read_bytes() == file.read_bytes()
        artifacts.remove(artifact_id)
        for act in (artifacts.open_reader, artifacts.remove):
            with pytest.raises(optuna.artifacts.exceptions.ArtifactNotFound):
                act(artifact_id)
        with pytest.raises(InvalidSettingError):
            artifacts.write("../escape", io.BytesIO(b""))

    def test_artifacts_agree_with_a_dict(self, artifacts: ArtifactFileSystem) -> None:
        class Machine(ArtifactsAgreeWithADict):
            root = artifacts

        run_state_machine_as_test(
            Machine,
            settings=settings(max_examples=self.examples, stateful_step_count=20, database=None),
        )


class ArtifactsAgreeWithADict(RuleBasedStateMachine):
    """Files `f…` lie in directories `d…`, so that no path is both."""

    root: ArtifactFileSystem

    def __init__(self) -> None:
        super().__init__()
        self.artifacts = self.root.model_copy(update={"url": f"{self.root.url}/{uuid4()}"})
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
            with pytest.raises(PathNotFoundError):
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
            with pytest.raises(PathNotFoundError):
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


class TestLocal(ArtifactFileSystemContract):
    @pytest.fixture
    def artifacts(self, tmp_path: Path) -> ArtifactFileSystem:
        return ArtifactFileSystem(url=str(tmp_path / "root"))


class TestMemory(ArtifactFileSystemContract):
    @pytest.fixture
    def artifacts(self) -> ArtifactFileSystem:
        return ArtifactFileSystem(url=f"memory://{uuid4()}")


class ObjectStoreContract(ArtifactFileSystemContract):
    examples = 5

    def test_a_file_is_no_directory_and_a_directory_no_file(
        self, artifacts: ArtifactFileSystem
    ) -> None:
        """An object store has no directories, so that both may have one name."""
        for path in ("dir/a", "dir", "dir/a/b"):
            artifacts.write_path(path, path.encode())
        assert artifacts.glob("**") == ["dir", "dir/a", "dir/a/b"]
        artifacts.rm("dir")
        assert not artifacts.exists("dir")
        with pytest.raises(InvalidSettingError, match="recursive=True"):
            artifacts.rm("dir")
        assert artifacts.read_path("dir/a") == b"dir/a"
        artifacts.rm("dir/a", recursive=True)
        assert artifacts.glob("**") == []


class TestS3(ObjectStoreContract):
    @pytest.fixture
    def artifacts(self, s3_server: str) -> ArtifactFileSystem:
        return s3_filesystem(s3_server)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
class TestGcs(ObjectStoreContract):
    @pytest.fixture
    def artifacts(self, gcs_server: str) -> ArtifactFileSystem:
        return gcs_filesystem(gcs_server)


@pytest.mark.heavy
# adlfs hands the bytes on as they are, which aiohttp finds slow for more than a megabyte.
@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
class TestAzure(ObjectStoreContract):
    @pytest.fixture
    def artifacts(self, azure_server: int) -> ArtifactFileSystem:
        return azure_filesystem(azure_server)


class TestSftp(ArtifactFileSystemContract):
    examples = 3

    @pytest.fixture
    def artifacts(self, sftp_server: tuple[int, Path], tmp_path: Path) -> ArtifactFileSystem:
        return sftp_filesystem(sftp_server, tmp_path / "root")
