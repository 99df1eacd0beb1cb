"""One run of a study: ask, have it run, tell, until enough trials are finished."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study._tell import _tell_with_warning  # pyright: ignore[reportPrivateUsage]
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks import StudyStorage
from prefect_optuna.blocks._secrets import error_words
from prefect_optuna.errors import (
    InvalidProblemError,
    PrefectOptunaError,
    StorageUnavailableError,
    TrialStopped,
)
from prefect_optuna.flows.session import OpenTrials, Session, is_lost
from prefect_optuna.flows.spool import (
    STATES,
    Delivery,
    SpooledTrial,
    TrialKeeper,
    store_given,
    told_attributes,
)
from prefect_optuna.flows.study import FlowStudy, StudyState
from prefect_optuna.flows.study_flow import ending_softly
from prefect_optuna.flows.task_runners import (
    Dispatcher,
    InlineDispatcher,
    Lost,
    ThreadDispatcher,
    task_run_seconds,
)
from prefect_optuna.tasks.archive.record.trial_records import TrialSigner
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.sampling import STATE, AskedSampler, Asks
from prefect_optuna.tasks.seeding import (
    SEED,
    SEED_KEY,
    SHARED_REMEDY,
    first_number,
    seeding,
    suggest_seed,
)
from prefect_optuna.tasks.trial import Assignment, FlowTrial, LiveTrial, Outcome, TrialScope

REFRESH_SECONDS = 5.0
RECOVER_SECONDS = 10.0


@dataclass
class StudyRun:
    """The loop of `optimize`, from the first ask to a study that is consistent again.

    Args:
        study: the study; its sampler asks.
        session: marks the trials as this run's.
        dispatcher: has trials run; it knows the problem, and the scope around each trial.
        logger: the flow run's.
        n_trials: how many finished trials end the study; `None` for no limit.
        timeout: seconds after which no more trials are asked.
        catch: exceptions that fail a trial and not the study.
        callbacks: called with the study and each trial that ended.
        opened_elsewhere: the study's storage, where trials run in other processes and have to
            open it there; `None` where they run in this one.
        signer: signs each trial before it is told; `None` where there is no key.
        keeper: puts trials down whose storage is away; `None` for a study that dies with us.
        delivery: tells those that an earlier run on this machine has left.
    """

    study: FlowStudy
    session: Session
    dispatcher: Dispatcher | InlineDispatcher
    logger: logging.Logger | logging.LoggerAdapter[Any]
    n_trials: int | None
    timeout: float | None = None
    catch: tuple[type[BaseException], ...] = ()
    callbacks: Sequence[Callable[[optuna.Study, FrozenTrial], None]] = ()
    opened_elsewhere: StudyStorage | None = None
    signer: TrialSigner | None = None
    keeper: TrialKeeper | None = None
    delivery: Delivery | None = None

    def __post_init__(self) -> None:
        self._problem = self.dispatcher.trial_runner.problem
        self._scope = self.dispatcher.trial_runner.scope
        self._in_flight: dict[int, optuna.Trial] = {}
        self._error: BaseException | None = None
        self._idle_seconds = 1.0  # between two looks for more to do
        self._deadline = None if self.timeout is None else time.monotonic() + self.timeout
        self._recovered = self._refreshed = 0.0
        self._follows = OpenTrials()
        self._finished = self._others = 0
        self._any_complete = False
        self._pace = 0.0  # of other runs of the study, in trials a second
        self._said_shared = self._said_unread = self._said_traceback = False
        self._state: StudyState = "running"
        self._paused = False

    @property
    def finished(self) -> int:
        """Number of finished trials of the study, as far as this run knows."""
        return self._finished

    def run(self) -> None:
        """Ask, run and tell until the study has enough trials, the time is up, or it is stopped."""
        with ending_softly(self.session.stopping) as end:
            self._run(end)

    def _run(self, end: Callable[[], None]) -> None:
        self.session.open()
        clean = False
        try:
            self._recover()
            self._open_asks()
            if isinstance(self.dispatcher, InlineDispatcher):
                self._run_here(self.dispatcher)
            else:
                self._run_elsewhere(self.dispatcher)
            end()
            self.study.storage.remove_session()
            clean = True
            self._state = "stopped" if self.study.stopped else "completed"
            if self._error is not None:
                raise self._error
        except BaseException as error:
            self._state = "failed" if isinstance(error, Exception) else "interrupted"
            self.study.storage.patience.end()
            self._give_up(f"interrupted by {type(error).__name__}")
            raise
        finally:
            if not isinstance(self.dispatcher, InlineDispatcher):
                self.dispatcher.close()
            self._close(clean)

    def _open_asks(self) -> None:
        study = self.study
        asks = Asks(study.sampler, alone=self._is_alone())
        others = any(
            r["alive"] for key, r in self.session.records().items() if key != self.session.id
        )
        study_id = study._study_id  # pyright: ignore[reportPrivateUsage]
        asks.open(study.storage, study_id, self.session.id, study.later_seed, others=others)
        self.session.asks = asks

    def _is_alone(self) -> bool:
        """Tell whether each trial of this run is asked when the one before has been told."""
        return isinstance(self.dispatcher, InlineDispatcher)

    def _close(self, clean: bool) -> None:
        try:
            if self.signer is not None:
                self.signer.close()
        finally:
            self._close_session(clean)

    def _close_session(self, clean: bool) -> None:
        self.session.close(clean=clean, state=self._state)

    def _run_elsewhere(self, dispatcher: Dispatcher) -> None:
        while True:
            while (room := min(dispatcher.room(), self._missing())) > 0:
                dispatcher.put([a for _ in range(room) if (a := self._ask_one()) is not None])
            if not self._in_flight and not self._wait_for_others():
                return
            for outcome in dispatcher.get(timeout=self._idle_seconds):
                if isinstance(outcome, Lost):
                    self._recover_or_lose(outcome.number)
                else:
                    self._tell(outcome)
            self._recover_now_and_then()

    def _run_here(self, here: InlineDispatcher) -> None:
        while True:
            if (first := self._ask_next()) is not None:
                here.run(first.number, self._lane(first), report=self._tell)
            elif not self._wait_for_others():
                return
            else:
                time.sleep(self._idle_seconds)
            self._recover_now_and_then()

    def _lane(self, assignment: Assignment | None) -> Iterator[Assignment]:
        """The trials of one task run here: each is asked when the one before has been told."""
        end = time.monotonic() + task_run_seconds(1 + self._others)
        while assignment is not None:
            yield assignment
            assignment = self._ask_next() if time.monotonic() < end else None
        if self._error is not None:
            raise self._error  # the task run failed, too

    # -- asking ---------------------------------------------------------------------------------

    def _ask_next(self) -> Assignment | None:
        while self._missing() > 0:
            if (assignment := self._ask_one()) is not None:
                return assignment
        return None

    def _ask_one(self) -> Assignment | None:
        trial = self._next_trial()
        if trial is None:
            return None
        self._in_flight[trial.number] = trial
        if self._is_too_many(trial):
            del self._in_flight[trial.number]
            self.session.withdraw(trial.number)
            return None
        params: dict[str, Any] = {}
        seed = self.session.seed_of(trial._cached_frozen_trial)  # pyright: ignore[reportPrivateUsage]
        if self._problem.suggest is not None:
            try:
                params = suggest_params(self._problem, trial, self._scope, seed)
            except optuna.TrialPruned as pruned:
                self._tell(Outcome(trial.number, "pruned", error=pruned, message=str(pruned)))
                return None
            except StorageUnavailableError as error:
                self._tell(Outcome(trial.number, "lost", error=error, message=str(error)))
                return None
            except Exception as error:  # noqa: BLE001 - `catch` decides, as for `run`
                message = f"suggest: {error_words(error)}"
                self._tell(Outcome(trial.number, "failed", error=error, message=message))
                return None
            if isinstance(trial, FlowTrial) and trial.taken:  # nothing was computed yet
                self._let_go(trial)
                return None
        live: optuna.Trial | LiveTrial | None = None
        if self._problem.needs_trial:
            try:
                block = self.opened_elsewhere
                live = trial if block is None else self._live(trial, block)
            except StorageUnavailableError as error:
                self._tell(Outcome(trial.number, "lost", error=error, message=str(error)))
                return None
        alone = trial.number in self.session.repeats
        given = trial._cached_frozen_trial  # pyright: ignore[reportPrivateUsage]
        return Assignment(trial.number, params, live, alone=alone, seed=seed, given=given)

    def _has_ended(self, trial: optuna.Trial) -> bool:
        trial_id = trial._trial_id  # pyright: ignore[reportPrivateUsage]
        return self.study.storage.get_trial(trial_id).state.is_finished()

    def _let_go(self, trial: optuna.Trial) -> None:
        del self._in_flight[trial.number]
        self._refresh()

    def _next_trial(self) -> optuna.Trial | None:
        return self.session.ask(self.study)

    def _live(self, trial: optuna.Trial, block: StudyStorage) -> LiveTrial:
        self.study.storage.flush()  # another process reads the trial
        return LiveTrial(
            block,
            self.study.study_name,
            trial.number,
            trial.study.sampler,
            self.study.pruner,
            self.session.id,
            self.session.stopping,
        )

    def _in_time(self) -> bool:
        return self._deadline is None or time.monotonic() < self._deadline

    def _is_over(self) -> bool:
        stops = self.study.stopped or self.session.stopping.is_set()
        return stops or self._error is not None or not self._in_time()

    def _missing(self) -> int:
        """Count the trials still to be asked, given those that are under way anywhere."""
        if self._is_over():
            return 0
        if time.monotonic() - self._refreshed > REFRESH_SECONDS:
            self._refresh()
        if self._paused or self.study.stopped:
            return 0
        if self.n_trials is None:
            return sys.maxsize
        missing = self._count_missing(self.n_trials)
        if 0 < missing <= self._unseen():
            self._refresh()
            missing = self._count_missing(self.n_trials)
        return missing

    def _count_missing(self, n_trials: int) -> int:
        return n_trials - self._finished - len(self._in_flight) - self._others

    def _unseen(self) -> float:
        """Count the trials that other runs of the study may have begun since the last look."""
        if not self._others and not self._pace:
            return 0
        since = time.monotonic() - self._refreshed
        return 2 * (self._others + self._pace * since + 1)

    def _is_too_many(self, trial: optuna.Trial) -> bool:
        """Tell whether others began what was missing at the same moment: the first ones count."""
        first = first_number(trial._cached_frozen_trial)  # pyright: ignore[reportPrivateUsage]
        if self.n_trials is None or first < self.n_trials:
            return False  # there are not so many before it
        return self._follows.ahead_of(first, self._refresh()) >= self.n_trials

    def _refresh(self) -> Sequence[FrozenTrial]:
        trials = self.study.trials_view()
        _, ended = self._follows.look(trials)
        now, before = time.monotonic(), self._finished
        self._finished = self._follows.finished
        if self._refreshed:
            self._pace = max(0, self._finished - before) / max(now - self._refreshed, 0.1)
        self._refreshed = now
        self._any_complete |= any(t.state == TrialState.COMPLETE for t in ended)
        # What others have left is asked again.
        left = len(self._follows.unrepeated)
        self._others = self.session.others_running(self._follows.open) + left
        if isinstance(self.dispatcher, ThreadDispatcher):
            self.dispatcher.others = self._others
        self._heed()
        return trials

    def _heed(self) -> None:
        """Do what somebody has asked for, such as by `prefect-optuna stop`."""
        asked = self.session.asked()
        if asked == "stop" and not self.study.stopped:
            self.logger.info("Somebody has asked this study to stop; what runs is finished.")
            self.study.stop()
        if (asked == "pause") != self._paused:
            self._paused = asked == "pause"
            self.logger.info("Paused." if self._paused else "Going on.")

    # -- telling --------------------------------------------------------------------------------

    def _tell(self, outcome: Outcome) -> None:
        if outcome.state == "lost":
            self._hand_back(outcome)
            return
        trial = self._in_flight[outcome.number]
        if isinstance(outcome.error, UpdateFinishedTrialError) and self._has_ended(trial):
            # Another run took this one for dead, and has asked its trial again: no failure of it.
            self._let_go(trial)
            return
        given = outcome.undelivered or trial._cached_frozen_trial  # pyright: ignore[reportPrivateUsage]
        keeper = self.keeper
        with nullcontext() if keeper is None else keeper.keeping(outcome, given):
            frozen = self._told(trial, outcome)
            if frozen is None and keeper is not None and self.delivery is not None:
                # Another run took this one for dead, such as after a long sleep of the machine.
                frozen = self.delivery.tell(keeper.ended(outcome, given))
        del self._in_flight[outcome.number]
        if frozen is None:
            self._refresh()
            return
        self._finished += 1
        self._any_complete |= outcome.state == "complete"
        if outcome.state == "complete" and not self._said_unread:
            self._said_unread = True
            if words := self._scope.unread({*outcome.used, *frozen.params}):
                self.logger.warning("The scope of this study: %s", words)
        if outcome.state == "failed":
            self._failed(outcome)
        for callback in self.callbacks:
            callback(self.study, frozen)

    def _told(self, trial: optuna.Trial, outcome: Outcome) -> FrozenTrial | None:
        """Tell a trial; `None` where another run has given it up."""
        storage, of = self.study.storage, trial._trial_id  # pyright: ignore[reportPrivateUsage]
        try:
            if outcome.undelivered is not None:
                store_given(storage, of, outcome.undelivered)
            self._note_seed(trial, outcome)
            for name, value in self._attributes(trial, outcome).items():
                trial.set_user_attr(name, value)
            if (state := self.session.sampler_state()) is not None:
                storage.set_trial_system_attr(of, STATE, state)
            # As `Study.tell` does it, without a deep copy for somebody to change.
            _tell_with_warning(trial.study, trial, outcome.values, STATES[outcome.state])
            frozen = storage.get_trial(of)
            self._signed(frozen)
            if state is not None:
                cast("AskedSampler", trial.study.sampler).publish()
        except (UpdateFinishedTrialError, ValueError):
            stored = self.study.trials_view()[outcome.number]
            if not stored.state.is_finished():
                raise
            self._signed(stored)
            return stored if _is_told(stored, outcome) else None
        return frozen

    def _note_seed(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Keep the seed of a later attempt: it does not follow from the trial's number."""
        frozen = trial._cached_frozen_trial  # pyright: ignore[reportPrivateUsage]
        first = self.session.seed_of(frozen)
        if outcome.seed in (None, first):
            return
        storage, of = self.study.storage, trial._trial_id  # pyright: ignore[reportPrivateUsage]
        storage.set_trial_system_attr(of, SEED, outcome.seed)
        if storage.get_trial(of).user_attrs.get(SEED_KEY) == first:
            trial.set_user_attr(SEED_KEY, outcome.seed)

    def _attributes(self, trial: optuna.Trial, outcome: Outcome) -> dict[str, Any]:
        """Return the attributes told beside a trial's values, signed where there is a key."""
        attributes = told_attributes(outcome)
        if outcome.shared:
            self._say_shared(outcome)
        if self.signer is None:
            return attributes
        # As it is stored now: a worker may have suggested, reported and set attributes.
        stored = self.study.storage.get_trial(trial._trial_id)  # pyright: ignore[reportPrivateUsage]
        return self.signer.signed(stored, attributes, STATES[outcome.state], outcome.values)

    def _say_shared(self, outcome: Outcome) -> None:
        if not self._said_shared:
            self._said_shared = True
            self.logger.warning(
                "Trial %d ran beside others in threads that drew from the same generator (%s), and "
                "may not be reproduced. %s",
                outcome.number,
                ", ".join(outcome.shared),
                SHARED_REMEDY,
            )

    def _signed(self, frozen: FrozenTrial) -> None:
        if self.signer is not None:
            self.signer.told(frozen)

    def _hand_back(self, outcome: Outcome) -> None:
        """Ask a trial again that was ended by an outage, or by the end of its machine."""
        if isinstance(outcome.error, TrialStopped):
            stops = self.session.stopping.is_set()
            self._lose(outcome.number, "it was stopped", innocent=stops)
            return
        self._lose(outcome.number, "the storage that it needs is away", innocent=True)
        self._error = self._error or outcome.error  # here is no place for it

    def _failed(self, outcome: Outcome) -> None:
        self.logger.warning("Trial %d failed: %s", outcome.number, outcome.message)
        if outcome.traceback and not self._said_traceback:
            self._said_traceback = True
            self.logger.warning("Where trial %d failed:\n%s", outcome.number, outcome.traceback)
            # For whoever watches the study from elsewhere.
            self.session.say(failed=outcome.number, traceback=outcome.traceback)
        if outcome.error is None or self._error is not None:
            return
        # A problem that has never worked is wrong, whatever `catch` says.
        wrong = isinstance(outcome.error, PrefectOptunaError) and not self._any_complete
        if wrong or not self._catches(outcome.error):
            self._error = outcome.error

    def _catches(self, error: BaseException) -> bool:
        return isinstance(error, self.catch)

    # -- trials that others run, and trials that nobody runs ------------------------------------

    def _recover(self) -> None:
        self._recovered = time.monotonic()
        self._deliver()
        for number in self.session.recover():
            self.logger.info("Trial %d was left by a process that is gone; asked again.", number)
        self._refresh()

    def _deliver(self) -> None:
        """Tell what has ended on this machine in a session that is gone, and was not told."""
        if self.keeper is None or self.delivery is None:
            return
        if kept := self.keeper.spool.of(self.keeper.uuid):
            records = self.session.records()
            for one in kept:
                if not records.get(one.session, {}).get("alive"):
                    self._deliver_one(one)

    def _deliver_one(self, kept: SpooledTrial) -> bool:
        if self.delivery is None or (frozen := self.delivery.tell(kept)) is None:
            return False
        for callback in self.callbacks:
            callback(self.study, frozen)
        return True

    def _recover_now_and_then(self) -> None:
        if time.monotonic() - self._recovered > RECOVER_SECONDS:
            self._recover()

    def _wait_for_others(self) -> bool:
        """Tell whether to go on with nothing under way here: another run may yet leave a trial."""
        if self._is_over():
            return False
        self._refresh()
        if self._paused:
            return not self.study.stopped
        if self.n_trials is None or self._finished >= self.n_trials:
            return self.n_trials is None
        if self._others:
            self._recover()
        return True

    def _recover_or_lose(self, number: int) -> None:
        """Tell what a process had computed that died while it waited; else ask the trial again."""
        here = [] if self.keeper is None else self.keeper.spool.of(self.keeper.uuid)
        for kept in here:
            is_it = (kept.session, kept.trial.number) == (self.session.id, number)
            if is_it and self._deliver_one(kept):
                del self._in_flight[number]
                self._refresh()
                return
        self._lose(number)

    def _lose(
        self, number: int, why: str = "the process that ran it is gone", *, innocent: bool = False
    ) -> None:
        """Ask a trial again that was not ended."""
        del self._in_flight[number]
        again = self.session.give_up(number, why, innocent=innocent)
        self.logger.warning(
            "Trial %d is lost: %s; %s.",
            number,
            why,
            "it counts as failed" if again is None else "it is asked again",
        )
        self._refresh()

    def _give_up(self, why: str) -> None:
        for number in list(self._in_flight):
            try:
                self.session.give_up(number, why, innocent=True)
            except Exception as error:  # noqa: BLE001 - the next run will find them
                self.logger.warning("Trial %d could not be given up: %s", number, error)


def _is_told(trial: FrozenTrial, outcome: Outcome) -> bool:
    """Tell whether a trial has ended as it was to be told."""
    if trial.state != STATES[outcome.state] or is_lost(trial):
        return False
    return outcome.values is None or trial.values == list(outcome.values)


def suggest_params(
    problem: Problem, trial: optuna.trial.BaseTrial, scope: TrialScope, seed: int | None = None
) -> dict[str, Any]:
    """The parameters of a trial."""
    with scope.around(), seeding(suggest_seed(seed), trial):
        params = problem.call("suggest", trial, scope=scope.values)
    if not isinstance(params, Mapping):
        raise InvalidProblemError(
            "`suggest` has to return the parameters as a mapping of names to values, such as "
            f'{{"x": trial.suggest_float("x", 0, 1)}}; found {type(params).__name__}.'
        )
    return dict(params)
