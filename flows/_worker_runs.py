"""The flow runs of a study's workers: their pools, and how they are started and replaced."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkPool
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed, Running

from prefect_optuna.blocks._secrets import without_secrets
from prefect_optuna.blocks.settings import quick_client
from prefect_optuna.blocks.texts import command
from prefect_optuna.errors import InvalidSettingError, WorkerFailedError
from prefect_optuna.flows.session import MAX_REPETITIONS
from prefect_optuna.flows.temporary_server import other_settings, prefect_command
from prefect_optuna.tasks.machine import Resources

if TYPE_CHECKING:
    from typing import Self

    _Logger = logging.Logger | logging.LoggerAdapter[Any]

# Types of work pools, and the names that each has for the resources of a trial.


POOL_TYPES = ("process", "docker", "kubernetes")
"""The types of work pools that are known to give a trial its resources."""

CLAIMS = "/var/lib/prefect-optuna/claims"
"""Where containers of one machine write down which GPUs they have."""

CLAIMS_VOLUME = "prefect-optuna-claims"
"""The volume that they share for it."""


def job_variables_of(
    pool: str, resources: Resources | None, n_jobs: int, client: SyncPrefectClient | None = None
) -> dict[str, Any]:
    """Return the job variables that ask a pool for the resources of so many trials at once.

    Raises:
        InvalidSettingError: pools of this type, or this pool's template, cannot say it.
    """
    if resources is None:
        return {}
    if client is not None:
        return job_variables(client.read_work_pool(pool), resources, n_jobs)
    with get_client(sync_client=True) as opened:
        return job_variables(opened.read_work_pool(pool), resources, n_jobs)


def job_variables(pool: WorkPool, resources: Resources, n_jobs: int = 1) -> dict[str, Any]:
    """The same, for a pool as the server describes it."""
    jobs = max(n_jobs, 1)
    if pool.type == "process":
        return {}  # the run counts what its machine has
    if pool.type == "docker":
        return _docker(pool, resources, jobs)
    if pool.type == "kubernetes":
        return _kubernetes(pool, resources, jobs)
    raise InvalidSettingError(
        f"The work pool {pool.name!r} is of type {pool.type!r}, and how that gives a trial "
        f"{resources} is not known here. Known are {', '.join(POOL_TYPES)}. Leave out `resources`, "
        "and say it in the pool's template."
    )


def _docker(pool: WorkPool, needs: Resources, jobs: int) -> dict[str, Any]:
    defaults = _defaults(pool)
    variables: dict[str, Any] = {}
    more = dict(defaults.get("container_create_kwargs") or {})
    if needs.cpus is not None:
        more["nano_cpus"] = int(needs.cpus * jobs * 1e9)
    if (memory := needs.memory_bytes) is not None:
        variables["mem_limit"] = f"{memory * jobs}b"
    if needs.gpus:
        # Docker would give the same first ones to each container. They see all, and take free ones.
        more["device_requests"] = [{"count": -1, "capabilities": [["gpu"]]}]
        volumes = list(defaults.get("volumes") or [])
        mounted = f"{CLAIMS_VOLUME}:{CLAIMS}"
        variables["volumes"] = [*(volume for volume in volumes if volume != mounted), mounted]
        variables["env"] = {
            **(defaults.get("env") or {}),
            "PREFECT_INTEGRATIONS_OPTUNA_CLAIMS": CLAIMS,
        }
    if more:
        variables["container_create_kwargs"] = more
    return variables


def _kubernetes(pool: WorkPool, needs: Resources, jobs: int) -> dict[str, Any]:
    asked: dict[str, Any] = {}
    if needs.cpus is not None:
        asked["cpu"] = f"{needs.cpus * jobs:g}"
    if (memory := needs.memory_bytes) is not None:
        asked["memory"] = f"{-(-memory * jobs // 2**20)}Mi"
    if needs.gpus:
        if needs.gpus * jobs != int(needs.gpus * jobs):
            raise InvalidSettingError(
                f"Kubernetes gives whole GPUs, and a run with {needs.gpus * jobs:g} was asked for: "
                "`gpus` is 1, 2, ... there; or let several trials of a run share one, by `n_jobs`."
            )
        asked["gpus"] = f"{needs.gpus * jobs:g}"
    variables = pool.base_job_template.get("variables", {}).get("properties", {})
    if missing := sorted(asked.keys() - variables.keys()):
        raise InvalidSettingError(
            f"The template of the work pool {pool.name!r} has no variable "
            f"{' and no '.join(missing)}, by which a run would get {needs}. The template of this "
            "package has them: prefect-optuna make-pool NAME --type kubernetes."
        )
    return asked


def _defaults(pool: WorkPool) -> dict[str, Any]:
    properties: Mapping[str, Mapping[str, Any]]
    properties = pool.base_job_template.get("variables", {}).get("properties", {})
    return {name: spec["default"] for name, spec in properties.items() if "default" in spec}


_LOOK_SECONDS = 2.0
_LATE_SECONDS = 30.0  # a process worker needs ten at most to pick a run up
_UNANSWERED_LOOKS = 3
_FAILED_STARTS = 3
_WAITS = (StateType.SCHEDULED, StateType.PENDING)


def pool_of(deployment: str) -> str:
    """The work pool whose workers run a deployment."""
    with get_client(sync_client=True) as client:
        try:
            found = client.read_deployment_by_name(deployment)
        except (ObjectNotFound, ValueError):
            name, server = deployment.partition("/")[2], without_secrets(str(client.api_url))
            raise InvalidSettingError(
                f"There is no deployment {deployment!r} on the Prefect server {server}. "
                f"Make it: {command('prefect-optuna', 'deploy-worker', '--pool', name)}"
            ) from None
    if found.work_pool_name is None:
        raise InvalidSettingError(
            f"The deployment {deployment!r} has no work pool, so that no worker ever runs it. "
            "Deploy it to one: prefect-optuna deploy-worker --pool POOL"
        )
    return found.work_pool_name


@dataclass
class _Run:
    flow_run: FlowRun
    started: float
    ended: bool = False


def _waits(run: _Run) -> bool:
    state = run.flow_run.state
    return not run.ended and state is not None and state.type in _WAITS


class WorkerRuns:
    """Keeps `wanted` flow runs of a worker deployment alive, from a thread of its own.

    A server that is away stops nothing: that is said once, and the next look is the retry.
    """

    def __init__(
        self,
        deployment: str,
        pool: str,
        name: str,
        parameters: Callable[[int], Mapping[str, Any]],
        own_id: UUID,
        logger: _Logger,
        job_variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.wanted: int = 0
        """The number of runs to keep alive."""
        self.cancelled: bool = False
        """True once somebody has cancelled the flow run that wants them."""
        self.failure: Exception | None = None
        """Why there can be no more of them."""
        self.notes: tuple[str, ...] = ()
        """Remarks for those who read the report."""
        self._deployment = deployment
        self._pool = pool
        self._name = name
        self._parameters = parameters
        self._own_id = own_id
        self._logger = logger
        self._job_variables = dict(job_variables or {})
        self._runs: dict[UUID, _Run] = {}
        self._dead: set[str] = set()
        self._revived: set[str] = set()
        self._others: set[UUID] = set()
        self._died = self._refused = self._let_go = 0
        self._unanswered = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Go to work in the background."""
        # The flow run, which is the parent of those started, is in a context variable.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._keep_looking,), name="prefect-optuna-workers"
        )
        self._thread.start()
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        """End those that have not begun; after an exception, cancel those that run, too."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        with other_settings(client={"max_retries": 0}):
            for attempt in range(_UNANSWERED_LOOKS):  # nobody looks again after this
                time.sleep(_LOOK_SECONDS if attempt else 0)
                if self._attempt(lambda client: self._cancel(client, running=exc_type is not None)):
                    break

    @property
    def ended(self) -> set[str]:
        """The ids of those that have ended, as far as the server knows by itself."""
        ended = {str(key) for key, run in list(self._runs.items()) if run.ended}
        return ended - self._dead

    def dead(self, flow_run: str) -> None:
        """Say that the process of a flow run is gone; the server may learn of it much later."""
        self._dead.add(flow_run)

    def other_dead(self, flow_run: object) -> None:
        """Say that a flow run is gone that led the study before; the study's storage names it."""
        with contextlib.suppress(ValueError):
            if (key := UUID(str(flow_run))) != self._own_id:
                self._others.add(key)

    def alive(self, flow_run: str) -> None:
        """Say that a process lives, such as one whose machine stood still: it works again."""
        run = next((one for key, one in list(self._runs.items()) if str(key) == flow_run), None)
        if run is None:
            return
        crashed = run.flow_run.state is not None and run.flow_run.state.is_crashed()
        if run.ended and (crashed or flow_run in self._dead):
            self._logger.info("Worker %r is back.", run.flow_run.name)
            self._revived.add(flow_run)
            run.ended = False
        self._dead.discard(flow_run)

    def progress(self) -> None:
        """Say that trials are being finished: that workers die now and then does no harm."""
        self._died = self._refused = 0

    def _keep_looking(self) -> None:
        # The next look is the better retry.
        with other_settings(client={"max_retries": 0}):
            while True:
                self._attempt(self._look)
                if self._closing.wait(_LOOK_SECONDS):
                    return

    def _attempt(self, action: Callable[[SyncPrefectClient], None]) -> bool:
        try:
            with quick_client() as client:
                action(client)
        except Exception as error:  # noqa: BLE001 - the study goes on, whatever the server says
            self._unanswered += 1
            # A busy server refuses a request now and then.
            if self._unanswered == _UNANSWERED_LOOKS:
                self._logger.warning(
                    "The Prefect server does not answer as expected: %s: %s. %s",
                    type(error).__name__,
                    error,
                    "The study's workers end by themselves, and it may show them as running."
                    if self._closing.is_set()
                    else "The study goes on with the workers that it has.",
                )
            return False
        if self._unanswered >= _UNANSWERED_LOOKS:
            self._logger.info("The Prefect server answers again.")
        self._unanswered = 0
        return True

    def _look(self, client: SyncPrefectClient) -> None:
        ids = [self._own_id, *(key for key, run in self._runs.items() if not run.ended)]
        for flow_run in client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids))
        ):
            kind = flow_run.state.type if flow_run.state else None
            if flow_run.id == self._own_id:
                self.cancelled = kind in (StateType.CANCELLING, StateType.CANCELLED)
            else:
                self._runs[flow_run.id].flow_run = flow_run
                self._consider(client, self._runs[flow_run.id])
        self._tell_of_others(client)
        self._notice_late()
        alive = sum(not run.ended for run in self._runs.values())
        while alive < self.wanted - self._let_go and self.failure is None:
            self._start()
            alive += 1
        waiting = [run for run in self._runs.values() if _waits(run)]
        for run in waiting[: max(0, alive - self.wanted)]:
            run.ended = True
            message = "The study has no work for it any more."
            client.set_flow_run_state(run.flow_run.id, Cancelled(message=message))

    def _consider(self, client: SyncPrefectClient, run: _Run) -> None:
        flow_run = run.flow_run
        state = flow_run.state
        if state is None:
            return
        if not state.is_final():
            if str(flow_run.id) in self._dead:
                run.ended = True
                self._lost(flow_run, "its process is gone")
                gone = Crashed(message="The process of this worker is gone.")
                client.set_flow_run_state(flow_run.id, gone, force=True)
            return
        if str(flow_run.id) in self._revived and state.is_crashed():
            self._revived.discard(str(flow_run.id))
            client.set_flow_run_state(flow_run.id, Running(), force=True)
            return
        run.ended = True
        if state.type == StateType.CANCELLED:
            self._let_go += 1  # somebody wants one less
            if 0 < self.wanted <= self._let_go:
                self.failure = WorkerFailedError(
                    "All workers of the study were cancelled. Start it again under the same name "
                    "to go on."
                )
        elif state.type != StateType.COMPLETED:
            self._lost(flow_run, f"{state.name}: {state.message or 'no reason given'}")
            self._refused += state.type == StateType.FAILED

    def _tell_of_others(self, client: SyncPrefectClient) -> None:
        for key in [*self._others]:
            with contextlib.suppress(ObjectNotFound):
                other, own = client.read_flow_run(key), client.read_flow_run(self._own_id)
                # Whoever can write to the storage could name any run of the server.
                of_this_study = (other.flow_id, other.parameters.get("study_name")) == (
                    own.flow_id,
                    own.parameters.get("study_name"),
                )
                if of_this_study and other.state is not None and not other.state.is_final():
                    gone = Crashed(message="The process that distributed this study is gone.")
                    client.set_flow_run_state(key, gone, force=True)
            self._others.discard(key)

    def _unknown(self, client: SyncPrefectClient) -> list[UUID]:
        """Runs that a busy server has made, and has not said so."""
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[self._own_id]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            )
        )
        return [one.id for one in found if one.id not in self._runs]

    def _lost(self, flow_run: FlowRun, why: str) -> None:
        self._logger.warning("Worker %r is lost: %s", flow_run.name, why)
        self._died += 1
        # A trial that takes its process down does so a few times before it counts as failed.
        if not self.wanted:
            return
        if self._died > (MAX_REPETITIONS + 1) * self.wanted or self._refused >= _FAILED_STARTS:
            self.failure = WorkerFailedError(
                f"{self._died} workers were lost, and none of them has finished a trial; the last "
                f"one was {flow_run.name!r}: {why}. Look at its log, mend that, and start the "
                "study again under the same name to go on."
            )

    def _start(self) -> None:
        number = len(self._runs)
        flow_run: FlowRun = run_deployment(  # pyright: ignore[reportAssignmentType]
            self._deployment,
            parameters=dict(self._parameters(number)),
            flow_run_name=f"{self._name}-worker-{number}",
            idempotency_key=f"{self._own_id}-{self._parameters(number)['parent']}-{number}",
            timeout=0,
            job_variables=self._job_variables or None,
        )
        self._runs[flow_run.id] = _Run(flow_run, time.monotonic())

    def _notice_late(self) -> None:
        now = time.monotonic()
        left = [
            run
            for run in self._runs.values()
            if not run.ended
            and run.flow_run.state is not None
            and run.flow_run.state.type == StateType.SCHEDULED
            and now - run.started > _LATE_SECONDS
        ]
        notes: tuple[str, ...] = ()
        if left:
            notes = (
                f"{len(left)} of the study's workers have been waiting for more than "
                f"{_LATE_SECONDS:g} seconds: no Prefect worker of the pool {self._pool!r} "
                "picks them up. Start one, or more, or give them a higher --limit: "
                + prefect_command("worker", "start", "--pool", self._pool),
            )
            if not self.notes:
                self._logger.warning("%s", notes[0])
        self.notes = notes

    def _cancel(self, client: SyncPrefectClient, *, running: bool) -> None:
        self._tell_of_others(client)
        for key in self._unknown(client):
            client.set_flow_run_state(key, Cancelled(message="The study is over."))
        for key, run in self._runs.items():
            if run.ended:
                continue
            state = client.read_flow_run(key).state
            if state is None or state.is_final():
                continue
            message = "The study is over."
            if state.type in _WAITS:
                client.set_flow_run_state(key, Cancelled(message=message))
            elif running and not state.is_cancelling():
                client.set_flow_run_state(key, Cancelling(message=message))
