"""`optimize`, the flow template: a study as one Prefect flow.

The flow asks Optuna for parameters, has trials run by its task runner, and tells Optuna each value
as it comes. Around that it archives the problem and every result, keeps one report in Prefect's UI
up to date, and leaves a consistent study behind however it ends.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast
from uuid import uuid4

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as current_flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from pydantic import BeforeValidator, Field, InstanceOf, SecretStr

from prefect_optuna.blocks import (
    ArtifactFileSystem,
    GrpcStudyStorage,
    InMemoryStudyStorage,
    JournalStudyStorage,
    RedisStudyStorage,
    SQLStudyStorage,
    StudyStorage,
    as_study_storage,
)
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.flows.opening import begin, check_settings, checked_arguments
from prefect_optuna.flows.problem_source import deployed_code
from prefect_optuna.flows.report import ReportPublisher, ReportThread
from prefect_optuna.flows.session import Session
from prefect_optuna.flows.spool import Delivery, TrialKeeper
from prefect_optuna.flows.study import (
    Pruner,
    PrunerName,
    Sampler,
    SamplerName,
    StudyResult,
    on_a_copy,
)
from prefect_optuna.flows.study_flow import note_result, note_study, study_flow
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import (
    BatchDispatcher,
    InlineDispatcher,
    RunnerName,
    ThreadDispatcher,
    open_task_runner,
)
from prefect_optuna.flows.wording import StudyProgress
from prefect_optuna.tasks.archive.series.blobs import Packer
from prefect_optuna.tasks.inputs import as_bytes, flush_inputs
from prefect_optuna.tasks.machine import ResourcesGiven, jobs_here
from prefect_optuna.tasks.problem import Direction, Problem
from prefect_optuna.tasks.trial import Stopping, TrialRunner

Callback = Callable[[optuna.Study, FrozenTrial], None]


def _as_block(value: Any) -> Any:
    """Make the block of a mapping's own kind: for pydantic, any mapping is a storage in memory."""
    if not isinstance(value, Mapping):
        return value
    fields = dict(cast("Mapping[str, Any]", value))
    url = fields.get("url")
    if url is not None:
        secret = url if isinstance(url, SecretStr) else SecretStr(str(url))
        return type(as_study_storage(secret.get_secret_value()))(**fields)
    for kind in (JournalStudyStorage, GrpcStudyStorage, InMemoryStudyStorage):
        if fields and fields.keys() <= kind.model_fields.keys():
            return kind(**fields)
    raise ValueError(
        "expected the fields of a storage block, such as {'url': 'postgresql://...'} or "
        "{'path': 'studies.journal'}; or a block, a URL or a Path"
    )


Storage = Annotated[
    SQLStudyStorage
    | JournalStudyStorage
    | InMemoryStudyStorage
    | GrpcStudyStorage
    | RedisStudyStorage
    | InstanceOf[StudyStorage]
    | str
    | Path,
    BeforeValidator(_as_block),
]


def _flow_run_name() -> str:
    """The flow run is called as its study is."""
    from coolname import generate_slug

    name = current_flow_run.parameters.get("study_name")
    return name or generate_slug(2)


@study_flow(
    name="optimize", flow_run_name=_flow_run_name, check=checked_arguments, code=deployed_code
)
def optimize(
    problem: Problem | Callable[..., Any] | str,
    *,
    study_name: str | None = None,
    n_trials: Annotated[int | None, Field(json_schema_extra={"minimum": 1})] = 100,
    timeout: Annotated[float | None, Field(json_schema_extra={"exclusiveMinimum": 0})] = None,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    sampler: SamplerName | Sampler | BaseSampler | None = None,
    pruner: PrunerName | Pruner | BasePruner | None = None,
    seed: Annotated[int | None, Field(json_schema_extra={"minimum": 0})] = None,
    seed_trials: bool = True,
    directions: Direction | Sequence[Direction] | None = None,
    direction: Direction | None = None,
    scope: Mapping[str, Any] | None = None,
    n_jobs: Annotated[int, Field(json_schema_extra={"minimum": -1})] = 1,
    task_runner: RunnerName | TaskRunner[Any] | None = None,
    catch: Sequence[type[Exception]] | type[Exception] = (),
    retries: Annotated[int, Field(json_schema_extra={"minimum": 0})] = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    keep_inputs: str | int | None = None,
    version: str | None = None,
    trusted: bool = False,
    install: bool | str = False,
    resources: ResourcesGiven | None = None,
    warm_start: Annotated[int | None, Field(json_schema_extra={"minimum": 0})] = None,
) -> StudyResult:
    """Optimize a problem: an Optuna study as a Prefect flow, archived and reported.

    A study of the same name goes on until it has `n_trials` finished trials in total. Trials that
    a dead process left running are failed and asked again, each once.

    Args:
        problem: A `Problem`, a plain Optuna objective, or `"package.module:attribute"`; or
            `"archive"` for the problem that the study's archive has.
        study_name: The study, which goes on if it exists; by default a new one.
        n_trials: How many trials are to be finished in total: complete, pruned, or failed by
            their own error. `None` goes on until the timeout.
        timeout: Seconds after which no more trials are asked.
        storage: Where the study is kept: a block, `"slug/name"` of a saved one, or a URL such as
            `sqlite:///study.db`. By default a file in `.prefect-optuna/`.
        artifacts: Where the archive is kept: a block, `"slug/name"` of a saved one, a path, or an
            fsspec URL. By default a folder in `.prefect-optuna/`.
        sampler: A sampler by name, or with options, or an Optuna sampler; by default Optuna's.
        pruner: A pruner by name, or with options, or an Optuna pruner; by default Optuna's.
        seed: Seeds the sampler, and the trials. With one job, a study and its seed give the same
            trials again.
        seed_trials: Whether the code of each trial draws its random numbers from a seed of the
            trial's own, where it does not seed itself: `random`, NumPy, PyTorch, TensorFlow and
            CuPy. It follows from `seed`, or else from one that the study keeps, and the trial's
            number; it is the trial's user attribute `"seed"`, and `reevaluate` uses it.
        directions: `minimize` or `maximize` for each value; by default the problem's.
        direction: The same for a single value, as Optuna calls it.
        scope: Parameters for `auto_param` functions and `param_scope` in whatever the problem
            calls, over those of the scope in which this is called. The problem's functions also
            get them by naming a parameter `scope`.
        n_jobs: How many trials run at once; -1 for the number of processors, or for as many as
            there is room for with `resources`.
        task_runner: Where trials run: `threads`, `processes`, `dask` or `ray` (the cluster at
            `DASK_SCHEDULER_ADDRESS` or `RAY_ADDRESS`, or else one of their own), or a Prefect task
            runner; by default threads, or what the work pool sets.
        catch: Exceptions that fail a trial and not the study.
        retries: How many times `run` is called again after an exception.
        callbacks: Called after each trial with the study and the trial, as Optuna calls them.
        progress: A progress bar in the terminal; by default where there is one.
        keep_inputs: How much of the files that trials read goes into the archive, such as
            `"200 MB"`, for `reevaluate(..., inputs="archived")`; by default none of it, but for
            size and SHA-256.
        version: Of `problem="archive"`: the id of a version, or the digest of its code; by default
            the last one. One that is not there yet may have come with a deployment.
        trusted: Whether the code of `problem="archive"` may run. Not needed where there is a key
            for archives and the signature holds.
        install: Of a run that a worker starts: whether it goes on in the environment that was
            recorded with the code of `problem="archive"`, where its own lacks a package of that,
            or has another version of it. A deployment gives the digest of that environment, and
            no other is installed then.
        resources: What one trial has to itself, such as
            `{"cpus": 2, "memory": "4 GiB", "gpus": 1}`, in place of the problem's: on Ray, Dask,
            Docker, Kubernetes, or counted on this machine. Libraries take as many threads, and
            GPUs are not shared.
        warm_start: Makes each run a study of its own, called after `study_name` and the time for
            which it was scheduled, whose first trials have the parameters of the best ones of the
            last such study: so many of them. `None` goes on with the study of that name.

    Returns:
        What the study came to.

    Raises:
        InvalidProblemError: The problem is none, or breaks its contract.
        InvalidParameterError: A value of the scope is not of the type that the code takes.
        InvalidSettingError: An argument cannot work.
        StudyMismatchError: The study exists with other directions.
        StorageUnavailableError: The storage or the archive cannot be reached or written.
        CaptureError: The problem cannot be archived as source.
        ArchiveError: There is no such archive or version, or a package that its code needs is not
            installed here.
        EnvironmentUnavailableError: A worker cannot install what was recorded.
        UntrustedArchiveError: The archive's code may not run, or its signature does not hold.

    Example:
        >>> from prefect_optuna.flows import optimize
        >>> def parabola(trial):
        ...     return (trial.suggest_float("x", -5, 5) - 2) ** 2
        >>> result = optimize(parabola, n_trials=20, seed=1, storage="memory://",
        ...                   artifacts="memory://docs")
        >>> result.n_trials
        20
    """
    check_settings(n_trials, timeout, n_jobs, retries, seed)
    kept_bytes = as_bytes(keep_inputs)
    logger = get_run_logger()
    opened = begin(
        problem,
        logger,
        study_name=study_name,
        n_trials=n_trials,
        storage=storage,
        artifacts=artifacts,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        seed_trials=seed_trials,
        directions=directions,
        direction=direction,
        scope=scope,
        version=version,
        trusted=trusted,
        install=install,
        resources=resources,
        warm_start=warm_start,
    )
    the_problem, study, archive, watch = opened.problem, opened.study, opened.archive, opened.watch
    n_jobs = jobs_here(n_jobs, opened.resources)

    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(
            open_task_runner(task_runner, n_jobs, opened.resources, logger.info)
        )
        live_trials = not isinstance(runner, ThreadPoolTaskRunner)
        if live_trials and the_problem.needs_trial:
            _check_reachable(opened.block)
        writer = replace(archive.writer(), keep_inputs=kept_bytes)
        patience = study.storage.patience
        file = Path(tempfile.gettempdir(), f"prefect-optuna-{uuid4().hex}.stop")
        stopping = Stopping(
            file if live_trials else None,
            OptunaSettings.here().grace,
            is_asked=the_problem.names_stopping,
        )
        stack.enter_context(contextlib.closing(stopping))
        session = Session(
            study,
            study.storage,
            {"n_trials": n_trials},
            version=writer.version,
            seed=opened.trials_seed,
            stopping=stopping,
        )
        keeper = None
        if not isinstance(opened.block, InMemoryStudyStorage):
            keeper = TrialKeeper(study.study_name, opened.block.location, writer.uuid, session.id)
        trial_runner = TrialRunner(
            the_problem,
            writer,
            opened.scope,
            retries,
            patience,
            keeper,
            stopping,
            opened.resources,
        )
        dispatcher: InlineDispatcher | ThreadDispatcher | BatchDispatcher
        if not isinstance(runner, ThreadPoolTaskRunner):
            dispatcher = BatchDispatcher(runner, trial_runner, n_jobs)
        elif n_jobs > 1:
            dispatcher = ThreadDispatcher(runner, trial_runner, n_jobs)
        else:
            dispatcher = InlineDispatcher(trial_runner)
        words = partial(watch.status, draw=False)
        publisher = ReportPublisher(study.study_name)
        stack.enter_context(ReportThread(watch.status, publisher, words=words))
        bar = stack.enter_context(
            StudyProgress(n_trials, the_problem.directions, trials=watch.trials(), enabled=progress)
        )
        packer = stack.enter_context(Packer(archive.artifacts, f"studies/{writer.uuid}"))
        run = StudyRun(
            study=study,
            session=session,
            dispatcher=dispatcher,
            logger=logger,
            n_trials=n_trials,
            timeout=timeout,
            catch=(catch,) if isinstance(catch, type) else tuple(catch),
            callbacks=[lambda _, trial: bar.update(trial), packer, *map(on_a_copy, callbacks)],
            opened_elsewhere=opened.block if live_trials else None,
            signer=archive.signer(),
            keeper=keeper,
            delivery=Delivery(study, writer, archive.signer, logger),
        )
        note_study(lambda: kept_words(study.study_name, study_name, opened.block, run.finished))
        with watch.running():
            run.run()
        flush_inputs()
    if opened.series is not None:
        opened.series.publish(opened.block)
    result = watch.result(n_task_runs=dispatcher.task_runs)
    logger.info("%s", result)
    return note_result(result)


def kept_words(
    name: str, given: str | None, block: StudyStorage, finished: int, flow: str = "optimize"
) -> str:
    """Return the sentence for somebody who has interrupted a study."""
    count = "1 finished trial" if finished == 1 else f"{finished} finished trials"
    if isinstance(block, InMemoryStudyStorage):
        return f"Study {name!r} had {count}; it was in memory, and ends with this program."
    call = "the same call" if given else f"{flow}(..., study_name={name!r})"
    return f"Study {name!r} keeps its {count}; {call} goes on with it."


def _check_reachable(block: StudyStorage) -> None:
    if isinstance(block, InMemoryStudyStorage):
        raise InvalidSettingError(
            "A plain objective, and a function that names `trial`, talk to the study while they "
            "run. A study in memory cannot be reached from other processes: use a file "
            "(the default storage) or a database, threads, or a Problem with `run(params)`."
        )
