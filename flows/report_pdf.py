"""A study's report as a PDF file: what the page has, on paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_optuna.flows.report_page import AGAIN, VERSIONS, Section, page_parts
from prefect_optuna.flows.study_status import StudyStatus
from prefect_optuna.tasks.archive import ArchivedStudy

if TYPE_CHECKING:
    from fpdf import FPDF

_INK, _GREY = (31, 35, 40), (87, 96, 106)
_COLUMNS = 9  # more do not fit beside each other
_LETTERS = 40  # of a text in a table
_TEXT = 20_000  # characters of each long text; a page of paper has some 3,000


def render_pdf(status: StudyStatus, archived: ArchivedStudy | None = None) -> bytes:
    """Write the report of a study as a PDF file.

    Args:
        status: how the study stands.
        archived: its archive, where it has one. Nothing of it is executed.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(study_name="demo")
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=9)
        >>> status = StudyStatus("demo", ("minimize",), study.trials, 9, "completed", 0.2,
        ...                      "memory://", "memory://")
        >>> render_pdf(status)[:5]
        b'%PDF-'
    """
    import matplotlib as mpl
    from fpdf import FPDF
    from fpdf.fonts import TTFFont

    parts = page_parts(status, archived)
    pdf = FPDF(format="A4")
    pdf.set_title(f"{parts['name']}: {parts['headline']}")
    pdf.set_creator(f"prefect-optuna {parts['release']}")
    # With the letters of most languages; the fonts of PDF itself have Western ones alone.
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    for look, file in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
        pdf.add_font("text", look, fonts / file)
    pdf.add_font("code", "", fonts / "DejaVuSansMono.ttf")
    pdf.set_margins(16, 16)
    pdf.set_auto_page_break(True, 16)
    pdf.add_page()
    _write(pdf, parts["name"], 11, colour=_GREY, bold=True)
    _write(pdf, parts["headline"], 22, bold=True)
    _write(pdf, "\n".join(parts["progress"]), 11)
    for note in parts["notes"]:
        _write(pdf, f"Note: {note}", 10)
    for section in parts["sections"]:
        _section(pdf, section, parts)
    _write(pdf, f"prefect-optuna {parts['release']}, {parts['now']} UTC", 8, colour=_GREY)
    content = bytes(pdf.output())
    for font in pdf.fonts.values():
        if isinstance(font, TTFFont):
            font.ttfont.close()  # which fpdf2 leaves open
    return content


def _section(pdf: FPDF, section: Section, parts: dict[str, Any]) -> None:
    pdf.ln(4)
    if pdf.will_page_break(90 if section.pictures else 24):
        pdf.add_page()
    pdf.start_section(section.title)
    _write(pdf, section.title, 14, bold=True)
    pdf.ln(1)
    if section.id == "best":
        _facts(pdf, parts["best"])
    elif section.id == "trials":
        table = parts["table"]
        shown = [i for i, name in enumerate(table["headings"]) if name != "started"][:_COLUMNS]
        headings, *rows = ([row[i] for i in shown] for row in (table["headings"], *table["rows"]))
        _table(pdf, headings, rows)
        if (count := table["count"]) > len(table["rows"]):
            _write(pdf, f"The {len(table['rows'])} best of {count:,} trials.", 8, colour=_GREY)
    elif section.id == "again":
        _table(pdf, AGAIN, parts["again"])
    elif section.id == "archive":
        _facts(pdf, parts["archive"]["facts"])
        _table(pdf, VERSIONS[:6], [row[:6] for row in parts["archive"]["versions"]])
        for number, row in enumerate(parts["archive"]["versions"]):
            _write(pdf, f"Version {number}: code {row[6]}, environment {row[7]}", 7, colour=_GREY)
        for title, text in parts["archive"]["texts"]:
            pdf.ln(2)
            _write(pdf, title, 10, bold=True)
            cut = text if len(text) <= _TEXT else f"{text[:_TEXT]}\n..."
            _write(pdf, cut, 6.5, font="code")
    for picture in section.pictures:
        _picture(pdf, picture)
    for line in section.lines:
        _write(pdf, line, 10)
    if section.code:
        _write(pdf, section.code, 8, font="code")


def _write(
    pdf: FPDF,
    text: str,
    size: float,
    *,
    font: str = "text",
    bold: bool = False,
    colour: tuple[int, int, int] = _INK,
) -> None:
    pdf.set_font(font, "B" if bold else "", size)
    pdf.set_text_color(*colour)
    pdf.multi_cell(0, size * 0.5, text, new_x="LMARGIN", new_y="NEXT", align="L")


def _facts(pdf: FPDF, pairs: Sequence[tuple[str, str]]) -> None:
    for key, value in pairs:
        _write(pdf, f"{key}:  {value}", 9)


def _picture(pdf: FPDF, picture: dict[str, str]) -> None:
    from PIL import Image

    png = base64.b64decode(picture["src"].partition(",")[2])
    with Image.open(io.BytesIO(png)) as image:
        shape = image.height / image.width
    width = min(pdf.epw, 160)
    height = min(width * shape, pdf.eph - 12)
    if pdf.will_page_break(height + 8):
        pdf.add_page()
    pdf.image(io.BytesIO(png), w=width, h=height, keep_aspect_ratio=True, alt_text=picture["alt"])
    _write(pdf, picture["caption"], 8, colour=_GREY)
    pdf.ln(2)


def _table(pdf: FPDF, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    pdf.set_font("text", "", 6.5)
    pdf.set_text_color(*_INK)
    with pdf.table(
        borders_layout="HORIZONTAL_LINES", line_height=3.4, padding=0.6, text_align="RIGHT"
    ) as table:
        for cells in (headings, *rows):
            row = table.row()
            for cell in cells:
                text = str(cell)
                row.cell(text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…")
