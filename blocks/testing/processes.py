"""Processes that work on one storage and can be killed, their work, and what they have done."""

# A storage deals in ids, which are private in Optuna.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import multiprocessing
import os
import random
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeAlias

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

# A network that fails when it is told to.


class FaultyProxy:
    """A TCP proxy on a free port of 127.0.0.1 whose connections can be cut.

    Args:
        port: of the server behind it, on 127.0.0.1.

    Attributes:
        port: its own.

    Example:
        >>> import socket
        >>> from prefect_optuna.blocks.testing import FaultyProxy
        >>> with socket.create_server(("127.0.0.1", 0)) as server:
        ...     with FaultyProxy(server.getsockname()[1]) as proxy:
        ...         proxy.cut("reply")
        ...         proxy.disarm()
        True
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._armed: list[str] = []
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing alone does not wake the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        self.drop_connections()
        for thread in self._threads:
            thread.join()

    def cut(self, what: Literal["request", "reply"], *, passing: int = 0) -> None:
        """Cut a connection once, at the next occasion.

        Args:
            what: `"request"` before the server has it, or `"reply"`: the server has done what was
                asked, and its answer never arrives.
            passing: how many still get through before that.

        Example:
            >>> from prefect_optuna.blocks.testing import FaultyProxy
            >>> FaultyProxy(6379).cut("request", passing=1)
        """
        with self._lock:
            self._armed = ["pass"] * passing + [what]

    def disarm(self) -> bool:
        """Cut nothing any more.

        Returns:
            Whether a cut was still to come.

        Example:
            >>> from prefect_optuna.blocks.testing import FaultyProxy
            >>> FaultyProxy(6379).disarm()
            False
        """
        with self._lock:
            armed, self._armed = self._armed, []
        return bool(armed)

    def drop_connections(self) -> None:
        """Cut every connection that is open, as a firewall does with idle ones.

        Example:
            >>> from prefect_optuna.blocks.testing import FaultyProxy
            >>> FaultyProxy(6379).drop_connections()
        """
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with (
            client,
            suppress(OSError),  # a lost connection ends it, on whichever side
            socket.create_connection(("127.0.0.1", self._target)) as server,
        ):
            with self._lock:
                self._open |= {client, server}
            try:
                self._copy(client, server)
            finally:
                with self._lock:
                    self._open -= {client, server}

    def _copy(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            for source in select.select([client, server], [], [])[0]:
                data = source.recv(65536)
                if not data or self._fails("request" if source is client else "reply"):
                    return
                (server if source is client else client).sendall(data)

    def _fails(self, what: str) -> bool:
        with self._lock:
            if not self._armed or self._armed[-1] != what:
                return False
            return self._armed.pop(0) == what


# Description of a storage that the contract puts to the test.


Connect: TypeAlias = Callable[[], BaseStorage]
"""Opens the storage, in whichever process; picklable, such as a `functools.partial`."""


@dataclass(frozen=True)
class StorageUnderTest:
    """One empty database, how to open it, and what can be done to it.

    Only `connect` is needed. Each of the others belongs to rows of the contract that make no
    sense without it: there is no server to kill where there is none.

    Args:
        connect: opens the database anew, as another process would. It is pickled, so make it a
            `functools.partial` of something that can be imported.
        connect_with_heartbeat: the same with a heartbeat each second, a grace period of 2 s, and
            a callback that tries a stale trial once more
            (`optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1)`). Without it,
            `connect`.
        heartbeat_on_ask: whether a trial has a heartbeat from the moment on in which a worker gets
            it. On Optuna's own databases it has none before the worker's first, so that a worker
            that is killed in between leaves a trial that nobody takes for stale.
        server_port: where the server listens on 127.0.0.1, if there is one.
        connect_through: given another port, returns a `connect` that goes there. The contract
            puts a proxy of its own on it, which drops connections.
        kill_server: ends the server as a power cut would. It has to be one that keeps on disk
            what it has acknowledged.
        start_server: starts it again, on its port and its data, and waits until it answers.
        save_state: keeps what the database holds, and returns a function that puts it back
            behind the back of everybody who is connected.
        damage: damages one thing after the other, such as a key, and puts the whole database back
            before the next. It yields what is damaged now. Given None, the thing is missing;
            given bytes, it holds them.
        stored_bytes: how much the database holds.

    Example:
        >>> from functools import partial
        >>> from optuna.storages import RDBStorage
        >>> from prefect_optuna.blocks.testing import StorageUnderTest
        >>> StorageUnderTest(connect=partial(RDBStorage, "sqlite:///studies.db")).kill_server
    """

    connect: Connect
    connect_with_heartbeat: Connect | None = None
    heartbeat_on_ask: bool = True
    server_port: int | None = None
    connect_through: Callable[[int], Connect] | None = None
    kill_server: Callable[[], None] | None = None
    start_server: Callable[[], None] | None = None
    save_state: Callable[[], Callable[[], None]] | None = None
    damage: Callable[[bytes | None], Iterator[str]] | None = None
    stored_bytes: Callable[[], int] | None = None


_P = ParamSpec("_P")

Start: TypeAlias = Callable[[], None]
"""Waits until all processes of the crew are ready."""

_PRELOADED = ["prefect_optuna.blocks.testing.processes", "sqlalchemy", "redis"]


@dataclass
class _Worker:
    name: str
    process: BaseProcess
    answer: Connection[Any, Any]


class Crew:
    """Processes that start together, each of which opens the storage for itself.

    They are forked from a process that has imported Optuna, and shares nothing else with them:
    neither connections nor threads nor locks. That costs some 20 ms for each of them. A script
    that uses it needs `if __name__ == "__main__":`, as everywhere in `multiprocessing`.

    Args:
        connect: opens the storage.
        together: how many workers wait for each other in `start()`.

    Example:
        >>> from optuna.storages import InMemoryStorage
        >>> from prefect_optuna.blocks.testing import Crew
        >>> from prefect_optuna.blocks.testing.processes import count_studies
        >>> with Crew(InMemoryStorage, together=2) as crew:
        ...     numbers = [crew.send(count_studies) for _ in range(2)]
        ...     crew.answers()
        [0, 0]
    """

    def __init__(self, connect: Connect, *, together: int = 0) -> None:
        self._connect = connect
        self._context = _context()
        self._barrier = self._context.Barrier(together) if together else None
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for index in range(len(self._workers)):
            self.kill(index)

    def send(
        self, work: Callable[Concatenate[Connect, Start, _P], Any], *args: _P.args, **_: _P.kwargs
    ) -> int:
        """Start another process.

        Args:
            work: what it does, given `connect`, a function that waits for the others, and `args`.
                It has to be importable, and what it returns picklable.
            args: of the work.

        Returns:
            The number of the process, for `kill`.

        Example:
            See the class.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_main, args=(theirs, self._barrier, work, self._connect, args)
        )
        process.start()
        theirs.close()
        self._workers.append(_Worker(work.__name__, process, ours))
        return len(self._workers) - 1

    def kill(self, worker: int) -> None:
        """End a process at once, as `kill -9` does. Its answer will be None.

        Args:
            worker: the number that `send` has returned.

        Example:
            >>> from optuna.storages import InMemoryStorage
            >>> from prefect_optuna.blocks.testing import Crew
            >>> from prefect_optuna.blocks.testing.processes import count_studies
            >>> with Crew(InMemoryStorage) as crew:
            ...     crew.kill(crew.send(count_studies))
        """
        process = self._workers[worker].process
        process.kill()
        process.join()

    def answers(self, *, limit: float = 60.0) -> list[Any]:
        """Wait until all processes have ended.

        Args:
            limit: seconds to wait for all of them together.

        Returns:
            What the work has returned, in the order of `send`; None for who was killed.

        Raises:
            AssertionError: some have raised or died, or are still at it after the limit; those are
                killed. It says how many, and quotes the first.

        Example:
            See the class.
        """
        deadline = time.monotonic() + limit
        answers: dict[int, tuple[str, Any]] = {}
        waiting = {worker.answer: index for index, worker in enumerate(self._workers)}
        while waiting and (left := deadline - time.monotonic()) > 0:
            for ready in wait(list(waiting), left):
                assert isinstance(ready, Connection)  # noqa: S101 -- for the type checker
                index = waiting.pop(ready)
                try:
                    answers[index] = ready.recv()
                except (EOFError, OSError):
                    answers[index] = ("died", None)
                ready.close()
        for pipe, index in waiting.items():
            self.kill(index)
            pipe.close()
        problems: list[str] = []
        for index, worker in enumerate(self._workers):
            worker.process.join()
            how, answer = answers.get(index, ("hung", None))
            if how == "hung":
                problems.append(f"{worker.name} had not ended after {limit:g} s.")
            elif how == "failed":
                problems.append(f"{worker.name} failed:\n{answer}")
            elif how == "died" and worker.process.exitcode != -9:
                problems.append(f"{worker.name} died with code {worker.process.exitcode}.")
        self._workers = []
        if problems:
            raise AssertionError(
                f"{len(problems)} of {len(answers) + len(waiting)} processes did not do their "
                f"work. The first: {problems[0]}"
            )
        return [answers[index][1] for index in sorted(answers)]


def _context() -> ForkServerContext | SpawnContext:
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)  # what cannot be imported is passed over
    return context


def _main(
    answer: Connection[Any, Any],
    barrier: Any,
    work: Callable[..., Any],
    connect: Connect,
    args: tuple[Any, ...],
) -> None:
    import optuna

    # Of the processes, only what they return or raise is of interest.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    try:
        result = ("done", work(connect, barrier.wait if barrier else _at_once, *args))
    except BaseException:  # noqa: BLE001 -- whatever it was, the parent reports it
        result = ("failed", traceback.format_exc())
    answer.send(result)
    answer.close()
    # What the storage has left behind, such as threads of its own, must not keep the process.
    os._exit(0)


def _at_once() -> None:
    pass


# The work of the contract's processes: importable, so that another process can do it.


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


# Histories of what processes did to a study, and whether what is left of it can be true.


@dataclass
class Attempt:
    """One write that a process has tried.

    Args:
        what: `"ask"`, `"beat"` for the first heartbeat, `"tell"`, `"enqueue"`, or `"attribute"` for
            one of the study.
        answered: whether the storage has acknowledged it. If not, it may have happened or not.
        number: of the trial.
        value: what was told, or the attribute's value; None for a trial that failed.
        tag: whom it belongs to: the user attribute of the trial, or the attribute's key.
        params: of the trial.

    Example:
        >>> from prefect_optuna.blocks.testing import Attempt
        >>> Attempt("ask", answered=True, number=3).number
        3
    """

    what: str
    answered: bool = False
    number: int | None = None
    value: Any = None
    tag: str | None = None
    params: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass
class History:
    """All attempts of one process, in their order.

    Args:
        attempts: of the process.

    Example:
        >>> from prefect_optuna.blocks.testing import History
        >>> History().attempts
        []
    """

    attempts: list[Attempt] = field(default_factory=list[Attempt])

    @staticmethod
    def read(log: Path) -> History:
        """Read what a `Recorder` has written, until its process was killed.

        Args:
            log: the file.

        Returns:
            The attempts in it.

        Example:
            >>> from pathlib import Path
            >>> from prefect_optuna.blocks.testing import History
            >>> Path("1.log").write_text('[0, {"what": "ask"}]')
            20
            >>> History.read(Path("1.log")).attempts[0].answered
            False
        """
        attempts: dict[int, Attempt] = {}
        for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
            index, fields = json.loads(line)
            attempts[index] = Attempt(**fields)
        return History(list(attempts.values()))


class Recorder:
    """Writes down each attempt before it is made, and again when it was answered.

    A line is one write to a file that is open for appending, so a kill leaves it whole or out.
    """

    def __init__(self, log: Path) -> None:
        self._file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._count = 0

    @contextmanager
    def attempt(self, what: str, **fields: Any) -> Generator[Attempt]:
        """Record an attempt; leaving the block without an error means that it was answered."""
        attempt, index = Attempt(what, **fields), self._count
        self._count += 1
        self._write(index, attempt)
        yield attempt
        attempt.answered = True
        self._write(index, attempt)

    def _write(self, index: int, attempt: Attempt) -> None:
        os.write(self._file, f"{json.dumps([index, asdict(attempt)])}\n".encode())


def violations(
    histories: Iterable[History],
    trials: Sequence[FrozenTrial],
    attributes: dict[str, Any] | None = None,
    *,
    recovered: bool = False,
    heartbeat_on_ask: bool = True,
) -> list[str]:
    """Compare what processes did with what a storage holds now.

    What was acknowledged has to be there, once; what was not may be there or not; and nothing
    else may be there.

    Args:
        histories: one of each process.
        trials: of the study.
        attributes: the user attributes of the study.
        recovered: whether stale trials have been failed, so that none may be running any more.
        heartbeat_on_ask: whether that is also said of trials whose worker was killed between its
            `"ask"` and its first `"beat"`.

    Returns:
        A sentence for each thing that cannot be true.

    Example:
        >>> from prefect_optuna.blocks.testing import Attempt, History, violations
        >>> violations([History([Attempt("ask", answered=True, number=0)])], [])
        ['trial 0 was given to a worker, and is not there']
    """
    histories = list(histories)
    attempts = [attempt for history in histories for attempt in history.attempts]
    broken = [
        f"trial {index} has the number {trial.number}"
        for index, trial in enumerate(trials)
        if trial.number != index
    ]
    broken += _asks(attempts, trials)
    if recovered:
        beaten = {a.number for a in attempts if a.what == "beat" and a.answered}
        broken += [
            f"trial {trial.number} is running for ever"
            for trial in trials
            if not _settled(trial) and (heartbeat_on_ask or trial.number in beaten)
        ]
    broken += _tells(attempts, trials)
    broken += _enqueued(attempts, trials)
    for history in histories:
        broken += _attributes(history, attributes or {})
    return broken


def _asks(attempts: list[Attempt], trials: Sequence[FrozenTrial]) -> list[str]:
    asks = [attempt for attempt in attempts if attempt.what == "ask"]
    given = Counter(attempt.number for attempt in asks if attempt.answered)
    broken = [f"trial {n} was given to {times} workers" for n, times in given.items() if times > 1]
    broken += [
        f"trial {n} was given to a worker, and is not there"
        for n in given
        if n is None or n >= len(trials)
    ]
    ownerless = [
        trial.number
        for trial in trials
        if trial.number not in given and trial.state != TrialState.WAITING
    ]
    unanswered = sum(not attempt.answered for attempt in asks)
    if len(ownerless) > unanswered:
        broken.append(
            f"{len(ownerless)} trials were taken and no worker got them, such as {ownerless[0]}; "
            f"only {unanswered} workers asked and got no answer"
        )
    return broken


def _settled(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() or trial.state == TrialState.WAITING


def _tells(attempts: list[Attempt], trials: Sequence[FrozenTrial]) -> list[str]:
    broken: list[str] = []
    tells = {a.number: a for a in attempts if a.what == "tell"}
    for trial in trials:
        told = tells.get(trial.number)
        if told is None:
            if trial.state == TrialState.COMPLETE:
                broken.append(f"trial {trial.number} is complete, and nobody has told it")
            continue
        state = TrialState.FAIL if told.value is None else TrialState.COMPLETE
        if told.answered and trial.state != state:
            broken.append(f"trial {trial.number} was told {state.name}, and is {trial.state.name}")
        elif trial.state == TrialState.COMPLETE and (
            trial.value != told.value
            or (told.tag and trial.user_attrs.get("tag") != told.tag)
            or (told.params and trial.params != told.params)
        ):
            broken.append(f"trial {trial.number} is not what was told: {told}, found {trial}")
    return broken


def _enqueued(attempts: list[Attempt], trials: Sequence[FrozenTrial]) -> list[str]:
    enqueued = {a.tag: a for a in attempts if a.what == "enqueue"}
    times = Counter(
        t.user_attrs["enqueued"]
        for t in trials
        if "enqueued" in t.user_attrs and "failed_trial" not in t.system_attrs  # tried again
    )
    broken = [
        f"{tag} was enqueued once, and is there {n} times" for tag, n in times.items() if n > 1
    ]
    broken += [f"nobody has enqueued {tag}" for tag in times if tag not in enqueued]
    broken += [
        f"{tag} was enqueued, and is gone"
        for tag, a in enqueued.items()
        if a.answered and not times[tag]
    ]
    return broken


def _attributes(history: History, attributes: dict[str, Any]) -> list[str]:
    possible: dict[str | None, set[Any]] = {}
    for attempt in history.attempts:
        if attempt.what == "attribute":
            before = set[Any]() if attempt.answered else possible.get(attempt.tag, {None})
            possible[attempt.tag] = before | {attempt.value}
    return [
        f"the study's attribute {key} is {attributes.get(key or '')!r}, not one of {values}"
        for key, values in possible.items()
        if attributes.get(key or "") not in values
    ]
