"""The pictures of a report and their style: small, plain, and cheap to draw while a study runs."""

from __future__ import annotations

import io
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks.study_summary import best_first, is_feasible
from prefect_optuna.flows.session import is_lost, owner_of
from prefect_optuna.flows.wording import format_duration, format_value, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from PIL import Image

# The style of a report's pictures: colours, axes, and small files.
#
# Everything is drawn on Matplotlib's `Figure` objects. Pyplot keeps global state, is not safe in
# threads, and may open windows. Matplotlib is imported when the first picture is drawn.


# The colours of Okabe and Ito, which people tell apart whatever colours they see.
BLUE, SKY, ORANGE, VERMILION, GREEN, PURPLE = (
    "#0072B2",
    "#56B4E9",
    "#E69F00",
    "#D55E00",
    "#009E73",
    "#CC79A7",
)
INK, GREY, PALE = "#24292f", "#6e7781", "#afb8c1"
_HUGE = 1e100  # larger numbers are shown as infinite ones are; arithmetic on them overflows
_WIDTH = 7.0  # inches
_MAX_PIXELS = 1400  # across: sharp where a page shows 700 px on a display of double density


def figure_png(figure: Figure, max_bytes: int = 100_000) -> bytes:
    """Turn a Matplotlib figure into a PNG picture of limited size.

    Args:
        figure: any figure; it is drawn and not changed.
        max_bytes: the limit. The resolution is lowered until the picture fits.

    Raises:
        ValueError: `max_bytes` is too small for any picture of this figure.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> _ = figure.subplots().plot([1, 2, 3])
        >>> len(figure_png(figure, max_bytes=5_000)) <= 5_000
        True
    """
    dpi = min(200.0, _MAX_PIXELS / figure.get_figwidth())
    layout = figure.get_layout_engine()
    try:
        while dpi >= 5:
            png = _palette_png(_draw(figure, dpi))
            if len(png) <= max_bytes:
                return png
            if layout is not None:
                figure.set_layout_engine("none")  # all is in its place, in any resolution
            # Files of plots grow with the resolution to the power of 1.2 or more.
            dpi *= min(0.9, max(0.4, (0.97 * max_bytes / len(png)) ** 0.85))
    finally:
        if layout is not None:
            figure.set_layout_engine(layout)
    raise ValueError(
        f"expected a limit that a picture can keep, found max_bytes={max_bytes}. "
        "Some 20,000 bytes do for most figures."
    )


def thumbnail(picture: bytes, width: int = 280, max_bytes: int = 10_000) -> bytes:
    """Make a small copy of a PNG picture, for a card.

    Args:
        picture: a PNG picture.
        width: of the copy, in pixels; a picture that is smaller is not enlarged.
        max_bytes: the limit, kept by making the copy smaller still.
    """
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        full = image.convert("RGBA")
    while True:
        size = (width, max(1, round(full.height * width / full.width)))
        small = full.resize(size, Image.Resampling.LANCZOS) if width < full.width else full
        png = _palette_png(small, colours=64)
        if len(png) <= max_bytes or width <= 16:
            return png
        width = int(min(width, full.width) * 0.8)


def _draw(figure: Figure, dpi: float) -> Image.Image:
    """Draw as `figure.savefig` does, in two thirds of the time: no second pass, no file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas_before, dpi_before = figure.canvas, figure.dpi
    canvas = FigureCanvasAgg(figure)  # first, so that no window is resized
    try:
        figure.dpi = dpi
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba()))
    finally:
        figure.dpi = dpi_before
        figure.set_canvas(canvas_before)


def _palette_png(image: Image.Image, colours: int = 128) -> bytes:
    """Plots have few colours: a palette makes the file a third as large."""
    from PIL import Image

    if image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    palette = image.quantize(colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def new_figure(height: float) -> Figure:
    """An empty figure, as wide as all are."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), facecolor="white", layout="constrained")


def style(axes: Axes) -> None:
    """Give a panel the look of all: a pale grid, and no frame."""
    axes.set_facecolor("white")
    axes.grid(color="#d0d7de", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PALE)
    axes.tick_params(colors=GREY, labelsize=8.5, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=GREY, fontsize=9)


def add_legend(axes: Axes) -> None:
    """Say which mark is what, in one line at the lower right."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    unique = dict(zip(labels, handles, strict=True))
    legend = axes.legend(
        unique.values(),
        unique.keys(),
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(unique),
        frameon=False,
        fontsize=8.5,
        labelcolor=GREY,
        handletextpad=0.3,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
    for handle in legend.legend_handles:
        # Every handle here is a line.
        cast("Line2D", handle).set(
            markersize=5, alpha=1
        )  # as large as can be told apart, however small the dots


class Range:
    """The part of an axis that is worth showing, and how values outside of it are shown."""

    def __init__(
        self, values: np.ndarray, direction: str, keep: np.ndarray | tuple[()] = ()
    ) -> None:
        self.log: bool = False
        self.limits: tuple[float, float] = (-0.05, 1.05)
        sign = 1.0 if direction == "minimize" else -1.0
        losses = np.sort(sign * values[np.abs(values) < _HUGE])
        if not len(losses):
            return
        best, worst = float(losses[0]), float(losses[-1])
        usual = float(losses[int(0.9 * (len(losses) - 1))])
        kept = sign * np.asarray(keep, dtype=float)
        usual = max([usual, *kept[np.abs(kept) < _HUGE].tolist()])
        # Losses over several decades are told apart on a logarithmic axis only. Where more is
        # better, the interesting end is the large one, and a linear axis does.
        if sign > 0 and best > 1 / _HUGE and usual / best > 100:
            self.log = True
            self.limits = best / (worst / best) ** 0.05, worst * 1.2
            return
        if worst - best > 2.5 * (usual - best) > 0:
            worst = best + 1.3 * (usual - best)
        margin = 0.06 * (worst - best) or 0.05 * abs(best) or 0.05
        ends = sign * (best - margin), sign * (worst + margin)
        self.limits = min(ends), max(ends)

    def clip(self, values: np.ndarray) -> np.ndarray:
        """The values, with those outside put on the edge."""
        return np.clip(values, *self.limits)


def scale(axes: Axes, name: str, shown: Range) -> None:
    """Show a range on an axis."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    if shown.log:
        axes.set(**{f"{name}scale": "log"})
        axis = getattr(axes, f"{name}axis")
        axis.set_minor_locator(NullLocator())
        # Plain digits: setting powers of ten as formulas takes longer than all the rest.
        axis.set_major_formatter(FuncFormatter(_plain_digits))
    axes.set(**{f"{name}lim": shown.limits})


def _plain_digits(value: float, _position: int) -> str:
    return f"{value:g}"


def whole_numbers(axes: Axes) -> None:
    """Have only whole numbers on an axis: there is no trial 2.5."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, steps=[1, 2, 5, 10]))


# Plot of when each trial ran, and who ran it.


_MOST_LANES = 24
_MOST_BARS = 3000
_LONG_GAP = 0.1  # of the time in which trials ran: a longer pause is drawn shorter
_LEAST_GAP = 10.0  # seconds; less is no pause
_COLOURS = {
    "COMPLETE": (SKY, "complete"),
    "PRUNED": (PALE, "pruned"),
    "FAIL": (VERMILION, "failed"),
    "RUNNING": (GREEN, "running"),
    "best": (BLUE, "the best one"),
}


@dataclass
class _Lane:
    """Trials that ran one after the other."""

    end: float = -float("inf")
    bars: list[tuple[float, float, FrozenTrial]] = field(default_factory=list)


def timeline_plot(
    trials: Sequence[FrozenTrial],
    *,
    best: int | None = None,
    now: float | None = None,
    max_bytes: int = 30_000,
) -> bytes | None:
    """Draw when the trials ran, a lane for each worker and each trial it ran at a time.

    A pause of the study is drawn short, with its length beside it.

    Args:
        trials: the trials of a study, in any state.
        best: the number of the best one, which is marked.
        now: when those that run have come to, in seconds of Unix time; by default they are as
            long as they have been when the last one ended.
        max_bytes: how large the picture may be.
    """
    spans = _spans(trials, now)
    if len(spans) < 2:
        return None
    workers = _lanes(spans)
    lanes = [(name, lane) for name, own in workers.items() for lane in own]
    hidden = max(0, len(lanes) - _MOST_LANES)
    lanes = lanes[:_MOST_LANES]
    clock = _Clock([(start, end) for start, end, _ in spans])
    figure = new_figure(0.75 + max(0.5, min(0.34, 3.4 / len(lanes)) * len(lanes)))
    axes = figure.subplots()
    style(axes)
    axes.grid(axis="y", visible=False)
    _draw_bars(axes, lanes, clock, best)
    _label_lanes(axes, workers, lanes)
    for place, seconds in clock.pauses:
        axes.axvline(place, color=GREY, linewidth=0.8, linestyle=(0, (3, 3)))
        axes.annotate(
            f"pause {format_duration(seconds)}",
            (place, -0.5),
            xytext=(2, 2),
            textcoords="offset points",
            color=GREY,
            fontsize=7.5,
            annotation_clip=False,
        )
    title = f"{100 * _busy(workers, clock):.0f} % busy"
    if len(workers) > 1:
        title = f"{len(workers)} workers, {title}"
    if hidden:
        title += f", {hidden} more lanes left out"
    axes.set_title(title, loc="left", color=GREY, fontsize=9, pad=14 if clock.pauses else 6)
    unit, seconds = next(u for u in _UNITS if clock.length >= 3 * u[1] or u[1] <= 1e-3)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / seconds:g}")
    from matplotlib.ticker import MultipleLocator

    axes.xaxis.set_major_locator(MultipleLocator(_step(clock.length / seconds) * seconds))
    axes.set_xlabel(f"{unit} since the first trial" + (", without pauses" if clock.pauses else ""))
    axes.set_xlim(0, clock.length * 1.005)
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    return figure_png(figure, max_bytes)


_UNITS = (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0), ("ms", 1e-3))


def _step(length: float) -> float:
    """The distance between ticks: 1, 2 or 5 times a power of ten, some six of them."""
    size = 10.0 ** np.floor(np.log10(max(length, 1e-9) / 6))
    return next(float(size * k) for k in (1, 2, 5, 10) if size * k * 8 >= length)


def _spans(
    trials: Sequence[FrozenTrial], now: float | None
) -> list[tuple[float, float, FrozenTrial]]:
    started = [(t.datetime_start, t) for t in trials if t.datetime_start is not None]
    ends = [t.datetime_complete.timestamp() for _, t in started if t.datetime_complete]
    if now is not None:
        ends.append(now)
    if not ends:
        return []
    last = max(ends)
    spans: list[tuple[float, float, FrozenTrial]] = []
    for begun, trial in started:
        start = begun.timestamp()
        end = trial.datetime_complete.timestamp() if trial.datetime_complete else last
        spans.append((start, max(end, start), trial))
    return sorted(spans, key=lambda span: span[:2])


def _lanes(spans: Sequence[tuple[float, float, FrozenTrial]]) -> dict[str, list[_Lane]]:
    """The lanes of each worker: a trial goes into the first one that is free."""
    workers: dict[str, list[_Lane]] = {}
    for start, end, trial in spans:
        own = workers.setdefault(owner_of(trial) or "", [])
        # Clocks show milliseconds, and the next trial may seem to start a moment too early.
        lane = next((lane for lane in own if lane.end <= start + 1e-3), None)
        if lane is None:
            own.append(lane := _Lane())
        lane.bars.append((start, end, trial))
        lane.end = end
    return workers


class _Clock:
    """Time as the picture shows it: from the first trial on, with long pauses shortened."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        starts, ends = np.array(spans, dtype=float).T
        covered = np.maximum.accumulate(ends)
        gaps = np.maximum(starts[1:] - covered[:-1], 0)
        self.busy = max(float(covered[-1] - starts[0] - gaps.sum()), 1e-6)
        long = gaps > max(_LONG_GAP * self.busy, _LEAST_GAP)
        shown = np.where(long, _LONG_GAP / 3 * self.busy, gaps)
        where = np.nonzero(long)[0]
        self._from = np.concatenate([[starts[0]], starts[1:][where]])
        self._cut = np.concatenate([[0.0], np.cumsum((gaps - shown)[where])])
        self.length = max(float(covered[-1] - starts[0] - self._cut[-1]), 1e-6)
        self.pauses: list[tuple[float, float]] = [
            (self(float(starts[1:][i])) - float(shown[i]) / 2, float(gaps[i])) for i in where
        ][:8]

    def __call__(self, time: float) -> float:
        """Return the position of a moment on the axis, in seconds."""
        index = int(np.searchsorted(self._from, time, side="right")) - 1
        return time - float(self._from[0]) - float(self._cut[max(index, 0)])


def _busy(workers: Mapping[str, list[_Lane]], clock: _Clock) -> float:
    """The share of the time in which a worker was there that its lanes had a trial."""
    there = ran = 0.0
    for lanes in workers.values():
        bars = [bar for lane in lanes for bar in lane.bars]
        first, last = min(bar[0] for bar in bars), max(bar[1] for bar in bars)
        there += len(lanes) * (clock(last) - clock(first))
        ran += sum(end - start for start, end, _ in bars)
    return min(ran / there, 1.0) if there else 1.0


def _draw_bars(
    axes: Axes, lanes: Sequence[tuple[str, _Lane]], clock: _Clock, best: int | None
) -> None:
    from matplotlib.collections import PolyCollection

    shapes: dict[str, list[list[tuple[float, float]]]] = {}
    total = sum(len(lane.bars) for _, lane in lanes)
    every = max(1, total // _MOST_BARS)
    least = clock.length / 700  # a pixel or two
    for row, (_, lane) in enumerate(lanes):
        for start, end, trial in lane.bars[::every]:
            left, right = clock(start), clock(end)
            right = max(right, left + least)
            kind = "best" if trial.number == best else trial.state.name
            low, high = row - 0.36, row + 0.36
            box = [(left, low), (right, low), (right, high), (left, high)]
            shapes.setdefault(kind, []).append(box)
    # Where bars are narrow, white edges would hide them.
    edge = 0.6 if total < 150 else 0.0
    for kind, boxes in shapes.items():
        colour, label = _COLOURS[kind]
        axes.add_collection(
            PolyCollection(
                boxes, facecolors=colour, edgecolors="white", linewidths=edge, label=label
            )
        )
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1, 1),
        ncols=len(shapes),
        frameon=False,
        fontsize=8.5,
        labelcolor=GREY,
        handlelength=1,
        handleheight=0.9,
        handletextpad=0.4,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def _label_lanes(
    axes: Axes, workers: Mapping[str, list[_Lane]], lanes: Sequence[tuple[str, _Lane]]
) -> None:
    numbers = {name: number for number, name in enumerate(workers, start=1)}
    rows: dict[str, list[int]] = {}
    for row, (name, _) in enumerate(lanes):
        rows.setdefault(name, []).append(row)
    if len(rows) == 1:
        axes.set_yticks([])
        return
    axes.set_yticks(
        [float(np.mean(own)) for own in rows.values()],
        [f"worker {numbers[name]}" if name else "others" for name in rows],
    )
    axes.tick_params(axis="y", labelcolor=INK)
    for own in list(rows.values())[1:]:
        axes.axhline(own[0] - 0.5, color=PALE, linewidth=0.6)


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
