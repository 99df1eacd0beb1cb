"""Commands that deploy."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from prefect_optuna.deployments.cli.output import (
    FAILED,
    HERE,
    NO_SCOPE,
    OK,
    ON_DEMAND,
    Json,
    Places,
    Pool,
    Schedule,
    Scope,
    Study,
    Variables,
    answer,
    markup,
    note,
    working,
)

if TYPE_CHECKING:
    from uuid import UUID

    from prefect_optuna.deployments.deploy import Deployed


def deploy(
    problem: Annotated[
        str,
        Parameter(help="*file.py:attribute*, *package.module:attribute*, or *archive*."),
    ],
    /,
    *,
    study: Annotated[str, Parameter(help="The study, which goes on if it exists.")],
    trials: Annotated[int | None, Parameter(help="How many are to be finished in total.")] = 100,
    timeout: Annotated[
        float | None, Parameter(help="Seconds after which no more trials are asked.")
    ] = None,
    workers: Annotated[
        int, Parameter(help="On how many flow runs, and so on how many machines.")
    ] = 1,
    jobs: Annotated[
        int | None, Parameter(name=("--jobs", "-j"), help="Trials at once in each run.")
    ] = None,
    sampler: Annotated[
        str | None, Parameter(help="*tpe*, *random*, *cmaes*, *gp*, *qmc*, *nsgaii*, ...")
    ] = None,
    pruner: Annotated[
        str | None, Parameter(help="*median*, *hyperband*, *percentile*, *none*, ...")
    ] = None,
    seed: Annotated[int | None, Parameter(help="Seeds the sampler, and the trials.")] = None,
    seed_trials: Annotated[
        bool, Parameter(help="Each trial's random numbers follow from a seed of its own.")
    ] = True,
    installed: Annotated[
        bool,
        Parameter(negative="", help="The workers import it, from a package that they have."),
    ] = False,
    install: Annotated[
        bool,
        Parameter(
            negative="",
            help="Workers that lack its packages build the environment that is recorded here.",
        ),
    ] = False,
    trusted: Annotated[
        bool, Parameter(negative="", help="The code of *archive* may run on the workers.")
    ] = False,
    resources: Annotated[
        str | None,
        Parameter(
            metavar="LIST", help="What one trial has to itself: *cpus=2,memory=4GiB,gpus=1*."
        ),
    ] = None,
    warm_start: Annotated[
        int | None,
        Parameter(
            metavar="COUNT",
            help="Each run is a study of its own, and begins with so many of the best of the last.",
        ),
    ] = None,
    watch: Annotated[
        bool, Parameter(negative="", help="Have it run now, and show how far it is.")
    ] = False,
    scope: Scope = NO_SCOPE,
    schedule: Schedule = ON_DEMAND,
    places: Places = HERE,
    json: Json = False,
) -> int:
    r"""Deploy the optimization of a problem to a work pool.

    Its code goes along: workers need the packages that it imports, and not its files; with
    *--install* they fetch those that they lack. Changed code
    that is deployed again is a new version of the study. With *archive*, the workers take the
    version that the study's archive has.

    ```
    prefect-optuna deploy lynx_hare.py:problem --study lynx-hare --watch
    prefect-optuna deploy lynx_hare:problem --study lynx-hare --run \
        --trials 1000 --workers 4 --pool lab \
        --storage redis-study-storage/lab --artifacts artifact-file-system/lab
    prefect-optuna deploy lynx_hare.py:problem --study weekly --warm-start 5 --cron "0 4 * * 1"
    ```
    """
    from prefect_optuna.blocks import InvalidSettingError
    from prefect_optuna.deployments.deploy import deploy_optimization

    if watch and warm_start is not None:
        raise InvalidSettingError(
            "With --warm-start, each run is a study of its own: start it with --run, and watch the "
            "study that its log names: prefect-optuna watch STUDY."
        )
    options = {
        "sampler": sampler,
        "pruner": pruner,
        "seed": seed,
        "n_jobs": jobs,
        "warm_start": warm_start,
    }
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if not seed_trials:
        given["seed_trials"] = False
    if values := scope.values():
        given["scope"] = values
    with working("Deploying ..."):
        deployed = deploy_optimization(
            problem,
            study_name=study,
            n_trials=trials,
            timeout=timeout,
            workers=workers,
            options=given,
            installed=installed,
            install=install,
            trusted=trusted,
            resources=resources,
            **places.keywords(),
            **schedule.keywords(),
        )
    run = deployed.run() if watch or schedule.run else None
    _show_deployed(deployed, schedule, run, as_json=json)
    if not watch or run is None:
        return OK
    from prefect_optuna.deployments.cli.views import watch_study

    state = watch_study(run, study, deployed.parameters["storage"], trials, deployed.pool)
    if state.is_completed():
        return OK
    note(f"[bold red]{state.name}[/] {markup(state.message or '')}")
    return FAILED


def deploy_reevaluation(
    study: Study,
    /,
    *,
    best: Annotated[int | None, Parameter(help="Short for *--which best:K*.")] = None,
    which: Annotated[
        str, Parameter(metavar="SELECTION", help="As in *reevaluate*, words only.")
    ] = "best:1",
    trusted: Annotated[
        bool,
        Parameter(negative="", help="The archived code may run on the workers."),
    ] = False,
    fail_on_drift: Annotated[
        bool, Parameter(negative="", help="The flow run fails where a trial differs.")
    ] = False,
    environment: Annotated[
        Literal["here", "recorded", "closest", "both"],
        Parameter(
            help="Python and packages as they were, as close as can be, the worker's, or *both*: "
            "the worker's, and then as they were."
        ),
    ] = "here",
    when: Annotated[
        str | None,
        Parameter(
            metavar="PACKAGE",
            help="Only when a newer version of this package is out; with that, and the others as "
            "they were.",
        ),
    ] = None,
    environment_variable: Variables = (),
    scope: Scope = NO_SCOPE,
    schedule: Schedule = ON_DEMAND,
    places: Places = HERE,
    json: Json = False,
) -> None:
    r"""Deploy the re-evaluation of archived trials.

    Most often on a schedule. Where the study is kept is known from its own deployment, where the
    server has one.

    ```
    prefect-optuna deploy-reevaluation lynx-hare --best 5 --cron "0 3 * * *" --trusted \
        --environment both
    prefect-optuna deploy-reevaluation lynx-hare --best 5 --cron "0 * * * *" --trusted \
        --when numpy --name lynx-hare-numpy
    ```
    """
    from prefect_optuna.blocks import OptunaSettings
    from prefect_optuna.deployments.deploy import deploy_reevaluation as deploy_it

    options: dict[str, Any] = {"fail_on_drift": True} if fail_on_drift else {}
    if environment != "here":
        options["environment"] = environment
    if when is not None:
        options["when"] = when
    if environment_variable:
        options["environment_variables"] = list(environment_variable)
    if values := scope.values():
        options["scope"] = values
    settings = OptunaSettings()
    if not (trusted or settings.archive_key or settings.archive_key_block):
        note(
            "[yellow]Note:[/] the archived code runs only on workers that have a key for archives "
            "and find its signature good. Where nobody signs, add --trusted."
        )
    with working("Deploying ..."):
        deployed = deploy_it(
            study,
            best=best,
            trials=which,
            trusted=trusted,
            options=options,
            **_where(study, places, must_exist=True),
            **schedule.keywords(),
        )
    _show_deployed(deployed, schedule, deployed.run() if schedule.run else None, as_json=json)


def deploy_report(
    study: Study, /, *, schedule: Schedule = ON_DEMAND, places: Places = HERE, json: Json = False
) -> None:
    """Deploy the renewal of a study's report.

    `optimize` keeps its own; this is for studies that other programs tell.

    ```
    prefect-optuna deploy-report lynx-hare --cron "*/10 * * * *"
    ```
    """
    from prefect_optuna.deployments.deploy import deploy_report as deploy_it

    with working("Deploying ..."):
        deployed = deploy_it(study, **_where(study, places), **schedule.keywords())
    _show_deployed(deployed, schedule, deployed.run() if schedule.run else None, as_json=json)


def deploy_gc(
    *,
    delete: Annotated[bool, Parameter(negative="", help="The runs remove what they find.")] = False,
    schedule: Schedule = ON_DEMAND,
    places: Places = HERE,
    json: Json = False,
) -> None:
    """Deploy the removal of what deleted studies have left.

    ```
    prefect-optuna deploy-gc --delete --cron "0 4 * * 0"
    ```
    """
    from prefect_optuna.deployments.deploy import deploy_gc as deploy_it

    with working("Deploying ..."):
        deployed = deploy_it(delete=delete, **places.keywords(), **schedule.keywords())
    _show_deployed(deployed, schedule, deployed.run() if schedule.run else None, as_json=json)


def deploy_worker(*, pool: Pool = None, json: Json = False) -> None:
    """Deploy what works off the trials of distributed studies.

    `deploy --workers N` does it by itself.

    ```
    prefect-optuna deploy-worker --pool lab
    ```
    """
    from prefect_optuna.deployments.deploy import deploy_worker as deploy_it

    with working("Deploying ..."):
        deployed = deploy_it(pool)
    _show_deployed(deployed, ON_DEMAND, None, as_json=json)


def make_pool(
    name: Annotated[str, Parameter(help="Of the work pool.")],
    /,
    *,
    type: Annotated[  # noqa: A002 - as Prefect's own command has it
        str,
        Parameter(metavar="TYPE", help="*process*, *docker*, *kubernetes*, *dask* or *ray*."),
    ] = "process",
    address: Annotated[
        str | None,
        Parameter(metavar="URL", help="Of the cluster: *tcp://head:8786*, *ray://head:10001*."),
    ] = None,
    image: Annotated[
        str | None, Parameter(help="Of containers; by default *prefect-optuna*.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a work pool for studies, of a template of this package, or renew it.

    ```
    prefect-optuna make-pool lab --type docker
    prefect-optuna make-pool cluster --type ray --address ray://head:10001
    ```
    """
    from prefect_optuna.deployments.cli.views import facts
    from prefect_optuna.deployments.pools import make_pool as make_it

    is_new = make_it(name, type, address=address, image=image)  # pyright: ignore[reportArgumentType]
    from prefect_optuna.flows.temporary_server import prefect_command

    start = prefect_command("worker", "start", "--pool", name)
    document = {"pool": name, "type": type, "new": is_new, "worker": start}
    shown = facts({"pool": markup(name), "type": markup(type), "a worker": markup(start)})
    answer(document, shown, as_json=json)


def _where(study: str, places: Places, *, must_exist: bool = False) -> dict[str, Any]:
    """The places that were named; else those of the deployment that optimizes the study."""
    if places.storage or places.artifacts:
        if must_exist:
            _refuse_unknown(study, places)
        return places.keywords()
    from prefect.exceptions import ObjectNotFound

    from prefect_optuna.deployments.pools import prefect_server

    with prefect_server() as client:
        for flow in ("optimize", "distribute"):
            try:
                known = client.read_deployment_by_name(f"{flow}/{study}").parameters
            except ObjectNotFound:
                continue
            if known.get("study_name") == study:
                note(f"[dim]Where it is kept is taken from the deployment {flow}/{study}.[/]")
                return {key: known.get(key) for key in ("storage", "artifacts")}
    if must_exist:
        _refuse_unknown(study, places)
    return places.keywords()


def _refuse_unknown(study: str, places: Places) -> None:
    """Refuse a study that is not there, where that can be seen from here."""
    from prefect_optuna.blocks import StorageUnavailableError, as_study_storage

    # The workers may reach what is out of reach here.
    with suppress(StorageUnavailableError):
        as_study_storage(places.storage).load_study(study)


def _show_deployed(
    deployed: Deployed, schedule: Schedule, run: UUID | None, *, as_json: bool
) -> None:
    from prefect_optuna.deployments.cli.views import facts
    from prefect_optuna.deployments.pools import page_of

    run_url = page_of("flow-run", run) if run else None
    document = {
        "deployment": deployed.name,
        "id": str(deployed.id),
        "pool": deployed.pool,
        "url": deployed.url,
        "parameters": dict(deployed.parameters),
        "flow_run_id": str(run) if run else None,
        "flow_run_url": run_url,
    }
    shown = facts(
        {
            "deployment": f"[bold]{markup(deployed.name)}[/]",
            "pool": markup(deployed.pool),
            "code": str(deployed.parameters.get("version") or "")[:12],
            "study kept in": markup(str(deployed.parameters.get("storage") or "")),
            "archive kept in": markup(str(deployed.parameters.get("artifacts") or "")),
            "runs at": f"{markup(schedule.cron)} ({markup(schedule.timezone)})"
            if schedule.cron
            else "",
            "page": markup(deployed.url or ""),
            "this run": run_url,
        }
    )
    answer(document, shown, as_json=as_json)
    if run is None and not schedule.cron:
        from prefect_optuna.flows.temporary_server import prefect_command

        start = prefect_command("deployment", "run", deployed.name)
        note(f"[dim]Have it run: {markup(start)}[/]")
