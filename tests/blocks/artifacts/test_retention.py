"""What is no longer needed goes, and nothing else."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from prefect_optuna.blocks import VersionNotFoundError
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository


@pytest.fixture
def repository(tmp_path: Path) -> ArtifactRepository:
    return ArtifactRepository(tmp_path, "study [1]")


def objects(repository: ArtifactRepository) -> set[str]:
    return {path for path in repository.filesystem.glob("**") if "/objects/" in path}


def aged(path: Path) -> None:
    """Make a file one that was written two hours ago."""
    os.utime(path, (time.time() - 7200, time.time() - 7200))


def test_LZ30_the_content_of_expired_versions_is_removed_and_their_records_stay(
    repository: ArtifactRepository,
) -> None:
    versions = [repository.log("a", {"n": number}) for number in range(6)]
    for number in (0, 2, 5):
        repository.expire("a", number)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    repository.expire("a", 3, expiry=tomorrow)
    before = repository.filesystem.glob("**")

    found = repository.gc()
    assert found.dry_run
    assert [one.version for one in found.versions] == [0, 2, 5]
    assert set(found.objects) == {versions[number].path for number in (0, 2, 5)}
    assert repository.filesystem.glob("**") == before

    removed = repository.gc(dry_run=False)
    assert (removed.versions, removed.objects) == (found.versions, found.objects)
    assert not removed.dry_run
    for other in (repository, ArtifactRepository(repository.filesystem, repository.prefix)):
        assert objects(other) == {versions[number].path for number in (1, 3, 4)}
        assert [one.version for one in other.versions("a")] == list(range(6))
        for number in (1, 3, 4):
            assert other.load("a", number) == {"n": number}
        assert other.load("a") == {"n": 4}
        for number in (0, 2, 5):
            with pytest.raises(VersionNotFoundError, match=r"expired at .* was removed at 20"):
                other.load("a", number)
        # As of then it was the newest: another one would be the wrong answer.
        with pytest.raises(VersionNotFoundError, match=r"Version 5 .* was removed"):
            other.load("a", asof=versions[5].created_at)
        with pytest.raises(VersionNotFoundError, match="was removed"):
            other.expire("a", 0, expiry=tomorrow)
        report = other.verify()
        assert (report.ok, report.removed, report.problems) == (3, 3, ())
        assert other.gc(dry_run=False).versions == ()
    assert repository.log("a", {"n": 0}).version == 6
    assert repository.load("a") == {"n": 0}


def test_content_that_another_version_has_too_stays(repository: ArtifactRepository) -> None:
    repository.log("a", "same")
    repository.log("b", "same")
    repository.expire("a")
    found = repository.gc(dry_run=False)
    assert [one.name for one in found.versions] == ["a"]
    assert found.objects == ()
    assert repository.load("b") == "same"
    with pytest.raises(VersionNotFoundError, match="was removed"):
        repository.load("a", 0)


def test_content_without_a_version_is_removed(repository: ArtifactRepository) -> None:
    repository.log("a", 1)
    # As a writer leaves it that is killed before it has made the record.
    orphan = f"study [1]/objects/00/{'0' * 64}.json"
    repository.filesystem.write_path(orphan, b"0")
    assert repository.gc().objects == (orphan,)
    assert repository.gc(dry_run=False).objects == (orphan,)
    assert not repository.filesystem.exists(orphan)
    assert repository.load("a") == 1


def test_another_repository_on_the_same_filesystem_is_left_alone(
    repository: ArtifactRepository,
) -> None:
    outside = {"other": ArtifactRepository(repository.filesystem, "other")}
    outside["root"] = ArtifactRepository(repository.filesystem)
    for other in outside.values():
        other.log("a", 1)
        other.expire("a")
    repository.log("a", 1)
    repository.filesystem.write_path("trials/0/result.arrow", b"")
    before = set(repository.filesystem.glob("**"))
    found = repository.gc(dry_run=False)
    assert (found.versions, found.objects, found.leftovers) == ((), (), ())
    assert set(repository.filesystem.glob("**")) == before


def test_unfinished_files_go_once_they_are_an_hour_old(repository: ArtifactRepository) -> None:
    repository.log("a", 1)
    folder = Path(repository.location, "versions", "a")
    (folder / ".tmp-old").write_text("")
    (folder / ".tmp-new").write_text("")
    aged(folder / ".tmp-old")
    for dry_run in (True, False):
        assert repository.gc(dry_run).leftovers == ("study [1]/versions/a/.tmp-old",)
    assert [path.name for path in folder.iterdir() if path.name.startswith(".tmp")] == [".tmp-new"]


def test_what_a_killed_run_was_removing_is_found_and_put_back(
    repository: ArtifactRepository,
) -> None:
    needed = Path(repository.filesystem.location(repository.log("a", "needed").path))
    unneeded = Path(repository.filesystem.location(repository.log("b", "unneeded").path))
    repository.expire("b")
    trash = Path(repository.location, "trash", "0123456789abcdef")
    trash.mkdir(parents=True)
    (trash / "started").write_text("")
    for path in (needed, unneeded):
        path.rename(trash / path.name)

    def check() -> None:
        assert repository.load("a") == "needed"
        assert repository.verify().problems == ()

    check()
    # It may be under way still.
    assert repository.gc(dry_run=False).leftovers == ()
    assert trash.is_dir()
    check()
    aged(trash / "started")
    assert len(repository.gc().leftovers) == 3
    assert len(repository.gc(dry_run=False).leftovers) == 3
    assert not trash.exists()
    assert needed.exists()
    assert not unneeded.exists()
    check()


def test_gc_of_an_empty_place_does_nothing(tmp_path: Path) -> None:
    repository = ArtifactRepository(tmp_path)
    for dry_run in (True, False):
        found = repository.gc(dry_run)
        assert (found.versions, found.objects, found.leftovers) == ((), (), ())
    assert repository.filesystem.glob("**") == []
    assert (repository.names(), repository.verify().ok) == ([], 0)
