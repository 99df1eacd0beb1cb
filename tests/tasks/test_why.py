"""Causes that are planted are named: each trial runs with one thing as it was then, and without."""

from __future__ import annotations

import math
import os
import random
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from wheels_under_test import install_here, only_these_wheels, recorded, wheel

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import Capture, Environment
from prefect_optuna.tasks.inputs import InputFile
from prefect_optuna.tasks.reevaluation.rerun import ArchivedTrial, RerunAnswer, RerunRequest, rerun
from prefect_optuna.tasks.reevaluation.verdicts import Rerun
from prefect_optuna.tasks.reevaluation.why import Drift, find_cause, find_causes

STARTED = "2024-02-29T12:00:00"


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


@dataclass
class Counted:
    """Runs requests, and counts them."""

    count: int = 0

    def __call__(self, request: RerunRequest) -> RerunAnswer:
        self.count += 1
        return rerun(request)


@dataclass
class Planted:
    """A trial of some code, as it ran then.

    Attributes:
        run: the code.
        then: what it ran in.
        changed: how its process was then, other than now.
    """

    run: Callable[..., float]
    then: Environment = field(
        default_factory=lambda: replace(Environment.capture(), kernels={}, threads={})
    )
    scope: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[InputFile, ...] = ()

    def request(self, **changes: Any) -> RerunRequest:
        capture = Capture.of(Problem(suggest=suggest, run=self.run))
        trial = ArchivedTrial(0, {"x": 0.5}, seeds=(7,), started=STARTED)
        request = RerunRequest(capture, self.then, [trial], self.scope, inputs=self.inputs)
        return replace(request, **changes)

    def value(self, **then: Any) -> float:
        """The archived value, of a process as it was then."""
        [again] = rerun(self.request(**then)).reruns
        assert not again.error
        return again.values[0][0]

    def drift(self, value: float, run: Any = rerun, **now: Any) -> Drift:
        trial = optuna.trial.create_trial(
            value=value,
            params={"x": 0.5},
            distributions={"x": optuna.distributions.FloatDistribution(-1, 1)},
        )
        trial.number = 0
        trial.datetime_complete = datetime.now()  # noqa: DTZ005
        request = self.request(**now)

        def is_reproduced(again: Rerun) -> bool:
            return not again.error and set(again.values) == {(value,)}

        answer = rerun(request)
        assert not is_reproduced(answer.reruns[0])
        return Drift(trial, request, answer, run, is_reproduced, scope=self.scope)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)


def of_packages(params: dict[str, float]) -> float:
    import tiny  # pyright: ignore[reportMissingImports]

    return params["x"] * tiny.VALUE


@pytest.mark.slow
def test_the_package_is_found_among_those_that_differ_in_log2_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = only_these_wheels(tmp_path, monkeypatch)
    others = [f"other{number}" for number in range(5)]
    for name in others:
        for version in ("1.0", "2.0"):
            wheel(wheels, name, version, {f"{name}.py": ""})
        install_here(wheels, name, "2.0", monkeypatch)
    install_here(wheels, "tiny", "2.0", monkeypatch)
    versions = dict.fromkeys([*others[:3], "tiny", *others[3:]], "1.0")
    planted = Planted(of_packages, recorded(**versions))
    counted = Counted()
    # `rest` leads here, where none of that name is installed.
    drift = planted.drift(planted.value(packages="recorded"), counted)
    here = drift.answer.environment
    here = replace(here, distributions=here.distributions | {"rest": "1.0"})
    drift = replace(drift, answer=replace(drift.answer, environment=here))

    cause = find_cause(drift)

    assert cause.text == "packages: tiny 2.0, was 1.0"
    assert cause.experiments[0] == "with the packages that were recorded: reproduced"
    assert counted.count <= math.log2(len(versions)) + 2


def of_scope(params: dict[str, float], scope: dict[str, float]) -> float:
    return params["x"] * scope["gain"]


@pytest.mark.slow
def test_a_changed_constant_of_the_scope() -> None:
    planted = Planted(of_scope, scope={"gain": 2.0})
    drift = planted.drift(planted.value(), scope={"gain": 3.0})
    cause = find_cause(replace(drift, changed={"gain": 3.0}))
    assert cause.text == "the scope was changed: gain=3.0"


def of_data(params: dict[str, float]) -> float:
    return params["x"] * float(Path("gain.txt").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_changed_file_where_the_archive_has_its_content_and_where_not() -> None:
    Path("gain.txt").write_text("3.5", encoding="utf-8")
    note = InputFile(str(Path("gain.txt").absolute()), "gain.txt", 1, "0" * 64, kept=True)
    planted = Planted(of_data, inputs=(note,))
    drift = planted.drift(1.0)

    cause = find_cause(replace(drift, inputs=lambda: {"gain.txt": b"2"}))
    assert cause.text == "data: gain.txt is another one: 1 B then, 3 B now"
    assert "with the archived data: reproduced" in cause.experiments

    def not_kept() -> dict[str, bytes]:
        raise ArchiveError("gain.txt was not kept")

    assert find_cause(replace(drift, inputs=not_kept)).text.startswith("data: gain.txt is another")


def of_random(params: dict[str, float]) -> float:
    return params["x"] + int.from_bytes(os.urandom(4), "big")


def of_clock(params: dict[str, float]) -> float:
    return params["x"] + time.time()


@pytest.mark.slow
def test_what_is_random_and_what_reads_the_clock_differs_from_itself() -> None:
    random = find_cause(Planted(of_random).drift(1.0))
    assert "random numbers of os.urandom, which no seed reaches" in random.text
    assert find_cause(Planted(of_clock).drift(1.0)).text == "time: it reads the clock (time.time)"


def of_the_day(params: dict[str, float]) -> float:
    return params["x"] * datetime.now().timetuple().tm_yday  # noqa: DTZ005


@pytest.mark.slow
def test_the_day_on_which_it_ran() -> None:
    planted = Planted(of_the_day)
    value = planted.value(clock="recorded")
    assert value == 0.5 * 60
    if date.today().timetuple().tm_yday != 60:  # noqa: DTZ011
        assert find_cause(planted.drift(value)).text == "time: it reads the clock (datetime.now)"


def of_variable(params: dict[str, float]) -> float:
    return params["x"] * float(os.environ.get("LAB_GAIN", "1"))


@pytest.mark.slow
def test_a_variable_that_nobody_has_recorded() -> None:
    cause = find_cause(Planted(of_variable).drift(1.0))
    assert "reads the environment variable LAB_GAIN" in cause.text


def of_threads(params: dict[str, float]) -> float:
    return params["x"] * float(os.environ.get("OMP_NUM_THREADS", "1"))


@pytest.mark.slow
def test_a_number_of_threads_that_was_not_put_back() -> None:
    here = replace(Environment.capture(), kernels={}, threads={})
    planted = Planted(of_threads, replace(here, variables={"OMP_NUM_THREADS": "3"}))
    assert planted.value() == 1.5
    cause = find_cause(planted.drift(1.5, threads="here"))
    assert cause.text == "OMP_NUM_THREADS not set, was 3"


def of_hashes(params: dict[str, float]) -> float:
    return params["x"] * sum(n * ord(c) for n, c in enumerate({"a", "b", "c", "d", "e", "f", "g"}))


@pytest.mark.slow
def test_the_order_of_a_set() -> None:
    planted = Planted(of_hashes, replace(Environment.capture(), kernels={}, variables={}))
    assert find_cause(planted.drift(-1.0)).text.startswith("the hash seed: the order of a set")


def of_two(params: dict[str, float], scope: dict[str, float]) -> float:
    return of_data(params) * scope["gain"]


@pytest.mark.slow
def test_two_causes_at_once_and_what_is_none_is_left_out() -> None:
    Path("gain.txt").write_text("3", encoding="utf-8")
    note = InputFile(str(Path("gain.txt").absolute()), "gain.txt", 1, "0" * 64, kept=True)
    here = replace(Environment.capture(), kernels={}, threads={})
    then = replace(here, variables={"OMP_NUM_THREADS": "3"})
    planted = Planted(of_two, then, scope={"gain": 5.0}, inputs=(note,))
    drift = planted.drift(5.0, scope={"gain": 7.0}, threads="here")
    cause = find_cause(replace(drift, changed={"gain": 7.0}, inputs=lambda: {"gain.txt": b"2"}))
    assert cause.text.startswith("the scope was changed: gain=7.0 and data: gain.txt is another")
    assert "OMP_NUM_THREADS" not in cause.text


@pytest.mark.slow
def test_what_is_the_cause_for_one_trial_is_tried_on_the_others() -> None:
    planted = Planted(of_scope, scope={"gain": 2.0})
    counted = Counted()
    drift = planted.drift(1.0, counted, scope={"gain": 3.0})
    request = drift.request
    trials = [replace(request.trials[0], number=number) for number in range(3)]
    drifts: list[Drift] = []
    for one in trials:
        trial = optuna.trial.create_trial(value=1.0)
        trial.number = one.number
        request = replace(request, trials=trials)
        drifts.append(replace(drift, trial=trial, request=request, changed={"gain": 3.0}))

    causes = find_causes(drifts)

    assert {cause.text for cause in causes.values()} == {"the scope was changed: gain=3.0"}
    assert causes[2].experiments == ("with what has helped trial 0: reproduced",)
    assert counted.count == 2


def of_seed(params: dict[str, float]) -> float:
    return params["x"] + round(random.random())  # values that other seeds have in common


@pytest.mark.slow
def test_the_seed_that_it_had() -> None:
    planted = Planted(of_seed)
    value = planted.value()
    seeds = [seed for seed in range(20) if round(Random(seed).random()) != round(value - 0.5)]
    other = replace(planted.request().trials[0], seeds=seeds[:2])
    cause = find_cause(replace(planted.drift(value, trials=[other]), seed=7))
    assert cause.text == "the seed: another one than 7"
    assert cause.experiments == ("with the seed that it had, 7: reproduced",)


@pytest.mark.slow
def test_a_variable_is_tried_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_GAIN", "4")
    then = replace(planted := Planted(of_variable).drift(2.0), variables=["LAB_GAIN"])
    text = "the environment variable LAB_GAIN, which environment_variables=['LAB_GAIN'] passes on"
    assert find_cause(then).text == text
    assert "reads the environment variable LAB_GAIN" in find_cause(planted).text
    without = Planted(of_variable).drift(0.5, environment_variables=["LAB_GAIN"])
    assert find_cause(without).text == "the environment variable LAB_GAIN, which was not set"


@pytest.mark.slow
def test_a_package_that_was_edited_and_one_that_is_none_the_less_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = only_these_wheels(tmp_path, monkeypatch)
    install_here(wheels, "tiny", "1.0", monkeypatch)
    planted = Planted(of_packages, recorded(tiny="1.0"))
    (tmp_path / "site-packages" / "tiny.py").write_text("VALUE = 9\n", encoding="utf-8")
    here = planted.drift(0.5)
    here = replace(here, answer=replace(here.answer, environment=planted.then))
    assert find_cause(here).text == "code: tiny 1.0 was edited here (tiny.py)"
    (wheels / "tiny-1.0-py3-none-any.whl").unlink()
    shutil.rmtree(tmp_path / "environments")
    shutil.rmtree(tmp_path / "uv")
    cause = find_cause(here)  # which cannot be tried, and is said nevertheless
    assert cause.text.startswith("code: tiny 1.0 was edited here (tiny.py)")
    assert "with the packages that were recorded: not possible" in cause.experiments[0]
