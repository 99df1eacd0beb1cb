"""What lazyscribe's projects and experiments are here: a study, and what its trials log."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import optuna
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    ArtifactLogError,
    ArtifactRepository,
    ReadOnlyError,
    VersionNotFoundError,
    as_study_storage,
    load_artifact,
    log_artifact,
    log_metric,
    log_parameter,
    logged_metrics,
    logged_parameters,
    logged_tags,
    tag,
)
from prefect_optuna.blocks.artifacts import artifact_key
from prefect_optuna.blocks.artifacts.trial_log import logged_artifacts
from prefect_optuna.blocks.study_storage import study_uuid
from prefect_optuna.errors import CorruptArtifactError, InvalidSettingError


@pytest.fixture
def artifacts() -> ArtifactFileSystem:
    return ArtifactFileSystem(url=f"memory://{uuid4()}")


@pytest.fixture(params=["memory", "journal", "sqlite"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    url = {
        "memory": f"memory://{uuid4()}",
        "journal": f"journal:///{tmp_path}/studies.journal",
        "sqlite": f"sqlite:///{tmp_path}/studies.db",
    }[request.param]
    return as_study_storage(url).create_study("lynx-hare")


def test_LZ9_LZ10_a_running_trial_is_written_and_an_ended_one_only_read(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    trial = study.ask()
    log_metric(trial, "rmse", 0.5)
    log_artifact(trial, "fit", [1.0, 2.0], artifacts=artifacts)
    frozen = study.tell(trial, 1.0)
    there = artifacts.glob("**")
    for ended in (trial, frozen):
        for act in (
            lambda trial: log_metric(trial, "rmse", 0.1),
            lambda trial: log_parameter(trial, "a", 1),
            lambda trial: tag(trial, "late"),
            lambda trial: log_artifact(trial, "late", {}, artifacts=artifacts),
        ):
            with pytest.raises(ReadOnlyError, match=r"Trial 0 has ended.*to the study"):
                act(ended)
        assert logged_metrics(ended) == {"rmse": 0.5}
        assert load_artifact(ended, "fit", artifacts=artifacts) == [1.0, 2.0]
    assert artifacts.glob("**") == there


def test_LZ11_what_is_read_is_a_copy(study: optuna.Study) -> None:
    trial = study.ask()
    log_metric(trial, "rmse", 0.5)
    tag(trial, "a")
    logged_metrics(trial)["hack"] = 1
    logged_tags(trial).append("hack")
    assert logged_metrics(trial) == {"rmse": 0.5}
    assert logged_tags(trial) == ["a"]


def test_LZ12_a_trial_that_fails_keeps_what_it_logged_as_a_failed_trial(
    study: optuna.Study,
) -> None:
    def objective(trial: optuna.Trial) -> float:
        log_metric(trial, "seen", trial.number)
        if trial.number == 0:
            raise RuntimeError
        return 1.0

    study.optimize(objective, n_trials=2, catch=RuntimeError)
    states = [(trial.state.name, logged_metrics(trial)) for trial in study.trials]
    assert states == [("FAIL", {"seen": 0}), ("COMPLETE", {"seen": 1})]


def test_LZ13_trials_of_one_moment_have_artifacts_of_their_own(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    trials = [study.ask() for _ in range(3)]
    for trial in trials:
        log_artifact(trial, "fit", {"number": trial.number}, artifacts=artifacts)
    log_artifact(study, "fit", "the study's", artifacts=artifacts)
    loaded = [load_artifact(trial, "fit", artifacts=artifacts) for trial in trials]
    assert loaded == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert load_artifact(study, "fit", artifacts=artifacts) == "the study's"


def test_LZ14_the_last_metric_counts_and_tags_repeat_until_they_are_cleared(
    study: optuna.Study,
) -> None:
    trial = study.ask()
    log_metric(trial, "rmse", 1)
    log_metric(trial, "rmse", np.float32(0.5))
    log_parameter(trial, "solver", "lsoda")
    log_parameter(trial, "steps", np.int64(7))
    tag(trial, "a", "b")
    tag(trial, "a")
    assert logged_metrics(trial) == {"rmse": 0.5}
    assert logged_parameters(trial) == {"solver": "lsoda", "steps": 7}
    assert logged_tags(trial) == ["a", "b", "a"]
    tag(trial, "c", overwrite=True)
    assert logged_tags(trial) == ["c"]
    tag(trial, overwrite=True)
    assert logged_tags(trial) == []
    with pytest.raises(ArtifactLogError, match="log_artifact"):
        log_metric(trial, "series", np.arange(3))


def test_LZ15_a_second_artifact_of_a_name_has_to_be_meant_and_loses_nothing(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    trial = study.ask()
    log_artifact(trial, "fit", "first", artifacts=artifacts)
    with pytest.raises(ArtifactLogError, match="overwrite=True"):
        log_artifact(trial, "fit", "second", artifacts=artifacts)
    assert load_artifact(trial, "fit", artifacts=artifacts) == "first"
    assert log_artifact(trial, "fit", "second", artifacts=artifacts, overwrite=True).version == 1
    assert load_artifact(trial, "fit", artifacts=artifacts) == "second"
    repository = ArtifactRepository(artifacts, f"studies/{study_uuid(study)}/artifacts", mode="r")
    assert repository.load("trial 0: fit", version=0) == "first"
    assert repository.verify().problems == ()


def test_LZ19_what_cannot_be_written_changes_nothing(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    trial = study.ask()
    for name, value, handler, error in (
        ("fit", object(), "json", ArtifactLogError),
        ("../fit", {}, None, InvalidSettingError),
        ("fit", {}, "no such handler", ValueError),
    ):
        with pytest.raises(error):
            log_artifact(trial, name, value, handler, artifacts=artifacts)
    assert trial.user_attrs == {}
    assert artifacts.glob("studies/*/artifacts/**") == []


def test_LZ23_nobody_s_entry_is_lost(study: optuna.Study, artifacts: ArtifactFileSystem) -> None:
    log_artifact(study, "first", "", artifacts=artifacts)

    def log(number: int) -> None:
        trial = study.ask()
        log_metric(trial, "number", number)
        log_artifact(trial, "number", number, artifacts=artifacts)
        log_artifact(study, f"number {number}", number, artifacts=artifacts)

    threads = [threading.Thread(target=log, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [logged_metrics(trial)["number"] for trial in study.trials]
    assert sorted(numbers) == list(range(8))
    for trial in study.trials:
        assert load_artifact(trial, "number", artifacts=artifacts) == numbers[trial.number]
    for number in range(8):
        assert load_artifact(study, f"number {number}", artifacts=artifacts) == number


def test_LZ24_the_tests_of_a_trial_are_names_with_a_slash(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    trial = study.ask()
    for season in ("wet", "dry"):
        log_metric(trial, f"{season}/rmse", len(season))
        log_artifact(trial, f"{season}/residuals", [season], artifacts=artifacts)
    assert logged_metrics(trial) == {"wet/rmse": 3, "dry/rmse": 3}
    assert load_artifact(trial, "dry/residuals", artifacts=artifacts) == ["dry"]


def test_LZ25_trials_are_found_by_what_they_logged(study: optuna.Study) -> None:
    for number in range(4):
        trial = study.ask()
        tag(trial, "even" if number % 2 == 0 else "odd")
        study.tell(trial, number)
    assert [t.number for t in study.trials if "even" in logged_tags(t)] == [0, 2]


def test_LZ26_a_study_can_use_an_artifact_of_another(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    upstream = as_study_storage(f"memory://{uuid4()}").create_study("upstream")
    log_artifact(upstream, "climate", [3, 4], artifacts=artifacts)
    trial = study.ask()
    log_parameter(trial, "climate of", study_uuid(upstream))
    assert load_artifact(upstream, "climate", artifacts=artifacts) == [3, 4]
    assert logged_parameters(trial) == {"climate of": study_uuid(upstream)}
    assert study_uuid(study) != study_uuid(upstream)


def test_LZ33_a_release_is_a_repository_as_of_a_time(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    log_artifact(study, "model", "1", artifacts=artifacts)
    repository = ArtifactRepository(artifacts, f"studies/{study_uuid(study)}/artifacts")
    release = repository.filter(datetime.now(UTC))
    log_artifact(study, "model", "2", artifacts=artifacts, overwrite=True)
    assert (release.load("model"), repository.load("model")) == ("1", "2")


def test_what_is_not_there_is_an_error_that_says_what_is(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    with pytest.raises(VersionNotFoundError, match=r"'lynx-hare' has no artifact 'fit'.*none"):
        load_artifact(study, "fit", artifacts=artifacts)
    log_artifact(study, "fits", 1, artifacts=artifacts)
    with pytest.raises(VersionNotFoundError, match="'fits'"):
        load_artifact(study, "fit", artifacts=artifacts)
    with pytest.raises(VersionNotFoundError):
        load_artifact(study, "fits", artifacts=f"memory://{uuid4()}")


def test_damage_is_noticed(study: optuna.Study, artifacts: ArtifactFileSystem) -> None:
    version = log_artifact(study, "fit", "sound", artifacts=artifacts)
    artifacts.write_path(version.path, b"unsound")
    with pytest.raises(CorruptArtifactError):
        load_artifact(study, "fit", artifacts=artifacts)


def test_a_study_of_a_name_that_was_given_before_has_a_folder_of_its_own(
    study: optuna.Study,
) -> None:
    storage = study._storage
    before = study_uuid(study)
    optuna.delete_study(study_name="lynx-hare", storage=storage)
    assert study_uuid(optuna.create_study(study_name="lynx-hare", storage=storage)) != before


@pytest.mark.usefixtures("prefect_server")
def test_what_is_published_is_a_timeline_in_prefect(artifacts: ArtifactFileSystem) -> None:
    study = as_study_storage(f"memory://{uuid4()}").create_study(f"shown {uuid4().hex[:8]}")
    for number in range(2):
        trial = study.ask()
        log_artifact(trial, "best fit", {"of": number}, artifacts=artifacts, publish=True)
    key = artifact_key(study.study_name, "best fit")
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        )
    pages = sorted(str(page.data) for page in shown)
    assert len(pages) == 2
    for number, page in enumerate(pages):
        assert f'"of": {number}' in page
        assert f"trial {number}" in page
        assert "version" not in page  # each trial counts its own
        assert logged_artifacts(study.trials[number]) == ["best fit"]
        assert f"load_artifact(study.trials[{number}], 'best fit'" in page


@pytest.mark.usefixtures("prefect_server")
def test_a_version_of_a_repository_can_be_published(artifacts: ArtifactFileSystem) -> None:
    name = f"model {uuid4().hex[:8]}"
    repository = ArtifactRepository(artifacts, "models")
    for value in ("first", "second"):
        repository.log(name, value, publish=True)
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[artifact_key(None, name)]))
        )
    assert len(shown) == 2
    assert any(f".load({name!r}, 1)" in str(page.data) for page in shown)
    assert repository.load(name) == "second"
