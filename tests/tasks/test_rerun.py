"""The process that runs archived code is told nothing that it does not need."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import Capture, Environment
from prefect_optuna.tasks.archive.record.environment import RECORDED_VARIABLES
from prefect_optuna.tasks.reevaluation.rerun import (
    ArchivedTrial,
    RerunRequest,
    kernel_as_recorded,
    rerun,
    threads_as_recorded,
    variables_without_secrets,
)

CANARY = "canary-4f1d"


def suggest(trial: Any) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def look(params: dict[str, float]) -> float:
    """Record what code that looks around finds."""
    from prefect.settings import get_current_settings

    from prefect_optuna.blocks import OptunaSettings

    current, ours = get_current_settings(), OptunaSettings.here()
    found = {
        "settings": [str(secret and "a secret") for secret in (ours.storage, ours.archive_key)],
        "environment": dict(os.environ),
        "home": [str(path) for path in Path.home().rglob("*")],
        "prefect": [str(current.api.url), str(current.api.key and "a key")],
    }
    Path("seen.json").write_text(json.dumps(found), encoding="utf-8")
    return params["x"]


def test_archived_code_sees_no_secret_of_its_starter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its environment, below its home folder, and in the settings of its Prefect."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text(CANARY)
    (home / ".prefect").mkdir()
    profile = f'active = "lab"\n[profiles.lab]\nPREFECT_API_KEY = "{CANARY}"\n'
    (home / ".prefect" / "profiles.toml").write_text(profile)
    folder = tmp_path / "project"
    folder.mkdir()
    names = ("API_KEY", "API_URL", "INTEGRATIONS_OPTUNA_STORAGE", "INTEGRATIONS_OPTUNA_ARCHIVE_KEY")
    lines = [f"PREFECT_{name}=memory://{CANARY}\n" for name in names]
    (folder / ".env").write_text("".join(lines))
    monkeypatch.chdir(folder)
    for name in (
        "prefect_integrations_optuna_archive_key",
        "PREFECT_API_KEY",
        "PREFECT_INTEGRATIONS_OPTUNA_STORAGE",
        "AWS_SECRET_ACCESS_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "HTTPS_PROXY",
        "LAB_PASSWORD",
        "LC_LAB_TOKEN",  # SSH takes along what is called so
    ):
        monkeypatch.setenv(name, CANARY)
    for name, text in {"HOME": str(home), "OMP_NUM_THREADS": "2", "LAB_DATA": "/lab"}.items():
        monkeypatch.setenv(name, text)
    request = RerunRequest(
        Capture.of(Problem(suggest=suggest, run=look)),
        Environment.capture(),
        [ArchivedTrial(0, {"x": 0.5})],
        environment_variables=["LAB_DATA", "NOT_SET_HERE"],
    )

    [again] = rerun(request).reruns

    assert again.values == ((0.5,),)
    text = (folder / "seen.json").read_text()  # it runs in the folder of its starter
    seen = json.loads(text)
    assert CANARY not in text
    assert seen["prefect"] == seen["settings"] == ["None", "None"]
    assert not [path for path in seen["home"] if "credentials" in path or "profiles" in path]
    assert seen["environment"]["LAB_DATA"] == "/lab"
    assert seen["environment"]["OMP_NUM_THREADS"] == "2"
    assert not [name for name in seen["environment"] if name.lower().startswith("prefect")]
    assert not Path(seen["environment"]["HOME"]).exists()  # it was there for this run alone


def look_at_threads(params: dict[str, float]) -> float:
    """Record what the process of the archived code has for threads and hashes."""
    names = (*RECORDED_VARIABLES, "OPENBLAS_CORETYPE")
    found = {name: os.environ[name] for name in names if name in os.environ}
    Path("seen.json").write_text(json.dumps(found), encoding="utf-8")
    return params["x"]


def rerun_with(then: Environment, **options: Any) -> tuple[dict[str, str], Environment]:
    capture = Capture.of(Problem(suggest=suggest, run=look_at_threads))
    answer = rerun(RerunRequest(capture, then, [ArchivedTrial(0, {"x": 0.5})], **options))
    return json.loads(Path("seen.json").read_text(encoding="utf-8")), answer.environment


@pytest.mark.slow
def test_threads_hashes_and_the_kernel_are_those_of_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*RECORDED_VARIABLES, "OPENBLAS_CORETYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    here = Environment.capture()
    then = replace(
        here,
        variables={"PYTHONHASHSEED": "7", "MKL_CBWR": "AVX2", "LD_PRELOAD": "no.so"},
        threads={"openblas": 7, "openmp": 7, "unheard-of": 3},
        kernels={},
    )

    seen, environment = rerun_with(then)

    assert seen == {
        "PYTHONHASHSEED": "7",
        "MKL_CBWR": "AVX2",
        "OPENBLAS_NUM_THREADS": "7",
        "OMP_NUM_THREADS": "7",
    }
    assert environment.variables == {"PYTHONHASHSEED": "7", "MKL_CBWR": "AVX2"}  # no difference
    assert rerun_with(then, threads="here")[0] == {"OMP_NUM_THREADS": "1"}
    seen, _ = rerun_with(then, environment_variables=["OMP_NUM_THREADS"])
    assert seen["OMP_NUM_THREADS"] == "1"  # whoever names it means it


def test_an_older_kernel_of_a_processor_is_asked_for() -> None:
    here = replace(Environment.capture(), kernels={"openblas": "SkylakeX"})
    then = replace(here, kernels={"openblas": "Haswell"})
    assert kernel_as_recorded(then, here) == {"OPENBLAS_CORETYPE": "Haswell"}


@pytest.mark.parametrize("kernel", ["SapphireRapids", "a kernel; of others", ""])
def test_no_kernel_is_asked_for_that_the_processor_may_not_have(kernel: str) -> None:
    here = replace(Environment.capture(), kernels={"openblas": "Haswell"})
    then = replace(here, kernels={"openblas": kernel})
    assert kernel_as_recorded(then, here) == {}


def test_libraries_that_choose_as_many_threads_by_themselves_are_left_alone() -> None:
    count = len(os.sched_getaffinity(0))
    then = replace(Environment.capture(), threads={"openblas": count}, variables={})
    assert threads_as_recorded(then) == {}
    more = replace(then, threads={"openblas": count + 1}, variables={"OMP_NUM_THREADS": "1"})
    assert threads_as_recorded(more) == {"OPENBLAS_NUM_THREADS": f"{count + 1}"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAB_TOKEN", "x"),
        ("LAB_PLACE", "the-very-long-secret"),
        ("LAB_DATABASE", "postgresql://me:hunter2-hunter2@here/db"),
        ("HOME", "/home/me"),
        ("AWS_PROFILE", "lab"),
        ("KUBECONFIG", "/etc/lab.yaml"),
        ("PREFECT_API_URL", "http://here"),
        ("PREFECT_INTEGRATIONS_OPTUNA_SIGNING_KEY", "0" * 64),
    ],
)
def test_no_secret_is_passed_on_to_find_a_cause(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_PASSWORD", "the-very-long-secret")
    monkeypatch.setenv("LAB_GAIN", "3")
    monkeypatch.setenv(name, value)
    assert name not in variables_without_secrets()
    assert "LAB_GAIN" in variables_without_secrets()
