"""Why a trial drifted: what differs is named, and nothing else."""

from __future__ import annotations

import importlib.machinery
import linecache
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from prefect_optuna.tasks import Environment, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.inputs import files_read
from prefect_optuna.tasks.reevaluation.rerun import ArchivedTrial, RerunAnswer, RerunRequest, rerun
from prefect_optuna.tasks.reevaluation.verdicts import Rerun, compare
from prefect_optuna.tasks.reevaluation.why import likely_cause

HERE = Environment.capture()


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def mean(params: dict[str, float]) -> float:
    import numpy as np

    return float(np.mean([params["x"]]))


CAPTURE = Capture.of(Problem(suggest=suggest, run=mean))
TRIAL = optuna.trial.create_trial(
    value=0.5, params={"x": 0.5}, distributions={"x": optuna.distributions.FloatDistribution(0, 1)}
)


def cause(
    values: tuple[tuple[float, ...], ...] = ((0.75,),),
    *,
    then: Environment = HERE,
    now: Environment = HERE,
    files: tuple[str, ...] = (),
    error: str = "",
    scope: Mapping[str, Any] | None = None,
    trial: optuna.trial.FrozenTrial = TRIAL,
) -> str:
    request = RerunRequest(CAPTURE, then, [ArchivedTrial.of(trial)])
    again = Rerun(0, values, error, files)
    return likely_cause(trial, again, request, RerunAnswer([again], now), scope)


def with_version(version: str, name: str = "numpy") -> Environment:
    return replace(HERE, distributions={**HERE.distributions, name: version})


def test_a_package_that_the_code_imports_is_named_with_both_versions() -> None:
    numpy = HERE.distributions["numpy"]
    assert cause(then=with_version("1.2.3")) == f"packages: numpy {numpy}, was 1.2.3"


def test_other_packages_are_counted_where_no_imported_one_differs() -> None:
    assert cause(then=with_version("1.2.3", "rich")) == (
        "1 package that the code does not import itself"
    )
    both = replace(with_version("1.2.3", "rich"), distributions={"numpy": "1", "rich": "2"})
    assert "does not import itself" not in cause(then=both)


def test_python_and_the_machine_are_named() -> None:
    other = replace(HERE, python="3.9.0", machine="aarch64")
    said = cause(then=other)
    assert f"Python {HERE.python}, was 3.9.0" in said
    assert f"the processor's architecture {HERE.machine}, was aarch64" in said


def test_a_package_from_a_folder_may_be_other_code_at_the_same_version() -> None:
    then = replace(HERE, sources={"numpy": "git+https://host/numpy@aaa"})
    local = replace(HERE, sources={"numpy": "a folder"})
    moved = replace(HERE, sources={"numpy": "git+https://host/numpy@bbb"})
    assert "numpy is installed from a folder, so the same version" in cause(then=local, now=local)
    assert cause(then=then, now=moved) == (
        "code: numpy from git+https://host/numpy@bbb, was git+https://host/numpy@aaa"
    )


def test_variables_that_change_numbers_are_named() -> None:
    then = replace(HERE, variables={"OMP_NUM_THREADS": "1"})
    assert cause(then=then, now=replace(HERE, variables={})) == "OMP_NUM_THREADS not set, was 1"


def test_repetitions_that_differ_point_to_chance() -> None:
    assert cause(((0.75,), (0.8,))).startswith("its repetitions differ from one another")
    assert "repetitions" not in cause(((0.75,), (0.75,)))


def test_a_scope_that_was_changed_is_named() -> None:
    assert "scope was changed: simulate.seed=1" in cause(scope={"simulate.seed": 1})


def test_a_file_that_changed_after_the_trial_is_named(tmp_path: Path) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    os.utime(new, (time.time() + 60, time.time() + 60))
    said = cause(files=(str(old), str(new), str(tmp_path / "gone.csv")))
    assert said.startswith(f"data: {new} (changed ")
    assert "old.csv" not in said
    assert "gone.csv" not in said
    local = replace(HERE, sources={"numpy": "a folder"})
    said = cause(then=local, now=local, files=(str(new),))
    assert said.index("new.csv") < said.index("installed from a folder")


def test_where_nothing_differs_that_is_said_with_what_would_tell_more() -> None:
    assert "repeats=3 would tell" in cause()
    assert cause(((0.75,), (0.75,))) == "nothing that the archive knows of differs"


def test_a_trial_without_a_value_that_gives_one_now_is_told() -> None:
    failed = optuna.trial.create_trial(state=TrialState.FAIL)
    assert cause(trial=failed).startswith("it failed then, and gives a value now")
    assert compare(failed, Rerun(0, ((1.0,),)), [0.0], [0.0]).verdict == "drifted"


@pytest.mark.parametrize(
    ("archived", "again", "verdict"),
    [
        ([1.0, 10.0], (1.05, 10.0), "reproduced"),
        ([1.0, 10.0], (1.0, 10.05), "drifted"),
        ([float("inf"), 10.0], (float("inf"), 10.0), "reproduced"),
        ([float("inf"), 10.0], (1e300, 10.0), "drifted"),
    ],
)
def test_each_direction_has_its_tolerance(
    archived: list[float], again: tuple[float, ...], verdict: str
) -> None:
    trial = optuna.trial.create_trial(values=archived)
    assert compare(trial, Rerun(0, (again,)), [0.1, 0.001], [0.0, 0.0]).verdict == verdict


def test_files_are_seen_that_python_reads_and_no_others(tmp_path: Path) -> None:
    data, written, code = tmp_path / "data.txt", tmp_path / "out.txt", tmp_path / "code.py"
    data.write_text("1")
    code.write_text("")
    with files_read() as read, files_read() as inner:
        data.read_text()
        os.close(os.open(data, os.O_RDONLY))
        written.write_text("2")
        importlib.machinery.SourceFileLoader("code_of_a_test", str(code)).get_code("code_of_a_test")
        linecache.getlines(str(code))
    data.read_bytes()
    assert list(read) == [str(data)]
    assert list(inner) == [str(data)]


@pytest.mark.slow
def test_a_trial_that_was_pruned_is_pruned_again_after_the_same_step() -> None:
    def descend(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        if x == 1:
            raise optuna.TrialPruned
        for step in range(10):
            trial.report(x + step, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return x

    trials = [ArchivedTrial(4, {"x": 0.5}, pruned_at=4), ArchivedTrial(5, {"x": 1.0})]
    request = RerunRequest(Capture.of(Problem(objective=descend)), HERE, trials)
    again, other = rerun(request).reruns
    assert again == Rerun(4, ((3.5,),), constraints=({},), seeds=(None,))
    assert other.error == "pruned: it raised TrialPruned where it did not then"


def test_sets_are_a_cause_where_hashes_were_left_to_chance() -> None:
    def first_of_set(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1) + len(next(iter({"hare", "ly" + "nx", "o"})))

    again = Rerun(0, ((0.75,),))
    for variables, named in (({}, True), ({"PYTHONHASHSEED": "0"}, False)):
        then = replace(HERE, variables=variables)
        request = RerunRequest(Capture.of(Problem(objective=first_of_set)), then, [])
        found = likely_cause(TRIAL, again, request, RerunAnswer([again], then))
        assert ("without PYTHONHASHSEED" in found) == named
    request = RerunRequest(CAPTURE, replace(HERE, variables={}), [])
    found = likely_cause(TRIAL, again, request, RerunAnswer([again], request.environment))
    assert found.startswith("nothing that the archive knows of differs")


RNG = np.random.default_rng(3)


def test_a_generator_that_the_code_holds_is_named() -> None:
    def noisy(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1) + RNG.normal()

    assert "a generator that the code holds" not in cause()
    request = RerunRequest(Capture.of(Problem(objective=noisy)), HERE, [ArchivedTrial.of(TRIAL)])
    again = Rerun(0, ((0.75,),))
    found = likely_cause(TRIAL, again, request, RerunAnswer([again], HERE))
    assert found.startswith("it may draw from a generator that the code holds, which goes on")


@pytest.mark.slow
def test_the_fresh_process_names_the_files_that_the_code_reads(tmp_path: Path) -> None:
    path = tmp_path / "gain.txt"
    path.write_text("3")

    def from_file(params: dict[str, float], scope: dict[str, str]) -> float:
        from pathlib import Path

        return params["x"] * float(Path(scope["file"]).read_text(encoding="utf-8"))

    request = RerunRequest(
        Capture.of(Problem(suggest=suggest, run=from_file)),
        HERE,
        [ArchivedTrial(0, {"x": 0.5}, seeds=(None, None))],
        scope={"file": str(path)},
    )
    answer = rerun(request)
    [again] = answer.reruns
    assert again == Rerun(0, ((1.5,), (1.5,)), "", (str(path),), ({}, {}), (None, None))
    assert answer.environment.distributions == HERE.distributions
