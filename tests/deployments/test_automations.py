"""Automations on the events of studies, which fire on a real server."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events.actions import DoNothing
from prefect.settings import temporary_settings
from servers import free_port, wait_until

from prefect_optuna.deployments.automations import (
    STUDY_NAME,
    automate,
    cancel_on,
    notify_on,
    run_on,
)
from prefect_optuna.errors import (
    InvalidSettingError,
    ServerUnavailableError,
    UnknownNameError,
)
from prefect_optuna.flows.events import EventName, StudyEvents, emit_drifted
from prefect_optuna.flows.study import StudyState, StudyStatus
from prefect_optuna.tasks.reevaluation.verdicts import ReevaluatedTrial

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def messages() -> Generator[tuple[str, list[dict[str, str]]]]:
    """A saved notification block, and what arrives at the server behind it."""
    arrived: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.append(json.loads(content))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", arrived
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def saved_block(url: str) -> str:
    CustomWebhookNotificationBlock(
        name="tests",
        url=url,
        json_data={"subject": "{{subject}}", "body": "{{body}}"},
    ).save("tests", overwrite=True)
    return f"{CustomWebhookNotificationBlock.get_block_type_slug()}/tests"


def happen(event: EventName, study_name: str, n: int = 1) -> None:
    """Let it happen in a study, as `optimize` and `reevaluate` see it."""
    study = optuna.create_study()
    events = StudyEvents(str(uuid.uuid4()), ["minimize"], stalled_after=0.0)

    def look(state: StudyState = "running") -> None:
        trials = study.trials
        events.look(StudyStatus(study_name, ("minimize",), trials, 9, state, 1.0, "", ""))

    if event == "study.improved":
        study.tell(study.ask(), 0.25)
    if event == "study.stalled":
        look()
    for _ in range(n if event == "trial.failed" else 0):
        trial = study.ask()
        trial.set_user_attr("error", "RuntimeError: stiff")
        study.tell(trial, state=TrialState.FAIL)
    if event == "trial.drifted":
        again = ReevaluatedTrial(
            number=3,
            archived=1.0,
            values=[2.0],
            difference=1.0,
            params={},
            verdict="drifted",
            cause="numpy 1.26 is now 2.0",
        )
        emit_drifted(str(uuid.uuid4()), study_name, again)
        return
    look("completed" if event == "study.completed" else "running")


def happen_until(condition: Callable[[], object], event: EventName, study_name: str) -> None:
    """A server may take a moment to know an automation, and what happens before is past."""

    def again() -> object:
        happen(event, study_name)
        with contextlib.suppress(TimeoutError):
            wait_until(condition, what="the action", timeout=3)
        return condition()

    wait_until(again, what=f"the action on {event}")


@pytest.mark.parametrize(
    ("event", "subject", "body"),
    [
        ("study.improved", "{}: a new best trial", "Trial 0 has 0.25, after 1 trials."),
        ("study.completed", "{} is completed", "0 trials."),
        ("study.stalled", "{} has stalled", "No trial has ended for 0.0 s; 0 run, 0 are finished."),
        ("trial.failed", "{}: trial 0 failed", "RuntimeError: stiff"),
        (
            "trial.drifted",
            "{}: trial 3 drifted",
            "Archived 1.0, now 2.0. numpy 1.26 is now 2.0",
        ),
    ],
)
def test_somebody_is_told_what_has_happened(
    messages: tuple[str, list[dict[str, str]]], event: EventName, subject: str, body: str
) -> None:
    url, arrived = messages
    study = f"told-{uuid.uuid4()}"
    notify_on(event, saved_block(url), study=study)
    happen(event, f"another-{study}")
    wanted = {"subject": subject.format(study), "body": body}
    happen_until(lambda: wanted in arrived, event, study)
    assert not any("another" in message["subject"] for message in arrived)


def test_a_completed_study_runs_a_deployment_with_its_name() -> None:
    @flow(name="again")
    def again(study_name: str, trusted: bool) -> None: ...

    study = f"again-{uuid.uuid4()}"
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow(again),
            "nightly",
            parameters={"trusted": True},
            parameter_openapi_schema={"type": "object", "properties": {"study_name": {}}},
        )
        run_on(
            "study.completed",
            "again/nightly",
            parameters={"study_name": STUDY_NAME},
            study=study,
        )

        def runs() -> list[Any]:
            query = {"deployments": {"id": {"any_": [str(deployment)]}}}
            return client.request("POST", "/flow_runs/filter", json=query).json()

        happen_until(runs, "study.completed", study)
        run = runs()[0]
    assert run["parameters"] == {"trusted": True, "study_name": study}


def test_a_stalled_study_s_flow_run_is_cancelled() -> None:
    study = f"cancelled-{uuid.uuid4()}"
    cancel_on("study.stalled", study=study)

    @flow
    def stalling() -> str:
        context = FlowRunContext.get()
        assert context
        assert context.flow_run
        flow_run_id = context.flow_run.id

        def state() -> str:
            with get_client(sync_client=True) as client:
                return client.read_flow_run(flow_run_id).state_name or ""

        happen_until(lambda: state().startswith("Cancel"), "study.stalled", study)
        return state()

    assert stalling().startswith("Cancel")


def test_a_few_failed_trials_disturb_nobody_and_many_do(
    messages: tuple[str, list[dict[str, str]]],
) -> None:
    url, arrived = messages
    study = f"many-{uuid.uuid4()}"
    block = saved_block(url)
    notify_on("trial.failed", block, study=study, subject="one", name=f"one of {study}")
    notify_on("trial.failed", block, study=study, subject="many", threshold=10, within=60)

    def subjects() -> set[str]:
        return {message["subject"] for message in arrived} & {"one", "many"}

    happen_until(subjects, "trial.failed", study)
    assert subjects() == {"one"}
    happen("trial.failed", study, n=10)
    wait_until(lambda: "many" in subjects(), what="the message")


def test_an_automation_made_again_is_changed_and_not_doubled() -> None:
    first = automate("trial.failed", DoNothing(), study="twice")
    again = automate("trial.failed", DoNothing(), study="twice", threshold=5, within=60)
    with get_client(sync_client=True) as client:
        (found,) = client.read_automations_by_name(first.name)
    assert found.id == first.id == again.id
    assert found.trigger.threshold == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event": "study.begun"}, "study.improved, study.completed"),
        ({"threshold": 0}, "threshold=0"),
        ({"threshold": 2}, "within=0"),
        ({"within": -1.0}, "within=-1"),
    ],
)
def test_what_cannot_work_is_refused_and_nothing_made(
    arguments: dict[str, Any], message: str
) -> None:
    given = {"event": "study.improved", "name": "refused", **arguments}
    with pytest.raises(InvalidSettingError, match=message):
        automate(given.pop("event"), DoNothing(), **given)
    with get_client(sync_client=True) as client:
        assert client.read_automations_by_name("refused") == []


def test_an_automation_without_an_action_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="at least one action"):
        automate("study.improved")


def test_a_deployment_or_block_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"'again/never'.*prefect deployment ls"):
        run_on("study.completed", "again/never")
    with pytest.raises(UnknownNameError, match="'slack-webhook/none'"):
        notify_on("study.completed", "slack-webhook/none")
    with pytest.raises(UnknownNameError, match="'none'"):
        notify_on("study.completed", "none")


def test_without_a_server_the_error_says_how_to_start_one() -> None:
    with (
        temporary_settings({"api.url": f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(ServerUnavailableError, match="prefect-optuna serve"),
    ):
        cancel_on("study.stalled")
