"""The work of the contract's processes. Importable, so that another process can do it."""

# A storage deals in ids, which are private in Optuna.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import multiprocessing
import random
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study import Study, StudyDirection
from optuna.trial import Trial, TrialState

from prefect_optuna.blocks.testing.history import Recorder
from prefect_optuna.blocks.testing.processes import Connect, Start


def open_study(storage: BaseStorage, name: str) -> Study:
    """Load a study with a sampler that asks the storage for nothing."""
    return optuna.load_study(
        study_name=name, storage=storage, sampler=optuna.samplers.RandomSampler(seed=0)
    )


def fail_stale_trials(study: Study) -> None:
    """Fail the trials whose worker is gone, as `Study.optimize` does before each trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def count_studies(connect: Connect, start: Start) -> int:
    """Return how many studies there are."""
    storage = connect()
    start()
    return len(storage.get_all_studies())


def pop_enqueued(connect: Connect, start: Start, name: str) -> list[tuple[int, float]]:
    """Ask for trials until none is left that was enqueued; return their numbers and `x`."""
    study = open_study(connect(), name)
    start()
    popped: list[tuple[int, float]] = []
    while True:
        trial = study.ask()
        if "enqueued" not in trial.user_attrs:
            study.tell(trial, state=TrialState.FAIL)
            return popped
        x = trial.suggest_float("x", 0, 1e6)
        popped.append((trial.number, x))
        study.tell(trial, x)


def create_at_once(connect: Connect, start: Start) -> tuple[int, bool]:
    """Create a study that all have, and one that only one can; return the id and the victory."""
    start()
    storage = connect()
    study = optuna.create_study(study_name="shared", storage=storage, load_if_exists=True)
    try:
        storage.create_new_study([StudyDirection.MINIMIZE], "one winner")
    except DuplicatedStudyError:
        return study._study_id, False
    return study._study_id, True


def ask_and_tell_in_forks(
    connect: Connect, start: Start, name: str, children: int, trials: int
) -> list[int]:
    """Use a storage, fork, and use the same object in every child; return the trials' numbers."""
    study = open_study(connect(), name)
    first = study.ask()
    context = multiprocessing.get_context("fork")
    pipes: list[Any] = []
    for _ in range(children):
        ours, theirs = context.Pipe(duplex=False)
        context.Process(target=_ask_and_tell, args=(study, trials, theirs), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    numbers = [first.number, *_tell_some(study, trials)]
    study.tell(first, 0.0)
    for pipe in pipes:
        if not pipe.poll(30):
            raise TimeoutError("a forked child had not answered after 30 s")
        numbers += pipe.recv()
    return numbers


def _ask_and_tell(study: Study, trials: int, answer: Any) -> None:
    signal.alarm(40)  # a child that hangs is not to outlive the test
    answer.send(_tell_some(study, trials))


def _tell_some(study: Study, trials: int) -> list[int]:
    numbers: list[int] = []
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))
        numbers.append(trial.number)
    return numbers


def hang_in_a_trial(connect: Connect, start: Start, name: str, sign: Path) -> None:
    """Write the number of a trial into a file, and never finish the trial."""

    def objective(trial: Trial) -> float:
        trial.suggest_float("x", 0, 1)
        partial = sign.with_suffix(".partial")
        partial.write_text(str(trial.number))
        partial.rename(sign)
        time.sleep(600)
        return 0.0

    open_study(connect(), name).optimize(objective, n_trials=1)


def optimize_until(
    connect: Connect, start: Start, name: str, abandoned: int, seconds: float
) -> None:
    """Run quick trials until that trial has been failed and tried again, or time is up."""
    study = open_study(connect(), name)
    deadline = time.monotonic() + seconds
    start()
    while time.monotonic() < deadline:
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
        trials = study.get_trials(deepcopy=False)
        again = [t for t in trials if t.system_attrs.get("failed_trial") == abandoned]
        if trials[abandoned].state.is_finished() and again and again[0].state.is_finished():
            return
        time.sleep(0.1)


def tell_until(connect: Connect, start: Start, name: str, log: Path, stop: Path) -> None:
    """Tell trials and record each one, whatever fails on the way, until there is a file `stop`."""
    study = open_study(connect(), name)
    recorder = Recorder(log)
    while not stop.exists():
        try:
            with recorder.attempt("ask") as attempt:
                trial = study.ask()
                attempt.number = trial.number
            value = trial.suggest_float("x", 0, 1)
            with recorder.attempt("tell", number=trial.number, value=value):
                study.tell(trial, value)
        except Exception:  # noqa: BLE001 -- the server is down: the record says what had no answer
            time.sleep(0.02)


def load_everything(connect: Connect, start: Start, name: str) -> list[tuple[Any, ...]] | str:
    """Return the trials as they look to a newcomer who also tells one; or the error, in words."""
    try:
        storage = connect()
        study = open_study(storage, name)
        trials = [
            (t.number, t.state.name, t.values, t.params, t.user_attrs, t.intermediate_values)
            for t in study.get_trials(deepcopy=False)
        ]
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
    except Exception as error:  # noqa: BLE001 -- an error is a good answer; it is only not to hang
        return f"{type(error).__name__}: {error}"
    return trials


def mixed_load(
    connect: Connect, start: Start, name: str, log: Path, stop: Path, seed: int, heartbeat: bool
) -> None:
    """Do all that workers do, at random, and record it, until there is a file `stop`.

    What fails is recorded as unanswered, and its trial is left alone, as a worker that dies of
    it would.
    """
    rng = random.Random(seed)  # noqa: S311 -- no secret hangs on it
    recorder = Recorder(log)
    storage = connect()
    study = open_study(storage, name)
    turn = 0
    while not stop.exists():
        turn += 1
        try:
            _one_turn(study, storage, recorder, rng, f"{log.stem}-{turn}", heartbeat)
        except Exception:  # noqa: BLE001 -- the server is down: the record says what had no answer
            time.sleep(0.02)


def _one_turn(
    study: Study, storage: BaseStorage, recorder: Recorder, rng: random.Random, tag: str, beat: bool
) -> None:
    kind = rng.random()
    if kind < 0.15:
        with recorder.attempt("enqueue", tag=tag):
            study.enqueue_trial({"x": rng.random()}, user_attrs={"enqueued": tag})
        return
    if kind < 0.25:
        with recorder.attempt("attribute", tag=tag.rpartition("-")[0], value=tag):
            study.set_user_attr(tag.rpartition("-")[0], tag)
        return
    beating = storage if beat and isinstance(storage, BaseHeartbeat) else None
    if beating:  # as `Study.optimize` does before it asks, and after
        fail_stale_trials(study)
    with recorder.attempt("ask") as attempt:
        trial = study.ask()
        attempt.number = trial.number
    if beating:
        with recorder.attempt("beat", number=trial.number):
            beating.record_heartbeat(trial._trial_id)
    value = trial.suggest_float("x", 0, 1) + trial.suggest_int("n", 0, 9)
    trial.suggest_categorical("c", ["a", "b"])
    for step in range(rng.randrange(4)):
        trial.report(value + step, step)
    trial.set_user_attr("tag", tag)
    if kind > 0.97:
        time.sleep(0.005)  # another process is likely to come between
    state = TrialState.FAIL if kind > 0.9 else TrialState.COMPLETE
    told = value if state == TrialState.COMPLETE else None
    with recorder.attempt("tell", number=trial.number, value=told, tag=tag, params=trial.params):
        study.tell(trial, told, state=state)
