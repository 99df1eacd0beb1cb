"""What deleted studies leave behind goes when it is asked for, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import optuna
import pytest

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    InvalidSettingError,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
    load_artifact,
    log_artifact,
)
from prefect_optuna.blocks.patience import PatientStorage
from prefect_optuna.blocks.study_storage import storage_identity, study_uuid
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem, collect_garbage
from prefect_optuna.tasks.archive.series.blobs import blob_path, needed_blobs, write_blobs


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> StudyStorage:
    name = "journal:///{}/studies.journal" if request.param == "journal" else "sqlite:///{}/s.db"
    return as_study_storage(name.format(tmp_path))


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return as_artifact_filesystem(tmp_path / "artifacts")


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def problem_with(weights: np.ndarray) -> Problem:
    def run(params: dict[str, float]) -> float:
        return float(params["x"] * weights.sum())

    return Problem(suggest=suggest, run=run)


def archived_study(
    storage: StudyStorage, artifacts: ArtifactFileSystem, name: str, problem: Problem
) -> optuna.Study:
    study = storage.create_study(name)
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(problem)
    trial = study.ask()
    trial.set_user_attr("result", archive.writer().write(trial.number, {"s": [1.0, 2.0]}))
    log_artifact(trial, "fit", {"slope": 1.0}, artifacts=artifacts)
    study.tell(trial, 1.0)
    return study


def test_the_folder_of_a_deleted_study_goes_and_what_others_share_stays(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    shared = problem_with(np.arange(1000.0))
    kept = archived_study(storage, artifacts, "kept", shared)
    gone = archived_study(storage, artifacts, "gone", shared)
    alone = archived_study(storage, artifacts, "alone", problem_with(np.ones(1000)))
    folders = {study.study_name: f"studies/{study_uuid(study)}" for study in (gone, alone)}
    only_alone_s = needed_blobs(artifacts, folders["alone"]) - needed_blobs(
        artifacts, f"studies/{study_uuid(kept)}"
    )
    for study in (gone, alone):
        optuna.delete_study(study_name=study.study_name, storage=storage.get_storage())
    before = artifacts.glob("**")

    garbage = collect_garbage(artifacts, storage)
    assert garbage.dry_run
    assert {one.name: one.folder for one in garbage.studies} == folders
    assert set(garbage.blobs) == only_alone_s
    assert artifacts.glob("**") == before, "a dry run changes nothing"
    assert "study 'gone' in studies/" in str(garbage)
    assert "dry_run=False" in str(garbage)

    removed = collect_garbage(artifacts, storage, dry_run=False)
    assert (removed.studies, removed.blobs) == (garbage.studies, garbage.blobs)
    assert sum(one.files for one in garbage.studies) + len(garbage.blobs) == len(before) - len(
        artifacts.glob("**")
    )
    archived = ArchivedStudy.load("kept", storage=storage, artifacts=artifacts)
    assert archived.problem(trusted=True).call("run", {"x": 1.0}) == 499500.0
    assert archived.result(0) == {"s": [1.0, 2.0]}
    assert load_artifact(kept.trials[0], "fit", artifacts=artifacts) == {"slope": 1.0}
    assert str(collect_garbage(artifacts, storage)) == "There is no garbage."


def test_what_belongs_elsewhere_or_to_nobody_known_stays(
    storage: StudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    other = as_study_storage(f"journal:///{tmp_path}/other.journal")
    problem = problem_with(np.arange(10.0))
    archived_study(other, artifacts, "other", problem)
    in_memory = as_study_storage("memory://")
    archived_study(in_memory, artifacts, f"memory {tmp_path.name}", problem)
    damaged = archived_study(storage, artifacts, "damaged", problem)
    strange = f"studies/{study_uuid(damaged)}/owners/strange.json"
    optuna.delete_study(study_name="damaged", storage=storage.get_storage())
    artifacts.write_path(strange, b"{")
    artifacts.write_path("studies/notes.txt", b"mine")
    assert collect_garbage(artifacts, storage).studies == ()
    artifacts.write_path(strange, json.dumps({"storage": "elsewhere"}).encode())
    assert collect_garbage(artifacts, storage).studies == ()


def test_the_folder_of_a_copied_study_goes_with_the_last_copy(
    storage: StudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    archived_study(storage, artifacts, "copied", problem_with(np.arange(10.0)))
    other = as_study_storage(f"journal:///{tmp_path}/other.journal")
    optuna.copy_study(
        from_study_name="copied",
        from_storage=storage.get_storage(),
        to_storage=other.get_storage(),
    )
    optuna.delete_study(study_name="copied", storage=storage.get_storage())
    assert collect_garbage(artifacts, [storage, other]).studies == ()
    optuna.delete_study(study_name="copied", storage=other.get_storage())
    assert len(collect_garbage(artifacts, [storage, other]).studies) == 1


def test_expired_artifacts_of_studies_that_go_on_are_removed(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    from prefect_optuna.blocks import ArtifactRepository

    study = archived_study(storage, artifacts, "goes on", problem_with(np.arange(10.0)))
    draft = log_artifact(study, "draft", "all wrong", artifacts=artifacts)
    ArtifactRepository(artifacts, f"studies/{study_uuid(study)}/artifacts").expire("draft")
    garbage = collect_garbage(artifacts, storage)
    assert [(v.name, v.version) for v in garbage.versions] == [("draft", 0)]
    assert collect_garbage(artifacts, storage, dry_run=False).objects == (draft.path,)
    assert load_artifact(study.trials[0], "fit", artifacts=artifacts) == {"slope": 1.0}


_CALLS = ("ls", "copy", "rm", "exists", "read_many", "create", "glob", "info")


def interrupted(act: Callable[[], object], at: int, by: Callable[[], object]) -> None:
    """Run one thing, and another in the middle of it: before its filesystem call number `at`."""
    calls = 0

    def counting(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at:
                by()
            return call(*arguments, **options)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for name in _CALLS:
            patch.setattr(ArtifactFileSystem, name, counting(getattr(ArtifactFileSystem, name)))
        act()


def test_a_writer_and_a_run_of_gc_may_come_in_the_middle_of_each_other(
    artifacts: ArtifactFileSystem, storage: StudyStorage
) -> None:
    folder = f"studies/{study_uuid(storage.create_study('writes'))}"

    def collect() -> None:
        collect_garbage(artifacts, storage, dry_run=False)

    for step in range(1, 40):
        content = str(step).encode()
        write = partial(write_blobs, artifacts, folder, [content])
        for act, by in ((collect, write), (write, collect)):
            # The blob is there and nobody needs it: the worst moment to begin to need it.
            artifacts.write_path(blob_path(sha256(content).hexdigest()), content)
            interrupted(act, step, by)
            missing = needed_blobs(artifacts, folder) - {
                path.rpartition("/")[2] for path in artifacts.glob("blobs/*/*")
            }
            assert missing == set(), step
            for needs in artifacts.ls(f"{folder}/needs"):
                artifacts.rm(needs)


def test_a_storage_whose_deleted_studies_nobody_knows_is_refused(
    artifacts: ArtifactFileSystem,
) -> None:
    with pytest.raises(InvalidSettingError, match="in memory"):
        collect_garbage(artifacts, "memory://")


def test_a_storage_that_is_waited_for_is_the_same_storage(storage: StudyStorage) -> None:
    kept = storage.get_storage()
    identity = storage_identity(kept)
    assert identity is not None
    assert storage_identity(PatientStorage(kept)) == identity
