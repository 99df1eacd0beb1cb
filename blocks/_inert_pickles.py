"""Reads pickles as data, without running what is in them.

A pickle names classes and functions to call, so whoever can write it has code run by whoever
reads it. Here each name leads to a stand-in that only records what it is given, or to nothing.
No real class is handed out either: a pickle may set attributes of what it is handed, and would
change an enumeration of Optuna's for the whole process. Python's and numpy's values are made
afterwards, from what was taken down.
"""

from __future__ import annotations

import copy
import io
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from optuna.trial import FrozenTrial

# How the names of those system attributes of trials begin that a sampler of Optuna unpickles.
_PICKLED_STATE = re.compile(r"(cma|sepcma|cmawm):(.*:)?optimizer")

_NUMBERS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


class ForbiddenNameError(pickle.UnpicklingError):
    """A pickle asks for something that it has no business with."""


def without_pickled_state(trial: FrozenTrial) -> FrozenTrial:
    """A trial without the state that a sampler of Optuna would unpickle: it may be anybody's.

    CMA-ES finds its state again from the trials themselves, a generation with each trial.
    """
    if any(map(_PICKLED_STATE.match, trial.system_attrs)):
        trial = copy.copy(trial)
        trial.system_attrs = {
            name: value
            for name, value in trial.system_attrs.items()
            if not _PICKLED_STATE.match(name)
        }
    return trial


class Stored(NamedTuple):
    """An object of a class of the package: what it had in its `__dict__`.

    Attributes:
        kind: the name of its class.
        fields: its attributes.
    """

    kind: str
    fields: dict[str, Any]


class _Noted:
    """The record of one object in a pickle, which cannot change the record's class.

    A pickle changes something by `BUILD`, which calls `__setstate__` where there is one: that of
    an object takes the state down, and that of a class fails for want of an object.
    """

    __slots__ = ("arguments", "state")

    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any) -> _Noted:
        noted = object.__new__(cls)
        noted.arguments = arguments
        noted.state = None
        return noted

    def __setstate__(self, state: Any, /) -> None:
        self.state = state


class _NotedMapping(_Noted):
    """The same of a mapping, whose items come one by one."""

    __slots__ = ("items",)

    items: list[tuple[Any, Any]]

    def __new__(cls, *arguments: Any) -> _NotedMapping:
        noted = _Noted.__new__(cls, *arguments)
        assert isinstance(noted, _NotedMapping)  # noqa: S101 - for the type checker
        noted.items = []
        return noted

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


class _DType(NamedTuple):
    """A numpy data type of one number or text."""

    code: str
    order: str

    def numpy(self) -> np.dtype[Any]:
        import numpy as np

        return np.dtype(self.order + self.code if self.code in _NUMBERS else "")


Thaw = Callable[[Any], Any]


def _datetime(noted: _Noted, thaw: Thaw) -> datetime:
    arguments = _plain(noted, thaw, bytes, int, timezone, type(None))
    return datetime(*arguments)  # noqa: DTZ001 - with a zone if it had one


def _timedelta(noted: _Noted, thaw: Thaw) -> timedelta:
    return timedelta(*_plain(noted, thaw, int))


def _timezone(noted: _Noted, thaw: Thaw) -> timezone:
    return timezone(*_plain(noted, thaw, timedelta, str))


def _mapping(noted: _Noted, thaw: Thaw) -> dict[Any, Any]:
    assert isinstance(noted, _NotedMapping)  # noqa: S101 - of the table below
    pairs = [*(thaw(noted.arguments[0]) if noted.arguments else ()), *thaw(noted.items)]
    return dict(pairs)


def _dtype(noted: _Noted, _: Thaw) -> _DType:
    code = noted.arguments[0]
    if type(code) is not str:
        raise TypeError("a data type without a name")
    return _DType(code, ">" if noted.state and noted.state[1] == ">" else "<")


def _scalar(noted: _Noted, thaw: Thaw) -> Any:
    dtype, data = thaw(noted.arguments[0]), noted.arguments[1]
    if dtype.code.startswith("U"):
        return data.decode("utf-32-be" if dtype.order == ">" else "utf-32-le").rstrip("\0")
    return struct.unpack(dtype.order + _NUMBERS[dtype.code], data)[0]


def _array(noted: _Noted, thaw: Thaw) -> Any:
    if noted.state is None:  # by numpy's `_frombuffer`
        data, dtype, shape, order = noted.arguments
    else:
        _, shape, dtype, is_fortran, data = noted.state
        order = "F" if is_fortran else "C"
    return _filled(data, thaw(dtype).numpy(), shape, order)


def _filled(data: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> Any:
    import numpy as np

    if type(data) not in (bytes, bytearray) or not all(type(size) is int for size in shape):
        raise TypeError("an array without its numbers")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C").copy("K")


def _plain(noted: _Noted, thaw: Thaw, *kinds: type) -> list[Any]:
    arguments = [thaw(argument) for argument in noted.arguments]
    if not all(type(argument) in kinds for argument in arguments):
        raise TypeError(f"{type(noted).__name__} of something else")
    return arguments


def _kind(name: str, base: type[_Noted] = _Noted) -> type[_Noted]:
    return type(name, (base,), {"__slots__": ()})


_DATETIME, _TIMEDELTA, _TIMEZONE = map(_kind, ("datetime", "timedelta", "timezone"))
_MAPPING = _kind("OrderedDict", _NotedMapping)
_DTYPE, _SCALAR, _ARRAY, _ARRAY_TYPE = map(_kind, ("dtype", "scalar", "array", "ndarray"))

_MADE: dict[type[_Noted], Callable[[_Noted, Thaw], Any]] = {
    _DATETIME: _datetime,
    _TIMEDELTA: _timedelta,
    _TIMEZONE: _timezone,
    _MAPPING: _mapping,
    _DTYPE: _dtype,
    _SCALAR: _scalar,
    _ARRAY: _array,
}
_NAMES: dict[tuple[str, str], type[_Noted]] = {
    ("datetime", "datetime"): _DATETIME,
    ("datetime", "timedelta"): _TIMEDELTA,
    ("datetime", "timezone"): _TIMEZONE,
    ("collections", "OrderedDict"): _MAPPING,
    ("numpy", "dtype"): _DTYPE,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
}
_ARRAY_NAMES: dict[tuple[str, str], type[_Noted]] = {
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy.core.numeric", "_frombuffer"): _ARRAY,
    ("numpy._core.numeric", "_frombuffer"): _ARRAY,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, package: str, classes: Iterable[str], arrays: bool) -> None:
        super().__init__(io.BytesIO(data))
        self._package = package
        self._names = {**_NAMES, **(_ARRAY_NAMES if arrays else {})}
        self.classes = {name: _kind(name) for name in classes}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        # In a package the modules move about, the names do not.
        if module_name.partition(".")[0] == self._package:
            known = self.classes.get(global_name)
        else:
            known = self._names.get((module_name, global_name))
        if known is None:
            raise ForbiddenNameError(f"{module_name}.{global_name}")
        return known


class _Thaw:
    """Makes values of what was taken down; each object once, however often it is referred to."""

    def __init__(
        self, classes: Collection[type[_Noted]], enumerations: Mapping[str, type[Enum]]
    ) -> None:
        self._classes = classes
        self._enumerations = enumerations
        self._made: dict[int, Any] = {}
        self._open: set[int] = set()

    def __call__(self, value: Any) -> Any:
        key = id(value)
        if key in self._made:
            return self._made[key]
        if key in self._open:
            raise ValueError("something contains itself")
        self._open.add(key)
        made = self._make(value)
        self._open.discard(key)
        if isinstance(value, (list, tuple, set, frozenset, dict, _Noted)):
            self._made[key] = made
        return made

    def _make(self, value: Any) -> Any:
        kind = type(value)
        if kind in (list, tuple, set, frozenset):
            return kind(self(item) for item in value)
        if kind is dict:
            return {self(key): self(item) for key, item in value.items()}
        if kind in self._classes and kind.__name__ in self._enumerations:
            return self._enumerations[kind.__name__](*_plain(value, self, int))
        if kind in self._classes:
            fields = self(value.state)
            if type(fields) is not dict or not all(type(name) is str for name in fields):
                raise TypeError(f"{kind.__name__} without its attributes")
            return Stored(kind.__name__, fields)
        if kind in _MADE:
            return _MADE[kind](value, self)
        if isinstance(value, (_Noted, type)):
            raise TypeError(f"{value!r} where a value should be")
        return value


def _check_places(data: bytes) -> None:
    """Refuse a place among what is remembered for which Python would take gigabytes (gh-115952)."""
    try:
        places = [place for code, place, _ in pickletools.genops(data) if code.name.endswith("PUT")]
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from None
    if any(place is not None and place > len(data) for place in places):
        raise pickle.UnpicklingError("more is remembered than there can be")


def loads(
    data: bytes,
    package: str,
    classes: Iterable[str],
    enumerations: Mapping[str, type[Enum]] | None = None,
    *,
    arrays: bool = False,
) -> Any:
    """Read a pickle."""
    _check_places(data)
    enumerations = enumerations or {}
    unpickler = _Unpickler(data, package, (*classes, *enumerations), arrays)
    value = unpickler.load()
    return _Thaw(frozenset(unpickler.classes.values()), enumerations)(value)
