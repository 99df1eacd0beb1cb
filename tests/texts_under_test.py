"""Text that would be something else where it is put out, and what shows whether it is."""

from __future__ import annotations

from collections.abc import Iterable

import markdown_it
from hypothesis import strategies as st

HOSTILE = (
    "`x` ``` <img src=x onerror=f> [bold]b[/] [link=http://e]l[/link] [e](javascript:f) ![p](q) "
    "\x1b[2J\x1b]8;;http://e\x1b\\ \x9b2J \u202egnp.exe \u2066 \u200b :bomb: ; rm -rf ~ $(f) 'q' "
    '"z" | & &nbsp; &#27; # h\n\n    indented\n- item\n***\r~~~\nwww'
)
LETTERS = st.one_of(
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("\x1b\x9b\x07\x00\x7f\u202e\u2066\u200f\u2028`*_[]()<>&|#$~\\'\";:!-\n\r\t "),
)
TEXTS = st.text(LETTERS, max_size=60)
MARKDOWN = markdown_it.MarkdownIt("gfm-like", {"html": True}).disable("linkify")


def unseen(text: str) -> set[str]:
    return {c for c in text if not c.isprintable() and c != "\n"}


def inline_kinds(markdown: str) -> Iterable[str]:
    for token in MARKDOWN.parse(markdown):
        yield token.type
        yield from (child.type for child in token.children or ())
