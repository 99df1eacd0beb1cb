"""Text of others, such as the name of a study, where people and shells read it.

A terminal obeys the control characters in a name, rich its brackets, a shell its semicolons, and
bidirectional characters show a name that is another one. Text is kept as it came, and made
harmless where it is put out: here for terminals, JSON, shells and notebooks, and in
`artifacts/pages.py` for Markdown.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleRenderable, RenderHook
from rich.markup import escape
from rich.segment import Segment

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderResult

_LEFT = "text-align: left; padding-right: 1em"
_ROWS = 20  # of a table in a notebook
_SLASHES = re.compile(r"(\\+)(?=\[(?![a-z#/@][^\[]*?\]))")


def visible(text: str) -> str:
    """Text with its lines, in which what cannot be seen is written as Python writes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _written(c) for c in text)


def visible_line(text: str) -> str:
    """The same on one line, for a list in which nothing may look like another entry."""
    return visible(text).replace("\n", "\\n")


def one_line(text: str, length: int) -> str:
    r"""Shorten text to one line of at most `length` characters, without invisible ones.

    Example:
        >>> one_line("learning\nrate of the first layer", 16)
        'learning rate o…'
    """
    text = " ".join(visible(text[: 20 * length]).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def _written(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "  # of another width
    return "    " if character == "\t" else character.encode("unicode_escape").decode("ascii")


def markup(text: str) -> str:
    """Text in rich's markup, as text."""
    # `escape` leaves a bracket that begins no tag, and rich takes a backslash before it away.
    shown = visible(text)
    body = shown.rstrip("\\")
    # Those at the end come before whatever tag is next; `escape` doubles one, and not several.
    return escape(_SLASHES.sub(r"\1\\", body)) + "\\" * (2 * (len(shown) - len(body)))


def command(*words: str) -> str:
    """Return a command that can be copied into a shell."""
    return " ".join(map(_word, words))


def _word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # Bash, zsh and the shells of POSIX 2024 read this; in single quotes a terminal would obey it.
    written = (
        c if c.isprintable() else "".join(f"\\x{byte:02x}" for byte in c.encode(errors="replace"))
        for c in word.replace("\\", "\\\\").replace("'", "\\'")
    )
    return f"$'{''.join(written)}'"


def json_text(document: Any) -> str:
    """JSON for programs, that is also harmless in a terminal."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # What is not printable and no line end can only be within a string.
    return text if text.isprintable() else re.sub(r"[^\n -~]", _json_escape, text)


def _json_escape(match: re.Match[str]) -> str:
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]


class VisibleOnly(RenderHook):
    """Lets a console write its own control characters, and nobody else's."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Part of rich's hooks: what is printed, in a form that is harmless."""
        return [_Visible(renderable) for renderable in renderables]


class _Visible:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self._renderable, options)
        for segment in segments:
            yield segment if segment.control else segment._replace(text=visible(segment.text))


def terminal(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """A console for what this package says; links and emoji come from us or not at all."""
    console = Console(stderr=stderr, soft_wrap=soft_wrap, highlight=False, emoji=False)
    console.push_render_hook(VisibleOnly())
    return console


def card(
    title: str,
    facts: Iterable[tuple[str, str]] = (),
    *,
    headings: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
    picture: bytes | None = None,
) -> str:
    """An object as notebooks show it, in HTML; what it is given is text.

    Example:
        >>> card("two & two", [("sum", "4")])[:35]
        '<div><strong>two &amp; two</strong>'
    """
    parts = [f"<strong>{_html(title)}</strong>"]
    if lines := [f"{_cell('th', name)}{_cell('td', text)}" for name, text in facts]:
        parts.append(_table(lines))
    if rows:
        lines = ["".join(_cell("td", cell) for cell in row) for row in rows[:_ROWS]]
        parts.append(_table(["".join(_cell("th", name) for name in headings), *lines]))
        if len(rows) > _ROWS:
            parts.append(f"<p>and {len(rows) - _ROWS} more</p>")
    if picture:
        # White, as the picture's letters are dark; notebooks may not be.
        content = base64.b64encode(picture).decode("ascii")
        parts.append(
            f'<img alt="{_html(title)}" src="data:image/png;base64,{content}" '
            'style="max-width: 640px; width: 100%; background: white">'
        )
    return f"<div>{''.join(parts)}</div>"


def _table(lines: Iterable[str]) -> str:
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _cell(kind: str, text: str) -> str:
    return f'<{kind} style="{_LEFT}">{_html(text)}</{kind}>'


def _html(text: str) -> str:
    return html.escape(visible_line(text))
