"""Python values as JSON, exactly; and attributes, as JSON that other programs read.

What JSON has is written as it is. Everything else is an object with one key, its tag, which
starts with `$`: a tuple is `{"$tuple": [1, 2]}`, a NaN is `{"$float": "nan"}`. Equal values of
equal types come back, or `encode_value` asks the caller what to do.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from prefect_optuna.blocks.codec.untrusted import checked_dtype
from prefect_optuna.errors import AttributeEncodingError

# Attributes as JSON, with what a laboratory puts into them: NumPy's numbers and arrays.
#
# What a storage would take and nobody could read again is refused: Python reads JSON to a depth
# that depends on how deep in calls its reader is, and one attribute that is nested further makes
# a trial, and a whole journal, unreadable for everybody.


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
        >>> from prefect_optuna.blocks.codec.values import encode
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


Other = Callable[[Any, str], Any]
OtherTag = Callable[[str, Any], Any]

_ATOMS = (type(None), bool, int, str)
_FRACTION = re.compile(r"-?[0-9]+(/[0-9]+)?")

# Written as text, and read by the function beside it.
_AS_TEXT: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    datetime: ("$datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("$date", date.isoformat, date.fromisoformat),
    time: ("$time", time.isoformat, time.fromisoformat),
    Decimal: ("$decimal", str, Decimal),
    Fraction: ("$fraction", str, lambda text: _fraction(text)),
    UUID: ("$uuid", str, UUID),
    PosixPath: ("$path", str, Path),
    WindowsPath: ("$path", str, Path),
    PurePosixPath: ("$posix_path", str, PurePosixPath),
    PureWindowsPath: ("$windows_path", str, PureWindowsPath),
    PurePath: ("$pure_path", str, PurePath),
    ZoneInfo: ("$timezone", lambda zone: zone.key, ZoneInfo),
}

# Written as the list of their items.
_AS_ITEMS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    tuple: ("$tuple", tuple),
    set: ("$set", set),
    frozenset: ("$frozenset", frozenset),
}


def _namespace(state: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(**state)


# What these are read from is held as it is: a range in its place would have all its numbers.
def _deque(items: list[Any], maxlen: int | None) -> deque[Any]:
    return deque(_of_type(list, items), maxlen)


def _ordered_dict(items: list[Any]) -> OrderedDict[Any, Any]:
    return OrderedDict(_of_type(list, items))


def _counter(counts: dict[Any, int]) -> Counter[Any]:
    return Counter(_of_type(dict, counts))


def _defaultdict(factory: Any, items: list[Any]) -> defaultdict[Any, Any]:
    return defaultdict(factory, _of_type(list, items))


def _pattern(pattern: str | bytes, flags: int) -> re.Pattern[Any]:
    return re.compile(pattern, flags & ~re.DEBUG)  # which would print


def _fraction(text: str) -> Fraction:
    # `Fraction("1e20000000")` takes minutes, and is never written.
    if not _FRACTION.fullmatch(text):
        raise ValueError(f"expected two integers with a slash between them, found {text[:40]!r}")
    return Fraction(text)


def _of_type(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}, found a {type(value).__name__}")
    return value


# Written as what one would call their type with.
_AS_CALL: dict[type, tuple[str, Callable[[Any], tuple[Any, ...]], Callable[..., Any]]] = {
    range: ("$range", lambda r: (r.start, r.stop, r.step), range),
    slice: ("$slice", lambda s: (s.start, s.stop, s.step), slice),
    timedelta: ("$timedelta", lambda d: (d.days, d.seconds, d.microseconds), timedelta),
    re.Pattern: ("$pattern", lambda p: (p.pattern, p.flags), _pattern),
    deque: ("$deque", lambda d: (list(d), d.maxlen), _deque),
    OrderedDict: ("$ordered_dict", lambda d: (list(d.items()),), _ordered_dict),
    Counter: ("$counter", lambda d: (dict(d),), _counter),
    defaultdict: ("$defaultdict", lambda d: (d.default_factory, list(d.items())), _defaultdict),
    MappingProxyType: ("$mapping_proxy", lambda d: ({**d},), MappingProxyType),
    SimpleNamespace: ("$namespace", lambda n: (n.__dict__,), _namespace),
}

EXACT_TYPES: frozenset[type] = frozenset(
    {*_ATOMS, float, complex, bytes, bytearray, list, dict, timezone}
    | {*_AS_TEXT, *_AS_ITEMS, *_AS_CALL}
)
"""The types whose values have an exact form here, as far as what they hold has one."""

_READ_TEXT = {tag: read for tag, _, read in _AS_TEXT.values()}
_READ_ITEMS = dict(_AS_ITEMS.values())
_READ_CALL = {tag: read for tag, _, read in _AS_CALL.values()}


def encode_value(value: Any, other: Other, path: str = "", _within: tuple[int, ...] = ()) -> Any:
    """Turn a value into what `json.dumps` writes exactly.

    Example:
        >>> from prefect_optuna.blocks.codec.values import decode_value, encode_value
        >>> encode_value({"span": (1, 2.5)}, other=lambda value, path: None)
        {'span': {'$tuple': [1, 2.5]}}
    """
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is complex:
        return {"$complex": [encode_value(part, other) for part in (value.real, value.imag)]}
    if kind in (bytes, bytearray):
        return {f"${kind.__name__}": base64.b64encode(value).decode("ascii")}
    if kind in _AS_TEXT and _has_text(value):
        tag, write, _ = _AS_TEXT[kind]
        return {tag: write(value)}
    if kind in (datetime, time):  # in a time zone with a name
        naive = value.replace(tzinfo=None).isoformat()
        return {"$zoned": [kind.__name__, naive, encode_value(value.tzinfo, other), value.fold]}
    if isinstance(value, np.generic):
        encoded = _encode_scalar(value, other)
        return other(value, path) if encoded is None else encoded
    if isinstance(value, np.dtype):
        return _encode_dtype(cast("np.dtype[Any]", value), other, path)
    if kind is timezone:
        return {"$utc_offset": encode_value(value.utcoffset(None), other)}

    if id(value) in _within:
        return other(value, f"{path} (it contains itself)")
    within = (*_within, id(value))

    def encode(item: Any, where: str) -> Any:
        return encode_value(item, other, where, within)

    if kind is list:
        return [encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
    if kind is dict:
        # Only a key that is alone would be taken for a tag.
        is_tag = len(value) == 1 and str(next(iter(value))).startswith("$")
        if all(type(key) is str for key in value) and not is_tag:
            return {key: encode(item, f"{path}[{key!r}]") for key, item in value.items()}
        return {
            "$dict": [
                [encode(key, f"{path}, key {key!r}"), encode(item, f"{path}[{key!r}]")]
                for key, item in value.items()
            ]
        }
    if kind in _AS_ITEMS:
        items = [encode(item, f"{path}[{i}]") for i, item in enumerate(value)]
        # A set has an order of its own in every process; an archive's content must not.
        return {_AS_ITEMS[kind][0]: items if kind is tuple else sorted(items, key=repr)}
    if kind in _AS_CALL:
        tag, arguments, _ = _AS_CALL[kind]
        return {tag: [encode(item, path) for item in arguments(value)]}
    return other(value, path)


def decode_value(data: Any, other: OtherTag) -> Any:
    """Turn what `encode_value` returned into the value again.

    Example:
        >>> from prefect_optuna.blocks.codec.values import decode_value
        >>> decode_value({"span": {"$tuple": [1, 2.5]}}, other=lambda tag, data: None)
        {'span': (1, 2.5)}
    """
    if isinstance(data, list):
        return [decode_value(item, other) for item in data]
    if not isinstance(data, dict):
        return data
    tag = next(iter(data)) if len(data) == 1 else ""
    if not tag.startswith("$"):
        return {key: decode_value(item, other) for key, item in data.items()}
    held = data[tag]
    if tag in _READ_TEXT:
        return _READ_TEXT[tag](held)
    if tag in _READ_ITEMS:
        return _READ_ITEMS[tag](decode_value(item, other) for item in held)
    if tag in _READ_CALL:
        return _READ_CALL[tag](*(decode_value(item, other) for item in held))
    match tag:
        case "$float":
            return float(held)
        case "$complex":
            return complex(*(decode_value(part, other) for part in held))
        case "$bytes":
            return base64.b64decode(held)
        case "$bytearray":
            return bytearray(base64.b64decode(held))
        case "$dict":
            return {decode_value(k, other): decode_value(v, other) for k, v in held}
        case "$dtype":
            return checked_dtype(held)
        case "$scalar":
            return _scalar(decode_value(held[1], other), held[0])
        case "$scalar_bytes":
            return np.frombuffer(base64.b64decode(held[1]), checked_dtype(held[0]))[0]
        case "$zoned":
            kind = datetime if held[0] == "datetime" else time
            zone = decode_value(held[2], other)
            return kind.fromisoformat(held[1]).replace(tzinfo=zone, fold=held[3])
        case "$utc_offset":
            return timezone(decode_value(held, other))
        case _:
            return other(tag, held)


def _scalar(value: Any, text: str) -> Any:
    dtype = checked_dtype(text)
    if type(value) not in (bool, int, float, complex, str, bytes):
        raise TypeError(f"expected one value, found a {type(value).__name__}")
    if dtype.kind in "SUV" and dtype.itemsize > 4 * len(str(value)):
        raise ValueError(f"expected text as long as its type says, {text}")
    return np.array(value, dtype)[()]


def _has_text(value: Any) -> bool:
    """Tell whether a value survives as text: a fixed UTC offset does, a named zone does not."""
    if isinstance(value, ZoneInfo):
        return bool(value.key)
    if not isinstance(value, (datetime, time)):
        return True
    return value.tzinfo is None or (type(value.tzinfo) is timezone and value.fold == 0)


def _encode_dtype(dtype: np.dtype[Any], other: Other, path: str) -> Any:
    if dtype.hasobject or dtype.names is not None:
        return other(dtype, path)
    return {"$dtype": dtype.str}


def _encode_scalar(value: np.generic, other: Other) -> Any:
    dtype = value.dtype
    if dtype.hasobject or dtype.names is not None:
        return None
    if dtype.kind in "biufcUS" and dtype.char not in "gG" and value == value:
        return {"$scalar": [dtype.str, encode_value(value.item(), other)]}
    # A long double, a time, or the sign of NaN has no exact number in JSON.
    return {"$scalar_bytes": [dtype.str, base64.b64encode(value.tobytes()).decode("ascii")]}
