"""Why a trial does not give its archived value again: reasons, and experiments with suspects."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from packaging.utils import canonicalize_name
from prefect.logging import get_logger

from prefect_optuna.errors import ArchiveError, EnvironmentUnavailableError
from prefect_optuna.tasks.archive.code.capture import edited_files
from prefect_optuna.tasks.archive.record.environment import FOLDER, RECORDED_VARIABLES, Environment
from prefect_optuna.tasks.archive.record.manifest import SCOPE_KEY
from prefect_optuna.tasks.reevaluation.rerun import RerunAnswer, RerunRequest
from prefect_optuna.tasks.reevaluation.verdicts import Rerun
from prefect_optuna.tasks.scope.frames import flatten
from prefect_optuna.tasks.scope.scope import check_names, check_types
from prefect_optuna.tasks.seeding import SHARED_KEY

# Reasons why a trial did not give its archived value again, the likeliest first.


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
        >>> from prefect_optuna.tasks.reevaluation.why import scope_that_is_read
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


_OURS = "prefect-optuna"
_PYTHON = "Python"
_OF_PROCESS = ("variables", "threads", "kernels")


@dataclass(frozen=True)
class Drift:
    """A trial that did not give its archived value again, and how it can be run once more.

    Attributes:
        trial: the archived trial.
        request: how it was run again.
        answer: where that was.
        run: runs a request, on whichever machine.
        is_reproduced: whether what a trial gave is what was archived.
        scope: the archived scope.
        changed: what replaced parts of that, as far as trials read it.
        inputs: the archived content of the files that trials have read, by their relative paths;
            an `ArchiveError` where it was not kept. `None` where code may not have them.
        seed: that the trial had.
        variables: the names of the environment variables that code may have, if it asks.
    """

    trial: FrozenTrial
    request: RerunRequest
    answer: RerunAnswer
    run: Callable[[RerunRequest], RerunAnswer]
    is_reproduced: Callable[[Rerun], bool]
    scope: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)
    inputs: Callable[[], Mapping[str, bytes]] | None = None
    seed: int | None = None
    variables: Collection[str] = ()


@dataclass(frozen=True)
class Cause:
    """The cause of a drift.

    Attributes:
        text: the cause, for people.
        experiments: what was tried, and what came of it, for people.
        remedy: puts it back, for other trials that may have the same cause; `None` where nothing
            that could be put back is the cause.
    """

    text: str
    experiments: tuple[str, ...] = ()
    remedy: Callable[[RerunRequest], RerunRequest] | None = None


def find_cause(drift: Drift) -> Cause:
    """Find out by experiment why a trial did not give its archived value again.

    First with the scope and the seed, if those were changed, and with the packages that were
    recorded, if they are others than here, or were edited. Where those help, what differs is
    halved until one package is left, in at most log2(n) + 2 runs. Otherwise threads, kernels, the
    hash seed, environment variables, data and the clock are put back one by one, and then all at
    once. What is left is chance, or what no archive can know.
    """
    return _Investigation(drift).cause()


def find_causes(drifts: Sequence[Drift]) -> dict[int, Cause]:
    """Find out for several trials of one request; what is the cause for one is tried on the others.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.why import find_causes
        >>> find_causes([])
        {}
    """
    causes: dict[int, Cause] = {}
    pending = list(drifts)
    while pending:
        first, *pending = pending
        cause = find_cause(first)
        causes[first.trial.number] = cause
        if cause.remedy is None or not pending:
            continue
        others = {drift.trial.number: drift for drift in pending}
        chosen = [trial for trial in first.request.trials if trial.number in others]
        words = f"what has helped trial {first.trial.number}: reproduced"
        for again in first.run(cause.remedy(replace(first.request, trials=chosen))).reruns:
            if others[again.number].is_reproduced(again):
                causes[again.number] = Cause(cause.text, (f"with {words}",), cause.remedy)
        pending = [drift for drift in pending if drift.trial.number not in causes]
    return causes


class _Investigation:
    """The experiments on one trial.

    A suspect is a name that `_put_back` knows, such as `"scope"` or `"threads.openblas"`.
    """

    def __init__(self, drift: Drift) -> None:
        self.drift = drift
        [trial] = [trial for trial in drift.request.trials if trial.number == drift.trial.number]
        self.request = replace(drift.request, trials=[replace(trial, seeds=trial.seeds[:1])])
        self.then: Environment = drift.request.environment
        self.here: Environment = _by_names_of(self.then, drift.answer.environment)
        [self.rerun] = [now for now in drift.answer.reruns if now.number == drift.trial.number]
        self.asked = sorted({*self.rerun.variables} - {*RECORDED_VARIABLES})
        imported = {*drift.request.capture.document["distributions"].values()} - {_OURS, "optuna"}
        self.imported = sorted(imported) if self.request.packages == "here" else []
        self.edited: dict[str, list[str]] = {}
        self.said: list[str] = []
        self.ruled_out: set[str] = set()

    def cause(self) -> Cause:
        if self.drift.changed and self._helps(["scope"]):
            return self._found(["scope"])
        if self.drift.seed not in (None, *self.request.trials[0].seeds) and self._helps(["seed"]):
            return self._found(["seed"])
        packages, self.edited = self._differences(), _edited(self.imported)
        if (packages or self.edited) and self._helps(["packages"]):
            return self._halved(packages)
        suspects = self._suspects()
        for suspect in suspects:
            if self._helps([suspect]):
                return self._found([suspect])
        again = self._run(["clock"], times=2)
        if again is not None and self.drift.is_reproduced(again):
            return self._found(["clock"], _clock(again))
        if again is not None and len({*again.values}) > 1:
            return self._chance(again)
        if depends_on_hashes(self.request) and self._differs_by_hashes():
            return Cause(
                "the hash seed: the order of a set of text is another one in each process that is "
                "started without PYTHONHASHSEED",
                tuple(self.said),
            )
        if again is not None and again.clock and again.values[:1] != self.rerun.values[:1]:
            return self._found(["clock"], _clock(again))
        if self._may_be_another_build() and self._helps(["packages"]):
            self.edited = _edited(self.then.distributions)
            return self._found(["packages"], self._code())
        tried = ["scope", "seed", "packages", *suspects]
        together = [suspected for suspected in tried if suspected in self.ruled_out] + ["clock"]
        if len(together) > 2 and self._helps(together):
            for suspect in list(together):
                rest = [suspected for suspected in together if suspected != suspect]
                if rest and self._helps(rest):
                    together = rest
            return self._found(together)
        return Cause(self._likely(again), tuple(self.said))

    def _may_be_another_build(self) -> bool:
        """Tell whether to build an environment anew in the versions that are here already."""
        if not self.imported or self._differences() or self.edited or self.asked:
            return False
        return "data" in self.ruled_out or all(file.same for file in self.drift.answer.inputs)

    def _run(self, suspects: Sequence[str], times: int = 1) -> Rerun | None:
        """Run the trial once more; `None` where that cannot be done."""
        what = " and ".join(map(self._name, suspects))
        try:
            request = self._put_back(suspects)(self.request)
            [trial] = request.trials
            request = replace(request, trials=[replace(trial, seeds=[*trial.seeds] * times)])
            [again] = self.drift.run(request).reruns
        except (EnvironmentUnavailableError, ArchiveError) as error:
            self.said.append(f"with {what}: not possible. {' '.join(str(error).split())}")
            return None
        self._say(what, again)
        return again

    def _say(self, what: str, again: Rerun) -> None:
        helps = self.drift.is_reproduced(again)
        self.said.append(f"with {what}: {'reproduced' if helps else 'not reproduced'}")

    def _helps(self, suspects: Sequence[str]) -> bool:
        again = self._run(suspects)
        if again is None:
            return False
        if len(suspects) == 1:
            self.ruled_out |= {*suspects}  # unless it helps, and then that is the answer
        return self.drift.is_reproduced(again)

    def _found(self, suspects: Sequence[str], text: str = "") -> Cause:
        words = text or " and ".join(map(self._cause, suspects))
        return Cause(words, tuple(self.said), self._put_back(suspects))

    def _suspects(self) -> list[str]:
        """List what may be put back by itself, beside scope, seed, packages and the clock."""
        suspects: list[str] = []
        if self.request.threads == "here":
            for kind in ("variables", "threads", "kernels"):
                was, now = getattr(self.then, kind), getattr(self.here, kind)
                names = RECORDED_VARIABLES if kind == "variables" else sorted(was)
                suspects += [f"{kind}.{name}" for name in names if was.get(name) != now.get(name)]
        suspects += [
            f"passed.{name}"
            for name in self.asked
            if name in self.request.environment_variables or name in self.drift.variables
        ]
        if self._kept() and any(not file.same for file in self.drift.answer.inputs):
            suspects.append("data")
        return suspects

    def _kept(self) -> Mapping[str, bytes]:
        """The archived files that trials have read, where all of them were kept."""
        if self.drift.inputs is None or self.request.archived_inputs is not None:
            return {}
        try:
            return self.drift.inputs()
        except ArchiveError:
            return {}

    def _put_back(self, suspects: Sequence[str]) -> Callable[[RerunRequest], RerunRequest]:
        chosen = {*suspects}
        kept = self._kept() if "data" in chosen else None
        of_process = {suspect for suspect in chosen if suspect.partition(".")[0] in _OF_PROCESS}
        passed = {suspect.partition(".")[2] for suspect in chosen if suspect.startswith("passed.")}

        def put_back(request: RerunRequest) -> RerunRequest:
            if "scope" in chosen:
                request = replace(request, scope=self.drift.scope)
            if "packages" in chosen:
                request = replace(request, packages="recorded")
            if "seed" in chosen:
                seed = self.drift.seed
                trials = [replace(t, seeds=[seed] * len(t.seeds)) for t in request.trials]
                request = replace(request, trials=trials)
            if passed:
                names = sorted({*request.environment_variables} ^ passed)
                request = replace(request, environment_variables=names)
            if "clock" in chosen:
                request = replace(request, clock="recorded")
            if kept is not None:
                request = replace(request, archived_inputs=kept)
            if of_process:
                mixed = {
                    kind: _chosen(kind, of_process, getattr(self.then, kind), rest)
                    for kind, rest in (
                        ("variables", self.here.variables),
                        ("threads", {}),
                        ("kernels", {}),
                    )
                }
                environment = replace(request.environment, **mixed)
                request = replace(request, environment=environment, threads="recorded")
            return request

        return put_back

    def _name(self, suspect: str) -> str:
        kind, _, name = suspect.partition(".")
        return {
            "scope": "the archived scope",
            "seed": f"the seed that it had, {self.drift.seed}",
            "packages": "the packages that were recorded",
            "clock": "the clock put back",
            "data": "the archived data",
            "threads": f"the recorded threads of {name}",
            "kernels": f"the recorded kernel of {name}",
            "variables": f"{name} as recorded",
            "passed": f"{name} {'not ' if name in self._passed() else ''}passed on",
        }[kind]

    def _cause(self, suspect: str) -> str:
        kind, _, name = suspect.partition(".")
        if kind == "scope":
            changed = ", ".join(f"{key}={value!r}" for key, value in self.drift.changed.items())
            return f"the scope was changed: {changed}"
        if kind == "seed":
            return f"the seed: another one than {self.drift.seed}"
        if kind == "passed":
            if name in self._passed():
                return f"the environment variable {name}, which was not set"
            return (
                f"the environment variable {name}, which environment_variables=[{name!r}] passes on"
            )
        if kind == "packages" and not self._differences():
            return self._code()
        if kind == "packages":
            return "packages: " + ", ".join(map(self._change, self._differences()))
        if kind == "clock":
            return "time: it reads the clock"
        if kind == "data":
            others = [str(file) for file in self.drift.answer.inputs if not file.same]
            return f"data: {', '.join(others)}"
        was, now = (getattr(ran, kind).get(name, "not set") for ran in (self.then, self.here))
        what = {"threads": "the threads of ", "kernels": "the kernel of ", "variables": ""}[kind]
        return f"{what}{name} {now}, was {was}"

    def _passed(self) -> Sequence[str]:
        return self.request.environment_variables

    def _code(self) -> str:
        """Describe the cause: packages whose files are not those that were installed."""
        edited = [
            f"{name} {self.here.distributions.get(name, '')} was edited here ({', '.join(files)})"
            for name, files in self.edited.items()
        ]
        return f"code: {', '.join(edited) or 'a package is here in another build'}"

    def _differences(self) -> list[str]:
        """The packages of which another version is here than was recorded, and Python if it is."""
        if self.request.packages == "recorded":
            return []
        then, here = self.then, self.here
        changed = [
            name
            for name, version in then.distributions.items()
            if canonicalize_name(name) != _OURS and then.sources.get(name) != FOLDER
            if (version, then.sources.get(name))
            != (here.distributions.get(name), here.sources.get(name))
        ]
        # What is not here at all comes later: here, the code has done without it. Python is last,
        # for the packages of then may not be had for that of here.
        changed.sort(key=lambda name: name not in here.distributions)
        python = (then.python, then.implementation) != (here.python, here.implementation)
        return [*changed, *([_PYTHON] if python else [])]

    def _halved(self, differ: list[str]) -> Cause:
        """The package that it is, or the packages, of those without which it is reproduced."""
        if self.edited:
            words = "the versions of here, none of them edited"
            again = self._run_with(differ, words) if differ else None
            if not differ or (again is not None and self.drift.is_reproduced(again)):
                return self._found(["packages"], self._code())
        suspected = self._one_of(differ)
        while rest := [name for name in differ if name not in suspected]:
            words = f"the {', '.join(suspected)} that was recorded, and all else as here"
            again = self._run_with(rest, words)
            if again is None or self.drift.is_reproduced(again):
                break
            suspected += self._one_of(rest)
        words = ", ".join(map(self._change, suspected))
        text = words if suspected == [_PYTHON] else f"packages: {words}"
        return self._found(["packages"], text)

    def _one_of(self, differ: Sequence[str]) -> list[str]:
        """One package that it is, by halves; several where that cannot be told."""
        low, high = 0, len(differ)  # reproduced with the first `low` as here, not with `high`
        while high - low > 1:
            middle = (low + high) // 2
            words = f"{middle} of {len(differ)} packages as they are here"
            again = self._run_with(differ[:middle], words)
            if again is None:
                break
            low, high = (middle, high) if self.drift.is_reproduced(again) else (low, middle)
        return [*differ[low:high]]

    def _run_with(self, names: Sequence[str], words: str) -> Rerun | None:
        """Run it with what was recorded, but for some packages, which are as they are here."""
        versions, sources = dict(self.then.distributions), dict(self.then.sources)
        for name in names:
            for kept, now in (
                (versions, self.here.distributions),
                (sources, self.here.sources),
            ):
                kept.pop(name, None)
                if name in now:
                    kept[name] = now[name]
        python = self.here if _PYTHON in names else self.then
        environment = replace(
            self.then,
            distributions=versions,
            sources=sources,
            python=python.python,
            implementation=python.implementation,
        )
        request = replace(self.request, environment=environment, packages="recorded")
        try:
            [again] = self.drift.run(request).reruns
        except (EnvironmentUnavailableError, ArchiveError) as error:
            self.said.append(f"with {words}: not possible. {' '.join(str(error).split())}")
            return None
        self._say(words, again)
        return again

    def _change(self, name: str) -> str:
        then, here = self.then, self.here
        if name == _PYTHON:
            return f"Python {here.python}, was {then.python}"
        now, was = here.distributions.get(name), then.distributions.get(name)
        if now == was:
            now, was = (environment.sources.get(name, "an index") for environment in (here, then))
            return f"{name} from {now}, was from {was}"
        return f"{name} {now or 'not installed'}, was {was}"

    def _chance(self, again: Rerun) -> Cause:
        """Return what made two runs of a trial differ that had everything in common."""
        self.said.append("run twice in one process: its values differ from one another")
        is_seeded = None not in again.seeds and not again.unseeded
        is_clock = again.clock and is_seeded and not holds_generator(self.request)
        return Cause(_clock(again) if is_clock else self._likely(again), tuple(self.said))

    def _differs_by_hashes(self) -> bool:
        values: set[tuple[tuple[float, ...], ...]] = set()
        for seed in ("1", "2", "3", "4"):
            variables = {**self.here.variables, "PYTHONHASHSEED": seed}
            environment = replace(self.request.environment, variables=variables)
            request = replace(self.request, environment=environment, threads="recorded")
            request = replace(request, clock="recorded")  # or that would make the difference
            values |= {again.values for again in self.drift.run(request).reruns}
            if len(values) > 1:
                break
        self.said.append(
            f"with other hash seeds: {'other' if len(values) > 1 else 'the same'} values"
        )
        return len(values) > 1

    def _likely(self, again: Rerun | None) -> str:
        """Return the likely cause, without what experiments have ruled out."""
        drift, answer = self.drift, self.drift.answer
        rerun = self.rerun if again is None else again
        if "packages" in self.ruled_out:
            same = {"distributions": self.then.distributions, "sources": self.then.sources}
            environment = replace(self.here, python=self.then.python, **same)
            answer = replace(answer, environment=environment)
        if "data" in self.ruled_out:
            answer = replace(answer, inputs=())
        changed = {} if "scope" in self.ruled_out else drift.changed
        likely = likely_cause(drift.trial, rerun, self.request, answer, changed)
        if self.edited and "packages" not in self.ruled_out:  # they could not be had
            likely = f"{self._code()}; {likely}"
        return likely


def _edited(names: Iterable[str]) -> dict[str, list[str]]:
    return {name: files for name in names if (files := edited_files(name))}


def _by_names_of(then: Environment, here: Environment) -> Environment:
    """Spell the distributions of an environment as another one does: Jinja2, not jinja2."""
    spelled = {canonicalize_name(name): name for name in then.distributions}

    def renamed(found: Mapping[str, str]) -> dict[str, str]:
        return {spelled.get(canonicalize_name(name), name): text for name, text in found.items()}

    return replace(here, distributions=renamed(here.distributions), sources=renamed(here.sources))


def _clock(again: Rerun) -> str:
    """Describe the cause for a trial to which the time makes a difference."""
    return "time: it reads the clock" + (f" ({', '.join(again.clock)})" if again.clock else "")


def _chosen(
    kind: str, chosen: Iterable[str], then: Mapping[str, Any], rest: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what was recorded of the chosen names, and the rest of the others."""
    mixed = dict(rest)
    for suspect in chosen:
        of, _, name = suspect.partition(".")
        if of == kind:
            mixed.pop(name, None)
            if name in then:
                mixed[name] = then[name]
    return mixed
