"""The pictures of a report: small, plain, and cheap enough to be drawn while a study runs."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.study_summary import best_first, is_feasible
from prefect_optuna.flows.plot_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    PURPLE,
    SKY,
    VERMILION,
    Range,
    add_legend,
    figure_png,
    new_figure,
    scale,
    style,
    whole_numbers,
)
from prefect_optuna.flows.session import is_lost
from prefect_optuna.flows.wording import format_value, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HUGE = 1e100
_LEAST_ENSEMBLE = 8  # trials; fewer have no quantiles to speak of
_SERIES_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, INK, GREY)


def history_plot(
    trials: Sequence[FrozenTrial],
    directions: Sequence[str],
    target: int | None = None,
    *,
    max_bytes: int = 100_000,
) -> bytes:
    r"""Draw the value of each trial and the best so far.

    The axis of the values shows where the search is going on: where a few values are far worse
    than all the others, they are marked at the edge, as infinite ones are.

    Args:
        trials: the trials of a study, in any state.
        directions: `"minimize"` or `"maximize"` for each value.
        target: which of several values to draw. By default each (of the first four) gets a panel.
        max_bytes: how large the picture may be.

    Example:
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=3)
        >>> history_plot(study.trials, ["minimize"])[:4]
        b'\x89PNG'
    """
    targets = list(range(len(directions)))[:4] if target is None else [target]
    figure = new_figure(2.9 if len(targets) == 1 else 0.6 + 1.7 * len(targets))
    panels = figure.subplots(len(targets), 1, sharex=True, squeeze=False)[:, 0]
    trials = [trial for trial in trials if not is_lost(trial)]
    for axes, index in zip(panels, targets, strict=True):
        style(axes)
        _draw_history(axes, trials, directions[index], index)
        axes.set_ylabel("value" if len(directions) == 1 else f"value {index}")
    panels[-1].set_xlabel("trial")
    add_legend(panels[0])
    return figure_png(figure, max_bytes)


def pareto_plot(
    trials: Sequence[FrozenTrial], directions: Sequence[str], *, max_bytes: int = 100_000
) -> bytes:
    """Draw the trials of a study with two directions, and those that are Pareto-best.

    Args:
        trials: the trials of a study, in any state.
        directions: `"minimize"` or `"maximize"` for each of the two values.
        max_bytes: how large the picture may be.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    values = np.array([trial.values for trial in complete], dtype=float).reshape(-1, 2)
    good = np.array([is_feasible(trial) for trial in complete], dtype=bool)
    best = sorted(tuple(trial.values) for trial in best_first(trials, directions))
    front = np.array(best, dtype=float).reshape(-1, 2)
    figure = new_figure(3.6)
    axes = figure.subplots()
    style(axes)
    limits = [Range(values[:, i], directions[i], keep=front[:, i]) for i in (0, 1)]
    shown = np.column_stack([limits[i].clip(values[:, i]) for i in (0, 1)])
    for these, colour, label in ((~good, PURPLE, "infeasible"), (good, SKY, "trials")):
        if these.any():
            dots = shown[these].T
            axes.plot(*dots, "o", color=colour, markersize=3.5, markeredgewidth=0, label=label)
    if len(front):
        line = np.column_stack([limits[i].clip(front[:, i]) for i in (0, 1)])
        # The steps bound what the front is known to beat, and so turn on the worse side.
        where = "post" if directions[0] == "minimize" else "pre"
        axes.plot(*line.T, color=BLUE, linewidth=1, alpha=0.5, drawstyle=f"steps-{where}")
        axes.plot(*line.T, "o", color=BLUE, markersize=5, label=f"{len(front)} Pareto-best")
    for i, name in enumerate("xy"):
        scale(axes, name, limits[i])
        axes.set(**{f"{name}label": f"value {i} ({directions[i]})"})
    add_legend(axes)
    return figure_png(figure, max_bytes)


def series_plot(
    result: Any,
    axes: Mapping[str, Sequence[Any]] | None = None,
    *,
    others: Sequence[Any] = (),
    max_bytes: int = 100_000,
) -> bytes | None:
    r"""Draw the series that a trial has returned over their axis, before those of other trials.

    Args:
        result: a mapping of names to one-dimensional series, a data frame or Arrow table, or one
            series. What is no series of numbers is left out.
        axes: the coordinates. The first axis that is as long as a series belongs to it.
        others: what other trials have returned. Half of them are within the darker band, nine
            of ten within the paler one.
        max_bytes: how large the picture may be.

    Example:
        >>> series_plot({"hare": [30, 47, 70]}, {"year": [1900, 1901, 1902]})[:4]
        b'\x89PNG'
        >>> series_plot(0.5) is None
        True
    """
    series = _series_of(result)
    if not series:
        return None
    lengths = Counter(len(values) for values in series.values())
    length = max(lengths, key=lambda n: (lengths[n], n))
    axis_name, axis = _axis_of(length, axes or {})
    shown = {
        name: values
        for name, values in series.items()
        if len(values) == length and (name != axis_name or len(series) == 1)
    }
    shown = dict(list(shown.items())[: len(_SERIES_COLOURS)])
    ensemble = [_series_of(other) for other in others]
    bands = {name: _bands(ensemble, name, length) for name in shown}
    panels_of = [[name] for name in shown][:4] if _differ_in_size(shown) else [list(shown)]
    figure = new_figure(3.2 if len(panels_of) == 1 else 0.6 + 1.5 * len(panels_of))
    panels = figure.subplots(len(panels_of), 1, sharex=True, squeeze=False)[:, 0]
    colours = dict(zip(shown, _SERIES_COLOURS, strict=False))
    for panel, names in zip(panels, panels_of, strict=True):
        style(panel)
        for name in names:
            for low, high, alpha in bands.get(name, ()):
                panel.fill_between(axis, low, high, color=colours[name], alpha=alpha, linewidth=0)
            panel.plot(axis, shown[name], color=colours[name], linewidth=1.6)
        panel.margins(x=0.02)
        lines = {name: shown[name] for name in names}
        _label_lines(panel, figure.get_figheight(), axis, lines, colours)
    if np.issubdtype(axis.dtype, np.number) and not (axis % 1).any():
        whole_numbers(panels[-1])
    panels[-1].set_xlabel(shorten(axis_name), parse_math=False)
    if any(bands.values()):
        panels[0].set_title(
            f"the best trial as a line, half of {len(others)} trials and nine of ten as bands",
            loc="left",
            color=GREY,
            fontsize=9,
        )
    return figure_png(figure, max_bytes)


def _draw_history(axes: Axes, trials: Sequence[FrozenTrial], direction: str, index: int) -> None:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    good = _points([trial for trial in complete if is_feasible(trial)], index)
    infeasible = _points([trial for trial in complete if not is_feasible(trial)], index)
    pruned = _points([trial for trial in trials if trial.state == TrialState.PRUNED], index)
    failed = [trial.number for trial in trials if trial.state == TrialState.FAIL]

    scaled_by = next((points[1] for points in (good, infeasible, pruned) if len(points[1])), None)
    if scaled_by is None:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no values yet", transform=axes.transAxes, ha="center", color=GREY)
        shown = Range(good[1], direction)
    else:
        shown = Range(scaled_by, direction)
        scale(axes, "y", shown)
    many = len(trials) > 300
    size = 4.5 if not many else 3 if len(trials) <= 2000 else 2
    alpha = 0.6 if many else 0.9
    _dots(axes, shown, *pruned, "pruned", color=PALE, markersize=size)
    _dots(axes, shown, *infeasible, "infeasible", color=PURPLE, markersize=size)
    _dots(axes, shown, *good, "complete", color=SKY, markersize=size, alpha=alpha)
    if failed:
        axes.plot(
            failed,
            np.full(len(failed), 0.015),
            "x",
            color=VERMILION,
            markersize=4,
            markeredgewidth=1.1,
            alpha=1 if len(failed) < 200 else 0.3,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="failed",
        )
    last = max((trial.number for trial in trials), default=1)
    if len(good[0]):
        _draw_best(axes, shown, *good, direction, last)
    axes.set_xlim(-0.02 * last - 0.5, max(last, 1) * 1.02 + 0.5)
    whole_numbers(axes)


def _points(trials: Sequence[FrozenTrial], index: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and values of trials; a pruned one has the last value that it reported."""
    pairs = []
    for trial in trials:
        if trial.values is not None:
            pairs.append((trial.number, trial.values[index]))
        elif trial.intermediate_values:
            pairs.append((trial.number, trial.intermediate_values[max(trial.intermediate_values)]))
    points = np.array(pairs, dtype=float).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _dots(axes: Axes, shown: Range, x: np.ndarray, y: np.ndarray, label: str, **style: Any) -> None:
    low, high = shown.limits
    inside = (low <= y) & (y <= high)
    if inside.any():
        axes.plot(x[inside], y[inside], "o", markeredgewidth=0, label=label, **style)
    style["markersize"] = max(style["markersize"], 4)
    for edge, marker, outside in ((high, "^", y > high), (low, "v", y < low)):
        if outside.any():
            axes.plot(
                x[outside],
                np.full(outside.sum(), edge),
                marker,
                markeredgewidth=0,
                clip_on=False,
                label="off the scale",
                **style,
            )


def _draw_best(
    axes: Axes, shown: Range, numbers: np.ndarray, values: np.ndarray, direction: str, last: int
) -> None:
    minimize = direction == "minimize"
    so_far = (np.minimum if minimize else np.maximum).accumulate(values)
    best = int(np.argmin(values) if minimize else np.argmax(values))
    line = shown.clip(so_far)
    axes.step(
        np.append(numbers, last),
        np.append(line, line[-1]),
        where="post",
        color=BLUE,
        linewidth=1.6,
    )
    axes.plot(numbers[best], line[best], "o", color=BLUE, markersize=6, clip_on=False)
    axes.set_title(
        f"best {format_value(float(values[best]))} in trial {numbers[best]:.0f}",
        loc="left",
        color=BLUE,
        fontsize=9.5,
        fontweight="bold",
    )


def _bands(
    ensemble: Sequence[Mapping[str, np.ndarray]], name: str, length: int
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Return the bands that hold nine of ten trials, and half of them."""
    rows = [member[name] for member in ensemble if name in member and len(member[name]) == length]
    if len(rows) < _LEAST_ENSEMBLE:
        return []
    values = np.array(rows)
    values[~(np.abs(values) < _HUGE)] = np.nan
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice")
        wide, low, high, top = np.nanquantile(values, [0.05, 0.25, 0.75, 0.95], axis=0)
    return [(wide, top, 0.13), (low, high, 0.22)]


def _series_of(result: Any) -> dict[str, np.ndarray]:
    """Whatever is a one-dimensional series of at least two numbers."""
    if hasattr(result, "column_names"):  # an Arrow table
        items = [(name, result.column(name)) for name in result.column_names]
    elif isinstance(result, Mapping):
        items = list(result.items())
    elif hasattr(result, "columns"):  # a data frame
        items = [(name, result[name]) for name in result.columns]
    else:
        items = [("result", result)]
    arrays = {str(name): _numbers(values) for name, values in items}
    return {name: array for name, array in arrays.items() if np.isfinite(array).any()}


def _numbers(values: Any) -> np.ndarray:
    """Return a series as numbers; empty if it has none."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError):  # such as a list of lists of different lengths
        return np.empty(0)
    is_series = array.ndim == 1 and len(array) > 1 and array.dtype.kind in "biuf"
    return array.astype(float) if is_series else np.empty(0)


def _axis_of(length: int, axes: Mapping[str, Sequence[Any]]) -> tuple[str, np.ndarray]:
    for name, values in axes.items():
        array = np.asarray(values)
        if array.shape == (length,) and array.dtype.kind in "iufM":
            return str(name), array
    return "index", np.arange(length)


def _differ_in_size(series: Mapping[str, np.ndarray]) -> bool:
    """Tell whether the smaller series would be flat lines at the bottom of a common panel."""
    sizes = [float(np.nanmax(np.abs(values[np.isfinite(values)]))) for values in series.values()]
    return max(sizes) > 20 * min(sizes)


def _label_lines(
    axes: Axes,
    figure_height: float,
    axis: np.ndarray,
    lines: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
) -> None:
    """Write each line's name at its end, apart from each other: no legend to look up."""
    low, high = axes.get_ylim()
    panel_height = axes.get_position().height * figure_height
    gap = (high - low) * 0.16 / panel_height  # a line of text is some 0.16 inches high
    ends = sorted((float(values[np.isfinite(values)][-1]), name) for name, values in lines.items())
    positions = [end for end, _ in ends]
    for i in range(1, len(positions)):
        positions[i] = max(positions[i], positions[i - 1] + gap)
    overshoot = max(0.0, positions[-1] - high)
    for i in reversed(range(len(positions))):
        ceiling = positions[i + 1] - gap if i + 1 < len(positions) else math.inf
        positions[i] = min(positions[i] - (overshoot if i + 1 == len(positions) else 0), ceiling)
    for (_, name), position in zip(ends, positions, strict=True):
        axes.annotate(
            shorten(name),
            (axis[-1], position),
            xytext=(6, 0),
            textcoords="offset points",
            color=colours[name],
            fontsize=9,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            parse_math=False,
        )
