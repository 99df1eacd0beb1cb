"""Prefect's server dies while a study runs on it: the study goes on, and its result is right."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from servers import prefect_home, without_prefect

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.deployments import LocalServer
from prefect_optuna.flows import optimize
from prefect_optuna.flows.study_flow import _said_once


def kills_the_server(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    if trial.number == 1 and (pid := Path("server.pid")).exists():
        os.kill(int(pid.read_text(encoding="utf-8")), signal.SIGKILL)
        pid.unlink()
    time.sleep(0.1)
    return x


ALL = os.environ.get("PREFECT_OPTUNA_TEST_ALL") == "1"


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["here", "threads", "processes"] if ALL else ["threads"])
def test_a_study_goes_on_to_its_end_without_its_server(
    runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        LocalServer(prefect_home(tmp_path / "prefect")) as server,
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 2, "flows.heartbeat_frequency": None}),
    ):
        Path("server.pid").write_text(str(server.pid), encoding="utf-8")
        result = optimize(
            kills_the_server,
            study_name="s",
            n_trials=6,
            n_jobs=1 if runner == "here" else 2,
            task_runner=None if runner == "here" else runner,
        )
        assert not Path("server.pid").exists()
    assert result.states == {"complete": 6, "pruned": 0, "failed": 0}
    trials = as_study_storage().load_study("s").trials
    assert [t.value for t in trials] == [t.params["x"] for t in trials]
    assert result.best_value == min(t.value for t in trials)


@pytest.mark.parametrize("name", ["prefect.events.clients", "prefect._internal.concurrency"])
def test_prefect_says_once_in_a_run_that_its_events_are_not_sent(name: str) -> None:
    said: list[str] = []
    logger, handler = logging.getLogger(name), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with _said_once():
            for number in range(3):
                logger.error("Unable to connect to %r.", number)
        logger.error("Unable to connect to %r.", "the next")
    finally:
        logger.removeHandler(handler)
    assert said == ["Unable to connect to 0.", "Unable to connect to 'the next'."]


@pytest.mark.slow
def test_a_study_goes_on_to_its_end_when_the_server_forgets_all_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database is reset: another server answers, which has never heard of this flow run."""
    monkeypatch.chdir(tmp_path)
    with (
        LocalServer(prefect_home(tmp_path / "prefect")) as server,
        temporary_settings({"flows.heartbeat_frequency": None}),
    ):

        def reset(_: object, trial: object) -> None:
            if getattr(trial, "number", None) == 1:
                with without_prefect(server, reset=True):
                    pass

        result = optimize(objective, study_name="s", n_trials=8, n_jobs=2, callbacks=[reset])
        with get_client(sync_client=True) as client:
            assert client.count_flow_runs() == 0  # it was another database
            (report,) = client.read_artifacts(limit=5)
            assert "**8 of 8 trials**" in str(report.data)
    assert result.states == {"complete": 8, "pruned": 0, "failed": 0}
    assert len(as_study_storage().load_study("s").trials) == 8


def objective(trial: optuna.Trial) -> float:
    time.sleep(0.2)
    return trial.suggest_float("x", 0, 1)
