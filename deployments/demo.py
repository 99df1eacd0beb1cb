"""The demo: lynx and hares, from the first trial to the picture in Prefect's UI.

    python -m prefect_optuna.deployments.demo

It starts a Prefect server of its own with its history in `.prefect/`, optimizes the problem of
`flows/examples/lynx_hare.py`, and runs the best trial again from the archive.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from itertools import count

import optuna
from prefect.logging.configuration import setup_logging
from rich.console import Console

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.blocks.texts import markup, terminal
from prefect_optuna.deployments.local_server import LocalServer
from prefect_optuna.errors import PrefectOptunaError
from prefect_optuna.flows import StudyResult, optimize, reevaluate
from prefect_optuna.flows.examples.lynx_hare import PUBLISHED
from prefect_optuna.flows.wording import best_trials_table, count_states
from prefect_optuna.tasks import ArchivedStudy, Problem
from prefect_optuna.tasks.archive import Capture

PROBLEM = "prefect_optuna.flows.examples.lynx_hare:problem"
TRIALS = 300
SEED = 2


def main(shows: str = "make ui") -> int:
    """Run the demo.

    Args:
        shows: the command that shows it in Prefect afterwards.

    Returns:
        The exit code: 0, or 1 where it could not be run, or the best trial did not give its value
        again.
    """
    console = terminal(soft_wrap=True)
    try:
        return _run(console, shows)
    except (PrefectOptunaError, OSError) as error:  # each has a sentence for people
        terminal(stderr=True, soft_wrap=True).print(f"[bold red]Error:[/] {markup(str(error))}")
        return 1


def _run(console: Console, shows: str) -> int:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # In the terminal only; Prefect's UI has it all.
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "WARNING"
    setup_logging()
    started = time.monotonic()
    console.print(
        "\n[bold]Lynx and hares[/]: the Lotka-Volterra equations, fitted to the pelts that the\n"
        f"Hudson's Bay Company took from 1900 to 1920. {TRIALS} trials of TPE, one Prefect flow.\n"
    )
    name = study_name(Problem.of(PROBLEM))  # before the server: the folder may not be writable
    with console.status("Starting a Prefect server ..."):
        server = LocalServer().__enter__()
    with contextlib.ExitStack() as stack:
        stack.push(server.__exit__)
        console.print(f"[dim]Prefect's server is {server.url}, its history is kept in .prefect/[/]")
        result = optimize(PROBLEM, study_name=name, n_trials=TRIALS, seed=SEED)
        again = reevaluate(name, trials="best:1", trusted=True)
        with console.status("Waiting until the server has taken in all task runs ..."):
            server.wait_for_task_runs(result.flow_run_id or "", result.n_task_runs)
    _show(console, result)
    best = again.trials[0]
    equal = best.values[:1] == [best.archived]
    verdict = "[bold green]equal[/]" if equal else f"[bold red]{best.verdict}[/]"
    now = best.values[0] if best.values else markup(best.message)
    console.print(
        f"\nTrial {best.number} again, from the archive, in a process that never saw the script:\n"
        f"  archived {best.archived}\n  now      {now}   {verdict}\n"
    )
    seconds = time.monotonic() - started
    console.print(f"[bold]{shows}[/] shows it in Prefect. [dim]({seconds:.0f} s)[/]\n")
    return 0 if best.verdict == "reproduced" else 1


def study_name(problem: Problem) -> str:
    """The first of lynx-hare, lynx-hare-2, ... that is new, or was interrupted with this code."""
    existing = as_study_storage(None).study_names()
    names = ("lynx-hare" if number == 1 else f"lynx-hare-{number}" for number in count(1))
    return next(n for n in names if n not in existing or _is_interrupted(n, problem))


def _is_interrupted(name: str, problem: Problem) -> bool:
    try:
        archived = ArchivedStudy.load(name)
    except PrefectOptunaError:
        return False
    counts = count_states(archived.study.get_trials(deepcopy=False))
    finished = counts["complete"] + counts["pruned"] + counts["failed"]
    return finished < TRIALS and archived.capture().code_version == Capture.of(problem).code_version


def _show(console: Console, result: StudyResult) -> None:
    table = best_trials_table(result.load_study().get_trials(deepcopy=False), result.directions)
    published = ", ".join(f"{name} {value:g}" for name, value in PUBLISHED.items())
    table.caption = f"published: {published}"
    table.caption_justify = "left"
    console.print(table, soft_wrap=False)
    console.print(
        f"\n[dim]trials [/]  {result.n_trials} in {result.n_task_runs} task runs"
        f"\n[dim]study  [/]  {result.study_name} in {markup(result.storage)}"
        f"\n[dim]archive[/]  {markup(result.artifacts)}"
        f"\n[dim]picture[/]  {markup(str(result.picture))}"
    )


if __name__ == "__main__":
    sys.exit(main())
