"""The files of many trials in a few: packed, read one by one, exported, and extracted again."""

from __future__ import annotations

import gc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from random import Random
from threading import Barrier
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.feather
import pytest
from filesystems import s3_filesystem

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InMemoryStudyStorage,
    StorageUnavailableError,
)
from prefect_optuna.errors import AlreadyExistsError
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive.series import blobs

TIMES = np.arange(600.0)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def run(params: dict[str, float]) -> dict[str, Any]:
    return {"curve": params["x"] * TIMES}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["curve"].sum())


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate, axes={"t": TIMES})


@pytest.fixture
def storage(tmp_path: Path) -> InMemoryStudyStorage:
    return InMemoryStudyStorage(name=f"packs-{tmp_path.name}")


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "artifacts"))


def filled(storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, n: int) -> ArchivedStudy:
    """A study with a large result and a large series in each trial."""
    study = storage.create_study("s")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    archive.study_add_axis("step", TIMES)
    for _ in range(n):
        trial = study.ask()
        result = run(suggest(trial))
        archive.trial_add_timeseries(trial, "loss", result["curve"] / 2, ["step"])
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        study.tell(trial, 0.0)
    return ArchivedStudy.load("s", storage=storage, artifacts=artifacts)


def files(artifacts: ArtifactFileSystem) -> list[str]:
    """The files of trials."""
    found = artifacts.glob("studies/*/trials/*") + artifacts.glob("studies/*/series/**")
    return sorted(path.split("/", 2)[2] for path in found)


def as_read(archived: ArchivedStudy) -> tuple[list[Any], Any, Any]:
    numbers = range(len(archived.study.trials))
    results = [archived.result(number)["curve"].tolist() for number in numbers]
    return results, archived.timeseries("loss"), archived.timeseries("curve")


def assert_as_before(archived: ArchivedStudy, before: tuple[list[Any], Any, Any]) -> None:
    now = as_read(archived)
    assert now[0] == before[0]
    assert now[1].equals(before[1])
    assert now[2].equals(before[2])


def test_everything_is_read_from_packs_as_before(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem
) -> None:
    archived = filled(storage, artifacts, 5)
    before = as_read(archived)
    assert len(files(artifacts)) == 10
    assert archived.compact() == 10
    assert files(artifacts) == []
    [pack] = artifacts.glob("studies/*/packs/*")
    assert_as_before(archived, before)
    assert archived.compact() == 0
    with zipfile.ZipFile(BytesIO(artifacts.read_path(pack))) as archive:  # as unzip does
        assert archive.testzip() is None
        names = archive.namelist()
        table = pa.ipc.open_file(archive.read("trials/000003.arrow")).read_all()
    assert len(names) == 10
    assert table.column_names == ["t", "step", "curve"]


def test_a_study_of_many_has_several_packs(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_FILES", 4)
    archived = filled(storage, artifacts, 5)
    before = as_read(archived)
    assert archived.compact() == 10
    assert len(artifacts.glob("studies/*/packs/*")) == 3
    monkeypatch.setattr(blobs, "_KEPT", 1)
    assert_as_before(archived, before)


def test_an_object_store_has_packs_too(
    storage: InMemoryStudyStorage, s3_server: str, tmp_path: Path
) -> None:
    artifacts = s3_filesystem(s3_server, f"packs-{tmp_path.name}")
    archived = filled(storage, artifacts, 3)
    before = as_read(archived)
    assert archived.compact() == 6
    assert files(artifacts) == []
    assert_as_before(archived, before)


def test_the_packs_of_an_object_store_are_opened_several_at_a_time(
    storage: InMemoryStudyStorage, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_FILES", 2)
    artifacts = s3_filesystem(s3_server, f"opened-{tmp_path.name}")
    archived = filled(storage, artifacts, 6)
    archived.compact()
    packs = artifacts.glob("studies/*/packs/*")
    assert len(packs) == 6
    artifacts.create(packs[5].replace("packs/", "packs/0"), b"damaged, and has none of them")
    blobs._entries.clear()
    blobs._known.clear()
    both, opened = Barrier(2), ArtifactFileSystem.open

    def with_another(self: ArtifactFileSystem, path: str, *more: Any, **named: Any) -> Any:
        if path in packs[:2] and self.location(path) not in blobs._entries:
            both.wait(30)
        return opened(self, path, *more, **named)

    monkeypatch.setattr(ArtifactFileSystem, "open", with_another)
    with suppress(ArchiveError):  # names the damaged one, if it comes before the one that is wanted
        archived.result(0)
    assert len(blobs._entries) == 6


def test_what_was_just_written_to_an_object_store_is_not_read_to_be_packed(
    storage: InMemoryStudyStorage,
    s3_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    artifacts = s3_filesystem(s3_server, f"written-{tmp_path.name}")
    monkeypatch.setattr(blobs, "_written", blobs._Written())
    packer = blobs.Packer(artifacts)
    archived = filled(storage, artifacts, 3)
    trials = archived.study.get_trials(deepcopy=False)
    references = blobs.file_references(trials)
    read = _calls(monkeypatch, "read_path")
    many = _calls(monkeypatch, "read_many")
    assert blobs.pack_files(artifacts, references) == 6
    assert read == []
    assert sum(map(len, many)) == 0
    assert files(artifacts) == []
    assert archived.result(2)["curve"].shape == TIMES.shape
    blobs.write_file(artifacts, "a", b"1", "".__str__)
    del packer
    gc.collect()  # nobody packs any more, and nothing is kept
    blobs.write_file(artifacts, "b", b"1", "".__str__)
    assert blobs._written.taken(artifacts, ["a", "b"]) == {}


def test_only_so_much_of_what_was_written_is_remembered(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_REMEMBERED", 100)
    there = s3_filesystem(s3_server, f"bounded-{tmp_path.name}")
    written = blobs._Written()
    written.packers.add(packer := blobs.Packer(there))
    for number in range(9):
        written.add(there, f"a{number}", bytes(30))
    written.add(there, "large", bytes(blobs.LARGE + 1))
    written.add(ArtifactFileSystem(url=str(tmp_path)), "here", b"1")
    written.add(there, "a8", bytes(40))  # the same once more
    assert written.taken(there, ["a5"]) == {}
    assert set(written.taken(there, ["a6", "a8", "large", "here"])) == {"a6", "a8"}
    assert written.taken(there, ["a8"]) == {}
    assert written._size == 30
    assert written.taken(there, ["a7"]) == {"a7": bytes(30)}
    assert written._size == sum(map(len, written._contents.values())) == 0
    assert packer in written.packers


@pytest.mark.parametrize("fails", ["create", "sha256", "rm_files"])
def test_compacting_that_is_interrupted_loses_nothing_and_goes_on(
    storage: InMemoryStudyStorage,
    artifacts: ArtifactFileSystem,
    monkeypatch: pytest.MonkeyPatch,
    fails: str,
) -> None:
    archived = filled(storage, artifacts, 3)
    before = as_read(archived)
    calls = 0
    original: Callable[..., Any] = getattr(ArtifactFileSystem, fails)

    def failing(self: ArtifactFileSystem, path: str, *rest: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            if fails == "rm_files":
                original(self, sorted(path)[:2])
            raise StorageUnavailableError("The disk is away.")
        return original(self, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactFileSystem, fails, failing)
        with pytest.raises(StorageUnavailableError):
            archived.compact()
    assert_as_before(archived, before)
    archived.compact()
    assert files(artifacts) == []
    assert_as_before(archived, before)
    assert len(artifacts.glob("studies/*/packs/*")) == 1


def test_a_pack_that_was_not_written_as_it_is_costs_no_file(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived = filled(storage, artifacts, 2)
    with monkeypatch.context() as patch:
        patch.setattr(ArtifactFileSystem, "sha256", lambda self, path: "0" * 64)
        with pytest.raises(ArchiveError, match="is not what was written to it"):
            archived.compact()
    assert len(files(artifacts)) == 4


def test_what_is_damaged_running_or_large_stays_where_it_is(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived = filled(storage, artifacts, 3)
    archive = OptunaArchive(archived.study, artifacts=artifacts)
    running = archived.study.ask()
    archive.trial_add_timeseries(running, "loss", TIMES, ["step"])
    path = archived.study.trials[1].user_attrs["result"]["path"]
    artifacts.write_path(path, b"damaged")
    assert archived.compact() == 5
    assert files(artifacts) == ["series/loss/000003.arrow", "trials/000001.arrow"]
    with pytest.raises(ArchiveError, match="is not what was archived"):
        archived.result(1)
    monkeypatch.setattr("prefect_optuna.tasks.archive.archived_study.LARGE", 100)
    archived.study.tell(running, 0.0)
    assert archived.compact() == 0


@pytest.mark.parametrize("damage", [b"", b"no pack", b"PK\x05\x06" + bytes(18)])
def test_a_damaged_pack_is_named(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, damage: bytes
) -> None:
    archived = filled(storage, artifacts, 1)
    archived.compact()
    [pack] = artifacts.glob("studies/*/packs/*")
    artifacts.write_path(pack, damage)
    blobs._entries.clear()
    with pytest.raises(ArchiveError, match=r"is no pack|is missing"):
        archived.result(0)


def test_a_pack_of_somebody_with_bad_intentions_gives_nothing_else(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem
) -> None:
    archived = filled(storage, artifacts, 1)
    archived.compact()
    [pack] = artifacts.glob("studies/*/packs/*")
    target = BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("trials/000000.arrow", b"another result")
        archive.writestr("series/loss/000000.arrow", bytes(1 << 20), zipfile.ZIP_DEFLATED)
    artifacts.write_path(pack, target.getvalue())
    blobs._entries.clear()
    with pytest.raises(ArchiveError, match="is missing"):
        archived.result(0)
    with pytest.raises(ArchiveError, match="is missing"):
        archived.timeseries("loss")


def test_whatever_is_in_a_pack_the_result_is_right_or_refused(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem
) -> None:
    archived = filled(storage, artifacts, 2)
    expected = archived.result(1)["curve"].tolist()
    archived.compact()
    [pack] = artifacts.glob("studies/*/packs/*")
    whole = artifacts.read_path(pack)
    rng, refused = Random(3), 0
    for _ in range(300):
        damaged = bytearray(whole)
        # Mostly near the end, where it says what is in it.
        end = len(whole) - rng.randrange(400)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(end - 60, end)] = rng.choice((0, 255, rng.randrange(256)))
        artifacts.write_path(pack, bytes(damaged[: rng.choice((len(whole), end))]))
        blobs._entries.clear()
        try:
            assert archived.result(1)["curve"].tolist() == expected
        except ArchiveError:
            refused += 1
    assert 0 < refused < 300


@pytest.mark.parametrize("shift", [1, 50_000, 1 << 31])
def test_a_pack_whose_entries_lie_outside_of_it_is_no_pack(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, shift: int
) -> None:
    archived = filled(storage, artifacts, 2)
    archived.compact()
    [pack] = artifacts.glob("studies/*/packs/*")
    content = bytearray(artifacts.read_path(pack))
    where = slice(len(content) - 6, len(content) - 2)  # of the directory, from which entries count
    start = int.from_bytes(content[where], "little") + shift
    content[where] = start.to_bytes(4, "little")
    artifacts.write_path(pack, bytes(content))
    blobs._entries.clear()
    for number in range(2):
        with pytest.raises(ArchiveError):
            archived.result(number)


def test_many_files_of_a_pack_are_read_without_looking_for_packs(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived = filled(storage, artifacts, 8)
    archived.compact()
    archived.result(0)
    listed: list[str] = []
    original = ArtifactFileSystem.ls

    def ls(self: ArtifactFileSystem, path: str = "") -> list[str]:
        listed.append(path)
        return original(self, path)

    monkeypatch.setattr(ArtifactFileSystem, "ls", ls)
    assert archived.timeseries("loss").num_rows == 8 * len(TIMES)
    assert listed == []


def test_a_table_of_what_is_packed_reads_each_pack_once(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_FILES", 8)
    archived = filled(storage, artifacts, 16)
    before = as_read(archived)
    archived.compact()
    packs = artifacts.glob("studies/*/packs/*")
    assert len(packs) == 4
    for known in (False, True):  # by another process, and by this one
        if not known:
            blobs._entries.clear()
        read = _calls(monkeypatch, "read_path")
        opened = _calls(monkeypatch, "open")
        assert archived.timeseries("curve").equals(before[2])
        assert sorted(read) == sorted(packs)
        assert opened == []


def _calls(patch: pytest.MonkeyPatch, method: str) -> list[str]:
    """The paths that a method is called with from now on."""
    paths: list[str] = []
    original = getattr(ArtifactFileSystem, method)

    def called(self: ArtifactFileSystem, path: str, *args: Any) -> Any:
        paths.append(path)
        return original(self, path, *args)

    patch.setattr(ArtifactFileSystem, method, called)
    return paths


def test_what_is_damaged_in_a_pack_is_taken_from_its_place_or_refused(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_FILES", 8)
    archived = filled(storage, artifacts, 8)
    before = as_read(archived)
    path = archived.study.trials[5].user_attrs["result"]["path"]
    whole = artifacts.read_path(path)
    archived.compact()
    for pack in artifacts.glob("studies/*/packs/*"):
        content = bytearray(artifacts.read_path(pack))
        if (start := content.find(whole)) >= 0:
            content[start + len(whole) // 2] ^= 1
            artifacts.write_path(pack, bytes(content))
    for _ in range(2):
        with pytest.raises(ArchiveError, match="the series 'curve' of trial 5 is missing"):
            archived.timeseries("curve")
    artifacts.write_path(path, whole)
    assert archived.timeseries("curve").equals(before[2])


def test_what_is_packed_is_not_looked_for_elsewhere(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived = filled(storage, artifacts, 3)
    archived.compact()
    archived.result(0)
    read = _calls(monkeypatch, "read_path")
    assert archived.result(1)["curve"].shape == TIMES.shape
    assert read == []
    for pack in artifacts.glob("studies/*/packs/*"):  # by a person, or a garbage collector
        artifacts.rm(pack)
    with pytest.raises(ArchiveError, match="is missing"):
        archived.result(1)


def test_an_export_of_packs_is_one_of_files(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    archived = filled(storage, artifacts, 3)
    before = as_read(archived)
    archived.compact()
    archived.export(tmp_path / "s.zip")
    elsewhere = ArtifactFileSystem(url=str(tmp_path / "elsewhere"))
    there = InMemoryStudyStorage(name=f"there-{tmp_path.name}")
    imported = ArchivedStudy.import_(tmp_path / "s.zip", storage=there, artifacts=elsewhere)
    assert_as_before(imported, before)
    assert len(files(elsewhere)) == 6
    assert imported.compact() == 6


def test_extracted_files_are_opened_by_any_reader(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    study = filled(storage, artifacts, 2).study
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.study_add_axis("epoch", [1, 2])
    trial = study.ask()
    archive.trial_add_timeseries(trial, "a/b", [0.5, 0.25], ["epoch"])
    trial.set_user_attr("result", archive.writer().write(2, {"small": np.arange(3.0)}))
    study.tell(trial, 0.0)
    archived = ArchivedStudy.load("s", storage=storage, artifacts=artifacts)
    archived.compact()
    paths = archived.extract(tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in paths] == [
        "series/loss/000000.arrow",
        "trials/000000.arrow",
        "series/loss/000001.arrow",
        "trials/000001.arrow",
        "series/%a%2Fb/000002.arrow",
        "trials/000002.arrow",
    ]
    result, series, small = (pa.feather.read_table(paths[i]) for i in (1, 4, 5))
    assert result.column_names == ["t", "step", "curve"]
    assert series.to_pydict() == {"epoch": [1, 2], "value": [0.5, 0.25]}
    assert small.to_pydict() == {"small": [0.0, 1.0, 2.0]}
    assert archived.extract(tmp_path / "out", trials=[2]) == paths[4:]
    paths[5].write_bytes(b"mine")
    with pytest.raises(AlreadyExistsError, match="empty folder"):
        archived.extract(tmp_path / "out")
    assert paths[5].read_bytes() == b"mine"
