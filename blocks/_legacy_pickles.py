"""Reads the pickles of Optuna's former Redis storage without running what is in them.

A pickle names classes and functions to call, so whoever can write to the database can have code
run by whoever reads it. Here no name leads to a real class of Optuna or numpy: each leads to a
stand-in of this module that only collects what it is given, or to nothing.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from datetime import datetime, timedelta, timezone
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState

__all__ = ["ForbiddenNameError", "Stored", "loads"]

_NUMBERS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


class ForbiddenNameError(pickle.UnpicklingError):
    """A pickle asks for something that a study does not consist of."""


class Stored:
    """An object of a class of Optuna's: what it had in its `__dict__`."""


class _DType:
    """A numpy data type of one number or text."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _scalar(dtype: _DType, data: bytes) -> Any:
    if dtype.code.startswith("U"):
        return data.decode("utf-32-be" if dtype.order == ">" else "utf-32-le").rstrip("\0")
    return struct.unpack(dtype.order + _NUMBERS[dtype.code], data)[0]


_STORED: dict[str, Any] = {
    name: type(name, (Stored,), {})
    for name in (
        "FrozenTrial",
        "StudySummary",
        "FloatDistribution",
        "UniformDistribution",
        "LogUniformDistribution",
        "DiscreteUniformDistribution",
        "IntDistribution",
        "IntUniformDistribution",
        "IntLogUniformDistribution",
        "CategoricalDistribution",
    )
}
# In Optuna the modules have moved about, the names have not.
_OPTUNA: dict[str, Any] = {
    **_STORED,
    "TrialState": TrialState,
    "StudyDirection": StudyDirection,
}
_OTHERS: dict[tuple[str, str], Any] = {
    ("datetime", "datetime"): datetime,
    ("datetime", "timedelta"): timedelta,
    ("datetime", "timezone"): timezone,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        in_optuna = module_name.partition(".")[0] == "optuna"
        found = _OPTUNA.get(global_name) if in_optuna else _OTHERS.get((module_name, global_name))
        if found is None:
            raise ForbiddenNameError(f"{module_name}.{global_name}")
        return found


def loads(data: bytes) -> Any:
    """Read a pickle.

    Args:
        data: of the pickle.

    Returns:
        The value; a `Stored` object in place of each of Optuna's, a plain number in place of one
        of numpy.

    Raises:
        ForbiddenNameError: it names something else than Optuna's classes, times, numbers.
        Exception: it is no pickle, or a broken one.
    """
    return _Unpickler(io.BytesIO(data)).load()
