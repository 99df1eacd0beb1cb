"""Signed archives: by whom, of what, and where the key never is."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.blocks.system import Secret
from pydantic import SecretStr

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InvalidSettingError,
    JournalStudyStorage,
    SQLStudyStorage,
    StorageUnavailableError,
    StudyStorage,
)
from prefect_optuna.errors import ArchiveSignatureError, UntrustedArchiveError
from prefect_optuna.flows import optimize
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive.record.manifest import SigningKeys, canonical

KEY = "a key of thirty-two characters.."
OTHER_KEY = "another key that nobody here has"
SETTING = "PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY"


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -1, 1), "kind": trial.suggest_categorical("kind", "ab")}


def run(params: dict[str, Any]) -> dict[str, Any]:
    return {"curve": [params["x"], 2.0]}


def evaluate(result: dict[str, Any]) -> float:
    return result["curve"][0] ** 2


def square(params: dict[str, Any]) -> float:
    return params["x"] ** 2


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    trial.report(x, 0)
    trial.set_user_attr("note", {"of": [x, None]})
    if trial.number == 1:
        raise optuna.TrialPruned
    if trial.number == 2:
        raise ArithmeticError("too far")
    return x


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "artifacts"))


@pytest.fixture
def storage(tmp_path: Path) -> StudyStorage:
    return JournalStudyStorage(path=tmp_path / "studies.journal")


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, KEY)


def signed_study(storage: StudyStorage, artifacts: ArtifactFileSystem) -> optuna.Study:
    """A study with one trial, in a loop of its own, signed with the key of the settings."""
    study = storage.create_study("hares")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    trial = study.ask()
    result = run(suggest(trial))
    trial.set_user_attr("result", archive.writer().write(trial.number, result))
    study.tell(trial, evaluate(result))
    archive.sign()
    return study


@pytest.mark.usefixtures("key")
def test_OA27_a_signature_that_holds_needs_no_trust(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    signed_study(storage, artifacts)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert archived.problem().call("run", {"x": 3.0}) == {"curve": [3.0, 2.0]}
    assert archived.signatures.holds
    (key_id,) = archived.signatures.keys
    assert f"Signed with the key {key_id}; the signatures hold" in archived.describe()


def test_an_archive_without_signatures_runs_only_where_there_is_no_key(
    storage: StudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = storage.create_study("hares")
    OptunaArchive(study, artifacts=artifacts).save_problem(PROBLEM)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert "Not signed" in archived.describe()
    with pytest.raises(UntrustedArchiveError, match="trusted=True"):
        archived.problem()
    assert archived.problem(trusted=True).name == "run"
    monkeypatch.setenv(SETTING, KEY)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    with pytest.raises(ArchiveSignatureError, match=r"The manifest is not signed.*\.sign\(\)"):
        archived.problem(trusted=True)
    assert "The manifest is not signed" in archived.describe()
    OptunaArchive(study, artifacts=artifacts).sign()
    assert ArchivedStudy.load("hares", storage=storage, artifacts=artifacts).problem().name == "run"


def test_the_key_of_somebody_else_has_a_message_of_its_own(
    storage: StudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, OTHER_KEY)
    signed_study(storage, artifacts)
    theirs, ours = SigningKeys(OTHER_KEY).id, SigningKeys(KEY).id
    archived = ArchivedStudy.load(
        "hares", storage=storage, artifacts=artifacts, signing_key=SecretStr(KEY)
    )
    with pytest.raises(ArchiveSignatureError, match=f"signed with the key '{theirs}'.*{ours}"):
        archived.problem(trusted=True)
    monkeypatch.delenv(SETTING)
    unchecked = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert f"Signed with the key {theirs}, which is not configured here" in unchecked.describe()
    with pytest.raises(UntrustedArchiveError):
        unchecked.problem()
    assert unchecked.problem(trusted=True).name == "run"


def test_a_key_is_replaced_by_putting_the_new_one_before_it(
    storage: StudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, KEY)
    study = signed_study(storage, artifacts)
    monkeypatch.setenv(SETTING, f"{OTHER_KEY},{KEY}")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(Problem(suggest=suggest, run=square))
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert archived.signatures.holds
    assert set(archived.signatures.keys) == {SigningKeys(KEY).id, SigningKeys(OTHER_KEY).id}


def test_a_key_comes_from_a_secret_block(
    prefect_server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    Secret(value=SecretStr(KEY)).save("archive-key", overwrite=True, _sync=True)  # pyright: ignore[reportCallIssue]
    monkeypatch.setenv(f"{SETTING}_BLOCK", "archive-key")
    keys = SigningKeys.configured()
    assert keys is not None
    assert keys.id == SigningKeys(KEY).id
    monkeypatch.setenv(f"{SETTING}_BLOCK", "no-such-block")
    with pytest.raises(StorageUnavailableError, match="no-such-block"):
        SigningKeys.configured()
    Secret(value={"a": 1}).save("archive-no-key", overwrite=True, _sync=True)  # pyright: ignore[reportCallIssue]
    monkeypatch.setenv(f"{SETTING}_BLOCK", "archive-no-key")
    with pytest.raises(InvalidSettingError, match="as text, found dict"):
        SigningKeys.configured()


@pytest.mark.parametrize("short", ["", "short", f"{KEY},short", " , "])
def test_a_short_key_is_refused_and_not_repeated(short: str) -> None:
    with pytest.raises(InvalidSettingError, match="16 characters") as error:
        SigningKeys(short)
    assert KEY not in str(error.value)


@pytest.mark.usefixtures("key")
def test_the_key_is_in_no_repr_no_pickle_no_attribute_and_no_file(
    storage: StudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    study = signed_study(storage, artifacts)
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    keys = SigningKeys(KEY)
    shown = [repr(keys), str(keys), repr(archive), repr(archived), archived.describe()]
    assert not [text for text in shown if KEY in text]
    assert KEY.encode() not in pickle.dumps(archive.writer())
    for dump in (pickle.dumps, cloudpickle.dumps):
        for holder in (keys, archive, archived):
            with pytest.raises(TypeError):
                dump(holder)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize("kind", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("key", "prefect_server")
def test_a_flow_signs_every_trial_that_it_tells(
    kind: str,
    tmp_path: Path,
    artifacts: ArtifactFileSystem,
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage: StudyStorage = (
        JournalStudyStorage(path=tmp_path / "studies.journal")
        if kind == "journal"
        else SQLStudyStorage(url=SecretStr(f"sqlite:///{tmp_path / 'studies.db'}"))
    )
    common: dict[str, Any] = {
        "storage": storage,
        "artifacts": artifacts,
        "seed": 1,
    }
    optimize(PROBLEM, study_name="curves", n_trials=2, **common)
    optimize(objective, study_name="plain", n_trials=4, catch=ArithmeticError, **common)
    for name in ("curves", "plain"):
        archived = ArchivedStudy.load(name, storage=storage, artifacts=artifacts)
        assert archived.signatures.holds, str(archived.signatures)
        trials = archived.study.trials
        assert all("signature" in json.dumps(trial.user_attrs) for trial in trials)
    states = [trial.state.name for trial in archived.study.trials]
    assert states == ["COMPLETE", "PRUNED", "FAIL", "COMPLETE"]
    # With a result, the signature is part of the attribute that the trial has anyway.
    first = storage.load_study("curves").trials[0]
    assert set(first.user_attrs) == {"result", "seed"}
    assert KEY not in caplog.text


def test_there_is_nothing_to_sign_with_or_nothing_to_be_signed(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = storage.create_study("hares")
    archive = OptunaArchive(study, artifacts=artifacts)
    with pytest.raises(ArchiveError, match="no archive to sign"):
        archive.sign()
    archive.save_problem(PROBLEM)
    with pytest.raises(ArchiveError, match=SETTING):
        archive.sign()


@pytest.mark.usefixtures("key")
def test_what_was_changed_is_not_signed_again(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = signed_study(storage, artifacts)
    manifest = study.user_attrs["backupContext"]
    study.set_user_attr("backupContext", {**manifest, "created": "2020-01-01"})
    with pytest.raises(ArchiveError, match="has been changed after it was signed"):
        OptunaArchive(study, artifacts=artifacts).sign()


@pytest.mark.usefixtures("key")
def test_trials_that_are_about_to_run_are_checked_once_more(
    storage: StudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = signed_study(storage, artifacts)
    lost = study.ask()
    suggest(lost)
    study.tell(lost, state=optuna.trial.TrialState.FAIL)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    archived.require_trust()
    first, failed = archived.study.trials
    archived.verify_trials([first])
    with pytest.raises(ArchiveSignatureError, match="Trial 1 is not signed"):
        archived.verify_trials([failed])  # it counts for nothing, and has parameters
    first.params = {**first.params, "x": 0.123}
    with pytest.raises(ArchiveSignatureError, match=r"0.* has been changed"):
        archived.verify_trials([first])
    monkeypatch.delenv(SETTING)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    archived.verify_trials([first, failed])


def test_a_trial_names_its_version_where_two_flows_run_at_once(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = storage.create_study("hares")
    one, two = (OptunaArchive(study, artifacts=artifacts) for _ in range(2))
    one.save_problem(PROBLEM, scope={"flow": 1})
    two.save_problem(PROBLEM, scope={"flow": 2})
    for archive in (two, one):
        trial = study.ask()
        result = run(suggest(trial))
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        study.tell(trial, 1.0)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    scopes = [archived.scope(archived.version_of(number))["flow"] for number in range(2)]
    assert scopes == [2, 1]


@pytest.mark.usefixtures("key")
def test_what_a_worker_has_stored_of_a_trial_is_signed(
    storage: StudyStorage, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    study = storage.create_study("hares")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    signer = archive.signer()
    assert signer is not None
    trial = study.ask()
    elsewhere = JournalStudyStorage(path=tmp_path / "studies.journal").load_study("hares")
    worker = optuna.Trial(elsewhere, trial._trial_id)
    suggest(worker)
    worker.report(0.25, 0)
    worker.set_user_attr("note", "of a worker")
    stored = storage.get_storage().get_trial(trial._trial_id)
    for name, value in signer.signed(stored, {}, optuna.trial.TrialState.PRUNED, None).items():
        trial.set_user_attr(name, value)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert archived.signatures.holds, str(archived.signatures)
    assert archived.study.trials[0].user_attrs["note"] == "of a worker"


@pytest.mark.usefixtures("key")
def test_a_run_that_was_killed_leaves_a_gap_until_somebody_signs_what_is_there(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = storage.create_study("hares")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    signer = archive.signer()
    assert signer is not None
    trial = study.ask()
    stored = storage.get_storage().get_trial(trial._trial_id)
    for name, value in signer.signed(stored, {}, optuna.trial.TrialState.COMPLETE, [1.0]).items():
        trial.set_user_attr(name, value)
    signer.told(study.tell(trial, 1.0))  # and here it is killed
    signatures = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts).signatures
    assert signatures.holds
    assert not signatures.complete
    assert "with gaps" in str(signatures)
    assert "is under way, or was killed" in str(signatures)
    OptunaArchive(study, artifacts=artifacts).sign()
    signatures = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts).signatures
    assert signatures.complete, str(signatures)
    assert "the signatures hold, and nothing is missing" in str(signatures)


@pytest.mark.usefixtures("key")
def test_a_trial_that_was_told_otherwise_than_it_was_signed_is_in_no_list(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = storage.create_study("hares")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    signer = archive.signer()
    assert signer is not None
    complete = optuna.trial.TrialState.COMPLETE
    for value in (3.0, 1.0):
        trial = study.ask()
        stored = storage.get_storage().get_trial(trial._trial_id)
        for name, content in signer.signed(stored, {}, complete, [1.0]).items():
            trial.set_user_attr(name, content)
        signer.told(study.tell(trial, value))
    signer.close()
    first, second = study.trials
    assert first.user_attrs["signature"]["place"] == second.user_attrs["signature"]["place"] == 0
    signatures = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts).signatures
    assert signatures.problems == ("Trial 0 has been changed after it was signed.",)


_KEYS = st.text() | st.integers() | st.booleans() | st.none() | st.floats()
_JSON = st.recursive(
    st.text() | st.integers() | st.booleans() | st.none() | st.floats(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.dictionaries(_KEYS, inner)
    ),
)


@given(_JSON)
def test_what_is_signed_is_what_a_storage_gives_back(content: Any) -> None:
    stored = json.dumps(content)
    assert canonical(content) == canonical(json.loads(stored))
    text = json.dumps(json.loads(stored), sort_keys=True, separators=(",", ":"))
    assert canonical(content) == text.encode("ascii")


def test_what_is_no_json_is_not_signed() -> None:
    inside_itself: list[Any] = []
    inside_itself.append(inside_itself)
    for content in (inside_itself, {"a": object()}, {(1, 2): 3}):
        with pytest.raises(ArchiveError, match="Only what is JSON can be signed"):
            canonical(content)
