"""A running study that is watched from another place, and its failed trials asked again."""

from __future__ import annotations

import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from prefect import flow, get_run_logger
from prefect.states import Pending, Running
from pydantic import SecretStr
from servers import wait_until

from prefect_optuna.blocks import JournalStudyStorage, RedisStudyStorage
from prefect_optuna.deployments.cli import main, views
from prefect_optuna.flows.session import Session, living_sessions, state_of
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import InlineDispatcher
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.trial import TrialRunner


def deep(x: float) -> float:
    return 1 / int(x < 0)


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    time.sleep(0.1)
    return deep(x) if trial.number in (1, 2) else x


@pytest.fixture
def block(tmp_path: Path) -> JournalStudyStorage:
    return JournalStudyStorage(path=tmp_path / "studies.journal")


def study_run(block: JournalStudyStorage, n_trials: int) -> StudyRun:
    block.create_study("watched", load_if_exists=True)
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = FlowStudy.open("watched", block.get_storage(), sampler, None)
    problem = Problem.of(objective)
    quiet = logging.Logger("study")  # what is seen is what the watcher says
    quiet.addHandler(logging.NullHandler())
    return StudyRun(
        study,
        Session(study, study.storage, {"n_trials": n_trials}),
        InlineDispatcher(TrialRunner(problem)),
        quiet,
        n_trials=n_trials,
        catch=(ZeroDivisionError,),
    )


@pytest.mark.usefixtures("prefect_server")
def test_who_watches_sees_how_far_it_is_who_works_and_where_the_code_failed(
    block: JournalStudyStorage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_SECONDS", 0.05)
    run = study_run(block, 6)
    there = ("--storage", f"journal:///{block.path}")

    def watch() -> int:
        loaded = block.load_study("watched")
        wait_until(lambda: bool(living_sessions(loaded)), what="the study runs")
        return main(["watch", "watched", *there, "--json"])

    with ThreadPoolExecutor() as pool:
        watched = pool.submit(watch)
        run.run()
        assert watched.result() == 0
    out, err = capsys.readouterr()
    seen = json.loads(out)
    assert (seen["state"], seen["states"]["failed"]) == ("completed", 2)
    assert [(one["finished"], one["failed"]) for one in seen["workers"]] == [(6, 2)]
    [failure] = seen["failures"]
    assert failure["trials"] == 2
    assert failure["error"].startswith("ZeroDivisionError: division by zero")
    assert err.count("Trial 1 failed:") == 1
    assert "return 1 / int(x < 0)" in err
    assert "in objective" in err
    assert "tasks/trial.py" not in err
    assert "4 complete, 2 failed; best value" in err  # no terminal, no moving line

    # The study is over: who comes now is told at once.
    assert main(["watch", "watched", *there]) == 0
    assert "6" in capsys.readouterr().out


@pytest.mark.usefixtures("prefect_server")
def test_failed_trials_are_asked_again_once_with_their_parameters(
    block: JournalStudyStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    study_run(block, 5).run()
    there = ("--storage", f"journal:///{block.path}")
    assert main(["retry-failed", "watched", *there]) == 0
    assert "2 failed trials wait in the queue" in capsys.readouterr().out
    assert main(["retry-failed", "watched", *there, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == []
    study_run(block, 7).run()
    trials: list[Any] = block.load_study("watched").trials
    assert [one.state for one in trials[5:]] == [TrialState.COMPLETE] * 2
    assert [one.params for one in trials[5:]] == [one.params for one in trials[1:3]]
    assert [one.user_attrs["retries"] for one in trials[5:]] == [1, 2]
    assert state_of(block.load_study("watched"), trials) == "completed"


@flow
def chatty() -> None:
    get_run_logger().info("trial 3 is the best one")


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_where_the_storage_is_out_of_reach_the_run_s_own_log_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_SECONDS", 0.05)
    states: list[str] = []
    read = views._state

    def state(client: Any, flow_run_id: Any) -> Any:
        """The run has ended; it is seen to run until the storage was asked for."""
        states.append("looked")
        return read(client, flow_run_id) if len(states) > 2 else Running()

    monkeypatch.setattr(views, "_state", state)
    monkeypatch.setattr(views, "_LOG_LOOKS", 40)
    run = chatty(return_state=True).state_details.flow_run_id
    RedisStudyStorage(url=SecretStr("redis://127.0.0.1:1/0"), retry_limit=0).save(
        "watch-away", overwrite=True
    )
    ended = views.watch_study(run, "away", "redis-study-storage/watch-away", 3, "none")
    assert ended.is_completed()
    err = capsys.readouterr().err
    assert "out of reach from here" in err
    assert "trial 3 is the best one" in err


@flow
def installing() -> None:
    get_run_logger().info("Downloading flow code")
    get_run_logger().info("This worker lacks tiny 1.0, which fit.py imports.")


@pytest.mark.usefixtures("prefect_server")
def test_while_a_worker_installs_packages_that_is_said_and_not_that_there_is_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, block: JournalStudyStorage
) -> None:
    monkeypatch.setattr(views, "_SECONDS", 0.05)
    monkeypatch.setattr(views, "_NO_WORKER_SECONDS", 0.0)
    run = installing(return_state=True).state_details.flow_run_id
    read, shown = views._state, ""

    def state(client: Any, flow_run_id: Any) -> Any:
        """It is taken until its log has come, which is sent now and then."""
        nonlocal shown
        shown += capsys.readouterr().err
        return Pending() if "lacks" not in shown else read(client, flow_run_id)

    monkeypatch.setattr(views, "_state", state)
    views.watch_study(run, "none", f"journal:///{block.path}", 3, "none")
    assert "This worker lacks tiny 1.0, which fit.py imports." in shown
    assert "Downloading" not in shown
    assert "No worker" not in shown
