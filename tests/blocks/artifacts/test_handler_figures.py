"""Figures: pictures and pages that are the same whenever they are drawn."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from PIL import Image
from plotly.graph_objects import Figure as PlotlyFigure

from prefect_optuna.blocks import ArtifactLogError
from prefect_optuna.blocks.artifacts import (
    Artifact,
    HTMLArtifact,
    PNGArtifact,
    SVGArtifact,
    decode,
    encode,
    handler_for,
)
from prefect_optuna.errors import CorruptArtifactError

DRAW = """
from matplotlib.figure import Figure
def draw():
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([1, 3, 2], label="hare")
    axes.fill_between([0, 1], [0, 1], hatch="/")
    axes.legend()
    return figure
"""
namespace: dict[str, Any] = {}
exec(DRAW, namespace)
draw = namespace["draw"]


def test_LZ16_a_picture_is_read_as_its_bytes() -> None:
    content = encode(PNGArtifact, draw(), dpi=50)
    assert Image.open(io.BytesIO(content)).size == (150, 100)
    assert decode(PNGArtifact, content) == content
    svg = encode(SVGArtifact, draw())
    assert decode(SVGArtifact, svg) == svg.decode()


@pytest.mark.parametrize("handler", [PNGArtifact, SVGArtifact, HTMLArtifact])
def test_LZ17_figures_are_output_only(handler: type[Artifact]) -> None:
    assert handler.output_only


@pytest.mark.parametrize("handler", [PNGArtifact, SVGArtifact])
def test_LZ7_what_was_read_is_written_as_it_is(handler: type[Artifact]) -> None:
    content = encode(handler, draw())
    assert encode(handler, decode(handler, content)) == content


@pytest.mark.slow
def test_a_picture_and_a_set_have_the_same_bytes_in_every_process() -> None:
    script = DRAW + (
        "import hashlib\n"
        "from prefect_optuna.blocks.artifacts import encode, find_handler\n"
        "words = {f'word {i}' for i in range(20)}\n"
        "for alias, value in (('png', draw()), ('svg', draw()), ('json', words)):\n"
        "    print(hashlib.sha256(encode(find_handler(alias), value)).hexdigest())\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    with contextlib.redirect_stdout(io.StringIO()) as here:
        exec(script, {})
    assert len(run.stdout) == 3 * 65
    assert run.stdout == here.getvalue()


def test_drawing_leaves_the_settings_and_the_figure_as_they_are() -> None:
    figure = draw()
    before = dict(mpl.rcParams), figure.dpi
    encode(SVGArtifact, figure)
    encode(PNGArtifact, figure, dpi=30)
    assert (dict(mpl.rcParams), figure.dpi) == before


def test_a_plotly_figure_is_a_page_that_works_by_itself() -> None:
    figure, again = (PlotlyFigure(data=[{"y": [1, 3]}]) for _ in range(2))
    content = encode(HTMLArtifact, figure)
    assert b"<html>" in content[:100]
    assert not re.search(rb'<script[^>]* src="http', content)
    small = encode(HTMLArtifact, figure, include_plotlyjs="cdn")
    assert len(small) < 20_000 < 1_000_000 < len(content)
    assert small == encode(HTMLArtifact, again, include_plotlyjs="cdn")
    assert decode(HTMLArtifact, small) == small.decode()


@pytest.mark.parametrize(
    ("handler", "value", "says"),
    [
        (PNGArtifact, PlotlyFigure(), "'html'"),
        (SVGArtifact, PlotlyFigure(), "'html'"),
        (HTMLArtifact, Figure(), "'png' or 'svg'"),
        (PNGArtifact, Figure().subplots(), r"Pass its \.figure"),
        (PNGArtifact, b"GIF89a", "found bytes"),
        (SVGArtifact, "no picture", "found str"),
        (HTMLArtifact, "no page", "found str"),
    ],
)
def test_what_is_no_figure_is_refused(handler: type[Artifact], value: Any, says: str) -> None:
    with pytest.raises(ArtifactLogError, match=says):
        encode(handler, value)


def test_figures_have_a_handler() -> None:
    assert handler_for(Figure()) is PNGArtifact
    assert handler_for(PlotlyFigure()) is HTMLArtifact


@pytest.mark.parametrize(
    ("handler", "content"),
    [
        (PNGArtifact, b"\x89PN"),
        (SVGArtifact, b"<svg"),
        (HTMLArtifact, b"<html>"),
        (SVGArtifact, b""),
    ],
)
def test_what_is_no_picture_is_corrupt(handler: type[Artifact], content: bytes) -> None:
    with pytest.raises(CorruptArtifactError, match=f"'{handler.alias}'"):
        decode(handler, content)
