"""How a study stands, as its report and its events see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from optuna.trial import FrozenTrial

StudyState = Literal["running", "paused", "completed", "interrupted", "failed", "stopped"]


@dataclass(frozen=True)
class Gallery:
    """The pictures of a report.

    Args:
        pictures: PNG by the names in `gallery.PICTURES`.
        left_out: whether there was no time for some.
    """

    pictures: Mapping[str, bytes] = field(default_factory=dict)
    left_out: bool = False


@dataclass(frozen=True)
class StudyStatus:
    """How a study stands: what its report is made of.

    Args:
        study_name: The study.
        directions: `"minimize"` or `"maximize"` for each value.
        trials: All of its trials, in any state.
        n_trials: How many trials are to be finished; `None` where only a timeout ends the study.
        state: What the study is doing, or how it ended.
        elapsed: Seconds since this run of the study began.
        storage: Where the study is, for people.
        artifacts: Where its archive is, for people.
        best_figure: A picture of the best trial, as PNG.
        ensemble: Another one, of its series before those of other trials, as PNG.
        notes: What somebody should know who trusts these results.
        version: Which version of its code it runs, for people.
        lost: How many trials were lost to a crash and repeated.
        gallery: The pictures of all trials, where they are drawn already.
        study_id: The number of the study in its storage, for the link to optuna-dashboard.
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
