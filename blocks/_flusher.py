"""Writes or sends what has been waiting too long, from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

_EVERY = 0.02  # seconds
_IDLE_ROUNDS = 50


class Flusher:
    """Calls a function again and again, from the first `wake` until there is nothing to do.

    The thread ends by itself after a second without work, so that it keeps nothing alive.

    Example:
        >>> from prefect_optuna.blocks._flusher import Flusher
        >>> flusher = Flusher(lambda: False, "idle")
        >>> flusher.wake()
        >>> flusher.close()
    """

    def __init__(self, flush: Callable[[], bool], name: str) -> None:
        self._flush = flush
        self._name = name
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.running: bool = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Start the thread, if it does not run; cheap if it does."""
        if self.running:
            return
        with self._lock:
            if not self.running and not self._ended.is_set():
                self.running = True
                self._thread = threading.Thread(
                    target=self._work, name=f"{self._name} flusher", daemon=True
                )
                self._thread.start()

    def _work(self) -> None:
        idle = 0
        while not self._ended.wait(_EVERY):
            idle = 0 if self._flush() else idle + 1
            if idle > _IDLE_ROUNDS:
                with self._lock:
                    # A writer that has added something since then finds it running, or wakes it.
                    self.running = False
                if not self._flush():
                    return
                with self._lock:
                    if self.running:
                        return  # another one has been started
                    self.running, idle = True, 0

    def close(self) -> None:
        """End the thread, and never start it again."""
        with self._lock:
            self._ended.set()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
