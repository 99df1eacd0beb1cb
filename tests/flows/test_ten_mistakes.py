"""The ten mistakes of a tired user, and what each is told: `pytest -s` prints the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from prefect.settings import temporary_settings
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.deployments import deploy_worker
from prefect_optuna.flows import optimize
from prefect_optuna.flows.study_flow import interruptible, note_study
from prefect_optuna.tasks import ArchivedStudy

pytestmark = pytest.mark.usefixtures("prefect_server")


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def forgetful(trial: optuna.Trial) -> None:
    trial.suggest_float("x", 0, 1)


def without_a_server() -> None:
    with temporary_settings({"api.url": None}):
        deploy_worker()


def interrupted() -> None:
    with interruptible():
        note_study(lambda: "Study 'mine' keeps its 3 finished trials; the same call goes on.")
        try:
            raise KeyboardInterrupt
        finally:
            raise KeyboardInterrupt


def of(**arguments: Any) -> Callable[[], Any]:
    return lambda: optimize(
        arguments.pop("problem", objective), **{"study_name": "mine", "n_trials": 2, **arguments}
    )


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "a study that is not there": (
        lambda: ArchivedStudy.load("mien"),
        "Did you mean 'mine'?",
    ),
    "n_trials=0": (of(n_trials=0), "1 or more; found 0"),
    "an objective that returns None": (
        of(problem=forgetful, study_name="none"),
        "found None. Does it end with a `return`?",
    ),
    "a lambda with a misspelt method": (
        of(problem=lambda trial: trial.suggest_flaot("x", 0, 1), study_name="lambda"),
        "'Trial' object has no attribute 'suggest_flaot'. Did you mean 'suggest_float'?",
    ),
    "other directions": (of(directions="maximize"), "maximize"),
    "a storage in a missing folder": (of(storage="sqlite:///no/such/folder/x.db"), "is made"),
    "a misspelt sampler": (of(sampler="tpee"), "did you mean 'tpe'"),
    "a password in a URL": (
        of(storage="postgresql://lab:hunter2@127.0.0.1:1/x"),
        "127.0.0.1",
    ),
    "no server": (without_a_server, "prefect-optuna up"),
    "Ctrl-C twice": (interrupted, "keeps its 3 finished trials"),
}


def test_each_mistake_has_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    optimize(objective, study_name="mine", n_trials=1)
    table = Table("mistake", "error", "what it says", show_lines=True)
    wrong: list[str] = []
    for name, (make, words) in MISTAKES.items():
        try:
            make()
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - any is shown
            said = str(error)
            kind: type[BaseException] | None = type(error)
        else:
            said, kind = "nothing is wrong: the folder is made", None
        table.add_row(name, kind.__name__ if kind else "", said)
        if words not in said or "hunter2" in said or len(said) > 600:
            wrong.append(f"{name}: {said}")
        if kind and not issubclass(kind, (PrefectOptunaError, AttributeError, KeyboardInterrupt)):
            wrong.append(f"{name}: {kind.__name__} is none of ours")
    with capsys.disabled():
        Console(width=120).print(table)
    assert not wrong
