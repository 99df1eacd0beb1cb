"""Prefect events of a study: for automations, and in the UI's event feed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial, TrialState
from prefect.logging import get_logger

from prefect_optuna.blocks.study_summary import best_first
from prefect_optuna.flows.session import is_lost
from prefect_optuna.flows.wording import format_value

if TYPE_CHECKING:
    from prefect_optuna.flows.study_status import StudyStatus
    from prefect_optuna.tasks.reevaluation.verdicts import ReevaluatedTrial

EventName = Literal[
    "study.improved", "study.completed", "study.stalled", "trial.failed", "trial.drifted"
]

STUDY_EVENTS: Mapping[EventName, str] = {
    "study.improved": "prefect-optuna.study.improved",
    "study.completed": "prefect-optuna.study.completed",
    "study.stalled": "prefect-optuna.study.stalled",
    "trial.failed": "prefect-optuna.trial.failed",
    "trial.drifted": "prefect-optuna.trial.drifted",
}
"""The events by their short names."""

MAX_FAILED_EVENTS = 100
"""Maximum number of events of failed trials in a run of a study; the last one says so."""

_SECONDS_BETWEEN = 1.0
_STALLED_LEAST = 300.0  # seconds
_STALLED_TRIALS = 10.0  # times the longest trial


def study_resource(uuid: str) -> str:
    """The resource id of a study, by which automations can be made for it alone.

    Example:
        >>> study_resource("0a1b")
        'prefect-optuna.study.0a1b'
    """
    return f"prefect-optuna.study.{uuid}"


def trial_resource(uuid: str, number: int) -> str:
    """The resource id of a trial.

    Example:
        >>> trial_resource("0a1b", 7)
        'prefect-optuna.study.0a1b.trial.7'
    """
    return f"{study_resource(uuid)}.trial.{number}"


class StudyEvents:
    """Emits the events of one run of a study, by looking at it now and then.

    A better value that was found between two looks and beaten before the second is not told: it
    is the newest that matters, and so there is at most one `study.improved` a second however fast
    trials are. What the study had before this run is not news.

    Args:
        uuid: of the study's archive, the study's name among events.
        directions: `"minimize"` or `"maximize"` for each value.
        stalled_after: seconds without any trial that ends before the study counts as stalled; by
            default ten times the longest trial so far, and five minutes at the least.
        before: the trials that the study has already, which are not news.
    """

    def __init__(
        self,
        uuid: str,
        directions: Sequence[str],
        *,
        before: Sequence[FrozenTrial] = (),
        stalled_after: float | None = None,
    ) -> None:
        self._uuid = uuid
        self._directions = directions
        self._stalled_after = stalled_after
        self._best = {trial.number for trial in self._best_of(before)}
        self._failed = {trial.number for trial in before if _has_failed(trial)}
        self._failed_events = 0
        self._last_improved = -float("inf")
        self._ended = -1
        self._ended_at = time.monotonic()
        self._stalled = self._completed = self._failing = False

    def look(self, status: StudyStatus) -> None:
        """Emit what is new. It never raises: events must not end a study."""
        try:
            self._look(status)
        except Exception:  # noqa: BLE001 - a lost event must not end a study
            if not self._failing:
                get_logger(__name__).warning("Cannot emit the study's events.", exc_info=True)
            self._failing = True

    def _look(self, status: StudyStatus) -> None:
        ranked = self._best_of(status.trials)
        for trial in status.trials:
            if _has_failed(trial) and trial.number not in self._failed:
                self._failed.add(trial.number)
                self._tell_failed(status, trial)
        new = [trial for trial in ranked if trial.number not in self._best]
        if new and (status.state != "running" or self._may_tell_improved()):
            self._best = {trial.number for trial in ranked}
            self._last_improved = time.monotonic()
            self._tell_improved(status, new)
        self._look_for_a_stall(status)
        if status.state in ("completed", "stopped") and not self._completed:
            self._completed = True
            payload = {"state": status.state, "best": [_told(trial) for trial in ranked[:10]]}
            self._emit("study.completed", status, payload)

    def _best_of(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        ranked = best_first(trials, self._directions)
        return ranked[:1] if len(self._directions) == 1 else ranked

    def _may_tell_improved(self) -> bool:
        return time.monotonic() - self._last_improved >= _SECONDS_BETWEEN

    def _tell_improved(self, status: StudyStatus, new: list[FrozenTrial]) -> None:
        payload: dict[str, Any] = {"best": [_told(trial) for trial in new[:10]]}
        if len(status.directions) == 1:
            payload |= _told(new[0])
        self._emit("study.improved", status, payload)

    def _tell_failed(self, status: StudyStatus, trial: FrozenTrial) -> None:
        self._failed_events += 1
        if self._failed_events > MAX_FAILED_EVENTS:
            return
        _emit(
            "trial.failed",
            self._uuid,
            status.study_name,
            number=trial.number,
            payload={
                "params": {name: str(value) for name, value in trial.params.items()},
                "error": str(trial.user_attrs.get("error", "no reason given")),
                "last": self._failed_events == MAX_FAILED_EVENTS,
            },
        )

    def _look_for_a_stall(self, status: StudyStatus) -> None:
        ended = sum(trial.state.is_finished() for trial in status.trials)
        now = time.monotonic()
        if ended != self._ended:
            self._ended, self._ended_at, self._stalled = ended, now, False
            return
        if status.state != "running" or self._stalled:
            return
        waited = now - self._ended_at
        if waited >= self._patience(status):
            self._stalled = True
            running = [t.number for t in status.trials if t.state == TrialState.RUNNING]
            payload = {"seconds": round(waited, 1), "running": running[:100]}
            self._emit("study.stalled", status, payload)

    def _patience(self, status: StudyStatus) -> float:
        if self._stalled_after is not None:
            return self._stalled_after
        longest = max((t.duration.total_seconds() for t in status.trials if t.duration), default=0)
        return max(_STALLED_LEAST, _STALLED_TRIALS * longest)

    def _emit(self, name: EventName, status: StudyStatus, payload: dict[str, Any]) -> None:
        finished = sum(t.state.is_finished() and not is_lost(t) for t in status.trials)
        counted = {**payload, "trials": finished, "n_trials": status.n_trials}
        _emit(name, self._uuid, status.study_name, payload=counted)


def emit_drifted(uuid: str, study_name: str, trial: ReevaluatedTrial) -> None:
    """Say that an archived trial did not give its values again."""
    from prefect_optuna.tasks.reevaluation.verdicts import constraint_words

    _emit(
        "trial.drifted",
        uuid,
        study_name,
        number=trial.number,
        labels={"prefect-optuna.verdict": trial.verdict},
        payload={
            "verdict": trial.verdict,
            "archived": repr(trial.archived),
            "values": list(map(repr, trial.values)),
            "constraints": constraint_words(trial, repr),
            "cause": trial.cause,
            "message": trial.message,
        },
    )


def _emit(
    name: EventName,
    uuid: str,
    study_name: str,
    *,
    number: int | None = None,
    labels: Mapping[str, str] | None = None,
    payload: Mapping[str, Any],
) -> None:
    study = {"prefect.resource.id": study_resource(uuid), "prefect.resource.name": study_name}
    own: dict[str, Any] = {"study_name": study_name}
    if number is None:
        resource, related = study, []
    else:
        own["number"] = number
        resource = {
            "prefect.resource.id": trial_resource(uuid, number),
            "prefect.resource.name": f"{study_name}, trial {number}",
        }
        related = [{**study, "prefect.resource.role": "study"}]
    # Automations of one study, by its name: on every event, whether of a trial or of the study.
    resource |= {"prefect-optuna.study.name": study_name, **(labels or {})}
    from prefect.events import emit_event  # as much to import as all of the blocks

    emit_event(STUDY_EVENTS[name], resource=resource, related=related, payload={**own, **payload})


def _has_failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and not is_lost(trial)


def _told(trial: FrozenTrial) -> dict[str, Any]:
    """A trial in JSON, which has no infinity: numbers are text."""
    return {
        "number": trial.number,
        "value": ", ".join(map(format_value, trial.values)),  # as people read it
        "values": [repr(value) for value in trial.values],
        "params": {name: str(value) for name, value in trial.params.items()},
    }
