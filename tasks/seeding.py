"""Every trial has a seed: what draws random numbers without being told a seed gets this one.

Around a trial, the generators that a process shares begin at the trial's seed,
and so does the entropy that NumPy gives to `default_rng()`, `RandomState()` and `SeedSequence()`
without a seed, and Python to `random.Random()`. Afterwards all of them are as they were before.
Code that seeds itself is not touched by this: its own seed comes later, and so wins.

The entropy belongs to the trial's own thread. The shared generators cannot be divided among trials
in several threads: of such trials, those in whose time somebody drew from one say so.

What a trial has others do, by joblib, a pool, an executor or a thread, has a seed of its own.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import inspect
import itertools
import os
import random
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Generator as Yields
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar, Token
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import optuna
from optuna.trial import BaseTrial, FrozenTrial

if TYPE_CHECKING:
    from typing import Self

    from optuna.storages import BaseStorage

# The generators that a process shares, and that code draws from when it names none.
#
# There is one adapter for each library, which is looked at only where somebody else has imported
# it. JAX has no such generator: its keys are passed on by hand.


class Generator:
    """The generator of a library, and what it takes to lend it to a trial."""

    name = ""
    """The name that people know it by."""

    def save(self) -> Any:
        """Its state, for `restore`."""
        raise NotImplementedError

    def restore(self, state: Any) -> None:
        """Put a state back."""
        raise NotImplementedError

    def seed(self, seed: int) -> Any:
        """Start it anew from a seed, and return what `release` takes back."""
        raise NotImplementedError

    def mark(self) -> Any:
        """Return a value that differs after any draw from it."""
        return self.save()

    def release(self, lent: Any) -> None:
        """Take back what `seed` has returned."""


class _PythonRandom(Generator):
    name = "random"

    def save(self) -> Any:
        return random.getstate()

    def restore(self, state: Any) -> None:
        random.setstate(state)

    def seed(self, seed: int) -> None:
        random.seed(seed)


class _NumPyRandom(Generator):
    """The functions of `numpy.random`; SciPy and scikit-learn draw from it by default.

    NumPy takes 130 µs to write the state of its Mersenne Twister down and to read it again. So
    the caller's bit generator is laid aside, and another takes its place for the trial.
    """

    name = "numpy.random"

    def __init__(self) -> None:
        mtrand: Any = importlib.import_module("numpy.random.mtrand")
        self._shared = mtrand._rand
        self._put: Callable[[Any], None] = mtrand.set_bit_generator
        self._make: Callable[[int], Any] = sys.modules["numpy.random"].MT19937
        self._spare: list[Any] = []

    def save(self) -> Any:
        # Normal numbers are made in pairs, and the second one waits beside the bit generator.
        bit_generator, self._shared._bit_generator = self._shared._bit_generator, _Stateless()
        try:
            waiting = self._shared.get_state(legacy=False)
        finally:
            self._shared._bit_generator = bit_generator
        return bit_generator, waiting

    def restore(self, state: Any) -> None:
        bit_generator, waiting = state
        self._put(bit_generator)
        if waiting["has_gauss"]:
            self._shared._bit_generator = _Stateless()
            try:
                self._shared.set_state({**waiting, "state": None})
            finally:
                self._shared._bit_generator = bit_generator

    def seed(self, seed: int) -> Any:
        bit_generator = self._spare.pop() if self._spare else self._make(0)
        bit_generator._legacy_seeding(seed)  # as `numpy.random.seed` does it
        self._put(bit_generator)
        return bit_generator

    def mark(self) -> Any:
        bit_generator = self._shared._bit_generator
        if type(bit_generator).__name__ != "MT19937":  # the trial has put another one there
            return str(bit_generator.state)
        # The Twister's 624 numbers, and how many of them are used up.
        return ctypes.string_at(bit_generator.ctypes.state_address, 2500)

    def release(self, lent: Any) -> None:
        self._spare.append(lent)


class _Stateless:
    """Stands in for a bit generator where only what is beside it is asked for."""

    @property
    def state(self) -> dict[str, Any]:
        return {"bit_generator": "none"}

    @state.setter
    def state(self, value: Any) -> None:
        pass


class _Torch(Generator):
    name = "torch"

    def __init__(self) -> None:
        torch: Any = sys.modules["torch"]
        self._cpu = torch.default_generator
        # `torch.manual_seed` asks every backend in turn, which takes 400 µs.
        backends = (getattr(torch, name, None) for name in ("cuda", "xpu"))
        self._devices = [b for b in backends if b is not None and b.is_available()]
        self._mps = torch.mps if torch.backends.mps.is_available() else None

    def save(self) -> Any:
        # A device that has not been used yet has no state.
        devices = [(d, d.get_rng_state_all()) for d in self._devices if d.is_initialized()]
        mps = None if self._mps is None else self._mps.get_rng_state()
        return self._cpu.get_state(), devices, mps

    def restore(self, state: Any) -> None:
        cpu, devices, mps = state
        self._cpu.set_state(cpu)
        for device, states in devices:
            device.set_rng_state_all(states)
        if self._mps is not None:
            self._mps.set_rng_state(mps)

    def seed(self, seed: int) -> None:
        self._cpu.manual_seed(seed)
        for device in self._devices:
            device.manual_seed_all(seed)  # waits until it is used
        if self._mps is not None:
            self._mps.manual_seed(seed)

    def mark(self) -> Any:
        return self._cpu.get_state().numpy().tobytes()


class _TensorFlow(Generator):
    name = "tensorflow"

    def __init__(self) -> None:
        from tensorflow.python.eager import context  # pyright: ignore[reportMissingImports]

        self._context: Any = context.context()

    def save(self) -> Any:
        numbers = getattr(self._context, "_rng", None)
        return self._context._seed, None if numbers is None else numbers.getstate()

    def restore(self, state: Any) -> None:
        seed, numbers = state
        self._context._set_global_seed(seed)
        if numbers is not None:
            self._context._rng.setstate(numbers)

    def seed(self, seed: int) -> None:
        self._context._set_global_seed(seed)  # as `tensorflow.random.set_seed` does it


class _CuPy(Generator):
    name = "cupy.random"

    def __init__(self) -> None:
        self._random: Any = sys.modules["cupy"].random

    def save(self) -> Any:
        return self._random.get_random_state()

    def restore(self, state: Any) -> None:
        self._random.set_random_state(state)

    def seed(self, seed: int) -> None:
        self._random.set_random_state(self._random.RandomState(seed))


LIBRARIES: dict[str, Callable[[], Generator]] = {
    "random": _PythonRandom,
    "numpy.random": _NumPyRandom,
    "torch": _Torch,
    "tensorflow": _TensorFlow,
    "cupy": _CuPy,
}
"""Adapters of libraries, by the module that has to be there."""

_made: dict[str, Generator] = {}


def generator_of(module: str) -> Generator:
    """The adapter of a library that is imported; there is one for each."""
    if module not in _made:
        _made[module] = LIBRARIES[module]()
    return _made[module]


def loaded_generators() -> list[Generator]:
    """The generators that are there now.

    Example:
        >>> from prefect_optuna.tasks.seeding import loaded_generators
        >>> [generator.name for generator in loaded_generators()][:2]
        ['random', 'numpy.random']
    """
    return [
        _made.get(module) or generator_of(module)
        for module in LIBRARIES
        if module in sys.modules and (module in _made or _is_whole(module))
    ]


def _is_whole(module: str) -> bool:
    """Tell whether a module is fully imported; a thread may be in the middle of that."""
    return not getattr(sys.modules[module].__spec__, "_initializing", False)


SEED_KEY = "seed"
"""The user attribute of a trial that says its seed, unless the user has another use for it."""

SHARED_KEY = "shared_random"
"""The user attribute of a trial that lists the generators that other trials drew from, too."""

SEED = "prefect_optuna:seed"
"""The system attribute of a study that the seeds of its trials come from; and that of a trial
whose seed does not follow from that and its number."""

SHARED_REMEDY = (
    'With task_runner="processes", or numpy.random.default_rng() in place of it, each trial has '
    "its own."
)
"""Advice for people whose trials draw from one generator in several threads."""


def trial_seed(seed: int, *path: int | str) -> int:
    """Derive one seed from another: 32 bits, which every library takes.

    Example:
        >>> from prefect_optuna.tasks.seeding import trial_seed
        >>> trial_seed(1, 0), trial_seed(1, 1)
        (2791857979, 3602223452)
    """
    text = ":".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


def study_seed(storage: BaseStorage, study_id: int, given: int | None = None) -> int:
    """Return the seed from which the seeds of a study's trials follow."""
    recorded = storage.get_study_system_attrs(study_id).get(SEED)
    if not isinstance(recorded, int):
        recorded = secrets.randbits(32) if given is None else given
        storage.set_study_system_attr(study_id, SEED, recorded)
    return recorded if given is None else given


def suggest_seed(seed: int | None) -> int | None:
    """Return the seed for `suggest`: other numbers than `run`, which begins at the trial's seed."""
    return None if seed is None else trial_seed(seed, "suggest")


def recorded_seed(trial: FrozenTrial, trials_seed: int | None) -> int | None:
    """The seed that a trial had; `None` if it had none.

    The user attribute is for people, and may be the user's own.
    """
    own = trial.system_attrs.get(SEED)
    if isinstance(own, int):
        return own
    return None if trials_seed is None else trial_seed(trials_seed, first_number(trial))


def first_number(trial: FrozenTrial) -> int:
    """The number of a trial, or of the lost one that it repeats: the same trial, the same seed."""
    history = trial.system_attrs.get("retry_history")
    first = history[0] if isinstance(history, list) and history else None
    return first if isinstance(first, int) else trial.number


def shared_note(trials: Iterable[FrozenTrial]) -> tuple[str, ...]:
    """Return a note for people on trials that drew from one generator in several threads."""
    shared = SharedGenerators()
    shared.add(trials)
    return shared.note()


class SharedGenerators:
    """Keeps which trials drew from one generator in several threads."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._count = 0
        self._names: set[str] = set()

    def add(self, trials: Iterable[FrozenTrial]) -> None:
        """Take trials that have ended."""
        for trial in trials:
            if (names := trial.user_attrs.get(SHARED_KEY)) is not None:
                self._count += 1
                self._names |= set(map(str, names))
                self._first = sorted([*self._first, trial.number])[:5]

    def note(self) -> tuple[str, ...]:
        """Return a note for people, if there are any."""
        if not self._count:
            return ()
        first = ", ".join(map(str, self._first))
        more = f" and {self._count - 5} more" if self._count > 5 else ""
        return (
            f"Trial{'' if self._count == 1 else 's'} {first}{more} ran in threads that drew from "
            f"the same generator ({', '.join(sorted(self._names))}), and may not be reproduced. "
            f"{SHARED_REMEDY}",
        )


class Seeding:
    """The time of one trial, from when it is entered to when it is left."""

    def __init__(self, seed: int, trial: BaseTrial | None = None) -> None:
        self.seed: int = seed
        self.trial = trial
        self.shared: set[str] = set()
        """The generators that were drawn from while trials of other threads could."""
        self.forked: int | None = None
        """The seed of the process that was forked off last."""
        self._pid = os.getpid()
        self._is_under_way = True
        self._entropy = itertools.count()
        self._shares: dict[str, int] = {}
        self._saved: dict[Generator, Any] = {}
        self._lent: list[tuple[Generator, Any]] = []
        self._outer: Seeding | None = None
        self._token: Token[Seeding | None] | None = None

    def __enter__(self) -> Self:
        _install()
        self._outer = _current.get()
        with _lock:
            _note_draws()
            _entered.append(self)
            for generator in loaded_generators():
                self._saved[generator] = generator.save()
                self._lent.append((generator, generator.seed(self.seed)))
            _take_marks()
        self._token = _current.set(self)
        if isinstance(self.trial, optuna.Trial):
            # The sampler draws when a parameter is suggested, from what is its own. When the trial
            # runs again it is not asked, and must not be missed.
            vars(self.trial)["_suggest"] = partial(_suggest_outside, self.trial)
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self.trial, optuna.Trial):
            vars(self.trial).pop("_suggest", None)
        if self._token is not None:
            _current.reset(self._token)
        self._is_under_way = False
        with _lock:
            _note_draws()
            place = _entered.index(self)
            del _entered[place]
            if place == len(_entered):
                for generator, state in self._saved.items():
                    generator.restore(state)
            else:
                # Whoever came later goes on; what was before this is what he is to leave behind.
                _entered[place]._saved.update(self._saved)
            for generator, lent in self._lent:
                generator.release(lent)
            _take_marks()

    def renew(self, seed: int) -> None:
        """Start again with another seed, for another attempt."""
        self.seed, self._entropy, self._shares = seed, itertools.count(), {}
        with _lock:
            _note_draws()
            for generator in loaded_generators():
                self._lent.append((generator, generator.seed(self.seed)))
            _take_marks()

    def entropy(self, bits: int) -> int | None:
        """Return the number that takes the place of the system's entropy.

        It is `None` in processes that somebody else has forked off, for all of them would get the
        same, and in a thread that goes on when the trial has ended.
        """
        if not self.is_here():
            return None
        text = f"{self.seed}:entropy:{next(self._entropy)}"
        return int.from_bytes(hashlib.shake_256(text.encode()).digest((bits + 7) // 8)) >> -bits % 8

    def is_here(self) -> bool:
        """Tell whether it is under way, and in this process."""
        return self._is_under_way and os.getpid() == self._pid

    def share(self, kind: str) -> int:
        """The seed of the next task that it has others do."""
        self._shares[kind] = place = self._shares.get(kind, -1) + 1
        return trial_seed(self.seed, kind, place)

    def imported(self, generator: Generator) -> None:
        """Seed a library that the trial has just imported."""
        _entered[0]._saved[generator] = generator.save()
        self._lent.append((generator, generator.seed(self.seed)))
        _take_marks()

    def is_beside(self, other: Seeding) -> bool:
        """Tell whether another thread runs the other one: neither is within the other."""
        return self is not other and not self._is_within(other) and not other._is_within(self)

    def _is_within(self, other: Seeding) -> bool:
        outer = self._outer
        while outer is not None and outer is not other:
            outer = outer._outer
        return outer is other

    @contextmanager
    def suspended(self) -> Yields[None]:
        """Have the generators as they are outside of the trial."""
        with _lock:
            if _entered[-1] is not self:
                yield  # a trial of another thread has them
                return
            inside = {generator: generator.save() for generator in self._saved}
            for generator, state in self._saved.items():
                generator.restore(state)
            try:
                yield
            finally:
                self._saved = {generator: generator.save() for generator in self._saved}
                for generator, state in inside.items():
                    generator.restore(state)


def _suggest_outside(trial: optuna.Trial, *arguments: Any) -> Any:
    suggest = type(trial)._suggest  # pyright: ignore[reportPrivateUsage]
    seeding = _current.get()
    if seeding is None or seeding.trial is not trial:
        return suggest(trial, *arguments)
    token = _current.set(None)
    try:
        if trial.study.sampler.__class__.__module__.partition(".")[0] == "optuna":
            return suggest(trial, *arguments)  # none of Optuna's draws from what is shared
        with seeding.suspended():
            return suggest(trial, *arguments)
    finally:
        _current.reset(token)


# -- what there is one of in a process ------------------------------------------------------------

_lock = threading.RLock()
_current: ContextVar[Seeding | None] = ContextVar("prefect_optuna_seeding", default=None)
_entered: list[Seeding] = []
_marks: dict[Generator, Any] = {}


def _beside() -> list[Seeding]:
    """The trials under way that other threads may disturb."""
    if len(_entered) < 2:
        return []
    return [trial for trial in _entered if any(trial.is_beside(other) for other in _entered)]


def _note_draws() -> None:
    """Have trials that share generators know of those that were drawn from since the last time."""
    drawn = {generator.name for generator, mark in _marks.items() if generator.mark() != mark}
    for trial in _beside() if drawn else ():
        trial.shared |= drawn


def _take_marks() -> None:
    _marks.clear()
    if _beside():
        _marks.update({generator: generator.mark() for generator in loaded_generators()})


def _install() -> None:
    """Ask the trial under way, if there is one, where the system is asked for entropy."""
    global _system_randbits
    _patch_all()
    if _system_randbits is not None:
        return
    of_numpy: Any = importlib.import_module("numpy.random.bit_generator")
    of_python: Any = random
    with _lock:
        if _system_randbits is not None:
            return
        _system_randbits = of_numpy.randbits
        of_numpy.randbits = _randbits
        of_python.Random.seed = _seed_of_random
        of_python.seed = of_python._inst.seed
        sys.meta_path.insert(0, _Importing())
        os.register_at_fork(before=_count_fork, after_in_child=_seed_fork)
        for name in _CHATTY:
            if (module := sys.modules.get(name)) is not None:
                vars(module)["random"] = random.SystemRandom()


def _under_way() -> Seeding | None:
    """The trial that this thread runs, or does something for."""
    trial = _current.get()
    return trial if trial is not None and trial.is_here() else None


def _count_fork() -> None:
    if (trial := _under_way()) is not None:
        trial.forked = trial.share("fork")


def _seed_fork() -> None:
    """Start again in a process that a trial has forked: each draws its own numbers."""
    trial = _current.get()
    if trial is not None and trial.forked is not None:
        _entered.clear()
        _marks.clear()
        Seeding(trial.forked).__enter__()


@contextmanager
def entropy_of(seed: int) -> Yields[None]:
    """Have what is made without a seed in this thread follow from one."""
    token = _current.set(Seeding(seed))
    try:
        yield
    finally:
        _current.reset(token)


class Task:
    """A function that is called elsewhere, with a seed."""

    def __init__(self, function: Callable[..., Any], seed: int) -> None:
        self.function = function
        self.seed = seed
        self.place: tuple[int, int] = (os.getpid(), threading.get_ident())

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call it as it would be called in the trial."""
        pid, thread = self.place
        if pid == os.getpid() and thread == threading.get_ident():
            return self.function(*arguments, **keywords)
        around = entropy_of if pid == os.getpid() else Seeding
        with around(self.seed):
            return self.function(*arguments, **keywords)


# Their threads draw from Python's shared generator in the middle of a trial, for a ping or a pause.
_CHATTY = (
    "websockets.asyncio.connection",
    "websockets.sync.connection",
    "prefect._internal._observation_delivery",
    "prefect.utilities.math",
)

_system_randbits: Any = None
_random_seed: Any = random.Random.seed


def _randbits(bits: int) -> int:
    trial = _current.get()
    number = None if trial is None else trial.entropy(bits)
    return _system_randbits(bits) if number is None else number


def _seed_of_random(self: random.Random, a: Any = None, version: int = 2) -> None:
    trial = _current.get()
    if a is None and trial is not None and not _names_temporary_files():
        a = trial.entropy(256)
    _random_seed(self, a, version)


def _names_temporary_files() -> bool:
    """Tell whether `tempfile` makes the generator: nobody should foresee its names."""
    frame = inspect.currentframe()
    for _ in range(3):  # this one, `seed` and `Random.__init__`
        frame = frame and frame.f_back
    return frame is not None and frame.f_globals.get("__name__") == "tempfile"


class _Importing(importlib.abc.MetaPathFinder):
    """Notices that a trial imports a library that draws random numbers, or hands out tasks."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if (fullname not in LIBRARIES and fullname not in _HANDING_OUT) or not _entered:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is not self and find and (spec := find(fullname, path, target)):
                if spec.loader is not None:
                    spec.loader = _Seeded(spec.loader)
                return spec
        return None


class _Seeded(importlib.abc.Loader):
    """Loads a library as its own loader does, and seeds it, or has it seed tasks, at once."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if module.__name__ in _HANDING_OUT:
            _patch(module.__name__)
            return
        with _lock:
            if _entered:
                _entered[-1].imported(generator_of(module.__name__))


# -- around a trial -------------------------------------------------------------------------------


def seeding(
    seed: int | None, trial: BaseTrial | None = None
) -> AbstractContextManager[Seeding | None]:
    """Seed everything around a trial, or nothing where there is no seed.

    Example:
        >>> import random
        >>> from prefect_optuna.tasks.seeding import seeding
        >>> with seeding(7):
        ...     once = random.random()
        >>> with seeding(7):
        ...     random.random() == once
        True
    """
    return nullcontext() if seed is None else Seeding(seed, trial)


_seeds: WeakKeyDictionary[optuna.Study, int] = WeakKeyDictionary()


@contextmanager
def seeded(trial: BaseTrial, *, seed: int | None = None) -> Yields[int]:
    """Give a trial of a loop of your own its seed. `optimize` does it by itself.

    Within, `random`, `numpy.random`, `default_rng()` without a seed and its like, PyTorch,
    TensorFlow and CuPy, as far as they are imported, draw what follows from the seed of the study
    and the trial's number; afterwards they go on as if nothing had been. Code that seeds itself is
    not touched. JAX has keys in place of hidden generators: `jax.random.key(seed)` makes one.

    The seed is kept in the trial's user attribute `"seed"`, which stays yours if you set it, and
    `reevaluate` uses it.

    Args:
        trial: the trial, which is running.
        seed: what the seeds of the study's trials come from; by default the study keeps one.

    Returns:
        A context manager that gives the trial's seed.

    Example:
        >>> import optuna, random
        >>> from prefect_optuna.tasks import seeded
        >>> study = optuna.create_study()
        >>> trial = study.ask()
        >>> with seeded(trial, seed=1) as seed:
        ...     value = random.random()
        >>> trial.user_attrs["seed"] == seed
        True
        >>> value == random.Random(seed).random()
        True
    """
    around = _current.get()
    if around is not None and around.trial is trial:
        own = around.seed  # `optimize` and `reevaluate` have seeded it: once more, from the start
    elif not isinstance(trial, optuna.Trial):
        own = trial_seed(seed or 0, trial.number)
    else:
        own = _recorded(trial, seed)
    with Seeding(own, trial):
        yield own


def _recorded(trial: optuna.Trial, seed: int | None) -> int:
    """The seed of a trial, which says it from now on."""
    storage = trial.storage
    if seed is None:
        seed = _seeds.get(trial.study)
    if seed is None:
        study_id = trial.study._study_id  # pyright: ignore[reportPrivateUsage]
        seed = _seeds[trial.study] = study_seed(storage, study_id)
    frozen = trial._cached_frozen_trial  # pyright: ignore[reportPrivateUsage]
    own = trial_seed(seed, first_number(frozen))
    storage.set_trial_system_attr(trial._trial_id, SEED, own)  # pyright: ignore[reportPrivateUsage]
    if SEED_KEY not in frozen.user_attrs:
        trial.set_user_attr(SEED_KEY, own)
    return own


# Tasks that a trial hands out. `cross_val_score(..., n_jobs=-1)` fits in other processes, where
# nothing knows of the trial, and which of them takes which task is left to chance. So every task
# takes a seed along, by its place among them: the results are the same on however many processors.
# In another thread only what is made without a seed there follows from it.

_patched: set[str] = set()


def _patch_all() -> None:
    """Patch what hands out tasks, once for each of them that is imported."""
    for module in _HANDING_OUT:
        if module in sys.modules and module not in _patched:
            _patch(module)


def _patch(module: str) -> None:
    """Patch a module that is imported, unless it is still about to be."""
    try:
        _HANDING_OUT[module](sys.modules[module])
    except AttributeError:
        return
    _patched.add(module)


def _task(function: Callable[..., Any], kind: str) -> Callable[..., Any]:
    trial = _under_way()
    if trial is None or isinstance(function, Task):
        return function
    return Task(function, trial.share(kind))


def _threads(module: Any) -> None:
    start = module.Thread.start

    def start_seeded(self: threading.Thread) -> None:
        if _under_way() is not None:
            self.run = _task(self.run, "thread")
        start(self)

    module.Thread.start = start_seeded


def _executors(kind: str) -> Callable[[Any], None]:
    def patched(module: Any) -> None:
        executor = getattr(module, kind)
        submit = executor.submit

        def submit_seeded(self: Any, fn: Any, /, *arguments: Any, **keywords: Any) -> Any:
            return submit(self, _task(fn, kind), *arguments, **keywords)

        executor.submit = submit_seeded

    return patched


def _call(task: tuple[Callable[..., Any], Any]) -> Any:
    return task[0](task[1])


def _call_with_several(task: tuple[Callable[..., Any], Iterable[Any]]) -> Any:
    return task[0](*task[1])


def _pools(module: Any) -> None:
    pool = module.Pool
    plain = {name: getattr(pool, name) for name in ("_map_async", "apply_async")}
    lazy = {name: getattr(pool, name) for name in ("imap", "imap_unordered")}

    def map_async(self: Any, func: Any, iterable: Any, mapper: Any, *rest: Any, **more: Any) -> Any:
        if _under_way() is not None:
            iterable = [(_task(func, "pool"), item) for item in iterable]
            func = _call_with_several if mapper is module.starmapstar else _call
            mapper = module.mapstar
        return plain["_map_async"](self, func, iterable, mapper, *rest, **more)

    def apply_async(self: Any, func: Any, *rest: Any, **more: Any) -> Any:
        return plain["apply_async"](self, _task(func, "pool"), *rest, **more)

    def lazily(name: str) -> Callable[..., Any]:
        def mapped(self: Any, func: Any, iterable: Any, chunksize: int = 1) -> Any:
            trial = _under_way()
            if trial is not None:  # a thread of the pool's takes the items, one by one
                tasks = ((Task(func, trial.share("pool")), item) for item in iterable)
                return lazy[name](self, _call, tasks, chunksize)
            return lazy[name](self, func, iterable, chunksize)

        return mapped

    pool._map_async, pool.apply_async = map_async, apply_async
    for name in lazy:
        setattr(pool, name, lazily(name))


def _joblib(module: Any) -> None:
    call = module.Parallel.__call__

    def call_seeded(self: Any, iterable: Any) -> Any:
        trial = _under_way()
        return call(self, iterable if trial is None else _SeededTasks(iterable, trial))

    module.Parallel.__call__ = call_seeded


class _SeededTasks:
    """The tasks of a call of joblib, which asks some iterables for how many there are."""

    def __new__(cls, iterable: Any, trial: Seeding) -> Any:
        tasks = cls._tasks(iterable, trial, threading.get_ident())
        return list(tasks) if hasattr(iterable, "__len__") else tasks

    @staticmethod
    def _tasks(iterable: Any, trial: Seeding, thread: int) -> Iterator[Any]:
        for function, arguments, keywords in iterable:
            task = Task(function, trial.share("joblib"))
            task.place = (os.getpid(), thread)  # other threads take some of them from here
            yield task, arguments, keywords


_HANDING_OUT: dict[str, Callable[[Any], None]] = {
    "threading": _threads,
    "concurrent.futures.thread": _executors("ThreadPoolExecutor"),
    "concurrent.futures.process": _executors("ProcessPoolExecutor"),
    "multiprocessing.pool": _pools,
    "joblib.parallel": _joblib,
}
"""Adapters of what hands out tasks, by the module that has to be there."""
