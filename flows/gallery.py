"""Pictures of a study's report: their choice, the best trial's, and those of its parameters."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from prefect.logging import get_logger

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks.study_summary import best_first, is_feasible
from prefect_optuna.flows.plots import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PALE,
    Range,
    figure_png,
    history_plot,
    new_figure,
    pareto_plot,
    scale,
    style,
    timeline_plot,
)
from prefect_optuna.flows.study import Gallery, StudyStatus
from prefect_optuna.flows.wording import format_value, shorten
from prefect_optuna.tasks.archive import read_result
from prefect_optuna.tasks.archive.record.manifest import RESULT_KEY
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.trial import TrialScope

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna.importance import BaseImportanceEvaluator

# Costly things that may take a share of the time, and no more.


class TimeShare:
    """Says whether something costly may be done yet.

    Args:
        share: how much of the time since this was made it may take.
        estimate: what doing it once is expected to cost before it has been done, in seconds of
            this thread's processor time.

    Example:
        >>> TimeShare(share=0.01, estimate=1.0).affords()
        False
        >>> TimeShare(share=0.01, estimate=0.0).affords()
        True
    """

    def __init__(self, *, share: float = 0.01, estimate: float = 0.15) -> None:
        self._share = share
        self._cost = estimate
        self._spent = 0.0
        self._since = time.monotonic()

    def affords(self) -> bool:
        """Tell whether doing it once more stays within the share."""
        return self._spent + self._cost <= self._share * (time.monotonic() - self._since)

    @contextlib.contextmanager
    def spend(self) -> Generator[None]:
        """Measure what the code within costs."""
        before = time.thread_time()
        try:
            yield
        finally:
            self._cost = time.thread_time() - before
            self._spent += self._cost


# The picture of a study's best trial, drawn from the archive, and of how it compares to others.


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
        self._one_at_a_time = threading.Lock()
        self._problem = problem
        self._filesystem = filesystem
        self._scope = scope
        self._drawn: tuple[int, int] | None = None  # the best trial, and how many others
        self._png: bytes | None = None
        self._drawing = TimeShare()
        self._comparing = comparing or TimeShare()
        self._results: dict[int, Any] = {}
        self._failing = False

    def png(
        self,
        trials: Sequence[FrozenTrial],
        *,
        best: FrozenTrial | None = None,
        final: bool = True,
        draw: bool = True,
    ) -> bytes | None:
        """The picture, of 100 KB at the most, or `None` where there is nothing to draw.

        It is drawn anew when another trial is the best one, or there are twice as many. A `plot`
        that fails is reported once, and stops nothing. Without drawing, it is there if it has
        been drawn of the trial that is the best one now.
        """
        best = best or next(iter(best_first(trials, self._problem.directions)), None)
        if best is None or RESULT_KEY not in best.user_attrs:
            return None
        if not draw:
            return self._png if self._drawn and self._drawn[0] == best.number else None
        others = spread(trials)
        with self._one_at_a_time:
            if self._is_old(best, len(others), final) and (final or self._drawing.affords()):
                with self._drawing.spend():
                    self._png = self._draw(best, others)
                self._drawn = (best.number, len(others))
            return self._png

    def _is_old(self, best: FrozenTrial, n_others: int, final: bool) -> bool:
        if self._drawn is None or self._drawn[0] != best.number:
            return True
        grown = n_others > self._drawn[1]
        return grown if final else n_others >= 2 * self._drawn[1] and grown

    def _draw(self, best: FrozenTrial, others: Sequence[FrozenTrial]) -> bytes | None:
        from prefect_optuna.flows.plots import figure_png, series_plot

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
                return series
            self.ensemble = series
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
    return sorted(having, key=evenly)[:_ENSEMBLE]


def evenly(trial: FrozenTrial) -> float:
    """A key that takes trials from all over a study: most stay the same while it grows."""
    return trial.number * 0.6180339887498949 % 1  # multiples of the golden ratio lie evenly


# Plots of the parameters that matter, and of their good values.


_LEAST_TRIALS = 20  # below, the best tenth is a trial or two
_MOST_TRIALS = 1000
_MOST_BARS = 10
_MOST_DOTS = 1500
_COLUMNS = 4
_AXES = 8
_MOST_LINES = 400
_LEAST_MAP = 10  # different places; fewer show nothing
_HUGE = 1e100  # arithmetic on larger numbers overflows


def importances_of(
    trials: Sequence[FrozenTrial], directions: Sequence[str], target: int = 0
) -> dict[str, float]:
    """Return how much each parameter matters for being among the best tenth of the trials.

    By PED-ANOVA, which takes some 50 ms for a thousand trials; of more, a thousand are taken
    evenly. Parameters that only some trials have are left out.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        >>> def objective(trial):
        ...     return trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_float("y", 0, 1) / 100
        >>> study.optimize(objective, n_trials=100)
        >>> list(importances_of(study.trials, ["minimize"]))
        ['x', 'y']
    """
    usable = [t for t in _complete(trials) if math.isfinite(t.values[target])]
    if len(usable) < _LEAST_TRIALS or len({t.values[target] for t in usable}) < 2:
        return {}
    usable = _evenly(usable, _MOST_TRIALS)
    study = _Trials(usable, directions, target)
    try:
        with warnings.catch_warnings():
            # It is a picture, and says nothing of parameters that few trials have.
            warnings.filterwarnings("ignore", message="Some regimes for parameter")
            found = _PED_ANOVA().evaluate(study)
    except (ValueError, RuntimeError, ZeroDivisionError):  # such as no parameter in common
        return {}
    total = sum(found.values())
    if not math.isfinite(total):
        return {}
    # As Optuna has it: where none matters, each has the same share.
    return {name: share / total if total else 1 / len(found) for name, share in found.items()}


def _import_ped_anova() -> type[BaseImportanceEvaluator]:
    """Import Optuna's evaluator alone: its package loads scikit-learn for another one, in 1.3 s."""
    name = "optuna.importance"
    if name not in sys.modules:
        package = ModuleType(name)
        package.__path__ = [str(Path(optuna.__file__).parent / "importance")]
        sys.modules[name] = package
        try:
            return importlib.import_module(f"{name}._ped_anova").PedAnovaImportanceEvaluator
        except (ImportError, AttributeError):
            pass  # this Optuna has it elsewhere
        finally:
            del sys.modules[name]
    return optuna.importance.PedAnovaImportanceEvaluator


_PED_ANOVA = _import_ped_anova()  # now, while no other thread imports


def importances_plot(
    importances: Sequence[Mapping[str, float]], *, max_bytes: int = 30_000
) -> bytes | None:
    """Draw the importances of parameters as bars, the largest first.

    Args:
        importances: for each of the study's values, the share of each parameter.
        max_bytes: how large the picture may be.
    """
    total: dict[str, float] = {}
    for shares in importances:
        for name, share in shares.items():
            total[name] = total.get(name, 0.0) + share
    names = sorted(total, key=lambda name: -total[name])
    if len(names) < 2:  # one parameter has all of it
        return None
    shown = names[:_MOST_BARS]
    several = len(importances) > 1
    thickness = 0.72 / len(importances)
    figure = new_figure(0.45 + 0.27 * len(shown) * (1.4 if several else 1))
    axes = figure.subplots()
    style(axes)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    places = np.arange(len(shown))
    for index, shares in enumerate(importances):
        widths = np.array([shares.get(name, 0.0) for name in shown])
        at = places + (index - (len(importances) - 1) / 2) * thickness
        bars = axes.barh(
            at, widths, height=thickness * 0.9, color=(BLUE, ORANGE)[index % 2], alpha=0.85
        )
        bars.set_label(f"value {index}")
        for place, width in zip(at, widths, strict=True):
            axes.annotate(
                f"{100 * width:.0f} %",
                (width, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=INK,
                fontsize=8.5 if not several else 7.5,
            )
    axes.set_yticks(places, [shorten(name) for name in shown], parse_math=False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.set_xticks([])
    axes.set_xlim(0, 1.12 * max(max(shares.values(), default=0) for shares in importances))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    more = f", {len(names) - len(shown)} smaller ones left out" if len(names) > len(shown) else ""
    axes.set_title(
        f"what decides who is in the best tenth{more}", loc="left", color=GREY, fontsize=9
    )
    if several:
        axes.legend(loc="lower right", frameon=False, fontsize=8.5, labelcolor=GREY)
    return figure_png(figure, max_bytes)


def slices_plot(
    trials: Sequence[FrozenTrial],
    directions: Sequence[str],
    importances: Mapping[str, float] | None = None,
    *,
    max_bytes: int = 45_000,
) -> bytes | None:
    """Draw the value over each of the four parameters that matter most.

    Later trials are stronger in colour, and the best one is marked: so it shows where the search
    went, and whether the best value lies at the edge of what was allowed.

    Args:
        trials: the trials of a study, in any state.
        directions: `"minimize"` or `"maximize"` for each value; the first two get a row each.
        importances: the share of each parameter, by which they are ordered.
        max_bytes: how large the picture may be.
    """
    complete = _complete(trials)
    best = best_first(complete, directions)
    best = best[:1] if len(directions) == 1 else best
    names = list(dict.fromkeys(name for t in (*best, *complete[:50]) for name in t.params))
    order = list(importances or ())
    names = sorted(names, key=lambda n: order.index(n) if n in order else len(order))[:_COLUMNS]
    if len(complete) < 3 or not names:
        return None
    complete = _evenly(complete, _MOST_DOTS)
    rows = min(2, len(directions))
    figure = new_figure(2.3 if rows == 1 else 3.9)
    panels = figure.subplots(rows, len(names), sharex="col", sharey="row", squeeze=False)
    for index, row in enumerate(panels):
        values = np.array([t.values[index] for t in complete], dtype=float)
        kept = np.array([t.values[index] for t in best], dtype=float)
        shown = Range(values, directions[index], keep=kept)
        for axes, name in zip(row, names, strict=True):
            style(axes)
            scale(axes, "y", shown)
            _draw_slice(axes, name, complete, best, index, shown, importances or {})
            if index < rows - 1:
                axes.set_xlabel("")
        row[0].set_ylabel("value" if rows == 1 else f"value {index}")
    marked = "the best one" if len(best) == 1 else "the Pareto-best ones"
    title = figure.suptitle(
        f"the parameters that matter most: later trials are stronger in colour, {marked} orange",
        x=0.01,
        ha="left",
        fontsize=9,
    )
    title.set_color(GREY)
    return figure_png(figure, max_bytes)


def parallel_plot(
    trials: Sequence[FrozenTrial],
    directions: Sequence[str],
    importances: Mapping[str, float] | None = None,
    *,
    max_bytes: int = 60_000,
) -> bytes | None:
    """Draw each trial as a line through its parameters and its values.

    The better half is blue, and the best one is marked. Trials that lack a parameter that is
    drawn are left out.

    Args:
        trials: the trials of a study, in any state.
        directions: `"minimize"` or `"maximize"` for each value; by the first one lines are dark.
        importances: the share of each parameter, by which they are ordered.
        max_bytes: how large the picture may be.
    """
    from matplotlib.collections import LineCollection

    names = _numbered_first(trials, directions, importances, choices=True)[:_AXES]
    complete = [t for t in _complete(trials) if all(name in t.params for name in names)]
    if len(complete) < 3 or len(names) < 2:
        return None
    best = best_first(complete, directions)[:1]
    complete = [*(t for t in _evenly(complete, _MOST_LINES) if t not in best), *best]
    values = np.array([t.values for t in complete], dtype=float)
    columns, ends, labels = [], [], []
    for name in names:
        place, low, high = _height(complete, name)
        columns.append([place(t.params[name]) for t in complete])
        ends.append((low, high))
        labels.append(shorten(name, 14))
    for index, direction in enumerate(directions[:3]):
        shown = Range(values[:, index], direction)
        bottom, top = shown.limits
        scaled = shown.clip(values[:, index])
        if shown.log:
            bottom, top, scaled = math.log(bottom), math.log(top), np.log(scaled)
        columns.append(list((scaled - bottom) / (top - bottom)))
        ends.append(tuple(format_value(end, 3) for end in shown.limits))
        labels.append("value" if len(directions) == 1 else f"value {index}")
    heights = np.array(columns, dtype=float).T
    figure = new_figure(3.1)
    axes = figure.subplots()
    style(axes)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_yticks([])
    across = np.arange(heights.shape[1])
    sign = 1.0 if directions[0] == "minimize" else -1.0
    order = np.argsort(-sign * values[:, 0], kind="stable")  # the better ones on top
    half = len(order) // 2
    for rows, colour, width, alpha in (
        (order[:half], PALE, 0.6, 0.5),
        (order[half:], BLUE, 0.7, 0.45),
        ([len(complete) - 1], ORANGE, 2.2, 1.0),
    ):
        lines = [np.column_stack([across, heights[row]]) for row in rows]
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=width, alpha=alpha, zorder=2)
        )
    for at, (low, high) in zip(across, ends, strict=True):
        axes.vlines(at, 0, 1, color=GREY, linewidth=0.8, zorder=3)
        for height, end, align in ((-0.03, low, "top"), (1.03, high, "bottom")):
            axes.text(
                at, height, end, ha="center", va=align, color=GREY, fontsize=7.5, parse_math=False
            )
    axes.set_xticks(across, labels, parse_math=False)
    axes.tick_params(axis="x", labelcolor=INK, pad=12)
    axes.set_xlim(-0.4, across[-1] + 0.4)
    axes.set_ylim(-0.06, 1.08)
    axes.set_title(
        "a line for each trial: the better half blue, the best one orange",
        loc="left",
        color=GREY,
        fontsize=9,
        pad=14,
    )
    return figure_png(figure, max_bytes)


def contour_plot(
    trials: Sequence[FrozenTrial],
    directions: Sequence[str],
    importances: Mapping[str, float] | None = None,
    *,
    max_bytes: int = 60_000,
) -> bytes | None:
    """Draw the first value over the two numbers that matter most, between the trials' own.

    Args:
        trials: the trials of a study, in any state.
        directions: `"minimize"` or `"maximize"` for each value.
        importances: the share of each parameter, by which they are chosen.
        max_bytes: how large the picture may be.
    """
    from matplotlib.tri import Triangulation

    names = _numbered_first(trials, directions, importances)[:2]
    complete = [t for t in _complete(trials) if all(name in t.params for name in names)]
    complete = [t for t in complete if math.isfinite(t.values[0])]
    if len(names) < 2 or len({tuple(t.params[n] for n in names) for t in complete}) < _LEAST_MAP:
        return None
    complete = _evenly(complete, _MOST_DOTS)
    values = np.array([t.values[0] for t in complete], dtype=float)
    shown = Range(values, directions[0])
    height = shown.clip(values)
    if shown.log:
        height = np.log10(height)
    figure = new_figure(3.9)
    axes = figure.subplots()
    style(axes)
    axes.grid(visible=False)
    places = [
        _placer(axes, complete[-1].distributions[name], [t.params[name] for t in complete], which)
        for name, which in zip(names, "xy", strict=True)
    ]
    x, y = (
        np.array([place(t.params[name]) for t in complete])
        for place, name in zip(places, names, strict=True)
    )
    flat = [
        np.log(at) if axes_log == "log" else at
        for at, axes_log in ((x, axes.get_xscale()), (y, axes.get_yscale()))
    ]
    spread = [at.max() - at.min() for at in flat]
    if not all(spread):
        return None
    try:
        unit = [(at - at.min()) / width for at, width in zip(flat, spread, strict=True)]
        triangles = Triangulation(*unit).triangles
    except (ValueError, RuntimeError):  # all on one line
        return None
    colours = _better_is_darker(directions[0])
    drawn = axes.tricontourf(Triangulation(x, y, triangles), height, levels=12, cmap=colours)
    axes.plot(x, y, "o", color=INK, markersize=2.2, markeredgewidth=0, alpha=0.35)
    best = best_first(complete, directions)[:1]
    axes.plot(
        *([place(t.params[name]) for t in best] for place, name in zip(places, names, strict=True)),
        "o",
        color=ORANGE,
        markeredgecolor="white",
        markeredgewidth=0.8,
        markersize=8,
    )
    for set_label, name in zip((axes.set_xlabel, axes.set_ylabel), names, strict=True):
        set_label(shorten(name, 30), parse_math=False)
    bar = figure.colorbar(drawn, ax=axes, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue] - a collection of the axes
    bar.ax.tick_params(colors=GREY, labelsize=8, length=0)
    bar.ax.yaxis.set_major_formatter(lambda v, _: format_value(10**v if shown.log else v, 3))
    axes.set_title(
        f"value{' 0' if len(directions) > 1 else ''} between the trials (dots): stronger is "
        "better, the best one is orange",
        loc="left",
        color=GREY,
        fontsize=9,
    )
    return figure_png(figure, max_bytes)


def _numbered_first(
    trials: Sequence[FrozenTrial],
    directions: Sequence[str],
    importances: Mapping[str, float] | None,
    *,
    choices: bool = False,
) -> list[str]:
    """The parameters, the most important first; those that most trials have, without constants."""
    complete = _complete(trials)
    counts: dict[str, int] = {}
    for trial in complete:
        for name, distribution in trial.distributions.items():
            if not distribution.single() and (
                choices or isinstance(distribution, (FloatDistribution, IntDistribution))
            ):
                counts[name] = counts.get(name, 0) + 1
    order = list(importances or ())
    there = [name for name, count in counts.items() if 2 * count > len(complete)]
    return sorted(there, key=lambda n: order.index(n) if n in order else len(order))


def _height(trials: Sequence[FrozenTrial], name: str) -> tuple[Callable[[Any], float], str, str]:
    """Return a parameter's values between 0 and 1, and what is at both ends."""
    distribution = trials[-1].distributions[name]
    if not isinstance(distribution, (FloatDistribution, IntDistribution)):
        listed = getattr(distribution, "choices", ())
        choices = list(dict.fromkeys([*listed, *(t.params[name] for t in trials)]))
        last = max(len(choices) - 1, 1)
        texts = [shorten(str(choice), 10) for choice in (choices[0], choices[-1])]
        return (lambda value: choices.index(value) / last), texts[0], texts[1]
    low, high = max(float(distribution.low), -_HUGE), min(float(distribution.high), _HUGE)
    by_log = distribution.log and low > 0

    def scaled(value: Any) -> float:
        at = min(max(float(value), low), high)
        if by_log:
            return math.log(at / low) / math.log(high / low)
        return (at - low) / (high - low)

    return scaled, format_value(low, 3), format_value(high, 3)


def _draw_slice(
    axes: Axes,
    name: str,
    trials: Sequence[FrozenTrial],
    best: Sequence[FrozenTrial],
    index: int,
    shown: Range,
    importances: Mapping[str, float],
) -> None:
    having = [t for t in trials if name in t.params]
    distribution = having[-1].distributions[name]
    place = _placer(axes, distribution, [t.params[name] for t in having])
    x = np.array([place(t.params[name]) for t in having])
    y = shown.clip(np.array([t.values[index] for t in having], dtype=float))
    last = max(t.number for t in having) or 1
    axes.scatter(
        x,
        y,
        c=[t.number / last for t in having],
        cmap=_later_is_darker(),
        vmin=0,
        vmax=1,
        s=10 if len(having) < 300 else 5,
        linewidths=0,
    )
    with_it = [t for t in best if name in t.params]
    axes.plot(
        [place(t.params[name]) for t in with_it],
        shown.clip(np.array([t.values[index] for t in with_it], dtype=float)),
        "o",
        color=ORANGE,
        markeredgecolor="white",
        markeredgewidth=0.8,
        markersize=7 if len(with_it) == 1 else 5,
        clip_on=False,
        zorder=4,
    )
    share = importances.get(name)
    label = shorten(name, 18) + (f" · {100 * share:.0f} %" if share is not None else "")
    axes.set_xlabel(label, parse_math=False)
    axes.xaxis.label.set(color=INK, fontsize=9)


def _placer(
    axes: Axes, distribution: BaseDistribution, values: Sequence[Any], which: str = "x"
) -> Callable[[Any], float]:
    """Set up an axis for a parameter; return a function from values to positions on it."""
    from matplotlib.ticker import MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    set_limits = axes.set_xlim if which == "x" else axes.set_ylim

    if not isinstance(distribution, (FloatDistribution, IntDistribution)):
        listed = getattr(distribution, "choices", ())
        choices = list(dict.fromkeys([*listed, *values]))
        texts = [shorten(str(choice), 8) for choice in choices]
        few = len(choices) <= 6
        axis.set_ticks(
            range(len(choices)) if few else [],
            texts if few else [],
            parse_math=False,
            rotation=30 if few and sum(map(len, texts)) > 14 else 0,
        )
        set_limits(-0.5, len(choices) - 0.5)
        return choices.index
    low, high = max(float(distribution.low), -_HUGE), min(float(distribution.high), _HUGE)
    if distribution.log and low > 0:
        low = max(low, 1 / _HUGE)
        axes.set(**{f"{which}scale": "log"})
        ticks = _log_ticks(low, high)
        axis.set_ticks(ticks, [f"{tick:g}".replace("e-0", "e-") for tick in ticks])
        axis.set_ticks([], minor=True)
        margin = 10 ** (0.04 * math.log10(high / low)) if high > low else 2.0
        set_limits(low / margin, high * margin)
    else:
        whole = isinstance(distribution, IntDistribution)
        axis.set_major_locator(MaxNLocator(nbins=4, integer=whole, steps=[1, 2, 5, 10]))
        margin = 0.04 * (high - low) or 0.04 * abs(low) or 0.5
        set_limits(low - margin, high + margin)
    return lambda value: min(max(float(value), low), high)


def _log_ticks(low: float, high: float) -> list[float]:
    """Three numbers or fewer that are easily said, apart from each other."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**p for p in powers if low <= 10.0**p <= high]
    ticks = tens if len(tens) >= 3 else [k * 10.0**p for p in powers for k in (1, 2, 5)]
    ticks = [number for number in ticks if low <= number <= high]
    return ticks[:: math.ceil(len(ticks) / 3)] if ticks else [low, high]


def _later_is_darker() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    # Fourteen shades: the file is a palette, and the eye sees no more.
    return LinearSegmentedColormap.from_list("later", ["#cfe6f5", "#56B4E9", "#00507d"], N=14)


def _better_is_darker(direction: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    shades = ["#00507d", "#56B4E9", "#eef6fb"]
    return LinearSegmentedColormap.from_list(
        "better", shades if direction == "minimize" else shades[::-1]
    )


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if t.state == TrialState.COMPLETE and is_feasible(t)]


def _evenly(trials: list[FrozenTrial], most: int) -> list[FrozenTrial]:
    if len(trials) <= most:
        return trials
    return [trials[i] for i in np.linspace(0, len(trials) - 1, most).round().astype(int)]


class _Trials(optuna.Study):
    """One of the values of some trials as a study, for Optuna's evaluators; nothing is stored."""

    def __init__(
        self, trials: Sequence[FrozenTrial], directions: Sequence[str], target: int
    ) -> None:
        # Not the constructor of a study, which wants one in a storage.
        self._at_hand = list(trials)
        self._towards = [optuna.study.StudyDirection[directions[target].upper()]]
        if len(directions) > 1:
            self._at_hand = [copy.copy(trial) for trial in trials]
            for trial in self._at_hand:
                trial.values = [trial.values[target]]

    @property
    def directions(self) -> list[optuna.study.StudyDirection]:
        return self._towards

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return self._at_hand


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
        >>> from prefect_optuna.flows.study import StudyStatus
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
