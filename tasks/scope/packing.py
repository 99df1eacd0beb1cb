"""Values as bytes, to go to another process; one that cannot go is named by its key."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle

from prefect_optuna.tasks.scope.errors import InvalidParameterError


def pack(values: dict[str, Any]) -> bytes:
    """Pickle the values of a scope, functions of a script included."""
    try:
        return cloudpickle.dumps(values)
    except Exception as error:
        for key, value in values.items():
            try:
                cloudpickle.dumps(value)
            except Exception as reason:
                raise InvalidParameterError(
                    f"The parameter {key!r} cannot travel to another process: its value, a "
                    f"{type(value).__module__}.{type(value).__qualname__}, cannot be pickled "
                    f"({type(reason).__name__}: {reason}). Pass what it is made from, and make it "
                    "where it is used."
                ) from reason
        raise InvalidParameterError(
            f"The parameters {', '.join(values)} cannot travel to another process together: "
            f"{type(error).__name__}: {error}."
        ) from error


def unpack(packed: bytes) -> dict[str, Any]:
    """The values again."""
    return pickle.loads(packed)  # noqa: S301 - within something that is being unpickled
