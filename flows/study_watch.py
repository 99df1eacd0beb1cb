"""Observation of a study, for its report while it runs and for its result at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

from optuna.trial import FrozenTrial
from prefect.logging import get_logger
from prefect.runtime import flow_run

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    PrefectOptunaError,
    StorageUnavailableError,
    StudyStorage,
)
from prefect_optuna.blocks.study_summary import best_first, seconds_between, span_of
from prefect_optuna.flows.best_picture import BestPicture
from prefect_optuna.flows.events import StudyEvents
from prefect_optuna.flows.session import lost_trials
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.flows.study_result import BestTrial, StudyResult
from prefect_optuna.flows.study_status import StudyState, StudyStatus
from prefect_optuna.flows.wording import count_states
from prefect_optuna.tasks.archive import OptunaArchive
from prefect_optuna.tasks.archive.record.history import read_history
from prefect_optuna.tasks.archive.record.manifest import Manifest
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation
from prefect_optuna.tasks.seeding import shared_note


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

    def status(self) -> StudyStatus:
        """Return the study's status now."""
        trials = self.trials()
        manifest = self._archive.manifest
        if self._state != "running" and self._reevaluations is None:
            self._reevaluations = last_reevaluations(self._archive.artifacts, manifest)
        status = StudyStatus(
            study_name=self._study.study_name,
            directions=tuple(self._problem.directions),
            trials=trials,
            n_trials=self._n_trials,
            state=self._state,
            # Of the study and not of this run, for beside it stands the number of all trials.
            elapsed=seconds_between(*span_of(trials), until_now=self._state == "running"),
            storage=self._storage_block.location,
            artifacts=self._archive.location,
            best_figure=self._picture.png(trials, final=self._state != "running"),
            ensemble=self._picture.ensemble,
            notes=(*self._archive.notes, *shared_note(trials)),
            version=self._version,
            lost=len(lost_trials(trials)),
            study_id=self._study._study_id,  # pyright: ignore[reportPrivateUsage]
            versions=manifest.versions if manifest else (),
            reevaluations=self._reevaluations or (),
            user_attrs=self._study.user_attrs if self._state != "running" else {},
        )
        if self._events is not None:
            self._events.look(status)
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
