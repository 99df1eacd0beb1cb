"""Resources: what a trial asks for, what this machine has, and each process's share.

Processes of different studies know nothing of each other, and a GPU that two of them use is slow
for both, or full. So what a process takes is written down in a folder of the machine, in a file
that is locked as long as the process lives: whoever dies, gives back what it had.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from uuid import uuid4

from filelock import FileLock, Timeout
from pydantic import BaseModel, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic import field_validator as _field_validator
from pydantic import model_validator as _model_validator

from prefect_optuna.blocks.settings import OptunaSettings
from prefect_optuna.blocks.stores.local import shared_part
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.errors import InvalidSettingError

# Resources of one trial: processors, memory and GPUs, with one meaning wherever it runs.


_EXPECTED = (
    "`resources` are what one trial has to itself, such as "
    '{"cpus": 2, "memory": "4 GiB", "gpus": 1}, or "cpus=2,memory=4GiB,gpus=1"'
)


class Resources(BaseModel):
    """The resources that one trial has to itself.

    A part that is left out is not counted; but a trial with resources and without `gpus` sees no
    GPU, on any runner.

    Args:
        cpus: processors, such as 2 or 0.5. Libraries like BLAS take as many threads.
        memory: such as `"4 GiB"`, or a number of bytes.
        gpus: whole GPUs, which no other trial has meanwhile; or a part of one, such as 0.5, for
            trials that may share it.

    Example:
        >>> from prefect_optuna.tasks.machine import Resources
        >>> str(Resources(cpus=2, memory="4 GiB", gpus=1))
        '2 CPUs, 4.0 GiB of memory and 1 GPU'
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    cpus: float | None = Field(
        default=None, gt=0, title="CPUs", description="Of one trial; BLAS takes as many threads."
    )
    memory: str | int | None = Field(
        default=None, title="Memory", description="Of one trial, such as '4 GiB'."
    )
    gpus: float = Field(
        default=0, ge=0, title="GPUs", description="Of one trial alone; 0.5 is half of one."
    )

    @_model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not pairs or any(not sign for _, sign, _ in pairs):
            raise ValueError("expected NAME=VALUE pairs")
        return {name.strip(): given.strip() for name, _, given in pairs}

    @_field_validator("cpus", "gpus")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        if value is not None and not math.isfinite(value):
            raise ValueError("expected a finite number")
        return value

    @_field_validator("gpus")
    @classmethod
    def _whole_or_shared(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("expected whole GPUs, or a part of one such as 0.5")
        return value

    @_field_validator("memory")
    @classmethod
    def _a_size(cls, value: str | int | None) -> str | int | None:
        if value is not None and TypeAdapter(ByteSize).validate_python(value) <= 0:
            raise ValueError("expected more than nothing")
        return value

    @classmethod
    def of(cls, value: Resources | Mapping[str, Any] | str | None) -> Resources | None:
        """Resources of what people write; `None` of nothing.

        Raises:
            InvalidSettingError: it cannot be read.

        Example:
            >>> from prefect_optuna.tasks.machine import Resources
            >>> Resources.of("cpus=2,memory=4GiB").memory_bytes
            4294967296
        """
        if value is None or isinstance(value, Resources):
            return value
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"][:1]))
            if first["type"] == "extra_forbidden":
                why = f"there is no {where!r}: cpus, memory, gpus"
            else:
                why = f"{where}: " * bool(where) + first["msg"].removeprefix("Value error, ")
            raise InvalidSettingError(f"{_EXPECTED}; found {value!r} ({why}).") from None

    @property
    def memory_bytes(self) -> int | None:
        """The memory in bytes."""
        return (
            None if self.memory is None else int(TypeAdapter(ByteSize).validate_python(self.memory))
        )

    def as_json(self) -> dict[str, Any]:
        """Return them as a parameter of a flow run, or for an archive."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def __str__(self) -> str:
        """Return them in words, for people."""
        return in_words(self.cpus, self.memory_bytes, self.gpus)


if TYPE_CHECKING:
    ResourcesGiven: TypeAlias = Resources | Mapping[str, Any] | str
else:  # a flow makes them of the others, and its form has fields for them
    ResourcesGiven = Resources


def in_words(cpus: float | None, memory: int | None, gpus: float) -> str:
    """Amounts in words; what is `None`, and no GPU, is left out.

    Example:
        >>> from prefect_optuna.tasks.machine import in_words
        >>> in_words(1, None, 2)
        '1 CPU and 2 GPUs'
    """
    parts = [] if cpus is None else [f"{cpus:g} CPU{'' if cpus == 1 else 's'}"]
    if memory is not None:
        parts.append(f"{ByteSize(memory).human_readable(separator=' ')} of memory")
    if gpus:
        parts.append(f"{gpus:g} GPU{'' if gpus <= 1 else 's'}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Variables for the number of threads of libraries loaded, and programs started, from now on."""

DEVICES = "CUDA_VISIBLE_DEVICES"

_LOOK_SECONDS = 0.5
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Machine:
    """The resources of a machine, or what is left of them; in a container, those it may use.

    Attributes:
        cpus: how many processors' time a process here may take.
        memory: in bytes.
        gpus: how much of each GPU, by the name that `CUDA_VISIBLE_DEVICES` calls it.
    """

    cpus: float
    memory: int
    gpus: Mapping[str, float]

    @classmethod
    def here(cls) -> Machine:
        """This machine.

        GPUs are those that `CUDA_VISIBLE_DEVICES` names; where that is not set, those that
        `nvidia-smi` lists.

        Example:
            >>> from prefect_optuna.tasks.machine import Machine
            >>> Machine.here().cpus > 0
            True
        """
        return cls(_cpus(), _memory(), dict.fromkeys(_gpus(), 1.0))

    def room(self, needs: Resources) -> int | None:
        """Return the number of trials that there is room for; `None` where nothing is counted."""
        counts: list[float] = []
        if needs.cpus is not None:
            counts.append((self.cpus + _ROUNDING) // needs.cpus)
        if (memory := needs.memory_bytes) is not None:
            counts.append(self.memory // memory)
        if needs.gpus >= 1:
            free = sum(left > 1 - _ROUNDING for left in self.gpus.values())
            counts.append(free // needs.gpus)
        elif needs.gpus:
            counts.append(sum((left + _ROUNDING) // needs.gpus for left in self.gpus.values()))
        return int(min(counts)) if counts else None

    def devices(self, gpus: float, preferred: Sequence[str] = ()) -> tuple[str, ...] | None:
        """Choose GPUs for a demand; `None` if there are not enough left."""
        if not gpus:
            return ()
        order = sorted(self.gpus, key=lambda one: one not in preferred)
        if gpus < 1:  # those that are shared already go first: whole ones stay whole
            order.sort(key=lambda one: self.gpus[one])
        fitting = [device for device in order if self.gpus[device] + _ROUNDING >= min(gpus, 1)]
        count = int(max(gpus, 1))
        return tuple(fitting[:count]) if len(fitting) >= count else None

    def __str__(self) -> str:
        """Return it in words, for people."""
        return in_words(round(self.cpus, 2), self.memory, sum(self.gpus.values())) + (
            "" if self.gpus else ", and no GPU"
        )


def require_room(needs: Resources, jobs: int = 1, machine: Machine | None = None) -> None:
    """Refuse more than a machine has, whoever has taken it now.

    Raises:
        InvalidSettingError: that says what it has.

    Example:
        >>> from prefect_optuna.tasks.machine import Machine, require_room
        >>> from prefect_optuna.tasks.machine import Resources
        >>> require_room(Resources(cpus=8), machine=Machine(2, 4 << 30, {}))
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidSettingError: A trial wants 8 CPUs, and this machine ...
    """
    machine = machine or Machine.here()
    room = machine.room(needs)
    if room is None or room >= jobs:
        return
    gpus = (
        " Its GPUs are those that CUDA_VISIBLE_DEVICES names, or else nvidia-smi."
        if needs.gpus and not machine.gpus
        else ""
    )
    if room == 0:
        raise InvalidSettingError(
            f"A trial wants {needs}, and this machine has {machine}.{gpus} Ask for less, or run "
            "the study on workers that have it."
        )
    raise InvalidSettingError(
        f"{jobs} trials at once want {needs} each, and this machine has {machine}: room for "
        f"{room}. Give `n_jobs={room}`, or -1 for as many as there is room for."
    )


def jobs_here(n_jobs: int, needs: Resources | None) -> int:
    """Return the number of trials at once; -1 is as many as there is room for on this machine."""
    if n_jobs > 0:
        return n_jobs
    room = None if needs is None else Machine.here().room(needs)
    return max(1, room) if room is not None else os.cpu_count() or 1


class Share:
    """A process's share of its machine, held until it is released or the process ends.

    Example:
        >>> from prefect_optuna.tasks.machine import Share
        >>> from prefect_optuna.tasks.machine import Resources
        >>> with Share(Resources(cpus=1)).taken() as share:
        ...     share.devices
        ()
    """

    def __init__(
        self, needs: Resources, jobs: int = 1, what: str = "", *, gpus_only: bool = False
    ) -> None:
        if needs.gpus and jobs > 1 and needs.gpus * jobs > 1 + _ROUNDING:
            raise InvalidSettingError(
                f"{jobs} trials at once in one process, each with {needs.gpus:g} GPUs, would share "
                "them: threads of a process see the same ones. Use task_runner='processes', or "
                "several workers with one trial at a time; or let trials share one GPU on "
                f"purpose: gpus={1 / jobs:.3g}."
            )
        self.needs = needs
        self.devices: tuple[str, ...] = ()
        self._all = needs.model_copy(
            update={
                "cpus": None if gpus_only or needs.cpus is None else needs.cpus * jobs,
                "memory": None
                if gpus_only or needs.memory_bytes is None
                else needs.memory_bytes * jobs,
                "gpus": needs.gpus * jobs,
            }
        )
        self._what = what
        self._lock: FileLock | None = None
        self._file: Path | None = None

    def take(
        self,
        say: Callable[[str], None] | None = None,
        goes_on: Callable[[], bool] = lambda: True,
    ) -> bool:
        """Wait until this machine has it, and take it.

        Args:
            say: is told once that it is being waited for, and who has it.
            goes_on: whether to go on waiting.

        Returns:
            Whether it was taken.

        Raises:
            InvalidSettingError: the machine never has it.
        """
        require_room(self._all)
        if self._all == Resources():  # nothing of it is counted
            return True
        while not self._try():
            if say is not None:
                say(_waiting(self._all))
                say = None
            if not goes_on():
                return False
            time.sleep(_LOOK_SECONDS)
        return True

    def release(self) -> None:
        """Give it back."""
        lock, file, self._lock, self._file = self._lock, self._file, None, None
        if lock is not None and file is not None:
            with suppress(OSError):
                file.unlink(missing_ok=True)
            lock.release()
            with suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)

    @contextmanager
    def taken(self, say: Callable[[str], None] | None = None) -> Generator[Share]:
        """Have it for a while."""
        self.take(say)
        try:
            yield self
        finally:
            self.release()

    @contextmanager
    def own(self) -> Generator[None]:
        """Have all trials that run in this process, in whatever thread, go by it."""
        global _own, _own_is_applied
        before, _own, _own_is_applied = (_own, _own_is_applied), self, True
        try:
            with self.applied():
                yield
        finally:
            _own, _own_is_applied = before

    @contextmanager
    def applied(self) -> Generator[None]:
        """Limit the threads and GPUs of libraries in this process to the share."""
        with threads_of(self.needs), _variables({DEVICES: ",".join(self.devices)}):
            yield

    def _try(self) -> bool:
        folder = _folder()
        with FileLock(folder / "all.lock", thread_local=False):
            left = _left(Machine.here(), _claims(folder))
            if left.room(self._all) == 0:
                return False
            devices = left.devices(self._all.gpus, _last_devices)
            if devices is None:
                return False
            name = uuid4().hex
            lock = FileLock(folder / f"{name}.lock", thread_local=False)
            lock.acquire()
            file = folder / f"{name}.json"
            file.write_text(
                json.dumps(
                    {
                        "pid": os.getpid(),
                        "host": _host(),
                        "what": self._what,
                        "cpus": self._all.cpus or 0,
                        "memory": self._all.memory_bytes or 0,
                        "gpus": dict.fromkeys(devices, min(self._all.gpus, 1.0)),
                    }
                ),
                encoding="utf-8",
            )
        self._lock, self._file, self.devices = lock, file, devices
        if devices:
            # A library that has begun on a GPU stays there.
            _last_devices[:] = devices
        return True


_last_devices: list[str] = []
_own: Share | None = None
_own_is_applied = False


def say_if_taken(needs: Resources, say: Callable[[str], None]) -> None:
    """Say that processes will wait, where what they are to have is with others now."""
    folder = _folder()
    with FileLock(folder / "all.lock", thread_local=False):
        left = _left(Machine.here(), _claims(folder))
    if left.room(needs) == 0:
        say(_waiting(needs))


def hold_share(needs: Resources) -> None:
    """Have a process of a pool take its share when it begins, and keep it until it ends."""
    global _own
    share = Share(needs)
    share.take()
    _own = share


@contextmanager
def share_of_trial(needs: Resources | None) -> Generator[None]:
    """Around trials, wherever they run: the share of this process, or GPUs that are free.

    Where neither this process nor its program has taken a share, it is one of a cluster that
    counts processors and memory by itself.
    """
    if needs is None or _own_is_applied:
        yield
        return
    with ExitStack() as stack:
        share = _own
        if share is None:
            share = Share(needs, gpus_only=True)
            stack.enter_context(share.taken())
        stack.enter_context(share.applied())
        yield


@contextmanager
def threads_of(needs: Resources | None) -> Generator[None]:
    """Limit the threads of libraries to the processors of a trial.

    By threadpoolctl, where it is there, also those that are loaded already.
    """
    if needs is None or needs.cpus is None:
        yield
        return
    count = max(1, int(needs.cpus))
    limits: Any = nullcontext()
    with suppress(ImportError):
        from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingImports]

        limits = threadpool_limits(limits=count)
    with limits, _variables(dict.fromkeys(THREAD_VARIABLES, str(count))):
        yield


@contextmanager
def _variables(values: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# -- what others have ----------------------------------------------------------------------------


def _folder() -> Path:
    given = OptunaSettings.here().claims
    who = getattr(os, "getuid", lambda: os.environ.get("USERNAME", ""))()
    folder = given or Path(tempfile.gettempdir(), f"prefect-optuna-{who}", "claims")
    try:
        if given is None:
            folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("it may not be written")
        # One that is named may be shared, as by the containers of a machine.
        if given is None and (shared := shared_part(folder)):
            raise PermissionError(f"it is not its user's alone, because of {shared}")
    except OSError as error:
        raise InvalidSettingError(
            "Trials write down what they have of this machine, and cannot do so in "
            f"{folder}: {error}. PREFECT_INTEGRATIONS_OPTUNA_CLAIMS names another folder."
        ) from error
    return folder


def _claims(folder: Path) -> list[dict[str, Any]]:
    """List the claims of living processes and remove the others, with the folder locked."""
    claims: list[dict[str, Any]] = []
    for file in folder.glob("*.json"):
        lock = FileLock(file.with_suffix(".lock"), thread_local=False)
        try:
            with lock.acquire(timeout=0):
                file.unlink(missing_ok=True)
            Path(lock.lock_file).unlink(missing_ok=True)
            continue
        except Timeout:
            pass
        # It is being released, or it is not a claim.
        with suppress(OSError, ValueError, RecursionError):
            claim = json.loads(file.read_text(encoding="utf-8"))
            if _is_claim(claim):
                claims.append(claim)
    return claims


def _is_claim(value: Any) -> bool:
    """Tell whether a process has written it: others may share the folder, which fails no trial."""
    if not isinstance(value, dict) or not isinstance(gpus := value.get("gpus"), dict):
        return False
    amounts: list[Any] = [value.get("cpus"), value.get("memory"), *gpus.values()]
    return (
        all(type(amount) in (int, float) and 0 <= amount < math.inf for amount in amounts)
        and type(value.get("pid")) is int
        and all(isinstance(value.get(name), str) for name in ("host", "what"))
    )


def _left(machine: Machine, claims: Sequence[Mapping[str, Any]]) -> Machine:
    """Return what is left; processors and memory are a container's own, GPUs are the machine's."""
    gpus = dict(machine.gpus)
    cpus, memory = machine.cpus, machine.memory
    for claim in claims:
        for device, part in claim["gpus"].items():
            if device in gpus:
                gpus[device] -= part
        if claim["host"] == _host():
            cpus -= claim["cpus"]
            memory -= claim["memory"]
    return Machine(max(0.0, cpus), max(0, memory), gpus)


def _waiting(needs: Resources) -> str:
    return f"Waiting for {needs}: this machine has {Machine.here()}, and {_held()}."


def _held() -> str:
    """Describe who has taken what."""
    folder = _folder()
    with FileLock(folder / "all.lock", thread_local=False):
        claims = _claims(folder)
    words = [
        f"process {claim['pid']}{claim['what'] and ' (' + visible_line(claim['what']) + ')'} "
        + in_words(claim["cpus"] or None, claim["memory"] or None, sum(claim["gpus"].values()))
        for claim in claims
    ]
    return f"others have taken: {'; '.join(words)}" if words else "it was taken a moment ago"


def _host() -> str:
    return socket.gethostname()


# -- what there is -------------------------------------------------------------------------------

_CGROUP = Path("/sys/fs/cgroup")


def _read(*names: str) -> list[str]:
    for name in names:
        with suppress(OSError):
            return (_CGROUP / name).read_text(encoding="ascii").split()
    return []


def _cpus() -> float:
    affinity = getattr(os, "sched_getaffinity", None)
    count: float = len(affinity(0)) if affinity else os.cpu_count() or 1
    words = _read("cpu.max") or _read("cpu/cpu.cfs_quota_us") + _read("cpu/cpu.cfs_period_us")
    if len(words) == 2 and words[0] not in ("max", "-1"):
        count = min(count, int(words[0]) / int(words[1]))
    return count


def _memory() -> int:
    import psutil

    total: int = psutil.virtual_memory().total
    words = _read("memory.max", "memory/memory.limit_in_bytes")
    return min(total, int(words[0])) if words and words[0] != "max" else total


def _gpus() -> list[str]:
    listed = _listed_gpus()
    named = os.environ.get(DEVICES)
    if named is None:
        return list(listed)
    names: list[str] = []
    for name in named.split(","):
        name = name.strip()
        if not name or name == "-1":  # as CUDA does: what follows is not visible
            break
        number = int(name) if name.isdigit() else -1
        names.append(listed[number] if 0 <= number < len(listed) else name)
    return names


@functools.cache
def _listed_gpus() -> tuple[str, ...]:
    """The GPUs of this machine by their ids, which are the same in every container."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        text = subprocess.run(  # noqa: S603 - by its path
            [program, "-L"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    parts = [line.partition("UUID: ")[2].rstrip(")") for line in text.splitlines()]
    return tuple(part for part in parts if part.startswith("GPU-"))
