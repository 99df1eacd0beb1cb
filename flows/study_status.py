"""The status of a study, as its report and its events see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial

from prefect_optuna.blocks.study_summary import StudySummary

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.record.manifest import Version
    from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation

StudyState = Literal["running", "paused", "completed", "interrupted", "failed", "stopped"]


@dataclass(frozen=True)
class Gallery:
    """The pictures of a report."""

    pictures: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    left_out: bool = False


@dataclass(frozen=True)
class StudyStatus:
    """The status of a study, of which its report is made.

    Attributes:
        trials: all of its trials, or some of them, where it is too large.
        summary: the summary of all, where there is one; else it is made of the trials.
        user_attrs: those of the study.
    """

    study_name: str
    directions: tuple[str, ...]
    trials: Sequence[FrozenTrial]
    n_trials: int | None
    state: StudyState
    elapsed: float
    storage: str
    artifacts: str
    best_figure: bytes | None = None
    ensemble: bytes | None = None
    notes: tuple[str, ...] = ()
    version: str = ""
    lost: int = 0
    gallery: Gallery | None = None
    study_id: int | None = None
    summary: StudySummary | None = None
    versions: Sequence[Version] = ()
    reevaluations: Sequence[Reevaluation] = ()
    user_attrs: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])
