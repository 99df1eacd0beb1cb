"""A key that was set and never read is probably misspelt: a warning says so, once, at the end.

What is read is noted in a dictionary that the outermost scope and all scopes within it share, and
the threads that they are carried to. Where reads may happen unseen, in another process, every key
counts as read.
"""

from __future__ import annotations

import difflib
import os
import warnings

from prefect_optuna.errors import UnreadParameterWarning
from prefect_optuna.tasks.scope.auto_parameters import known_names
from prefect_optuna.tasks.scope.frames import AWAY, Frame, Reads, get, origin_of
from prefect_optuna.tasks.scope.origins import Origin, describe

enabled: bool = True

_LINES = 5

# Where a warning has been given, under which filters. `warnings.catch_warnings` makes new ones.
_warned: set[tuple[object, ...]] = set()
_filters: object = None


def switch(on: bool) -> None:
    """Say whether scopes entered from now on, in this process, warn of keys that nobody reads.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> param_scope.warn_unread(False)
        >>> with param_scope(simulat=1):
        ...     pass
        >>> param_scope.warn_unread(True)
    """
    global enabled
    enabled = on


def warn(reads: Reads) -> None:
    """Warn, at the end of an outermost scope, of what was set in it and never read."""
    global _filters
    if _filters is not warnings.filters:
        _filters = warnings.filters
        _warned.clear()
    unread: dict[str, Origin] = {}
    places: list[tuple[object, ...]] = []
    for key, content in list(reads.items()):
        if content is None:
            continue
        if content is AWAY:
            return
        origin = content[3] if content[1] is None else origin_of(content, str(key))
        place = (key, origin) if isinstance(origin, str) else (key, id(origin[0]), origin[1])
        # Once at each place, as Python does it, but before the costly search for names.
        if place not in _warned:
            places.append(place)
            unread[str(key)] = origin
    if unread:
        _warned.update(places)
        asked = {str(name) for name, content in list(reads.items()) if content is None}
        warnings.warn(_message(unread, asked), UnreadParameterWarning, stacklevel=3)


def _message(unread: dict[str, Origin], asked: set[str]) -> str:
    """One line for each key, first those that may be misspelt, and not too many."""
    hints = {key: nearest(key, asked) for key in unread}
    lines = [
        f"{key} was set and never read"
        + (f"; did you mean {hints[key]}?" if hints[key] else "")
        + f" ({describe(unread[key])})"
        for key in sorted(unread, key=lambda key: hints[key] is None)
    ]
    rest = [f"... and {len(lines) - _LINES} more keys"] if len(lines) > _LINES else []
    return "\n".join(lines[:_LINES] + rest)


def nearest(key: str, asked: set[str]) -> str | None:
    """The name that a key may have been meant to be: one asked for, or one of `auto_param`'s."""
    known = asked | known_names()
    if key in known:
        return None
    matches = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    # Or the function's name is left out.
    matches += sorted(name for name in known if name.endswith(f".{key}"))
    return matches[0] if matches else None


def may_be_read_elsewhere(frame: Frame) -> None:
    """Mark all values as read: the frame goes to another process, which does not report."""
    values, _, _, _, reads, _ = frame
    if reads is not None:
        reads.update(dict.fromkeys(values))


def _before_fork() -> None:
    may_be_read_elsewhere(get())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork)
