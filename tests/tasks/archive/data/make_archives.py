"""Writes the archives of this version that all later versions have to load.

    python tests/tasks/archive/data/make_archives.py

Run it once when the format has changed, into new files, and never again: what is there stays as
it is. `test_archive_formats.py` reads all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from pydantic import SecretStr

from prefect_optuna.blocks import InMemoryStudyStorage
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Environment
from prefect_optuna.tasks.archive.record import environment as environment_module
from prefect_optuna.tasks.archive.record.manifest import MANIFEST_FORMAT

KEY = "the key of the archives in this folder"
YEARS = [0.0, 0.5, 1.0, 1.5]
GAIN = np.array([1.0, 2.0, 4.0, 8.0])


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "rate": trial.suggest_float("rate", 0.1, 1.0),
        "kind": trial.suggest_categorical("kind", ["plain", None]),
    }


def grown(rate: float) -> np.ndarray:
    return GAIN * rate


def run(params: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
    return {"hare": grown(params["rate"]) * context["scale"], "note": params["kind"]}


def evaluate(result: dict[str, Any]) -> float:
    return float(np.sum(result["hare"]))


PROBLEM = Problem(
    suggest=suggest, run=run, evaluate=evaluate, context={"scale": 2.0}, axes={"year": YEARS}
)


def make(name: str, key: SecretStr | None) -> None:
    """One study: two results, a series of the loop's own, an axis, and a second version."""
    storage, artifacts = InMemoryStudyStorage(name=name), f"memory://{name}"
    study = storage.create_study("hares")
    archive = OptunaArchive(study, artifacts=artifacts, signing_key=key)
    archive.study_add_axis("day", [1.0, 2.0, 3.0])
    for version in range(2):
        archive.save_problem(PROBLEM, scope={"version": version}, seed=7)
        trial = study.ask({"rate": optuna.distributions.FloatDistribution(0.1, 1.0)})
        params = suggest(trial)
        result = PROBLEM.call("run", params)
        archive.trial_add_timeseries(trial, "lynx", [params["rate"], 0.5, 0.25], "day")
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        study.tell(trial, evaluate(result))
    if key is not None:
        archive.sign()
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts, signing_key=key)
    archived.export(Path(__file__).with_name(f"{name}.study.zip"))


def main() -> None:
    """Write both archives, as if on a machine that has next to nothing installed."""
    plain = Environment(
        python="3.11.7",
        implementation="CPython",
        platform="Linux",
        machine="x86_64",
        cpu_count=4,
        distributions={"numpy": "2.1.0", "optuna": "4.5.0"},
        cpu="A Processor",
    )
    environment_module._here = lambda: plain
    environment_module._script_bytes = lambda: b"print('the script')\n"
    environment_module._git_state = lambda folder: None
    for name, key in (("unsigned", None), ("signed", SecretStr(KEY))):
        path = f"format-{MANIFEST_FORMAT}-{name}"
        if Path(__file__).with_name(f"{path}.study.zip").exists():
            sys.exit(f"{path} is there, and stays as it is.")
        make(path, key)


if __name__ == "__main__":
    main()
