"""What a piece of code really read: names, and the values that it got."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from prefect_optuna.tasks.scope.frames import Layer, entered, get, pop, put


@contextmanager
def recording() -> Generator[dict[str, Any]]:
    """Record every parameter that is read within the block.

    Reads count wherever the scope goes: in functions, coroutines, copied contexts and, with
    `capture` and `restore`, other threads. They do not come back from other processes; record
    there. The block is a scope: what is written in it ends with it.

    Returns:
        A context manager that gives a dictionary. It fills as the block runs: the name of each
        parameter that was read, by `param_scope` or by an `auto_param` function, and the value
        that the code got, converted, or the default. A parameter that is read twice counts as
        it was read last.

    Example:
        >>> from prefect_optuna.tasks.scope import auto_param, param_scope
        >>> @auto_param
        ... def simulate(dt=0.1, steps=100):
        ...     return param_scope.seed(0)
        >>> with param_scope(**{"simulate.dt": "0.2"}), param_scope.recording() as used:
        ...     simulate()
        0
        >>> used
        {'simulate.dt': 0.2, 'simulate.steps': 100, 'seed': 0}
    """
    used: dict[str, Any] = {}
    outer = get()
    layer: Layer = [({}, None, True, "a recording", False)]
    values, content, _, _, reads, recorders = entered(layer, outer)
    put((values, content, layer, outer, reads, (*recorders, used)))
    try:
        yield used
    finally:
        pop(layer)
