"""What `import prefect_optuna.flows` costs, against what it stands on.

Aim: at most 1.15 times `import prefect, optuna`. Whoever writes a flow pays in addition for what
Prefect imports when it is first asked for `flow`: the floor. Fresh interpreters, interleaved.
"""

import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

ROUNDS = 15
CASES = {
    "import prefect, optuna": "import prefect, optuna",
    "a flow and a block": (
        "from prefect import flow; from prefect.blocks.core import Block; import optuna"
    ),
    "import prefect_optuna.flows": "import prefect_optuna.flows",
    "... import optimize": "from prefect_optuna.flows import optimize",
    "... import ArchivedStudy": "from prefect_optuna.tasks import ArchivedStudy",
    "import prefect_optuna.blocks": "import prefect_optuna.blocks",
}


def seconds(statement: str) -> float:
    """One fresh interpreter that runs the statement, in seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure, and print the table."""
    for statement in CASES.values():  # byte code and the disk's cache
        seconds(statement)
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(ROUNDS):
        for name, statement in CASES.items():
            times[name].append(seconds(statement))
    base = times["import prefect, optuna"]
    table = Table(title=f"bench_import: medians of {ROUNDS} fresh interpreters")
    table.add_column("statement")
    table.add_column("seconds", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("aim", justify="right")
    for name, measured in times.items():
        ratio = statistics.median(m / b for m, b in zip(measured, base, strict=True))
        aim = "1.15" if name.endswith("flows") else ""
        table.add_row(name, f"{statistics.median(measured):.2f}", f"{ratio:.2f}", aim)
    Console().print(table)


if __name__ == "__main__":
    main()
