"""`OptunaArchive` in a loop of one's own, on every storage: context, entry points, data."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import optuna
import pytest
from pydantic import BaseModel, SecretStr
from servers import free_port, redis_server

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    GrpcStudyStorage,
    InMemoryStudyStorage,
    InvalidSettingError,
    JournalStudyStorage,
    PrefectOptunaError,
    RedisStudyStorage,
    SQLStudyStorage,
    StudyStorage,
)
from prefect_optuna.errors import (
    CaptureError,
    InvalidProblemError,
    StudyMismatchError,
    UnknownNameError,
)
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import BACKUP_CONTEXT
from prefect_optuna.tasks.archive import archive as archive_module
from prefect_optuna.tasks.archive.record.manifest import Manifest, Version, read_manifest
from prefect_optuna.tasks.reevaluation.rerun import RerunRequest, rerun

GAINS = np.array([1.0, 2.0, 4.0])


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def simulate(params: dict[str, float], ctx: dict[str, Any]) -> dict[str, Any]:
    return {"curve": params["x"] * GAINS * ctx["scale"]}


def misfit(result: dict[str, Any], trial: Any) -> float:
    return float(result["curve"].sum()) + trial.params["x"]


NUMBERS = (number for number in range(3))


def guarded(params: dict[str, float]) -> float:
    return params["x"] + next(NUMBERS)


def loss(params: dict[str, float]) -> float:
    return params["x"] ** 2


@contextmanager
def _memory(folder: Path) -> Generator[StudyStorage]:
    yield InMemoryStudyStorage(name=f"api-{folder.name}")


@contextmanager
def _journal(folder: Path) -> Generator[StudyStorage]:
    yield JournalStudyStorage(path=folder / "journal.log")


@contextmanager
def _sqlite(folder: Path) -> Generator[StudyStorage]:
    block = SQLStudyStorage(url=f"sqlite:///{folder}/studies.db")
    yield block
    block.get_storage().engine.dispose()


@contextmanager
def _grpc(folder: Path) -> Generator[StudyStorage]:
    from optuna.storages._grpc.server import make_server

    port = free_port()
    with ThreadPoolExecutor(4) as pool:
        server = make_server(optuna.storages.InMemoryStorage(), "localhost", port, pool)
        server.start()
        block = GrpcStudyStorage(host="localhost", port=port)
        try:
            yield block
        finally:
            block.get_storage().close()
            server.stop(None).wait()


@contextmanager
def _redis(folder: Path) -> Generator[StudyStorage]:
    with redis_server(folder) as url:
        block = RedisStudyStorage(url=SecretStr(url))
        yield block
        block.get_storage().remove_session()


STORAGES = {
    "memory": _memory,
    "journal": _journal,
    "sqlite": _sqlite,
    "grpc": _grpc,
    "redis": _redis,
}

pytestmark = pytest.mark.filterwarnings(
    "ignore::optuna.exceptions.ExperimentalWarning", "ignore:XDG_RUNTIME_DIR is not set"
)


@pytest.fixture(params=list(STORAGES))
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[StudyStorage]:
    with STORAGES[request.param](tmp_path) as block:
        yield block


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "artifacts"))


@pytest.fixture
def memory(tmp_path: Path) -> InMemoryStudyStorage:
    return InMemoryStudyStorage(name=f"api-{tmp_path.name}")


@pytest.fixture
def archive(memory: InMemoryStudyStorage, artifacts: ArtifactFileSystem) -> OptunaArchive:
    """An archive of a new study in memory."""
    return OptunaArchive(memory.create_study("loop"), artifacts=artifacts)


@pytest.fixture
def load(memory: InMemoryStudyStorage, artifacts: ArtifactFileSystem) -> Any:
    return lambda: ArchivedStudy.load("loop", storage=memory, artifacts=artifacts)


def with_entrypoints(archive: OptunaArchive) -> OptunaArchive:
    archive.context_add_many(
        {"scale": 3.0, "suggest": suggest, "simulate": simulate, "misfit": misfit}
    )
    archive.set_suggest_entrypoint("suggest")
    archive.set_run_entrypoint("simulate")
    archive.set_eval_entrypoint("misfit")
    return archive


def optimized(archive: OptunaArchive, study: optuna.Study, n_trials: int = 3) -> None:
    def objective(trial: optuna.Trial) -> float:
        result = simulate(suggest(trial), dict(archive.context))
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        return misfit(result, trial)

    study.optimize(objective, n_trials=n_trials)


# -- the whole way ------------------------------------------------------------------------------


def test_OA2_OA18_OA27_a_loop_of_ones_own_comes_back_on_every_storage(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = storage.create_study("own-loop", direction="maximize")
    archive = with_entrypoints(OptunaArchive(study, artifacts=artifacts))
    report = archive.check_minimal()
    assert (report.suggest, report.run, report.evaluate) == ("suggest", "simulate", "misfit")
    assert report.code_version == archive.code_version
    optimized(archive, study)

    archived = ArchivedStudy.load("own-loop", storage=storage, artifacts=artifacts)
    problem = archived.problem(trusted=True)
    assert problem.directions == ("maximize",)
    for trial in archived.study.trials:
        frozen = optuna.trial.FixedTrial(trial.params, number=trial.number)
        result = problem.call("run", problem.call("suggest", frozen))
        np.testing.assert_array_equal(result["curve"], archived.result(trial.number)["curve"])
        assert problem.call("evaluate", result, trial=frozen) == trial.value
    assert problem.run is not None
    assert problem.run.__globals__["GAINS"] is not GAINS


@pytest.mark.slow
def test_a_trial_of_a_loop_of_ones_own_runs_again_in_a_fresh_process(
    tmp_path: Path, artifacts: ArtifactFileSystem
) -> None:
    storage = JournalStudyStorage(path=tmp_path / "journal.log")
    study = storage.create_study("again")
    archive = with_entrypoints(OptunaArchive(study, artifacts=artifacts))
    optimized(archive, study, n_trials=1)
    archived = ArchivedStudy.load("again", storage=storage, artifacts=artifacts)
    trial = archived.study.trials[0]
    (again,) = rerun(next(iter(RerunRequest.of(archived, [trial])))).reruns
    assert (again.error, again.values) == ("", ((trial.value,),))


def test_OA25_threads_share_an_archive(artifacts: ArtifactFileSystem, tmp_path: Path) -> None:
    with _sqlite(tmp_path) as storage:
        study = storage.create_study("threads")
        archive = with_entrypoints(OptunaArchive(study, artifacts=artifacts))
        archive.study_add_axis("t", GAINS)

        def objective(trial: optuna.Trial) -> float:
            params = suggest(trial)
            archive.trial_add_timeseries(trial, "curve", params["x"] * GAINS, ["t"])
            archive.trial_add_data(trial, "thread", threading.current_thread().name)
            return params["x"]

        study.optimize(objective, n_trials=16, n_jobs=4)
        archived = ArchivedStudy.load("threads", storage=storage, artifacts=artifacts)
        table = archived.timeseries("curve")
        assert table.num_rows == 16 * len(GAINS)
        for trial in study.trials:
            values = table.filter(table["trial"].to_numpy() == trial.number)["value"].to_numpy()
            np.testing.assert_array_equal(values, trial.params["x"] * GAINS)


# -- OA1: the study may come later ----------------------------------------------------------------


def test_OA1_what_is_given_before_the_study_is_written_with_it(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    archive = with_entrypoints(OptunaArchive(artifacts=artifacts))
    archive.study_add_data("note", "cold start")
    archive.study_add_axis("t", [0.0, 0.5])
    assert artifacts.ls() == []
    study = storage.create_study("late")
    archive.set_study(study)
    assert study.user_attrs["note"] == "cold start"
    assert study.user_attrs["axis:t"]["values"] == [0.0, 0.5]
    archived = ArchivedStudy.load("late", storage=storage, artifacts=artifacts)
    assert len(archived.versions) == 1
    assert archived.problem(trusted=True).name == "simulate"
    archive.set_study(storage.load_study("late"))  # the same one


def test_OA1_a_second_study_is_refused_unless_the_archive_is_bound_to_it(
    artifacts: ArtifactFileSystem,
) -> None:
    first, second = optuna.create_study(), optuna.create_study()
    archive = with_entrypoints(OptunaArchive(first, artifacts=artifacts))
    archive.study_add_data("note", 1)
    with pytest.raises(StudyMismatchError, match="rebind=True") as error:
        archive.set_study(second)
    assert isinstance(error.value, ValueError)
    assert archive.study is first
    assert second.user_attrs == {}
    archive.set_study(second, rebind=True)
    first_manifest, second_manifest = read_manifest(first), read_manifest(second)
    assert first_manifest is not None
    assert second_manifest is not None
    assert second.user_attrs["note"] == 1
    assert first_manifest.uuid != second_manifest.uuid
    assert first_manifest.versions[0].code_version == second_manifest.versions[0].code_version


def test_OA1_a_study_is_not_touched_when_what_is_waiting_cannot_be_archived(
    artifacts: ArtifactFileSystem,
) -> None:
    archive = OptunaArchive(artifacts=artifacts)
    archive.context_add_many({"suggest": suggest, "guarded": guarded, "misfit": misfit})
    archive.set_suggest_entrypoint("suggest")
    archive.set_run_entrypoint("guarded")
    archive.set_eval_entrypoint("misfit")
    archive.study_add_axis("t", [1, 2])
    study = optuna.create_study()
    with pytest.raises(CaptureError, match="NUMBERS is a generator"):
        archive.set_study(study)
    assert (study.user_attrs, archive.study) == ({}, None)


def test_OA1_nothing_is_written_before_all_entry_points_are_known(
    archive: OptunaArchive,
) -> None:
    study = archive.study
    assert study is not None
    archive.context_add_many({"scale": 1.0, "suggest": suggest, "simulate": simulate, "m": misfit})
    archive.set_suggest_entrypoint("suggest")
    archive.set_eval_entrypoint("m")
    assert BACKUP_CONTEXT not in study.user_attrs
    archive.set_run_entrypoint("simulate")
    manifest = read_manifest(study)
    assert manifest is not None
    assert len(manifest.versions) == 1
    archive.context_add("scale", 2.0)  # from here on, each change is a version
    archive.context_add("scale", 2.0)
    assert len((read_manifest(study) or manifest).versions) == 2


# -- OA3, OA4, OA5: where it is -------------------------------------------------------------------


def test_OA3_OA4_the_manifest_is_an_attribute_and_large_values_are_files_named_by_digest(
    archive: OptunaArchive,
) -> None:
    archive.context_add("field", np.arange(50_000.0))
    with_entrypoints(archive)
    study = archive.study
    assert study is not None
    assert archive.KEY_BACKUP_CONTEXT == "backupContext"
    manifest = study.user_attrs["backupContext"]
    assert manifest["format"] == 2
    versions = [n for n in study.user_attrs if n.startswith("backupContext:")]
    assert len(versions) == 1
    assert len(json.dumps(study.user_attrs)) < 5000
    for path in archive.artifacts.glob("blobs/*/*"):
        assert archive.artifacts.sha256(path) == path.rpartition("/")[2]
    sizes = [archive.artifacts.info(path).size for path in archive.artifacts.glob("blobs/*/*")]
    assert max(sizes) > 400_000


def test_OA5_a_new_study_in_the_place_of_a_deleted_one_has_none_of_its_code(
    artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    with _sqlite(tmp_path) as storage:
        old = storage.create_study("lynx")
        with_entrypoints(OptunaArchive(old, artifacts=artifacts))
        old_manifest = read_manifest(old)
        assert old_manifest is not None
        optuna.delete_study(study_name="lynx", storage=storage.get_storage())
        new = storage.create_study("lynx")
        assert new._study_id == old._study_id  # SQLite gives numbers again
        with pytest.raises(ArchiveError, match="has no archive"):
            ArchivedStudy.load("lynx", storage=storage, artifacts=artifacts)
        OptunaArchive(new, artifacts=artifacts).save_problem(Problem(suggest=suggest, run=loss))
        assert (read_manifest(new) or old_manifest).uuid != old_manifest.uuid


# -- versions that are saved at the same instant --------------------------------------------------


class InterruptedStudy(optuna.Study):
    """A study during whose first write of an attribute something else happens."""

    meanwhile: Any = None

    def set_user_attr(self, key: str, value: Any) -> None:
        if self.meanwhile is not None and key.startswith(BACKUP_CONTEXT):
            happens, self.meanwhile = self.meanwhile, None
            happens()
        super().set_user_attr(key, value)


def test_flows_that_save_other_code_at_the_same_instant_lose_no_version(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    storage.create_study("race")
    codes: list[str] = []

    def save(n: int) -> None:
        archive = OptunaArchive(storage.load_study("race"), artifacts=artifacts)
        codes.append(archive.save_problem(Problem(suggest=suggest, run=loss, context={"n": n})))

    for n in (0, 2):  # the first one makes the manifest, the second one finds it
        study = InterruptedStudy("race", storage.get_storage())
        study.meanwhile = lambda n=n: save(n + 1)
        problem = Problem(suggest=suggest, run=loss, context={"n": n})
        codes.append(OptunaArchive(study, artifacts=artifacts).save_problem(problem))
    archived = ArchivedStudy.load("race", storage=storage, artifacts=artifacts)
    assert sorted(v.code_version for v in archived.versions) == sorted(codes)
    assert len(set(codes)) == 4
    for number in range(4):
        assert archived.problem(trusted=True, version=number).name == "loss"


def test_the_same_code_saved_at_the_same_instant_is_one_version(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    storage.create_study("same")
    problem = Problem(suggest=suggest, run=loss)
    study = InterruptedStudy("same", storage.get_storage())
    other = OptunaArchive(storage.load_study("same"), artifacts=artifacts)
    study.meanwhile = lambda: other.save_problem(problem)
    OptunaArchive(study, artifacts=artifacts).save_problem(problem)
    assert len(ArchivedStudy.load("same", storage=storage, artifacts=artifacts).versions) == 1


def test_the_same_code_saved_while_a_slow_one_wrote_it_is_one_version(
    storage: StudyStorage, artifacts: ArtifactFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = storage.create_study("slow")
    problem = Problem(suggest=suggest, run=loss)
    write_blobs = archive_module.write_blobs

    def slow(*args: Any) -> None:
        monkeypatch.setattr(archive_module, "write_blobs", write_blobs)
        write_blobs(*args)
        OptunaArchive(storage.load_study("slow"), artifacts=artifacts).save_problem(problem)
        study.tell(study.ask(), 1.0)  # which is told before this one has written its version

    monkeypatch.setattr(archive_module, "write_blobs", slow)
    OptunaArchive(study, artifacts=artifacts).save_problem(problem)
    (version,) = ArchivedStudy.load("slow", storage=storage, artifacts=artifacts).versions
    assert version.first_trial == 0


def test_versions_that_differ_in_nothing_are_no_change() -> None:
    same = [Version(first_trial=n, code_version="a", environment="e") for n in (0, 6)]
    other = Version(first_trial=9, code_version="b", environment="e")
    manifest = Manifest(uuid="u", versions=[*same, other])
    assert archive_module.changes(manifest) == [
        "The problem's code or context changed before trial 9."
    ]


def test_versions_that_come_and_go_are_told_in_a_few_lines() -> None:
    versions = [
        Version(first_trial=n, code_version="ab"[n % 2], environment="e") for n in range(70)
    ]
    *first, last = archive_module.changes(Manifest(uuid="u", versions=versions))
    assert len(first) == 5
    assert last.startswith("There are 64 more changes, the last one before trial 69:")


@pytest.mark.slow
def test_processes_save_their_code_at_once(tmp_path: Path) -> None:
    program = dedent("""
        import sys
        from prefect_optuna.blocks import JournalStudyStorage
        from prefect_optuna.tasks import OptunaArchive
        study = JournalStudyStorage(path="journal.log").load_study("many")
        archive = OptunaArchive(study, artifacts="artifacts")
        print("ready", flush=True)
        sys.stdin.readline()
        with archive.register():
            rate = int(sys.argv[1])
            def suggest(trial): return {"x": trial.suggest_float("x", 0, 1)}
            def run(params): return params["x"] * rate
            def loss(result): return result
        archive.set_suggest_entrypoint("suggest")
        archive.set_run_entrypoint("run")
        archive.set_eval_entrypoint("loss")
        archive.study_add_axis("t", list(range(100)))
        archive.check_minimal()
    """)
    (tmp_path / "own_loop.py").write_text(program)
    storage = JournalStudyStorage(path=tmp_path / "journal.log")
    storage.create_study("many")
    processes = [
        subprocess.Popen(
            [sys.executable, "own_loop.py", str(rate)],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rate in (3, 5)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    archived = ArchivedStudy.load("many", storage=storage, artifacts=tmp_path / "artifacts")
    problems = [archived.problem(trusted=True, version=n) for n in range(len(archived.versions))]
    assert sorted(problem.call("run", {"x": 1.0}) for problem in problems) == [3.0, 5.0]
    assert archived.axes["t"].tolist() == list(range(100))


def test_a_version_whose_attribute_was_edited_is_not_taken_for_it(archive: OptunaArchive) -> None:
    with_entrypoints(archive)
    study = archive.study
    assert study is not None
    (name,) = (n for n in study.user_attrs if n.startswith("backupContext:"))
    study.set_user_attr(name, {**study.user_attrs[name], "first_trial": 7})
    with pytest.raises(ArchiveError, match=f"'{name}' is not the version"):
        read_manifest(study)


def test_a_manifest_of_format_1_is_read_and_goes_on(artifacts: ArtifactFileSystem) -> None:
    study = optuna.create_study()
    first = OptunaArchive(study, artifacts=artifacts)
    first.save_problem(Problem(suggest=suggest, run=loss))
    # As the version before wrote it: all versions in the manifest's own attribute.
    (name,) = (n for n in study.user_attrs if n.startswith("backupContext:"))
    version = study.user_attrs[name]
    old = optuna.create_study()
    head = {**study.user_attrs["backupContext"], "format": 1, "versions": [version]}
    old.set_user_attr("backupContext", head)
    manifest = read_manifest(old)
    assert manifest is not None
    assert [v.code_version for v in manifest.versions] == [first.code_version]
    OptunaArchive(old, artifacts=artifacts).save_problem(
        Problem(suggest=suggest, run=loss, context={"n": 1})
    )
    assert old.user_attrs["backupContext"]["format"] == 2
    assert old.user_attrs["backupContext"]["versions"] == [version]
    assert len((read_manifest(old) or manifest).versions) == 2


# -- OA13: values ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Setup:
    """A dataclass of the user's."""

    days: int
    start: dt.date


class Limits(BaseModel):
    low: float


VALUES: dict[str, Any] = {
    "tuple": (1, (2.5, "a")),
    "mapping": {"nan": math.inf, "set": {1, 2}},
    "scalar": np.float32(0.5),
    "small": np.arange(3),
    "large": np.zeros((300, 300)),
    "time": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
    "setup": Setup(3, dt.date(2026, 1, 2)),
    "limits": Limits(low=0.5),
    "numbered": {1: [None, True]},
}


def test_OA13_values_of_the_context_come_back_with_their_types(
    archive: OptunaArchive, load: Any
) -> None:
    archive.context_add_many(VALUES)
    with_entrypoints(archive)
    context = load().problem(trusted=True).context
    for name, value in VALUES.items():
        back = context[name]
        assert type(back).__name__ == type(value).__name__
        if isinstance(value, np.ndarray):
            assert back.dtype == value.dtype
            np.testing.assert_array_equal(back, value)
        elif isinstance(value, (Setup, Limits)):  # of a class that has been restored, too
            assert vars(back) == vars(value)
        else:
            assert back == value


# -- OA16: names ----------------------------------------------------------------------------------


def test_OA16_a_name_that_is_added_again_has_the_later_value(archive: OptunaArchive) -> None:
    archive.context_add("rate", 1)
    archive.context_add_many({"rate": 2, "other": 3})
    assert dict(archive.context) == {"rate": 2, "other": 3}


@pytest.mark.parametrize("name", ["", "growth rate", "1st", "a.b", "class", 7, None])
def test_OA16_a_name_that_no_variable_can_have_is_refused(
    archive: OptunaArchive, name: Any
) -> None:
    with pytest.raises(InvalidSettingError, match="that a variable can have") as error:
        archive.context_add_many({"good": 1, name: 2})
    assert isinstance(error.value, ValueError)
    assert dict(archive.context) == {}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (threading.Lock, "_thread.lock"),
        (lambda: {"inner": [object.__new__(object), threading.Lock()]}, "['inner'][1]"),
        (lambda: (i for i in range(3)), "generator"),
        (lambda: np.broadcast_to(0.0, (1 << 14, 1 << 14)), "2.1 GB, and at most 1.1 GB"),
    ],
    ids=["lock", "inside", "generator", "2 GB"],
)
def test_a_value_that_cannot_be_archived_is_named_with_the_way_out(
    archive: OptunaArchive, make: Any, words: str
) -> None:
    with pytest.raises(CaptureError) as error:
        archive.context_add_many({"good": 1, "thing": make()})
    assert "thing" in str(error.value)
    assert words in str(error.value)
    assert "starts with `_`" in str(error.value)
    assert dict(archive.context) == {}


# -- OA17, OA18: entry points ---------------------------------------------------------------------


def test_OA17_an_entry_point_has_to_be_registered(archive: OptunaArchive) -> None:
    archive.context_add("simulate", simulate)
    with pytest.raises(UnknownNameError, match="Did you mean 'simulate'") as error:
        archive.set_run_entrypoint("simulat")
    assert isinstance(error.value, KeyError)
    assert isinstance(error.value, PrefectOptunaError)
    with pytest.raises(ArchiveError, match="set_run_entrypoint"):
        archive.check_minimal()


@pytest.mark.parametrize("value", [3.0, math.sqrt, math, dict, np.mean])
def test_OA17_an_entry_point_needs_source(archive: OptunaArchive, value: Any) -> None:
    archive.context_add("simulate", value)
    with pytest.raises(CaptureError, match="'simulate' is") as error:
        archive.set_run_entrypoint("simulate")
    assert isinstance(error.value, ValueError)


def test_a_function_from_exec_is_refused_when_it_is_registered(archive: OptunaArchive) -> None:
    namespace: dict[str, Any] = {"__name__": "made"}
    exec("def simulate(params): return 1", namespace)
    with pytest.raises(CaptureError, match="as a function with def"):
        archive.context_add("simulate", namespace["simulate"])


def test_OA18_a_function_that_could_not_be_called_is_refused_at_once(
    archive: OptunaArchive,
) -> None:
    def simulate(params: Any, weather: Any) -> float:
        return 0.0

    archive.context_add("simulate", simulate)
    with pytest.raises(InvalidProblemError, match="weather"):
        archive.set_run_entrypoint("simulate")
    assert archive._registered.entrypoints == {}


def test_what_fails_to_be_archived_leaves_the_entry_points_as_they_were(
    archive: OptunaArchive,
) -> None:
    numbers = (number for number in range(3))

    def counted(result: Any) -> float:
        return float(next(numbers))

    archive.context_add_many({"suggest": suggest, "simulate": simulate, "scale": 1.0})
    archive.set_suggest_entrypoint("suggest")
    archive.set_run_entrypoint("simulate")
    study = archive.study
    assert study is not None
    with pytest.raises(CaptureError, match="generator"):
        archive.context_add("counted", counted)
    assert "counted" not in archive.context
    assert study.user_attrs == {}
    archive.context_add("misfit", misfit)
    archive.set_eval_entrypoint("misfit")
    assert archive.check_minimal().evaluate == "misfit"


def test_without_a_run_function_eval_gets_the_parameters(archive: OptunaArchive, load: Any) -> None:
    archive.context_add_many({"suggest": suggest, "loss": loss})
    archive.set_suggest_entrypoint("suggest")
    archive.set_eval_entrypoint("loss")
    assert archive.check_minimal(require_run_function=False).run is None
    problem = load().problem(trusted=True)
    assert problem.call("evaluate", problem.call("run", {"x": 3.0})) == 9.0


# -- OA19: data -----------------------------------------------------------------------------------


def test_OA19_data_is_kept_as_plain_json_under_its_key(
    storage: StudyStorage, artifacts: ArtifactFileSystem
) -> None:
    study = storage.create_study("data")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.study_add_data("setup", Setup(3, dt.date(2026, 1, 2)))
    trial = study.ask()
    archive.trial_add_data(trial, "ends", (np.float64(0.5), np.arange(2), {"a"}))
    OptunaArchive.trial_add_data(trial, "limits", Limits(low=0.5))
    study.tell(trial, 0.0)
    loaded = storage.load_study("data")
    assert loaded.user_attrs["setup"] == {"days": 3, "start": "2026-01-02"}
    assert loaded.trials[0].user_attrs == {"ends": [0.5, [0, 1], ["a"]], "limits": {"low": 0.5}}


@pytest.mark.parametrize(
    "key", ["entrypoint:run", "axis:t", "timeseries:x", "backupContext", "backupContext:1", "", 3]
)
def test_OA19_reserved_names_are_refused(archive: OptunaArchive, key: Any) -> None:
    study = archive.study
    assert study is not None
    trial = study.ask()
    with pytest.raises(InvalidSettingError) as error:
        archive.study_add_data(key, 1)
    assert isinstance(error.value, ValueError)
    with pytest.raises(InvalidSettingError):
        archive.trial_add_data(trial, key, 1)
    with pytest.raises(InvalidSettingError):
        archive.trial_add_data(trial, "result", 1)  # `optimize` refers to results there
    assert (study.user_attrs, trial.user_attrs) == ({}, {})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (threading.Lock(), "_thread.lock"),
        (np.zeros(100_000), "too large"),
        ("x" * 100_000, "100,002 bytes"),
        ([[0.123456789] * 6000], "trial_add_timeseries"),
    ],
)
def test_data_that_is_no_attribute_is_refused_with_the_way_out(
    archive: OptunaArchive, value: Any, words: str
) -> None:
    study = archive.study
    assert study is not None
    with pytest.raises(CaptureError) as error:
        archive.study_add_data("mine", value)
    assert words in str(error.value)
    assert "log_artifact" in str(error.value)
    assert study.user_attrs == {}


# -- OA26: is everything there? -------------------------------------------------------------------


def test_OA26_everything_that_is_missing_is_listed(artifacts: ArtifactFileSystem) -> None:
    archive = OptunaArchive(artifacts=artifacts)
    with pytest.raises(ArchiveError) as error:
        archive.check_minimal()
    assert isinstance(error.value, ValueError)
    for part in ("a study", "a context", "set_suggest", "set_run", "set_eval"):
        assert part in str(error.value)
    with pytest.raises(ArchiveError) as error:
        archive.check_minimal(require_run_function=False)
    assert "set_run" not in str(error.value)


def test_OA26_the_report_says_what_is_archived(archive: OptunaArchive) -> None:
    archive.study_add_axis("t", [1, 2])
    report = with_entrypoints(archive).check_minimal()
    study = archive.study
    assert study is not None
    assert report.study_name == study.study_name
    assert report.context == ("scale", "suggest", "simulate", "misfit")
    assert report.axes == ("t",)


def test_an_archive_without_a_key_can_be_sent_to_another_process(archive: OptunaArchive) -> None:
    archive.context_add("rate", 2)
    copy = pickle.loads(pickle.dumps(archive))
    copy.context_add("rate", 3)
    assert (archive.context["rate"], copy.context["rate"]) == (2, 3)
