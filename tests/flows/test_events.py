"""The events of a study, on a real server: which there are, and that there are not too many."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from prefect.client.orchestration import get_client
from servers import wait_until

from prefect_optuna.blocks.study_storage import study_uuid
from prefect_optuna.blocks.study_summary import summary_of
from prefect_optuna.flows import events as study_events
from prefect_optuna.flows import optimize
from prefect_optuna.flows.events import MAX_FAILED_EVENTS, EventName, StudyEvents
from prefect_optuna.flows.study import StudyState, StudyStatus
from prefect_optuna.tasks import Problem

if TYPE_CHECKING:
    from prefect_optuna.deployments import LocalServer


def events_of(server: LocalServer, study: str) -> list[dict[str, Any]]:
    """The events of a study that the server has, oldest first."""
    query = {
        "filter": {
            "event": {"prefix": ["prefect-optuna."]},
            "resource": {"id_prefix": [f"prefect-optuna.study.{study}"]},
            "order": "ASC",
        },
        "limit": 50,
    }
    page = httpx.post(f"{server.api_url}/events/filter", json=query).json()
    events = page["events"]
    while page["next_page"]:
        page = httpx.get(page["next_page"]).json()
        events += page["events"]
    return events


class Watched:
    """A study that is looked at, and the events of that."""

    def __init__(self, directions: Sequence[str] = ("minimize",), **options: Any) -> None:
        self.uuid = str(uuid.uuid4())
        self.study = optuna.create_study(directions=list(directions))
        self._directions = tuple(directions)
        self._options = options
        self._events: StudyEvents | None = None

    def tell(self, *values: Any) -> None:
        for value in values:
            trial = self.study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
            if isinstance(value, TrialState):
                self.study.tell(trial, state=value)
            else:
                self.study.tell(trial, value)

    def look(self, state: StudyState = "running") -> None:
        trials = self.study.get_trials(deepcopy=False)
        if self._events is None:
            self._events = StudyEvents(self.uuid, self._directions, before=trials, **self._options)
        self._events.look(StudyStatus("watched", self._directions, trials, 9, state, 1.0, "", ""))

    def told(self, server: LocalServer) -> list[dict[str, Any]]:
        """All events; the study is completed, as events arrive in the order they are sent."""
        self.look("completed")
        found: list[dict[str, Any]] = []

        def complete() -> bool:
            found[:] = events_of(server, self.uuid)
            return any(event["event"].endswith(".completed") for event in found)

        wait_until(complete, what="the last event", every=0.1)
        return found


def names(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["event"].removeprefix("prefect-optuna.") for event in events]


def test_a_new_best_trial_is_told_with_its_value_and_what_was_there_before_is_not(
    prefect_server: LocalServer,
) -> None:
    watched = Watched()
    watched.tell(3.0)
    watched.look()  # the study as this run finds it
    watched.look()
    watched.tell(2.0, 4.0)
    watched.look()
    events = watched.told(prefect_server)
    assert names(events) == ["study.improved", "study.completed"]
    assert events[0]["payload"]["number"] == 1
    assert events[0]["payload"]["value"] == "2"
    assert events[0]["payload"]["study_name"] == "watched"
    assert events[0]["resource"]["prefect.resource.id"] == f"prefect-optuna.study.{watched.uuid}"
    assert events[0]["resource"]["prefect-optuna.study.name"] == "watched"
    assert events[1]["payload"]["trials"] == 3


def test_improvements_are_told_once_a_second_at_most_and_the_last_one_always(
    prefect_server: LocalServer,
) -> None:
    watched = Watched()
    watched.look()
    begun = time.monotonic()
    for value in range(200, 0, -1):
        watched.tell(float(value))
        watched.look()
    seconds = time.monotonic() - begun
    events = watched.told(prefect_server)
    values = [event["payload"]["value"] for event in events if "improved" in event["event"]]
    assert values[0] == "200"
    assert values[-1] == "1"
    assert len(values) <= seconds + 2


def test_with_several_directions_a_trial_that_joins_the_front_is_an_improvement(
    prefect_server: LocalServer,
) -> None:
    watched = Watched(("minimize", "maximize"))
    watched.look()
    watched.tell([1.0, 1.0])
    watched.look()
    watched.tell([2.0, 0.5])  # worse in both
    watched.look("completed")
    events = watched.told(prefect_server)
    assert names(events) == ["study.improved", "study.completed"]
    assert [trial["number"] for trial in events[0]["payload"]["best"]] == [0]


def test_infinite_values_are_told_as_text(prefect_server: LocalServer) -> None:
    watched = Watched()
    watched.look()
    watched.tell(-math.inf)
    (improved, _) = watched.told(prefect_server)
    assert improved["payload"]["values"] == ["-inf"]


def test_each_failed_trial_is_told_with_its_study_and_lost_ones_are_not(
    prefect_server: LocalServer,
) -> None:
    watched = Watched()
    watched.look()
    trial = watched.study.ask()
    trial.set_user_attr("error", "RuntimeError: stiff")
    watched.study.tell(trial, state=TrialState.FAIL)
    lost = optuna.trial.create_trial(
        state=TrialState.FAIL, system_attrs={"prefect_optuna:lost": {"session": "s", "why": ""}}
    )
    watched.study.add_trial(lost)
    watched.look()
    watched.look()
    events = watched.told(prefect_server)
    assert names(events) == ["trial.failed", "study.completed"]
    assert events[0]["payload"]["error"] == "RuntimeError: stiff"
    study = f"prefect-optuna.study.{watched.uuid}"
    assert events[0]["resource"]["prefect.resource.id"] == f"{study}.trial.0"
    assert events[0]["related"][0]["prefect.resource.id"] == study


def test_a_study_whose_trials_all_fail_does_not_flood_the_server(
    prefect_server: LocalServer,
) -> None:
    watched = Watched()
    watched.look()
    failed = optuna.trial.create_trial(state=TrialState.FAIL)
    watched.study.add_trials([failed] * (MAX_FAILED_EVENTS + 50))
    watched.look()
    failures = [e for e in watched.told(prefect_server) if e["event"].endswith("failed")]
    assert len(failures) == MAX_FAILED_EVENTS
    assert [event["payload"]["last"] for event in failures] == [False] * 99 + [True]


def test_a_study_in_which_no_trial_ends_is_told_once_as_stalled_and_again_after_the_next(
    prefect_server: LocalServer,
) -> None:
    watched = Watched(stalled_after=0.0)
    running = watched.study.ask()
    for _ in range(3):
        watched.look()
    watched.study.tell(running, state=TrialState.PRUNED)
    for _ in range(3):
        watched.look()
    events = watched.told(prefect_server)
    assert names(events) == ["study.stalled", "study.stalled", "study.completed"]
    assert events[0]["payload"]["running"] == [0]
    assert events[1]["payload"]["running"] == []


def test_a_study_that_is_only_slow_is_not_stalled(prefect_server: LocalServer) -> None:
    watched = Watched()  # five minutes at the least
    watched.study.ask()
    for _ in range(3):
        watched.look()
    assert names(watched.told(prefect_server)) == ["study.completed"]


def test_optimize_emits_the_events_of_its_study_with_its_flow_run(
    prefect_server: LocalServer,
) -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.number == 1:
            raise ValueError("not today")
        return trial.suggest_float("x", 0, 1)

    url = f"memory://events-{uuid.uuid4()}"
    result = optimize(
        objective, study_name="eventful", n_trials=4, storage=url, artifacts=url, catch=ValueError
    )
    study = study_uuid(result.load_study())
    wait_until(lambda: len(events_of(prefect_server, study)) >= 3, what="three events", every=0.1)
    events = events_of(prefect_server, study)
    assert sorted(names(events)) == ["study.completed", "study.improved", "trial.failed"]
    for event in events:
        related = [resource["prefect.resource.id"] for resource in event["related"]]
        assert f"prefect.flow-run.{result.flow_run_id}" in related
    improved = next(event for event in events if event["event"].endswith("improved"))
    assert improved["payload"]["number"] == result.best_trial.number


@pytest.mark.parametrize("n_trials", [1, 3])
def test_task_runs_are_named_after_their_trials(prefect_server: LocalServer, n_trials: int) -> None:
    url = f"memory://names-{uuid.uuid4()}"
    result = optimize(
        lambda trial: trial.suggest_float("x", 0.5, 0.5),
        n_trials=n_trials,
        storage=url,
        artifacts=url,
    )
    prefect_server.wait_for_task_runs(str(result.flow_run_id), 1)
    with get_client(sync_client=True) as client:
        (task_run,) = client.request(
            "POST",
            "/task_runs/filter",
            json={"flow_runs": {"id": {"any_": [result.flow_run_id]}}},
        ).json()
    assert task_run["name"] == {1: "trial 0: 0.5", 3: "trials 0 to 2: best 0.5"}[n_trials]


def test_a_study_is_not_stalled_before_ten_times_its_longest_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(study_events, "_emit", lambda name, *_, **__: sent.append(name))
    begin = datetime(2026, 1, 1)  # noqa: DTZ001 - as Optuna's times are
    trial = optuna.trial.create_trial(value=1.0)
    trial.datetime_start, trial.datetime_complete = begin, begin + timedelta(hours=1)
    heard = StudyEvents("0a1b", ("minimize",))
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])

    def look(ended: list[FrozenTrial]) -> None:
        running = optuna.trial.create_trial(state=TrialState.RUNNING)
        status = StudyStatus("slow", ("minimize",), [trial, running], 9, "running", 1.0, "", "")
        # A larger study is looked at with a few of its trials.
        few = replace(status, trials=[running], summary=summary_of(status.trials, ["minimize"]))
        heard.look(few, ended)

    look([trial])
    for hours, told in ((1, []), (9, []), (10.1, ["study.stalled"])):
        clock["now"] = hours * 3600
        look([])
        assert sent == ["study.improved", *told]


@pytest.mark.usefixtures("prefect_server")
def test_each_failed_trial_of_a_large_study_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_events, "MOST_LOOKED_AT", 10)
    failed: list[int] = []
    original = study_events._emit

    def emit(name: EventName, *where: Any, **more: Any) -> None:
        if name == "trial.failed":
            failed.append(more["number"])
        original(name, *where, **more)

    monkeypatch.setattr(study_events, "_emit", emit)

    def objective(trial: optuna.Trial) -> float:
        if trial.number % 2:
            raise ValueError("an odd one")
        return trial.suggest_float("x", 0, 1)

    optimize(
        Problem(objective=objective),
        study_name="odd",
        n_trials=40,
        catch=ValueError,
        storage=tmp_path / "s.journal",
        artifacts=tmp_path / "artifacts",
    )
    assert sorted(failed) == [*range(1, 40, 2)]
