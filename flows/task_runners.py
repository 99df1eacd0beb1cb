"""Task runners, and trials on their way to task runs and back."""

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext, TaskRunContext
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import task

from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.stores import REMOTE
from prefect_optuna.errors import InvalidSettingError, WorkerFailedError
from prefect_optuna.flows.session import MAX_REPETITIONS
from prefect_optuna.flows.study_flow import ending_softly, public_errors
from prefect_optuna.flows.temporary_server import other_settings, share_temporary_server
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.machine import (
    Machine,
    Resources,
    Share,
    hold_share,
    require_room,
    say_if_taken,
    share_of_trial,
    threads_of,
)
from prefect_optuna.tasks.trial import Assignment, Outcome, TrialRunner, Upload

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

# Trials on their way to task runs and back, at a stated cost.
#
# A task run costs several milliseconds, so trials that are faster share one. On threads a task
# run takes trials for a while, one after the other, so that each trial is still asked with all
# earlier ones told. Other task runners get batches, sized by how long trials were seen to take.
# Orchestration then takes about `ORCHESTRATION_SHARE` of the time, whatever a trial takes.


ORCHESTRATION_SHARE = 0.02
"""The share of the time that task runs may cost."""

THREAD_TASK_RUN_SECONDS = 0.008
PROCESS_TASK_RUN_SECONDS = 0.08
"""The measured cost of a task run, on threads and on process pools or Dask."""


TASK_RUN_SECONDS = THREAD_TASK_RUN_SECONDS / ORCHESTRATION_SHARE
"""Number of seconds for which a task run on threads takes further trials, at least."""


def task_run_seconds(at_once: int) -> float:
    """For how long a task run on threads takes trials of a study that runs so many at once.

    A server takes in some 30 task runs a second, from all machines together; these are 10.
    """
    return max(TASK_RUN_SECONDS, at_once / 10)


@dataclass(frozen=True)
class Lost:
    """A trial whose process has died."""

    number: int


OnOutcome = Callable[[Outcome], None]
"""Takes the outcome of each trial as it ends."""


@task(task_run_name="trials from {first}", cache_policy=NO_CACHE, persist_result=False)
def run_trials(
    first: int,
    assignments: Iterable[Assignment],
    runner: TrialRunner,
    report: OnOutcome | None = None,
) -> State[list[Outcome]]:
    """Run some trials, one after the other."""
    outcomes: list[Outcome] = []
    counts = {"complete": 0, "pruned": 0, "failed": 0, "lost": 0}
    best: tuple[float, ...] | None = None
    outcome: Outcome | None = None
    directions = runner.problem.directions
    soft = contextlib.nullcontext()
    if report is not None:  # here, and not in a process of a pool
        # Prefect has a handler of its own around each task run.
        soft = ending_softly(runner.stopping)
    with public_errors(), soft, share_of_trial(runner.resources):
        for assignment in assignments:
            outcome = runner(assignment)
            counts[outcome.state] += 1
            feasible = all(value <= 0 for value in outcome.constraints.values())
            if outcome.values is not None and len(directions) == 1 and feasible:
                pick = min if directions[0] == "minimize" else max
                best = outcome.values if best is None else pick(best, outcome.values)
            if report is None:
                outcomes.append(outcome)
            else:
                report(outcome)
    total = sum(counts.values())
    if outcome is not None and (context := TaskRunContext.get()) is not None:
        # Its last event tells the server the new name.
        context.task_run.name = _run_name(first, outcome, total, best)
    words = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return Completed(message=f"{total} trial{'' if total == 1 else 's'}: {words}", data=outcomes)


def _run_name(first: int, last: Outcome, total: int, best: tuple[float, ...] | None) -> str:
    """Return the name of a task run whose trials have ended."""
    if total == 1:
        values = ", ".join(map(format_value, last.values or ()))
        infeasible = values and any(value > 0 for value in last.constraints.values())
        return f"trial {last.number}: {values or last.state}{', infeasible' if infeasible else ''}"
    return f"trials {first} to {last.number}" + (f": best {format_value(best[0])}" if best else "")


class Dispatcher(Protocol):
    """Hands out assignments and brings back outcomes."""

    trial_runner: TrialRunner
    """Runs each of them."""

    task_runs: int
    """Number of task runs so far."""

    def room(self) -> int:
        """Return the number of trials that may be asked now."""
        ...

    def put(self, assignments: list[Assignment]) -> None:
        """Have these trials run."""
        ...

    def get(self, timeout: float) -> Sequence[Outcome | Lost]:
        """The outcomes that have come, after waiting at most `timeout` seconds for the first."""
        ...

    def close(self) -> None:
        """Take no more trials."""
        ...


class InlineDispatcher:
    """One job on threads needs no other thread: its task runs are the flow's own.

    Nothing is handed over between threads, and Ctrl-C reaches the trial that is running.
    """

    def __init__(self, trial_runner: TrialRunner) -> None:
        self.trial_runner = trial_runner
        self.task_runs: int = 0

    def run(self, first: int, assignments: Iterable[Assignment], *, report: OnOutcome) -> None:
        """Run some trials in one task run, and report each as it ends."""
        self.task_runs += 1
        run_trials(first, assignments, self.trial_runner, report)


_UPLOADS = 4  # results that are being written, for each trial that runs
_MOST_HELD = 1 << 26  # bytes of such results, above which a trial waits for its own
_WORTH_WAITING = 0.05  # of what a trial took


class _LaneEvent(NamedTuple):
    """A trial has ended.

    Args:
        outcome: its outcome; `None` if its result is still being written.
        ran: whether its lane has said nothing of it yet.
        was_last: whether it was the last one of its task run.
    """

    outcome: Outcome | None
    ran: bool
    was_last: bool


class ThreadDispatcher:
    """Dispatch to threads: `n_jobs` lanes, each one task run after another, with one feed."""

    def __init__(
        self, task_runner: ThreadPoolTaskRunner[Any], trial_runner: TrialRunner, n_jobs: int
    ) -> None:
        self._task_runner = task_runner
        self.trial_runner = trial_runner
        self._n_jobs = n_jobs
        self.others: int = 0
        """Number of trials of the study that others run at the same time."""
        self._feed: queue.SimpleQueue[Assignment | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[_LaneEvent | BaseException] = queue.SimpleQueue()
        self._running = 0
        self._open = 0  # lanes that run one of these, or take the next
        self.task_runs: int = 0
        self._uploading = 0  # trials
        self._held = 0  # bytes of their results
        self._lock = threading.Lock()
        writer = trial_runner.writer
        if writer is not None and writer.artifacts.url.partition("://")[0] in REMOTE:
            trial_runner.uploads = ThreadPoolExecutor(_UPLOADS * n_jobs, "uploading")

    def room(self) -> int:
        """Return the number of trials that may be asked now."""
        return min(self._n_jobs - self._running, _UPLOADS * self._n_jobs - self._uploading)

    def put(self, assignments: list[Assignment]) -> None:
        """Have these trials run."""
        for assignment in assignments:
            self._running += 1
            self._feed.put(assignment)
            if self._open < self._running:
                self._open_lane(assignment.number)

    def get(self, timeout: float) -> list[Outcome]:
        """The outcomes that have come, after waiting at most `timeout` seconds for the first."""
        outcomes: list[Outcome] = []
        heard = False
        try:
            while True:
                event = self._events.get(block=not heard, timeout=timeout)
                if isinstance(event, BaseException):
                    raise event
                heard = True
                self._running -= event.ran
                self._open -= event.was_last
                if event.outcome is None:
                    self._uploading += 1
                else:
                    self._uploading -= not event.ran
                    outcomes.append(event.outcome)
        except queue.Empty:
            if not heard:
                self._close_lanes(self._open - self._running)
            return outcomes

    def close(self) -> None:
        """Take no more trials: each lane ends with the trial it runs."""
        self._close_lanes(self._open)

    def _open_lane(self, first: int) -> None:
        self._open += 1
        self.task_runs += 1
        end = time.monotonic() + task_run_seconds(self._n_jobs + self.others)
        was_last = False

        def report(outcome: Outcome) -> None:
            # Known before the next trial is asked: it has to find a lane that is free.
            nonlocal was_last
            is_whole = self._is_uploaded(outcome)
            was_last = time.monotonic() > end
            whole = outcome.uploaded() if is_whole else None
            self._events.put(_LaneEvent(whole, ran=True, was_last=was_last))
            if not is_whole:
                self._report_later(outcome)

        def assignments() -> Iterator[Assignment]:
            while not was_last and (assignment := self._feed.get()) is not None:
                yield assignment

        future = self._task_runner.submit(
            run_trials,
            parameters={
                "first": first,
                "assignments": assignments(),
                "runner": self.trial_runner,
                "report": report,
            },
        )
        future.add_done_callback(self._lane_ended)

    def _is_uploaded(self, outcome: Outcome) -> bool:
        """Wait for a result to be written, as long as that costs little beside its trial.

        The next trial is asked with more knowledge then.
        """
        if outcome.upload is None:
            return True
        with self._lock:
            # Counted at once, or two lanes would both find the last room.
            self._held += outcome.upload.size
            is_much = self._held > _MOST_HELD
        wait([outcome.upload.end], None if is_much else outcome.seconds * _WORTH_WAITING)
        if not outcome.upload.end.done():
            return False
        self._let_go(outcome.upload)
        return True

    def _let_go(self, upload: Upload) -> None:
        with self._lock:
            self._held -= upload.size

    def _report_later(self, outcome: Outcome) -> None:
        upload = cast("Upload", outcome.upload)

        def report(_: object) -> None:
            self._let_go(upload)
            self._events.put(_LaneEvent(outcome.uploaded(), ran=False, was_last=False))

        upload.end.add_done_callback(report)

    def _close_lanes(self, count: int) -> None:
        """End lanes that have nothing to run, or soon will not: each takes one mark."""
        for _ in range(count):
            self._open -= 1
            self._feed.put(None)

    def _lane_ended(self, future: PrefectFuture[Any]) -> None:
        failure = _failure(future)
        if failure is not None:
            self._events.put(failure)


class BatchDispatcher:
    """Dispatch to processes, Dask or Ray: task runs of several trials each.

    A process of this program that dies is replaced, and its trials are lost. Dask and Ray see to
    their own workers.
    """

    def __init__(
        self, task_runner: TaskRunner[Any], trial_runner: TrialRunner, n_jobs: int
    ) -> None:
        self._task_runner = task_runner
        self.trial_runner = trial_runner
        self._n_jobs = n_jobs
        self._ended: queue.SimpleQueue[tuple[PrefectFuture[Any], list[Assignment]]]
        self._ended = queue.SimpleQueue()
        self._under_way = 0
        self.task_runs: int = 0
        self._seconds: float | None = None  # of a trial, a running mean
        self._died = 0  # processes in a row

    @property
    def batch(self) -> int:
        """Number of trials that share a task run: one until it is known how long they take.

        Never more than two seconds' worth: the sampler learns nothing from a trial before its
        batch has ended.
        """
        if self._seconds is None:
            return 1
        least = PROCESS_TASK_RUN_SECONDS / ORCHESTRATION_SHARE
        return max(1, math.floor(min(least, 2.0) / max(self._seconds, 1e-6)))

    def room(self) -> int:
        """Return the number of trials that may be asked now."""
        return self.batch * (self._n_jobs - self._under_way)

    def put(self, assignments: list[Assignment]) -> None:
        """Have these trials run."""
        for batch in self._batches(assignments):
            self._under_way += 1
            self.task_runs += 1
            future = self._task_runner.submit(
                run_trials,
                parameters={
                    "first": batch[0].number,
                    "assignments": batch,
                    "runner": self.trial_runner,
                },
            )
            future.add_done_callback(partial(self._batch_ended, batch))

    def get(self, timeout: float) -> list[Outcome | Lost]:
        """The outcomes that have come, after waiting at most `timeout` seconds for the first."""
        outcomes: list[Outcome | Lost] = []
        try:
            while True:
                future, batch = self._ended.get(block=not outcomes, timeout=timeout)
                self._under_way -= 1
                outcomes += self._collect(future, batch)
        except queue.Empty:
            return outcomes

    def close(self) -> None:
        """Nothing waits for more: each batch has all its trials."""

    def _batches(self, assignments: list[Assignment]) -> Iterator[list[Assignment]]:
        size, batch = self.batch, list[Assignment]()
        for assignment in assignments:
            if assignment.alone:
                yield [assignment]
                continue
            batch.append(assignment)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _batch_ended(self, batch: list[Assignment], future: PrefectFuture[Any]) -> None:
        self._ended.put((future, batch))

    def _collect(
        self, future: PrefectFuture[Any], batch: list[Assignment]
    ) -> Sequence[Outcome | Lost]:
        failure = _failure(future)
        if failure is not None and isinstance(failure.__cause__, BrokenExecutor):
            self._died += 1
            # As of the workers of `distribute`: a trial that takes its process down does so a few
            # times before it counts as failed.
            if self._died <= (MAX_REPETITIONS + 1) * self._n_jobs:
                return [Lost(assignment.number) for assignment in batch]
        if failure is not None:
            raise failure
        self._died = 0
        outcomes: list[Outcome] = future.result()
        for outcome in outcomes:
            mean = outcome.seconds if self._seconds is None else self._seconds
            self._seconds = 0.8 * mean + 0.2 * outcome.seconds
        return outcomes


def _failure(future: PrefectFuture[Any]) -> BaseException | None:
    """Return why a task run failed, if it did; a trial's own error is an outcome, no failure."""
    cause: Exception | None = None
    try:
        future.wait()
    except Exception as error:  # noqa: BLE001 - the pool broke, and each has its own error
        cause, message = error, f"{type(error).__name__}: {error}"
    else:
        if future.state.is_completed():
            return None
        message = f"{future.state.name}: {future.state.message or 'no reason given'}"
    failure = WorkerFailedError(
        f"A task run of trials did not complete: {message}. Its trials are asked again when the "
        "study is started again under the same name."
    )
    failure.__cause__ = cause
    return failure


ClusterName = Literal["dask", "ray"]

_ADDRESSES = {"dask": "DASK_SCHEDULER_ADDRESS", "ray": "RAY_ADDRESS"}
_OF_DASK = ("CPU", "MEMORY", "GPU")


def make_cluster_runner(name: ClusterName, n_jobs: int) -> TaskRunner[Any]:
    """The task runner of a cluster: the one that its variable names, or one on this machine.

    Raises:
        InvalidSettingError: the package is not installed here.
    """
    try:
        module: Any = importlib.import_module(f"prefect_{name}")
    except ImportError as error:
        raise InvalidSettingError(
            f"task_runner={name!r} needs a package that is not installed here ({error}): "
            f"pip install 'prefect-optuna[{name}]'."
        ) from None
    address = os.environ.get(_ADDRESSES[name])
    if name == "ray":
        here = Machine.here()
        own = {"num_gpus": len(here.gpus), "include_dashboard": False}
        return module.RayTaskRunner(address=address, init_kwargs={} if address else own)
    own = {"n_workers": n_jobs, "threads_per_worker": 1, "dashboard_address": None}
    return module.DaskTaskRunner(address=address, cluster_kwargs=None if address else own)


class ClusterRunner(TaskRunner[Any]):
    """A task runner of Ray or Dask, whose task runs each have the resources of a trial."""

    def __init__(self, runner: TaskRunner[Any], needs: Resources) -> None:
        super().__init__()
        self._runner = runner
        self._needs = needs
        self._is_ray = type(runner).__module__.startswith("prefect_ray")
        if self._is_ray:
            _require(needs, _ray_workers(), "Ray cluster", "")
        else:
            _require(needs, _dask_workers(runner, needs), "Dask cluster", _DECLARE)

    def duplicate(self) -> ClusterRunner:
        """One like this, on the same cluster."""
        return ClusterRunner(self._runner, self._needs)

    def submit(self, *args: Any, **kwargs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Have a task run where its resources are free."""
        with self._asking():
            return self._runner.submit(*args, **kwargs)

    @contextlib.contextmanager
    def _asking(self) -> Generator[None]:
        cpus, memory, gpus = self._needs.cpus, self._needs.memory_bytes, self._needs.gpus
        if self._is_ray:
            around: Any = importlib.import_module("prefect_ray.context").remote_options(
                num_gpus=gpus,
                **({} if cpus is None else {"num_cpus": cpus}),
                **({} if memory is None else {"memory": memory}),
            )
        else:
            wanted = zip(_OF_DASK, (cpus, memory, gpus), strict=True)
            dask: Any = importlib.import_module("dask")
            around = dask.annotate(resources={name: value for name, value in wanted if value})
        with around:
            yield


def is_cluster(runner: TaskRunner[Any]) -> bool:
    """Tell whether task runs go to Ray or Dask."""
    return type(runner).__module__.startswith(("prefect_ray", "prefect_dask"))


_DECLARE = (
    " Its workers say by themselves what they have: dask worker ADDRESS --nthreads 4 "
    "--resources 'CPU=4 MEMORY=16e9 GPU=1'."
)


def _require(needs: Resources, workers: Sequence[Machine], what: str, hint: str) -> None:
    if any(worker.room(needs) != 0 for worker in workers):
        return
    have = "; ".join(sorted({str(worker) for worker in workers})) or "no worker at all"
    raise InvalidSettingError(
        f"A trial wants {needs}, and no worker of the {what} has that. They have: {have}.{hint}"
    )


def _ray_workers() -> list[Machine]:
    ray: Any = importlib.import_module("ray")
    nodes = [node["Resources"] for node in ray.nodes() if node.get("Alive", node.get("alive"))]
    return [
        _machine(node.get("CPU", 0), node.get("memory", 0), node.get("GPU", 0)) for node in nodes
    ]


def _dask_workers(runner: Any, needs: Resources) -> list[Machine]:
    client = runner.client
    client.wait_for_workers(1, timeout=60)
    workers: Mapping[str, Mapping[str, Any]] = client.scheduler_info()["workers"]
    if runner.address is None and not any(worker["resources"] for worker in workers.values()):
        # A cluster of this run alone, on this machine.
        here = Machine.here()
        for place, address in enumerate(sorted(workers)):
            own = (len(here.gpus) - place + len(workers) - 1) // len(workers)
            # One trial at a time in each process that has GPUs: its threads would share them.
            client.run(
                _declare,
                cpus=here.cpus / len(workers),
                memory=here.memory // len(workers),
                gpus=min(own, max(needs.gpus, 1)) if needs.gpus else 0,
                workers=[address],
            )
        workers = client.scheduler_info()["workers"]
    for address, w in workers.items():
        gpus = w["resources"].get("GPU", 0)
        if needs.gpus and w["nthreads"] > 1 and gpus >= needs.gpus + max(needs.gpus, 1):
            raise InvalidSettingError(
                f"The Dask worker {address} has {gpus:g} GPUs and {w['nthreads']} threads: its "
                "trials would see the same GPUs. Start a worker for each of them: dask worker "
                f"ADDRESS --nworkers {gpus:g} --nthreads 1 --resources 'GPU={needs.gpus:g}'."
            )
    return [
        _machine(*(one["resources"].get(name, 0) for name in _OF_DASK)) for one in workers.values()
    ]


async def _declare(dask_worker: Any, cpus: float, memory: float, gpus: float) -> None:
    """Runs in a Dask worker: say what it has."""
    await dask_worker.set_resources(CPU=cpus, MEMORY=memory, GPU=gpus)


def _machine(cpus: float, memory: float, gpus: float) -> Machine:
    """A worker's amounts; which of its GPUs is which, it knows."""
    whole = {str(number): 1.0 for number in range(int(gpus))}
    return Machine(cpus, int(memory), whole | ({"part": gpus % 1} if gpus % 1 else {}))


RunnerName = Literal["threads", "processes", "dask", "ray"]


@contextlib.contextmanager
def open_task_runner(
    wanted: RunnerName | TaskRunner[Any] | None,
    n_jobs: int,
    resources: Resources | None = None,
    say: Callable[[str], None] | None = None,
) -> Generator[TaskRunner[Any]]:
    """Have a task runner ready, within a flow; its task runs have the resources of a trial.

    `say` is told where they are waited for.
    """
    given = wanted = wanted or OptunaSettings.here().task_runner
    if given is None:
        context = FlowRunContext.get()
        assert context is not None  # noqa: S101 - this is the flow
        given = context.task_runner
    elif given == "threads":
        # A lane ends while the next one begins.
        given = ThreadPoolTaskRunner(max_workers=2 * n_jobs)
    elif given == "processes":
        given = ProcessPoolTaskRunner(max_workers=1)
    elif given in ("dask", "ray"):
        given = make_cluster_runner(cast("ClusterName", given), n_jobs)
    elif not isinstance(given, TaskRunner):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidSettingError(
            "`task_runner` is `threads`, `processes`, `dask`, `ray` or a Prefect task runner; "
            f"found {given!r}."
        )
    with contextlib.ExitStack() as stack:
        # The flow has asked the server for its version. A task run that begins later would fail if
        # the server were away at that moment.
        stack.enter_context(other_settings(client={"server_version_check_enabled": False}))
        # A cluster with an address is elsewhere, and would not reach a server of this program.
        if not isinstance(given, ThreadPoolTaskRunner) and getattr(given, "address", None) is None:
            stack.enter_context(share_temporary_server())
        if isinstance(given, ProcessPoolTaskRunner):
            if resources is not None:
                require_room(resources, n_jobs)
                say_if_taken(resources, say or _silent)
            yield stack.enter_context(Processes(given, n_jobs, resources))
            return
        ready = given if wanted is None else stack.enter_context(given.duplicate())
        if resources is None:
            yield ready
        elif isinstance(ready, ThreadPoolTaskRunner):
            share = stack.enter_context(Share(resources, n_jobs, _name()).taken(say))
            stack.enter_context(share.own())
            yield ready
        elif is_cluster(ready):
            yield ClusterRunner(ready, resources)
        else:
            raise InvalidSettingError(
                f"How a {type(ready).__name__} gives each trial {resources} is not known here: "
                "`resources` go with threads, processes, Dask and Ray."
            )


def _silent(_: str) -> None:
    """Do nothing: there is no one to tell."""


def _name() -> str:
    """Name the owner of the share, for those who wait for it."""
    return str(flow_run.name or "")


class Processes(TaskRunner[PrefectConcurrentFuture[Any]]):
    """A process for each job, which ends with this one, and is replaced when it dies.

    A pool breaks as a whole, and nobody can say then which of its task runs took a process down.
    So each process is a pool of its own.
    """

    def __init__(
        self, pool: ProcessPoolTaskRunner, n_jobs: int, resources: Resources | None = None
    ) -> None:
        super().__init__()
        self._pool = pool
        self._resources = resources
        self._pools: list[ProcessPoolTaskRunner | None] = [None] * n_jobs
        self._under_way: list[list[PrefectConcurrentFuture[Any]]] = [[] for _ in range(n_jobs)]

    def duplicate(self) -> Processes:
        """Another one like this, with no process yet."""
        return Processes(self._pool, len(self._pools), self._resources)

    def submit(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        task: Any,
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> PrefectConcurrentFuture[Any]:
        """Have a task run by the process that has the least to do."""
        for place, futures in enumerate(self._under_way):
            if any(_process_died(future) for future in futures):
                self._close(place)
            self._under_way[place] = [one for one in futures if not one.wrapped_future.done()]
        place = min(range(len(self._pools)), key=lambda one: len(self._under_way[one]))
        # Libraries that a new process loads before its first trial go by the variables.
        with ctrl_c_waits(), threads_of(self._resources):
            pool = self._pools[place]
            if pool is None:
                pool = self._pools[place] = self._open()
            future = pool.submit(task, parameters, wait_for, dependencies)
        self._under_way[place].append(future)
        return future

    def cancel_all(self) -> None:
        """End all processes, each after its current work."""
        for place in range(len(self._pools)):
            self._close(place)

    def __exit__(self, *exc_info: object) -> None:
        """End all processes."""
        self.cancel_all()
        super().__exit__(*exc_info)

    def _open(self) -> ProcessPoolTaskRunner:
        pool = self._pool.duplicate()
        # In front of what its owner has begin in each process.
        begin = self._resources, pool._initializer, pool._initargs  # pyright: ignore[reportPrivateUsage]
        pool._initializer, pool._initargs = _begin_with_parent, begin  # pyright: ignore[reportPrivateUsage]
        # A thread of Prefect's sends on what the process logs. Without the settings of here, such
        # as the server that was found, it would start a server of its own.
        forward = partial(copy_context().run, pool._forward_subprocess_messages)  # pyright: ignore[reportPrivateUsage]
        pool._forward_subprocess_messages = forward  # pyright: ignore[reportPrivateUsage]
        return pool.__enter__()

    def _close(self, place: int) -> None:
        pool, self._pools[place] = self._pools[place], None
        if pool is None:
            return
        if any(_process_died(future) for future in self._under_way[place]):
            # It may have died with a lock of the queue: nobody waits for that at exit.
            messages = pool._subprocess_message_queue  # pyright: ignore[reportPrivateUsage]
            if messages is not None:
                messages.cancel_join_thread()
        pool.__exit__(None, None, None)


@contextlib.contextmanager
def ctrl_c_waits() -> Generator[None]:
    """Have processes, and threads that start processes, begin with Ctrl-C put off.

    It reaches all processes of a program. One that is still importing would show a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        with _heard_later():
            yield
        return
    _start_tracker()  # else its start, within, would take the signal off the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _heard_later():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_tracker() -> None:
    """Start Python's process that removes what a program leaves, and says so in a warning.

    That is what it is for, after a second Ctrl-C, and no news to anybody.
    """
    sys.warnoptions.append(silent := "ignore:resource_tracker:UserWarning")  # handed on to it
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.remove(silent)


@contextlib.contextmanager
def _heard_later() -> Generator[None]:
    """Put off what Ctrl-C raises here: another thread gets it, and this one acts on it.

    Prefect's serialization would make an error of its own of it. A second one is not put off.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    heard = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        if heard:
            handler(number, frame)
        heard = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if heard:
            handler(signal.SIGINT, None)


def _process_died(future: PrefectConcurrentFuture[Any]) -> bool:
    done = future.wrapped_future.done()
    return done and isinstance(future.wrapped_future.exception(), BrokenExecutor)


def _begin_with_parent(
    resources: Resources | None,
    begin: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> None:
    """Begin in a process of a pool. An orphan would wait for work for ever."""
    if hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # it ends, and says nothing
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 - a pool has started this process

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="prefect-optuna-parent", daemon=True).start()
    if resources is not None:
        hold_share(resources)
    if begin is not None:
        begin(*arguments)
