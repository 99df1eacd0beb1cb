"""Each part of an archive, forged in turn, is refused."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InMemoryStudyStorage,
    StudyStorage,
)
from prefect_optuna.errors import ArchiveSignatureError
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code.restore import restore_problem
from prefect_optuna.tasks.archive.record.trial_records import TrialSigner
from prefect_optuna.tasks.archive.series.blobs import blob_path

KEY = "a key of thirty-two characters.."
AXIS = [1.0, 2.0]


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    trial.set_constraint("room", 1.0)
    return {
        "x": trial.suggest_float("x", -1, 1),
        "kind": trial.suggest_categorical("kind", "ab"),
        "flag": trial.suggest_categorical("flag", [True]),
    }


def run(params: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    return {"curve": [params["x"], context["table"][0]]}


def evaluate(result: dict[str, Any]) -> float:
    return result["curve"][0] ** 2


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate, context={"table": np.arange(2000.0)})


class Archived:
    """A signed study, its storage and its files, and what a forger does to them."""

    def __init__(self, name: str) -> None:
        self.storage: StudyStorage = InMemoryStudyStorage(name=f"forgery-{name}")
        self.artifacts = ArtifactFileSystem(url=f"memory://forgery-{name}")
        self.study = self._signed("hares", "scope")
        self.other = self._signed("lynxes", "other scope")

    def _signed(self, name: str, scope: str, uuid: str = "") -> optuna.Study:
        study = self.storage.create_study(name)
        if uuid:
            study._storage.set_study_system_attr(study._study_id, "prefect_optuna:uuid", uuid)
        archive = OptunaArchive(study, artifacts=self.artifacts)
        for version in range(2):
            archive.save_problem(PROBLEM, scope={"of": scope, "version": version})
            signer = archive.signer()
            assert signer is not None
            for _ in range(2):
                _tell(study, archive, signer)
            signer.close()
        study.set_user_attr("axis:day", AXIS)
        study.set_user_attr("timeseries:hare", {"axes": ["day"]})
        archive.sign()
        return study

    def load(self) -> ArchivedStudy:
        return ArchivedStudy.load("hares", storage=self.storage, artifacts=self.artifacts)

    def attributes(self) -> dict[str, Any]:
        """The study's attributes, open to changes."""
        storage: Any = self.storage.get_storage()
        assert isinstance(storage, InMemoryStorage)
        return storage._studies[self.study._study_id].user_attrs

    def version(self, place: int) -> tuple[str, dict[str, Any]]:
        found = [(k, v) for k, v in self.attributes().items() if k.startswith("backupContext:")]
        return sorted(found, key=lambda item: item[1]["first_trial"])[place]

    def trial(self, number: int = 0) -> FrozenTrial:
        """A trial as it is stored, open to changes."""
        storage: Any = self.storage.get_storage()
        return storage._studies[self.study._study_id].trials[number]

    def forge_blob(self, digest: str) -> None:
        path = blob_path(digest)
        self.artifacts.write_path(path, self.artifacts.read_path(path).replace(b"a", b"A"))


def _tell(study: optuna.Study, archive: OptunaArchive, signer: TrialSigner) -> None:
    study.enqueue_trial({"x": (len(study.trials) + 1) / 8})
    trial = study.ask()
    result = run(suggest(trial), {"table": [0.0]})
    trial.report(0.5, 0)
    reference = archive.writer().write(trial.number, result)
    stored = study._storage.get_trial(trial._trial_id)
    value = evaluate(result)
    attributes = {"scope": {"seed": 1}, "result": reference}
    attributes = signer.signed(stored, attributes, TrialState.COMPLETE, [value])
    for name, content in attributes.items():
        trial.set_user_attr(name, content)
    signer.told(study.tell(trial, value))


@pytest.fixture
def archived(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Archived:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY", KEY)
    name = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return Archived(name)


def test_what_nobody_has_forged_runs(archived: Archived) -> None:
    assert archived.load().problem().name == "run"
    assert archived.load().signatures.holds


# -- covered by digests: refused with a key and without ------------------------------------------


def _code(archived: Archived) -> None:
    archived.forge_blob(archived.version(0)[1]["code_version"])


def _context(archived: Archived) -> None:
    capture = archived.load().capture(0)
    (digest,) = capture.document["blobs"]
    archived.forge_blob(digest)


def _environment(archived: Archived) -> None:
    archived.forge_blob(archived.version(0)[1]["environment"])


def _other_code(archived: Archived) -> None:
    name, version = archived.version(0)
    other = OptunaArchive(archived.study, artifacts=archived.artifacts)
    code = other.save_problem(Problem(objective=lambda trial: 0.0))
    archived.attributes()[name] = {**version, "code_version": code}


def _other_first_trial(archived: Archived) -> None:
    name, version = archived.version(1)
    archived.attributes()[name] = {**version, "first_trial": 0}


def _other_scope(archived: Archived) -> None:
    name, version = archived.version(0)
    archived.attributes()[name] = {**version, "scope": {"of": "mine"}}


def _versions_swapped(archived: Archived) -> None:
    (name, first), (other_name, second) = archived.version(0), archived.version(1)
    archived.attributes().update({name: second, other_name: first})


@pytest.mark.parametrize(
    "forge",
    [
        _code,
        _context,
        _environment,
        _other_code,
        _other_first_trial,
        _other_scope,
        _versions_swapped,
    ],
)
@pytest.mark.parametrize("with_key", [True, False])
def test_what_digests_cover_is_refused_with_a_key_and_without(
    forge: Callable[[Archived], None],
    with_key: bool,
    archived: Archived,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forge(archived)
    if not with_key:
        monkeypatch.delenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY")
    with pytest.raises(ArchiveError):
        archived.load().problem(trusted=True)


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize("with_key", [True, False])
def test_a_forged_result_is_refused_when_it_is_read(
    with_key: bool, archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archived.trial().user_attrs["result"]["path"]
    other = archived.trial(1).user_attrs["result"]["path"]
    archived.artifacts.write_path(path, archived.artifacts.read_path(other))
    if not with_key:
        monkeypatch.delenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY")
    with pytest.raises(ArchiveError, match="is not what was archived"):
        archived.load().result(0)


# -- covered by signatures -----------------------------------------------------------------------


def _manifest_field(name: str, value: Any) -> Callable[[Archived], None]:
    def forge(archived: Archived) -> None:
        archived.attributes()["backupContext"][name] = value

    forge.__name__ = f"manifest's {name}"
    return forge


def _trial_field(name: str, value: Any) -> Callable[[Archived], None]:
    def forge(archived: Archived) -> None:
        setattr(archived.trial(), name, value)

    forge.__name__ = f"trial's {name}"
    return forge


def _attribute(name: str, value: Any) -> Callable[[Archived], None]:
    def forge(archived: Archived) -> None:
        archived.attributes()[name] = value

    forge.__name__ = f"attribute {name}"
    return forge


def _version_s_time(archived: Archived) -> None:
    name, version = archived.version(0)
    archived.attributes()[name] = {**version, "created": "2020-01-01T00:00:00+00:00"}


def _version_removed(archived: Archived) -> None:
    del archived.attributes()[archived.version(1)[0]]


def _version_added(archived: Archived) -> None:
    keys, archive = archived, OptunaArchive(archived.study, artifacts=archived.artifacts)
    archive._keys = None
    archive.save_problem(Problem(suggest=suggest, run=lambda params: 0.0))
    assert len(keys.load().versions) == 3


def _version_of_another_study(archived: Archived) -> None:
    theirs = archived.other.user_attrs
    archived.attributes().update({k: v for k, v in theirs.items() if k.startswith("backupCon")})


def _manifest_of_another_study(archived: Archived) -> None:
    for name in [name for name in archived.attributes() if name.startswith("backupContext")]:
        del archived.attributes()[name]
    _version_of_another_study(archived)


def _signature_removed(archived: Archived) -> None:
    del archived.attributes()["backupContext"]["signature"]


def _parameter(archived: Archived) -> None:
    archived.trial()._params["x"] += 1e-9


def _category(archived: Archived) -> None:
    trial = archived.trial()
    trial._params["kind"] = "a" if trial._params["kind"] == "b" else "b"


def _distribution(archived: Archived) -> None:
    archived.trial()._distributions["x"] = optuna.distributions.FloatDistribution(-2, 1)


def _values(archived: Archived) -> None:
    archived.trial().values = [-1.0]


def _intermediate_value(archived: Archived) -> None:
    archived.trial().intermediate_values[0] = 0.25


def _trial_s_scope(archived: Archived) -> None:
    archived.trial()._user_attrs["scope"] = {"seed": 2}


def _result_reference(archived: Archived) -> None:
    theirs = archived.trial(1).user_attrs["result"]
    mine = archived.trial()._user_attrs["result"]
    archived.trial()._user_attrs["result"] = {**theirs, "signature": mine["signature"]}


def _whole_trial(archived: Archived) -> None:
    archived.trial()._user_attrs.update(archived.trial(1).user_attrs)


def _trial_of_another_study(archived: Archived) -> None:
    archived.trial().__dict__.update(archived.other.trials[0].__dict__)


def _trial_of_a_study_that_was_given_the_same_uuid(archived: Archived) -> None:
    twin = archived._signed("twins", "scope", archived.load().manifest.uuid)
    archived.trial().__dict__.update(twin.trials[0].__dict__)


def _trial_of_another_version(archived: Archived) -> None:
    result = archived.trial()._user_attrs["result"]
    version = archived.trial(3).user_attrs["result"]["signature"]["version"]
    archived.trial()._user_attrs["result"] = {
        **result,
        "signature": {**result["signature"], "version": version},
    }


def _trial_s_signature_removed(archived: Archived) -> None:
    result = archived.trial()._user_attrs["result"]
    archived.trial()._user_attrs["result"] = {
        key: value for key, value in result.items() if key != "signature"
    }


def _unsigned(archived: Archived, state: TrialState) -> None:
    trial = archived.trial()
    trial.state, trial.values, trial._user_attrs = state, None, {}


def _failed(archived: Archived) -> None:
    _unsigned(archived, TrialState.FAIL)


def _running(archived: Archived) -> None:
    _unsigned(archived, TrialState.RUNNING)


def _last_trial_missing(archived: Archived) -> None:
    storage: Any = archived.storage.get_storage()
    storage._studies[archived.study._study_id].trials.pop()


def _all_trials_of_a_run_missing(archived: Archived) -> None:
    _last_trial_missing(archived)
    _last_trial_missing(archived)


def _newest_version_and_its_trials_removed(archived: Archived) -> None:
    _version_removed(archived)
    _all_trials_of_a_run_missing(archived)


def _newest_run_removed(archived: Archived) -> None:
    _newest_version_and_its_trials_removed(archived)
    runs = [name for name in archived.attributes() if name.startswith("signature:run:")]
    del archived.attributes()[runs[-1]]


def _trial_twice(archived: Archived) -> None:
    twice = copy.deepcopy(archived.trial(0))
    twice.number, twice._trial_id = 4, 1000
    storage: Any = archived.storage.get_storage()
    storage._studies[archived.study._study_id].trials.append(twice)


def _two_trials_in_each_other_s_place(archived: Archived) -> None:
    one, other = archived.trial(0), archived.trial(1)
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    one.number, other.number = other.number, one.number


def _axis_and_its_signature_removed(archived: Archived) -> None:
    del archived.attributes()["axis:day"]
    archived.attributes().pop("signature:axis:day")


def _true_becomes_one(archived: Archived) -> None:
    archived.trial()._params["flag"] = 1


def _constraint(archived: Archived) -> None:
    archived.trial()._system_attrs["constraints:room"] = -1.0


def _former_constraints(archived: Archived) -> None:
    archived.trial()._system_attrs["constraints"] = [1.0]


def _enqueued(archived: Archived) -> None:
    archived.trial()._system_attrs["fixed_params"] = {"x": 0.25}


def _directions(archived: Archived) -> None:
    storage: Any = archived.storage.get_storage()
    storage._studies[archived.study._study_id].directions = [optuna.study.StudyDirection.MAXIMIZE]


@pytest.mark.parametrize(
    "forge",
    [
        _manifest_field("kind", "something else"),
        _manifest_field("format", 1),
        _manifest_field("uuid", "0b8f"),
        _manifest_field("artifacts", "s3://somebody-else"),
        _manifest_field("created", "2020-01-01T00:00:00+00:00"),
        _manifest_field("added", 1),
        _signature_removed,
        _version_s_time,
        _version_removed,
        _version_added,
        _version_of_another_study,
        _manifest_of_another_study,
        _attribute("axis:day", [1.0, 3.0]),
        _attribute("axis:year", [1.0]),
        _attribute("timeseries:hare", {"axes": []}),
        _attribute("signature:axis:day", "text"),
        _attribute("entrypoint:run", "run"),
        _parameter,
        _category,
        _distribution,
        _values,
        _intermediate_value,
        _trial_s_scope,
        _trial_field("state", TrialState.PRUNED),
        _trial_field("number", 1),
        _result_reference,
        _whole_trial,
        _trial_of_another_study,
        _trial_of_a_study_that_was_given_the_same_uuid,
        _trial_of_another_version,
        _trial_s_signature_removed,
        _directions,
        _failed,
        _running,
        _last_trial_missing,
        _all_trials_of_a_run_missing,
        _newest_version_and_its_trials_removed,
        _newest_run_removed,
        _trial_twice,
        _two_trials_in_each_other_s_place,
        _axis_and_its_signature_removed,
        _true_becomes_one,
        _constraint,
        _former_constraints,
        _enqueued,
    ],
    ids=lambda forge: forge.__name__.strip("_"),
)
def test_what_signatures_cover_is_refused_trusted_or_not(
    forge: Callable[[Archived], None], archived: Archived
) -> None:
    forge(archived)
    for trusted in (True, False):
        with pytest.raises(ArchiveSignatureError, match="does not run, trusted or not"):
            archived.load().problem(trusted=trusted)


def test_a_study_that_was_put_back_to_what_it_was_holds(archived: Archived) -> None:
    """This nobody can see here: SECURITY.md says so."""
    before = dict(archived.attributes())
    archive = OptunaArchive(archived.study, artifacts=archived.artifacts)
    archive.save_problem(PROBLEM, scope={"of": "later"})
    signer = archive.signer()
    assert signer is not None
    _tell(archived.study, archive, signer)
    signer.close()
    assert archived.load().signatures.complete
    _last_trial_missing(archived)
    assert not archived.load().signatures.holds
    archived.attributes().clear()
    archived.attributes().update(before)
    assert archived.load().signatures.complete


def test_a_removed_attribute_is_missed(archived: Archived) -> None:
    del archived.attributes()["axis:day"]
    with pytest.raises(ArchiveSignatureError, match="'axis:day' is gone"):
        archived.load().problem()


@pytest.mark.parametrize("part", ["number", "values", "gone"])
def test_what_was_signed_afterwards_is_covered_as_well(
    part: str, archived: Archived, tmp_path: Path
) -> None:
    study = archived.study
    for value in (0.5, 0.75):
        study.tell(study.ask(), value)
    with pytest.raises(ArchiveSignatureError, match="Trials 4, 5: each is not signed"):
        archived.load().problem()
    OptunaArchive(study, artifacts=archived.artifacts).sign()
    assert archived.load().signatures.holds
    if part == "number":
        archived.trial(4).number = 5
    elif part == "values":
        archived.trial(4).values = [0.25]
    else:
        del archived.attributes()["signature:trials"]
    with pytest.raises(ArchiveSignatureError, match=r"4, 5|5, 5"):
        archived.load().problem()


@pytest.mark.parametrize("numbers", [",".join(["0-9999999"] * 300), "0-9999999,5-9999999", "0,0"])
def test_a_forged_list_of_what_was_signed_afterwards_costs_nothing(
    numbers: str, archived: Archived
) -> None:
    study = archived.study
    study.tell(study.ask(), 0.5)
    OptunaArchive(study, artifacts=archived.artifacts).sign()
    assert archived.load().signatures.holds
    archived.attributes()["signature:trials"]["numbers"] = numbers
    tracemalloc.start()
    try:
        assert not archived.load().signatures.holds
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 26


@pytest.mark.usefixtures("in_files")
def test_a_result_of_another_study_is_refused_without_a_key(
    archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY")
    theirs = archived.other.trials[0].user_attrs["result"]
    assert json.dumps(theirs)
    archived.trial()._user_attrs["result"] = theirs
    with pytest.raises(ArchiveError, match="is not of this study"):
        archived.load().result(0)


def _damaged_places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each part of some JSON."""
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    return [
        way for key, part in items for way in [(*path, key), *_damaged_places(part, (*path, key))]
    ]


@pytest.mark.parametrize("other", [None, 7, "x", [[]], {"$tuple": 1}], ids=json.dumps)
def test_a_document_damaged_anywhere_is_an_archive_error_though_it_is_trusted(other: Any) -> None:
    capture = Capture.of(PROBLEM)
    for *owner, last in _damaged_places(capture.document):
        document = copy.deepcopy(capture.document)
        held = document
        for key in owner:
            held = held[key]
        held[last] = other
        with contextlib.suppress(ArchiveError):  # or it makes no difference
            restore_problem(Capture(document, capture.blobs))
