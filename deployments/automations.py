"""Automations on the events of studies: tell somebody, run a deployment, cancel a flow run.

An automation belongs to a name. Made a second time, it is updated and not doubled.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.events import EventTrigger, Posture
from prefect.events.actions import ActionTypes, CancelFlowRun, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

from prefect_optuna.blocks.locations import check_public, public_parameters
from prefect_optuna.deployments.pools import prefect_server
from prefect_optuna.errors import InvalidSettingError, UnknownNameError
from prefect_optuna.flows.events import STUDY_EVENTS, EventName

STUDY_NAME = "{{ event.payload.study_name }}"
"""The name of the study that an event is about, as a parameter of a deployment."""

_STUDY_LABEL = "prefect-optuna.study.name"

_TEXTS: dict[EventName, tuple[str, str]] = {
    "study.improved": (
        "{{ event.payload.study_name }}: a new best trial",
        "Trial {{ event.payload.best[0].number }} has {{ event.payload.best[0].value }}, "
        "after {{ event.payload.trials }} trials.",
    ),
    "study.completed": (
        "{{ event.payload.study_name }} is {{ event.payload.state }}",
        "{{ event.payload.trials }} trials"
        "{% if event.payload.best %}, the best of them {{ event.payload.best[0].number }} "
        "with {{ event.payload.best[0].value }}{% endif %}.",
    ),
    "study.stalled": (
        "{{ event.payload.study_name }} has stalled",
        "No trial has ended for {{ event.payload.seconds }} s; "
        "{{ event.payload.running | length }} run, {{ event.payload.trials }} are finished.",
    ),
    "trial.failed": (
        "{{ event.payload.study_name }}: trial {{ event.payload.number }} failed",
        "{{ event.payload.error }}",
    ),
    "trial.drifted": (
        "{{ event.payload.study_name }}: trial {{ event.payload.number }} "
        "{{ event.payload.verdict }}",
        "Archived {{ event.payload.archived }}, now {{ event.payload['values'] | join(', ') }}. "
        "{{ event.payload.cause }}",
    ),
}


def automate(
    event: EventName,
    *actions: ActionTypes,
    study: str | None = None,
    name: str | None = None,
    threshold: int = 1,
    within: float = 0.0,
    description: str = "",
) -> Automation:
    """Have the Prefect server do something whenever something happens in a study.

    Args:
        event: What happens.
        actions: What to do then: Prefect's actions.
        study: In the study of this name only; by default in any.
        name: The automation's own name; by default it is made of the event and the study.
        threshold: How many such events it takes, counted for each study apart.
        within: The seconds in which they have to happen; 0 with a threshold of 1.
        description: For people, in Prefect's UI.

    Returns:
        The automation, as the server has it now.

    Raises:
        InvalidSettingError: There is no such event, no action, or the numbers do not fit.
        InvalidSettingError: An action or the description holds a secret, which Prefect would show.
        ServerUnavailableError: No Prefect server answers.

    Example:
        >>> from prefect.events.actions import DoNothing
        >>> from prefect_optuna.deployments.automations import automate
        >>> automation = automate("study.improved", DoNothing(), study="docs")
        >>> automation.name
        'prefect-optuna: study.improved of docs'
        >>> automate("study.improved", DoNothing(), study="docs").id == automation.id
        True
    """
    if event not in STUDY_EVENTS:
        raise InvalidSettingError(f"`event` is one of {', '.join(STUDY_EVENTS)}; found {event!r}.")
    if not actions:
        raise InvalidSettingError("An automation needs at least one action; found none.")
    if threshold < 1 or within < 0 or (threshold > 1 and not within):
        raise InvalidSettingError(
            "`threshold` is 1 or more, and more than 1 needs the seconds `within` which they "
            f"happen; found threshold={threshold}, within={within}."
        )
    wanted = AutomationCore(
        name=name or f"prefect-optuna: {event} of {study or 'any study'}",
        description=description,
        tags=["prefect-optuna"],
        trigger=EventTrigger(
            expect={STUDY_EVENTS[event]},
            match={_STUDY_LABEL: study} if study else {_STUDY_LABEL: "*"},  # pyright: ignore[reportArgumentType] - pydantic makes it of a mapping
            for_each={_STUDY_LABEL},
            posture=Posture.Reactive,
            threshold=threshold,
            within=timedelta(seconds=within),
        ),
        actions=list(actions),
    )
    check_public("description", description)
    for action in actions:
        check_public("actions", action.model_dump(mode="json"))
    with prefect_server() as client:
        existing = client.read_automations_by_name(wanted.name)
        if existing:
            # A whole new content, and yet the same automation.
            client.update_automation(existing[0].id, wanted)
            return Automation(id=existing[0].id, **wanted.model_dump())
        return Automation(id=client.create_automation(wanted), **wanted.model_dump())


def notify_on(
    event: EventName,
    block: str,
    *,
    study: str | None = None,
    subject: str | None = None,
    body: str | None = None,
    name: str | None = None,
    threshold: int = 1,
    within: float = 0.0,
) -> Automation:
    """Send somebody a message whenever something happens in a study.

    Args:
        event: What happens.
        block: A saved notification block of Prefect, as `"slug/name"`: `slack-webhook/lab`.
        study: In the study of this name only; by default in any.
        subject: What the message is headed, as a Jinja template of the `event`; by default a
            sentence that fits.
        body: What it says, likewise.
        name: The automation's own name.
        threshold: How many such events it takes: with 10, a few failed trials disturb nobody.
        within: The seconds in which they have to happen.

    Returns:
        The automation, as the server has it now.

    Raises:
        UnknownNameError: There is no such block.
        InvalidSettingError: As `automate`.
        ServerUnavailableError: No Prefect server answers.

    Example:
        >>> from prefect.blocks.notifications import CustomWebhookNotificationBlock
        >>> from prefect_optuna.deployments.automations import notify_on
        >>> block = CustomWebhookNotificationBlock(name="docs", url="https://example.org/hook")
        >>> _ = block.save("docs", overwrite=True)
        >>> notify_on("trial.failed", "custom-webhook/docs", threshold=10, within=60).name
        'prefect-optuna: trial.failed of any study'
    """
    if event not in _TEXTS:
        raise InvalidSettingError(f"`event` is one of {', '.join(STUDY_EVENTS)}; found {event!r}.")
    slug, _, block_name = block.partition("/")
    with prefect_server() as client:
        try:
            document = client.read_block_document_by_name(block_name, slug)
        except ObjectNotFound:
            raise UnknownNameError(
                f"expected a saved notification block, found none that is {block!r}. "
                "Save one in Prefect's UI, below Blocks, or by its `save(name)`."
            ) from None
    own_subject, own_body = _TEXTS[event]
    action = SendNotification(
        block_document_id=document.id, subject=subject or own_subject, body=body or own_body
    )
    return automate(event, action, study=study, name=name, threshold=threshold, within=within)


def run_on(
    event: EventName,
    deployment: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    study: str | None = None,
    name: str | None = None,
    threshold: int = 1,
    within: float = 0.0,
) -> Automation:
    """Run a deployment whenever something happens in a study.

    Args:
        event: What happens.
        deployment: What to run then, as `"flow/deployment"`.
        parameters: Over those of the deployment; text may be a Jinja template of the `event`,
            such as `STUDY_NAME`.
        study: In the study of this name only; by default in any.
        name: The automation's own name.
        threshold: How many such events it takes.
        within: The seconds in which they have to happen.

    Returns:
        The automation, as the server has it now.

    Raises:
        UnknownNameError: There is no such deployment.
        InvalidSettingError: A parameter holds a secret, which Prefect would show.
        InvalidSettingError: As `automate`.
        ServerUnavailableError: No Prefect server answers.

    Example:
        >>> from prefect_optuna.deployments.automations import STUDY_NAME, run_on
        >>> run_on("study.completed", "reevaluate/none", parameters={"study_name": STUDY_NAME})
        Traceback (most recent call last):
        ...
        prefect_optuna.errors.UnknownNameError: ...
    """
    public = public_parameters(parameters or {})
    with prefect_server() as client:
        try:
            known = client.read_deployment_by_name(deployment)
        except (ObjectNotFound, ValueError):
            raise UnknownNameError(
                f"expected a deployment as 'flow/deployment', found none that is {deployment!r}. "
                "`prefect deployment ls` lists them."
            ) from None
    action = RunDeployment(
        source="selected",
        deployment_id=known.id,
        job_variables=None,
        parameters={key: _templated(value) for key, value in public.items()} or None,
    )
    return automate(event, action, study=study, name=name, threshold=threshold, within=within)


def cancel_on(
    event: EventName,
    *,
    study: str | None = None,
    name: str | None = None,
    threshold: int = 1,
    within: float = 0.0,
) -> Automation:
    """Cancel the flow run of a study whenever something happens in it.

    The trials that were running are asked again by the next run of the study.

    Args:
        event: What happens.
        study: In the study of this name only; by default in any.
        name: The automation's own name.
        threshold: How many such events it takes: `cancel_on("trial.failed", threshold=50,
            within=600)` ends a study that only burns time.
        within: The seconds in which they have to happen.

    Returns:
        The automation, as the server has it now.

    Raises:
        InvalidSettingError: As `automate`.
        ServerUnavailableError: No Prefect server answers.

    Example:
        >>> from prefect_optuna.deployments.automations import cancel_on
        >>> cancel_on("study.stalled", study="docs").actions[0].type
        'cancel-flow-run'
    """
    return automate(
        event, CancelFlowRun(), study=study, name=name, threshold=threshold, within=within
    )


def _templated(value: Any) -> Any:
    if isinstance(value, str) and "{{" in value:
        return {"__prefect_kind": "jinja", "template": value}
    return value
