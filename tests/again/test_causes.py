"""Causes that are planted in archived studies: `reevaluate(..., why=True)` names each of them.

Each function plants one. It runs a study, changes something, and returns how to run it again; what
stands beside it is what the cause has to say.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import runpy
import secrets
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from threadpoolctl import threadpool_limits
from wheels_under_test import install_here, only_these_wheels, record_only, wheel

from prefect_optuna import Problem, optimize, param_scope, reevaluate

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.usefixtures("prefect_server"),
]

STUDY = "planted"


@dataclass
class Lab:
    """A folder in which studies run, and what is installed there."""

    folder: Path
    patch: pytest.MonkeyPatch
    wheels: Path | None = None

    def study(self, problem: Any, **options: Any) -> None:
        """Run a study of one trial."""
        optimize(problem, study_name=STUDY, n_trials=1, seed=1, **options)

    def study_with(
        self, problem: Any, files: dict[str, str] | None = None, **versions: str
    ) -> None:
        """Run a study with packages that are installed for it."""
        self.install(files, **versions)
        with pytest.MonkeyPatch.context() as then:
            record_only(then, **versions)
            self.study(problem)

    def install(self, files: dict[str, str] | None = None, **versions: str) -> None:
        """Install packages in place of those that were: each is its version, unless it is given."""
        self.wheels = self.wheels or only_these_wheels(self.folder, self.patch)
        shutil.rmtree(self.folder / "site-packages", ignore_errors=True)
        for name, version in {"rest": "1.0", **versions}.items():
            if name not in ("rest", "tiny"):
                text = (files or {}).get(name, f"VALUE = {version}\n")
                wheel(self.wheels, name, version, {f"{name}.py": text})
            install_here(self.wheels, name, version, self.patch)
            sys.modules.pop(name, None)
        importlib.invalidate_caches()

    @property
    def installed(self) -> Path:
        """Where packages are."""
        return self.folder / "site-packages"


Plant = Callable[[Lab], "dict[str, Any] | None"]
CAUSES: list[tuple[Plant, str]] = []


def named(cause: str) -> Callable[[Plant], Plant]:
    """Say what the cause has to match."""

    def plant(function: Plant) -> Plant:
        CAUSES.append((function, cause))
        return function

    return plant


@pytest.mark.parametrize(("plant", "cause"), CAUSES, ids=lambda one: getattr(one, "__name__", ""))
def test_the_cause_is_named(
    plant: Plant, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "LAB_GAIN"):
        monkeypatch.delenv(name, raising=False)
    options = plant(Lab(tmp_path, monkeypatch)) or {}
    options = {"trials": 0, "trusted": True, "rtol": 0.0, "why": True, **options}
    [trial] = reevaluate(STUDY, **options).trials
    assert trial.verdict in ("drifted", "failed"), trial
    assert re.match(cause, trial.cause), (trial.cause, trial.experiments)


def test_there_are_thirty() -> None:
    assert len(CAUSES) >= 30


# -- versions of packages -------------------------------------------------------------------------


def of_tiny(trial: optuna.Trial) -> float:
    import tiny  # pyright: ignore[reportMissingImports]

    return trial.suggest_float("x", 1, 2) * tiny.VALUE


def of_two_packages(trial: optuna.Trial) -> float:
    import deep  # pyright: ignore[reportMissingImports]
    import tiny  # pyright: ignore[reportMissingImports]

    return trial.suggest_float("x", 1, 2) * tiny.VALUE + deep.VALUE**2


def of_front(trial: optuna.Trial) -> float:
    import front  # pyright: ignore[reportMissingImports]

    return trial.suggest_float("x", 1, 2) * front.VALUE


FRONT = {"front": "from deep import VALUE\n"}
OTHERS = [f"other{number}" for number in range(4)]


@named(r"packages: tiny 2\.0, was 1\.0$")
def a_newer_package(lab: Lab) -> None:
    lab.study_with(of_tiny, tiny="1.0")
    lab.install(tiny="2.0")


@named(r"packages: tiny 1\.0, was 1\.4$")
def an_older_package(lab: Lab) -> None:
    lab.study_with(of_tiny, tiny="1.4")
    lab.install(tiny="1.0")


@named(r"packages: tiny 2\.0, was 1\.0$")
def a_package_among_five_that_differ(lab: Lab) -> None:
    versions = {**dict.fromkeys(OTHERS[:3], "1.0"), "tiny": "1.0", "other3": "1.0"}
    lab.study_with(of_tiny, None, **versions)
    lab.install(None, **dict.fromkeys(versions, "2.0"))


@named(r"packages: deep 2\.0, was 1\.0$")
def a_package_that_another_one_imports(lab: Lab) -> None:
    lab.study_with(of_front, FRONT, front="1.0", deep="1.0")
    lab.install(FRONT, front="1.0", deep="2.0")


@named(r"packages: (?=.*tiny 2\.0, was 1\.0)(?=.*deep 3\.0, was 1\.0)(?!.*other)")
def two_packages_at_once(lab: Lab) -> None:
    lab.study_with(of_two_packages, other0="1.0", tiny="1.0", other1="1.0", deep="1.0")
    lab.install(other0="2.0", tiny="2.0", other1="2.0", deep="3.0")


@named(r"code: tiny 1\.0 was edited here \(tiny\.py\)")
def a_constant_of_an_installed_package(lab: Lab) -> None:
    lab.study_with(of_tiny, tiny="1.0")
    (lab.installed / "tiny.py").write_text("VALUE = 1.25\n", encoding="utf-8")


@named(r"code: deep 1\.0 was edited here \(deep\.py\)")
def a_constant_of_a_package_that_another_one_imports(lab: Lab) -> None:
    lab.study_with(of_front, FRONT, front="1.0", deep="1.0")
    (lab.installed / "deep.py").write_text("VALUE = 1.25\n", encoding="utf-8")


# -- constants ------------------------------------------------------------------------------------


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 1, 2)}


def of_scope(params: dict[str, float], scope: dict[str, float]) -> float:
    return params["x"] * scope["gain"]


def of_nested_scope(params: dict[str, float]) -> float:
    return params["x"] * param_scope.simulate.dt(0.1)


@named(r"the scope was changed: gain=3\.0$")
def a_constant_of_the_scope(lab: Lab) -> dict[str, Any]:
    lab.study(Problem(suggest=suggest, run=of_scope), scope={"gain": 2.0})
    return {"scope": {"gain": 3.0}}


@named(r"the scope was changed: simulate\.dt=0\.2$")
def a_constant_that_has_a_default(lab: Lab) -> dict[str, Any]:
    lab.study(Problem(suggest=suggest, run=of_nested_scope))
    return {"scope": {"simulate.dt": 0.2}}


# -- files ----------------------------------------------------------------------------------------


def of_csv(trial: optuna.Trial) -> float:
    rows = Path("gain.csv").read_text(encoding="utf-8").split(",")
    return trial.suggest_float("x", 1, 2) * sum(map(float, rows))


def of_two_files(trial: optuna.Trial) -> float:
    gain = json.loads(Path("settings.json").read_text(encoding="utf-8"))["gain"]
    return of_csv(trial) * gain


def of_array(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) * float(np.load("gain.npy").sum())


def of_a_path(trial: optuna.Trial) -> float:
    path = trial.study.user_attrs.get("path", "") or os.path.abspath("gain.csv")  # noqa: PTH100
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return trial.suggest_float("x", 1, 2) * len(file.read())


def of_python_settings(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) * runpy.run_path("settings.py")["GAIN"]


@named(r"data: gain\.csv is another one: 5 B then, the same size now$")
def a_file_of_the_same_size(lab: Lab) -> None:
    Path("gain.csv").write_text("1,2,3", encoding="utf-8")
    lab.study(of_csv, keep_inputs="1 MB")
    Path("gain.csv").write_text("1,2,4", encoding="utf-8")


@named(r"data: gain\.csv is another one: 5 B then, 7 B now$")
def a_file_of_which_the_archive_has_no_copy(lab: Lab) -> None:
    Path("gain.csv").write_text("1,2,3", encoding="utf-8")
    lab.study(of_csv)
    Path("gain.csv").write_text("1,2,3,4", encoding="utf-8")


@named(r"data: gain\.csv is another one: [^,]*, [^,]*$")
def one_of_two_files(lab: Lab) -> None:
    Path("gain.csv").write_text("1,2,3", encoding="utf-8")
    Path("settings.json").write_text('{"gain": 2}', encoding="utf-8")
    lab.study(of_two_files, keep_inputs="1 MB")
    Path("gain.csv").write_text("1,2,5", encoding="utf-8")


@named(r"data: gain\.csv is not there: 5 B then")
def a_file_that_is_gone(lab: Lab) -> None:
    Path("gain.csv").write_text("1,2,3", encoding="utf-8")
    lab.study(of_csv, keep_inputs="1 MB")
    Path("gain.csv").unlink()


@named(r"data: gain\.npy is another one")
def an_array(lab: Lab) -> None:
    np.save("gain.npy", np.arange(3.0))
    lab.study(of_array, keep_inputs="1 MB")
    np.save("gain.npy", np.arange(4.0))


@named(r"data: /.*gain\.csv is another one: 5 B then, 7 B now$")
def a_file_with_its_full_path(lab: Lab) -> None:
    Path("gain.csv").write_text("1,2,3", encoding="utf-8")
    lab.study(of_a_path)
    Path("gain.csv").write_text("1,2,3,4", encoding="utf-8")


@named(r"data: settings\.py is another one")
def a_constant_in_a_file_of_settings(lab: Lab) -> None:
    Path("settings.py").write_text("GAIN = 2\n", encoding="utf-8")
    lab.study(of_python_settings, keep_inputs="1 MB")
    Path("settings.py").write_text("GAIN = 3\n", encoding="utf-8")


# -- generators -----------------------------------------------------------------------------------


def of_urandom(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + int.from_bytes(os.urandom(4), "big")


def of_secrets(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + secrets.randbelow(10**9)


def of_uuid(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + uuid.uuid4().int % 10**9


def of_system_random(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + random.SystemRandom().random()


def of_random(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + random.random()


def of_numpy(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + np.random.default_rng().random()


@named(r".*random numbers of os\.urandom, which no seed reaches")
def the_random_bytes_of_the_system(lab: Lab) -> None:
    lab.study(of_urandom)


@named(r".*random numbers of secrets, which no seed reaches")
def numbers_that_are_secrets(lab: Lab) -> None:
    lab.study(of_secrets)


@named(r".*random numbers of uuid, which no seed reaches")
def a_uuid(lab: Lab) -> None:
    lab.study(of_uuid)


@named(r".*random numbers of random\.SystemRandom, which no seed reaches")
def the_generator_of_the_system(lab: Lab) -> None:
    lab.study(of_system_random)


@named(r".*random numbers without a seed")
def a_generator_without_a_seed(lab: Lab) -> None:
    lab.study(of_random, seed_trials=False)


@named(r".*or NumPy, and the trial had no seed")
def a_generator_of_numpy_without_a_seed(lab: Lab) -> None:
    lab.study(of_numpy, seed_trials=False)


# -- threads, kernels, hashes ---------------------------------------------------------------------

SUMS = """
    import numpy as np
    import threadpoolctl
    from prefect_optuna import optimize

    VECTOR = np.sin(np.arange(400_003.0))

    def objective(trial):
        return trial.suggest_float("x", 1, 2) * float(VECTOR @ np.cos(VECTOR))

    optimize(objective, study_name="planted", n_trials=1, seed=1)
"""


def of_sums(trial: optuna.Trial) -> float:
    vector = np.sin(np.arange(400_003.0))
    return trial.suggest_float("x", 1, 2) * float(vector @ np.cos(vector))


def of_omp(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) * float(os.environ.get("OMP_NUM_THREADS", "1"))


def of_order(trial: optuna.Trial) -> float:
    words = {"snow", "shoe", "hare", "lynx", "pelt", "fox", "vole", "owl"}
    return trial.suggest_float("x", 1, 2) * sum(n * ord(w[0]) ** n for n, w in enumerate(words))


def of_a_race(trial: optuna.Trial) -> float:
    ended: list[int] = []

    def work(number: int) -> None:
        time.sleep(int.from_bytes(str(time.perf_counter_ns()).encode()[-1:]) % 7 / 300)
        ended.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return trial.suggest_float("x", 1, 2) * sum(10**n * one for n, one in enumerate(ended))


def in_a_process(script: str, **variables: str) -> None:
    Path("main.py").write_text(textwrap.dedent(script), encoding="utf-8")
    subprocess.run([sys.executable, "main.py"], env={**os.environ, **variables}, check=True)
    Path("main.py").unlink()


@named(r"OMP_NUM_THREADS not set, was 3$")
def a_variable_for_threads(lab: Lab) -> dict[str, Any]:
    lab.patch.setenv("OMP_NUM_THREADS", "3")
    lab.study(of_omp)
    lab.patch.delenv("OMP_NUM_THREADS")
    return {"threads": "here"}


@named(r"the threads of openblas 2, was 1$")
def a_number_of_threads(lab: Lab) -> dict[str, Any]:
    with threadpool_limits(1, user_api="blas"):
        lab.study(of_sums)
    return {"threads": "here"}


@named(r"the kernel of openblas \w+, was Nehalem$")
def the_code_for_a_processor(lab: Lab) -> dict[str, Any]:
    in_a_process(SUMS, OPENBLAS_CORETYPE="Nehalem")
    return {"threads": "here"}


@named(r"PYTHONHASHSEED not set, was 7$")
def a_hash_seed_that_was_set(lab: Lab) -> dict[str, Any]:
    source = "\n".join(
        [
            "    from prefect_optuna import optimize",
            "    def objective(trial):",
            "        words = {'snow', 'shoe', 'hare', 'lynx', 'pelt', 'fox', 'vole', 'owl'}",
            "        x = trial.suggest_float('x', 1, 2)",
            "        return x * sum(n * ord(w[0]) ** n for n, w in enumerate(words))",
            "    optimize(objective, study_name='planted', n_trials=1, seed=1)",
        ]
    )
    in_a_process(source, PYTHONHASHSEED="7")
    return {"threads": "here"}


@named(r"the hash seed: the order of a set of text")
def a_hash_seed_that_was_left_to_chance(lab: Lab) -> None:
    lab.study(of_order)


@named(r".*its repetitions differ from one another, .*threads|time: it reads the clock")
def threads_that_race(lab: Lab) -> None:
    lab.study(of_a_race)


# -- environment variables ------------------------------------------------------------------------


def of_variable(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) * float(os.environ.get("LAB_GAIN", "1"))


def of_needed_variable(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) * float(os.environ["LAB_GAIN"])


@named(r"the environment variable LAB_GAIN, which environment_variables=\['LAB_GAIN'\] passes on$")
def a_variable_that_is_set_as_it_was(lab: Lab) -> None:
    lab.patch.setenv("LAB_GAIN", "3")
    lab.study(of_variable)


@named(r"it reads the environment variable LAB_GAIN")
def a_variable_that_has_another_value(lab: Lab) -> dict[str, Any]:
    lab.patch.setenv("LAB_GAIN", "3")
    lab.study(of_variable)
    lab.patch.setenv("LAB_GAIN", "4")
    return {"environment_variables": ["LAB_GAIN"]}


@named(r"the environment variable LAB_GAIN, which was not set$")
def a_variable_that_was_not_set(lab: Lab) -> dict[str, Any]:
    lab.study(of_variable)
    lab.patch.setenv("LAB_GAIN", "4")
    return {"environment_variables": ["LAB_GAIN"]}


@named(r"it reads the environment variable LAB_GAIN")
def a_variable_without_which_it_fails(lab: Lab) -> None:
    lab.patch.setenv("LAB_GAIN", "3")
    lab.study(of_needed_variable)
    lab.patch.delenv("LAB_GAIN")


# -- time -----------------------------------------------------------------------------------------


def of_time(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + time.time()


def of_whole_seconds(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + int(datetime.now(UTC).timestamp())


def of_a_stopwatch(trial: optuna.Trial) -> float:
    started = time.perf_counter()
    return trial.suggest_float("x", 1, 2) + (time.perf_counter() - started)


def of_a_text(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + int(time.strftime("%d%H%M%S"))


def of_the_local_time(trial: optuna.Trial) -> float:
    now = time.localtime()
    return trial.suggest_float("x", 1, 2) + now.tm_min * 60 + now.tm_sec


def of_a_seed_from_the_clock(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2) + random.Random(time.time()).random()


@named(r"time: it reads the clock \(time\.time\)$")
def the_clock(lab: Lab) -> None:
    lab.study(of_time)


@named(r"time: it reads the clock \(datetime\.now\)$")
def the_date_in_whole_seconds(lab: Lab) -> None:
    lab.study(of_whole_seconds)


@named(r"time: it reads the clock \(time\.perf_counter\)$")
def a_stopwatch(lab: Lab) -> None:
    lab.study(of_a_stopwatch)


@named(r"time: it reads the clock \(time\.strftime\)$")
def the_time_as_text(lab: Lab) -> None:
    lab.study(of_a_text)


@named(r"time: it reads the clock \(time\.localtime\)$")
def the_local_time(lab: Lab) -> None:
    lab.study(of_the_local_time)


@named(r"time: it reads the clock \(time\.time\)$")
def a_seed_from_the_clock(lab: Lab) -> None:
    lab.study(of_a_seed_from_the_clock)
