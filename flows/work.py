"""`work`, the flow of one worker of `distribute`: takes trials from a study's queue and runs them.

It needs neither the user's script nor its modules: the problem comes out of the archive, in the
very version that the parent has written.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import optuna
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as current_flow_run
from prefect.states import Cancelled
from prefect.task_runners import ThreadPoolTaskRunner

from prefect_optuna.blocks import ArtifactFileSystem, as_artifact_filesystem, as_study_storage
from prefect_optuna.blocks._secrets import error_words
from prefect_optuna.blocks.patience import Patience, PatientStorage
from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.errors import (
    ArchiveError,
    EnvironmentUnavailableError,
    InvalidSettingError,
    StorageUnavailableError,
)
from prefect_optuna.flows.optimize_flow import Storage
from prefect_optuna.flows.problem_source import require_installed
from prefect_optuna.flows.session import Session
from prefect_optuna.flows.spool import Delivery, TrialKeeper
from prefect_optuna.flows.study import (
    FlowStudy,
    Pruner,
    PrunerName,
    Sampler,
    SamplerName,
)
from prefect_optuna.flows.study_flow import study_flow
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import InlineDispatcher, ThreadDispatcher, open_task_runner
from prefect_optuna.tasks.archive import ArchivedStudy, Capture, Environment
from prefect_optuna.tasks.archive.code.capture import other_versions
from prefect_optuna.tasks.archive.code.inspection import module_label
from prefect_optuna.tasks.archive.record.manifest import SigningKeys
from prefect_optuna.tasks.archive.record.trial_records import TrialSigner
from prefect_optuna.tasks.archive.series.results import ResultWriter
from prefect_optuna.tasks.machine import Resources, Share
from prefect_optuna.tasks.trial import Outcome, Stopping, TrialRunner, TrialScope

CANCELLED = "cancelled"
_IDLE_SECONDS = 0.05
_PARENT_SECONDS = 0.5


def _code(parameters: Mapping[str, Any]) -> tuple[Capture, Environment]:
    """Return what a worker is to run, out of the archive."""
    archived = ArchivedStudy.load(
        parameters["study_name"],
        storage=parameters["storage"],
        artifacts=parameters["artifacts"],
    )
    archived.require_trust(trusted=True)
    place = _place_of(parameters["version"], archived)
    return archived.capture(place), archived.environment_of(place)


@study_flow(name="work", flow_run_name="{study_name}-worker-{number}", code=_code)
def work(
    study_name: str,
    *,
    parent: str,
    version: str,
    number: int = 0,
    storage: Storage | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
    sampler: SamplerName | Sampler | None = None,
    pruner: PrunerName | Pruner | None = None,
    seed: int | None = None,
    n_jobs: int = 1,
    catch: Sequence[str] = (),
    retries: int = 0,
    keep_inputs: int = 0,
    install: bool = False,
    resources: Resources | None = None,
) -> int:
    """Run trials that a `distribute` has put into the queue, until it says that this is the end.

    Started by `distribute`, through a deployment; nobody has to call it. It ends by itself when
    its parent is gone.

    Args:
        study_name: The study.
        parent: The session of the `distribute` whose trials these are.
        version: The id of the version of the archive to run: this one, and no other.
        number: Tells this worker from the others, for people.
        storage: Where the study is kept, as `optimize` takes it.
        artifacts: Where its archive is kept, as `optimize` takes it.
        sampler: A sampler by name, or with options.
        pruner: A pruner by name, or with options.
        seed: Seeds the sampler of this worker.
        n_jobs: How many trials run at once.
        catch: Exceptions that fail a trial and not the study, by `type_names`.
        retries: How many times `run` is called again after an exception.
        keep_inputs: How many bytes of the files that trials read go into the archive.
        install: Whether trials run in the environment that was recorded, where the worker's own
            lacks a package of that, or has another version of it.
        resources: What each trial has to itself of this machine.

    Returns:
        How many trials this worker has run.

    Raises:
        ArchiveError: The archive has no such version, or a package that its code needs is not
            installed here.
        EnvironmentUnavailableError: The recorded environment cannot be built here.
        InvalidSettingError: This machine has less than a trial wants.
        StudyNotFoundError: There is no such study.

    Example:
        >>> from prefect_optuna.flows.work import work
        >>> work.name
        'work'
    """
    logger = get_run_logger()
    storage_block = as_study_storage(storage)
    patience = Patience(logger=logger)
    plain = patience(lambda: storage_block.load_study(study_name))
    kept = PatientStorage(storage_block.get_storage(), patience)
    flow_run = str(current_flow_run.id)
    details = {"parent": parent, "flow_run": flow_run}
    session = Session(plain, kept, details, version)
    session.open()
    try:
        filesystem = as_artifact_filesystem(artifacts)
        with patience.around():
            archived = patience(
                lambda: ArchivedStudy.load(study_name, storage=storage_block, artifacts=filesystem)
            )
            place = _place_of(version, archived)
            recorded = archived.environment_of(place)
            session.seed = recorded.trials_seed
            if install:
                require_installed(archived.capture(place), recorded)
            # Whoever started this flow run has archived that very code, and says so by its digest.
            problem = archived.problem(trusted=True, version=place)
        session.stopping = Stopping(
            grace=OptunaSettings.here().grace, is_asked=problem.names_stopping
        )
        scope = TrialScope(archived.scope(place), handed_out=problem.names_scope)
        study = FlowStudy.open(study_name, kept, sampler, pruner, seed=seed)
        uuid = archived.manifest.uuid
        keys = SigningKeys.configured()

        def signer_of(version: str) -> TrialSigner | None:
            return None if keys is None else TrialSigner(keys, study, archived.manifest, version)

        writer = ResultWriter(filesystem, uuid, problem.axes, version, keep_inputs)
        keeper = TrialKeeper(study_name, storage_block.location, uuid, session.id)
        runner = TrialRunner(
            problem, writer, scope, retries, patience, keeper, session.stopping, resources
        )
    except (StorageUnavailableError, EnvironmentUnavailableError):
        session.close()  # others may reach it, and another worker may be started elsewhere
        raise
    except Exception as error:
        session.close(error=error_words(error), refused=True)
        raise
    logger.info("Trials of %r in %s.", study_name, storage_block.location)
    for line in other_versions(archived.capture(place), recorded):
        logger.warning(line)
    with ExitStack() as stack:
        if resources is not None:
            share = Share(resources, n_jobs, study_name)
            try:
                # The study may be over before there is room here.
                if not share.take(logger.info, lambda: not _over(session, parent)):
                    session.close()
                    return 0
            except InvalidSettingError:
                session.close()  # another worker may be on a larger machine
                raise
            stack.callback(share.release)
            stack.enter_context(share.own())
        task_runner = stack.enter_context(
            open_task_runner(None if n_jobs == 1 else "threads", n_jobs)
        )
        assert isinstance(task_runner, ThreadPoolTaskRunner)  # noqa: S101 - the flow's own
        run = _WorkerRun(
            study=study,
            session=session,
            dispatcher=InlineDispatcher(runner)
            if n_jobs == 1
            else ThreadDispatcher(task_runner, runner, n_jobs),
            logger=logger,
            n_trials=None,
            signer=signer_of(version),
            keeper=keeper,
            delivery=Delivery(study, writer, signer_of, logger),
            parent=parent,
            caught=frozenset(catch),
        )
        run.run()
    logger.info("%d trials.", run.told)
    if run.over == CANCELLED:
        # Also one that was about to start, whose process leaves a Cancelled state behind.
        return cast("int", Cancelled(message="The study is over."))
    return run.told


def type_names(error: type[BaseException]) -> Iterator[str]:
    """The names of an exception and of its bases, the same for archived code and its original.

    Args:
        error: the exception's type.

    Example:
        >>> list(type_names(ZeroDivisionError))[:2]
        ['builtins.ZeroDivisionError', 'builtins.ArithmeticError']
    """
    for base in error.__mro__:
        module = sys.modules.get(base.__module__)
        label = base.__module__ if module is None else module_label(vars(module))
        yield f"{label}.{base.__qualname__}"


@dataclass
class _WorkerRun(StudyRun):
    """The loop of a worker: it takes what its parent has released, and nothing else.

    Args:
        parent: the parent's session.
        caught: the names of exceptions that fail a trial and not the study.
    """

    parent: str = ""
    caught: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        self._idle_seconds = _IDLE_SECONDS
        self._why = ""
        self._looked = self._dry_until = 0.0
        self.over: str | bool = False
        self.told: int = 0

    def _next_trial(self) -> optuna.Trial | None:
        trial = self.session.take(self.study, released_by=self.parent)
        if trial is None:
            self._dry_until = time.monotonic() + _IDLE_SECONDS
        return trial

    def _is_alone(self) -> bool:
        return False

    def _missing(self) -> int:
        if self._is_over() or not self._parent_goes_on():
            return 0
        return 0 if time.monotonic() < self._dry_until else sys.maxsize

    def _wait_for_others(self) -> bool:
        return not self._is_over() and self._parent_goes_on()

    def _recover(self) -> None:
        self._recovered = time.monotonic()
        self._deliver()  # what this machine has; the parent does the rest for all
        self._refresh()

    def _heed(self) -> None:
        """The parent is asked, and asks its workers."""

    def _parent_goes_on(self) -> bool:
        if not self.over and time.monotonic() - self._looked > _PARENT_SECONDS:
            self.over = _over(self.session, self.parent)
            self._looked = time.monotonic()
        return not self.over

    def _catches(self, error: BaseException) -> bool:
        return not self.caught.isdisjoint(type_names(type(error)))

    def _tell(self, outcome: Outcome) -> None:
        super()._tell(outcome)
        self.told += 1

    def _failed(self, outcome: Outcome) -> None:
        super()._failed(outcome)
        if self._error is not None and not self._why:
            self._why = f"trial {outcome.number} failed: {outcome.message}"

    def _close_session(self, clean: bool) -> None:
        self.session.close(
            clean=clean,
            error=self._why,
            stopped=self.study.stopped,
            task_runs=self.dispatcher.task_runs,
        )


def _over(session: Session, parent: str) -> str | bool:
    """True if there is nothing to do for this worker any more; `CANCELLED` if that is why."""
    record = session.records().get(parent, {})
    return record.get("over") or session.id in record.get("leave", ()) or not record.get("alive")


def _place_of(version: str, archived: ArchivedStudy) -> int:
    for place, one in enumerate(archived.versions):
        if one.id == version:
            return place
    raise ArchiveError(
        f"The archive of the study {archived.study.study_name!r} has no version {version!r}, which "
        "this worker was started to run. Start `distribute` again: it archives the problem anew."
    )
