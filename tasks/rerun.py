"""Archived trials again, in a process that starts empty: no script, no modules of the user's.

The archive travels to that process as data, through a pipe; the process knows neither the study's
storage nor any secret. What the archived code prints goes to standard error.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial

from prefect_optuna.blocks.errors import ArchiveError
from prefect_optuna.tasks.archive.capture import Capture, encode_scope
from prefect_optuna.tasks.archive.restore import restore_problem, restore_value
from prefect_optuna.tasks.trial import Assignment, TrialRunner

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive import ArchivedStudy

__all__ = ["Rerun", "rerun_trials"]

# Not `-m`: that would put the current directory, and with it the user's modules, on the path.
_START = "import sys; del sys.path[0]; from prefect_optuna.tasks.rerun import main; main()"


@dataclass(frozen=True)
class Rerun:
    """What a trial gave when it was run again.

    Args:
        values: the values of each repetition that gave some.
        error: why one gave none; empty where all did.
    """

    values: tuple[tuple[float, ...], ...]
    error: str = ""


def rerun_trials(
    archived: ArchivedStudy,
    trials: Sequence[FrozenTrial],
    *,
    repeats: int = 1,
    scope: Mapping[str, Any] | None = None,
) -> list[Rerun]:
    """Run trials again with the code that they ran with. This executes archived code.

    Args:
        archived: the archive.
        trials: trials of its study.
        repeats: how many times each is run.
        scope: values that replace some of the archived scope.

    Returns:
        One for each trial, in the same order.

    Raises:
        ArchiveError: the code cannot be brought to life, or its process died.
    """
    found: dict[int, Rerun] = {}
    for version, group in itertools.groupby(
        sorted(trials, key=lambda t: t.number), key=lambda t: archived.version_of(t.number)
    ):
        capture = archived.capture(version)
        request = {
            "document": capture.document,
            "blobs": {d: base64.b64encode(b).decode() for d, b in capture.blobs.items()},
            "trials": [{"number": t.number, "params": t.params} for t in group],
            "repeats": repeats,
            "scope": encode_scope({**archived.scope(version), **(scope or {})}),
        }
        for number, rerun in _in_a_fresh_process(request).items():
            found[int(number)] = Rerun(tuple(map(tuple, rerun["values"])), rerun["error"])
    return [found[trial.number] for trial in trials]


def _in_a_fresh_process(request: dict[str, Any]) -> dict[str, Any]:
    process = subprocess.run(  # noqa: S603 - our own interpreter, and whoever calls trusts the code
        [sys.executable, "-c", _START],
        input=json.dumps(request).encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(process.stdout)
    except ValueError:
        raise ArchiveError(
            f"The process that ran the archived code ended with code {process.returncode} and "
            "without an answer. What it said is on standard error."
        ) from None
    if "error" in answer:
        raise ArchiveError(answer["error"])
    trials: dict[str, Any] = answer["trials"]
    return trials


def main() -> None:
    """The fresh process: a request on standard input, an answer on standard output."""
    answer_to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # archived code may print
    request = json.load(sys.stdin)
    try:
        answer = _answer(request)
    except ArchiveError as error:
        answer = {"error": str(error)}
    answer_to.write(json.dumps(answer).encode())
    answer_to.close()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    blobs = {digest: base64.b64decode(blob) for digest, blob in request["blobs"].items()}
    problem = restore_problem(Capture(request["document"], blobs))
    scope = restore_value(request["scope"])
    run = TrialRunner(problem, scope=scope)
    trials = {}
    for wanted in request["trials"]:
        values, error = [], ""
        for _ in range(request["repeats"]):
            trial = optuna.trial.FixedTrial(wanted["params"], number=wanted["number"])
            try:
                with run.scope.around():
                    params = (
                        {}
                        if problem.suggest is None
                        else problem.call("suggest", trial, scope=scope)
                    )
            except Exception as failure:  # noqa: BLE001 - it is the answer
                error = error or f"suggest: {type(failure).__name__}: {failure}"
                continue
            outcome = run(Assignment(wanted["number"], params, trial))
            if outcome.values is None:
                error = error or f"{outcome.state}: {outcome.message}"
            else:
                values.append(outcome.values)
        trials[wanted["number"]] = {"values": values, "error": error}
    return {"trials": trials}
