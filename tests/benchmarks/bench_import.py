"""What `import prefect_optuna.flows` costs, against what it stands on.

Aim: at most 1.15 times `import prefect, optuna`. Whoever writes a flow pays in addition for what
Prefect imports when it is first asked for `flow`: the floor. Fresh interpreters, interleaved, by
their processor time, since others may use the machine. `prefect-optuna studies`: at most 1.2 times.
"""

import resource
import statistics
import subprocess
import sys
import tempfile

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
    "prefect-optuna studies": "from prefect_optuna.deployments.cli import main; main(['studies'])",
}
AIMS = {"import prefect_optuna.flows": "1.15", "prefect-optuna studies": "1.20"}
A_STUDY = """
import optuna
from prefect_optuna.blocks import as_study_storage
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = as_study_storage(None).create_study("small")
study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=20)
"""


def seconds(statement: str, folder: str) -> float:
    """The processor time of one fresh interpreter that runs the statement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", statement], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, and print the table."""
    times: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        seconds(A_STUDY, folder)
        for statement in CASES.values():  # byte code and the disk's cache
            seconds(statement, folder)
        for _ in range(ROUNDS):
            for name, statement in CASES.items():
                times[name].append(seconds(statement, folder))
    base = times["import prefect, optuna"]
    table = Table(title=f"bench_import: medians of {ROUNDS} fresh interpreters")
    table.add_column("statement")
    table.add_column("seconds", justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("aim", justify="right")
    for name, measured in times.items():
        ratio = statistics.median(m / b for m, b in zip(measured, base, strict=True))
        shown = f"{statistics.median(measured):.2f}", f"{ratio:.2f}", AIMS.get(name, "")
        table.add_row(name, *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
