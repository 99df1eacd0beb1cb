"""Reasons why a trial did not give its archived value again, the likeliest first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from prefect.logging import get_logger

from prefect_optuna.tasks.archive.record.attributes import SCOPE_KEY
from prefect_optuna.tasks.archive.record.environment import FOLDER, RECORDED_VARIABLES
from prefect_optuna.tasks.reevaluation.rerun import RerunAnswer, RerunRequest
from prefect_optuna.tasks.reevaluation.verdicts import Rerun
from prefect_optuna.tasks.scope.checking import check_names, check_types
from prefect_optuna.tasks.scope.values import flatten
from prefect_optuna.tasks.seeding import SHARED_KEY

_MACHINE = {
    "python": "Python",
    "implementation": "Python's implementation",
    "machine": "the processor's architecture",
    "platform": "the platform",
    "cpu": "the processor",
}
_GENERATORS = (b'"numpy.random._pickle:', b'"random:Random"')
_HASHES = re.compile(r"\b(?:set|frozenset|hash)\(|\{[^{}:]+,[^{}:]*\}|\{[^{}:]+ for ")
_MAX_LISTED = 5


def likely_cause(
    trial: FrozenTrial,
    rerun: Rerun,
    request: RerunRequest,
    answer: RerunAnswer,
    scope: Mapping[str, Any] | None = None,
) -> str:
    """Say what may have made a trial drift.

    The archived code is what runs, so it is the same; what can differ is chance, the scope, the
    packages, the machine, and the files that the code reads.
    """
    causes: list[str] = []
    chance = len(set(rerun.values)) > 1 or any(c != rerun.constraints[0] for c in rerun.constraints)
    if chance and rerun.unseeded and {*rerun.seeds} == {None}:
        # NumPy asks for entropy as `secrets` does, and with a seed would not have.
        causes.append(
            f"its repetitions differ from one another: random numbers of {_few(rerun.unseeded)} "
            "or NumPy, and the trial had no seed"
        )
    elif chance and rerun.unseeded:
        causes.append(
            "its repetitions differ from one another: random numbers of "
            f"{_few(rerun.unseeded)}, which no seed reaches"
        )
    elif chance and set(rerun.seeds) - {None}:
        causes.append(
            "its repetitions differ from one another, though they have one seed: threads, the "
            "time, or a generator of its own that no seed reaches"
        )
    elif chance:
        causes.append("its repetitions differ from one another: random numbers without a seed")
    if holds_generator(request):
        causes.append(
            "it may draw from a generator that the code holds, which goes on from trial to trial; "
            "one that is made inside of the function gives the same numbers again"
        )
    if shared := trial.user_attrs.get(SHARED_KEY):
        causes.append(
            f"it ran beside others in threads that drew from the same generator "
            f"({_few(map(str, shared))})"
        )
    if scope:
        causes.append("the scope was changed: " + _few(f"{k}={v!r}" for k, v in scope.items()))
    if trial.state != TrialState.COMPLETE and rerun.values and not rerun.error:
        word = "failed" if trial.state == TrialState.FAIL else "was pruned"
        if trial.values is None:
            causes.append(f"it {word} then, and gives a value now")
    causes += _data(trial, rerun, answer)
    if unknown := set(rerun.variables) - {*RECORDED_VARIABLES}:
        noun, told = ("variable", "it is") if len(unknown) == 1 else ("variables", "they are")
        causes.append(
            f"it reads the environment {noun} {_few(sorted(unknown))}, of which no value was "
            f"recorded; {told} passed on where environment_variables says so"
        )
    causes += _surroundings(request, answer)
    if not causes and depends_on_hashes(request):
        causes.append(
            "it may depend on the order of a set of text, which is another one in each process "
            "that is started without PYTHONHASHSEED"
        )
    if not causes and len(rerun.values) == 1:
        causes.append(
            "nothing that the archive knows of differs; repeats=3 would tell whether it is chance"
        )
    return "; ".join(causes) or "nothing that the archive knows of differs"


def holds_generator(request: RerunRequest) -> bool:
    """Tell whether code holds a generator of random numbers, which goes on from trial to trial."""
    return any(name in request.capture.content for name in _GENERATORS)


def depends_on_hashes(request: RerunRequest) -> bool:
    """Tell whether code makes sets or hashes, while hashes of text were left to chance."""
    if request.environment.variables.get("PYTHONHASHSEED", "random") != "random":
        return False
    sources = (str(symbol.get("source", "")) for symbol in request.capture.document["symbols"])
    return any(_HASHES.search(source) for source in sources)


def scope_that_is_read(
    scope: Mapping[str, Any] | None, trials: Iterable[FrozenTrial], archived: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what replaces parts of an archived scope, as far as the trials read it.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.reevaluation.drift import scope_that_is_read
        >>> trial = optuna.trial.create_trial(value=1.0, user_attrs={"scope": {"simulate.dt": 0.1}})
        >>> scope_that_is_read({"simulate.dt": 0.01, "seed": 3}, [trial], {})
        {'simulate.dt': 0.01}
    """
    if not scope:
        return {}
    read: dict[str, Any] = {}
    for trial in trials:
        read |= trial.user_attrs.get(SCOPE_KEY, {})
    if unknown := check_names(scope, {*read, *flatten(archived)}):
        get_logger(__name__).warning(
            "None of these trials is known to read %s of the scope.", ", ".join(map(repr, unknown))
        )
    check_types(scope, read)
    return {key: value for key, value in flatten(scope).items() if key not in unknown}


def _surroundings(request: RerunRequest, answer: RerunAnswer) -> list[str]:
    causes: list[str] = []
    changes = request.environment.surroundings.diff(answer.environment.surroundings)
    needed = sorted(set(request.capture.document["distributions"].values()))
    versions = {n: change for n in needed if (change := changes.get(f"distributions.{n}"))}
    if versions:
        causes.append("packages: " + _few(f"{n} {_was(*c)}" for n, c in versions.items()))
    sources = {n: change for n in needed if (change := changes.get(f"sources.{n}"))}
    if sources:
        causes.append("code: " + _few(f"{n} from {_was(*c)}" for n, c in sources.items()))
    elif local := [n for n in needed if answer.environment.sources.get(n) == FOLDER]:
        causes.append(
            f"code: {_few(local)} {'is' if len(local) == 1 else 'are'} installed from a folder, "
            "so the same version may be other code"
        )
    causes += [f"{_MACHINE[name]} {_was(*changes[name])}" for name in _MACHINE if name in changes]
    causes += [
        f"the {'threads' if name.startswith('threads.') else 'kernel'} of "
        f"{name.partition('.')[2]} {_was(*change)}"
        for name, change in changes.items()
        if name.startswith(("threads.", "kernels."))
    ]
    causes += [
        f"{name.partition('.')[2]} {_was(*change, none='not set')}"
        for name, change in changes.items()
        if name.startswith("variables.")
    ]
    others = sum(name.startswith("distributions.") for name in changes) - len(versions)
    if others and not versions:
        noun = "package" if others == 1 else "packages"
        causes.append(f"{others} {noun} that the code does not import itself")
    return causes


def _data(trial: FrozenTrial, rerun: Rerun, answer: RerunAnswer) -> list[str]:
    """Files that are not what they were; of those without a note, what was changed later."""
    if others := [str(file) for file in answer.inputs if not file.same]:
        return [f"data: {_few(others)}"]
    known = {file.path for file in answer.inputs}
    ended = trial.datetime_complete
    newer = [
        f"{path} (changed {changed:%Y-%m-%d %H:%M})"
        for path in rerun.files
        if path not in known
        if ended is not None and (changed := _changed(path)) is not None and changed > ended
    ]
    return [f"data: {_few(newer)}"] if newer else []


def _changed(path: str) -> datetime | None:
    try:
        # Optuna's times are local and have no zone.
        return datetime.fromtimestamp(Path(path).stat().st_mtime)  # noqa: DTZ006
    except OSError:
        return None


def _was(then: Any, now: Any, none: str = "not installed") -> str:
    return f"{now or none}, was {then or none}"


def _few(items: Iterable[str]) -> str:
    every = list(items)
    more = f" and {len(every) - _MAX_LISTED} more" if len(every) > _MAX_LISTED else ""
    return ", ".join(every[:_MAX_LISTED]) + more
