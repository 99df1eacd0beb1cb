"""A repository on an object store, which has no directories and no rename."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filesystems import s3_filesystem

from prefect_optuna.blocks import VersionNotFoundError
from prefect_optuna.blocks.artifacts.repository import ArtifactRepository


@pytest.mark.slow
def test_LZ32_LZ35_a_repository_on_S3_does_what_one_on_a_disk_does(
    s3_server: str, tmp_path: Path
) -> None:
    filesystem = s3_filesystem(s3_server)
    repository = ArtifactRepository(filesystem)
    logged = [repository.log("a b", {"n": number}) for number in range(6)]
    other = ArtifactRepository(filesystem)
    assert other.load("a b") == {"n": 5}
    assert other.load("a b", asof=logged[2].created_at) == {"n": 2}
    assert other.versions("a b") == logged
    other.expire("a b", 0)
    other.expire("a b", 5)
    assert repository.load("a b") == {"n": 4}

    def log(number: int) -> int:
        return ArtifactRepository(filesystem).log("shared", number).version

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(log, range(12))) == list(range(12))

    found = other.gc()
    assert set(found.objects) == {logged[0].path, logged[5].path}
    assert other.gc(dry_run=False).objects == found.objects
    with pytest.raises(VersionNotFoundError, match="was removed"):
        repository.load("a b", 5)
    report = repository.verify()
    assert (report.ok, report.removed, report.problems) == (16, 2, ())
    assert repository.names() == ["a b", "shared"]
    assert repository.promote("a b", ArtifactRepository(tmp_path)).created_at == (
        logged[4].created_at
    )
