"""Validation of artifact paths."""

from __future__ import annotations

import re

from prefect_optuna.errors import InvalidLocationError

# Only unfinished writes have names like this, and listings leave them out.
TEMPORARY_PREFIX = ".tmp-"

_MAX_NAME = 255  # bytes, the limit of common filesystems
_MAX_PATH = 1024  # bytes, the limit of S3
_DRIVE = re.compile(r"[A-Za-z]:")


def checked_path(path: str) -> str:
    """Return the path if it names an artifact below the root, on every kind of filesystem."""
    if rule := _broken_rule(path):
        raise InvalidLocationError(
            f"{path!r} is no artifact path: {rule}. Expected names separated by '/', relative to "
            "the artifact root, such as 'trials/3/result.arrow'."
        )
    return path


def _broken_rule(path: str) -> str | None:
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        return "it must be a string"
    if not path:
        return "it is empty"
    if "\0" in path:
        return "it has a NUL character"
    if "\\" in path:
        return "it has a backslash, which some systems take for '/'"
    if path.startswith("/") or _DRIVE.match(path):
        return "it is absolute"
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        return "it has characters that UTF-8 cannot encode"
    if length > _MAX_PATH:
        return f"it has more than {_MAX_PATH} bytes"
    for name in path.split("/"):
        if name in ("", ".", ".."):
            return f"it has the part {name!r}"
        if name.startswith(TEMPORARY_PREFIX):
            return f"names that start with {TEMPORARY_PREFIX!r} are kept for unfinished writes"
        if length > _MAX_NAME and len(name.encode()) > _MAX_NAME:
            return f"a name in it has more than {_MAX_NAME} bytes"
    return None
