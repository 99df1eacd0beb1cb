"""The picture of a study's best trial, drawn from the archive, and of how it compares to others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from prefect.logging import get_logger

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks.study_summary import best_first
from prefect_optuna.flows.time_share import TimeShare
from prefect_optuna.tasks.archive import read_result
from prefect_optuna.tasks.archive.record.attributes import RESULT_KEY
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.trial_scope import TrialScope

_ENSEMBLE = 50  # trials
_READING_SECONDS = 2.0  # for those that have not been read yet; on a slow network there are fewer
_ENSEMBLE_BYTES = 35_000


class BestPicture:
    """Draws the best trial with the problem's `plot`, or its series where it has none.

    The series are drawn before those of fifty other trials, which stay the same ones as far as
    possible while the study grows, so that each is read once.

    Attributes:
        ensemble: the best trial's series before those of others, as PNG, where the problem has a
            `plot` that shows something else; as last drawn.
    """

    def __init__(
        self,
        problem: Problem,
        filesystem: ArtifactFileSystem,
        scope: TrialScope,
        *,
        comparing: TimeShare | None = None,
    ) -> None:
        self.ensemble: bytes | None = None
        self._problem = problem
        self._filesystem = filesystem
        self._scope = scope
        self._drawn: tuple[int, int] | None = None  # the best trial, and how many others
        self._png: bytes | None = None
        self._drawing = TimeShare()
        self._comparing = comparing or TimeShare()
        self._results: dict[int, Any] = {}
        self._failing = False

    def png(self, trials: Sequence[FrozenTrial], *, final: bool = True) -> bytes | None:
        """The picture, of 100 KB at the most, or `None` where there is nothing to draw.

        It is drawn anew when another trial is the best one, or there are twice as many. A `plot`
        that fails is reported once, and stops nothing.
        """
        best = next(iter(best_first(trials, self._problem.directions)), None)
        if best is None or RESULT_KEY not in best.user_attrs:
            return None
        others = spread(trials)
        if self._is_old(best, len(others), final) and (final or self._drawing.affords()):
            with self._drawing.spend():
                self._draw(best, others)
            self._drawn = (best.number, len(others))
        return self._png

    def _is_old(self, best: FrozenTrial, n_others: int, final: bool) -> bool:
        if self._drawn is None or self._drawn[0] != best.number:
            return True
        grown = n_others > self._drawn[1]
        return grown if final else n_others >= 2 * self._drawn[1] and grown

    def _draw(self, best: FrozenTrial, others: Sequence[FrozenTrial]) -> None:
        from prefect_optuna.flows.plots import figure_png, series_plot

        self._png = None
        try:
            result = read_result(self._filesystem, best.user_attrs[RESULT_KEY])
            compare = self._comparing.affords()
            series = None
            if compare or self._results or self._problem.plot is None:
                with self._comparing.spend():
                    series = series_plot(
                        result,
                        self._problem.axes,
                        others=self._read(others) if compare else list(self._results.values()),
                        max_bytes=_ENSEMBLE_BYTES,
                    )
            if self._problem.plot is None:
                self._png = series
                return
            self.ensemble = series
            with self._scope.around(best.number, best.params):
                figure = self._problem.call(
                    "plot", result, params=best.params, scope=self._scope.values
                )
            self._png = figure_png(figure)
        except Exception:  # noqa: BLE001 - a user's plot must not end a study
            if not self._failing:
                get_logger(__name__).warning(
                    "Cannot draw trial %d; the report goes without its picture.",
                    best.number,
                    exc_info=True,
                )
            self._failing = True

    def _read(self, others: Sequence[FrozenTrial]) -> list[Any]:
        """Return the results of these trials that there was time to read."""
        end = time.monotonic() + _READING_SECONDS
        for trial in others:
            if trial.number not in self._results and time.monotonic() < end:
                self._results[trial.number] = read_result(
                    self._filesystem, trial.user_attrs[RESULT_KEY]
                )
        wanted = {trial.number for trial in others}
        self._results = {n: result for n, result in self._results.items() if n in wanted}
        return list(self._results.values())


def spread(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Fifty complete trials from all over the study; most stay the same while it grows."""
    having = [t for t in trials if t.state == TrialState.COMPLETE and RESULT_KEY in t.user_attrs]
    # Multiples of the golden ratio lie evenly, whichever numbers are there.
    return sorted(having, key=lambda trial: trial.number * 0.6180339887498949 % 1)[:_ENSEMBLE]
