"""Attributes as JSON, with what a laboratory puts into them: NumPy's numbers and arrays.

What a storage would take and nobody could read again is refused: Python reads JSON to a depth that
depends on how deep in calls its reader is, and one attribute that is nested further makes a trial,
and a whole journal, unreadable for everybody.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from prefect_optuna.errors import AttributeEncodingError

_LEVELS = 100
_BITS = 14_000  # of integers; Python reads 4300 digits
_NESTED = (dict, list, tuple)


def _of_numpy(value: object) -> Any:
    import numpy as np

    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


FLAT: frozenset[type] = frozenset({str, float, bool, type(None)})
"""Types whose values are read back unchanged, and need no check."""
to_json: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), default=_of_numpy).encode
"""Does what `encode` does, for what has been checked."""


def encode(value: object, name: str = "") -> str:
    """Turn an attribute's value into JSON.

    Args:
        value: what Python's json module can write, NaN and infinity included; arrays and numbers
            of NumPy become lists and numbers.
        name: of the attribute, for the error.

    Returns:
        The text, on one line, in ASCII.

    Raises:
        AttributeEncodingError: the value is nothing that JSON has, or is nested too deeply.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.blocks.attribute_json import encode
        >>> encode({"lr": (0.1, float("inf")), "scores": np.array([0.5, 1.0])})
        '{"lr":[0.1,Infinity],"scores":[0.5,1.0]}'
    """
    if type(value) not in FLAT:
        check_nesting(name, value)
    try:
        return to_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise AttributeEncodingError(
            f"Expected a value of {name!r} that is JSON: numbers, text, None, lists, mappings "
            f"with text as keys, and arrays of numbers. Found a {type(value).__qualname__}: "
            f"{error}. Convert it first."
        ) from error


def check_nesting(name: str, value: Any) -> None:
    """Refuse the value of an attribute that is nested too deeply."""
    level = [value]
    for _ in range(_LEVELS):
        inside: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inside += item.values()
            elif isinstance(item, (list, tuple)):
                inside += item
            elif isinstance(item, int) and item.bit_length() > _BITS:
                raise AttributeEncodingError(
                    f"{name!r} has an integer of {item.bit_length():,} bits, and readers take up "
                    f"to {_BITS:,}. Keep it as text, or as an artifact."
                )
        level = [item for item in inside if isinstance(item, (*_NESTED, int))]
        if not level:
            return
    if any(isinstance(item, _NESTED) for item in level):
        raise AttributeEncodingError(
            f"{name!r} is nested in more than {_LEVELS} levels, or contains itself, and nobody "
            "could read it again. Flatten it, or keep it as an artifact."
        )


def check_attributes(trial: FrozenTrial | None) -> None:
    """Do what `check_nesting` does with all attributes of a trial."""
    if trial is not None:
        for attributes in (trial.user_attrs, trial.system_attrs):
            for key, value in attributes.items():
                check_nesting(key, value)


class CheckedAttributes(BaseStorage):
    """Checks attributes before the storage class that comes next takes them."""

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute, unless it is nested too deeply."""
        check_nesting(key, value)
        super().set_study_user_attr(study_id, key, value)  # pyright: ignore[reportAbstractUsage]

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Set an attribute, unless it is nested too deeply."""
        check_nesting(key, value)
        super().set_study_system_attr(study_id, key, value)  # pyright: ignore[reportAbstractUsage]

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute, unless it is nested too deeply."""
        check_nesting(key, value)
        super().set_trial_user_attr(trial_id, key, value)  # pyright: ignore[reportAbstractUsage]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute, unless it is nested too deeply."""
        check_nesting(key, value)
        super().set_trial_system_attr(trial_id, key, value)  # pyright: ignore[reportAbstractUsage]

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make a trial, unless an attribute of it is nested too deeply."""
        check_attributes(template_trial)
        return super().create_new_trial(study_id, template_trial)  # pyright: ignore[reportAbstractUsage]
