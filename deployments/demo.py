"""The demo: lynx and hares, from the first trial to the picture in Prefect's UI.

    python -m prefect_optuna.deployments.demo

It starts a Prefect server of its own with its history in `.prefect/`, optimizes the problem of
`flows/examples/lynx_hare.py`, and runs the best trial again from the archive.
"""

from __future__ import annotations

import logging
import sys
import time
from itertools import count

import optuna
from rich.console import Console

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.blocks.errors import PrefectOptunaError
from prefect_optuna.deployments.local_server import LocalServer
from prefect_optuna.flows import StudyResult, optimize, reevaluate
from prefect_optuna.flows.progress import best_trials_table
from prefect_optuna.tasks import ArchivedStudy, Problem
from prefect_optuna.tasks.archive import Capture

__all__ = ["main"]

PROBLEM = "prefect_optuna.flows.examples.lynx_hare:problem"
TRIALS = 300
SEED = 2


def main() -> int:
    """Run the demo.

    Returns:
        The exit code: 0, or 1 where the best trial did not give its value again.
    """
    console = Console(highlight=False)
    for name in ("prefect", "optuna"):
        logging.getLogger(name).setLevel(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    started = time.monotonic()
    console.print(
        "\n[bold]Lynx and hares[/]: the Lotka-Volterra equations, fitted to the pelts that the "
        "Hudson's Bay\nCompany took from 1900 to 1920. "
        f"{TRIALS} trials of TPE as one Prefect flow.\n"
    )
    with LocalServer() as server:
        console.print(f"[dim]Prefect server at {server.url}, its history in .prefect/[/]")
        problem = Problem.of(PROBLEM)
        result = optimize(
            PROBLEM, study_name=study_name(problem), n_trials=TRIALS, seed=SEED, progress=True
        )
        again = reevaluate(result.study_name, trials="best:1", trusted=True)
        server.wait_for_task_runs(result.flow_run_id, result.n_task_runs)
    _show(console, problem, result)
    best = again.trials[0]
    reproduced = best.verdict == "reproduced"
    console.print(
        f"Run again from the archive, in a process that never saw the script: trial "
        f"{best.number} gave [bold]{best.values[0]!r}[/], archived {best.archived!r}: "
        + ("[bold green]equal[/]" if best.values[0] == best.archived else f"[red]{best.verdict}[/]")
    )
    console.print(
        f"\n{time.monotonic() - started:.0f} s in all. [bold]make ui[/] shows it in Prefect.\n"
    )
    return 0 if reproduced else 1


def study_name(problem: Problem) -> str:
    """The first of lynx-hare, lynx-hare-2, ... that is new, or was interrupted with this code."""
    storage = as_study_storage(None)
    existing = storage.study_names()
    for number in count(1):
        name = "lynx-hare" if number == 1 else f"lynx-hare-{number}"
        if name not in existing or _is_interrupted(name, problem):
            return name
    raise AssertionError("unreachable")


def _is_interrupted(name: str, problem: Problem) -> bool:
    study = as_study_storage(None).load_study(name)
    finished = sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
    if finished >= TRIALS:
        return False
    try:
        archived = ArchivedStudy.load(name).capture()
        return archived.code_version == Capture.of(problem).code_version
    except PrefectOptunaError:
        return False


def _show(console: Console, problem: Problem, result: StudyResult) -> None:
    study = result.load_study()
    console.print(best_trials_table(study.get_trials(deepcopy=False), result.directions, k=5))
    console.print(f"\nStudy    {result.study_name} in {result.storage}")
    console.print(f"Archive  {result.artifacts}")
    console.print(f"Picture  {result.picture}\n")


if __name__ == "__main__":
    sys.exit(main())
