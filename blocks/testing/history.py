"""Histories of what processes did to a study, and whether what is left of it can be true."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState


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
