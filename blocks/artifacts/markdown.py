"""Text of the user's in Markdown: as text, never as markup, and without secrets."""

from __future__ import annotations

import base64
import re

from prefect_optuna.blocks.texts import visible

__all__ = ["code", "data_uri", "escape", "fenced", "one_line", "without_secrets"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"`<>]*")


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
    r"""Text in one line of at most so many letters, without what cannot be seen.

    Example:
        >>> one_line("learning\nrate of the first layer", 16)
        'learning rate o…'
    """
    text = " ".join(visible(text[: 20 * length]).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def code(text: str) -> str:
    """One line of text that somebody may copy.

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


def without_secrets(text: str) -> str:
    """Text in which no URL has a user, a password, a query or a fragment.

    Example:
        >>> without_secrets("s3://key:secret@bucket/a.json?signature=x")
        's3://bucket/a.json'
        >>> without_secrets("C:/data/a.json")
        'C:/data/a.json'
    """
    return _URL.sub(_bare_url, text)


def _bare_url(match: re.Match[str]) -> str:
    # fsspec chains URLs, as in zip://a.csv::s3://key:secret@bucket/b.zip.
    first, chain, others = match[0].partition("::")
    if chain and "://" in first and "://" in others:
        return f"{without_secrets(first)}::{without_secrets(others)}"
    scheme, _, rest = match[0].partition("://")
    authority = rest.partition("/")[0]
    host, _, port = authority.rpartition("@")[2].partition(":")
    if "@" in authority:
        rest = rest[rest.rindex("@", 0, len(authority)) + 1 :]
    elif "@" in rest and port and not port.isdigit() and not host.startswith("["):
        rest = rest.rpartition("@")[2]  # the password has a slash in it
    return f"{scheme}://{re.split('[?#]', rest)[0]}"


def _longest_run(letter: str, text: str) -> int:
    return max((len(run) for run in re.findall(f"{letter}+", text)), default=0)
