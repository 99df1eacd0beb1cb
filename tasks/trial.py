"""One trial, run wherever a task runs it: run, archive the result, evaluate, and stop early.

The flow asks Optuna and hands out `Assignment`s; a worker turns each into an `Outcome` with
`run_trial`. A worker needs the problem and the artifact filesystem, and the study only where the
problem's functions ask for the live trial.
"""

from __future__ import annotations

import difflib
import math
import os
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import BaseTrial, FrozenTrial

from prefect_optuna.blocks._secrets import SecretVariables, error_words, public_text, secret_paths
from prefect_optuna.blocks.codec.values import encode_value
from prefect_optuna.blocks.patience import Patience, PatientStorage, send_writes
from prefect_optuna.blocks.study_summary import is_lost
from prefect_optuna.errors import (
    InvalidProblemError,
    PrefectOptunaError,
    StorageUnavailableError,
    TrialStopped,
)
from prefect_optuna.tasks.inputs import files_read, note_inputs
from prefect_optuna.tasks.machine import Resources
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.scope import capture, param_scope, recording, restore
from prefect_optuna.tasks.scope.frames import flatten, get
from prefect_optuna.tasks.scope.scope import check_types, may_be_read_elsewhere, unread_words
from prefect_optuna.tasks.seeding import Seeding, seeding, trial_seed

if TYPE_CHECKING:
    from prefect_optuna.blocks import StudyStorage
    from prefect_optuna.tasks.archive.series.results import EncodedResult, ResultWriter

# The scope around a trial: what its functions can read there, and what they did read.


_MAX_READS, _MAX_LETTERS = 100, 200  # an attribute of a trial stays small
_LEFT_OUT = "***"  # a secret, which the trial has put into the scope itself


class TrialScope:
    """The parameters of a study, for whichever thread or process runs its trials.

    It takes the scope that is in force where it is made. It can be pickled if the values can.

    Example:
        >>> from prefect_optuna.tasks import param_scope
        >>> from prefect_optuna.tasks.trial import TrialScope
        >>> with param_scope(**{"simulate.dt": 0.1, "seed": 1}):
        ...     scope = TrialScope({"seed": 7})
        >>> with scope.around(3, {"x": 0.5}) as used:
        ...     param_scope.seed(0), param_scope.simulate.dt(1.0), param_scope.x(0.0)
        (7, 0.1, 0.5)
        >>> scope.attribute(used, {"x": 0.5})
        {'seed': 7, 'simulate.dt': 0.1}
    """

    def __init__(self, given: Mapping[str, Any] | None = None, *, handed_out: bool = False) -> None:
        self._given = set(flatten(given or {}))
        self._handed_out = handed_out
        self.values: dict[str, Any] = {**capture().values(), **(given or {})}
        """The parameters, for functions that name `scope`, and for the archive."""
        if handed_out:
            may_be_read_elsewhere(get())
        with param_scope.labelled(given or {}, origin="the scope of the study"):
            self._snapshot = capture()

    def check(self) -> None:
        """Refuse parameters that do not become of the type that `auto_param` functions take."""
        check_types(self.values)

    def unread(self, read: Iterable[str]) -> str:
        """Name the given parameters that a trial has not read; empty if it has read all."""
        names = set(read)
        if self._handed_out or len(names) >= _MAX_READS:
            return ""
        return unread_words(self._given - names, names)

    @contextmanager
    def around(
        self, number: int | None = None, params: Mapping[str, Any] | None = None
    ) -> Generator[dict[str, Any]]:
        """Put the parameters in force, together with those of a trial."""
        # Whatever `suggest` returns is a mapping, and no more is known of it.
        named = {str(name): value for name, value in (params or {}).items()}
        own = param_scope.labelled(named, origin=f"trial {number}")
        with restore(self._snapshot), own, recording() as used:
            yield used

    def attribute(self, used: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was read, as an attribute of the trial: JSON, without its own parameters."""

        def short(value: Any, _: str) -> str:
            return repr(value)[:_MAX_LETTERS]

        names = [name for name in used if name not in params][:_MAX_READS]
        variables = SecretVariables.here()

        def public(name: str) -> Any:
            if any(secret_paths({name: used[name]}, "")):
                return _LEFT_OUT
            encoded = encode_value(used[name], short, name)
            return _cut(encoded) if variables.name_in(encoded) is None else _LEFT_OUT

        return {name: public(name) for name in names}


def _cut(value: Any) -> Any:
    text = str(value)
    return value if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 1] + "…"


# Stopping early: a trial hears that its machine is about to go, and saves what it has.
#
# After SIGTERM, as of a preempted machine, `scancel` or a container that is stopped, a trial that
# asks has some seconds. It may save a checkpoint and raise `TrialStopped`: it is asked again, by
# whoever is free, with the attributes that it has set.


class Stopping:
    """The signal that trials should stop: what `run` gets by naming a parameter `stopping`.

    It is true from the moment on in which the program was asked to end.

    Args:
        file: is there when processes of this machine are to stop, too.
        grace: seconds that trials have then, if any of them looks.
        is_asked: whether one surely looks.

    Example:
        >>> from prefect_optuna.tasks.trial import Stopping
        >>> stopping = Stopping()
        >>> bool(stopping)
        False
        >>> stopping.set()
        >>> bool(stopping)
        True
    """

    def __init__(
        self, file: Path | None = None, grace: float = 0.0, *, is_asked: bool = False
    ) -> None:
        self.grace: float = grace
        self._file = file
        self._event = threading.Event()
        self._looked = is_asked

    def __reduce__(self) -> tuple[Any, ...]:
        return Stopping, (self._file,)

    def __bool__(self) -> bool:
        if not self._looked:
            self._looked = True
            if self._file is not None and not self._event.is_set():
                self._asked_file(self._file).touch()
        return self.is_set()

    def is_set(self) -> bool:
        """Tell whether trials should stop."""
        return self._event.is_set() or (self._file is not None and self._file.exists())

    @property
    def is_asked(self) -> bool:
        """True if any trial looks, so that it is worth while to wait for it."""
        return self._looked or (self._file is not None and self._asked_file(self._file).exists())

    def set(self) -> None:
        """Have trials stop."""
        self._event.set()
        if self._file is not None:
            self._file.touch()

    def close(self) -> None:
        """Remove what is on the disk."""
        if self._file is not None:
            self._asked_file(self._file).unlink(missing_ok=True)
            self._file.unlink(missing_ok=True)

    @staticmethod
    def _asked_file(file: Path) -> Path:
        return file.with_suffix(".asked")


TOLD_TO_PRUNE = "told_to_prune"
"""The user attribute of a trial that lists after how many reports `should_prune()` said yes.

Code may return what it has, as with `WilcoxonPruner`, or go on, in place of `TrialPruned`.
"""


class _TrialStorage:
    """The storage of a trial, which may be taken from its machine while that stands still.

    What the trial is given from then on is in the trial alone, and is delivered with its outcome.
    """

    def __init__(self, storage: BaseStorage, trial_id: int) -> None:
        self.storage = storage
        self.trial_id = trial_id
        self.taken = False

    def __getattr__(self, name: str) -> Any:
        if name == "storage":  # of a copy that has nothing yet
            raise AttributeError(name)
        method = getattr(self.storage, name)
        if not name.startswith("set_trial_"):
            return method

        def write(*args: Any, **named: Any) -> Any:
            try:
                return method(*args, **named)
            except UpdateFinishedTrialError:
                if not is_lost(self.storage.get_trial(self.trial_id)):
                    raise
                self.taken = True

        return write


class FlowTrial(optuna.Trial):
    """An Optuna trial that also hears when its machine is about to go.

    Attributes:
        told_to_prune: after how many reports it was told to end.
    """

    def __init__(
        self, study: optuna.Study, trial_id: int, stopping: Stopping | None = None
    ) -> None:
        super().__init__(study, trial_id)
        self.storage: BaseStorage = cast("BaseStorage", _TrialStorage(self.storage, trial_id))
        self._stopping = Stopping() if stopping is None else stopping
        self.told_to_prune: list[int] = []

    @property
    def taken(self) -> bool:
        """Whether another run has given the trial up, and what was written here since is kept."""
        return cast("_TrialStorage", self.storage).taken

    def should_prune(self) -> bool:
        """Tell whether Optuna's pruner gives the trial up."""
        is_given_up = super().should_prune()
        if is_given_up:
            self.told_to_prune.append(len(self._cached_frozen_trial.intermediate_values))
        return is_given_up

    def __getattr__(self, name: str) -> NoReturn:
        """Say what a trial lacks as Optuna's own would, and what may have been meant."""
        near = difflib.get_close_matches(name, dir(self), n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"'Trial' object has no attribute {name!r}{hint}")

    def should_stop(self) -> bool:
        """Tell whether the program was asked to end: save what there is, and raise `TrialStopped`.

        Example:
            >>> import optuna
            >>> from prefect_optuna.tasks.trial import FlowTrial
            >>> study = optuna.create_study()
            >>> FlowTrial(study, study.ask()._trial_id).should_stop()
            False
        """
        return bool(self._stopping)


@dataclass(frozen=True)
class LiveTrial:
    """The access to a running trial from another process.

    Args:
        run: the id of the session that lets it run. Its trials in one process share a storage,
            which reads what is new, where each would read the study anew.
    """

    storage: StudyStorage
    study_name: str
    number: int
    sampler: optuna.samplers.BaseSampler
    pruner: optuna.pruners.BasePruner
    run: str
    stopping: Stopping | None = None

    def open(self, patience: Patience) -> optuna.Trial:
        """The live trial; its sampler is reseeded, since the copies of one sampler would agree."""
        storage = PatientStorage(self._opened_here(patience), patience)
        self.sampler.reseed_rng()
        study = optuna.load_study(
            study_name=self.study_name, storage=storage, sampler=self.sampler, pruner=self.pruner
        )
        study_id = storage.get_study_id_from_name(self.study_name)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, self.number)
        return FlowTrial(study, trial_id, self.stopping)

    def deliver(self, trial: optuna.Trial) -> None:
        """Have the storage hold all that the trial was given: the next who tells it, ends it."""
        opened = cast("PatientStorage", trial.study._storage)  # pyright: ignore[reportPrivateUsage]
        send_writes(opened.storage)  # what cannot be sent at once goes back with the outcome

    def _opened_here(self, patience: Patience) -> BaseStorage:
        of = os.getpid(), self.run
        if (storage := _opened.get(of)) is None:
            made = PatientStorage(patience(self.storage.get_storage)).storage
            storage = _opened.setdefault(of, made)  # another thread may have been quicker
            for oldest in list(_opened)[:-_MOST_OPENED]:
                _opened.pop(oldest, None)
        return storage


_MOST_OPENED = 2  # by runs that share a worker of Dask or Ray; each has connections
_opened: dict[tuple[int, str], BaseStorage] = {}


@dataclass(frozen=True)
class Assignment:
    """A trial to be run."""

    number: int
    params: Mapping[str, Any] = field(default_factory=dict)
    trial: BaseTrial | LiveTrial | None = None
    alone: bool = False
    seed: int | None = None
    given: FrozenTrial | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Args:
        number: the trial's number.
        state: how it ended; lost is one that an outage has kept from ending.
        values: the values, one for each direction; `None` unless complete.
        constraints: those that the trial has set; it is feasible where none is above zero.
        result: reference to the archived result, for the trial's user attribute `"result"`.
        used: what the trial read of its scope, for its user attribute `"scope"`.
        error: the exception that failed the trial, or that says why it was pruned.
        message: why it failed, for people.
        traceback: where in the user's code it failed, for people; empty where that says nothing.
        seconds: how long it took, in seconds.
        undelivered: the trial with all that it was given, where the storage was away at the end.
            Whoever tells it stores that first.
        seed: what its random numbers followed from in the attempt that counts.
        shared: the generators that trials in other threads may have drawn from meanwhile.
        told_to_prune: after how many reports it was told to end, unless it did so at once.
        upload: what still writes the result; `uploaded` waits for it.
    """

    number: int
    state: Literal["complete", "pruned", "failed", "lost"]
    values: tuple[float, ...] | None = None
    constraints: dict[str, float] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    used: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    message: str = ""
    traceback: str = ""
    seconds: float = 0.0
    undelivered: FrozenTrial | None = None
    seed: int | None = None
    shared: tuple[str, ...] = ()
    told_to_prune: tuple[int, ...] = ()
    upload: Upload | None = None

    def uploaded(self) -> Outcome:
        """The outcome with its result, once that is written."""
        if self.upload is None:
            return self
        end = self.upload.end.result()
        if end.state == self.state:
            return replace(self, result=end.result, upload=None)
        return replace(end, used=self.used, seconds=self.seconds)


@dataclass(frozen=True)
class Upload:
    """A result that is being written beside the trials that follow.

    Args:
        size: in bytes.
        end: the trial's outcome, which is another one where the result could not be written.
    """

    size: int
    end: Future[Outcome]


class Keeper(Protocol):
    """Keeps what a trial came to while it cannot be written."""

    def keeping(
        self, outcome: Outcome, trial: FrozenTrial, encoded: EncodedResult | None = None
    ) -> AbstractContextManager[None]:
        """Keep it while the code within waits, and drop it once that has succeeded."""
        ...


class TrialRunner:
    """Runs trials of one problem; small, picklable, and the same in every worker.

    Example:
        >>> from prefect_optuna.tasks import Problem
        >>> from prefect_optuna.tasks.trial import Assignment, TrialRunner
        >>> problem = Problem(suggest=lambda trial: {}, run=lambda params: params["x"] ** 2)
        >>> TrialRunner(problem)(Assignment(0, {"x": 3.0})).values
        (9.0,)
    """

    # No dataclass: Prefect searches those for futures at each submission, context and all.

    def __init__(
        self,
        problem: Problem,
        writer: ResultWriter | None = None,
        scope: Mapping[str, Any] | TrialScope | None = None,
        retries: int = 0,
        patience: Patience | None = None,
        keeper: Keeper | None = None,
        stopping: Stopping | None = None,
        resources: Resources | None = None,
    ) -> None:
        self.resources = resources
        self.uploads: Executor | None = None
        """What writes results beside the trials that follow; else each trial waits for its own."""
        self.keeper = keeper
        self.stopping: Stopping = Stopping() if stopping is None else stopping
        self.problem = problem
        self.writer = writer
        self.scope: TrialScope = scope if isinstance(scope, TrialScope) else TrialScope(scope)
        self.retries = retries
        self.patience: Patience = patience or Patience()

    def __call__(self, assignment: Assignment) -> Outcome:
        """Run one trial. Exceptions of the problem's functions end up in the outcome."""
        started = time.perf_counter()
        around = self.scope.around(assignment.number, assignment.params)
        with around as used, self.patience.around():
            outcome = self._noted(assignment)
        return replace(
            outcome,
            used=self.scope.attribute(used, assignment.params) if used else {},
            seconds=time.perf_counter() - started,
        )

    def _noted(self, assignment: Assignment) -> Outcome:
        if self.writer is None:
            return self._outcome(assignment)
        with files_read() as read:
            outcome = self._outcome(assignment)
        if read:
            note_inputs(self.writer, read)
        return outcome

    def _outcome(self, assignment: Assignment) -> Outcome:
        trial = assignment.trial
        if isinstance(trial, LiveTrial):
            try:
                trial = trial.open(self.patience)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this trial's
                return _failed(assignment, error)
        with seeding(assignment.seed, trial) as seeds:
            outcome = self._ended(assignment, trial, seeds)
        noted: dict[str, Any] = {}
        if seeds is not None:
            noted.update(seed=seeds.seed, shared=tuple(sorted(seeds.shared)))
        if outcome.state == "lost" and not isinstance(outcome.error, TrialStopped):
            return replace(outcome, **noted)
        noted.update(constraints=_constraints(trial), told_to_prune=_told_to_prune(trial, outcome))
        return _delivered(replace(outcome, **noted), assignment.trial, trial)

    def _ended(
        self, assignment: Assignment, trial: BaseTrial | None, seeds: Seeding | None
    ) -> Outcome:
        number, encoded = assignment.number, None
        try:
            result = self._run(assignment, trial, seeds)
            if self.writer is not None:
                # A number that is the value itself is in the study already. Before `evaluate`,
                # which may change it.
                encoded = self.writer.encode(result, numbers=self.problem.evaluate is not None)
            values = self._evaluate(assignment, result, trial)
        except optuna.TrialPruned as pruned:
            outcome = Outcome(number, "pruned", error=pruned, message=str(pruned))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this trial's
            outcome = _failed(assignment, error)
        else:
            outcome = Outcome(number, "complete", values=values)
            if any(math.isnan(value) for value in values):
                shown = values[0] if len(values) == 1 else values
                outcome = Outcome(number, "failed", message=f"the value is {shown}")
        if encoded is None or self.writer is None or outcome.state == "lost":
            return outcome
        put = partial(
            self._put, self.writer, assignment, outcome, encoded, _given(assignment, trial)
        )
        if self.uploads is None or not encoded.content:
            return put()
        # With the patience and the scope of this thread.
        end = self.uploads.submit(copy_context().run, put)
        return replace(outcome, upload=Upload(len(encoded.content), end))

    def _put(
        self,
        writer: ResultWriter,
        assignment: Assignment,
        outcome: Outcome,
        encoded: EncodedResult,
        given: FrozenTrial | None,
    ) -> Outcome:
        keeping = nullcontext()
        if self.keeper is not None and given is not None:
            keeping = self.keeper.keeping(outcome, given, encoded)
        try:
            with keeping:
                return replace(outcome, result=writer.put(assignment.number, encoded))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this trial's
            return _failed(assignment, error)

    def _run(self, assignment: Assignment, trial: BaseTrial | None, seeds: Seeding | None) -> Any:
        for attempt in range(self.retries + 1):
            if attempt and seeds is not None and assignment.seed is not None:
                # The same numbers would most often fail again.
                seeds.renew(trial_seed(assignment.seed, "attempt", attempt))
            try:
                if self.problem.objective is not None:
                    return self.problem.objective(trial)
                scope = self.scope.values
                return self.problem.call(
                    "run", assignment.params, scope=scope, trial=trial, stopping=self.stopping
                )
            except (TrialStopped, optuna.TrialPruned, InvalidProblemError, StorageUnavailableError):
                raise
            except Exception:
                if attempt == self.retries:
                    raise
        raise AssertionError("unreachable")

    def _evaluate(
        self, assignment: Assignment, result: Any, trial: BaseTrial | None
    ) -> tuple[float, ...]:
        value = self.problem.call(
            "evaluate", result, params=assignment.params, scope=self.scope.values, trial=trial
        )
        return checked_values(value, self.problem)


def _failed(assignment: Assignment, error: Exception) -> Outcome:
    if isinstance(error, StorageUnavailableError):
        # Not the trial's own: the study, or the place of its artifacts, is away for too long.
        return Outcome(assignment.number, "lost", error=error, message=str(error))
    if isinstance(error, TrialStopped):
        return Outcome(assignment.number, "lost", error=error, message="it was asked to stop")
    ours = isinstance(error, PrefectOptunaError)
    message = public_text(str(error)) if ours else f"{error_words(error)}{_where(error)}"
    where = "" if ours else user_traceback(error)
    return Outcome(assignment.number, "failed", error=error, message=message, traceback=where)


def _given(assignment: Assignment, trial: BaseTrial | None) -> FrozenTrial | None:
    """A trial with all that it was given until now."""
    if isinstance(trial, optuna.Trial):
        return trial._cached_frozen_trial  # pyright: ignore[reportPrivateUsage]
    return assignment.given


def _delivered(
    outcome: Outcome, live: BaseTrial | LiveTrial | None, trial: BaseTrial | LiveTrial | None
) -> Outcome:
    """An outcome whose trial the storage holds, or which brings its trial along."""
    if not isinstance(live, LiveTrial) or not isinstance(trial, optuna.Trial):
        return outcome
    given = trial._cached_frozen_trial  # pyright: ignore[reportPrivateUsage]
    try:
        live.deliver(trial)
    except (StorageUnavailableError, UpdateFinishedTrialError):
        return replace(outcome, undelivered=given)
    except Exception as error:  # noqa: BLE001 - it was given what the study cannot hold
        message = error_words(error)
        return replace(outcome, state="failed", values=None, error=error, message=message)
    if isinstance(trial, FlowTrial) and trial.taken:
        return replace(outcome, undelivered=given)
    return outcome


def _told_to_prune(trial: BaseTrial | LiveTrial | None, outcome: Outcome) -> tuple[int, ...]:
    """After how many reports a trial was told to end; nothing where it did so at once."""
    if not isinstance(trial, FlowTrial):
        return ()
    reports = len(trial._cached_frozen_trial.intermediate_values)  # pyright: ignore[reportPrivateUsage]
    told = trial.told_to_prune
    return () if outcome.state == "pruned" and told == [reports] else tuple(told)


def _constraints(trial: BaseTrial | LiveTrial | None) -> dict[str, float]:
    """The constraints that were set on a trial; the storage is not asked for them again."""
    if isinstance(trial, optuna.Trial):
        trial = trial._cached_frozen_trial  # pyright: ignore[reportPrivateUsage]
    return {} if trial is None or isinstance(trial, LiveTrial) else trial.constraints


_OURS = str(Path(__file__).resolve().parent)
_MAX_TRACEBACK = 4000  # characters


def checked_values(value: Any, problem: Problem) -> tuple[float, ...]:
    """Turn what a problem's last function returned into one number for each direction."""
    expected = len(problem.directions)
    what = "evaluate" if problem.evaluate else "objective" if problem.objective else "run"
    try:
        values = (
            (float(value),)
            if expected == 1 and not _is_sequence(value)
            else tuple(float(v) for v in value)
        )
    except (TypeError, ValueError):
        given = type(value).__name__ if not isinstance(value, (str, tuple, list)) else repr(value)
        hint = " Give the problem an `evaluate` function." if what == "run" else ""
        if value is None:
            given, hint = "None", hint or " Does it end with a `return`?"
        raise InvalidProblemError(
            f"`{what}` has to return {'a number' if expected == 1 else f'{expected} numbers'}, "
            f"found {given}.{hint}"
        ) from None
    if len(values) != expected:
        raise InvalidProblemError(
            f"`{what}` returned {len(values)} values for {expected} directions "
            f"({', '.join(problem.directions)})."
        )
    return values


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def user_traceback(error: BaseException) -> str:
    """The traceback of an error without the frames of this package, as everybody may read it."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_OURS)
    ]
    if not frames:
        return ""
    lines = traceback.StackSummary.from_list(frames).format()
    text = public_text("".join(lines)) + error_words(error)
    return text if len(text) <= _MAX_TRACEBACK else f"...{text[-_MAX_TRACEBACK:]}"


def _where(error: BaseException) -> str:
    """The place in the user's code, since that is what they look for first."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if frame.filename != __file__]
    if not outside:
        return ""
    return f" ({outside[-1].filename}:{outside[-1].lineno} in {outside[-1].name})"
