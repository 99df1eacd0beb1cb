"""How values become a part of a file name: always the same way, and never the way elsewhere."""

from __future__ import annotations

import re

MAX_NAME = 255  # bytes, the limit of common filesystems

# What separates folders, is a wildcard, or is not allowed in a name on some system. The percent
# sign is among them, so that different values stay different.
_SPECIAL = re.compile(r'[%/\\*?\[\]:"<>|\x00-\x1f\x7f]')
_DRIVE = re.compile(r"[A-Za-z]:[/\\]")


def escaped(text: str) -> str:
    """Write a text so that it is a part of one name, and no pattern: `a/b` as `a%2Fb`.

    Different texts have different results.

    Example:
        >>> from prefect_optuna.tasks.persistence.names import escaped
        >>> escaped("2026-01-02"), escaped("a/b*")
        ('2026-01-02', 'a%2Fb%2A')
    """
    return _SPECIAL.sub(lambda match: f"%{ord(match[0]):02X}", text)


def leads_elsewhere(text: str) -> str | None:
    """Say why a text must not be a part of a file name; `None` if it may.

    Example:
        >>> from prefect_optuna.tasks.persistence.names import leads_elsewhere
        >>> leads_elsewhere("../x")
        "it has the part '..', which leads out of the folder"
    """
    if "\0" in text:
        return "it has a NUL character"
    if text.startswith(("/", "\\")) or _DRIVE.match(text):
        return "it is an absolute path"
    if ".." in re.split(r"[/\\]", text):
        return "it has the part '..', which leads out of the folder"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it has characters that UTF-8 cannot encode"
    return None
