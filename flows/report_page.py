"""A study's report as one HTML or PDF file, for people who reach neither server nor storage.

It loads nothing and sends nothing, which its own Content-Security-Policy sees to. Data of the
table is compressed in the page; a browser without scripts shows the best trials.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.metadata
import io
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape
from optuna.trial import FrozenTrial

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.blocks._secrets import place_text
from prefect_optuna.blocks.artifacts.pages import data_uri
from prefect_optuna.blocks.artifacts.trial_log import logged_artifacts
from prefect_optuna.blocks.study_summary import best_first
from prefect_optuna.blocks.texts import visible, visible_line
from prefect_optuna.flows.gallery import PICTURES, draw_gallery, spread
from prefect_optuna.flows.plots import series_plot
from prefect_optuna.flows.reevaluate_flow import drift_plot
from prefect_optuna.flows.report import (
    headline_of,
    last_day,
    loading_code,
    progress_of,
    standing_of,
)
from prefect_optuna.flows.study import StudyStatus
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.archive import ArchivedStudy
from prefect_optuna.tasks.archive.record.manifest import RESULT_KEY, SCOPE_KEY, is_of_the_archive
from prefect_optuna.tasks.archive.record.trial_records import trial_columns
from prefect_optuna.tasks.archive.series.series_table import series_keys
from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation, as_tuple

if TYPE_CHECKING:
    from fpdf import FPDF

_STATIC_ROWS = 50
AGAIN = ("when (UTC)", "trial", "archived", "now", "difference", "verdict", "cause")
VERSIONS = (
    "version",
    "from trial",
    "archived (UTC)",
    "Python",
    "platform",
    "sampler",
    "SHA-256 of the code",
    "SHA-256 of the environment",
)
"""The headings of a page's tables of re-evaluations and of versions."""

_CELL = 80  # characters of a text; and as many columns
_PAGE_BYTES = 2_000_000
_REST_BYTES = 100_000  # of the page, beside pictures, long texts and the data of the table
_TEXT = 200_000  # characters of source; a page is for reading
_SAMPLE = 2_000  # trials, by which is told how large all of them are
_REEVALUATIONS = 20
_READING_SECONDS = 5.0

_CAPTIONS = {
    "pareto": "Each dot is a trial. No trial is better in both values than one on the line.",
    "history": "Each dot is a trial; the line is the best value so far. Few values that are far "
    "worse are at the edge.",
    "importances": "By PED-ANOVA, over at most a thousand trials.",
    "slices": "Later trials are stronger in colour.",
    "parallel": "Parameters and values from their lowest to their highest; the best half is blue.",
    "contour": "Between trials, the value is interpolated; outside of them, nothing is drawn.",
    "timeline": "A bar for each trial, a row for each that runs at the same time.",
}


@dataclass
class Section:
    """A part of a page: its heading, and what is below it."""

    id: str
    title: str
    pictures: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    lines: list[str] = field(default_factory=list[str])
    code: str = ""


def render_page(status: StudyStatus, archived: ArchivedStudy | None = None) -> str:
    """Write the report of a study as one HTML page.

    Args:
        status: how the study stands.
        archived: its archive, where it has one. Nothing of it is executed.

    Returns:
        The page. It takes at most 2 MB for 10,000 trials: numbers of more, or of many parameters,
        are rounded to six digits, and then the worst trials are left out, which the page says.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(study_name="demo")
        >>> study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=9)
        >>> status = StudyStatus("demo", ("minimize",), study.trials, 9, "completed", 0.2,
        ...                      "memory://", "memory://")
        >>> render_page(status).startswith("<!doctype html>")
        True
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    css, script = (
        (here / f"report_page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
    )
    environment = Environment(
        loader=FileSystemLoader(here, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = page_parts(status, archived)
    if status.trials:
        parts["table"] |= _all_trials(status, room=_PAGE_BYTES - _REST_BYTES - _size(parts))
    return environment.get_template("report_page.html.jinja").render(
        parts,
        # Nothing but what is in the file, and of scripts only this one.
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_source(css)}; script-src {_source(script)}",
        css=Markup(css),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
    )


def _size(parts: Mapping[str, Any]) -> int:
    """Return the number of bytes that pictures and long texts take on a page."""
    pictures = sum(len(image["src"]) for section in parts["sections"] for image in section.pictures)
    texts = parts["archive"]["texts"] if parts["archive"] else ()
    return pictures + sum(len(escape(text).encode()) for _, text in texts)


def page_parts(status: StudyStatus, archived: ArchivedStudy | None) -> dict[str, Any]:
    """Return what a page shows, by the names that the template has for it; all of it is text."""
    ranked = best_first(status.trials, status.directions)
    reevaluations = archived.reevaluations(last=_REEVALUATIONS) if archived else []
    single = ranked and len(status.directions) == 1
    best_is = f"Trial {ranked[0].number} ({standing_of(status, ranked)})" if single else ""
    return {
        "name": visible_line(status.study_name),
        "headline": headline_of(status, ranked),
        "progress": [line for line in (progress_of(status), best_is, last_day(status)) if line],
        "notes": [visible_line(note) for note in status.notes],
        "sections": _sections(status, ranked, archived, reevaluations),
        "best": _best(status, ranked),
        "table": _table(status) if status.trials else None,
        "headings_again": AGAIN,
        "headings_versions": VERSIONS,
        "again": [row for past in reversed(reevaluations) for row in _again(past)],
        "archive": _archive(archived, status) if archived else None,
        "release": importlib.metadata.version("prefect-optuna"),
        "now": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
    }


def _sections(
    status: StudyStatus,
    ranked: Sequence[FrozenTrial],
    archived: ArchivedStudy | None,
    reevaluations: Sequence[Reevaluation],
) -> list[Section]:
    pictures = _pictures(status)
    best = Section("best", "The best trial" if len(status.directions) == 1 else "Best trials")
    if status.best_figure and ranked:
        best.pictures.append(
            _picture(status.best_figure, f"Trial {ranked[0].number}, the best one", "")
        )
    if archived and ranked and (series := _series(archived, status, ranked[0])):
        best.pictures.append(
            _picture(
                series,
                f"Series of trial {ranked[0].number} among those of others",
                "The line is the best trial.",
                "drawn",
            )
        )
    groups = {
        "course": ("How the search went", ("pareto", "history")),
        "parameters": ("What matters", ("importances", "slices", "parallel", "contour")),
        "timeline": ("Who ran what", ("timeline",)),
    }
    again = Section("again", "Re-evaluations")
    if len(reevaluations) > 1:
        again.pictures.append(
            _picture(
                drift_plot(reevaluations),
                "How far trials were from their archived values, each time that they ran again",
                "A cross is where a trial was not reproduced.",
                "drawn",
            )
        )
    drawn = {
        key: Section(key, title, [pictures[name] for name in names if name in pictures])
        for key, (title, names) in groups.items()
    }
    sections = [
        best if ranked else None,
        drawn["course"],
        drawn["parameters"],
        Section("trials", "Trials") if status.trials else None,
        drawn["timeline"],
        again if reevaluations else None,
        Section("archive", "Archive") if archived else None,
        Section(
            "load",
            "Load it",
            code=loading_code(status),
            lines=[
                visible_line(
                    f"The study is in {place_text(status.storage)}, its archive in "
                    f"{place_text(status.artifacts)}."
                )
            ],
        ),
    ]
    return [one for one in sections if one and (one.pictures or one.id not in groups)]


def _pictures(status: StudyStatus) -> dict[str, dict[str, str]]:
    return {
        name: _picture(png, PICTURES[name], _CAPTIONS[name], "drawn")
        for name, png in draw_gallery(status, for_page=True).pictures.items()
    }


def _picture(png: bytes, alt: str, caption: str, kind: str = "given") -> dict[str, str]:
    return {"src": data_uri(png), "alt": alt, "caption": caption or alt, "kind": kind}


def _series(archived: ArchivedStudy, status: StudyStatus, best: FrozenTrial) -> bytes | None:
    """The best trial's series among those of others, as far as they are read in time."""
    end = time.monotonic() + _READING_SECONDS
    try:
        result = archived.result_of(best)
        others = [
            archived.result_of(trial) for trial in spread(status.trials) if time.monotonic() < end
        ]
        return series_plot(result, archived.axes, others=others)
    except PrefectOptunaError:  # it has no result, or a part of the archive is gone
        return None


def _best(status: StudyStatus, ranked: Sequence[FrozenTrial]) -> list[tuple[str, str]]:
    if len(status.directions) > 1:
        return [
            (
                f"value {index} ({direction})",
                " to ".join(
                    format_value(end(trial.values[index] for trial in ranked)) for end in (min, max)
                ),
            )
            for index, direction in enumerate(status.directions)
            if ranked
        ]
    if not ranked:
        return []
    best = ranked[0]
    read = best.user_attrs.get(SCOPE_KEY)
    facts = {"trial": best.number, **best.params}
    facts |= {f"scope: {k}": v for k, v in read.items()} if isinstance(read, Mapping) else {}
    if names := logged_artifacts(best):
        facts["logged"] = ", ".join(names)
    return [(visible_line(k), visible_line(format_value(v))) for k, v in facts.items()]


def _table(status: StudyStatus) -> dict[str, Any]:
    """The best trials as rows."""
    columns = _columns(_best_first(status)[:_STATIC_ROWS], rounded=False)
    rows = [[_shown(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
    return {"headings": list(columns), "rows": rows, "count": len(status.trials)}


def _best_first(status: StudyStatus) -> list[FrozenTrial]:
    ranked = best_first(status.trials, status.directions)
    leading = {trial.number for trial in ranked}
    return [*ranked, *(trial for trial in status.trials if trial.number not in leading)]


def _all_trials(status: StudyStatus, room: int) -> dict[str, Any]:
    """Return the trials for the page's script, within a size limit, and what was left out."""
    trials, notes = _best_first(status), []
    if (more := len(_all_columns(trials[:_SAMPLE])) - _CELL) > 0:
        notes.append(f"{more} columns did not fit into this page.")
    rounded = _size_of(trials, rounded=False) > room
    if rounded:
        notes.append("Numbers are rounded to six digits. `prefect-optuna trials` has all of them.")
    size = _size_of(trials, rounded=rounded)
    kept = trials if size <= room else trials[: int(len(trials) * room / size)]
    if len(kept) < len(trials):
        notes.append(
            f"The other {len(trials) - len(kept):,} trials did not fit into this page; the best "
            "are here."
        )
    return {"data": _packed(_columns(kept, rounded=rounded)), "notes": notes}


def _size_of(trials: Sequence[FrozenTrial], *, rounded: bool) -> float:
    """About how many bytes the trials take, a little more rather than less."""
    sample = trials[:_SAMPLE]
    return 1.03 * len(_packed(_columns(sample, rounded=rounded))) * len(trials) / len(sample)


def _all_columns(trials: Sequence[FrozenTrial]) -> dict[str, list[Any]]:
    ours = {f"user.{key}" for t in trials for key in t.user_attrs if is_of_the_archive(key)}
    return {n: c for n, c in trial_columns(trials).items() if n not in ours | {"completed"}}


def _columns(trials: Sequence[FrozenTrial], *, rounded: bool) -> dict[str, list[Any]]:
    columns = dict(list(_all_columns(trials).items())[:_CELL])
    results = [trial.user_attrs.get(RESULT_KEY) for trial in trials]
    digests = [result.get("sha256") if isinstance(result, Mapping) else None for result in results]
    if any(isinstance(digest, str) for digest in digests):
        columns["SHA-256 of the result"] = [d[:16] if isinstance(d, str) else None for d in digests]
    return {
        visible_line(name): [_cell(value, rounded=rounded) for value in column]
        for name, column in columns.items()
    }


def _cell(value: Any, *, rounded: bool) -> Any:
    """A cell as JSON has it: no NaN, no long text, nothing that cannot be seen."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return float(f"{value:.6g}") if rounded else value
    if value is None or isinstance(value, (bool, int)):
        return value if not isinstance(value, bool) else str(value).lower()
    if isinstance(value, datetime):
        return value.isoformat(" ", timespec="seconds")
    text = visible_line(str(value))
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _shown(cell: Any) -> str:
    return "" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def _packed(columns: Mapping[str, Sequence[Any]]) -> str:
    document = {"headings": list(columns), "columns": list(columns.values())}
    text = json.dumps(document, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def _again(result: Reevaluation) -> Iterable[list[str]]:
    when = result.created[:16].replace("T", " ")
    for trial in result.trials:
        archived = "none" if trial.archived is None else _numbers(as_tuple(trial.archived))
        yield [
            when,
            str(trial.number),
            archived,
            _numbers(trial.mean),
            "" if trial.difference is None else f"{trial.difference:.3g}",
            trial.verdict,
            visible_line(trial.cause or trial.message),
        ]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(map(format_value, values))


def _archive(archived: ArchivedStudy, status: StudyStatus) -> dict[str, Any]:
    summary = status.summary
    part = status.trials if summary and summary.n_trials > len(status.trials) else None
    newest = archived.environment
    git = newest.git
    facts = {
        "signatures": str(archived.signatures),
        "Python": f"{newest.implementation} {newest.python}",
        "platform": newest.platform,
        "git": f"{git.commit[:12]} {git.branch}{' with changes' if git.dirty else ''}"
        if git
        else "",
        "packages": len(newest.distributions),
        "series": ", ".join(series_keys(archived.study, status.trials)),
        "study": str(archived.manifest.uuid),
    }
    versions = []
    for number, version in enumerate(archived.versions):
        ran = archived.environment_of(number)
        versions.append(
            [
                number,
                version.first_trial,
                version.created[:16].replace("T", " "),
                ran.python,
                ran.platform,
                visible_line(ran.sampler or ""),
                version.code_version,
                version.environment,
            ]
        )
    texts = [
        ("What is in the archive, and all that would run", archived.describe(part)),
        ("Source of the newest version", archived.source()),
        ("Packages of the newest version", archived.requirements()),
    ]
    return {
        "facts": [(key, visible_line(str(value))) for key, value in facts.items() if value],
        "versions": versions,
        "texts": [(title, _readable(text)) for title, text in texts if text.strip()],
    }


def _readable(text: str) -> str:
    cut = text if len(text) <= _TEXT else text[:_TEXT] + "\n... (`prefect-optuna show` has all)"
    return visible(cut)


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return f"'sha256-{digest}'"


# A study's report as a PDF file: what the page has, on paper.


_INK, _GREY = (31, 35, 40), (87, 96, 106)
_COLUMNS = 9  # more do not fit beside each other
_LETTERS = 40  # of a text in a table
_PAPER_TEXT = 20_000  # characters of each long text; a page of paper has some 3,000


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
        _draw_table(pdf, headings, rows)
        if (count := table["count"]) > len(table["rows"]):
            _write(pdf, f"The {len(table['rows'])} best of {count:,} trials.", 8, colour=_GREY)
    elif section.id == "again":
        _draw_table(pdf, AGAIN, parts["again"])
    elif section.id == "archive":
        _facts(pdf, parts["archive"]["facts"])
        _draw_table(pdf, VERSIONS[:6], [row[:6] for row in parts["archive"]["versions"]])
        for number, row in enumerate(parts["archive"]["versions"]):
            _write(pdf, f"Version {number}: code {row[6]}, environment {row[7]}", 7, colour=_GREY)
        for title, text in parts["archive"]["texts"]:
            pdf.ln(2)
            _write(pdf, title, 10, bold=True)
            cut = text if len(text) <= _PAPER_TEXT else f"{text[:_PAPER_TEXT]}\n..."
            _write(pdf, cut, 6.5, font="code")
    for picture in section.pictures:
        _draw_picture(pdf, picture)
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


def _draw_picture(pdf: FPDF, picture: dict[str, str]) -> None:
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


def _draw_table(pdf: FPDF, headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
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
