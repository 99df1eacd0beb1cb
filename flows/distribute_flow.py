"""`distribute`: one study on many flow runs of a worker deployment, on many machines.

The parent fills the study's queue, and the workers empty it. A trial in the queue has no parameters
yet: whoever takes it suggests them, and so knows of every trial that was told until then. The
parent never lets more trials out than are missing, which is why there is never one too many.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from uuid import UUID

import optuna
from optuna.trial import FrozenTrial
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as current_flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled
from pydantic import BaseModel, Field

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.blocks.locations import artifacts_reference, storage_reference
from prefect_optuna.errors import (
    InvalidSettingError,
    ServerUnavailableError,
    StudyNotFoundError,
    WorkerFailedError,
)
from prefect_optuna.flows._worker_runs import WorkerRuns, job_variables_of, pool_of
from prefect_optuna.flows.opening import begin, check_settings, checked_arguments
from prefect_optuna.flows.optimize_flow import Callback, Storage
from prefect_optuna.flows.problem_source import ARCHIVE, deployed_code
from prefect_optuna.flows.report import ReportPublisher, ReportThread, StudyStatus
from prefect_optuna.flows.session import OpenTrials, Session, is_lost
from prefect_optuna.flows.study import (
    FlowStudy,
    Pruner,
    PrunerName,
    Sampler,
    SamplerName,
    StudyResult,
    on_a_copy,
)
from prefect_optuna.flows.study_flow import note_result, study_flow
from prefect_optuna.flows.wording import StudyProgress
from prefect_optuna.flows.work import CANCELLED, type_names
from prefect_optuna.tasks.archive.series.blobs import Packer
from prefect_optuna.tasks.inputs import as_bytes
from prefect_optuna.tasks.machine import ResourcesGiven
from prefect_optuna.tasks.problem import Direction, Problem

_LOOK_SECONDS = 0.25
_SESSIONS_SECONDS = 1.0
_AHEAD_SECONDS = 2.0
"""The queue holds what the workers do in this time: longer than a look, and short enough that
little is left there where the study is stopped."""
_LEAVE_SECONDS = 20.0  # for workers to end by themselves, or to put their trials back


@study_flow(
    name="distribute", flow_run_name="{study_name}", check=checked_arguments, code=deployed_code
)
def distribute(
    problem: Problem | Callable[..., Any] | str,
    *,
    study_name: str,
    workers: Annotated[int, Field(json_schema_extra={"minimum": 1})] = 2,
    deployment: str = "work/lab",
    n_trials: Annotated[int | None, Field(json_schema_extra={"minimum": 1})] = 100,
    timeout: Annotated[float | None, Field(json_schema_extra={"exclusiveMinimum": 0})] = None,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    sampler: SamplerName | Sampler | None = None,
    pruner: PrunerName | Pruner | None = None,
    seed: Annotated[int | None, Field(json_schema_extra={"minimum": 0})] = None,
    seed_trials: bool = True,
    directions: Direction | Sequence[Direction] | None = None,
    direction: Direction | None = None,
    scope: Mapping[str, Any] | None = None,
    n_jobs: Annotated[int, Field(json_schema_extra={"minimum": 1})] = 1,
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
    """Optimize a problem on several workers: one study, shared through its storage.

    The problem is archived, and each worker brings it back from the archive: it needs neither the
    script nor its modules, only the packages. A worker that dies is replaced, and its trials are
    asked again. A study of the same name goes on until it has `n_trials` finished trials in total;
    so does one whose `distribute` was killed, when it is started again.

    Args:
        problem: What `optimize` takes.
        study_name: The study, which goes on if it exists.
        workers: How many flow runs work on it at once.
        deployment: The deployment of the flow `work` that they are runs of, or just its work
            pool. `prefect-optuna deploy-worker --pool lab` makes `work/lab`.
        n_trials: How many trials are to be finished in total, as for `optimize`: exactly so many.
        timeout: Seconds after which no more trials are begun.
        storage: Where the study is kept: a saved block or its `"slug/name"`, a URL without
            secrets, or a file that the workers reach under the same path.
        artifacts: Where the archive is kept; likewise.
        sampler: A sampler by name, or with options: each worker makes its own.
        pruner: A pruner by name, or with options.
        seed: Seeds the samplers, each differently. Which worker takes which trial is left to
            chance, and so two studies differ all the same.
        seed_trials: Whether the code of each trial draws its random numbers from a seed of the
            trial's own, as for `optimize`.
        directions: `minimize` or `maximize` for each value; by default the problem's.
        direction: The same for a single value, as Optuna calls it.
        scope: Parameters for what the problem calls, as for `optimize`.
        n_jobs: How many trials each worker runs at once.
        catch: Exceptions that fail a trial and not the study.
        retries: How many times `run` is called again after an exception.
        callbacks: Called here after each trial with the study and the trial, as Optuna calls them.
        progress: A progress bar in the terminal; by default where there is one.
        keep_inputs: How much of the files that trials read goes into the archive, as for
            `optimize`; each worker counts what it adds to what is there when it begins.
        version: Of `problem="archive"`: which version of it, as for `optimize`.
        trusted: Whether the code of `problem="archive"` may run, as for `optimize`.
        install: Whether workers that lack a package of the problem, or have another version of it,
            run trials in the environment that was recorded.
        resources: What one trial has to itself, such as
            `{"cpus": 2, "memory": "4 GiB", "gpus": 1}`, in place of the problem's: asked of the
            pool (Docker, Kubernetes), or counted on each machine. Libraries take as many threads,
            and GPUs are not shared.
        warm_start: Makes each run a study of its own, called after `study_name` and the time for
            which it was scheduled, whose first trials have the parameters of the best ones of the
            last such study: so many of them. `None` goes on with the study of that name.

    Returns:
        What the study came to.

    Raises:
        InvalidParameterError: A value of the scope is not of the type that the code takes.
        InvalidSettingError: An argument cannot work, or there is no such deployment.
        ServerUnavailableError: There is no Prefect server that workers could ask for work.
        InvalidSettingError: Workers could be told of a storage only together with its password.
        WorkerFailedError: A trial raised what `catch` does not name, the problem cannot be
            brought back on a worker, or workers die and none of them finishes a trial.
        StudyNotFoundError: The study was deleted while it ran.
        InvalidProblemError: The problem is none, or breaks its contract.
        StudyMismatchError: The study exists with other directions.
        StorageUnavailableError: The storage or the archive cannot be reached or written.
        CaptureError: The problem cannot be archived as source.
        ArchiveError: There is no such archive or version, or a package that its code needs is not
            installed here.
        EnvironmentUnavailableError: A worker cannot install what was recorded.
        UntrustedArchiveError: The archive's code may not run, or its signature does not hold.

    Example:
        >>> from prefect_optuna.flows import distribute
        >>> distribute.name
        'distribute'
    """
    check_settings(n_trials, timeout, n_jobs, retries, seed)
    kept_bytes = as_bytes(keep_inputs)
    _check_here(workers, n_jobs, sampler, pruner)
    places = {"storage": storage_reference(storage), "artifacts": artifacts_reference(artifacts)}
    deployment = deployment if "/" in deployment else f"work/{deployment}"
    pool = pool_of(deployment)
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
        install=install if problem == ARCHIVE else False,
        resources=resources,
        warm_start=warm_start,
        where=f", on {workers} workers of the pool {pool!r}",
    )
    study, watch = opened.study, opened.watch
    study_name = study.study_name  # of studies in a row, this one's

    session = Session(
        study,
        study.storage,
        {"flow_run": str(current_flow_run.id), "workers": workers, "n_trials": n_trials},
        seed=opened.trials_seed,
    )
    caught = (catch,) if isinstance(catch, type) else tuple(catch)
    common: dict[str, Any] = {
        **places,
        "study_name": study_name,
        "parent": session.id,
        "version": opened.archive.writer().version,
        "sampler": _as_parameter(sampler),
        "pruner": _as_parameter(pruner),
        "n_jobs": n_jobs,
        "catch": [next(type_names(kind)) for kind in caught],
        "retries": retries,
        **({"keep_inputs": kept_bytes} if kept_bytes else {}),
        **({"install": True} if install else {}),
        **({"resources": needs.as_json()} if (needs := opened.resources) else {}),
    }
    runs = WorkerRuns(
        deployment,
        pool,
        study_name,
        lambda number: {
            **common,
            "number": number,
            "seed": _seed_of(seed, opened.earlier, number),
        },
        UUID(str(current_flow_run.id)),
        logger,
        job_variables_of(pool, opened.resources, n_jobs),
    )

    def status(*, draw: bool = True) -> StudyStatus:
        stands = watch.status(draw=draw)
        return replace(stands, notes=(*stands.notes, *runs.notes))

    with contextlib.ExitStack() as stack:
        words = partial(status, draw=False)
        publisher = ReportPublisher(study.study_name)
        stack.enter_context(ReportThread(status, publisher, words=words))
        bar = stack.enter_context(
            StudyProgress(
                n_trials, opened.problem.directions, trials=watch.trials(), enabled=progress
            )
        )
        queue = _Queue(
            study,
            session,
            runs,
            workers=workers,
            n_jobs=n_jobs,
            n_trials=n_trials,
            timeout=timeout,
            callbacks=[
                lambda _, trial: bar.update(trial),
                Packer(opened.archive.artifacts, f"studies/{opened.archive.writer().uuid}"),
                *map(on_a_copy, callbacks),
            ],
            logger=logger,
        )
        try:
            with watch.running():
                queue.run()
        except _CancelledFromOutsideError:
            logger.info("Cancelled; its trials are asked again when the study is started again.")
            return cast("StudyResult", Cancelled(message="The study was cancelled."))
    if opened.series is not None:
        opened.series.publish(opened.block)
    result = watch.result(n_task_runs=queue.task_runs)
    logger.info("%s", result)
    return note_result(result)


class _CancelledFromOutsideError(BaseException):
    """Somebody has cancelled this flow run on the server. No `Exception`: it is no failure."""


@dataclass
class _Queue:
    """The loop of the parent: lets out trials, sees them end, and whoever ran them."""

    study: FlowStudy
    session: Session
    runs: WorkerRuns
    workers: int
    n_jobs: int
    n_trials: int | None
    timeout: float | None  # seconds, after which no more trials are let out
    callbacks: Sequence[Callable[[optuna.Study, FrozenTrial], None]]
    logger: logging.Logger | logging.LoggerAdapter[Any]
    task_runs: int = 0
    _error: WorkerFailedError | None = None
    _rates: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])

    def __post_init__(self) -> None:
        now = time.monotonic()
        self._deadline = math.inf if self.timeout is None else now + self.timeout
        self._sessions_at = -math.inf
        self._ended = False
        self._follows = OpenTrials()
        self._term = 0  # in which this run leads; each that takes the lead counts on
        self._superseded = False
        self._leave: list[str] = []
        self._declared: set[str] = set()
        self._paused = False

    def run(self) -> None:
        """Go on until enough trials are finished, the time is up, or something is wrong."""
        self.session.open()
        clean, state = False, "interrupted"
        try:
            self.session.recover()
            self._follows.look(self._trials())  # what has ended by now was told before
            with self.runs:
                while self._await_turn() and not self._lead():
                    self._follow()
                self._end()
                self._await_workers()
            clean, state = True, "stopped" if self.study.stopped else "completed"
            if (error := self._error or self.runs.failure) is not None:
                raise error
        except BaseException as error:
            state = "failed" if isinstance(error, Exception) else "interrupted"
            self.study.storage.patience.end()
            if self._is_deleted(error):
                raise self._deleted() from error
            # Their flow runs are being cancelled, and they put their trials back.
            with contextlib.suppress(Exception):
                self._end(cancelled=True)
                self._await_workers()
            raise
        finally:
            with contextlib.suppress(Exception):
                self.session.close(clean=clean, state=state)

    def _await_turn(self) -> bool:
        """Follow another run that leads this study until it is gone; whether this one leads then.

        Two that lead would let out more trials than there are to be.
        """
        said = False
        while True:
            if self.runs.cancelled:
                raise _CancelledFromOutsideError
            records = self.session.records()
            others = self._leaders(records)
            own = (-self._term, self.session.opened, self.session.id)
            if self._term and (not others or own < min(others)):
                return True
            if others and self._term:
                self._say_term(0)
            elif not others:
                # Whoever has seen nobody at the same moment shows at the next look.
                self._say_term(1 + max(map(_term_of, records.values()), default=0))
                time.sleep(_LOOK_SECONDS)
                continue
            if not said:
                said = True
                self.logger.info(
                    "Another run leads this study. This one follows, and takes over if that dies."
                )
            self._call_back()
            finished = self._follows.finished
            if self._must_stop() or (self.n_trials is not None and finished >= self.n_trials):
                return False
            time.sleep(_SESSIONS_SECONDS)

    def _say_term(self, term: int) -> None:
        self._term = term
        if term:
            self._ended = False
        self.session.say(leads=term, over=self._ended)

    def _leaders(self, records: Mapping[str, Mapping[str, Any]]) -> list[tuple[int, float, str]]:
        """The others that lead and live, whoever took the lead last first."""
        return [
            (-term, record["opened"], key)
            for key, record in records.items()
            if key != self.session.id and record["alive"] and (term := _term_of(record))
        ]

    def _lead(self) -> bool:
        """Lead the study to its end; whether it was, and no other run has taken over."""
        self._superseded = False
        self._tell_of_the_dead()
        while not self._step():
            if self._superseded:
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def _follow(self) -> None:
        """Give the lead up, as after this machine stood still for longer than its lease."""
        self.logger.warning("Another run leads this study by now. This one ends its workers.")
        self._end()
        self._await_workers()
        self._say_term(0)

    def _tell_of_the_dead(self) -> None:
        """Have the server know that runs which led this study have died: it sees them run."""
        records = [one for one in self.session.records().values() if "workers" in one]
        alive = [one.get("flow_run") for one in records if one["alive"]]
        for record in records:
            if not record["closed"] and record.get("flow_run") not in alive:
                self.runs.other_dead(record.get("flow_run"))

    def _step(self) -> bool:
        """One look at everything; whether the study is over."""
        if self.runs.cancelled:
            raise _CancelledFromOutsideError
        self._call_back()
        finished = self._follows.finished
        running, waiting = self.session.under_way(self._follows.open)
        if time.monotonic() - self._sessions_at > _SESSIONS_SECONDS:
            self._look_at_sessions()
            if self._superseded:
                return False
        missing = math.inf if self.n_trials is None else self.n_trials - finished
        if self._must_stop() or missing <= 0:
            # What has begun is finished, as long as somebody runs it.
            return not running or self.runs.failure is not None
        self.runs.wanted = math.ceil(min(self.workers, missing / self.n_jobs))
        lost = len(self._follows.unrepeated)
        room = min(missing - running - waiting - lost, self._depth(finished) - waiting)
        if room > 0 and not self._paused:
            self.session.release(int(room))
        return False

    def _must_stop(self) -> bool:
        over = (
            self._error is not None
            or self.runs.failure is not None
            or self.study.stopped
            or time.monotonic() >= self._deadline
        )
        if over:
            self._end()
        return over

    def _end(self, *, cancelled: bool = False) -> None:
        """No worker takes a trial any more."""
        self.runs.wanted = 0
        if cancelled:
            self.session.say(over=CANCELLED)
        elif not self._ended:
            self.session.say(over=True)
        self._ended = True

    def _trials(self) -> Sequence[FrozenTrial]:
        return self.study.trials_view()

    def _depth(self, finished: int) -> int:
        """Number of trials to keep in the queue: those that the workers do before the next look."""
        now = time.monotonic()
        self._rates = [(at, n) for at, n in self._rates if now - at < _AHEAD_SECONDS]
        self._rates.append((now, finished))
        first_at, first = self._rates[0]
        rate = (finished - first) / max(now - first_at, _LOOK_SECONDS)
        return self.workers * self.n_jobs + math.ceil(rate * _AHEAD_SECONDS)

    def _call_back(self) -> None:
        _, ended = self._follows.look(self._trials())
        for trial in ended:
            if not is_lost(trial):
                self.runs.progress()
                for callback in self.callbacks:
                    callback(self.study, trial)

    def _look_at_sessions(self) -> bool:
        """Recover the trials of dead workers; whether any worker lives."""
        self._sessions_at = time.monotonic()
        self._take_orders()
        all_records = self.session.records()
        own = (-self._term, self.session.opened, self.session.id)
        self._superseded = bool(self._term) and min([own, *self._leaders(all_records)]) != own
        records = {
            key: record
            for key, record in all_records.items()
            if record.get("parent") == self.session.id
        }
        ended = self.runs.ended
        alive = False
        self._let_go(records)
        for key, record in records.items():
            if record["alive"] and record["flow_run"] in ended and key not in self._declared:
                # On another machine; its lease lasts longer.
                self._declared.add(key)
                self.session.declare_dead(key)
            elif record["alive"]:
                alive = True
                self.runs.alive(record["flow_run"])
            elif not record["closed"]:
                self.runs.dead(record["flow_run"])
            if record.get("stopped"):
                self.study.stop()
            if record.get("error") and self._error is None:
                self._error = WorkerFailedError(_explained(record))
        self.task_runs = sum(record.get("task_runs", 0) for record in records.values())
        self.session.recover()
        return alive

    def _take_orders(self) -> None:
        orders = self.session.orders()  # such as by `prefect-optuna stop`
        self._paused = orders.get("do") == "pause"
        if orders.get("do") == "stop":
            self.study.stop()
        wanted = orders.get("workers", self.workers)
        if wanted != self.workers:
            self.logger.info("%d workers are asked for, in place of %d.", wanted, self.workers)
            self.workers = wanted
            self.session.say(workers=wanted)

    def _let_go(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Have those that are too many end when their trials have: the last ones to come."""
        alive = sorted((r["opened"], key) for key, r in records.items() if r["alive"])
        leave = [key for _, key in alive[self.workers :]]
        if leave != self._leave:
            self._leave = leave
            self.session.say(leave=leave)

    def _await_workers(self) -> None:
        end = time.monotonic() + _LEAVE_SECONDS
        while self._look_at_sessions() and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)

    def _is_deleted(self, error: BaseException) -> bool:
        """Tell whether the study was deleted: Optuna's storages raise a plain `KeyError`."""
        if isinstance(error, KeyError):
            try:
                self.session.records()
            except KeyError:
                return True
        return False

    def _deleted(self) -> StudyNotFoundError:
        return StudyNotFoundError(
            f"The study {self.study.study_name!r} was deleted while it ran. What its trials have "
            "archived is still there; start it again for a new study of that name."
        )


def _term_of(record: Mapping[str, Any]) -> int:
    """Whoever can write to the storage could have written anything."""
    term = record.get("leads")
    return min(max(int(term), 0), 1 << 31) if isinstance(term, int) else 0


def _explained(record: Mapping[str, Any]) -> str:
    why = str(record["error"]).rstrip(".")
    if record.get("refused"):
        return f"A worker cannot run the problem: {why}."
    return (
        f"A worker has stopped the study: {why}. Name the exception in `catch` to have it fail "
        "the trial only; start the study again under the same name to go on."
    )


def _check_here(workers: int, n_jobs: int, sampler: object, pruner: object) -> None:
    if workers < 1:
        raise InvalidSettingError(f"`workers` is 1 or more; found {workers}.")
    if n_jobs < 1:
        raise InvalidSettingError(
            f"`n_jobs` is how many trials each worker runs at once, 1 or more; found {n_jobs}."
        )
    kinds: tuple[tuple[Literal["sampler", "pruner"], object], ...]
    kinds = (("sampler", sampler), ("pruner", pruner))
    for name, value in kinds:
        if value is not None and not isinstance(value, (str, BaseModel)):
            raise InvalidSettingError(
                f"Each worker makes its own {name}: name one, such as "
                f"{'tpe' if name == 'sampler' else 'hyperband'!r}, or give "
                f"prefect_optuna.flows.{name.title()}(name=..., options=...); found a "
                f"{type(value).__name__}."
            )
    if PREFECT_API_URL.value() is None:
        raise ServerUnavailableError(
            "There is no Prefect server that workers could ask for work: PREFECT_API_URL is not "
            "set. `prefect-optuna serve` starts a server, a pool and a worker on this machine."
        )


def _as_parameter(value: str | BaseModel | None) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _seed_of(seed: int | None, n_existing: int, number: int) -> int | None:
    """Each worker's own, and another one when the study goes on: none repeats another's trials."""
    if seed is None:
        return None
    import numpy as np

    return int(np.random.SeedSequence([seed, n_existing, number]).generate_state(1)[0])
