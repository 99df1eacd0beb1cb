"""Pictures of a study's report: their choice, their order, and their total size."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping

from prefect_optuna.blocks.study_summary import best_first
from prefect_optuna.flows.param_plots import (
    contour_plot,
    importances_of,
    importances_plot,
    parallel_plot,
    slices_plot,
)
from prefect_optuna.flows.plots import history_plot, pareto_plot
from prefect_optuna.flows.study_status import Gallery, StudyStatus
from prefect_optuna.flows.timeline_plot import timeline_plot

PICTURES: Mapping[str, str] = {
    "pareto": "The values of the trials against each other, and the Pareto-best ones",
    "history": "Values of the trials, one after the other",
    "importances": "How much each parameter matters",
    "slices": "Values of the trials over the parameters that matter most",
    "timeline": "When each trial ran, and who ran it",
    "parallel": "Trials as lines through their parameters and values",
    "contour": "The value over the two parameters that matter most",
}
"""The pictures of a report, the most telling first, with their descriptions."""


def draw_gallery(
    status: StudyStatus, *, seconds: float = math.inf, for_page: bool = False
) -> Gallery:
    """Draw what can be drawn of a study: 130 KB at the most, or 310 for a page of its own.

    Args:
        status: how the study stands.
        seconds: of this thread's processor time, after which no other picture is begun. The
            first one is always drawn.
        for_page: whether to draw those, too, for which Prefect's UI has no room.

    Example:
        >>> import optuna
        >>> from prefect_optuna.flows.study_status import StudyStatus
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=9)
        >>> status = StudyStatus("demo", ("minimize",), study.trials, 9, "completed", 0.2, "", "")
        >>> list(draw_gallery(status).pictures)
        ['history', 'slices', 'timeline']
    """
    if not status.trials:
        return Gallery()
    # Once, and no part of what drawing costs.
    importlib.import_module("matplotlib.backends.backend_agg")
    trials, directions = status.trials, status.directions
    shares = [importances_of(trials, directions, i) for i in range(min(2, len(directions)))]
    names = dict.fromkeys(name for share in shares for name in share)
    mean = {n: sum(share.get(n, 0.0) for share in shares) / len(shares) for n in names}
    mean = dict(sorted(mean.items(), key=lambda item: -item[1]))
    best = best_first(trials, directions)[:1] if len(directions) == 1 else []
    now = time.time() if status.state == "running" else None
    draw: dict[str, Callable[[], bytes | None]] = {
        "pareto": lambda: pareto_plot(trials, directions, max_bytes=30_000),
        "history": lambda: history_plot(trials, directions, max_bytes=35_000),
        "importances": lambda: importances_plot(shares, max_bytes=12_000),
        "slices": lambda: slices_plot(trials, directions, mean, max_bytes=32_000),
        "timeline": lambda: timeline_plot(
            trials, best=best[0].number if best else None, now=now, max_bytes=21_000
        ),
    }
    if for_page:
        draw["parallel"] = lambda: parallel_plot(trials, directions, mean, max_bytes=90_000)
        draw["contour"] = lambda: contour_plot(trials, directions, mean, max_bytes=90_000)
    if len(directions) == 1:
        del draw["pareto"]
    pictures: dict[str, bytes] = {}
    end = time.thread_time() + seconds
    for name, picture in draw.items():
        if pictures and time.thread_time() >= end:
            return Gallery(pictures, left_out=True)
        if png := picture():
            pictures[name] = png
    return Gallery(pictures)
