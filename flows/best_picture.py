"""The picture of a study's best trial, drawn from the archive."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial
from prefect.logging import get_logger

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.flows.ranking import best_first
from prefect_optuna.flows.time_share import TimeShare
from prefect_optuna.tasks.archive import read_result
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.trial import RESULT_KEY
from prefect_optuna.tasks.trial_scope import TrialScope

__all__ = ["BestPicture"]


class BestPicture:
    """Draws the best trial with the problem's `plot`, or its series where it has none.

    Args:
        problem: the problem.
        filesystem: where the results are archived.
        scope: parameters for what the problem's functions call.
    """

    def __init__(self, problem: Problem, filesystem: ArtifactFileSystem, scope: TrialScope) -> None:
        self._problem = problem
        self._filesystem = filesystem
        self._scope = scope
        self._drawn: tuple[int | None, bytes | None] = (None, None)
        self._drawing = TimeShare()
        self._failing = False

    def png(self, trials: Sequence[FrozenTrial], *, final: bool = True) -> bytes | None:
        """The picture, of 100 KB at the most, or `None` where there is nothing to draw.

        The best trial is drawn once. A `plot` that fails is reported once, and stops nothing.

        Args:
            trials: the trials of the study.
            final: whether to draw whatever it takes. Otherwise the picture may be of the trial
                that was the best one before, so that drawing takes 1 % of the time at the most.
        """
        best = next(iter(best_first(trials, self._problem.directions)), None)
        if best is None or RESULT_KEY not in best.user_attrs:
            return None
        if self._drawn[0] != best.number and (final or self._drawing.affords()):
            with self._drawing.spend():
                self._drawn = (best.number, self._draw(best))
        return self._drawn[1]

    def _draw(self, best: FrozenTrial) -> bytes | None:
        from prefect_optuna.flows.plots import figure_png, series_plot

        try:
            result = read_result(self._filesystem, best.user_attrs[RESULT_KEY])
            if self._problem.plot is None:
                return series_plot(result, self._problem.axes)
            with self._scope.around(best.number, best.params):
                figure = self._problem.call(
                    "plot", result, params=best.params, scope=self._scope.values
                )
            return figure_png(figure)
        except Exception:  # noqa: BLE001 - a user's plot must not end a study
            if not self._failing:
                get_logger(__name__).warning(
                    "Cannot draw trial %d; the report goes without its picture.",
                    best.number,
                    exc_info=True,
                )
            self._failing = True
            return None
