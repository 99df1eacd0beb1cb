"""Studies with their archives, from one place to another."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState
from pydantic import SecretStr

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    ArtifactLoadError,
    InMemoryStudyStorage,
    InvalidSettingError,
    JournalStudyStorage,
    SQLStudyStorage,
    StorageUnavailableError,
    StudyNotFoundError,
    StudyStorage,
    load_artifact,
    log_artifact,
)
from prefect_optuna.errors import StudyMismatchError
from prefect_optuna.tasks import (
    ArchivedStudy,
    OptunaArchive,
    Problem,
    collect_garbage,
    copy_study,
)
from prefect_optuna.tasks.archive.carrying import portable as parcel_module
from prefect_optuna.tasks.archive.carrying.portable import read_parcel
from prefect_optuna.tasks.archive.record.manifest import Version
from prefect_optuna.tasks.archive.series.blobs import blob_path

KEY = "a key of thirty-two characters.."
SCALE = np.linspace(0.0, 1.0, 600)  # too many for an attribute


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "x": trial.suggest_float("x", -1, 1),
        "n": trial.suggest_int("n", 1, 100, log=True),
        "kind": trial.suggest_categorical("kind", ["a", None, 1.5, True]),
    }


def run(params: dict[str, Any]) -> dict[str, Any]:
    return {"curve": params["x"] * SCALE}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["curve"].sum())


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "artifacts"))


@pytest.fixture
def elsewhere(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "elsewhere"))


def storage_of(kind: str, folder: Path) -> StudyStorage:
    if kind == "sqlite":
        return SQLStudyStorage(url=SecretStr(f"sqlite:///{folder / 'studies.db'}"))
    if kind == "journal":
        return JournalStudyStorage(path=folder / "studies.journal")
    return InMemoryStudyStorage(name=f"carry-{folder.name}")


@pytest.fixture
def storage(tmp_path: Path) -> StudyStorage:
    return storage_of("journal", tmp_path)


def archived_study(storage: StudyStorage, artifacts: ArtifactFileSystem) -> ArchivedStudy:
    """A study with trials of every state, results, and everything that can be set."""
    study = storage.create_study("hares", direction="maximize")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM, scope={"seed": 3})
    for value in (0.5, -0.25):
        trial = study.ask()
        result = run(suggest(trial))
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        trial.set_user_attr("nested", {"list": [1, None, "é"]})
        study.tell(trial, value)
    trial = study.ask()
    trial.report(float("inf"), 0)
    trial.report(0.125, 7)
    study.tell(trial, state=TrialState.PRUNED)
    study.tell(study.ask(), state=TrialState.FAIL)
    study.ask()
    study.enqueue_trial({"x": 0.5})
    log_artifact(study, "notes", "a good start", artifacts=artifacts)
    study.set_user_attr("note", "hares")
    return ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)


def without_id(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    return [{k: v for k, v in t.__dict__.items() if k != "_trial_id"} for t in trials]


def assert_same(copy: ArchivedStudy, original: ArchivedStudy) -> None:
    mine, theirs = copy.study, original.study
    assert without_id(mine.trials) == without_id(theirs.trials)
    assert mine.user_attrs == theirs.user_attrs
    assert mine.directions == theirs.directions
    assert copy.versions == original.versions
    assert copy.manifest == original.manifest
    for number in (0, 1):
        np.testing.assert_array_equal(
            copy.result(number)["curve"], original.result(number)["curve"]
        )
    again = copy.problem(trusted=True).call("run", theirs.trials[0].params)
    np.testing.assert_array_equal(again["curve"], original.result(0)["curve"])


@pytest.mark.parametrize("kind", ["memory", "journal", "sqlite"])
def test_a_study_goes_through_a_file_to_another_storage(
    kind: str,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    original = archived_study(storage, artifacts)
    file = original.export(tmp_path / "hares.study.zip")
    assert zipfile.is_zipfile(file)
    (tmp_path / "there").mkdir()
    target = storage_of(kind, tmp_path / "there")
    copy = ArchivedStudy.import_(file, storage=target, artifacts=elsewhere)
    artifacts.rm("studies", recursive=True)  # the copy needs nothing of it
    artifacts.rm("blobs", recursive=True)
    with pytest.raises(ArchiveError, match="is missing"):
        original.result(0)
    original = ArchivedStudy.import_(
        file, storage=f"memory://{kind}-again", artifacts="memory://carry"
    )
    assert_same(copy, original)
    assert load_artifact(copy.study, "notes", artifacts=elsewhere) == "a good start"
    assert sorted(path.name for path in tmp_path.iterdir() if "tmp" in path.name) == []


@pytest.mark.parametrize(("here", "there"), [("sqlite", "journal"), ("journal", "sqlite")])
def test_a_study_is_copied_between_storages_and_filesystems(
    here: str, there: str, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    storage, target = storage_of(here, tmp_path), storage_of(there, tmp_path / "there")
    original = archived_study(storage, artifacts)
    copy_study(
        from_study_name="hares",
        from_storage=storage,
        from_artifacts=artifacts,
        to_storage=target,
        to_artifacts="memory://carried",
        to_study_name="more hares",
    )
    copy = ArchivedStudy.load("more hares", storage=target, artifacts="memory://carried")
    assert_same(copy, original)


def test_a_copy_beside_the_original_shares_its_files(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    original = archived_study(storage, artifacts)
    files = artifacts.glob("**")
    copy_study(
        from_study_name="hares",
        from_storage=storage,
        from_artifacts=artifacts,
        to_storage=storage,
        to_study_name="copy",
    )
    assert len(artifacts.glob("**")) == len(files) + 1  # who else owns the folder
    assert_same(ArchivedStudy.load("copy", storage=storage, artifacts=artifacts), original)
    optuna.delete_study(study_name="hares", storage=storage.get_storage())
    assert not collect_garbage(artifacts, storage, dry_run=False).studies
    assert ArchivedStudy.load("copy", storage=storage, artifacts=artifacts).result(0)


def test_a_copy_can_go_on_and_be_reevaluated_there(
    storage: StudyStorage, artifacts: ArtifactFileSystem, elsewhere: ArtifactFileSystem
) -> None:
    original = archived_study(storage, artifacts)
    target = InMemoryStudyStorage(name="carry-goes-on")
    copy_study(
        from_study_name="hares",
        from_storage=storage,
        from_artifacts=artifacts,
        to_storage=target,
        to_artifacts=elsewhere,
    )
    study = target.load_study("hares")
    archive = OptunaArchive(study, artifacts=elsewhere)
    assert archive.save_problem(PROBLEM, scope={"seed": 3}) == original.versions[0].code_version
    trial = study.ask()
    trial.set_user_attr("result", archive.writer().write(trial.number, run(suggest(trial))))
    study.tell(trial, 1.0)
    copy = ArchivedStudy.load("hares", storage=target, artifacts=elsewhere)
    assert len(copy.result(trial.number)["curve"]) == len(SCALE)


def test_two_copies_that_went_their_own_ways_share_a_folder(
    storage: StudyStorage, artifacts: ArtifactFileSystem, elsewhere: ArtifactFileSystem
) -> None:
    archived_study(storage, artifacts)
    target = InMemoryStudyStorage(name="carry-own-ways")
    where: dict[str, Any] = {"to_storage": target, "to_artifacts": elsewhere}
    here: dict[str, Any] = {"from_storage": storage, "from_artifacts": artifacts}
    copy_study(from_study_name="hares", to_study_name="first", **here, **where)
    for study, block, scale in (
        (target.load_study("first"), elsewhere, 1.0),
        (storage.load_study("hares"), artifacts, 2.0),
    ):
        trial = study.ask()
        result = {"curve": scale * SCALE}
        writer = OptunaArchive(study, artifacts=block).writer()
        trial.set_user_attr("result", writer.write(trial.number, result))
        study.tell(trial, scale)
    number = trial.number
    copy_study(from_study_name="hares", to_study_name="second", **here, **where)
    for name, scale in (("first", 1.0), ("second", 2.0)):
        archived = ArchivedStudy.load(name, storage=target, artifacts=elsewhere)
        np.testing.assert_array_equal(archived.result(number)["curve"], scale * SCALE)


def test_a_signature_holds_for_the_copy(
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", KEY)
    archived_study(storage, artifacts)
    OptunaArchive(storage.load_study("hares"), artifacts=artifacts).sign()
    original = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert original.signatures.holds
    file = original.export(tmp_path / "signed.zip")
    monkeypatch.delenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY")  # whoever carries it has no key
    for kind in ("sqlite", "journal"):
        (tmp_path / kind).mkdir()
        target = storage_of(kind, tmp_path / kind)
        copy = ArchivedStudy.import_(
            file,
            storage=target,
            artifacts=tmp_path / kind / "files",
            study_name="carried",
            signing_key=SecretStr(KEY),
        )
        assert copy.signatures.holds, str(copy.signatures)
        assert copy.problem().name == "run"


def test_a_study_without_an_archive_is_copied_and_not_exported(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    storage.create_study("plain").enqueue_trial({"x": 1})
    copy_study(
        from_study_name="plain",
        from_storage=storage,
        from_artifacts=artifacts,
        to_storage=storage,
        to_study_name="copy",
    )
    assert len(storage.load_study("copy").trials) == 1
    with pytest.raises(ArchiveError, match="has no archive"):
        ArchivedStudy.load("plain", storage=storage, artifacts=artifacts)


# -- what goes wrong -----------------------------------------------------------------------------


def test_a_study_that_exists_is_left_alone(
    storage: StudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    file = archived_study(storage, artifacts).export(tmp_path / "hares.zip")
    before = artifacts.glob("**")
    with pytest.raises(StudyMismatchError, match=r"a study 'hares'.*study_name="):
        ArchivedStudy.import_(file, storage=storage, artifacts=artifacts)
    with pytest.raises(StudyNotFoundError, match="hare"):
        copy_study(from_study_name="hare", from_storage=storage, to_storage=storage)
    assert artifacts.glob("**") == before
    assert storage.study_names() == ["hares"]


@pytest.mark.parametrize("lost", ["result", "blob"])
def test_an_archive_whose_files_were_deleted_is_carried_nowhere(
    lost: str,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    original = archived_study(storage, artifacts)
    reference = original.study.trials[1].user_attrs["result"]["path"]
    artifacts.rm(reference if lost == "result" else blob_path(original.versions[0].code_version))
    with pytest.raises(ArchiveError, match="incomplete"):
        original.export(tmp_path / "hares.zip")
    with pytest.raises(ArchiveError, match="incomplete"):
        copy_study(
            from_study_name="hares",
            from_storage=storage,
            from_artifacts=artifacts,
            to_storage="memory://carry-lost",
            to_artifacts=elsewhere,
        )
    assert list(tmp_path.glob("*.zip*")) == []
    assert InMemoryStudyStorage(name="carry-lost").study_names() == []
    assert [path for path in elsewhere.glob("**") if "/trials/" in path] == []


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _one_byte_changed(content: bytes) -> bytes:
    middle = content.index(b"ARROW1") + 40
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [_truncated, _one_byte_changed, lambda _: b"", lambda _: b"no zip at all"]
)
def test_a_damaged_file_brings_nothing_in(
    damage: Callable[[bytes], bytes],
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    file = archived_study(storage, artifacts).export(tmp_path / "hares.zip")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ArchiveError, match=r"hares\.zip .*nothing has been imported"):
        ArchivedStudy.import_(file, storage="memory://carry-damaged", artifacts=elsewhere)
    assert elsewhere.glob("**") == []
    assert InMemoryStudyStorage(name="carry-damaged").study_names() == []


def rewritten(
    file: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None], **kinds: int
) -> Path:
    """The same export with other entries, as somebody with bad intentions would write it."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    index = json.loads(entries.pop("index.json"))
    change(index, entries)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content, kinds.get("files", zipfile.ZIP_STORED))
        archive.writestr("index.json", json.dumps(index), zipfile.ZIP_DEFLATED)
    return file


def _newer(index: dict[str, Any], _: dict[str, bytes]) -> None:
    index["format"] = 99


def _other_kind(index: dict[str, Any], _: dict[str, bytes]) -> None:
    index["kind"] = "something else"


def _without_study(index: dict[str, Any], _: dict[str, bytes]) -> None:
    del index["study"]


def _renamed(new: str) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(index: dict[str, Any], entries: dict[str, bytes]) -> None:
        old = next(path for path in index["files"] if "/trials/" in path)
        new_path = new.replace("UUID", index["uuid"])
        index["files"][new_path] = index["files"].pop(old)
        entries[f"files/{new_path}"] = entries.pop(f"files/{old}")

    return change


def _file_more(_: dict[str, Any], entries: dict[str, bytes]) -> None:
    entries["files/more"] = b"1"


def _trials_forged(_: dict[str, Any], entries: dict[str, bytes]) -> None:
    entries["trials.jsonl"] = entries["trials.jsonl"].replace(b"COMPLETE", b"FAIL")


def _result_forged(_: dict[str, Any], entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.endswith(".arrow"))
    entries[name] = entries[name][:-1] + bytes([entries[name][-1] ^ 1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_newer, "pip install --upgrade prefect-optuna"),
        (_other_kind, "something else"),
        (_without_study, "KeyError: 'study'"),
        (_renamed("../../outside"), "no file of this study"),
        (_renamed("studies/UUID/../../outside"), "no file of this study"),
        (_renamed("/absolute"), "no file of this study"),
        (_renamed("studies/other/trials/0.arrow"), "no file of this study"),
        (_renamed("studies/UUID/owners/mine.json"), "no file of this study"),
        (_renamed("blobs/00/00"), "no file of this study"),
        (_renamed("studies/UUID/brought_along.py"), "no file of this study"),
        (_renamed("studies/UUID/trials/__init__.py"), "no file of this study"),
        (_renamed("studies/UUID/trials/000000.arrow.py"), "no file of this study"),
        (_renamed(f"studies/UUID/artifacts/objects/00/{'0' * 64}.py"), "no artifact handler"),
        (_renamed("optuna/brought_along.py"), "no file of this study"),
        (_file_more, "other entries than its index"),
        (_trials_forged, "trials are not those"),
        (_result_forged, "is not what was written"),
    ],
)
def test_a_file_of_somebody_with_bad_intentions_is_refused(
    change: Callable[[dict[str, Any], dict[str, bytes]], None],
    words: str,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    file = rewritten(archived_study(storage, artifacts).export(tmp_path / "hares.zip"), change)
    with pytest.raises(ArchiveError, match=words):
        ArchivedStudy.import_(file, storage="memory://carry-bad", artifacts=elsewhere)
    assert elsewhere.glob("**") == []
    assert InMemoryStudyStorage(name="carry-bad").study_names() == []


def _undirected(index: dict[str, Any], _: dict[str, bytes]) -> None:
    index["study"]["directions"] = ["NOT_SET"]


def _half_a_letter(index: dict[str, Any], _: dict[str, bytes]) -> None:
    index["study"]["user_attrs"]["\ud800"] = 1


def _trial_changed(change: Callable[[dict[str, Any]], object]) -> Any:
    def changed(index: dict[str, Any], entries: dict[str, bytes]) -> None:
        trials = [json.loads(line) for line in entries["trials.jsonl"].splitlines()]
        change([trial for trial in trials if trial["params"]][-1])
        text = "".join(f"{json.dumps(trial)}\n" for trial in trials).encode()
        entries["trials.jsonl"] = text
        index["trials"] = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}

    return changed


@pytest.mark.parametrize(
    "change",
    [
        _undirected,
        _half_a_letter,
        _trial_changed(lambda trial: trial["intermediate_values"].update({str(10**30): 0.5})),
        _trial_changed(
            lambda trial: trial["distributions"].update(
                {
                    "x": {
                        "name": "CategoricalDistribution",
                        "attributes": {"choices": [trial["params"]["x"]]},
                    }
                }
            )
        ),
    ],
)
def test_what_a_storage_cannot_keep_brings_nothing_in(
    change: Any,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    file = rewritten(archived_study(storage, artifacts).export(tmp_path / "hares.zip"), change)
    there = f"sqlite:///{tmp_path / 'there.db'}"
    with pytest.raises(ArchiveError, match="cannot keep"):
        ArchivedStudy.import_(file, storage=there, artifacts=elsewhere)
    assert elsewhere.glob("**") == []
    assert optuna.get_all_study_names(there) == []


def test_files_that_would_unpack_to_more_than_they_are_are_refused(
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    file = archived_study(storage, artifacts).export(tmp_path / "hares.zip")
    rewritten(file, lambda index, entries: None, files=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match="not as large as its index says"):
        ArchivedStudy.import_(file, storage="memory://carry-deflated", artifacts=elsewhere)


def test_a_copy_that_fails_half_way_leaves_nothing(
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    original = archived_study(storage, artifacts)
    target = InMemoryStudyStorage(name=f"carry-{tmp_path.name}")
    real = target.get_storage()
    made: list[int] = []

    def fails(study_id: int, template_trial: FrozenTrial | None = None) -> int:
        made.append(study_id)
        if len(made) == 3:
            raise KeyboardInterrupt
        return type(real).create_new_trial(real, study_id, template_trial)

    real.create_new_trial = fails  # pyright: ignore[reportAttributeAccessIssue]
    common: dict[str, Any] = {
        "from_study_name": "hares",
        "from_storage": storage,
        "from_artifacts": artifacts,
        "to_storage": target,
        "to_artifacts": elsewhere,
    }
    with pytest.raises(KeyboardInterrupt):
        copy_study(**common)
    assert target.study_names() == []
    assert elsewhere.glob("**") == []
    copy_study(**common)
    assert_same(ArchivedStudy.load("hares", storage=target, artifacts=elsewhere), original)


def everything(storage: StudyStorage, artifacts: ArtifactFileSystem) -> Any:
    """All that is in a storage and in a filesystem, byte for byte."""
    studies = [vars(study) for study in storage.get_storage().get_all_studies()]
    trials = [storage.load_study(name).trials for name in storage.study_names()]
    files = {path: artifacts.read_path(path) for path in artifacts.glob("**")}
    return studies, trials, artifacts.ls("studies"), files


_WRITES = (
    *("create_new_study", "delete_study", "create_new_trial"),
    *("set_study_user_attr", "set_study_system_attr"),
)


@contextlib.contextmanager
def failing(
    storage: StudyStorage, artifacts: ArtifactFileSystem, at: int, *, after: bool
) -> Iterator[list[str]]:
    """Let the n-th write to a storage and a filesystem fail, before or after it was done."""
    calls: list[str] = []
    real = storage.get_storage()
    store = type(artifacts._store)

    def patched(call: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
        def write(*args: Any, **kwargs: Any) -> Any:
            calls.append(call.__name__)
            if len(calls) != at + 1:
                return call(*args, **kwargs)
            if after:
                call(*args, **kwargs)
            raise error

        return write

    with pytest.MonkeyPatch.context() as patch:
        for name in _WRITES:
            patch.setattr(real, name, patched(getattr(real, name), KeyboardInterrupt()))
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(store, "create", patched(store.create, full))
        yield calls


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", ["import", "copy"])
def test_whichever_write_fails_storage_and_files_are_as_before(
    way: str,
    after: bool,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    file = archived_study(storage, artifacts).export(tmp_path / "hares.zip")
    target = InMemoryStudyStorage(name=f"fails-{tmp_path.name}")
    other = target.create_study("lynxes")  # shares the environment
    OptunaArchive(other, artifacts=elsewhere).save_problem(
        Problem(suggest=suggest, run=run, evaluate=float)
    )
    before = everything(target, elsewhere)

    def bring_in() -> None:
        if way == "import":
            ArchivedStudy.import_(file, storage=target, artifacts=elsewhere)
        else:
            copy_study(
                from_study_name="hares",
                from_storage=storage,
                from_artifacts=artifacts,
                to_storage=target,
                to_artifacts=elsewhere,
            )

    for at in itertools.count():
        with failing(target, elsewhere, at, after=after) as calls:
            notes: list[str] = []
            try:
                bring_in()
                break
            except (KeyboardInterrupt, StorageUnavailableError) as error:
                notes = getattr(error, "__notes__", [])
        assert notes == [], (at, calls[at])
        assert everything(target, elsewhere) == before, (at, calls[at])
    assert at > 20
    assert set(calls) == {*_WRITES, "create"} - {"delete_study"}
    copy = ArchivedStudy.load("hares", storage=target, artifacts=elsewhere)
    assert len(copy.result(0)["curve"]) == len(SCALE)


def _member_paths(file: Path) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


@pytest.mark.parametrize("how", ["damaged", "truncated", "dropped", "forgotten"])
def test_whichever_member_of_an_export_is_damaged_nothing_is_brought_in(
    how: str,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    exported = archived_study(storage, artifacts).export(tmp_path / "hares.zip")
    target = InMemoryStudyStorage(name=f"members-{tmp_path.name}")
    before = everything(target, elsewhere)
    for member in _member_paths(exported):
        file = tmp_path / "damaged.zip"
        with zipfile.ZipFile(exported) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        content = entries.pop(member)
        path = member.removeprefix("files/")
        if how == "damaged":
            middle = len(content) // 2
            changed = bytes([content[middle] ^ 1])
            entries[member] = content[:middle] + changed + content[middle + 1 :]
        elif how == "truncated":
            entries[member] = content[: len(content) // 2]
        elif how == "forgotten":  # by the index as well, as somebody would do it on purpose
            # What nothing refers to is not missed: only a list of runs could tell of it.
            if not path.startswith("blobs/") and not re.search("/(needs|trials)/", path):
                continue
            index = json.loads(entries["index.json"])
            del index["files"][path]
            entries["index.json"] = json.dumps(index).encode()
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in entries.items():
                archive.writestr(name, text, zipfile.ZIP_STORED)
        with pytest.raises(ArchiveError):
            ArchivedStudy.import_(file, storage=target, artifacts=elsewhere)
        assert everything(target, elsewhere) == before, member
    assert not (tmp_path / "elsewhere").exists()  # nothing was written, not even for a moment


def _no_versions(index: dict[str, Any], _: dict[str, bytes]) -> None:
    attributes = index["study"]["user_attrs"]
    for name in [name for name in attributes if name.startswith("backupContext:")]:
        del attributes[name]


def _damaged_version(index: dict[str, Any], _: dict[str, bytes]) -> None:
    attributes = index["study"]["user_attrs"]
    name = next(name for name in attributes if name.startswith("backupContext:"))
    attributes[name]["code_version"] = "0" * 64


def _damaged_head(index: dict[str, Any], _: dict[str, bytes]) -> None:
    index["study"]["user_attrs"]["backupContext"]["format"] = "two"


def _code_that_is_an_environment(index: dict[str, Any], _: dict[str, bytes]) -> None:
    attributes = index["study"]["user_attrs"]
    name = next(name for name in attributes if name.startswith("backupContext:"))
    version = Version.model_validate(attributes.pop(name))
    version = version.model_copy(update={"code_version": version.environment})
    attributes[f"backupContext:{version.id}"] = version.to_json()


@pytest.mark.parametrize(
    "change", [_no_versions, _damaged_version, _damaged_head, _code_that_is_an_environment]
)
def test_a_damaged_manifest_brings_nothing_in(
    change: Callable[[dict[str, Any], dict[str, bytes]], None],
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    file = rewritten(archived_study(storage, artifacts).export(tmp_path / "hares.zip"), change)
    target = InMemoryStudyStorage(name=f"manifest-{tmp_path.name}")
    with pytest.raises(ArchiveError):
        ArchivedStudy.import_(file, storage=target, artifacts=elsewhere)
    assert target.study_names() == []
    assert elsewhere.glob("**") == []


def test_a_copy_whose_process_was_killed_is_made_anew(
    storage: StudyStorage, artifacts: ArtifactFileSystem, elsewhere: ArtifactFileSystem
) -> None:
    original = archived_study(storage, artifacts)
    target = InMemoryStudyStorage(name="carry-killed")
    half = target.create_study("hares")
    half.add_trial(original.study.trials[0])
    storage_there = target.get_storage()
    storage_there.set_study_system_attr(half._study_id, parcel_module._UNFINISHED, True)
    copy_study(
        from_study_name="hares",
        from_storage=storage,
        from_artifacts=artifacts,
        to_storage=target,
        to_artifacts=elsewhere,
    )
    assert_same(ArchivedStudy.load("hares", storage=target, artifacts=elsewhere), original)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    artifacts = ArtifactFileSystem(url=str(folder / "artifacts"))
    return archived_study(storage_of("memory", folder), artifacts).export(folder / "hares.zip")


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_is_changed_in_a_file_it_is_the_same_study_or_an_error(
    data: st.DataObject, exported: Path
) -> None:
    content = bytearray(exported.read_bytes())
    with read_parcel(exported) as parcel:
        expected = without_id(list(parcel.trials))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    damaged = exported.with_name("damaged.zip")
    damaged.write_bytes(content)
    with contextlib.suppress(ArchiveError), read_parcel(damaged) as parcel:
        assert without_id(list(parcel.trials)) == expected


def test_a_folder_is_no_export(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="IsADirectoryError"), read_parcel(tmp_path):
        pass


def test_an_export_that_cannot_be_written_says_so(
    storage: StudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    original = archived_study(storage, artifacts)
    with pytest.raises(ArchiveError, match=r"cannot be written to .*a folder that exists"):
        original.export(tmp_path / "nowhere" / "hares.zip")
    with pytest.raises(ArchiveError, match="There is no file"):
        ArchivedStudy.import_(tmp_path / "nothing.zip", storage="memory://", artifacts=artifacts)


def test_what_is_no_part_of_an_archive_is_not_exported(
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    archived = archived_study(storage, artifacts)
    folder = f"studies/{archived.manifest.uuid}"
    for path in ("notes.txt", "trials/helper.py", "artifacts/trash/run/started"):
        artifacts.write_path(f"{folder}/{path}", b"import os")
    file = archived.export(tmp_path / "hares.zip")
    copy = ArchivedStudy.import_(file, storage="memory://carry-parts", artifacts=elsewhere)
    assert_same(copy, archived)
    assert not [
        p for p in elsewhere.glob("**") if p.endswith(("helper.py", "notes.txt", "started"))
    ]


def test_a_logged_artifact_is_the_one_that_its_trial_names(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = storage.create_study("hares")
    trial = study.ask()
    log_artifact(trial, "note", "a good start", artifacts=artifacts)
    version = log_artifact(trial, "other", "a bad end", artifacts=artifacts)
    reference = trial.user_attrs["artifact:note"]
    for path in artifacts.glob("studies/*/artifacts/versions/**"):
        content = artifacts.read_path(path)
        if reference["sha256"].encode() in content:
            forged = content.replace(reference["sha256"].encode(), version.sha256.encode())
            artifacts.write_path(path, forged)
    with pytest.raises(ArtifactLoadError, match="is not what was logged"):
        load_artifact(trial, "note", artifacts=artifacts)


def test_a_short_key_brings_nothing_in(
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    elsewhere: ArtifactFileSystem,
    tmp_path: Path,
) -> None:
    file = archived_study(storage, artifacts).export(tmp_path / "hares.zip")
    target = InMemoryStudyStorage(name=f"short-{tmp_path.name}")
    with pytest.raises(InvalidSettingError, match="16 characters"):
        ArchivedStudy.import_(
            file, storage=target, artifacts=elsewhere, signing_key=SecretStr("short")
        )
    assert target.study_names() == []
    assert elsewhere.glob("**") == []


@pytest.mark.parametrize("claim", ["folder", "manifest"])
def test_an_import_that_claims_to_be_a_study_that_is_here_is_refused(
    claim: str, storage: StudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    file = archived_study(storage, artifacts).export(tmp_path / "hares.zip")

    def other_index(index: dict[str, Any], entries: dict[str, bytes]) -> None:
        del entries
        index["study"]["user_attrs"]["backupContext"]["uuid"] = "another"

    if claim == "manifest":
        rewritten(file, other_index)
    else:
        # Files that the export brings along, and that are not there any more.
        artifacts.rm(f"{artifacts.ls('studies')[0]}/trials", recursive=True)
    before = {path: artifacts.read_path(path) for path in artifacts.glob("**")}
    with pytest.raises(ArchiveError, match=r"Nothing has been imported"):
        ArchivedStudy.import_(file, storage=storage, artifacts=artifacts, study_name="lynxes")
    assert storage.study_names() == ["hares"]
    assert {path: artifacts.read_path(path) for path in artifacts.glob("**")} == before


def test_a_forged_reevaluation_does_not_get_into_the_folder_of_a_study_that_is_here(
    storage: StudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    victim = archived_study(storage, artifacts)
    file = victim.export(tmp_path / "hares.zip")
    forged = f"studies/{victim.manifest.uuid}/reevaluations/20990101T000000-00000000.json"

    def forge(index: dict[str, Any], entries: dict[str, bytes]) -> None:
        content = b"{}"
        digest = hashlib.sha256(content).hexdigest()
        index["files"][forged] = {"bytes": len(content), "sha256": digest}
        entries[f"files/{forged}"] = content

    rewritten(file, forge)
    before = everything(storage, artifacts)
    for target, name in ((storage, "lynxes"), (InMemoryStudyStorage(), "hares")):
        with pytest.raises(ArchiveError, match="Nothing has been imported"):
            ArchivedStudy.import_(file, storage=target, artifacts=artifacts, study_name=name)
    assert everything(storage, artifacts) == before
    assert victim.reevaluations() == []


def test_a_copy_in_the_same_folder_changes_no_file_of_the_other(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    original = archived_study(storage, artifacts)
    before = {path: artifacts.read_path(path) for path in artifacts.glob("**")}
    copy_study(
        from_study_name="hares",
        from_storage=storage,
        from_artifacts=artifacts,
        to_storage=storage,
        to_study_name="copy",
    )
    copy = ArchivedStudy.load("copy", storage=storage, artifacts=artifacts)
    log_artifact(copy.study, "notes", "of the copy", artifacts=artifacts, overwrite=True)
    after = {path: artifacts.read_path(path) for path in artifacts.glob("**")}
    changed = [path for path in before if before[path] != after[path] and "/marks/" not in path]
    assert changed == []
    assert load_artifact(original.study, "notes", artifacts=artifacts) == "a good start"
    assert load_artifact(copy.study, "notes", artifacts=artifacts) == "of the copy"
