"""Trials on their way to task runs and back, at a stated cost.

A task run costs several milliseconds, so trials that are faster share one. On threads a task run
takes trials for a while, one after the other, so that each trial is still asked with all earlier
ones told. Other task runners get batches, sized by how long trials were seen to take.
Orchestration then takes about `ORCHESTRATION_SHARE` of the time, whatever a trial takes.
"""

from __future__ import annotations

import contextlib
import math
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import task

from prefect_optuna.errors import WorkerFailedError
from prefect_optuna.flows.public_errors import public_errors
from prefect_optuna.flows.session import MAX_REPETITIONS
from prefect_optuna.flows.soft_end import ending_softly
from prefect_optuna.flows.wording import format_value
from prefect_optuna.tasks.machine import share_of_trial
from prefect_optuna.tasks.trial import Assignment, Outcome, TrialRunner

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State
    from prefect.futures import PrefectFuture

ORCHESTRATION_SHARE = 0.02
"""The share of the time that task runs may cost."""

THREAD_TASK_RUN_SECONDS = 0.008
PROCESS_TASK_RUN_SECONDS = 0.08
"""The measured cost of a task run, on threads and on process pools or Dask."""


TASK_RUN_SECONDS = THREAD_TASK_RUN_SECONDS / ORCHESTRATION_SHARE
"""Number of seconds for which a task run on threads takes further trials."""


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
        self._trial_runner = trial_runner
        self.task_runs: int = 0

    def run(self, first: int, assignments: Iterable[Assignment], *, report: OnOutcome) -> None:
        """Run some trials in one task run, and report each as it ends."""
        self.task_runs += 1
        run_trials(first, assignments, self._trial_runner, report)


class ThreadDispatcher:
    """Dispatch to threads: `n_jobs` lanes, each one task run after another, with one feed."""

    def __init__(
        self, task_runner: ThreadPoolTaskRunner[Any], trial_runner: TrialRunner, n_jobs: int
    ) -> None:
        self._task_runner = task_runner
        self._trial_runner = trial_runner
        self._n_jobs = n_jobs
        # A server takes in some 30 task runs a second, from all lanes together.
        self._seconds = max(TASK_RUN_SECONDS, n_jobs / 15)
        self._feed: queue.SimpleQueue[Assignment | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[tuple[Outcome, bool] | BaseException] = queue.SimpleQueue()
        self._in_flight = 0
        self._open = 0  # lanes that run one of these, or take the next
        self.task_runs: int = 0

    def room(self) -> int:
        """Return the number of trials that may be asked now."""
        return self._n_jobs - self._in_flight

    def put(self, assignments: list[Assignment]) -> None:
        """Have these trials run."""
        for assignment in assignments:
            self._in_flight += 1
            self._feed.put(assignment)
            if self._open < self._in_flight:
                self._open_lane(assignment.number)

    def get(self, timeout: float) -> list[Outcome]:
        """The outcomes that have come, after waiting at most `timeout` seconds for the first."""
        outcomes: list[Outcome] = []
        try:
            while True:
                event = self._events.get(block=not outcomes, timeout=timeout)
                if isinstance(event, BaseException):
                    raise event
                outcome, was_last = event
                self._in_flight -= 1
                self._open -= was_last
                outcomes.append(outcome)
        except queue.Empty:
            if not outcomes:
                self._close_lanes(self._open - self._in_flight)
            return outcomes

    def close(self) -> None:
        """Take no more trials: each lane ends with the trial it runs."""
        self._close_lanes(self._open)

    def _open_lane(self, first: int) -> None:
        self._open += 1
        self.task_runs += 1
        end = time.monotonic() + self._seconds
        was_last = False

        def report(outcome: Outcome) -> None:
            # Known before the next trial is asked: it has to find a lane that is free.
            nonlocal was_last
            was_last = time.monotonic() > end
            self._events.put((outcome, was_last))

        def assignments() -> Iterator[Assignment]:
            while not was_last and (assignment := self._feed.get()) is not None:
                yield assignment

        future = self._task_runner.submit(
            run_trials,
            parameters={
                "first": first,
                "assignments": assignments(),
                "runner": self._trial_runner,
                "report": report,
            },
        )
        future.add_done_callback(self._lane_ended)

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
        self._trial_runner = trial_runner
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
                    "runner": self._trial_runner,
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
