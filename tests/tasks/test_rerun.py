"""The process that runs archived code is told nothing that it does not need."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import Capture, Environment
from prefect_optuna.tasks.rerun import ArchivedTrial, RerunRequest, rerun

CANARY = "canary-4f1d"


def suggest(trial: Any) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def look(params: dict[str, float]) -> float:
    """Take down what code that looks around finds."""
    from prefect.settings import get_current_settings

    current = get_current_settings()
    found = {
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
    (folder / ".env").write_text(f"PREFECT_API_KEY={CANARY}\nPREFECT_API_URL=http://{CANARY}/api\n")
    monkeypatch.chdir(folder)
    for name in (
        "prefect_integrations_optuna_archive_key",
        "PREFECT_API_KEY",
        "PREFECT_INTEGRATIONS_OPTUNA_STORAGE",
        "AWS_SECRET_ACCESS_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "HTTPS_PROXY",
        "LAB_PASSWORD",
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
    assert seen["prefect"] == ["None", "None"]
    assert not [path for path in seen["home"] if "credentials" in path or "profiles" in path]
    assert seen["environment"]["LAB_DATA"] == "/lab"
    assert seen["environment"]["OMP_NUM_THREADS"] == "2"
    assert not [name for name in seen["environment"] if name.lower().startswith("prefect")]
    assert not Path(seen["environment"]["HOME"]).exists()  # it was there for this run alone
