"""The style of a report's pictures: colours, axes, and small files.

Everything is drawn on Matplotlib's `Figure` objects. Pyplot keeps global state, is not safe in
threads, and may open windows. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from PIL import Image

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
    while dpi >= 5:
        png = _palette_png(_draw(figure, dpi))
        if len(png) <= max_bytes:
            return png
        dpi *= min(0.8, math.sqrt(max_bytes / len(png)))
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
