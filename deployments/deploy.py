"""Deployments of this package's flows, made in one call each, and their forms in the UI.

A deployment names its flow by the module, which workers have installed, and its places by saved
blocks, so that it holds no secret. The problem of an optimization is captured, and goes along as
data: the first run puts it into the study's archive, where all runs and workers take it from. A
second call with the same arguments changes nothing.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.schemas.objects import VersionInfo
from prefect.deployments import run_deployment
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.schedules import Cron, Schedule
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import ParameterSchema
from pydantic import SecretStr

from prefect_optuna.blocks import (
    InvalidSettingError,
    StudyStorage,
    as_artifact_filesystem,
    as_study_storage,
)
from prefect_optuna.blocks._secrets import error_words, place_text
from prefect_optuna.blocks.locations import (
    Artifacts,
    DeployedProblem,
    Storage,
    artifacts_reference,
    public_parameters,
    storage_reference,
)
from prefect_optuna.deployments.pools import STUDIES_QUEUE, find_work_pool, page_of, prefect_server
from prefect_optuna.errors import (
    AlreadyExistsError,
    CaptureError,
    InvalidProblemError,
    StorageUnavailableError,
)
from prefect_optuna.flows._worker_runs import job_variables
from prefect_optuna.flows.problem_source import ARCHIVE
from prefect_optuna.flows.temporary_server import prefect_command
from prefect_optuna.tasks import Environment, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.carrying.portable import (
    MAX_PACKED,
    block_name,
    digest_of,
    pack_problem,
    sign,
)
from prefect_optuna.tasks.archive.record.manifest import SigningKeys
from prefect_optuna.tasks.machine import Resources, ResourcesGiven, threads_of
from prefect_optuna.tasks.reevaluation.rerun import check_variables
from prefect_optuna.tasks.scope.auto_parameters import AutoParameter, auto_params
from prefect_optuna.tasks.scope.frames import MISSING

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.flows import Flow

# The form of a deployment in Prefect's UI, for somebody who does not read Python.
#
# Prefect makes one of the flow's annotations, which say all that a program may give. Here what
# people choose comes first, in words, with drop-downs in place of texts; all the rest stays as it
# is.


_TITLES = {
    "study_name": "Study",
    "trials": "Trials",
    "n_trials": "Trials",
    "timeout": "Time limit",
    "sampler": "Sampler",
    "pruner": "Pruner",
    "seed": "Seed",
    "scope": "Scope",
    "workers": "Workers",
    "n_jobs": "Trials at once",
    "environment": "Packages",
    "when": "Only with a newer version of",
    "repeats": "Repetitions",
    "resources": "Resources",
    "warm_start": "Trials of the last study",
}
"""Fields that people choose, in the order of the form, with their labels."""

_HELP = {
    "study_name": "It goes on where it stopped.",
    "n_trials": "How many are to be finished in total, with those that are there.",
    "sampler": "How parameters are chosen: tpe suits most studies, cmaes many numbers, gp few and "
    "costly trials, random comparisons. Without a choice, Optuna's own.",
    "pruner": "Ends trials early that are worse than others, where the code reports on the way.",
    "n_jobs": "How many run at the same time; -1 for as many as there is room for.",
    "resources": "What one trial has to itself. Libraries take as many threads, and GPUs are not "
    "shared.",
    "warm_start": "With a number, each run is a study of its own, and begins with so many of the "
    "best of the last one.",
    "environment": "Today's (here), as they were recorded, as close to that as can be, or both: "
    "today's, and then as they were.",
    "when": "The name of a package: they run only when a newer version of that is out.",
    "seed": "The same number gives the same trials again.",
    "scope": "Parameters of the code, for this run. What is left empty is as in the code.",
    "trials": "Which ones: the best, all of the Pareto front, ...",
}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}
_SELECTIONS = ["best:1", "best:5", "best:10", "pareto", "complete", "pruned", "failed", "all"]


def form_of(
    schema: ParameterSchema, parameters: Mapping[str, Any], modules: Collection[str] | None = None
) -> ParameterSchema:
    """The form of a deployment.

    Args:
        schema: of the flow, as Prefect makes it.
        parameters: what the deployment is called with.
        modules: those of the captured code; parameters of the scope are of functions in there.
            `None` for any.

    Example:
        >>> from prefect_optuna.deployments.deploy import form_of
        >>> from prefect_optuna.flows import optimize
        >>> form = form_of(optimize.parameters, {"study_name": "fit"})
        >>> form.properties["study_name"]["enum"], form.properties["sampler"]["enum"][:2]
        (['fit'], ['tpe', 'random'])
    """
    made = schema.model_copy(deep=True)
    order = [name for name in _TITLES if name in made.properties]
    order += [name for name in made.properties if name not in _TITLES]
    for place, name in enumerate(order):
        field = made.properties[name]
        field["position"] = place
        if name not in _TITLES:
            continue
        field["title"] = _TITLES[name]
        field["description"] = _HELP.get(name, field.get("description", ""))
        _simplify(name, field, parameters)
    if "scope" in made.properties and isinstance(parameters.get("scope", {}), Mapping):
        _list_scope(made.properties["scope"], parameters.get("scope", {}), modules)
    if "Resources" in made.definitions:  # its own words are for programs
        made.definitions["Resources"].pop("description", None)
    made.properties = {name: made.properties[name] for name in order}
    return made


def _simplify(name: str, field: dict[str, Any], parameters: Mapping[str, Any]) -> None:
    """One kind of value where there are several, if what was given is of that kind."""
    given = parameters.get(name)
    if name in parameters and given is None:
        return  # nothing is what was given, and has to stay possible
    if name == "study_name" and isinstance(given, str):
        field.pop("anyOf", None)
        field |= {"type": "string", "enum": [given]}
        return
    if name == "trials":
        if isinstance(given, str):
            field.pop("anyOf", None)
            field |= {"type": "string", "enum": list(dict.fromkeys([given, *_SELECTIONS]))}
        return
    choices = [kind for kind in field.get("anyOf", ()) if kind and kind.get("type") != "null"]
    words = [word for kind in choices for word in kind.get("enum", ())]
    words += [kind["const"] for kind in choices if "const" in kind]
    if words and (given is None or given in words):
        _become(field, {"type": "string", "enum": words})
    elif len(choices) == 1 and "type" in choices[0] and name != "timeout":
        _become(field, choices[0])


def _become(field: dict[str, Any], kind: Mapping[str, Any]) -> None:
    field.pop("anyOf", None)
    if field.get("default", ...) is None:
        del field["default"]
    field |= kind


def _list_scope(
    field: dict[str, Any], given: Mapping[str, Any], modules: Collection[str] | None
) -> None:
    """A field for each parameter that the code reads, as far as it is one value."""
    fields = {
        parameter.name: entry
        for parameter in auto_params()
        if (modules is None or any(parameter.function.startswith(f"{name}.") for name in modules))
        and (entry := _entry(parameter)) is not None
    }
    if not fields:
        return
    _become(field, {"type": "object", "properties": fields, "additionalProperties": True})


def _entry(one: AutoParameter) -> dict[str, Any] | None:
    kind = _TYPES.get(one.type)
    if kind is None:
        return None
    usual = "" if one.default is MISSING else f"In the code: {one.default}."
    return {
        "title": one.name,
        "description": " ".join(filter(None, (one.doc, usual))),
        "type": kind,
        **({"enum": list(one.choices)} if one.choices else {}),
    }


_BANNED = re.compile(r"[/%&<>]")
_TAG = "prefect-optuna"


@dataclass(frozen=True)
class Deployed:
    """A deployment on the server.

    Attributes:
        name: as Prefect's commands take it, `flow/deployment`.
        id: its id on the server.
        pool: the work pool whose workers run it.
        parameters: what its runs are called with.

    Example:
        >>> from uuid import UUID
        >>> from prefect_optuna.deployments import Deployed
        >>> Deployed("gc/lab", UUID(int=7), "lab", {}).name
        'gc/lab'
    """

    name: str
    id: UUID
    pool: str
    parameters: Mapping[str, Any]

    @property
    def url(self) -> str | None:
        """Its page in Prefect's UI, where there is one."""
        return page_of("deployment", self.id)

    def run(self, **parameters: Any) -> UUID:
        """Have it run now, and do not wait.

        Args:
            parameters: they replace those of the deployment for this run.

        Returns:
            The id of the flow run.

        Raises:
            InvalidSettingError: a parameter holds a secret, which Prefect would show; `storage`
                and `artifacts` are given as to `deploy_optimization`.
        """
        public = public_parameters(parameters)
        check_variables(public.get("environment_variables", ()))
        run = run_deployment(self.id, parameters=public, timeout=0, _sync=True)  # pyright: ignore[reportCallIssue]
        return run.id  # pyright: ignore[reportAttributeAccessIssue]


def deploy_optimization(
    problem: Problem | Callable[..., Any] | str,
    *,
    study_name: str,
    n_trials: int | None = 100,
    timeout: float | None = None,
    storage: Storage = None,
    artifacts: Artifacts = None,
    pool: str | None = None,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
    installed: bool = False,
    install: bool = False,
    trusted: bool = False,
    resources: ResourcesGiven | None = None,
    name: str | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    tags: Sequence[str] = (),
    concurrency_limit: int | None = None,
    version: str | None = None,
) -> Deployed:
    """Deploy the optimization of a problem: `optimize/STUDY`, or `distribute/STUDY` on workers.

    The problem is captured here, as `optimize` archives it, and travels with the deployment up to
    a size of 512 kB. The first run puts it into the study's archive, and so workers of any pool
    need the packages that it imports, and neither its files nor its modules. A larger one is
    written to the archive by this call, which then has to reach the study's storage.

    Changed code that is deployed again is a new version of the study.

    Args:
        problem: what `optimize` takes: a `Problem`, an objective, `"package.module:attribute"` or
            `"file.py:attribute"`; or `"archive"` for what is in the study's archive already.
        study_name: the study, which goes on if it exists.
        n_trials: how many trials are to be finished in total; `None` goes on until the timeout.
        timeout: seconds after which no more trials are asked.
        storage: where the study is kept: a saved block, its `"slug/name"`, or a URL without
            secrets; by default where `optimize` called here would keep it.
        artifacts: where the archive is kept, likewise.
        pool: the work pool; by default Prefect's default one, or the only one there is.
        workers: on how many flow runs the trials are worked off. With more than one, the
            deployment is of `distribute`, and the worker's deployment `work/POOL` is made too.
        options: further arguments of the flow, such as `{"seed": 1, "sampler": "cmaes"}`, or
            the `version` of a problem that is in the archive.
        installed: whether the workers import the problem by its name, from a package that they
            have installed, in the version that they have; then nothing is captured.
        install: whether workers that lack a package of the problem, or have another version of it,
            build the environment that is recorded here, with uv, and run trials in that. It is
            kept for the next run.
        trusted: of `problem="archive"`, whether its code may run. What is captured here is yours,
            and the deployment says that it may.
        resources: what one trial has to itself, such as
            `{"cpus": 2, "memory": "4 GiB", "gpus": 1}` or `"cpus=2,memory=4GiB,gpus=1"`; by
            default the problem's. A pool of the type `docker` or `kubernetes` is asked for them
            for each run, `n_jobs` times; other runs count what their machine has.
        name: of the deployment; by default the study's.
        cron: when it runs by itself, such as `"0 3 * * *"`.
        timezone: what the cron line's hours are in.
        tags: of its runs.
        concurrency_limit: how many of its runs may be under way at once; others wait, also for one
            whose machine has died, whose place Prefect's server keeps for five minutes. Without a
            limit, runs of one study at once share its trials.
        version: of the deployment; by default this package's.

    Returns:
        The deployment.

    Raises:
        InvalidProblemError: the problem cannot be imported, here or on the pool's workers.
        CaptureError: it cannot be archived, holds a secret, or is too large to travel and the
            study's storage is out of reach.
        InvalidSettingError: an argument cannot work, such as a sampler's name, or the pool is of
            a type that no worker runs, or one that cannot give a trial its resources.
        InvalidSettingError: a place is not saved, or its URL holds a secret.
        AlreadyExistsError: a deployment of that name optimizes another study.
        UnknownNameError: there is no such pool.
        ServerUnavailableError: there is no server.

    Example:
        >>> from prefect_optuna.deployments import deploy_optimization
        >>> deploy_optimization(
        ...     "prefect_optuna.flows.examples.lynx_hare:problem", study_name="docs", workers=0
        ... )
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidSettingError: `workers` is 1 or more; found 0.
    """
    if workers < 1:
        raise InvalidSettingError(f"`workers` is 1 or more; found {workers}.")
    if n_trials is not None and n_trials < 1:
        raise InvalidSettingError(
            f"`n_trials` is the number of finished trials to reach, 1 or more; found {n_trials}."
        )
    from prefect_optuna.flows.opening import checked_names

    options = checked_names(options or {})
    _refuse_secrets(options)
    if installed and install:
        raise InvalidSettingError(
            "`installed` is for what the workers have installed already, and `install` has them "
            "install what is recorded here: give one of the two."
        )
    capture = environment = None
    needs = Resources.of(resources)
    if installed:
        named = {"problem": _installed_problem(problem)}
        needs = needs or Resources.of(Problem.of(problem).resources)
    elif problem == ARCHIVE:
        named = {"problem": ARCHIVE, "trusted": trusted}
    else:
        the_problem = Problem.of(problem, directions=options.get("directions"))
        capture = Capture.of(the_problem)
        needs = needs or Resources.of(the_problem.resources)
        with threads_of(needs):
            environment = Environment.capture(capture.folder)
        named = {"problem": ARCHIVE, "version": capture.code_version, "trusted": True}
    with prefect_server() as client:
        work_pool = find_work_pool(client, pool)
        parameters: dict[str, Any] = {
            **named,
            "study_name": study_name,
            "n_trials": n_trials,
            "timeout": timeout,
            "storage": storage_reference(storage),
            "artifacts": artifacts_reference(artifacts),
            **({"install": digest_of(environment) if environment else True} if install else {}),
            **({"resources": needs.as_json()} if needs else {}),
        }
        asked = job_variables(work_pool, needs, _jobs(options)) if needs else {}
        if workers == 1:
            from prefect_optuna.flows.optimize_flow import optimize as flow
        else:
            from prefect_optuna.flows.distribute_flow import distribute as flow

            worker = deploy_worker(work_pool.name, version=version)
            parameters |= {"workers": workers, "deployment": worker.name}
        parameters = _with_options(flow, parameters, options)
        schedule = _schedule(cron, timezone)
        full_name = f"{flow.name}/{_BANNED.sub('-', name or study_name)}"
        same = ("study_name", "storage")
        _refuse_another(client, full_name, {key: parameters[key] for key in same})
        if problem == ARCHIVE and not trusted:
            _refuse_to_distrust(client, full_name)
        if capture is not None and environment is not None:
            block = block_name(capture.code_version, parameters.get("install", False))
            _bring(capture, environment, block, study_name, storage, artifacts)
        return _deploy(
            client,
            flow,
            name or study_name,
            work_pool.name,
            parameters,
            same=same,
            schedule=schedule,
            tags=tags,
            concurrency_limit=concurrency_limit,
            version=version,
            # Of several workers, the parent asks for them: it has none of the trials itself.
            job_variables=asked if workers == 1 else {},
            modules=None if capture is None else {s["module"] for s in capture.document["symbols"]},
        )


def deploy_worker(pool: str | None = None, *, version: str | None = None) -> Deployed:
    """Deploy the flow by which a worker takes trials from the queue of a study: `work/POOL`.

    Args:
        pool: the work pool; by default Prefect's default one, or the only one there is.
        version: of the deployment; by default this package's.

    Returns:
        The deployment. It serves every study that is distributed on this pool.

    Raises:
        UnknownNameError: there is no such pool.
        ServerUnavailableError: there is no server.

    Example:
        >>> from prefect_optuna.deployments import deploy_worker
        >>> deploy_worker("none-of-this-name")
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.UnknownNameError: There is no work pool ...
    """
    with prefect_server() as client:
        work_pool = find_work_pool(client, pool)
        from prefect_optuna.flows.work import work

        return _deploy(client, work, work_pool.name, work_pool.name, {}, version=version)


def deploy_reevaluation(
    study_name: str,
    *,
    best: int | None = None,
    trials: str = "best:1",
    storage: Storage = None,
    artifacts: Artifacts = None,
    trusted: bool = False,
    pool: str | None = None,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    tags: Sequence[str] = (),
    concurrency_limit: int | None = 1,
    version: str | None = None,
) -> Deployed:
    """Deploy the re-evaluation of a study's archived trials, most often on a schedule.

    The workers need the study's storage and archive, and none of the user's code.

    Args:
        study_name: the study.
        best: short for `trials="best:K"`.
        trials: which ones: `best:K`, `pareto`, `complete`, `pruned`, `failed` or `all`.
        storage: where the study is kept, as `deploy_optimization` takes it.
        artifacts: where its archive is kept, likewise.
        trusted: whether the archived code may run. Not needed where the workers have a key for
            archives (`PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_KEY`) and the signature holds.
        pool: the work pool; by default Prefect's default one, or the only one there is.
        options: further arguments of `reevaluate`, such as `{"rtol": 1e-6, "fail_on_drift": True}`.
        name: of the deployment; by default the study's.
        cron: when it runs by itself, such as `"0 3 * * *"`.
        timezone: what the cron line's hours are in.
        tags: of its runs.
        concurrency_limit: how many of its runs may be under way at once; others wait.
        version: of the deployment; by default this package's.

    Returns:
        The deployment, `reevaluate/STUDY`.

    Raises:
        InvalidSettingError: an argument cannot work.
        InvalidSettingError: a place is not saved, or its URL holds a secret.
        AlreadyExistsError: a deployment of that name re-evaluates another study, or is trusted
            and would be replaced with one that is not.
        UnknownNameError: there is no such pool.
        ServerUnavailableError: there is no server.

    Example:
        >>> from prefect_optuna.deployments import deploy_reevaluation
        >>> deploy_reevaluation("lynx-hare", cron="at three", storage="journal:////lab/studies")
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidSettingError: 'at three' is no cron line: ...
    """
    if best is not None:
        if best < 1:
            raise InvalidSettingError(f"`best` is 1 or more; found {best}.")
        trials = f"best:{best}"
    schedule = _schedule(cron, timezone)
    _refuse_secrets(options or {})
    check_variables((options or {}).get("environment_variables", ()))
    parameters = {
        "study_name": study_name,
        "trials": trials,
        "storage": storage_reference(storage),
        "artifacts": artifacts_reference(artifacts),
        "trusted": trusted,
    }
    from prefect_optuna.flows.reevaluate_flow import reevaluate

    with prefect_server() as client:
        if not trusted:
            _refuse_to_distrust(client, f"reevaluate/{_BANNED.sub('-', name or study_name)}")
        return _deploy(
            client,
            reevaluate,
            name or study_name,
            find_work_pool(client, pool).name,
            _with_options(reevaluate, parameters, options),
            same=("study_name", "storage"),
            schedule=schedule,
            tags=tags,
            concurrency_limit=concurrency_limit,
            version=version,
        )


def deploy_report(
    study_name: str,
    *,
    storage: Storage = None,
    artifacts: Artifacts = None,
    pool: str | None = None,
    name: str | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    tags: Sequence[str] = (),
    version: str | None = None,
) -> Deployed:
    """Deploy the renewal of a study's report, for studies that are told outside of Prefect.

    Args:
        study_name: the study.
        storage: where the study is kept, as `deploy_optimization` takes it.
        artifacts: where its archive is kept, likewise.
        pool: the work pool; by default Prefect's default one, or the only one there is.
        name: of the deployment; by default the study's.
        cron: when it runs by itself, such as `"*/10 * * * *"`.
        timezone: what the cron line's hours are in.
        tags: of its runs.
        version: of the deployment; by default this package's.

    Returns:
        The deployment, `report/STUDY`.

    Raises:
        PrefectOptunaError: as `deploy_reevaluation` does.

    Example:
        >>> from prefect_optuna.deployments import deploy_report
        >>> deploy_report("lynx-hare", storage="memory://")
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidSettingError: A study in memory is seen by ...
    """
    schedule = _schedule(cron, timezone)
    parameters = {
        "study_name": study_name,
        "storage": storage_reference(storage),
        "artifacts": artifacts_reference(artifacts),
    }
    from prefect_optuna.flows.report_flow import report

    with prefect_server() as client:
        return _deploy(
            client,
            report,
            name or study_name,
            find_work_pool(client, pool).name,
            parameters,
            same=("study_name", "storage"),
            schedule=schedule,
            tags=tags,
            concurrency_limit=1,
            version=version,
        )


def deploy_gc(
    *,
    storage: Storage | Sequence[Storage] = None,
    artifacts: Artifacts = None,
    delete: bool = False,
    pool: str | None = None,
    name: str | None = None,
    cron: str | None = None,
    timezone: str = "UTC",
    tags: Sequence[str] = (),
    version: str | None = None,
) -> Deployed:
    """Deploy the removal of what deleted studies and expired artifacts have left.

    Args:
        storage: where the studies are kept, or several such places.
        artifacts: where their archives are kept.
        delete: whether the runs remove what they find; otherwise they only say what it is.
        pool: the work pool; by default Prefect's default one, or the only one there is.
        name: of the deployment; by default the pool's.
        cron: when it runs by itself, such as `"0 4 * * 0"`.
        timezone: what the cron line's hours are in.
        tags: of its runs.
        version: of the deployment; by default this package's.

    Returns:
        The deployment, `gc/NAME`.

    Raises:
        PrefectOptunaError: as `deploy_reevaluation` does.

    Example:
        >>> from prefect_optuna.deployments import deploy_gc
        >>> deploy_gc(artifacts="memory://")
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidSettingError: Artifacts in memory are seen by ...
    """
    schedule = _schedule(cron, timezone)
    if storage is None or isinstance(storage, (StudyStorage, str, Path)):
        places: str | list[str] = storage_reference(storage)
    else:
        places = [storage_reference(place) for place in storage]
    parameters = {
        "storage": places,
        "artifacts": artifacts_reference(artifacts),
        "delete": delete,
    }
    from prefect_optuna.flows.report_flow import gc

    with prefect_server() as client:
        work_pool = find_work_pool(client, pool).name
        return _deploy(
            client,
            gc,
            name or work_pool,
            work_pool,
            parameters,
            same=("artifacts",),
            schedule=schedule,
            tags=tags,
            concurrency_limit=1,
            version=version,
        )


def _deploy(
    client: SyncPrefectClient,
    flow: Flow[..., Any],
    name: str,
    pool: str,
    parameters: Mapping[str, Any],
    *,
    same: Sequence[str] = (),
    schedule: Schedule | None = None,
    tags: Sequence[str] = (),
    concurrency_limit: int | None = None,
    version: str | None = None,
    job_variables: Mapping[str, Any] | None = None,
    modules: Collection[str] | None = None,
) -> Deployed:
    """Create the deployment, or make the one of that name equal to it.

    `same` are the parameters in which they have to agree already: those that say whose it is.
    """
    name = _BANNED.sub("-", name)
    version = version or installed_version("prefect-optuna")
    full_name = f"{flow.name}/{name}"
    _refuse_another(client, full_name, {key: parameters[key] for key in same})
    deployment = RunnerDeployment.from_flow(
        flow,
        name,
        parameters=dict(parameters),
        schedules=[schedule] if schedule else [],
        tags=sorted({_TAG, *tags}),
        concurrency_limit=concurrency_limit,
        version=version,
        work_pool_name=pool,
        job_variables=dict(job_variables or {}),
        # It waits for its workers: in their queue, a few of them would take all of the places.
        work_queue_name=STUDIES_QUEUE if flow.name == "distribute" else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    if "study_name" in parameters:
        form = form_of(flow.parameters, parameters, modules)
        deployment._parameter_openapi_schema = form  # pyright: ignore[reportPrivateUsage]
    try:
        # Without it, Prefect asks git, and the URL of a remote may hold a token.
        info = VersionInfo(type="prefect:simple", version=version)
        deployment_id: UUID = deployment.apply(version_info=info, _sync=True)  # pyright: ignore[reportCallIssue]
    except DeploymentApplyError as error:
        raise InvalidSettingError(f"The server does not take {full_name!r}: {error}") from error
    return Deployed(full_name, deployment_id, pool, dict(parameters))


def _refuse_another(client: SyncPrefectClient, full_name: str, whose: Mapping[str, Any]) -> None:
    try:
        existing = client.read_deployment_by_name(full_name).parameters
    except ObjectNotFound:
        return
    for key, value in whose.items():
        if existing.get(key) != value:
            raise AlreadyExistsError(
                f"The deployment {full_name!r} exists with {key} {_shown(existing.get(key))}, and "
                f"{value!r} was asked for. Give this one another `name`, or remove that one "
                f"first: {prefect_command('deployment', 'delete', full_name)}"
            )


def _refuse_to_distrust(client: SyncPrefectClient, full_name: str) -> None:
    """Refuse to replace a deployment that runs with one that most likely must fail."""
    try:
        existing = client.read_deployment_by_name(full_name).parameters
    except ObjectNotFound:
        return
    if existing.get("trusted"):
        raise AlreadyExistsError(
            f"The deployment {full_name!r} may run the archived code, and this one may not. Say so "
            "again (--trusted, or trusted=True), or remove that one first: "
            f"{prefect_command('deployment', 'delete', full_name)}"
        )


def _jobs(options: Mapping[str, Any]) -> int:
    jobs = options.get("n_jobs", 1)
    return jobs if isinstance(jobs, int) else 1  # Prefect says what is wrong with it


def _refuse_secrets(options: Mapping[str, Any]) -> None:
    """Refuse secrets before anything is on the server; places are no options at all."""
    public_parameters({k: v for k, v in options.items() if k not in ("storage", "artifacts")})


def _shown(value: Any) -> str:
    """A parameter that somebody else has stored, who may have put a password into it."""
    if isinstance(value, str):
        return repr(place_text(value))
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else "something else"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _with_options(
    flow: Flow[..., Any], parameters: dict[str, Any], options: Mapping[str, Any] | None
) -> dict[str, Any]:
    known = set(inspect.signature(flow.fn).parameters)
    for key in options or {}:
        if key in parameters or key not in known:
            others = ", ".join(sorted(known - set(parameters)))
            raise InvalidSettingError(
                f"`options` are further arguments of {flow.name} ({others}); found {key!r}."
            )
    return {**parameters, **(options or {})}


def _schedule(cron: str | None, timezone: str) -> Schedule | None:
    if cron is None:
        return None
    from prefect.client.schemas.schedules import CronSchedule

    try:
        CronSchedule(cron=cron, timezone=timezone)
    except ValueError as error:
        if "timezone" in str(error):
            raise InvalidSettingError(
                f"{timezone!r} is no time zone: expected one such as 'UTC' or 'Europe/Berlin'."
            ) from None
        raise InvalidSettingError(
            f"{cron!r} is no cron line: expected five fields, minute, hour, day, month and weekday,"
            " such as '0 3 * * *' for three o'clock each night."
        ) from None
    return Cron(cron, timezone=timezone)


def _installed_problem(problem: Any) -> str:
    """The name by which the workers import a problem that is installed where they are."""
    if not isinstance(problem, str) or problem == ARCHIVE:
        raise InvalidProblemError(
            "A problem that the workers have installed is named, as package.module:attribute; "
            f"found {'the archive' if problem == ARCHIVE else f'a {type(problem).__name__}'}."
        )
    Problem.of(problem)  # a wrong name shows now
    module = problem.rpartition(":")[0]
    if module.endswith(".py") or _is_only_here(module.partition(".")[0]):
        raise InvalidProblemError(
            f"{problem!r} is a file of this directory ({Path.cwd()}), and no package that workers "
            "could have installed. Leave out `installed`, and its code goes along."
        )
    return problem


def _bring(
    capture: Capture,
    environment: Environment,
    name: str,
    study_name: str,
    storage: Storage,
    artifacts: Artifacts,
) -> None:
    """Put a captured problem where the first run finds it: to Prefect, or into the archive."""
    text = pack_problem(capture, environment)
    if (size := len(text) * 3 // 4) > MAX_PACKED:
        _archive(capture, size, study_name, storage, artifacts)
        return
    block = DeployedProblem(content=SecretStr(text), signature=sign(text, SigningKeys.configured()))
    block.save(name, overwrite=True, _sync=True)  # pyright: ignore[reportCallIssue]


def _archive(
    capture: Capture, size: int, study_name: str, storage: Storage, artifacts: Artifacts
) -> None:
    try:
        study = as_study_storage(storage).create_study(
            study_name, directions=capture.document["directions"], load_if_exists=True
        )
        OptunaArchive(study, artifacts=as_artifact_filesystem(artifacts)).save_problem(capture)
    except (StorageUnavailableError, OSError) as error:
        raise CaptureError(
            f"The problem has {size // 1024} kB when it is packed, and up to "
            f"{MAX_PACKED // 1024} kB travel with a deployment. A larger one is written to the "
            f"study's archive by whoever deploys it, which does not work from here: "
            f"{error_words(error)} Deploy it from a machine that reaches both, or have `run` read "
            "large data from where the workers have it, in place of keeping it in the context."
        ) from error


def _is_only_here(top: str) -> bool:
    """Tell whether a top-level module is found in this directory and nowhere else."""
    here = Path.cwd()
    elsewhere = [path for path in sys.path if Path(path or ".").resolve() != here.resolve()]
    if PathFinder.find_spec(top, [str(here)]) is None:
        return False
    if PathFinder.find_spec(top, elsewhere) is not None:
        return False
    # An editable install is found by a finder of its own.
    finders = [finder for finder in sys.meta_path if finder is not PathFinder]
    return all(
        not hasattr(finder, "find_spec") or finder.find_spec(top, None) is None
        for finder in finders
    )
