"""The state of CMA-ES between trials, restored without running what is in it.

Optuna's `CmaEsSampler` keeps its optimizer in system attributes of trials, as a pickle that it
loads again: whoever can write to the study's storage, or has sent the study, would have code run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from optuna.samplers import BaseSampler, CmaEsSampler
from optuna.trial import FrozenTrial

from prefect_optuna.blocks._inert_pickles import ForbiddenNameError, Stored, loads
from prefect_optuna.errors import DamagedStorageError, HostilePickleError

_CLASSES = ("CMA", "SepCMA", "CMAwM")


def without_pickles(sampler: BaseSampler) -> BaseSampler:
    """Have a sampler, and those that it asks, restore its state by this module."""
    samplers = [sampler]
    for seen in samplers:  # and those that are found on the way
        parts = [part for part in vars(seen).values() if isinstance(part, BaseSampler)]
        samplers.extend(part for part in parts if not any(part is known for known in samplers))
        if isinstance(seen, CmaEsSampler):
            # Of the object, so that it holds for subclasses, and travels with a pickled sampler.
            prefix = seen._attr_key_optimizer  # pyright: ignore[reportPrivateUsage]
            vars(seen)["_restore_optimizer"] = functools.partial(_restored, prefix)
    return sampler


def _restored(prefix: str, completed_trials: Sequence[FrozenTrial]) -> Any:
    """Return the last trial's optimizer, in place of `CmaEsSampler._restore_optimizer`."""
    for trial in reversed(completed_trials):
        parts = {k: v for k, v in trial.system_attrs.items() if k.startswith(prefix)}
        if parts:
            return _optimizer(prefix, trial.number, parts)
    return None


def _optimizer(prefix: str, number: int, parts: dict[str, str]) -> Any:
    try:
        text = "".join(parts[f"{prefix}:{place}"] for place in range(len(parts)))
        return _made(loads(bytes.fromhex(text), "cmaes", _CLASSES, arrays=True))
    except ForbiddenNameError as error:
        raise HostilePickleError(
            f"Expected the state of CMA-ES in the system attributes {prefix!r} of trial {number}, "
            f"and found a pickle that asks for {error}. Nothing of it was run. Somebody has "
            "tampered with the study: take a copy by copy_study, which leaves such state behind, "
            "or another sampler."
        ) from None
    except Exception as error:  # a broken pickle raises whatever it comes upon
        raise DamagedStorageError(
            f"Expected the state of CMA-ES in the system attributes {prefix!r} of trial {number}, "
            f"and it is damaged ({type(error).__name__}). Take a copy by copy_study, which leaves "
            "such state behind, or another sampler."
        ) from error


def _made(stored: Any) -> Any:
    """An optimizer of the library, from its attributes."""
    import cmaes

    if type(stored) is not Stored:
        raise TypeError("no optimizer")
    cls: Any = getattr(cmaes, stored.kind)
    optimizer = cls.__new__(cls)
    state = {
        name: _made(value) if type(value) is Stored else value
        for name, value in stored.fields.items()
    }
    if hasattr(optimizer, "__setstate__"):
        optimizer.__setstate__(state)
    else:
        vars(optimizer).update(state)
    return optimizer
