"""SIGTERM in two steps: trials are asked to stop, and interrupted when their grace is over."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from prefect_optuna.tasks.stopping import Stopping


@contextmanager
def ending_softly(stopping: Stopping) -> Generator[Callable[[], None]]:
    """Have SIGTERM ask trials to stop, and end the program some seconds later.

    Ctrl-C interrupts at once, as ever, and so does SIGTERM where no trial looks. Without a handler
    of somebody else's, such as Prefect's, the program ends with `SystemExit`, so that its trials
    are asked again at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM)
    if before is signal.SIG_IGN or before is None:
        yield lambda: None
        return
    timers: list[threading.Timer] = []

    def end(number: int, frame: FrameType | None) -> NoReturn:
        stopping.set()
        if callable(before):
            before(number, frame)
        raise SystemExit(128 + number)

    def hear(number: int, frame: FrameType | None) -> None:
        # No log line: the handler may have interrupted one.
        if stopping.is_set() or not stopping.is_asked:
            end(number, frame)
        stopping.set()
        timer = threading.Timer(stopping.grace, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()
        timers.append(timer)

    def end_if_asked() -> None:
        if stopping.is_set():
            end(signal.SIGTERM, None)

    signal.signal(signal.SIGTERM, hear)
    try:
        yield end_if_asked
    finally:
        for timer in timers:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)
