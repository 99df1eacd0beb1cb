"""Names and messages of others: whatever is in them, a terminal, a page and a shell show it."""

from __future__ import annotations

import io
import json
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from texts_under_test import HOSTILE, LETTERS, MARKDOWN, TEXTS, inline_kinds, unseen

from prefect_optuna.blocks import texts
from prefect_optuna.blocks.artifacts.pages import artifact_markdown, code, escape, fenced

any_text = lambda test: given(TEXTS)(example(HOSTILE)(test))  # noqa: E731 - two decorators in one


def words(text: str) -> str:
    """The text without blanks: how many there are is up to who shows it."""
    return "".join(texts.visible(text).split())


@any_text
def test_visible_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    assert unseen(texts.visible(text)) == set()


@any_text
def test_json_for_terminals_has_nothing_that_they_obey_and_is_the_same_document(text: str) -> None:
    shown = texts.json_text({"name": text, text: [text]})
    assert unseen(shown) == set()
    assert json.loads(shown) == {"name": text, text: [text]}


@any_text
@example("\\[")
@example("\\\\")
@example("\\\\\\")
@example("a\\\\[ \\[b] \\[B] [")
def test_a_console_writes_text_as_text(text: str) -> None:
    written = io.StringIO()
    console = texts.terminal()
    console.file, console.width = written, 10_000
    console.print(f"[dim]{texts.markup(text)}[/]")
    assert unseen(written.getvalue()) == set()
    assert words(written.getvalue()) == words(text)


def test_a_console_obeys_its_own_styles_and_no_others() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, color_system="standard", width=200)
    console.push_render_hook(texts.VisibleOnly())
    table = Table("name")
    table.add_row("\x1b[2J\x9b\u202e")
    console.print("[bold]ours[/]", table, "\x1b]8;;http://e\x1b\\")
    assert "\x1b[1mours" in written.getvalue()
    for theirs in ("\x1b[2J", "\x1b]8", "\x9b", "\u202e"):
        assert theirs not in written.getvalue()
    assert r"\x1b[2J\x9b\u202e" in written.getvalue()


@pytest.mark.parametrize("shell", ["bash"])
@given(st.lists(st.text(LETTERS.filter(lambda c: c != "\0"), max_size=40), max_size=4))
@example([HOSTILE])
def test_a_suggested_command_has_the_words_that_were_meant(shell: str, args: list[str]) -> None:
    line = texts.command("printf", r"%s\0", *args)
    assert unseen(line) == set()
    assert "\n" not in line
    ran = subprocess.run([shell, "-c", line], capture_output=True, check=True)
    assert ran.stdout.decode().split("\0")[: len(args) or 1] == (args or [""])


@any_text
def test_escaped_text_is_a_paragraph_of_text(text: str) -> None:
    markdown = f"x{escape(text)}"
    assert unseen(markdown) == set()
    kinds = set(inline_kinds(markdown))
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
    (inline,) = [token for token in MARKDOWN.parse(markdown) if token.type == "inline"]
    assert "".join("".join(c.content for c in inline.children or ()).split()) == "x" + words(text)


@any_text
def test_escaped_text_stays_in_its_cell(text: str) -> None:
    cells = [t.content for t in MARKDOWN.parse(f"| a | b |\n|---|---|\n| {escape(text)} | end |")]
    kinds = [t.type for t in MARKDOWN.parse(f"| a | b |\n|---|---|\n| {escape(text)} | end |")]
    assert kinds.count("td_open") == 2
    assert "end" in cells


@any_text
def test_code_is_one_span_or_one_block(text: str) -> None:
    assert unseen(code(text)) == unseen(fenced(text)) == set()
    assert set(inline_kinds(code(text))) == {
        *("paragraph_open", "paragraph_close", "inline", "code_inline")
    }
    assert [token.type for token in MARKDOWN.parse(fenced(text))] == ["fence"]


@given(name=TEXTS, value=st.one_of(TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=2)), hint=TEXTS)
@example(name=HOSTILE, value=HOSTILE, hint=HOSTILE)
def test_the_page_of_an_artifact_has_no_markup_but_its_own(name: str, value, hint: str) -> None:
    page, card = artifact_markdown(name, value, location=hint, load_hint=hint)
    assert unseen(page + card) == set()
    kinds = set(inline_kinds(page)) | set(inline_kinds(card))
    assert not {k for k in kinds if k.startswith(("html", "link", "image", "s_", "em_", "hr"))}


@any_text
def test_one_line_is_one_line(text: str) -> None:
    assert "\n" not in texts.one_line(text, 20)
    assert len(texts.one_line(text, 20)) <= 20
