"""What finding an artifact handler costs, against lazyscribe's look-up in the same run.

Aim: less than 5 microseconds, by alias and by the type of a value. Medians of interleaved rounds.

    python tests/benchmarks/handler_lookups.py
"""

import statistics
import timeit
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from prefect_optuna.blocks.artifacts import find_handler, handler_for, handlers

ROUNDS = 7
CALLS = 2000
AIM = "< 5 µs"


class Settings(BaseModel):
    """A pydantic model."""

    rate: float = 0.1


def ways() -> dict[str, tuple[Callable[[], object], int]]:
    """What is measured, and how often in one round."""
    series = {f"series {i}": np.zeros(1) for i in range(10)}
    values = {
        "dict of parameters": {f"x{i}": 0.5 for i in range(10)},
        "text": "some text",
        "array": np.zeros(3),
        "dict of 10 arrays": series,
        "pandas.DataFrame": pd.DataFrame(),
        "pydantic model": Settings(),
        "matplotlib figure": Figure(),
    }
    found: dict[str, tuple[Callable[[], object], int]] = {
        "by alias": (lambda: find_handler("json"), CALLS)
    }
    for name, value in values.items():
        found[f"by value: {name}"] = (lambda value=value: handler_for(value), CALLS)
    try:
        from lazyscribe.artifacts import _get_handler
    except ImportError:
        return found
    return {"lazyscribe, by alias": (lambda: _get_handler("json"), 10), **found}


def handler_rows() -> list[tuple[str, str, str, str]]:
    """Measure: way, microseconds, times faster than lazyscribe, aim."""
    handlers()  # where the installed packages are searched, once in a process
    measured: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, (way, calls) in ways().items():
            measured.setdefault(name, []).append(timeit.timeit(way, number=calls) / calls)
    base = measured.get("lazyscribe, by alias")
    rows: list[tuple[str, str, str, str]] = []
    for name, seconds in measured.items():
        ratio = "-"
        if base is not None:
            ratio = f"{statistics.median(b / s for b, s in zip(base, seconds, strict=True)):,.0f}"
        microseconds = f"{statistics.median(seconds) * 1e6:,.2f}"
        rows.append((name, microseconds, ratio, "" if name.startswith("lazy") else AIM))
    return rows


def main() -> None:
    """Print the table."""
    table = Table(title=f"handler_lookups: look-up, medians of {ROUNDS} interleaved rounds")
    for column in ("way", "µs", "times faster", "aim"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for row in handler_rows():
        table.add_row(*row)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
