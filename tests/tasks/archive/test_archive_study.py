"""Archives of studies: written, loaded, verified, and refused when they are not what they were."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import pickle
import shutil
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from textwrap import dedent
from typing import Any

import cloudpickle
import numpy as np
import optuna
import pyarrow as pa
import pytest

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InMemoryStudyStorage,
    JournalStudyStorage,
    StudyNotFoundError,
    StudyStorage,
)
from prefect_optuna.errors import CaptureError, UntrustedArchiveError
from prefect_optuna.tasks import ArchivedStudy, Environment, OptunaArchive, Problem
from prefect_optuna.tasks.archive import BACKUP_CONTEXT, ResultWriter, read_result
from prefect_optuna.tasks.archive.record.manifest import Version, write_version
from prefect_optuna.tasks.archive.series.blobs import blob_path
from prefect_optuna.tasks.archive.series.results import inline_digest

SCALE = np.linspace(0.0, 1.0, 500)
DAYS = [1, 2, 3]


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def run(params: dict[str, float], context: dict[str, Any]) -> dict[str, Any]:
    return {"curve": params["x"] * SCALE[: len(DAYS)], "gain": context["gain"]}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["curve"].sum() * result["gain"])


def other_run(params: dict[str, float]) -> float:
    return params["x"]


PROBLEM = Problem(
    suggest=suggest, run=run, evaluate=evaluate, context={"gain": 2.0}, axes={"day": DAYS}
)


@pytest.fixture(params=["memory", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> StudyStorage:
    if request.param == "memory":
        return InMemoryStudyStorage(name=f"archive-{tmp_path.name}")
    return JournalStudyStorage(path=tmp_path / "journal.log")


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "artifacts"))


@pytest.fixture
def study(storage: StudyStorage) -> optuna.Study:
    return storage.create_study("hares")


@pytest.fixture(autouse=True)
def without_script_and_diff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files here are counted; what a study keeps of its script has tests of its own."""
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_SOURCES", "false")


def first_version(study: optuna.Study) -> tuple[str, dict[str, Any]]:
    """The study's attribute that holds the first version of its archive, and its name."""
    found = [(k, v) for k, v in study.user_attrs.items() if k.startswith(f"{BACKUP_CONTEXT}:")]
    return min(found, key=lambda item: item[1]["first_trial"])


@pytest.fixture(autouse=True)
def no_restored_modules() -> Generator[None]:
    """Restored code is restored anew in each test."""
    yield
    from prefect_optuna.tasks.archive.code import restore

    restore._restored.clear()
    for name in [name for name in sys.modules if name.startswith("prefect_optuna_archive_")]:
        if "." not in name:
            cloudpickle.unregister_pickle_by_value(sys.modules[name])
    for name in [name for name in sys.modules if name.startswith("prefect_optuna_archive_")]:
        del sys.modules[name]


def archived_trial(study: optuna.Study, writer: ResultWriter, x: float) -> int:
    trial = study.ask()
    result = PROBLEM.call("run", {"x": x})
    trial.set_user_attr("result", writer.write(trial.number, result))
    study.tell(trial, evaluate(result))
    return trial.number


def test_a_study_comes_back_with_its_problem_and_its_results(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM, scope={"seed": 3})
    number = archived_trial(study, archive.writer(), 0.5)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    problem = archived.problem(trusted=True)
    result = problem.call("run", {"x": 0.5})
    np.testing.assert_array_equal(result["curve"], archived.result(number)["curve"])
    assert problem.evaluate(result) == archived.study.trials[number].value
    assert problem.suggest is not suggest
    assert (problem.axes, problem.context) == ({"day": DAYS}, {"gain": 2.0})
    assert problem.directions == ("minimize",)
    assert archived.scope() == {"seed": 3}
    assert archived.environment.python == Environment.capture().python


def test_the_manifest_is_small_and_everything_large_is_a_file(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    big = Problem(suggest=suggest, run=other_run, context={"field": np.zeros((1000, 1000))})
    OptunaArchive(study, artifacts=artifacts).save_problem(big)
    assert len(json.dumps(study.user_attrs[BACKUP_CONTEXT])) < 2000


def test_saving_twice_is_saving_once(study: optuna.Study, artifacts: ArtifactFileSystem) -> None:
    version = OptunaArchive(study, artifacts=artifacts).save_problem(PROBLEM)
    name, first = first_version(study)
    study.set_user_attr(name, {**first, "created": "2020-01-01T00:00:00+00:00"})
    attributes, files = study.user_attrs, artifacts.glob("**")
    again = OptunaArchive(study, artifacts=artifacts)
    assert again.code_version == version
    assert again.save_problem(PROBLEM) == version
    assert study.user_attrs == attributes
    assert artifacts.glob("**") == files
    assert again.notes == ()


def test_changed_code_is_a_new_version_from_the_next_trial_on(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    first = archive.save_problem(PROBLEM)
    archived_trial(study, archive.writer(), 0.5)
    second = archive.save_problem(Problem(suggest=suggest, run=other_run))
    assert first != second == archive.code_version
    assert archive.notes == ("The problem's code or context changed before trial 1.",)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert [(v.first_trial, v.code_version) for v in archived.versions] == [(0, first), (1, second)]
    assert archived.problem(trusted=True).call("run", {"x": 3.0}) == 3.0
    assert archived.problem(trusted=True, version=0).name == "run"
    with pytest.raises(ArchiveError, match="versions 0 to 1, and no version 2"):
        archived.problem(trusted=True, version=2)


def test_a_changed_scope_is_a_new_version(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM, scope={"n": 1})
    archive.save_problem(PROBLEM, scope={"n": 2})
    assert archive.notes == ("The scope changed before trial 0.",)


def test_studies_of_one_problem_share_its_files(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    for name in ("one", "two"):
        OptunaArchive(storage.create_study(name), artifacts=artifacts).save_problem(PROBLEM)
    one, two = (storage.load_study(name) for name in ("one", "two"))
    assert one.user_attrs[BACKUP_CONTEXT]["uuid"] != two.user_attrs[BACKUP_CONTEXT]["uuid"]
    assert first_version(one)[1]["code_version"] == first_version(two)[1]["code_version"]
    assert len(artifacts.glob("blobs/*/*")) == 3  # code, array, environment


def test_flows_that_save_at_the_same_time_leave_a_valid_archive(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    problems = [Problem(suggest=suggest, run=other_run, context={"n": n}) for n in range(4)]
    ready = threading.Barrier(len(problems))
    saved: list[str] = []

    def save(problem: Problem) -> None:
        archive = OptunaArchive(storage.load_study("hares"), artifacts=artifacts)
        ready.wait()
        saved.append(archive.save_problem(problem))

    threads = [threading.Thread(target=save, args=(problem,)) for problem in problems]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    found = {version.code_version for version in archived.versions}
    assert found <= set(saved)
    assert found


def test_other_artifacts_than_those_of_the_archive_are_refused(
    study: optuna.Study, artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    OptunaArchive(study, artifacts=artifacts).save_problem(PROBLEM)
    elsewhere = OptunaArchive(study, artifacts=tmp_path / "elsewhere")
    with pytest.raises(ArchiveError) as error:
        elsewhere.save_problem(PROBLEM)
    assert artifacts.location() in str(error.value)
    assert "artifacts=..." in str(error.value)


# -- trust --------------------------------------------------------------------------------------


def test_nothing_is_executed_unless_it_is_trusted(
    study: optuna.Study,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    traces = tmp_path / "traces"
    (tmp_path / "noisy.py").write_text(
        dedent(f"""
        from pathlib import Path
        class Noisy:
            Path({str(traces)!r}).write_text("executed")
        def run(params): return Noisy
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    noisy = importlib.import_module("noisy")
    OptunaArchive(study, artifacts=artifacts).save_problem(Problem(suggest=suggest, run=noisy.run))
    traces.unlink()
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    archived.describe()
    archived.source()
    with pytest.raises(UntrustedArchiveError) as error:
        archived.problem()
    assert "trusted=True" in str(error.value)
    assert ".source()" in str(error.value)
    assert not traces.exists()
    archived.problem(trusted=True)
    assert traces.read_text() == "executed"
    del sys.modules["noisy"]


def test_restored_code_lives_in_modules_of_its_own(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    version = OptunaArchive(study, artifacts=artifacts).save_problem(PROBLEM)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    restored = archived.problem(trusted=True).run
    assert restored is not None
    assert restored.__module__.startswith(f"prefect_optuna_archive_{version[:12]}.")
    assert restored.__globals__ is vars(sys.modules[restored.__module__])
    assert restored.__globals__["SCALE"] is not SCALE
    assert archived.problem(trusted=True).run is restored


def test_tracebacks_and_inspect_show_the_restored_source(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    OptunaArchive(study, artifacts=artifacts).save_problem(PROBLEM)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    problem = archived.problem(trusted=True)
    assert problem.run is not None
    assert problem.evaluate is not None
    assert inspect.getsource(problem.run) == inspect.getsource(run)
    with pytest.raises(KeyError) as error:
        problem.evaluate({})
    last = traceback.extract_tb(error.value.__traceback__)[-1]
    assert last.line == 'return float(result["curve"].sum() * result["gain"])'


# -- reading ------------------------------------------------------------------------------------


def test_what_is_in_an_archive_is_described(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    version = archive.save_problem(PROBLEM)
    archived_trial(study, archive.writer(), 0.5)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    text = archived.describe()
    for part in (
        "'hares'",
        version[:12],
        "with an archived result: 1",
        "evaluate",
        "gain",
        "day",
    ):
        assert part in text
    source = archived.source()
    assert "def evaluate(result: dict[str, Any]) -> float:" in source
    assert "import numpy as np" not in source  # it is not needed
    assert "# SCALE = " in source


def test_a_study_without_an_archive_says_how_to_get_one(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    with pytest.raises(ArchiveError, match=r"'hares' has no archive.*save_problem"):
        ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    with pytest.raises(StudyNotFoundError, match="hares"):
        ArchivedStudy.load("hare", storage=storage, artifacts=artifacts)


def test_an_archive_without_a_study_says_so(artifacts: ArtifactFileSystem) -> None:
    with pytest.raises(ArchiveError, match="no study"):
        OptunaArchive(artifacts=artifacts).save_problem(PROBLEM)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes() + b" "), "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
    ],
    ids=["deleted", "truncated", "extended", "emptied"],
)
@pytest.mark.parametrize("part", ["the code", "a value", "the environment"])
def test_a_damaged_part_is_named_with_its_file(
    part: str,
    damage: Callable[[Path], Any],
    words: str,
    study: optuna.Study,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
) -> None:
    OptunaArchive(study, artifacts=artifacts).save_problem(PROBLEM)
    _, version = first_version(study)
    digest = {"the code": version["code_version"], "the environment": version["environment"]}.get(
        part
    )
    if digest is None:
        (digest,) = {path.rpartition("/")[2] for path in artifacts.glob("blobs/*/*")} - {
            version["code_version"],
            version["environment"],
        }
    path = Path(artifacts.location(blob_path(digest)))
    damage(path)
    with pytest.raises(ArchiveError) as error:
        ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert words in str(error.value)
    assert f"{part} of version 0" in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("no manifest", "damaged"),
        ({"format": 1, "versions": [{"first_trial": 0}]}, "damaged"),
        ({"format": 99}, "pip install --upgrade prefect-optuna"),
    ],
)
def test_a_damaged_or_newer_manifest_is_refused(
    manifest: Any,
    words: str,
    study: optuna.Study,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
) -> None:
    study.set_user_attr(BACKUP_CONTEXT, manifest)
    with pytest.raises(ArchiveError, match=words):
        ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)


def test_a_blob_of_another_kind_is_no_code(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    OptunaArchive(study, artifacts=artifacts).save_problem(PROBLEM)
    _, version = first_version(study)
    wrong = Version(
        first_trial=1, code_version=version["environment"], environment=version["environment"]
    )
    write_version(study, wrong, uuid="", artifacts="")
    with pytest.raises(ArchiveError, match=r"the code of version 1 .* is no captured problem"):
        ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)


def test_a_missing_package_is_named_with_its_version(
    study: optuna.Study,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = tmp_path / "lib" / "site-packages"
    metadata = site / "lost_package-1.2.3.dist-info"
    metadata.mkdir(parents=True)
    (site / "lost_package.py").write_text("def gone(): return 1\n")
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: Lost-Package\nVersion: 1.2.3\n"
    )
    (tmp_path / "lossy.py").write_text(
        "import lost_package\ndef run(p): return lost_package.gone()\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    from prefect_optuna.tasks.archive.code import inspection
    from prefect_optuna.tasks.archive.record import environment

    environment._here.cache_clear()
    inspection.distribution_of.cache_clear()
    lossy = importlib.import_module("lossy")
    OptunaArchive(study, artifacts=artifacts).save_problem(Problem(suggest=suggest, run=lossy.run))
    shutil.rmtree(site)
    del sys.modules["lossy"], sys.modules["lost_package"]
    environment._here.cache_clear()
    importlib.invalidate_caches()
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    with pytest.raises(ArchiveError, match=r"pip install Lost-Package==1\.2\.3"):
        archived.problem(trusted=True)
    assert not [name for name in sys.modules if name.startswith("prefect_optuna_archive_")]


def test_code_that_fails_to_restore_is_named(
    study: optuna.Study,
    storage: StudyStorage,
    artifacts: ArtifactFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("ALLOWED", "1")
    (tmp_path / "moody.py").write_text(
        'import os\nclass Moody:\n    allowed = os.environ["ALLOWED"]\ndef run(p): return Moody\n'
    )
    importlib.invalidate_caches()
    moody = importlib.import_module("moody")
    OptunaArchive(study, artifacts=artifacts).save_problem(Problem(suggest=suggest, run=moody.run))
    del sys.modules["moody"]
    monkeypatch.delenv("ALLOWED")
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    with pytest.raises(ArchiveError, match=r"moody\.Moody could not be restored: KeyError"):
        archived.problem(trusted=True)


# -- results ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_files")
def test_a_result_is_one_file_and_a_reference(artifacts: ArtifactFileSystem) -> None:
    writer = ResultWriter(artifacts, "0b8f", {"day": DAYS})
    reference = writer.write(12, {"curve": np.ones(3), "note": "ok"})
    assert reference is not None
    assert reference["path"] == "studies/0b8f/trials/000012.arrow"
    assert reference["sha256"] == artifacts.sha256(reference["path"])
    assert reference["bytes"] == len(artifacts.read_path(reference["path"]))
    assert reference["series"] == {"curve": {"dtype": "<f8", "shape": [3]}}
    assert json.loads(json.dumps(reference)) == reference
    assert read_result(artifacts, reference)["note"] == "ok"


def test_twenty_numbers_take_less_than_400_bytes(artifacts: ArtifactFileSystem) -> None:
    writer = ResultWriter(artifacts, "0b8f", version="a" * 12)
    reference = writer.write(7, {"loss": np.random.default_rng(0).normal(size=20)})
    assert len(json.dumps(reference, separators=(",", ":"))) <= 400


@pytest.mark.parametrize(
    "result",
    [
        {"curve": np.zeros(400)},
        {"text": "x" * 4096},
        {"words": np.array(["text in an array"])},
        {"table": pa.table({"x": [1]})},
        pa.table({"x": [1]}),
        functools.reduce(lambda inner, _: [inner], range(70), [0]),
    ],
    ids=["long", "text", "words", "inner table", "table", "nested"],
)
def test_a_result_that_is_not_small_is_a_file(artifacts: ArtifactFileSystem, result: Any) -> None:
    reference = ResultWriter(artifacts, "0b8f").write(0, result)
    assert reference is not None
    assert artifacts.glob("**") == [reference["path"]]
    assert repr(read_result(artifacts, reference)) == repr(result)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {**r, "sha256": "0" * 32},
        lambda r: {**r, "inline": [{"curve": {"$series": 0}}, "AAAAAAAA8D8="]},
        lambda r: {**r, "inline": r["inline"][:1]},
        lambda r: {**r, "inline": []},
        lambda r: {**r, "inline": None},
        lambda r: {**r, "inline": [{"$series": 9}, *r["inline"][1:]]},
        lambda r: {**r, "inline": [{"$unknown": 9}, *r["inline"][1:]]},
        lambda r: {**r, "series": {"curve": {"dtype": "<f8", "shape": [1 << 40]}}},
        lambda r: {**r, "series": {"curve": {"dtype": "O", "shape": [3]}}},
        lambda r: {**r, "series": {"curve": {"dtype": "|V8", "shape": [3]}}},
        lambda r: {**r, "series": {}},
        lambda r: {**r, "series": None},
        lambda r: {k: v for k, v in r.items() if k != "series"},
    ],
)
@pytest.mark.parametrize("redo", [True, False], ids=["with its digest", "without"])
def test_a_small_result_that_was_changed_is_refused(
    artifacts: ArtifactFileSystem, change: Any, redo: bool
) -> None:
    reference = ResultWriter(artifacts, "0b8f").write(0, {"curve": np.ones(3)})
    changed = change(reference)
    if redo and changed["sha256"] != "0" * 32 and changed.get("series"):
        if changed["inline"] == [{"curve": {"$series": 0}}, "AAAAAAAA8D8="]:
            changed["inline"][1] = "AAAA"  # whole for its digest, and too short
        content = {"inline": changed["inline"], "series": changed["series"]}
        changed["sha256"] = inline_digest(content)
    with pytest.raises(ArchiveError):
        read_result(artifacts, changed)


class Scalar:
    """A number as tensors without dimensions are, in PyTorch, JAX and TensorFlow."""

    shape = ()

    def __float__(self) -> float:
        return 2.5


@pytest.mark.parametrize(
    "result", [None, 1, 2.5, True, np.float32(1), (1.0, 2), (np.int64(3),), Scalar(), (Scalar(), 1)]
)
def test_what_the_study_holds_already_is_not_archived(
    artifacts: ArtifactFileSystem, result: Any
) -> None:
    assert ResultWriter(artifacts, "0b8f").write(0, result) is None
    assert artifacts.glob("**") == []


@pytest.mark.parametrize("result", [{}, [1.0], "text", np.ones(1), (1.0, "a"), np.array(2.0)])
def test_everything_else_is_archived(artifacts: ArtifactFileSystem, result: Any) -> None:
    assert ResultWriter(artifacts, "0b8f").write(0, result) is not None


# A large result is hashed by another thread while it is written.
_either_size = pytest.mark.parametrize("size", [1, 200_000])


@_either_size
@pytest.mark.usefixtures("in_files")
def test_another_result_of_a_trial_goes_beside_the_first(
    artifacts: ArtifactFileSystem, size: int
) -> None:
    writer = ResultWriter(artifacts, "0b8f")
    random = np.random.default_rng(1)
    results = [random.random(size) for _ in range(2)]
    references = [writer.write(0, result) for result in results]
    paths = set[str]()
    for result, reference in zip(results, references, strict=True):
        assert reference is not None
        np.testing.assert_array_equal(read_result(artifacts, reference), result)
        assert artifacts.sha256(reference["path"]) == reference["sha256"]
        assert artifacts.info(reference["path"]).size == reference["bytes"]
        paths.add(reference["path"])
    assert len(paths) == 2


@_either_size
@pytest.mark.usefixtures("in_files")
def test_the_same_result_again_is_the_same_file(artifacts: ArtifactFileSystem, size: int) -> None:
    writer = ResultWriter(artifacts, "0b8f")
    result = np.random.default_rng(1).random(size)
    assert writer.write(0, result) == writer.write(0, result)
    assert len(artifacts.glob("**")) == 1


def test_a_reference_stays_small(artifacts: ArtifactFileSystem) -> None:
    result = {f"a series with a long name {n}": np.ones(2) for n in range(2000)}
    reference = ResultWriter(artifacts, "0b8f").write(0, result)
    assert reference is not None
    assert len(json.dumps(reference)) < 5000
    assert len(reference["series"]) + reference["more_series"] == 2000


@pytest.mark.slow
def test_a_writer_is_small_and_works_in_another_process(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    pickled = pickle.dumps(archive.writer())
    assert len(pickled) < 2000
    code = (
        "import json, pickle, sys\n"
        "print(json.dumps(pickle.load(sys.stdin.buffer).write(4, {'curve': [1.0, 2.0, 3.0]})))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], input=pickled, check=True, capture_output=True, cwd="/"
    ).stdout
    assert read_result(artifacts, json.loads(output)) == {"curve": [1.0, 2.0, 3.0]}


def test_a_result_that_cannot_be_archived_leaves_no_file(artifacts: ArtifactFileSystem) -> None:
    with pytest.raises(CaptureError, match=r"\['socket'\]"):
        ResultWriter(artifacts, "0b8f").write(0, {"socket": threading.Lock()})
    assert artifacts.glob("**") == []


def test_a_writer_needs_a_saved_problem(study: optuna.Study, artifacts: ArtifactFileSystem) -> None:
    with pytest.raises(ArchiveError, match="save_problem"):
        OptunaArchive(study, artifacts=artifacts).writer()


@pytest.mark.usefixtures("in_files")
def test_results_that_are_not_there_are_told_apart(
    study: optuna.Study, storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    archived_trial(study, archive.writer(), 0.5)
    study.tell(study.ask(), 1.0)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    with pytest.raises(ArchiveError, match="trials 0 to 1, and no trial 7"):
        archived.result(7)
    with pytest.raises(ArchiveError, match=r"Trial 1 \(COMPLETE\) has no archived result"):
        archived.result(1)
    artifacts.rm(study.trials[0].user_attrs["result"]["path"])
    with pytest.raises(ArchiveError, match="the result of a trial is missing"):
        archived.result(0)


def test_a_reference_that_is_none_is_refused(artifacts: ArtifactFileSystem) -> None:
    with pytest.raises(ArchiveError, match="reference to an archived result"):
        read_result(artifacts, {"file": "x"})


def test_a_picture_is_kept_beside_the_results(
    study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    assert Path(archive.save_picture(b"one")).read_bytes() == b"one"
    assert Path(archive.save_picture(b"two")).read_bytes() == b"two"
