"""The look of an artifact in Prefect's UI: a page of Markdown, with a card in the list.

Tables are shown as tables, figures as pictures, text as text, and everything else by what it is
and how to load it. A page is small whatever the artifact is, because Prefect's list of artifacts
loads all of them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import logging
import math
import numbers
import re
import reprlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate
from prefect.logging import get_logger
from prefect.utilities.context import get_task_and_flow_run_ids
from slugify import slugify

from prefect_optuna.blocks._secrets import without_secrets
from prefect_optuna.blocks.artifacts.artifact import Artifact, encode, type_name
from prefect_optuna.blocks.artifacts.registry import find_handler, handler_for
from prefect_optuna.blocks.artifacts.table_artifacts import table_library
from prefect_optuna.blocks.settings import quick_client
from prefect_optuna.blocks.texts import one_line, visible

if TYPE_CHECKING:
    from PIL.Image import Image

    _Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]

# Text of the user's in Markdown: as text, never as markup.


def escape(text: str) -> str:
    r"""Text that looks as it is in Markdown, also in a table, in one line.

    Example:
        >>> escape("a|b <i> *c*")
        'a\\|b &lt;i&gt; \\*c\\*'
    """
    text = visible(text).replace("\n", " ")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$:-])", r"\\\1", text)


def code(text: str) -> str:
    """Format one line of text as code that can be copied.

    Example:
        >>> code("a`b"), code("a")
        ('`` a`b ``', '`a`')
    """
    text = visible(text).replace("\n", " ")
    fence = "`" * (1 + _longest_run("`", text))
    return f"{fence} {text} {fence}" if "`" in text else f"`{text or ' '}`"


def fenced(text: str, language: str = "") -> str:
    r"""Text of many lines as it is, between lines that do not appear in it.

    Example:
        >>> fenced("x = 1", "python")
        '```python\nx = 1\n```'
    """
    fence = "`" * max(3, 1 + _longest_run("`", text))
    lines = visible(text.replace("\r\n", "\n"))
    return f"{fence}{language}\n{lines}\n{fence}"


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A picture as an address that needs no server.

    Example:
        >>> data_uri(b"abc")
        'data:image/png;base64,YWJj'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _longest_run(letter: str, text: str) -> int:
    return max((len(run) for run in re.findall(f"{letter}+", text)), default=0)


_logger = get_logger(__name__)

_MAX_URI = 100_000  # characters of a picture in the page
_MAX_THUMBNAIL = 14_000  # characters of one in a card
_MAX_TEXT = 4_000  # characters
_ROWS = 20
_TABLE_LETTERS = 76  # what fits beside the page's margin on a common screen
_CELL_LETTERS = 24
_LANGUAGES = {"json": "json", "md": "markdown", "yaml": "yaml"}
_PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class ArtifactPage(NamedTuple):
    """An artifact, as Prefect's UI shows it.

    Attributes:
        markdown: the page.
        description: the text of its card in a list of artifacts.
    """

    markdown: str
    description: str


def artifact_key(study: str | None, name: str) -> str:
    """The key of an artifact among Prefect's, under which its versions form a timeline.

    Two artifacts never share one, and none has the key of a study's report: where a name has to
    be changed to fit Prefect's rule for keys, a hash of both names is appended.

    Args:
        study: the study that the artifact belongs to, if any.
        name: the artifact.

    Example:
        >>> artifact_key("lynx-hare", "best-params")
        'study-lynx-hare--best-params'
        >>> artifact_key("lynx-hare", "Best params")
        'study-lynx-hare--best-params--bf662f11'
    """
    names = [name] if study is None else [study, name]
    key = "--".join(slugify(part, max_length=60) or "x" for part in names)
    # A name like a hash could be the hash in the key of a report.
    plain = all(_PLAIN.fullmatch(part) and len(part) <= 60 for part in names)
    if not plain or re.fullmatch("[0-9a-f]{8}", name):
        key += "--" + hashlib.sha256(json.dumps(names).encode()).hexdigest()[:8]
    return ("artifact-" if study is None else "study-") + key


def artifact_markdown(
    name: str,
    value: Any,
    handler: type[Artifact] | str | None = None,
    *,
    content: bytes | None = None,
    version: int | None = None,
    trial: int | None = None,
    location: str = "",
    size: int | None = None,
    sha256: str | None = None,
    load_hint: str = "",
) -> ArtifactPage:
    r"""Write the page of an artifact.

    Args:
        name: what the artifact is called.
        value: the value.
        handler: who writes it, as a class or an alias; by default the one for such values.
        content: the content of its file; by default it is written once more.
        version: its number.
        trial: the number of the trial that has logged it, if one has.
        location: where its file is, for people. Secrets in a URL are left out.
        size: bytes of the file; by default those of `content`.
        sha256: the checksum of the file; by default that of `content`.
        load_hint: Python code that loads it. Secrets in URLs are left out.

    Returns:
        The page, of less than 150 KB, and the card.

    Raises:
        UnknownHandlerError: there is no such handler.
        ArtifactLogError: the handler cannot write the value.

    Example:
        >>> page = artifact_markdown("best params", {"x": 0.5}, version=3).markdown
        >>> print(page.partition("\n\n- SHA-256")[0])
        # best params
        <BLANKLINE>
        dict of 1 item, written by `json`, 10 bytes, version 3
        <BLANKLINE>
        ```json
        {
          "x": 0.5
        }
        ```
    """
    if handler is None:
        handler = handler_for(value)
    elif isinstance(handler, str):
        handler = find_handler(handler)
    if content is None:
        content = encode(handler, value)
    size = len(content) if size is None else size
    sha256 = sha256 or hashlib.sha256(content).hexdigest()
    what = _what(value)
    facts = [f"written by {code(handler.alias)}", _bytes(size)]
    if trial is not None:  # each trial counts its versions for itself
        facts.append(f"trial {trial}")
    if version is not None and (trial is None or version):
        facts.append(f"version {version}")
    parts = [
        f"# {escape(one_line(name, 200))}",
        ", ".join([escape(what), *facts]),
        _body(value, handler, content),
        _whereabouts(location, sha256, load_hint),
    ]
    card = [
        f"**{escape(one_line(what, 30))}**",
        ", ".join([escape(handler.alias), *facts[1:]]),
        _thumbnail(handler, content),
    ]
    return ArtifactPage(_paragraphs(parts), _paragraphs(card))


def publish_artifact(
    study: str | None,
    name: str,
    value: Any,
    handler: type[Artifact] | str | None = None,
    *,
    content: bytes | None = None,
    version: int | None = None,
    trial: int | None = None,
    location: str = "",
    size: int | None = None,
    sha256: str | None = None,
    load_hint: str = "",
    logger: _Logger | None = None,
) -> UUID | None:
    """Show an artifact in Prefect's UI, as a new version under its key.

    Within a flow or task run it belongs to that run. A server that is away stops nothing: that
    is logged as a warning, because the artifact itself is kept elsewhere.

    Args:
        study: the study that the artifact belongs to, if any.
        name: what the artifact is called.
        value: the value.
        handler: as for `artifact_markdown`, like all that follow.
        content: the content of its file.
        version: its number.
        trial: the number of the trial that has logged it.
        location: where its file is.
        size: bytes of the file.
        sha256: the checksum of the file.
        load_hint: Python code that loads it.
        logger: where to say that the server is away, such as the flow run's.

    Returns:
        The id of Prefect's artifact, or `None` where the server has not taken it.

    Raises:
        UnknownHandlerError: there is no such handler.
        ArtifactLogError: the handler cannot write the value.

    Example:
        >>> from prefect_optuna.blocks.artifacts.pages import publish_artifact
        >>> type(publish_artifact("lynx-hare", "note", "a good start"))
        <class 'uuid.UUID'>
    """
    page = artifact_markdown(
        name,
        value,
        handler,
        content=content,
        version=version,
        trial=trial,
        location=location,
        size=size,
        sha256=sha256,
        load_hint=load_hint,
    )
    key = artifact_key(study, name)
    task_run_id, flow_run_id = get_task_and_flow_run_ids()
    try:
        with quick_client() as client:
            return client.create_artifact(
                ArtifactCreate(
                    type="markdown",
                    key=key,
                    description=page.description,
                    data=page.markdown,
                    task_run_id=task_run_id,
                    flow_run_id=flow_run_id,
                )
            ).id
    except Exception as error:  # noqa: BLE001 - the artifact is kept; only its page is missing
        (logger or _logger).warning(
            "Cannot show the artifact %r in Prefect's UI as %r: %s: %s. The artifact itself is "
            "not affected.",
            name,
            key,
            type(error).__name__,
            error,
        )
        return None


def _body(value: Any, handler: type[Artifact], content: bytes) -> str:
    if handler.alias == "png":
        picture = _small_png(content, _MAX_URI, colours=128)
        return f"![]({data_uri(picture)})" if picture else ""
    if handler.alias == "svg":
        address = data_uri(content, "image/svg+xml") if len(content) < _MAX_URI else ""
        return f"![]({address})" if 0 < len(address) <= _MAX_URI else ""
    if table_library(value) is not None:
        return _table(value)
    if handler.binary or handler.output_only:
        return ""
    return _text(content.decode("utf-8", "replace"), _LANGUAGES.get(handler.suffix, ""))


def _text(text: str, language: str) -> str:
    if language == "json" and len(text) < 100_000:
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    shown = fenced(text[:_MAX_TEXT].removesuffix("\n"), language)
    if len(text) > _MAX_TEXT:
        shown += f"\n\nThe first {_MAX_TEXT:,} of {len(text):,} letters."
    return shown


def _table(value: Any) -> str:
    n_rows, n_columns = value.shape
    room, columns = _TABLE_LETTERS, list[list[str]]()
    for title, cells in _columns(value):
        column = [one_line(title, _CELL_LETTERS), *map(_cell, cells)]
        room -= 2 + max(map(len, column))
        if room < 0 and columns:
            break
        numeric = all(isinstance(cell, numbers.Real | None) for cell in cells)
        heading, *shown = map(escape, column)
        columns.append([heading or "\N{NO-BREAK SPACE}", "---:" if numeric else "---", *shown])
    if not columns:
        return ""
    table = "\n".join(f"| {' | '.join(row)} |" for row in zip(*columns, strict=True))
    left_out = [
        f"{shown:,} of {there:,} {what}"
        for shown, there, what in (
            (min(n_rows, _ROWS), n_rows, "rows"),
            (len(columns), max(n_columns, len(columns)), "columns"),
        )
        if shown < there
    ]
    return table + (f"\n\nThe first {' and '.join(left_out)}." if left_out else "")


def _columns(table: Any) -> Iterator[tuple[str, Sequence[Any]]]:
    """Titles and first cells of the columns, of any library; a pandas index that says something."""
    if table_library(table) == "pandas":
        first = table.iloc[:_ROWS]
        if type(first.index).__name__ != "RangeIndex":
            yield str(first.index.name or ""), first.index.tolist()
        for number, title in enumerate(first.columns):
            yield str(title), first.iloc[:, number].tolist()
    elif table_library(table) == "polars":
        for column in table.head(_ROWS).get_columns():
            yield column.name, column.to_list()
    else:
        first = table.slice(0, _ROWS)
        for title, column in zip(first.column_names, first.columns, strict=True):
            yield title, column.to_pylist()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        # No infinity goes to the server as a number.
        return f"{value:.5g}" if math.isfinite(value) else str(value).replace("inf", "∞")
    text = value if isinstance(value, str) else reprlib.repr(value)
    if not isinstance(value, str | int | bytes | list | dict | tuple | set):
        text = str(value)  # times and decimals, as people write them
    return one_line(text, _CELL_LETTERS)


def _small_png(png: bytes, max_letters: int, *, colours: int, width: int = 1400) -> bytes | None:
    """The picture, with fewer colours and pixels where it is too large; `None` for no picture."""
    if len(png) <= max_letters * 3 // 4 - 100 and width >= 1400:
        return png
    from PIL import Image

    try:
        with Image.open(io.BytesIO(png)) as image:
            # 60 million pixels are far more than a plot has, and less than Pillow warns of.
            if image.width * image.height > 60_000_000:
                return None
            full = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError):
        return None
    width = min(width, full.width)
    while width >= 16:
        size = (width, max(1, round(full.height * width / full.width)))
        small = full if width == full.width else full.resize(size, Image.Resampling.LANCZOS)
        content = _palette_png(small, colours)
        if len(content) <= max_letters * 3 // 4 - 100:
            return content
        width = int(width * 0.8)
    return None


def _palette_png(image: Image, colours: int) -> bytes:
    """Plots have few colours: a palette makes the file a third as large."""
    from PIL.Image import Dither, Quantize

    if image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
    palette = image.quantize(colours, method=Quantize.FASTOCTREE, dither=Dither.NONE)
    buffer = io.BytesIO()
    palette.save(buffer, format="PNG")
    return buffer.getvalue()


def _thumbnail(handler: type[Artifact], content: bytes) -> str:
    if handler.alias != "png":
        return ""
    picture = _small_png(content, _MAX_THUMBNAIL, colours=64, width=280)
    return f"![]({data_uri(picture)})" if picture else ""


def _what(value: Any) -> str:
    """Name the kind of a value, with its size as people count it."""
    kind = type_name(value)
    if table_library(value) is not None:
        rows, columns = value.shape
        return f"{kind.partition('.')[0]} table, {rows:,} x {columns:,}"
    if kind.endswith(".Figure"):
        return f"{kind.partition('.')[0]} figure"
    if kind == "numpy.ndarray":
        shape = " x ".join(f"{n:,}" for n in value.shape) or "no axes"
        return f"array of {value.dtype}, {shape}"
    if kind == "str":
        return f"text of {_count(len(value), 'letter')}"
    if kind in ("list", "dict", "set", "tuple"):
        return f"{kind} of {_count(len(value), 'item')}"
    return kind


def _whereabouts(location: str, sha256: str, load_hint: str) -> str:
    lines = [f"- SHA-256 {code(sha256)}"]
    if location:
        lines.append(f"- in {code(one_line(without_secrets(location), 500))}")
    if load_hint:
        lines = ["## Load it", "", fenced(without_secrets(load_hint), "python"), "", *lines]
    return "\n".join(lines)


def _bytes(size: int) -> str:
    if size < 1000:
        return _count(size, "byte")
    for unit, factor in (("KB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if size < 999.5 * factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e12:.3g} TB"


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _paragraphs(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
