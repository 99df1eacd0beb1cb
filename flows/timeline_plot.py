"""Plot of when each trial ran, and who ran it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import FrozenTrial

from prefect_optuna.flows.plot_style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PALE,
    SKY,
    VERMILION,
    figure_png,
    new_figure,
    style,
)
from prefect_optuna.flows.session import owner_of
from prefect_optuna.flows.wording import format_duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
