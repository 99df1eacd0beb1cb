"""Questions of archived code to its process: environment variables, and the time."""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from prefect_optuna.tasks.archive.code.inspection import ARCHIVED_AS

_ON_THE_WAY = ("os", "_collections_abc", "collections.abc", __name__)
_CLOCKS = {"time": 1.0, "time_ns": 1e9}
_CALENDARS = ("localtime", "gmtime", "ctime", "asctime")
_STOPWATCHES = ("monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")


@dataclass
class Asked:
    """The variables and clocks that archived code has asked for.

    Attributes:
        variables: names of environment variables.
        clock: the functions that say what time it is.
        offset: how many seconds its clock is ahead of the real one.
    """

    variables: set[str] = field(default_factory=set[str])
    clock: set[str] = field(default_factory=set[str])
    offset: float = 0.0

    def start_at(self, started: dt.datetime | None) -> None:
        """Have its clock start anew."""
        self.offset = started.timestamp() - _now() if started is not None else 0.0


@contextmanager
def what_is_asked_for(*, clock: bool = False) -> Generator[Asked]:
    """Record what archived code asks for.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.asked import what_is_asked_for
        >>> with what_is_asked_for() as asked:
        ...     exec("import os; os.getenv('GAIN')", {"__archived_as__": "script"})
        >>> asked.variables
        {'GAIN'}
    """
    asked = Asked()
    environ: Any = type(os.environ)
    look_up = environ.__getitem__

    def noted(self: Any, name: Any) -> str:
        if isinstance(name, str) and _is_asked_by_archived_code():
            asked.variables.add(name)
        return look_up(self, name)

    environ.__getitem__ = noted
    replaced = _with_a_clock(asked) if clock else []
    try:
        yield asked
    finally:
        environ.__getitem__ = look_up
        for module, name, real in replaced:
            setattr(module, name, real)


_now, _local, _format = time.time, time.localtime, time.strftime


def _with_a_clock(asked: Asked) -> list[tuple[Any, str, Any]]:
    """Replace what tells the time."""

    def note(name: str) -> None:
        if _is_asked_by_archived_code():
            asked.clock.add(name)

    def shifted(name: str, scale: float) -> Callable[[], Any]:
        def tell() -> Any:
            note(f"time.{name}")
            now = _now() + asked.offset
            return now if scale == 1.0 else int(now * scale)

        return tell

    def told(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """`localtime()` and its like, which take the present where they are given no time."""

        def tell(*given: Any) -> Any:
            if given and given[0] is not None:
                return real(*given)
            note(f"time.{name}")
            now = _now() + asked.offset
            return real(_local(now) if name == "asctime" else now)

        return tell

    def formatted(form: str, *given: Any) -> str:
        if not given:
            note("time.strftime")
        return _format(form, *(given or (_local(_now() + asked.offset),)))

    def plain(name: str, real: Callable[[], Any]) -> Callable[[], Any]:
        def tell() -> Any:
            note(f"time.{name}")
            return real()

        return tell

    class Datetime(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            note("datetime.now")
            return cls.fromtimestamp(_now() + asked.offset, tz)

        @classmethod
        def utcnow(cls) -> Any:
            note("datetime.utcnow")
            return cls.fromtimestamp(_now() + asked.offset, dt.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            note("datetime.today")
            return cls.fromtimestamp(_now() + asked.offset)

    class Date(dt.date):
        @classmethod
        def today(cls) -> Any:
            note("date.today")
            return cls.fromtimestamp(_now() + asked.offset)

    made: dict[tuple[Any, str], Any] = {
        **{(time, name): shifted(name, scale) for name, scale in _CLOCKS.items()},
        **{(time, name): told(name, getattr(time, name)) for name in _CALENDARS},
        (time, "strftime"): formatted,
        **{(time, name): plain(name, getattr(time, name)) for name in _STOPWATCHES},
        (dt, "datetime"): Datetime,
        (dt, "date"): Date,
    }
    Datetime.__name__ = Datetime.__qualname__ = "datetime"
    Date.__name__ = Date.__qualname__ = "date"
    before: list[tuple[Any, str, Any]] = []
    for (module, name), new in made.items():
        before.append((module, name, getattr(module, name)))
        setattr(module, name, new)
    return before


def _is_asked_by_archived_code() -> bool:
    """Tell whether the caller, past Python's own functions on the way, is archived code."""
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame.f_globals.get("__name__") in _ON_THE_WAY and frame.f_back is not None:
        frame = frame.f_back
    return ARCHIVED_AS in frame.f_globals
