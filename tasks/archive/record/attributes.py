"""User attributes of studies and trials: which names are free, and what may be in them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from prefect_optuna.blocks import InvalidSettingError
from prefect_optuna.blocks._secrets import SecretVariables
from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks.archive.code.refusals import described, secret_value

RESULT_KEY = "result"
"""The user attribute of a trial that refers to its archived result."""

SCOPE_KEY = "scope"
"""The user attribute of a trial that says which parameters of the scope it read, as JSON."""

KEY_ENTRYPOINT = "entrypoint:"
"""Attributes that start like this belong to the archive, as in studies of its predecessor."""

RESERVED = ("backupContext", KEY_ENTRYPOINT, "axis:", "timeseries:", "signature")
"""Prefixes of the names of the archive's own attributes."""

_OF_TRIALS = ("result", "scope", "error", "shared_random", "told_to_prune")
_MAX_JSON = 60_000  # bytes; MySQL's limit for an attribute is 65,535


def checked_key(key: str, of: str) -> str:
    """Return the name of an attribute if it is free for people to use."""
    if not isinstance(key, str) or not key:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidSettingError(f"The name of a {of}'s data is a word; found {key!r}.")
    taken = [start for start in RESERVED if key.startswith(start)]
    if of == "trial" and key in _OF_TRIALS:
        taken.append(key)
    if taken:
        raise InvalidSettingError(
            f"{key!r} is no name for a {of}'s data: {taken[0]!r} is kept for the archive itself. "
            "Take another name, such as "
            f"'my_{key.rpartition(':')[2].removeprefix('backupContext') or 'data'}'."
        )
    return key


def is_of_the_archive(key: str) -> bool:
    """Tell whether an attribute of a trial belongs to the archive: its own code has not set it."""
    return key in _OF_TRIALS or key.startswith(RESERVED)


def plain_json(key: str, value: Any) -> Any:
    """Turn a value into JSON that every storage takes, and every reader understands.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.tasks.archive.record.attributes import plain_json
        >>> plain_json("span", (np.float64(1.5), np.arange(2)))
        [1.5, [0, 1]]
    """
    try:
        text = json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise CaptureError(
            f"{key!r} cannot be an attribute: {error}. Expected numbers, text, dates, lists and "
            "mappings of those. What `run` needs goes to context_add(name, value); anything else "
            "is kept as a file by log_artifact."
        ) from None
    if len(text) > _MAX_JSON:
        raise CaptureError(
            f"{key!r} has {len(text):,} bytes as JSON, and attributes have at most {_MAX_JSON:,}, "
            "for not every database takes more. Keep numbers along an axis by "
            "trial_add_timeseries, an array that `run` needs by context_add, a file by "
            "log_artifact."
        )
    plain = json.loads(text)
    if variable := SecretVariables.here().name_in(plain):
        raise CaptureError(secret_value(repr(key), variable))
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
        # Before it becomes a list, which takes many times the memory.
        if value.nbytes > _MAX_JSON * 8:
            raise ValueError(
                f"it has an array of {value.size:,} values, which is too large for one"
            )
        return value.tolist()
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"it holds {described(value)}")
