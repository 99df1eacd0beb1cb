"""What `param_scope` and `auto_param` cost, against `hyperparameter` and a bare `ContextVar`.

Each case runs on both in one process, in turns, and the ratio is the median over the rounds. The
last column compares with the least that a context-local look-up can cost: `ContextVar.get()` and
`dict.get()`. Needs `pip install hyperparameter`, version 0.6 or later; about a minute.

    python tests/benchmarks/bench_param_scope.py
"""

from __future__ import annotations

import statistics
import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from importlib.metadata import version
from timeit import Timer
from typing import Any

from rich.console import Console
from rich.table import Table

from prefect_optuna.tasks.scope import UnreadParameterWarning, auto_param, param_scope

try:
    from hyperparameter import param, scope
except ImportError:
    sys.exit("Expected the package to compare with: pip install hyperparameter")

ROUNDS = 11
SECONDS = 0.01  # of one measurement, about
BARE: ContextVar[dict[str, Any]] = ContextVar("bare")

# Name, statement, what is set around it, and how many times faster it has to be.
CASES: list[tuple[str, str, dict[str, Any], float | None]] = [
    ("param_scope.x(1)", "S.x(1)", {"x": 2}, 60),
    ("param_scope.x | 1", "S.x | 1", {"x": 2}, 60),
    ("param_scope.s(1), a text", "S.s(1)", {"s": "2"}, None),
    ("param_scope.missing(1)", "S.missing(1)", {"x": 2}, None),
    ("param_scope.a.b.c(1)", "S.a.b.c(1)", {"a": {"b": {"c": 2}}}, 60),
    ("ps.x(1)", "ps.x(1)", {"x": 2}, 4),
    ("ps.x | 1", "ps.x | 1", {"x": 2}, None),
    ("ps.a.b.c(1)", "ps.a.b.c(1)", {"a": {"b": {"c": 2}}}, None),
    ("param_scope.x = 1", "S.x = 1", {"x": 2}, None),
    ("enter and exit, empty", "with S(): pass", {}, None),
    ("enter and exit, 1 keyword", "with S(x=1): pass", {"x": 1}, 4),
    ("enter and exit, 'x=1'", "with S('x=1'): pass", {"x": 1}, None),
    ("enter and exit, 20 keywords", "with S(**twenty): pass", {}, None),
    ("enter and exit, outermost", "with S(x=1): pass", {}, None),
    ("enter, read and exit, outermost", "with S(x=1): S.x(1)", {}, None),
    ("enter and exit, 100 inherited", "with S(x=1): pass", {f"k{i}": i for i in range(100)}, 6),
    ("ten nested scopes", "nest(10)", {"x": 1}, 3.5),
    ("plain foo(1)", "plain(1)", {}, None),
    ("auto foo(1), no scope", "foo(1)", {}, 50),
    ("auto foo(1), 'foo.b=3'", "foo(1)", {"foo.b": "3"}, 12),
    ("auto foo(1), foo.b=3", "foo(1)", {"foo.b": 3}, None),
    ("auto foo(1), 100 other keys", "foo(1)", {f"k{i}": i for i in range(100)}, None),
]


def names(make: Any, decorate: Callable[..., Any]) -> dict[str, Any]:
    """What the statements refer to."""

    def nest(depth: int) -> None:
        if depth:
            with make(x=depth):
                nest(depth - 1)

    def foo(a: int, b: int = 2, c: str = "c") -> int:
        return a

    twenty = {f"t{i}": i for i in range(20)}
    return {"S": make, "nest": nest, "plain": foo, "foo": decorate(foo), "twenty": twenty}


def timer(statement: str, globals_: dict[str, Any]) -> Callable[[], float]:
    """A function that measures a statement once, in nanoseconds without the loop."""
    statement_timer, empty = Timer(statement, globals=globals_), Timer("pass")
    number = max(10, int(SECONDS / max(statement_timer.timeit(10) / 10, 1e-9)))
    return lambda: (statement_timer.timeit(number) - empty.timeit(number)) / number * 1e9


def measure(statement: str, values: dict[str, Any]) -> tuple[float, float, float]:
    """Medians in nanoseconds: ours, theirs, and their ratio."""
    ours, theirs = names(param_scope, auto_param), names(scope, param)
    rounds: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        pair: list[float] = []
        for globals_ in (ours, theirs):
            if not values:
                pair.append(timer(statement, globals_)())
                continue
            with globals_["S"](**values) as ps:
                pair.append(timer(statement, globals_ | {"ps": ps})())
        rounds.append((pair[0], pair[1]))
    ratio = statistics.median(other / own for own, other in rounds)
    return *(statistics.median(column) for column in zip(*rounds, strict=True)), ratio


def main() -> None:
    """Measure, and print the table."""
    # Nobody reads what is entered and left; to find that out belongs to what is measured.
    warnings.simplefilter("ignore", UnreadParameterWarning)
    BARE.set({"x": 1})
    bare = statistics.median(timer("get().get('x', 1)", {"get": BARE.get})() for _ in range(ROUNDS))
    table = Table(
        title=f"bench_param_scope: medians of {ROUNDS} interleaved rounds, "
        f"hyperparameter {version('hyperparameter')}; a bare look-up takes {bare:.0f} ns"
    )
    table.add_column("case")
    for column in ("ours, ns", "theirs, ns", "times faster", "aim", "ours / bare"):
        table.add_column(column, justify="right")
    for name, statement, values, aim in CASES:
        ours, theirs, ratio = measure(statement, values)
        shown = f"[{'red' if aim and ratio < aim else 'default'}]{ratio:.1f}"
        limit = f"{aim:g}" if aim else ""
        table.add_row(name, f"{ours:.0f}", f"{theirs:.0f}", shown, limit, f"{ours / bare:.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
