"""The generators that a process shares, and that code draws from when it names none.

There is one adapter for each library, which is looked at only where somebody else has imported it.
JAX has no such generator: its keys are passed on by hand.
"""

from __future__ import annotations

import ctypes
import importlib
import random
import sys
from collections.abc import Callable
from typing import Any


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
        >>> from prefect_optuna.tasks.generators import loaded_generators
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
