"""Output of commands: answers on standard output, all else on standard error; and exit codes."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType

OK = 0
"""Exit code of a command that has done its work."""

FAILED = 1
"""Exit code of a command that has failed; the message says why."""

USAGE = 2
"""The command line itself is wrong."""

DRIFT = 3
"""Trials were run again, and not all of them were reproduced."""

INTERRUPTED = 130
"""Ctrl-C."""


def answer(document: Any, *shown: RenderableType, as_json: bool) -> None:
    """Give the answer: to programs as JSON, or to people.

    Args:
        document: for programs.
        shown: for people, one below the other.
        as_json: which of the two.
    """
    if as_json:
        from prefect_optuna.blocks.texts import json_text

        # A command that goes on, such as `serve`, would keep it in a pipe's buffer.
        print(json_text(plain(document)), flush=True)
        return
    console = _terminal()
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, str))


def note(text: str) -> None:
    """Say something that is not the answer.

    Args:
        text: with rich's markup.
    """
    _terminal(stderr=True, soft_wrap=True).print(text)


# `blocks` imports Prefect, for which help and wrong usage must not wait.


def markup(text: str) -> str:
    """Text of others in rich's markup, as text."""
    from prefect_optuna.blocks import texts

    return texts.markup(text)


def command(*words: str) -> str:
    """Return a command that can be copied into a shell."""
    from prefect_optuna.blocks import texts

    return texts.command(*words)


def _terminal(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    from prefect_optuna.blocks import texts

    return texts.terminal(stderr=stderr, soft_wrap=soft_wrap)


@contextmanager
def working(text: str) -> Generator[None]:
    """Show that something takes its time, where somebody watches.

    What is printed meanwhile, by code that is not ours, goes to standard error.

    Args:
        text: what is done; no markup.
    """
    with _terminal(stderr=True).status(markup(text)), redirect_stdout(sys.stderr):
        yield


def plain(value: Any) -> Any:
    """A value as JSON has it: times as ISO 8601, numbers that JSON lacks as text.

    Example:
        >>> from prefect_optuna.deployments.cli.output import plain
        >>> plain({"value": float("inf"), "params": (1, 2.5)})
        {'value': 'inf', 'params': [1, 2.5]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, datetime):
        return value.astimezone().isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)
