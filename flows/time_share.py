"""Costly things that may take a share of the time, and no more."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator


class TimeShare:
    """Says whether something costly may be done yet.

    Args:
        share: how much of the time since this was made it may take.
        estimate: what doing it once is expected to cost before it has been done, in seconds of
            this thread's processor time.

    Example:
        >>> TimeShare(share=0.01, estimate=1.0).affords()
        False
        >>> TimeShare(share=0.01, estimate=0.0).affords()
        True
    """

    def __init__(self, *, share: float = 0.01, estimate: float = 0.15) -> None:
        self._share = share
        self._cost = estimate
        self._spent = 0.0
        self._since = time.monotonic()

    def affords(self) -> bool:
        """Tell whether doing it once more stays within the share."""
        return self._spent + self._cost <= self._share * (time.monotonic() - self._since)

    @contextlib.contextmanager
    def spend(self) -> Generator[None]:
        """Measure what the code within costs."""
        before = time.thread_time()
        try:
            yield
        finally:
            self._cost = time.thread_time() - before
            self._spent += self._cost
