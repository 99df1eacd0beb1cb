"""Archived trials again, in a process that starts empty: no script, no modules of the user's.

The archive travels to that process as data, through a pipe. The process starts with an environment
of what running Python needs and an empty home folder, and Prefect has no profile there: it is told
neither the study's storage, nor the key that signs archives, nor any credentials. It is the same
user's, though, and may read what that user may. What the archived code prints goes to standard
error.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import site
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState
from prefect.context import get_settings_context

from prefect_optuna.blocks._secrets import SecretVariables, is_secret_name, public_text
from prefect_optuna.blocks.settings import settings_read_once
from prefect_optuna.errors import ArchiveError, InvalidSettingError
from prefect_optuna.tasks.archive.code.capture import Capture, encode_scope
from prefect_optuna.tasks.archive.code.restore import restore_problem, restore_value
from prefect_optuna.tasks.archive.record.environment import RECORDED_VARIABLES, Environment
from prefect_optuna.tasks.environments import (
    LOCALE,
    EnvironmentChoice,
    PreparedEnvironment,
    prepare_environment,
    running_package,
)
from prefect_optuna.tasks.inputs import InputFile, InputNow, files_read, inputs_now
from prefect_optuna.tasks.reevaluation.replay import (
    Asked,
    Past,
    Replay,
    own_attributes,
    what_is_asked_for,
)
from prefect_optuna.tasks.reevaluation.verdicts import Rerun, Uploads, uploads_of
from prefect_optuna.tasks.seeding import (
    SEED_KEY,
    recorded_seed,
    seeding,
    suggest_seed,
    trial_seed,
)
from prefect_optuna.tasks.trial import TOLD_TO_PRUNE, Assignment, Outcome, TrialRunner

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive import ArchivedStudy

# Not `-m`: that would put the current directory, and with it the user's modules, on the path.
_START = (
    "import sys; del sys.path[0]; from prefect_optuna.tasks.reevaluation.rerun import main; main()"
)

# What Python, its packages and numerical libraries need to start as they did; nothing secret.
_NEEDED = {
    *RECORDED_VARIABLES, "PATH", "TMPDIR", "TEMP", "TMP", "TZ", "LANG", "LANGUAGE", "USER",
    "LOGNAME", *LOCALE,
    "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONPATH", "PYTHONHOME",
    "PYTHONNOUSERSITE", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONWARNINGS", "PYTHONOPTIMIZE",
    "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONSAFEPATH", "PYTHONFAULTHANDLER",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER", "CUDA_HOME", "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "OMP_PROC_BIND", "OMP_PLACES", "OMP_DYNAMIC",
    "KMP_AFFINITY", "NUMEXPR_NUM_THREADS", "NUMEXPR_MAX_THREADS", "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS", "OPENBLAS_CORETYPE", "MKL_ENABLE_INSTRUCTIONS", "JAX_PLATFORMS",
    "JAX_ENABLE_X64", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT",
    "NUMBER_OF_PROCESSORS", "PROCESSOR_ARCHITECTURE",
}  # fmt: skip

# Where credentials lie, and how this package and Prefect are set up.
_NEVER_TRIED = (
    "HOME", "USERPROFILE", "APPDATA", "XDG_", "PREFECT_", "AWS_", "AZURE_", "BOTO_", "CLOUDSDK_",
    "DOCKER_", "GOOGLE_", "KUBECONFIG", "NETRC", "PGPASSFILE", "SSH_",
)  # fmt: skip

Threads = Literal["recorded", "here"]
Inputs = Literal["here", "archived"]

_THREADS = {
    "openblas": "OPENBLAS_NUM_THREADS",
    "mkl": "MKL_NUM_THREADS",
    "blis": "BLIS_NUM_THREADS",
    "openmp": "OMP_NUM_THREADS",
}
"""The variable that says how many threads a library has, by what threadpoolctl calls it."""

_KERNELS = {
    "Prescott": 0,
    "Core2": 1,
    "Nehalem": 2,
    "Sandybridge": 3,
    "Haswell": 4,
    "Zen": 4,
    "SkylakeX": 5,
    "Cooperlake": 6,
    "SapphireRapids": 7,
}
"""Kernels of OpenBLAS: a processor for which it takes one of them runs those before it, too."""


@dataclass(frozen=True)
class ArchivedTrial:
    """An archived trial, as far as it takes to run it again.

    It was pruned after `pruned_at` reports; where it did not end as soon as it was told to,
    `told_to_prune` says after how many that was.
    """

    number: int
    params: Mapping[str, Any]
    pruned_at: int | None = None
    seeds: Sequence[int | None] = (None,)
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    pruned: bool = False
    started: str = ""
    uploads: Sequence[tuple[str, str]] = ()
    told_to_prune: Sequence[int] = ()

    @classmethod
    def of(cls, trial: FrozenTrial, seeds: Sequence[int | None] = (None,)) -> ArchivedTrial:
        """Take it from a finished trial."""
        pruned = trial.state == TrialState.PRUNED
        told = trial.user_attrs.get(TOLD_TO_PRUNE)
        return cls(
            trial.number,
            trial.params,
            (len(trial.intermediate_values) or None) if pruned else None,
            seeds,
            own_attributes(trial.user_attrs),
            pruned,
            trial.datetime_start.isoformat() if trial.datetime_start else "",
            uploads_of(trial.system_attrs),
            told if isinstance(told, list) else (),
        )


@dataclass(frozen=True)
class RerunRequest:
    """Trials of one version of an archive, to be run again: data, and picklable."""

    capture: Capture
    environment: Environment
    trials: Sequence[ArchivedTrial]
    scope: Mapping[str, Any] = field(default_factory=dict)
    environment_variables: Sequence[str] = ()
    threads: Threads = "recorded"
    past: Past = field(default_factory=Past)
    inputs: Sequence[InputFile] = ()
    archived_inputs: Mapping[str, bytes] | None = None
    packages: EnvironmentChoice = "here"
    clock: Literal["here", "recorded"] = "here"
    upgraded: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        archived: ArchivedStudy,
        trials: Sequence[FrozenTrial],
        *,
        repeats: int = 1,
        reseed: bool = False,
        scope: Mapping[str, Any] | None = None,
        environment_variables: Sequence[str] = (),
        threads: Threads = "recorded",
        inputs: Inputs = "here",
        packages: EnvironmentChoice = "here",
        upgraded: Mapping[str, str] | None = None,
        parts: int = 1,
    ) -> list[RerunRequest]:
        """Requests for trials of a study, by the version that they ran with."""
        versions: dict[int, list[ArchivedTrial]] = {}
        for trial in trials:
            version = archived.version_of(trial.number)
            seed = recorded_seed(trial, archived.environment_of(version).trials_seed)
            seeds = other_seeds(seed, trial.number, repeats) if reseed else [seed] * repeats
            asked = ArchivedTrial.of(trial, seeds)
            if seed is not None and asked.user_attrs.get(SEED_KEY) == seed:
                # Each run says its own, unless the attribute is the user's.
                attributes = {k: v for k, v in asked.user_attrs.items() if k != SEED_KEY}
                asked = replace(asked, user_attrs=attributes)
            versions.setdefault(version, []).append(asked)
        pasts = {v: Past.of(archived.study, archived.capture(v)) for v in versions}
        return [
            cls(
                archived.capture(version),
                archived.environment_of(version),
                group[part::parts],
                {**archived.scope(version), **(scope or {})},
                tuple(environment_variables),
                threads,
                pasts[version],
                archived.inputs(version),
                archived.archived_inputs(version) if inputs == "archived" else None,
                packages,
                upgraded=dict(upgraded or {}),
            )
            for version, group in sorted(versions.items())
            for part in range(min(parts, len(group)))
        ]


@dataclass(frozen=True)
class RerunAnswer:
    """The answer to a request: what trials gave, and where."""

    reruns: Sequence[Rerun]
    environment: Environment
    inputs: Sequence[InputNow] = ()
    notes: Sequence[str] = ()


def rerun(request: RerunRequest) -> RerunAnswer:
    """Run archived trials again, in a fresh process. This executes archived code."""
    prepared = prepared_for(request)
    capture = request.capture
    message = {
        "document": capture.document,
        "blobs": {d: base64.b64encode(b).decode() for d, b in capture.blobs.items()},
        "environment": request.environment.to_json(),
        "trials": [vars(trial) for trial in request.trials],
        "scope": encode_scope(request.scope),
        "past": request.past.to_json(),
        "inputs": [asdict(file) for file in request.inputs],
        "clock": request.clock,
    }
    with (
        contextlib.ExitStack() as stack,
        tempfile.TemporaryDirectory(prefix="prefect-optuna-", ignore_cleanup_errors=True) as home,
    ):
        variables = _environment(home, request)
        if prepared is not None:
            ours = stack.enter_context(running_package())
            named = request.environment_variables
            variables = prepared.variables(variables, ours, named=named)
        message["folder"] = os.getcwd()  # noqa: PTH109
        if request.archived_inputs is not None:
            message["folder"] = stack.enter_context(
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            )
            for name, content in request.archived_inputs.items():
                place = Path(message["folder"], name)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
        process = subprocess.run(  # noqa: S603 - our interpreter; whoever calls trusts the code
            [str(prepared.python) if prepared else sys.executable, "-c", _START],
            input=json.dumps(message).encode(),
            stdout=subprocess.PIPE,
            env=variables,
            cwd=home,  # where no `.env` and no prefect.toml is
            check=False,
        )
    try:
        answer: dict[str, Any] = json.loads(process.stdout)
    except ValueError:
        notes = "".join(
            f" Of its packages: {note}." for note in (prepared.notes if prepared else ())
        )
        raise ArchiveError(
            f"The process that ran the archived code ended with code {process.returncode} and "
            f"without an answer. What it said is on standard error.{notes}"
        ) from None
    if "error" in answer:
        raise ArchiveError(answer["error"])
    return RerunAnswer(
        [
            Rerun(
                number=given["number"],
                values=tuple(map(tuple, given["values"])),
                # Of these variables that process has only those that were named.
                error=public_text(given["error"]),
                files=tuple(given["files"]),
                constraints=tuple(given["constraints"]),
                seeds=tuple(trial.seeds),
                unseeded=tuple(given["unseeded"]),
                uploads=given["uploads"],
                variables=tuple(given["variables"]),
                clock=tuple(given["clock"]),
            )
            for trial, given in zip(request.trials, answer["reruns"], strict=True)
        ],
        _without_ours(Environment.from_json(answer["environment"]), request),
        [InputNow(**file) for file in answer["inputs"]],
        prepared.notes if prepared else (),
    )


def prepared_for(request: RerunRequest) -> PreparedEnvironment | None:
    """The environment that trials shall have, built if need be; `None` for that of this process."""
    if request.packages == "here":
        return None
    environment = request.environment
    if request.upgraded:
        environment = replace(
            environment,
            distributions={**environment.distributions, **request.upgraded},
            sources={k: v for k, v in environment.sources.items() if k not in request.upgraded},
        )
    return prepare_environment(
        environment,
        needed=set(request.capture.document["distributions"].values()),
        closest=request.packages == "closest",
    )


def check_variables(names: Sequence[str]) -> None:
    """Refuse names of environment variables that archived code does not get."""
    from prefect_optuna.tasks.archive.record.manifest import KEY_VARIABLES

    for name in [names] if isinstance(names, str) else names:
        if isinstance(names, str) or not isinstance(name, str) or not name or "=" in name:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidSettingError(
                "`environment_variables` is a list of the names of variables, such as "
                "['DATA_FOLDER'], without their values."
            )
        if name.upper() in KEY_VARIABLES:
            raise InvalidSettingError(
                f"{name} is for signing archives, and archived code does not get it: it could "
                "sign anything."
            )


def variables_without_secrets() -> list[str]:
    """The names of variables that may be passed on to find out whether they matter.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.rerun import variables_without_secrets
        >>> "HOME" in variables_without_secrets()
        False
    """
    secrets = SecretVariables.here()
    return [
        name
        for name, text in os.environ.items()
        if name not in _NEEDED
        and not name.startswith(_NEVER_TRIED)
        and not is_secret_name(name)
        and secrets.name_in(text) is None
    ]


def other_seeds(seed: int | None, number: int, count: int) -> list[int]:
    """Seeds that a trial did not have, always the same ones.

    Example:
        >>> from prefect_optuna.tasks.reevaluation.rerun import other_seeds
        >>> len(set(other_seeds(7, 0, 5)) - {7})
        5
    """
    base = trial_seed(0, number) if seed is None else seed
    return [trial_seed(base, "again", place) for place in range(count)]


def _environment(home: str, request: RerunRequest) -> dict[str, str]:
    """The variables of the fresh process: what is needed, what is named, and nothing else."""
    more = request.environment_variables
    check_variables(more)
    variables = {name: text for name, text in os.environ.items() if name in _NEEDED}
    if request.threads == "recorded":
        then = request.environment
        for name in RECORDED_VARIABLES:
            variables.pop(name, None)
        variables |= {n: then.variables[n] for n in RECORDED_VARIABLES if n in then.variables}
        variables |= threads_as_recorded(then)
        variables |= kernel_as_recorded(then, Environment.capture())
    variables |= {"HOME": home, "USERPROFILE": home}
    if "PYTHONPATH" in variables:  # the process starts in another folder
        folders = map(os.path.abspath, variables["PYTHONPATH"].split(os.pathsep))
        variables["PYTHONPATH"] = os.pathsep.join(folders)
    if site.ENABLE_USER_SITE:  # packages of the user's lie below the real home
        variables["PYTHONUSERBASE"] = site.getuserbase()
    return variables | {name: os.environ[name] for name in more if name in os.environ}


def threads_as_recorded(then: Environment) -> dict[str, str]:
    """The variables that give libraries the number of threads that they chose by themselves."""
    here = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    counts = {_THREADS[name]: n for name, n in then.threads.items() if name in _THREADS}
    if all(count == here for count in counts.values()):
        return {}  # they choose the same here
    return {name: f"{n:d}" for name, n in counts.items() if name not in then.variables}


def kernel_as_recorded(then: Environment, here: Environment) -> dict[str, str]:
    """The variable that has OpenBLAS take the kernel that it took, if this processor can run it."""
    kernel, own = then.kernels.get("openblas", ""), here.kernels.get("openblas", "")
    if kernel == own or kernel not in _KERNELS or own not in _KERNELS:
        return {}
    return {"OPENBLAS_CORETYPE": kernel} if _KERNELS[kernel] <= _KERNELS[own] else {}


def _without_ours(environment: Environment, request: RerunRequest) -> Environment:
    """Return the environment of trials, without variables that are recorded in another way."""
    if request.threads != "recorded":
        return environment
    ours = threads_as_recorded(request.environment).keys() - {*request.environment_variables}
    variables = {n: text for n, text in environment.variables.items() if n not in ours}
    return replace(environment, variables=variables)


def main() -> None:
    """The fresh process: a request on standard input, an answer on standard output."""
    answer_to = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # archived code may print
    message = json.load(sys.stdin)
    # Prefect and we read our settings here and now, and not where we go, where a `.env` may be.
    get_settings_context()
    with settings_read_once():
        os.chdir(message["folder"])
        try:
            answer = _answer(message)
        except ArchiveError as error:
            answer = {"error": str(error)}
    answer_to.write(json.dumps(answer).encode())
    answer_to.close()


def _answer(message: dict[str, Any]) -> dict[str, Any]:
    blobs = {digest: base64.b64decode(blob) for digest, blob in message["blobs"].items()}
    then = Environment.from_json(message["environment"])
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch,
        what_is_asked_for(clock=message["clock"] == "recorded") as asked,
    ):
        uploads = Uploads(Path(scratch))
        with uploads.in_place():
            with files_read() as read_at_import:
                problem = restore_problem(Capture(message["document"], blobs), then)
            runner = TrialRunner(problem, scope=restore_value(message["scope"]))
            replay = Replay(Past.from_json(message["past"]), problem.directions)
            reruns = [
                _again(ArchivedTrial(**data), runner, replay, uploads, read_at_import, asked)
                for data in message["trials"]
            ]
    inputs = [asdict(file) for file in inputs_now(message["inputs"], message["folder"])]
    here = Environment.capture().to_json()
    return {"reruns": reruns, "environment": here, "inputs": inputs}


def _again(
    trial: ArchivedTrial,
    runner: TrialRunner,
    replay: Replay,
    uploads: Uploads,
    read_at_import: Mapping[str, str],
    asked: Asked,
) -> dict[str, Any]:
    """All repetitions of one trial."""
    values: list[tuple[float, ...]] = []
    constraints: list[dict[str, float]] = []
    errors: list[str] = []
    uploads.archived, uploads.verdicts = trial.uploads, {}
    asked.variables, asked.clock = set(), set()
    started = datetime.fromisoformat(trial.started) if trial.started else None
    with files_read() as read, _unseeded() as unseeded:
        for seed in trial.seeds:
            own = {} if seed is None else {SEED_KEY: seed}
            asked.start_at(started)
            live = replay.trial(
                trial.number,
                trial.params,
                pruned_at=trial.pruned_at,
                told_to_prune=trial.told_to_prune,
                started=started,
                user_attrs={**own, **trial.user_attrs},
            )
            outcome = _run_once(runner, live, seed)
            reported = live.storage.get_trial(trial.number).intermediate_values
            if outcome.values is not None:
                values.append(outcome.values)
            elif outcome.state == "pruned" and _is_same_step(trial, reported):
                values.append((reported[max(reported)],) if reported else ())
            else:
                message = outcome.message or "it raised TrialPruned where it did not then"
                errors.append(f"{outcome.state}: {message}")
                continue
            constraints.append(outcome.constraints)
    return {
        "number": trial.number,
        "values": values,
        "error": next(iter(errors), ""),
        "files": sorted({*read_at_import, *read}),
        "constraints": constraints,
        "unseeded": sorted(unseeded),
        "uploads": uploads.verdicts,
        "variables": sorted(asked.variables),
        "clock": sorted(asked.clock),
    }


def _is_same_step(trial: ArchivedTrial, reported: Mapping[int, float]) -> bool:
    """Tell whether the archived trial was pruned there as well, or likewise before any report."""
    if trial.pruned_at is not None:
        return bool(reported)
    return trial.pruned and not reported


@contextmanager
def _unseeded() -> Generator[set[str]]:
    """Record who asks the system for random bytes: no seed reaches those."""
    asked: set[str] = set()
    of_os: Any = os
    of_random: Any = random
    urandom = os.urandom

    def noted(count: int, /) -> bytes:
        frame, name = sys._getframe(1), "os.urandom"  # pyright: ignore[reportPrivateUsage]
        while frame.f_back is not None and frame.f_globals.get("__name__") in _ASKING:
            name = frame.f_globals["__name__"]
            frame = frame.f_back
        # NumPy, once; and Optuna, for the name of an artifact.
        if not str(frame.f_globals.get("__name__")).startswith(("importlib.", "optuna.artifacts")):
            asked.add("random.SystemRandom" if name == "random" else name)
        return urandom(count)

    of_os.urandom = of_random._urandom = noted
    try:
        yield asked
    finally:
        of_os.urandom = of_random._urandom = urandom


_ASKING = ("random", "secrets", "uuid")


def _run_once(runner: TrialRunner, trial: optuna.Trial, seed: int | None) -> Outcome:
    """One more run."""
    problem = runner.problem
    try:
        with runner.scope.around(), seeding(suggest_seed(seed), trial):
            params = (
                {}
                if problem.suggest is None
                else problem.call("suggest", trial, scope=runner.scope.values)
            )
    except Exception as failure:  # noqa: BLE001 - it is the answer
        message = f"{type(failure).__name__}: {failure}"
        return Outcome(trial.number, "failed", message=f"in suggest, {message}")
    return runner(Assignment(trial.number, params, trial, seed=seed))
