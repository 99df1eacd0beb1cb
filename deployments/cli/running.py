"""Commands that run something on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from prefect_optuna.deployments.cli.arguments import HERE, Json, Places, Study
from prefect_optuna.deployments.cli.output import OK, answer, markup, note, working


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

    from prefect_optuna.deployments.work_pools import page_of, prefect_server
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
    from prefect_optuna.deployments.dashboard import Dashboard

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
    from prefect_optuna.deployments.serve import LocalWorker, make_process_pool, usual_port_if_free
    from prefect_optuna.deployments.work_pools import STUDIES_QUEUE
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
