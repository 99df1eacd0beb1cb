"""Text of the user's in Markdown: as text, never as markup."""

from __future__ import annotations

import base64
import re

from prefect_optuna.blocks.texts import visible


def escape(text: str) -> str:
    r"""Text that looks as it is in Markdown, also in a table, in one line.

    Example:
        >>> escape("a|b <i> *c*")
        'a\\|b &lt;i&gt; \\*c\\*'
    """
    text = visible(text).replace("\n", " ")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$:-])", r"\\\1", text)


def one_line(text: str, length: int) -> str:
    r"""Shorten text to one line of at most `length` characters, without invisible ones.

    Example:
        >>> one_line("learning\nrate of the first layer", 16)
        'learning rate o…'
    """
    text = " ".join(visible(text[: 20 * length]).split())
    return text if len(text) <= length else text[: length - 1] + "…"


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
