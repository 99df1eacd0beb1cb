"""Commands that run something on this machine: a study, archived trials, a server."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from prefect_optuna.deployments.cli.output import (
    DRIFT,
    HERE,
    NO_SCOPE,
    OK,
    Json,
    Places,
    Scope,
    Study,
    Variables,
    answer,
    markup,
    note,
    working,
)

if TYPE_CHECKING:
    from prefect_optuna.flows import Reevaluation

# Commands that run archived trials again: of a study that is here, or of one file.


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

    from prefect_optuna.deployments.pools import prefect_server
    from prefect_optuna.flows import reevaluate as run_again

    if get_current_settings().api.url:
        with prefect_server():
            pass  # that one is configured and does not answer is said at once
    with working(f"Running trials of {study!r} again ..."):
        return run_again(study, scope=scope.values() or None, **options)


def _show(result: Reevaluation, json: bool) -> int:
    """Show the outcomes of the trials, and return the exit code."""
    from prefect_optuna.deployments.cli.views import reevaluation_table
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


# Commands for the server of this directory, and the demo.


def demo() -> int:
    """Fit a predator-prey model, from the first trial to the picture in Prefect's UI.

    It takes about a minute, and keeps its studies in *.prefect-optuna* and its history in
    *.prefect* below this directory.

    ```
    prefect-optuna demo
    ```
    """
    from prefect_optuna.deployments.demo import main

    return main(shows="prefect-optuna serve")


def up(
    *,
    idle: Annotated[
        float, Parameter(metavar="MINUTES", help="It ends when nobody has used it for so long.")
    ] = 10.0,
    json: Json = False,
) -> None:
    """Start a Prefect server for this directory in the background.

    `optimize` and the other commands in this directory find it, and its history stays in
    *.prefect-optuna/prefect*. Nothing happens where one runs already.

    ```
    prefect-optuna up
    python study.py
    prefect-optuna down
    ```
    """
    from prefect_optuna.blocks import InvalidSettingError
    from prefect_optuna.deployments.serve import bring_up

    if not idle > 0:
        raise InvalidSettingError(f"--idle is in minutes, more than 0; found {idle:g}.")
    with working("Starting the server ..."):
        server = bring_up(idle)
    answer(
        {"url": server.url, "api_url": f"{server.url}/api", "home": str(server.home)},
        f"Prefect: [bold]{server.url}[/]",
        as_json=json,
    )
    if server.background:
        note(f"[dim]Ends with prefect-optuna down, or when unused. History: {server.home}[/]")


def down(*, json: Json = False) -> None:
    """End the server that *up* has started; its history stays.

    ```
    prefect-optuna down
    ```
    """
    from prefect_optuna.deployments.serve import bring_down

    with working("Stopping the server ..."):
        ended = bring_down()
    document = {"url": ended.url if ended else None, "ended": ended is not None}
    text = f"Stopped: {ended.url}" if ended else "No server runs for this directory."
    answer(document, text, as_json=json)


def status(*, json: Json = False) -> int:
    """Say which Prefect server programs in this directory use.

    ```
    prefect-optuna status
    ```
    """
    from prefect.settings import get_current_settings

    from prefect_optuna.blocks._secrets import without_secrets
    from prefect_optuna.deployments.cli.views import facts
    from prefect_optuna.deployments.serve import running_server

    server = running_server()
    used = without_secrets(get_current_settings().api.url or "") or None
    here = server is not None and used == f"{server.url}/api"
    started = None if server is None else f"prefect-optuna {'up' if server.background else 'serve'}"
    document = {
        "url": server.url if server else None,
        "home": str(server.home) if server else None,
        "started_by": started,
        "used_api_url": used,
    }
    rows = {
        "server": f"[bold]{server.url}[/] ({started})" if server else "none for this directory",
        "history": markup(str(server.home)) if server else "",
        "used": "" if here else markup(used or "a temporary one, whose history is lost"),
    }
    answer(document, facts(rows), as_json=json)
    if server is None and used is None:
        note("[dim]prefect-optuna up starts one that stays, in the background.[/]")
    return OK


def report(
    study: Study,
    /,
    *,
    output: Annotated[
        Path | None,
        Parameter(
            name=("--output", "-o"),
            metavar="FILE",
            help="Write it to this file, .html, .pdf or .md, and leave Prefect alone.",
        ),
    ] = None,
    places: Places = HERE,
    json: Json = False,
) -> None:
    """Renew a study's report in Prefect's UI, and say where it is.

    ```
    prefect-optuna report lynx-hare
    prefect-optuna report lynx-hare --output lynx-hare.html
    ```
    """
    if output is not None:
        from prefect_optuna.flows.report_flow import write_report

        with working("Drawing the report ..."):
            write_report(study, output, **places.keywords())
        answer({"path": str(output)}, markup(str(output)), as_json=json)
        return
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    from prefect_optuna.deployments.pools import page_of, prefect_server
    from prefect_optuna.flows.report_flow import report as publish

    with working("Drawing the report ..."), prefect_server() as client:
        key = publish(study, **places.keywords())
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])),
            sort=ArtifactSort.CREATED_DESC,
            limit=1,
        )
    url = page_of("artifact", artifacts[0].id) if artifacts else None
    answer({"key": key, "url": url}, markup(url or key), as_json=json)


def gc(
    *,
    delete: Annotated[
        bool, Parameter(negative="", help="Remove it; otherwise it is only listed.")
    ] = False,
    other_storage: Annotated[
        list[str] | None,
        Parameter(
            metavar="PLACE",
            negative="",
            help="Another storage whose studies have their archives here; repeatable.",
        ),
    ] = None,
    places: Places = HERE,
    json: Json = False,
) -> None:
    """List what deleted studies have left, or remove it.

    That includes the content of artifacts that have expired, and environments on this machine in
    which no archived trial has run for 30 days.

    ```
    prefect-optuna gc
    prefect-optuna gc --delete
    ```
    """
    from prefect_optuna.tasks import collect_garbage
    from prefect_optuna.tasks.environments import collect_environments, garbage_text

    with working("Looking for garbage ..."):
        garbage = collect_garbage(
            places.artifacts, [places.storage, *(other_storage or [])], dry_run=not delete
        )
        environments = collect_environments(dry_run=not delete)
    document = {
        "removed": delete,
        "studies": [vars(study) for study in garbage.studies],
        "blobs": garbage.blobs,
        "versions": [{"name": v.name, "version": v.version} for v in garbage.versions],
        "objects": garbage.objects,
        "leftovers": garbage.leftovers,
        "environments": [vars(environment) for environment in environments],
    }
    text = garbage_text(garbage, environments, dry=not delete)
    text = text.replace("by dry_run=False", "by --delete")
    answer(document, markup(text), as_json=json)


def dashboard(
    *,
    port: Annotated[
        int | None, Parameter(help="The TCP port; by default 8080, or a free one.")
    ] = None,
    host: Annotated[
        str, Parameter(help="The address to listen on; *0.0.0.0* for the whole network.")
    ] = "127.0.0.1",
    places: Places = HERE,
    json: Json = False,
) -> int:
    r"""Open the studies in optuna-dashboard, until Ctrl-C.

    Anybody who reaches the address may change the studies: it has no passwords.

    ```
    prefect-optuna dashboard
    prefect-optuna dashboard --storage redis-study-storage/lab \
        --artifacts artifact-file-system/lab
    ```
    """
    from prefect_optuna.deployments.ui import Dashboard

    with working("Opening the studies ..."):
        server = Dashboard(host=host, port=port, **places.keywords())
    with server, _until_interrupted():
        answer(
            {"url": server.url, "storage": server.location},
            f"optuna-dashboard: [bold]{server.url}[/]",
            as_json=json,
        )
        note(
            f"[dim]Studies of {markup(server.location)}. For links from the reports, set:\n"
            f"  export PREFECT_INTEGRATIONS_OPTUNA_DASHBOARD_URL={server.url}\nCtrl-C ends it.[/]"
        )
        server.wait()
    return OK


def serve(
    *,
    pool: Annotated[str, Parameter(help="The work pool, which is made if need be.")] = "lab",
    workers: Annotated[int, Parameter(help="How many workers.")] = 1,
    limit: Annotated[
        int | None,
        Parameter(help="How many runs each has at once; by default any number."),
    ] = None,
    port: Annotated[
        int | None, Parameter(help="Of the server; by default 4200, or a free one.")
    ] = None,
    home: Annotated[Path, Parameter(help="Where the server keeps its history.")] = Path(".prefect"),
    json: Json = False,
) -> int:
    """Start a server, a pool and a worker here, for trying.

    It ends with Ctrl-C, and keeps its history. Other commands in this directory find the server by
    themselves.

    ```
    prefect-optuna serve
    prefect-optuna deploy lynx_hare:problem --study lynx-hare --trials 300 --run
    ```
    """
    from prefect_optuna.blocks import InvalidSettingError
    from prefect_optuna.deployments.local_server import LocalServer
    from prefect_optuna.deployments.pools import STUDIES_QUEUE
    from prefect_optuna.deployments.serve import LocalWorker, make_process_pool, usual_port_if_free
    from prefect_optuna.errors import ServerUnavailableError

    if workers < 0:
        raise InvalidSettingError(f"--workers is 0 or more; found {workers}.")
    if limit is not None and limit < 1:
        raise InvalidSettingError(f"--limit is 1 or more; found {limit}.")
    with contextlib.ExitStack() as stack, _until_interrupted():
        with working("Starting the server ..."):
            server = stack.enter_context(LocalServer(home, port=port or usual_port_if_free()))
            make_process_pool(pool)
        queue = None if limit is None else "default"
        started = [
            LocalWorker(pool, home / f"worker-{n + 1}.log", limit=limit, queue=queue)
            for n in range(workers)
        ]
        if queue and workers:  # who distributes a study waits, and takes no place of those who work
            started.append(LocalWorker(pool, home / "studies.log", queue=STUDIES_QUEUE))
        with working("Starting the workers ..." if workers > 1 else "Starting the worker ..."):
            for worker in started:
                stack.callback(worker.stop)
                worker.start()
            for worker in started:
                worker.wait_until_ready()
        document = {
            "url": server.url,
            "api_url": server.api_url,
            "pool": pool,
            "workers": [worker.pid for worker in started],
        }
        noun = "worker" if workers == 1 else "workers"
        answer(
            document,
            f"Prefect: [bold]{server.url}[/]\npool   : {markup(pool)}, {workers} {noun}",
            as_json=json,
        )
        note(
            "[dim]Commands in this directory find it by themselves; elsewhere:\n"
            f"  export PREFECT_API_URL={server.api_url}\nCtrl-C ends it.[/]"
        )
        stack.callback(note, "[dim]Stopping ...[/]")
        ended = _first_to_end([server.pid, *(worker.pid for worker in started)])
        what = "server" if ended == server.pid else "worker"
        raise ServerUnavailableError(f"The {what} has ended by itself. Its log is in {home}.")
    note("Stopped.")
    return OK


@contextlib.contextmanager
def _until_interrupted() -> Generator[None]:
    """Ctrl-C, and being asked to end, is the normal end of what follows."""
    import signal
    import threading

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _first_to_end(pids: list[int | None]) -> int:
    """Wait until one of these processes ends."""
    import psutil

    processes: list[psutil.Process] = []
    for pid in filter(None, pids):
        try:
            processes.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            return pid
    while True:
        gone, _ = psutil.wait_procs(processes, timeout=1)
        if gone:
            return gone[0].pid
