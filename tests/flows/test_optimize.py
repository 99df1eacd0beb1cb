"""`optimize`: a study as a flow, from the first ask to its result."""

from __future__ import annotations

import datetime as dt
import json
import sys
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import Settings, get_current_settings, temporary_settings
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_optuna.blocks import InMemoryStudyStorage, JournalStudyStorage, as_study_storage
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.errors import (
    CaptureError,
    InvalidProblemError,
    InvalidSettingError,
    NoCompleteTrialError,
    PrefectOptunaError,
    StorageUnavailableError,
    StudyMismatchError,
)
from prefect_optuna.flows import Problem, StudyResult, optimize
from prefect_optuna.flows.gallery import BestPicture
from prefect_optuna.flows.report import ReportPublisher
from prefect_optuna.flows.session import is_lost
from prefect_optuna.flows.study import Sampler
from prefect_optuna.flows.temporary_server import other_settings
from prefect_optuna.tasks import ArchivedStudy

pytestmark = pytest.mark.usefixtures("prefect_server")

STEPS = np.arange(5.0)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -5, 5), "y": trial.suggest_float("y", -5, 5)}


def run(params: Mapping[str, float]) -> dict[str, np.ndarray]:
    return {"a": params["x"] * STEPS, "b": params["y"] * STEPS}


def evaluate(result: Mapping[str, np.ndarray]) -> float:
    return float(result["a"][1] ** 2 + result["b"][1] ** 2)


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", -5, 5) ** 2 + trial.suggest_float("y", -5, 5) ** 2


PROBLEM = Problem(suggest=suggest, run=run, evaluate=evaluate, axes={"step": STEPS.tolist()})


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# -- the way through -----------------------------------------------------------------------------


def test_the_way_through_on_the_defaults(tmp_path: Path) -> None:
    result = optimize(PROBLEM, study_name="mine", n_trials=12, seed=1)

    assert isinstance(result, StudyResult)
    assert result.n_trials == 12
    assert result.states == {"complete": 12, "pruned": 0, "failed": 0}
    study = result.load_study()
    assert study.best_value == result.best_value
    assert study.best_params == result.best_params
    assert (tmp_path / ".prefect-optuna" / "studies.journal").is_file()
    archived = ArchivedStudy.load("mine")
    for trial in study.trials:
        np.testing.assert_array_equal(archived.result(trial.number)["a"], trial.params["x"] * STEPS)
    assert result.picture is not None
    assert Path(result.picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("what", [PROBLEM, objective], ids=["problem", "objective"])
@pytest.mark.parametrize("sampler", [None, Sampler(options={"multivariate": True}), "random"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_seed_gives_the_trials_that_plain_optuna_gives(what: Any, sampler: Any) -> None:
    plain = {
        None: optuna.samplers.TPESampler(seed=3),
        "random": optuna.samplers.RandomSampler(seed=3),
    }.get(sampler if not isinstance(sampler, Sampler) else "multivariate") or (
        optuna.samplers.TPESampler(seed=3, multivariate=True)
    )
    expected = optuna.create_study(sampler=plain)
    expected.optimize(objective, n_trials=25)

    result = optimize(what, study_name="s", n_trials=25, seed=3, sampler=sampler)

    trials = result.load_study().trials
    assert [t.params for t in trials] == [t.params for t in expected.trials]
    assert [t.value for t in trials] == [t.value for t in expected.trials]


def test_with_several_directions_a_seed_gives_the_trials_that_plain_optuna_gives() -> None:
    def two(trial: optuna.Trial) -> tuple[float, float]:
        x, y = trial.suggest_float("x", -5, 5), trial.suggest_float("y", -5, 5)
        return x**2 + y**2, (x - 2) ** 2

    directions = ["minimize", "minimize"]
    expected = optuna.create_study(directions=directions)
    expected.sampler = type(expected.sampler)(seed=3)
    expected.optimize(two, n_trials=25)

    result = optimize(two, study_name="two", n_trials=25, seed=3, directions=directions)

    trials = result.load_study().trials
    assert [t.params for t in trials] == [t.params for t in expected.trials]
    assert [t.values for t in trials] == [t.values for t in expected.trials]


def test_a_problem_by_its_import_path(tmp_path: Path) -> None:
    (tmp_path / "parabola.py").write_text(
        "def objective(trial):\n    return trial.suggest_float('x', -1, 1) ** 2\n"
    )
    assert optimize("parabola:objective", n_trials=3).n_trials == 3
    assert optimize(str(tmp_path / "parabola.py") + ":objective", n_trials=3).n_trials == 3


def test_without_a_name_each_call_is_a_study_of_its_own() -> None:
    first, second = optimize(objective, n_trials=2), optimize(objective, n_trials=2)
    assert first.study_name != second.study_name
    assert first.study_name.startswith("objective-")


def test_several_directions() -> None:
    def two(result: Mapping[str, np.ndarray]) -> tuple[float, float]:
        return float(result["a"][1] ** 2), float(result["b"][1])

    problem = Problem(suggest=suggest, run=run, evaluate=two, directions=("minimize", "maximize"))
    result = optimize(problem, study_name="two", n_trials=20, seed=1)
    assert result.directions == ("minimize", "maximize")
    assert {t.number for t in result.best_trials} == {
        t.number for t in result.load_study().best_trials
    }
    with pytest.raises(NoCompleteTrialError, match="2 directions"):
        _ = result.best_value


def test_directions_of_the_call_replace_those_of_the_problem() -> None:
    result = optimize(objective, n_trials=20, seed=1, directions=["maximize"])
    assert result.best_value == max(t.value for t in result.load_study().trials)


def test_functions_get_what_they_name() -> None:
    def named_run(params: dict[str, float], context: dict[str, float], scope: Any) -> float:
        return params["x"] * context["gain"] + scope["offset"]

    problem = Problem(
        suggest=lambda trial, scope: {"x": trial.suggest_float("x", 0, scope["high"])},
        run=named_run,
        context={"gain": 2.0},
    )
    result = optimize(problem, n_trials=4, scope={"offset": 100.0, "high": 1.0})
    for trial in result.load_study().trials:
        assert trial.value == trial.params["x"] * 2 + 100


# -- where trials run ----------------------------------------------------------------------------


def test_trials_run_at_once() -> None:
    def meet(params: Mapping[str, float]) -> float:
        sys.modules["tests_meeting"].meeting.wait()  # a barrier cannot be archived
        return params["x"]

    module = types.ModuleType("tests_meeting")
    module.meeting = threading.Barrier(3, timeout=20)  # type: ignore[attr-defined]
    sys.modules["tests_meeting"] = module
    result = optimize(Problem(suggest=suggest, run=meet), n_trials=9, n_jobs=3)
    assert result.states["complete"] == 9


def test_trials_that_do_not_end_together_run_at_once() -> None:
    begun = [threading.Event() for _ in range(6)]
    module = types.ModuleType("tests_relay")
    module.begun = begun  # type: ignore[attr-defined] - events cannot be archived
    sys.modules["tests_relay"] = module

    def until_the_next_has_begun(trial: optuna.Trial) -> float:
        begun = sys.modules["tests_relay"].begun
        begun[trial.number].set()
        time.sleep(0.5)  # longer than a task run takes further trials
        if trial.number < 5 and not begun[trial.number + 1].wait(20):
            raise TimeoutError(f"trial {trial.number} ran alone")
        return trial.suggest_float("x", 0, 1)

    assert optimize(until_the_next_has_begun, n_trials=6, n_jobs=2).states["complete"] == 6


def test_each_trial_is_told_when_it_ends_and_not_with_the_slowest() -> None:
    def first_is_slow(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        time.sleep(1.5 if trial.number == 0 else 0.01)
        return x

    ended: list[int] = []
    optimize(
        first_is_slow,
        n_trials=10,
        n_jobs=2,
        callbacks=[lambda study, trial: ended.append(trial.number)],
    )
    assert ended == [*range(1, 10), 0]


def test_fast_trials_share_task_runs_and_the_server_has_them_all(prefect_server: Any) -> None:
    result = optimize(PROBLEM, n_trials=60, seed=1)
    assert 1 <= result.n_task_runs < 30
    prefect_server.wait_for_task_runs(result.flow_run_id, result.n_task_runs)


def test_slow_trials_have_a_task_run_each() -> None:
    def slow(params: Mapping[str, float]) -> float:
        time.sleep(0.6)
        return params["x"]

    result = optimize(Problem(suggest=suggest, run=slow), n_trials=3)
    assert result.n_task_runs == 3


@pytest.mark.slow
@pytest.mark.parametrize("what", [PROBLEM, objective], ids=["problem", "objective"])
def test_trials_run_in_other_processes(what: Any) -> None:
    result = optimize(what, study_name="p", n_trials=6, n_jobs=2, task_runner="processes")
    assert result.states["complete"] == 6
    if what is PROBLEM:
        assert set(ArchivedStudy.load("p").result(5)) == {"a", "b"}


def test_a_flow_with_a_task_runner_of_its_own() -> None:
    mine = optimize.with_options(task_runner=ThreadPoolTaskRunner(max_workers=4))
    assert mine(objective, n_trials=8, n_jobs=2).n_trials == 8


def test_an_objective_in_other_processes_needs_a_storage_that_they_reach() -> None:
    with pytest.raises(InvalidSettingError, match="cannot be reached from other processes"):
        optimize(objective, n_trials=2, task_runner="processes", storage="memory://here")


# -- trials that fail ----------------------------------------------------------------------------


def failing(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -5, 5)
    if trial.number == 2:
        raise ArithmeticError("no such root")
    return x


def test_an_exception_ends_the_study_and_the_next_start_goes_on() -> None:
    with pytest.raises(ArithmeticError, match="no such root"):
        optimize(failing, study_name="f", n_trials=6)
    study = as_study_storage(None).load_study("f")
    assert [t.state for t in study.trials] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.FAIL,
    ]
    assert "ArithmeticError: no such root" in study.trials[2].user_attrs["error"]
    assert "test_optimize.py" in study.trials[2].user_attrs["error"]

    result = optimize(failing, study_name="f", n_trials=6)
    assert result.states == {"complete": 5, "pruned": 0, "failed": 1}
    assert len(result.load_study().trials) == 6


def test_caught_exceptions_fail_their_trial_only() -> None:
    result = optimize(failing, n_trials=6, catch=(ArithmeticError,))
    assert result.states == {"complete": 5, "pruned": 0, "failed": 1}
    assert optimize(failing, n_trials=6, catch=Exception).states["failed"] == 1


def test_nan_fails_that_trial_and_not_the_study() -> None:
    def sometimes_nan(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -5, 5)
        return float("nan") if trial.number % 2 else x

    result = optimize(sometimes_nan, n_trials=6)
    assert result.states == {"complete": 3, "pruned": 0, "failed": 3}
    assert "nan" in result.load_study().trials[1].user_attrs["error"]


def test_a_run_is_retried() -> None:
    def flaky(params: Mapping[str, float], context: dict[str, list[int]]) -> float:
        context["calls"].append(1)
        if len(context["calls"]) % 3:
            raise OSError("the licence server is busy")
        return params["x"]

    calls: list[int] = []
    problem = Problem(suggest=suggest, run=flaky, context={"calls": calls})
    assert optimize(problem, n_trials=3, retries=2).states["complete"] == 3
    assert len(calls) == 9
    with pytest.raises(OSError, match="licence server"):
        optimize(problem, n_trials=3, retries=1)


def test_pruned_trials_count_and_the_pruner_decides() -> None:
    def steps(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        for step in range(5):
            trial.report(x, step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"at step {step}")
        return x

    result = optimize(steps, n_trials=30, seed=1, pruner="median")
    assert result.n_trials == 30
    assert result.states["pruned"] > 0
    assert optimize(steps, n_trials=10, seed=1, pruner="none").states["pruned"] == 0


# -- how a study ends ----------------------------------------------------------------------------


def test_the_same_name_goes_on_until_the_total() -> None:
    assert optimize(PROBLEM, study_name="g", n_trials=4, seed=1).n_trials == 4
    assert optimize(PROBLEM, study_name="g", n_trials=10, seed=1).n_trials == 10
    assert optimize(PROBLEM, study_name="g", n_trials=10, seed=1).n_trials == 10
    study = as_study_storage(None).load_study("g")
    assert len(study.trials) == 10
    assert len({t.params["x"] for t in study.trials}) == 10


@pytest.mark.slow
def test_a_random_search_that_goes_on_does_not_repeat_itself() -> None:
    optimize(PROBLEM, study_name="r", n_trials=5, seed=1, sampler="random")
    result = optimize(PROBLEM, study_name="r", n_trials=10, seed=1, sampler="random")
    assert len({t.params["x"] for t in result.load_study().trials}) == 10


def test_enqueued_trials_are_run_and_counted() -> None:
    study = as_study_storage("memory://q").create_study("q")
    study.enqueue_trial({"x": 1.0, "y": 2.0})
    result = optimize(objective, study_name="q", n_trials=3, storage="memory://q")
    trials = result.load_study().trials
    assert len(trials) == 3
    assert trials[0].value == 5.0


def slow(trial: optuna.Trial) -> float:
    time.sleep(0.05)
    return trial.suggest_float("x", 0, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_runs_of_one_study_at_once_finish_as_many_trials_as_one_would(tmp_path: Path) -> None:
    storage = JournalStudyStorage(path=tmp_path / "s.journal")
    storage.get_storage()

    def run_it() -> None:
        optimize(slow, study_name="s", n_trials=60, n_jobs=2, storage=storage)

    run_it_too = threading.Thread(target=run_it)
    run_it_too.start()
    run_it()
    run_it_too.join()
    trials = [t for t in storage.load_study("s").trials if not is_lost(t)]
    assert [t.state for t in trials] == [TrialState.COMPLETE] * 60


def test_the_timeout_ends_it() -> None:
    def slow(trial: optuna.Trial) -> float:
        time.sleep(0.05)
        return trial.suggest_float("x", 0, 1)

    started = time.monotonic()
    result = optimize(slow, n_trials=None, timeout=1.0)
    assert 1 <= result.n_trials < 30
    assert time.monotonic() - started < 15


@pytest.mark.slow
def test_callbacks_see_each_trial_and_may_stop_the_study() -> None:
    seen = []

    def callback(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        seen.append((trial.number, trial.state))
        if trial.number == 3:
            study.stop()

    result = optimize(objective, n_trials=100, callbacks=[callback])
    assert seen == [(n, TrialState.COMPLETE) for n in range(4)]
    assert result.n_trials == 4
    best_of_six = optuna.study.MaxTrialsCallback(6, states=None)
    assert optimize(objective, n_trials=100, callbacks=[best_of_six]).n_trials == 6


def test_a_callback_may_change_the_trial_that_it_gets() -> None:
    seen = []

    def changes(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        seen.append((trial.params, trial.user_attrs.get("of_a_callback")))
        trial.params.clear()
        trial.user_attrs["of_a_callback"] = True

    result = optimize(objective, n_trials=2, callbacks=[changes, changes])
    assert [attribute for _, attribute in seen] == [None] * 4
    assert result.best_trial.params
    study = result.load_study()
    assert all(trial.params and "of_a_callback" not in trial.user_attrs for trial in study.trials)


def test_the_last_words_of_a_run_do_not_wait_for_the_best_trial_s_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said, waited = threading.Event(), []
    publish = ReportPublisher.publish

    def publishing(self: ReportPublisher, report: Any) -> bool:
        if "**completed**" in report.markdown:
            said.set()
        return publish(self, report)

    def drawing(self: BestPicture, best: Any, others: Any) -> None:
        waited.append(said.wait(20))

    monkeypatch.setattr(ReportPublisher, "publish", publishing)
    monkeypatch.setattr(BestPicture, "_draw", drawing)
    optimize(PROBLEM, n_trials=2)
    assert waited == [True]


def test_an_objective_may_stop_the_study() -> None:
    def stops(trial: optuna.Trial) -> float:
        if trial.number == 2:
            trial.study.stop()
        return trial.suggest_float("x", 0, 1)

    assert optimize(stops, n_trials=50).n_trials == 3


# -- what Prefect knows of it --------------------------------------------------------------------


def test_prefect_has_the_flow_run_its_parameters_and_one_report() -> None:
    result = optimize(PROBLEM, study_name="seen", n_trials=5, seed=7, storage="memory://seen")
    with get_client(sync_client=True) as client:
        [flow_run] = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[result.flow_run_id]))
        )
        artifacts = [a for a in client.read_artifacts() if str(a.flow_run_id) == result.flow_run_id]
    assert flow_run.name == "seen"
    assert flow_run.state is not None
    assert flow_run.state.is_completed()
    assert flow_run.parameters["problem"] == "run (Problem)"
    assert flow_run.parameters["seed"] == 7
    [report] = [a for a in artifacts if a.key == "study-seen"]
    assert f"trial {result.best_trial.number}" in str(report.data).lower()
    assert str(report.data).count("data:image/png") >= 2


@pytest.mark.slow
def test_the_time_of_a_study_that_goes_on_is_counted_from_its_first_trial() -> None:
    optimize(PROBLEM, study_name="days", n_trials=2, storage="memory://days")
    study = as_study_storage("memory://days").load_study("days")
    older = study.trials[0]
    assert older.datetime_start is not None
    older.datetime_start -= dt.timedelta(days=2)
    study.add_trial(older)
    result = optimize(PROBLEM, study_name="days", n_trials=5, storage="memory://days")
    with get_client(sync_client=True) as client:
        artifacts = [a for a in client.read_artifacts() if str(a.flow_run_id) == result.flow_run_id]
    [report] = [a for a in artifacts if a.key == "study-days"]
    assert "**5 of 5 trials** (5 complete) in 2 d 00 h, **completed**" in str(report.data)


def test_the_server_of_this_directory_is_found(
    prefect_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / ".prefect-optuna" / "prefect"
    home.mkdir(parents=True)
    (home / "server.json").write_text(json.dumps({"url": prefect_server.url}))
    with temporary_settings({"api.url": None}):
        result = optimize(objective, study_name="found", n_trials=1)
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(str(result.flow_run_id))).name == "found"


def test_the_run_form_knows_names_bounds_and_help() -> None:
    schema = optimize.parameters.model_dump()["properties"]
    assert schema["n_trials"]["minimum"] == 1
    assert "in total" in schema["n_trials"]["description"]
    text = str(schema) + str(optimize.parameters.definitions)
    for word in ("nsgaii", "hyperband", "threads", "maximize", "SQLStudyStorage"):
        assert word in text, word


# -- bad input -----------------------------------------------------------------------------------


def no_mapping(trial: optuna.Trial) -> Any:
    return [trial.suggest_float("x", 0, 1)]


def broken(trial: optuna.Trial) -> Any:
    return {"x": trial.suggest_flaot("x", 0, 1)}  # type: ignore[attr-defined]


BAD = {
    "no trials": ({"n_trials": 0}, InvalidSettingError, "1 or more; found 0"),
    "fewer": ({"n_trials": -3}, InvalidSettingError, "found -3"),
    "endless": ({"n_trials": None}, InvalidSettingError, "never ends"),
    "timeout": ({"timeout": -1.0}, InvalidSettingError, "more than 0"),
    "jobs": ({"n_jobs": 0}, InvalidSettingError, "n_jobs"),
    "retries": ({"retries": -1}, InvalidSettingError, "retries"),
    "options": ({"sampler": Sampler(options={"sed": 1})}, InvalidSettingError, "TPESampler"),
    "nothing there": ({"problem": "no.such:thing"}, InvalidProblemError, "no.such"),
    "no colon": ({"problem": "nosuchthing"}, InvalidProblemError, "module:attribute"),
    "no problem": ({"problem": "math:pi"}, InvalidProblemError, "found float"),
    "not in there": (
        {"problem": "prefect_optuna.flows.examples.lynx_hare:problme"},
        InvalidProblemError,
        "Its problems: problem",
    ),
    "no mapping": ({"problem": Problem(suggest=no_mapping, run=run)}, InvalidProblemError, "list"),
    "typo": (
        {"problem": Problem(suggest=broken, run=run)},
        InvalidProblemError,
        "suggest_flaot",
    ),
    "unreachable": (
        {"storage": "postgresql://lab:s3cret@127.0.0.1:1/x"},
        StorageUnavailableError,
        "127.0.0.1",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_told_before_any_trial_runs(
    arguments: dict[str, Any], error: type[PrefectOptunaError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as raised:
        optimize(**{"problem": PROBLEM, "study_name": "bad", **arguments})
    assert "s3cret" not in str(raised.value)
    if "storage" not in arguments:
        assert "bad" not in as_study_storage(None).study_names()


def test_other_directions_are_told_with_both() -> None:
    optimize(objective, study_name="d", n_trials=1)
    with pytest.raises(StudyMismatchError, match="maximize"):
        optimize(objective, study_name="d", n_trials=2, directions=["maximize"])


def test_artifacts_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageUnavailableError, match="file"):
        optimize(PROBLEM, study_name="bad", n_trials=1, artifacts=tmp_path / "file" / "below")
    assert "bad" not in as_study_storage(None).study_names()


def test_a_result_that_cannot_be_archived_is_told_with_its_key_and_type() -> None:
    def handles(params: Mapping[str, float]) -> dict[str, Any]:
        return {"a": 1.0, "deep": {"lock": threading.Lock()}}

    with pytest.raises(CaptureError, match=r"deep.*lock"):
        optimize(Problem(suggest=suggest, run=handles, evaluate=lambda r: r["a"]), n_trials=5)


def test_a_problem_that_never_works_ends_the_study_whatever_is_caught() -> None:
    def text(params: Mapping[str, float]) -> str:
        return "three"

    with pytest.raises(InvalidProblemError, match="has to return a number"):
        optimize(Problem(suggest=suggest, run=text), n_trials=50, catch=(Exception,))


def test_the_wrong_number_of_values_is_told() -> None:
    with pytest.raises(InvalidProblemError, match="3 values for 2 directions"):
        optimize(lambda trial: (1.0, 2.0, 3.0), n_trials=2, directions=["minimize", "maximize"])


def test_blocks_may_be_given_as_they_are(tmp_path: Path) -> None:
    block = JournalStudyStorage(path=tmp_path / "own.journal")
    optimize(objective, study_name="own", n_trials=2, storage=block)
    assert block.study_names() == ["own"]
    memory = InMemoryStudyStorage(name="own")
    assert optimize(objective, n_trials=2, storage=memory).load_study().trials[1].value is not None


def test_no_settings_are_read_twice_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading takes as long as ten requests to the server, and there were nine."""
    read: list[str] = []

    def noted(kind: type, method: str) -> None:
        original = getattr(kind, method)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                read.append(kind.__name__)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, method, call)

    noted(Settings, "copy_with_update")
    noted(OptunaSettings, "__init__")
    before: list[str] = []
    monkeypatch.chdir(tmp_path)

    optimize(PROBLEM, n_trials=1, callbacks=[lambda *_: before.extend(read)])

    assert before == ["OptunaSettings"]


def test_other_settings_reach_processes_and_end_with_their_block() -> None:
    address = get_current_settings().api.url
    with other_settings(client={"max_retries": 0}, api={"url": "http://there/api"}, ui_url="u"):
        here = get_current_settings()
        variables = here.to_environment_variables(exclude_unset=True)
        assert (here.client.max_retries, here.api.url, here.ui_url) == (0, "http://there/api", "u")
    assert variables["PREFECT_CLIENT_MAX_RETRIES"] == "0"
    assert variables["PREFECT_API_URL"] == "http://there/api"
    assert get_current_settings().api.url == address
