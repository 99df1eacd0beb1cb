"""Seeds for work that a trial has others do: each task that it hands out has its own.

`cross_val_score(..., n_jobs=-1)` fits in other processes, where nothing knows of the trial, and
which of them takes which task is left to chance. So every task that a trial hands to joblib, to a
pool of `multiprocessing`, to an executor or to a thread of its own takes a seed along, by its place
among them: the results are the same again, and on however many processors.

In another process the shared generators begin at that seed. In another thread of this one they
are the trial's own, and only what is made without a seed there, such as `default_rng()`, follows
from it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol


class Origin(Protocol):
    """A trial under way, as far as its tasks need it."""

    def share(self, kind: str) -> int:
        """The seed of the next task that it hands out in some way."""
        ...


_current: Callable[[], Origin | None] = lambda: None  # noqa: E731 - another takes its place
_Task: Any = None
_patched: set[str] = set()


def hand_out_seeds(current: Callable[[], Origin | None], task: type) -> None:
    """Have whatever hands out tasks ask for the trial under way; once for each of them.

    Args:
        current: says which trial that is.
        task: makes of a function and a seed one that is called with that.
    """
    global _current, _Task
    _current, _Task = current, task
    for module in MODULES:
        if module in sys.modules and module not in _patched:
            patch(module)


def patch(module: str) -> None:
    """Patch a module that is imported, unless it is still about to be."""
    try:
        MODULES[module](sys.modules[module])
    except AttributeError:
        return
    _patched.add(module)


def _task(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    trial = _current()
    if trial is None or isinstance(function, _Task):
        return function
    return _Task(function, trial.share(kind))


def _threads(module: Any) -> None:
    start = module.Thread.start

    def start_seeded(self: threading.Thread) -> None:
        if _current() is not None:
            self.run = _task(self.run, "thread")
        start(self)

    module.Thread.start = start_seeded


def _executors(kind: str) -> Callable[[Any], None]:
    def patched(module: Any) -> None:
        executor = getattr(module, kind)
        submit = executor.submit

        def submit_seeded(self: Any, fn: Any, /, *arguments: Any, **keywords: Any) -> Any:
            return submit(self, _task(fn, kind), *arguments, **keywords)

        executor.submit = submit_seeded

    return patched


def _call(task: tuple[Callable[..., Any], Any]) -> Any:
    return task[0](task[1])


def _call_with_several(task: tuple[Callable[..., Any], Iterable[Any]]) -> Any:
    return task[0](*task[1])


def _pools(module: Any) -> None:
    pool = module.Pool
    plain = {name: getattr(pool, name) for name in ("_map_async", "apply_async")}
    lazy = {name: getattr(pool, name) for name in ("imap", "imap_unordered")}

    def map_async(self: Any, func: Any, iterable: Any, mapper: Any, *rest: Any, **more: Any) -> Any:
        if _current() is not None:
            iterable = [(_task(func, "pool"), item) for item in iterable]
            func = _call_with_several if mapper is module.starmapstar else _call
            mapper = module.mapstar
        return plain["_map_async"](self, func, iterable, mapper, *rest, **more)

    def apply_async(self: Any, func: Any, *rest: Any, **more: Any) -> Any:
        return plain["apply_async"](self, _task(func, "pool"), *rest, **more)

    def lazily(name: str) -> Callable[..., Any]:
        def mapped(self: Any, func: Any, iterable: Any, chunksize: int = 1) -> Any:
            trial = _current()
            if trial is not None:  # a thread of the pool's takes the items, one by one
                tasks = ((_Task(func, trial.share("pool")), item) for item in iterable)
                return lazy[name](self, _call, tasks, chunksize)
            return lazy[name](self, func, iterable, chunksize)

        return mapped

    pool._map_async, pool.apply_async = map_async, apply_async
    for name in lazy:
        setattr(pool, name, lazily(name))


def _joblib(module: Any) -> None:
    call = module.Parallel.__call__

    def call_seeded(self: Any, iterable: Any) -> Any:
        trial = _current()
        return call(self, iterable if trial is None else _Seeded(iterable, trial))

    module.Parallel.__call__ = call_seeded


class _Seeded:
    """The tasks of a call of joblib, which asks some iterables for how many there are."""

    def __new__(cls, iterable: Any, trial: Origin) -> Any:
        tasks = cls._tasks(iterable, trial, threading.get_ident())
        return list(tasks) if hasattr(iterable, "__len__") else tasks

    @staticmethod
    def _tasks(iterable: Any, trial: Origin, thread: int) -> Iterator[Any]:
        for function, arguments, keywords in iterable:
            task = _Task(function, trial.share("joblib"))
            task.place = (os.getpid(), thread)  # other threads take some of them from here
            yield task, arguments, keywords


MODULES: dict[str, Callable[[Any], None]] = {
    "threading": _threads,
    "concurrent.futures.thread": _executors("ThreadPoolExecutor"),
    "concurrent.futures.process": _executors("ProcessPoolExecutor"),
    "multiprocessing.pool": _pools,
    "joblib.parallel": _joblib,
}
"""Adapters of what hands out tasks, by the module that has to be there."""
