"""The files of many trials in a few: packed, read one by one, exported, and extracted again."""

from __future__ import annotations

import errno
import gc
import hashlib
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from random import Random
from threading import Barrier, Event, Thread
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
from prefect_optuna.flows import optimize
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive.series import blobs, series_table

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


def test_whoever_reads_several_at_once_need_not_know_the_packs(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files too large for a pack are read at once; the size that an attribute says may be wrong."""
    monkeypatch.setattr(series_table, "LARGE", 0)
    archived = filled(storage, artifacts, 5)
    before = as_read(archived)
    archived.compact()
    blobs._known.clear()
    assert_as_before(archived, before)


def test_a_disk_that_stutters_while_a_series_is_read_is_asked_again(
    storage: InMemoryStudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived = filled(storage, artifacts, 3)
    before = as_read(archived)

    class Stuttering(BytesIO):
        def readinto(self, _: Any) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(ArtifactFileSystem, "open", lambda *_: Stuttering())
    assert_as_before(archived, before)


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


@pytest.fixture
def bucket(s3_server: str, tmp_path: Path) -> ArtifactFileSystem:
    return s3_filesystem(s3_server, f"packs-{tmp_path.name}")


def packing(archived: ArchivedStudy, artifacts: ArtifactFileSystem) -> blobs.Packer:
    return blobs.Packer(artifacts, f"studies/{archived.manifest.uuid}")


def packs(artifacts: ArtifactFileSystem) -> dict[str, list[str]]:
    """What is in each pack, sorted."""
    found: dict[str, list[str]] = {}
    for path in artifacts.glob("studies/*/packs/*"):
        with zipfile.ZipFile(BytesIO(artifacts.read_path(path))) as archive:
            found[path] = sorted(archive.namelist())
    return found


def written_together(packer: blobs.Packer, contents: Mapping[str, bytes]) -> list[tuple[str, bool]]:
    """Have threads write files of a study, all of which are ready before the first is written."""
    begin, written, threads = Event(), list[tuple[str, bool]](), list[Thread]()
    packer._writer.submit(begin.wait)

    def write(path: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        written.append(blobs.write_file(packer._artifacts, path, content, lambda: digest))

    for path, content in contents.items():
        ready = len(packer._ready)
        threads.append(Thread(target=write, args=(path.partition(" ")[0], content)))
        threads[-1].start()
        while len(packer._ready) == ready:
            time.sleep(0.001)
    begin.set()
    for thread in threads:
        thread.join()
    return sorted(written)


def digests(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}


def all_read(artifacts: ArtifactFileSystem, contents: Mapping[str, bytes]) -> bool:
    """Whether another process reads all of them, too."""
    for known in (True, False):
        if not known:
            blobs._entries.clear()
            blobs._known.clear()
        for path, digest in digests(contents).items():
            name = path.partition(" ")[0]
            if blobs.read_verified(artifacts, name, digest, "it") != contents[path]:
                return False
    return True


def trial_with(path: str, content: bytes) -> optuna.trial.FrozenTrial:
    """A trial that has ended, with that file."""
    sha256 = hashlib.sha256(content).hexdigest()
    reference = {"path": path, "sha256": sha256, "bytes": len(content)}
    return optuna.trial.create_trial(value=0.0, user_attrs={"result": reference})


FOLDER = "studies/0b8f"
CONTENTS = {f"{FOLDER}/trials/{number:06d}.arrow": bytes([number]) * 99 for number in range(6)}


def test_what_is_ready_at_the_same_time_goes_to_an_object_store_together(
    bucket: ArtifactFileSystem,
) -> None:
    study = optuna.create_study()
    three = [dict([*CONTENTS.items()][start : start + 2]) for start in (0, 2, 4)]
    with blobs.Packer(bucket, FOLDER) as packer:
        for some in three:
            assert written_together(packer, some) == [(path, False) for path in some]
        assert files(bucket) == []
        assert sorted(map(len, packs(bucket).values())) == [2, 2, 2]
        assert all_read(bucket, CONTENTS)
        for path, content in CONTENTS.items():
            packer(study, trial_with(path, content))
    [names] = packs(bucket).values()  # at the end, one pack of what the trials have
    assert len(names) == 6
    assert all_read(bucket, CONTENTS)


def test_what_is_ready_alone_has_a_place_of_its_own(bucket: ArtifactFileSystem) -> None:
    packer = blobs.Packer(bucket, FOLDER)
    [(path, content), *_] = CONTENTS.items()
    for is_new in (True, False):
        assert written_together(packer, {path: content}) == [(path, is_new)]
    assert packs(bucket) == {}
    assert all_read(bucket, {path: content})


def test_a_small_pack_of_which_something_is_in_no_other_one_stays(
    bucket: ArtifactFileSystem,
) -> None:
    study, (first, *others) = optuna.create_study(), [*CONTENTS.items()]
    with blobs.Packer(bucket, FOLDER) as packer:
        for some in (dict([first, *others[:2]]), dict(others[2:])):
            written_together(packer, some)
        for path, content in others:
            packer(study, trial_with(path, content))  # the first one's trial has not ended
    assert sorted(map(len, packs(bucket).values())) == [3, 5]
    assert all_read(bucket, CONTENTS)


def test_a_pack_that_would_take_its_own_place_is_not_removed(bucket: ArtifactFileSystem) -> None:
    packer = blobs.Packer(bucket, FOLDER)
    written_together(packer, CONTENTS)
    before = packs(bucket)
    blobs._pack_small(bucket, digests(CONTENTS), packer._contents, packer._small)
    assert packs(bucket) == before
    assert len(before) == 1


def test_two_attempts_of_a_trial_at_the_same_time_are_both_kept(
    bucket: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "_WRITTEN_IN", 1e6)  # none of them is waited for in vain
    packer = blobs.Packer(bucket, FOLDER)
    path, other = [*CONTENTS][:2]
    contents = {path: b"one", f"{path} again": b"another", other: b"something else"}
    written_together(packer, contents)
    assert all_read(bucket, contents)


@pytest.mark.parametrize("why", ["fails", "is slow"])
def test_what_cannot_be_written_together_is_written_by_itself(
    bucket: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    packer, waited, original = blobs.Packer(bucket, FOLDER), Event(), ArtifactFileSystem.create

    def create(self: ArtifactFileSystem, path: str, content: bytes) -> bool:
        if "/packs/" in path:
            if why == "fails":
                raise StorageUnavailableError("The bucket is away.")
            waited.wait(30)
        return original(self, path, content)

    monkeypatch.setattr(ArtifactFileSystem, "create", create)
    monkeypatch.setattr(blobs, "_WRITTEN_IN", 1.0 if why == "is slow" else 30.0)
    assert written_together(packer, CONTENTS) == [(path, True) for path in CONTENTS]
    waited.set()
    packer._writer.shutdown()
    assert len(files(bucket)) == 6
    assert all_read(bucket, CONTENTS)
    assert len(packs(bucket)) == len(packer._small) == (why == "is slow")


def test_joining_small_packs_that_is_interrupted_loses_nothing(
    bucket: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = optuna.create_study()
    with blobs.Packer(bucket, FOLDER) as packer:
        for some in (dict([*CONTENTS.items()][:3]), dict([*CONTENTS.items()][3:])):
            written_together(packer, some)
        for path, content in CONTENTS.items():
            packer(study, trial_with(path, content))
        monkeypatch.setattr(ArtifactFileSystem, "sha256", lambda self, path: "0" * 64)
    assert "is not what was written to it" in caplog.text
    assert all_read(bucket, CONTENTS)


def test_compacting_joins_the_small_packs_of_a_process_that_was_killed(
    storage: InMemoryStudyStorage, bucket: ArtifactFileSystem
) -> None:
    archived = filled(storage, bucket, 4)
    before = as_read(archived)
    references = blobs.file_references(archived.study.get_trials(deepcopy=False))
    packer = packing(archived, bucket)
    contents = bucket.read_many(references)
    bucket.rm_files(references)
    for start in (0, 4):
        written_together(packer, dict([*contents.items()][start : start + 4]))
    unwanted = {f"{packer._folder}/trials/000009.arrow": b"9", f"{packer._folder}/trials/a": b"a"}
    written_together(packer, unwanted)  # of a trial that has not ended
    del packer
    assert sorted(map(len, packs(bucket).values())) == [2, 4, 4]
    assert archived.compact() == 0  # they were in packs
    assert sorted(map(len, packs(bucket).values())) == [2, 8]
    assert_as_before(archived, before)
    assert archived.compact() == 0
    assert sorted(map(len, packs(bucket).values())) == [2, 8]


@pytest.mark.usefixtures("prefect_server")
def test_a_study_in_threads_on_an_object_store_is_read_again(
    bucket: ArtifactFileSystem, tmp_path: Path
) -> None:
    places: dict[str, Any] = {"storage": tmp_path / "s.journal", "artifacts": bucket}
    optimize(PROBLEM, study_name="s", n_trials=40, n_jobs=8, sampler="random", **places)
    archived = ArchivedStudy.load("s", **places)
    for trial in archived.study.trials:
        assert (
            archived.result(trial.number)["curve"].tolist() == (trial.params["x"] * TIMES).tolist()
        )
    assert archived.timeseries("curve").num_rows == 40 * len(TIMES)
    archived.export(tmp_path / "s.zip")
    assert len(packs(bucket)) <= 1


def test_what_was_just_written_to_an_object_store_is_not_read_to_be_packed(
    storage: InMemoryStudyStorage, bucket: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived = filled(storage, bucket, 1)
    packer = packing(archived, bucket)
    study = archived.study
    archive = OptunaArchive(study, artifacts=bucket)
    for _ in range(3):
        trial = study.ask()
        trial.set_user_attr("result", archive.writer().write(trial.number, run(suggest(trial))))
        study.tell(trial, 0.0)
        packer(study, study.trials[-1])
    read = _calls(monkeypatch, "read_path")
    many = _calls(monkeypatch, "read_many")
    packer._compact(packer._files)
    assert read == []
    assert sum(map(len, many)) == 0
    assert len(files(bucket)) == 2
    assert archived.result(2)["curve"].shape == TIMES.shape
    del packer
    gc.collect()  # nobody packs any more
    assert f"{bucket.location()}/studies/{archived.manifest.uuid}" not in blobs._packers


def test_only_so_much_of_what_was_written_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_REMEMBERED", 100)
    written = blobs._Contents()
    for number in range(9):
        written.add(f"a{number}", bytes(30))
    written.add("a8", bytes(40))  # the same once more
    assert written.taken(["a5"]) == {}
    assert set(written.taken(["a6", "a8"])) == {"a6", "a8"}
    assert written.taken(["a8"]) == {}
    assert written._size == 30
    assert written.taken(["a7"]) == {"a7": bytes(30)}
    assert written._size == sum(map(len, written._contents.values())) == 0


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
    storage: InMemoryStudyStorage,
    artifacts: ArtifactFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archived = filled(storage, artifacts, 3)
    before = as_read(archived)
    archived.compact()
    opened = _calls(monkeypatch, "open")
    archived.export(tmp_path / "s.zip")
    assert len(opened) == 6  # each is read once
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
