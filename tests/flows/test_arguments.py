"""What is wrong with a call is said before a server is started; here there is none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import optuna
import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import get_current_settings, temporary_settings

from prefect_optuna.blocks import InvalidSettingError, PrefectOptunaError
from prefect_optuna.errors import InvalidParameterError, InvalidProblemError, ServerUnavailableError
from prefect_optuna.flows import distribute, optimize
from prefect_optuna.flows.opening import checked_names, rehearse
from prefect_optuna.flows.study import Pruner, Sampler
from prefect_optuna.flows.temporary_server import end_temporary_server
from prefect_optuna.tasks import Problem, auto_param
from prefect_optuna.tasks.trial import TrialScope


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


@auto_param
def relax(steps: int = 10) -> int:
    return steps


WRONG = {
    "a sampler": ({"sampler": "tpee"}, InvalidSettingError, "found 'tpee'; did you mean 'tpe'"),
    "a pruner": ({"pruner": "medain"}, InvalidSettingError, "did you mean 'median'"),
    "an option": (
        {"sampler": {"name": "TPE", "options": {"sed": 1}}},
        InvalidSettingError,
        "TPESampler cannot be made",
    ),
    "an argument": ({"n_trial": 3}, InvalidSettingError, "did you mean `n_trials`"),
    "both": ({"direction": "minimize", "directions": "maximize"}, InvalidSettingError, "one of"),
    "a direction": ({"direction": "max"}, InvalidProblemError, "found 'max'"),
    "a scope": (
        {"scope": {"relax.steps": 2.7}},
        InvalidParameterError,
        "'relax.steps' is an int, such as 10; found 2.7",
    ),
    "no trials": ({"n_trials": 0}, InvalidSettingError, "1 or more; found 0"),
}


@pytest.mark.parametrize("flow", [optimize, distribute], ids=["optimize", "distribute"])
@pytest.mark.parametrize(("arguments", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_without_a_server(
    flow: Any, arguments: dict[str, Any], error: type[PrefectOptunaError], message: str
) -> None:
    with pytest.raises(error, match=message):
        flow(objective, study_name="wrong", **arguments)


@pytest.mark.parametrize("word", ["tpe", "TPE", "TPESampler", "tpesampler", "Tpe-Sampler"])
def test_a_sampler_has_its_name_in_any_case_and_that_of_its_class(word: str) -> None:
    assert checked_names({"sampler": word}) == {"sampler": "tpe"}
    assert Sampler(name=word).name == "tpe"  # type: ignore[arg-type]


def test_a_pruner_likewise() -> None:
    for word in ("successive-halving", "SuccessiveHalvingPruner", "Successive_Halving"):
        assert checked_names({"pruner": word}) == {"pruner": "successive-halving"}
        assert Pruner(name=word).name == "successive-halving"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"direction": "maximize"}, ("maximize",)),
        ({"directions": "Maximize"}, ("maximize",)),
        ({"directions": ["minimize", "MAXIMIZE"]}, ("minimize", "maximize")),
        ({"direction": optuna.study.StudyDirection.MAXIMIZE}, ("maximize",)),
    ],
)
def test_directions_are_a_word_or_several_or_optuna_s(given: Any, expected: Any) -> None:
    assert checked_names(given) == {"directions": expected}


def test_nobody_hears_of_the_rehearsal(caplog: pytest.LogCaptureFixture) -> None:
    problem = Problem(suggest=lambda trial: {"x": trial.suggest_float("x", 0, 1)}, run=len)
    log = logging.getLogger("optuna")
    log.addHandler(caplog.handler)
    try:
        caplog.set_level(logging.INFO, "optuna")  # another test may have asked for less
        rehearse(problem, TrialScope())
        optuna.create_study(study_name="heard")
    finally:
        log.removeHandler(caplog.handler)
    assert [record.getMessage()[-5:] for record in caplog.records] == ["heard"]


def test_a_temporary_server_sends_nothing_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends: list[bool] = []

    def start(_: SubprocessASGIServer) -> None:
        sends.append(get_current_settings().server.analytics_enabled)
        raise RuntimeError("It has seen enough.")

    monkeypatch.setattr(SubprocessASGIServer, "start", start)
    program = {"home": tmp_path, "api.url": None, "server.ephemeral.enabled": True}
    with (
        temporary_settings({**program, "server.analytics_enabled": True}),
        pytest.raises(ServerUnavailableError, match="prefect-optuna up"),
    ):
        end_temporary_server()
    assert sends == [False]
