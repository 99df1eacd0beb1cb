"""Commands that run archived trials again: of a study that is here, or of one file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from prefect_optuna.deployments.cli.arguments import (
    HERE,
    NO_SCOPE,
    Json,
    Places,
    Scope,
    Study,
    Variables,
)
from prefect_optuna.deployments.cli.output import DRIFT, OK, answer, markup, working

if TYPE_CHECKING:
    from prefect_optuna.flows import Reevaluation


@Parameter(name="*")
@dataclass(frozen=True)
class Again:
    """Which trials run again, and how."""

    best: Annotated[int | None, Parameter(help="Short for *--which best:K*.")] = None
    which: Annotated[
        str,
        Parameter(
            metavar="SELECTION",
            help="*best:5*, *pareto*, *complete*, *pruned*, *failed*, *all* or numbers as *3,17*.",
        ),
    ] = "best:1"
    trusted: Annotated[
        bool,
        Parameter(negative="", help="The archived code may run here; look at *show* first."),
    ] = False
    repeats: Annotated[int, Parameter(help="How many times each is run.")] = 1
    reseed: Annotated[
        bool,
        Parameter(negative="", help="Each time with another seed: how much of it is luck?"),
    ] = False
    threads: Annotated[
        Literal["recorded", "here"],
        Parameter(help="Threads, hash seed and BLAS kernel as they were, or as they are here."),
    ] = "recorded"
    inputs: Annotated[
        Literal["here", "archived"] | None,
        Parameter(help="Files that trials have read: those that are here, or the archived ones."),
    ] = None
    why: Annotated[
        bool,
        Parameter(negative="", help="Find the cause of a drift, by putting back what differs."),
    ] = False
    rtol: Annotated[float, Parameter(help="How far a value may differ, relatively.")] = 1e-9
    atol: Annotated[float, Parameter(help="How far a value may differ, absolutely.")] = 0.0
    jobs: Annotated[int, Parameter(name=("--jobs", "-j"), help="At once; -1 for all cores.")] = 1
    environment_variable: Variables = ()

    def keywords(self) -> dict[str, Any]:
        """Return them as `reevaluate` of the flows takes them."""
        from prefect_optuna.blocks import InvalidSettingError
        from prefect_optuna.deployments.cli.looking import as_selection

        if self.best is not None and self.best < 1:
            raise InvalidSettingError(f"--best is 1 or more; found {self.best}.")
        return {
            "trials": f"best:{self.best}" if self.best else as_selection(self.which),
            "repeats": self.repeats,
            "reseed": self.reseed,
            "threads": self.threads,
            "inputs": self.inputs or "here",
            "why": self.why,
            "trusted": self.trusted,
            "environment_variables": self.environment_variable,
            "rtol": self.rtol,
            "atol": self.atol,
            "n_jobs": self.jobs,
        }


AS_IT_WAS: Again = Again()
"""The best trial, once."""


def reevaluate(
    study: Study,
    /,
    *,
    again: Again = AS_IT_WAS,
    environment: Annotated[
        Literal["here", "recorded", "closest"],
        Parameter(help="Python and packages as they are here, as they were, or nearly so."),
    ] = "here",
    scope: Scope = NO_SCOPE,
    places: Places = HERE,
    json: Json = False,
) -> int:
    """Run archived trials again, in a fresh process, and compare.

    The exit code is 3 where one of them is not reproduced, unless by other seeds.

    ```
    prefect-optuna reevaluate lynx-hare --best 5 --trusted
    prefect-optuna reevaluate lynx-hare --repeats 5 --reseed --trusted
    prefect-optuna reevaluate lynx-hare --environment recorded --trusted
    prefect-optuna reevaluate lynx-hare --best 5 --trusted --why
    prefect-optuna reevaluate lynx-hare --which 17 --trusted -D simulate.dt=0.001
    ```
    """
    options = again.keywords() | places.keywords()
    return _show(_run_again(study, environment=environment, scope=scope, **options), json)


def rerun(
    file: Annotated[Path, Parameter(help="A file that *export* has written.")],
    /,
    *,
    again: Again = AS_IT_WAS,
    environment: Annotated[
        Literal["here", "recorded", "closest"],
        Parameter(help="Python and packages as they were, nearly so, or as they are here."),
    ] = "recorded",
    scope: Scope = NO_SCOPE,
    json: Json = False,
) -> int:
    """Run archived trials of an exported study again, and keep nothing.

    It takes this one file: the Python and the packages that were recorded are fetched by uv, which
    keeps them for the next time, and files that trials have read are those of the archive where it
    has them. The exit code is that of *reevaluate*.

    ```
    prefect-optuna rerun lynx-hare.study.zip --best 3 --trusted
    prefect-optuna rerun lynx-hare.study.zip --trusted --environment here
    ```
    """
    from prefect_optuna.tasks import ArchivedStudy

    options = again.keywords()
    with tempfile.TemporaryDirectory(prefix="prefect-optuna-", ignore_cleanup_errors=True) as made:
        scratch = Path(made)
        places: dict[str, Any] = {
            "storage": f"journal:///{scratch / 'studies.journal'}",
            "artifacts": str(scratch / "artifacts"),
        }
        with working(f"Importing {file} ..."):
            archived = ArchivedStudy.import_(file, **places)
        if again.inputs is None and again.trusted:
            versions = range(len(archived.versions))
            read = [file for version in versions for file in archived.inputs(version)]
            if any(one.relative for one in read) and all(one.kept for one in read if one.relative):
                options["inputs"] = "archived"
        study = archived.study.study_name
        result = _run_again(study, environment=environment, scope=scope, **options, **places)
    return _show(result, json)


def _run_again(study: str, *, scope: Scope, **options: Any) -> Reevaluation:
    from prefect.settings import get_current_settings

    from prefect_optuna.deployments.work_pools import prefect_server
    from prefect_optuna.flows import reevaluate as run_again

    if get_current_settings().api.url:
        with prefect_server():
            pass  # that one is configured and does not answer is said at once
    with working(f"Running trials of {study!r} again ..."):
        return run_again(study, scope=scope.values() or None, **options)


def _show(result: Reevaluation, json: bool) -> int:
    """Show the outcomes of the trials, and return the exit code."""
    from prefect_optuna.deployments.cli.tables import reevaluation_table
    from prefect_optuna.flows.wording import format_value
    from prefect_optuna.tasks.reevaluation.verdicts import luck_words

    colour = "yellow" if result.drifted else "green"
    shown = [f"[bold {colour}]{result.headline}[/]", reevaluation_table(result)]
    for trial in result.trials:
        said = [trial.message, trial.cause] if trial.experiments else [trial.message or trial.cause]
        reason = ": ".join(filter(None, said)) or luck_words(trial, format_value)
        if reason:
            shown.append(f"[dim]trial {trial.number}:[/] {markup(reason)}")
        shown += [f"[dim]  {markup(line)}[/]" for line in trial.experiments]
    shown += [f"[dim]environment:[/] {markup(line)}" for line in result.notes]
    document = {
        "study": result.study_name,
        "reproduced": result.reproduced,
        "headline": result.headline,
        "trials": [trial.model_dump(mode="python") for trial in result.trials],
        "scope": result.scope,
        "environment": result.environment,
        "notes": result.notes,
        "changes": result.changes,
    }
    answer(document, *shown, as_json=json)
    return DRIFT if result.drifted else OK
