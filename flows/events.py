"""Prefect events of a study, and what watches it for them and for its report."""

from __future__ import annotations

import contextlib
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from heapq import heappush, heappushpop
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial, TrialState
from prefect.logging import get_logger
from prefect.runtime import flow_run

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    PrefectOptunaError,
    StorageUnavailableError,
    StudyStorage,
)
from prefect_optuna.blocks.study_summary import (
    MOST_BEST,
    MOST_LOOKED_AT,
    StudySummary,
    best_first,
    is_feasible,
    losses_of,
    span_of,
    summary_of,
)
from prefect_optuna.flows.gallery import BestPicture, evenly
from prefect_optuna.flows.session import OpenTrials, is_lost, lost_trials
from prefect_optuna.flows.study import BestTrial, FlowStudy, StudyResult, StudyState, StudyStatus
from prefect_optuna.flows.wording import count_states, format_value
from prefect_optuna.tasks.archive import OptunaArchive
from prefect_optuna.tasks.archive.record.manifest import Manifest
from prefect_optuna.tasks.archive.record.verification import read_history
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation
from prefect_optuna.tasks.seeding import SharedGenerators

if TYPE_CHECKING:
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
        ranked = best_first(before, directions)
        self._best = {t.number for t in (ranked[:1] if len(directions) == 1 else ranked)}
        self._failed = {trial.number for trial in before if _has_failed(trial)}
        self._longest = _longest(before)
        self._failed_events = 0
        self._last_improved = -float("inf")
        self._ended = -1
        self._ended_at = time.monotonic()
        self._stalled = self._completed = self._failing = False

    def look(self, status: StudyStatus, ended: Sequence[FrozenTrial] | None = None) -> None:
        """Emit what is new. It never raises: events must not end a study.

        Args:
            status: of the study now.
            ended: the trials that have ended since the last look; by default it is looked for
                them among those of the status.
        """
        try:
            self._look(status, status.trials if ended is None else ended)
        except Exception:  # noqa: BLE001 - a lost event must not end a study
            if not self._failing:
                get_logger(__name__).warning("Cannot emit the study's events.", exc_info=True)
            self._failing = True

    def _look(self, status: StudyStatus, ended: Sequence[FrozenTrial]) -> None:
        ranked = status.best[:1] if len(self._directions) == 1 else status.best
        self._longest = max(self._longest, _longest(ended))
        for trial in ended:
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

    def _may_tell_improved(self) -> bool:
        return time.monotonic() - self._last_improved >= _SECONDS_BETWEEN

    def _tell_improved(self, status: StudyStatus, new: Sequence[FrozenTrial]) -> None:
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
        summary = _summary(status)
        ended, now = summary.finished + summary.lost, time.monotonic()
        if ended != self._ended:
            self._ended, self._ended_at, self._stalled = ended, now, False
            return
        if status.state != "running" or self._stalled:
            return
        waited = now - self._ended_at
        if waited >= self._patience():
            self._stalled = True
            running = [t.number for t in summary.unfinished if t.state == TrialState.RUNNING]
            payload = {"seconds": round(waited, 1), "running": running[:100]}
            self._emit("study.stalled", status, payload)

    def _patience(self) -> float:
        if self._stalled_after is not None:
            return self._stalled_after
        return max(_STALLED_LEAST, _STALLED_TRIALS * self._longest)

    def _emit(self, name: EventName, status: StudyStatus, payload: dict[str, Any]) -> None:
        finished = _summary(status).finished
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


def _summary(status: StudyStatus) -> StudySummary:
    return status.summary or summary_of(status.trials, status.directions)


def _longest(trials: Sequence[FrozenTrial]) -> float:
    """The seconds that the longest of some trials took."""
    return max((trial.duration.total_seconds() for trial in trials if trial.duration), default=0)


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


# Observation of a study, for its report while it runs and for its result at the end.


def last_reevaluations(
    artifacts: ArtifactFileSystem, manifest: Manifest | None
) -> Sequence[Reevaluation]:
    """The latest re-evaluations for a report, the oldest first; none where they are damaged."""
    if manifest is None:
        return ()
    try:
        return read_history(artifacts, manifest.uuid, 5)
    except PrefectOptunaError as error:
        get_logger(__name__).warning("The report says nothing of re-evaluations: %s", error)
        return ()


_DAY = timedelta(days=1)


class StudySums:
    """Sums of a study that grows; a look costs as much as has happened since the one before.

    Args:
        directions: `"minimize"` or `"maximize"` for each value.
    """

    def __init__(self, directions: Sequence[str]) -> None:
        self.shared: SharedGenerators = SharedGenerators()
        self._directions = directions
        self._follows = OpenTrials()
        self._states: Counter[TrialState] = Counter()  # of those that have ended
        self._lost = self._infeasible = 0
        self._best: list[FrozenTrial] = []
        self._leader: _Place | None = None
        self._since_best = 0
        self._moments: list[datetime] = []  # the first start, and the last start or end
        self._some: list[tuple[float, int, FrozenTrial]] = []  # a heap; evenly from all
        self._minutes: list[_Minute] = []  # those of the last day in which trials ended
        self._lock = threading.Lock()

    def look(
        self, trials: Sequence[FrozenTrial]
    ) -> tuple[StudySummary, Sequence[FrozenTrial], Sequence[FrozenTrial]]:
        """Return a summary; the trials, or some of very many; and those that have ended since.

        Args:
            trials: all of the study.
        """
        with self._lock:
            new, ended = self._follows.look(trials)
            started, last = span_of([*new, *ended, *self._follows.open])
            moments = sorted([*self._moments, *filter(None, (started, last))])
            self._moments = [*moments[:1], *moments[-1:]]
            before = self._leader
            for trial in sorted(ended, key=_completed):
                self._add(trial)
            ranked = best_first([*self._best, *ended], self._directions)
            self._best = ranked[:MOST_BEST] if len(self._directions) == 1 else ranked
            self._count_since(before, trials, ended)
            if len(trials) <= MOST_LOOKED_AT:
                return self._summary(), [*trials], ended
            some = [*(trial for _, _, trial in self._some), *self._best, *self._follows.open]
            chosen = {trial.number: trial for trial in some}
            return self._summary(), [chosen[number] for number in sorted(chosen)], ended

    def _add(self, trial: FrozenTrial) -> None:
        self._states[trial.state] += 1
        self._lost += is_lost(trial)
        self.shared.add([trial])
        item = (-evenly(trial), trial.number, trial)
        if len(self._some) < MOST_LOOKED_AT:
            heappush(self._some, item)
        else:
            heappushpop(self._some, item)
        place = None
        if trial.state == TrialState.COMPLETE:
            self._infeasible += not is_feasible(trial)
            if len(self._directions) == 1 and is_feasible(trial):
                place = (losses_of(trial.values, self._directions), trial.number, trial)
        self._note_minute(_completed(trial).replace(second=0, microsecond=0), place)

    def _note_minute(self, minute: datetime, place: _Place | None) -> None:
        """Note a trial that ended in a minute; one that was added may have done so long ago."""
        index = bisect_left(self._minutes, minute, key=lambda noted: noted.begin)
        if index == len(self._minutes):
            self._minutes.append(_Minute(minute, self._states.total() - 1, self._leader))
        elif self._minutes[index].begin > minute:
            self._minutes.insert(index, replace(self._minutes[index], begin=minute))
        for later in self._minutes[index + 1 :]:
            later.ended += 1
            later.leader = _better(later.leader, place)
        self._leader = _better(self._leader, place)

    def _count_since(
        self, before: object, trials: Sequence[FrozenTrial], ended: Sequence[FrozenTrial]
    ) -> None:
        """Count the trials after the best one that have ended."""
        if self._leader is not None:
            number = self._leader[1]
            is_new = self._leader is not before
            later = trials[number + 1 :] if is_new else ended
            count = sum(t.state.is_finished() and t.number > number for t in later)
            self._since_best = count if is_new else self._since_best + count

    def _summary(self) -> StudySummary:
        yesterday = datetime.now() - _DAY  # noqa: DTZ005 - local, as Optuna's times
        del self._minutes[: bisect_left(self._minutes, yesterday, key=lambda noted: noted.begin)]
        oldest = next(iter(self._minutes), None)
        return StudySummary(
            states=self._states + Counter(trial.state for trial in self._follows.open),
            lost=self._lost,
            infeasible=self._infeasible,
            best=self._best,
            unfinished=[*self._follows.open],
            started=self._moments[0] if self._moments else None,
            last=self._moments[-1] if self._moments else None,
            since_best=self._since_best,
            yesterday=oldest and (oldest.ended, oldest.leader and oldest.leader[2]),
        )


_Place = tuple[tuple[float, ...], int, FrozenTrial]


@dataclass
class _Minute:
    """A minute in which trials ended, how many had ended before it, and the best of those."""

    begin: datetime
    ended: int
    leader: _Place | None


def _better(one: _Place | None, other: _Place | None) -> _Place | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other, key=lambda place: place[:2])


def _completed(trial: FrozenTrial) -> datetime:
    return trial.datetime_complete or datetime.min  # noqa: DTZ901 - local, as Optuna's times


def part_note(summary: StudySummary, trials: Sequence[FrozenTrial]) -> tuple[str, ...]:
    """A note for people on a report that is made of some of the trials, if it is."""
    if len(trials) >= summary.n_trials:
        return ()
    return (
        f"Pictures and tables are of {len(trials):,} of the {summary.n_trials:,} trials: the "
        "best, and others from the first to the last. The numbers are of all.",
    )


class StudyWatch:
    """Looks at a study from the side, also from other threads."""

    def __init__(
        self,
        study: FlowStudy,
        problem: Problem,
        archive: OptunaArchive,
        n_trials: int | None,
        storage_block: StudyStorage,
        picture: BestPicture,
        events: StudyEvents | None = None,
    ) -> None:
        self._study = study
        self._problem = problem
        self._archive = archive
        self._n_trials = n_trials
        self._storage_block = storage_block
        self._picture = picture
        self._events = events
        self._state: StudyState = "running"
        self._version = archive.version_words
        self._sums = StudySums(problem.directions)
        self._reevaluations: Sequence[Reevaluation] | None = None

    def trials(self) -> Sequence[FrozenTrial]:
        """All trials of the study."""
        return self._study.get_trials(deepcopy=False)

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Note how the study ended."""
        try:
            yield
        except Exception:
            self._state = "failed"
            raise
        except BaseException:
            self._state = "interrupted"
            raise
        else:
            self._state = "stopped" if self._study.stopped else "completed"

    def status(self, *, draw: bool = True) -> StudyStatus:
        """Return the study's status now; without drawing, with the picture that there is."""
        summary, trials, ended = self._sums.look(self._study.trials_view())
        best, final = next(iter(summary.best), None), self._state != "running"
        manifest = self._archive.manifest
        if final and self._reevaluations is None:
            self._reevaluations = last_reevaluations(self._archive.artifacts, manifest)
        status = StudyStatus(
            study_name=self._study.study_name,
            directions=tuple(self._problem.directions),
            trials=trials,
            n_trials=self._n_trials,
            state=self._state,
            # Of the study and not of this run, for beside it stands the number of all trials.
            elapsed=summary.elapsed(until_now=not final),
            storage=self._storage_block.location,
            artifacts=self._archive.location,
            best_figure=self._picture.png(trials, best=best, final=final, draw=draw),
            ensemble=self._picture.ensemble,
            notes=(
                *self._archive.notes,
                *self._sums.shared.note(),
                *part_note(summary, trials),
            ),
            version=self._version,
            lost=summary.lost,
            summary=summary,
            study_id=self._study._study_id,  # pyright: ignore[reportPrivateUsage]
            versions=manifest.versions if manifest else (),
            reevaluations=self._reevaluations or (),
            user_attrs=self._study.user_attrs if final else {},
        )
        if self._events is not None:
            self._events.look(status, ended)
        return status

    def result(self, n_task_runs: int) -> StudyResult:
        """Return the result of the study; the best trial's picture is archived."""
        trials = self.trials()
        directions = tuple(self._problem.directions)
        ranked = best_first(trials, directions)
        counts = count_states(trials)
        states = {state: counts[state] for state in ("complete", "pruned", "failed")}
        lost = len(lost_trials(trials))
        picture = self._picture.png(trials)
        return StudyResult(
            study_name=self._study.study_name,
            directions=directions,
            best_trials=[
                BestTrial(
                    number=t.number,
                    values=tuple(t.values),
                    params=t.params,
                    constraints=t.constraints,
                )
                for t in (ranked if len(directions) > 1 else ranked[:1])
            ],
            n_trials=sum(states.values()),
            states={**states, "lost": lost} if lost else states,
            storage=self._storage_block.location,
            artifacts=self._archive.location,
            version=self._version,
            picture=self._kept(picture) if picture else None,
            flow_run_id=flow_run.id,
            n_task_runs=n_task_runs,
        ).kept_in(self._storage_block)

    def _kept(self, picture: bytes) -> str | None:
        try:
            return self._archive.save_picture(picture)
        except StorageUnavailableError as error:
            get_logger(__name__).warning("The best trial's picture is not archived: %s", error)
            return None  # the study is whole without it
