"""Ctrl-C in a study: one line that says what was kept, and a second one ends it at once."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import Any

_said: ContextVar[list[Callable[[], str]]] = ContextVar("prefect_optuna_said")
_ours = "prefect_optuna_message"  # on a KeyboardInterrupt: what is shown in place of its traceback
_LOGGERS = ("", "prefect", "prefect.flow_runs", "prefect.task_runs")
_show_before = sys.excepthook
_OF_A_CRASH = ("Crash detected!", "Finished in state Crashed")
_OF_A_FAILURE = ("Encountered exception during execution", "Finished in state Failed")


def note_study(words: Callable[[], str]) -> None:
    """Say what an interruption of this study is to be told with."""
    _said.get([]).append(words)


@contextmanager
def interruptible() -> Generator[None]:
    """Have Ctrl-C raise a `KeyboardInterrupt` that says what was kept.

    Where nobody catches it, that sentence is shown and no traceback. A second Ctrl-C, while the
    study still puts things in order, ends a program at once: the next start finds what it has
    left. Where somebody else handles Ctrl-C, nothing changes.

    Example:
        >>> try:
        ...     with interruptible():
        ...         note_study(lambda: "Study 'mine' keeps 3 finished trials.")
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt as interruption:
        ...     print(interruption)
        Interrupted. Study 'mine' keeps 3 finished trials.
    """
    token = _said.set(said := [])
    main = threading.current_thread() is threading.main_thread()
    takes_over = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    once = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal once
        if once and not _is_interactive():
            _leave(_sentence(said))
        once = True
        signal.default_int_handler(number, frame)

    def passes(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith((*_OF_A_CRASH, *(_OF_A_FAILURE if once else ())))

    consoles = _consoles()
    for console in consoles:
        console.addFilter(passes)
    if takes_over:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt as error:
        if hasattr(error, _ours):  # of a study within this one
            raise
        raise _interruption(_sentence(said)) from None
    except Exception as error:
        if once and KeyboardInterrupt.__name__ in str(error):  # pydantic makes its own of it
            raise _interruption(_sentence(said)) from None
        raise
    finally:
        _said.reset(token)
        for console in consoles:
            console.removeFilter(passes)
        if takes_over and signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _consoles() -> list[logging.Handler]:
    from prefect.logging.handlers import PrefectConsoleHandler

    handlers = [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]
    return [handler for handler in handlers if isinstance(handler, PrefectConsoleHandler)]


def _sentence(said: list[Callable[[], str]]) -> str:
    return f"Interrupted. {said[-1]()}" if said else "Interrupted before the first trial."


def _interruption(message: str) -> KeyboardInterrupt:
    """A plain `KeyboardInterrupt`: for another class, Python would not say that it was Ctrl-C."""
    global _show_before
    error: Any = KeyboardInterrupt(message)
    setattr(error, _ours, message)
    error._render_traceback_ = lambda: [message]  # IPython's
    if sys.excepthook is not _show:
        _show_before, sys.excepthook = sys.excepthook, _show
    return error


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Show the sentence if the interruption has not been caught."""
    message = getattr(error, _ours, None)
    if message is None:
        _show_before(kind, error, traceback)
        return
    print(message, file=sys.stderr)
    if not _is_interactive() and threading.current_thread() is threading.main_thread():
        # Python is about to end, and waits for threads.
        signal.signal(signal.SIGINT, _leave_at_once)


def _leave_at_once(number: int, frame: FrameType | None) -> None:
    _leave("")


def _leave(message: str) -> None:
    if message:
        os.write(2, f"{message}\n".encode())
    os._exit(128 + signal.SIGINT)


def _is_interactive() -> bool:
    return hasattr(sys, "ps1") or "IPython" in sys.modules
