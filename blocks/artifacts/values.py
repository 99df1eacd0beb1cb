"""Python values as JSON, exactly.

What JSON has is written as it is. Everything else is an object with one key, its tag, which
starts with `$`: a tuple is `{"$tuple": [1, 2]}`, a NaN is `{"$float": "nan"}`. Equal values of
equal types come back, or `encode_value` asks the caller what to do.
"""

from __future__ import annotations

import base64
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

__all__ = ["EXACT_TYPES", "decode_value", "encode_value"]

Other = Callable[[Any, str], Any]
OtherTag = Callable[[str, Any], Any]

_ATOMS = (type(None), bool, int, str)

# Written as text, and read by the function beside it.
_AS_TEXT: dict[type, tuple[str, Callable[[Any], str], Callable[[str], Any]]] = {
    datetime: ("$datetime", datetime.isoformat, datetime.fromisoformat),
    date: ("$date", date.isoformat, date.fromisoformat),
    time: ("$time", time.isoformat, time.fromisoformat),
    Decimal: ("$decimal", str, Decimal),
    Fraction: ("$fraction", str, Fraction),
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


# Written as what one would call their type with.
_AS_CALL: dict[type, tuple[str, Callable[[Any], tuple[Any, ...]], Callable[..., Any]]] = {
    range: ("$range", lambda r: (r.start, r.stop, r.step), range),
    slice: ("$slice", lambda s: (s.start, s.stop, s.step), slice),
    timedelta: ("$timedelta", lambda d: (d.days, d.seconds, d.microseconds), timedelta),
    re.Pattern: ("$pattern", lambda p: (p.pattern, p.flags), re.compile),
    deque: ("$deque", lambda d: (list(d), d.maxlen), deque),
    OrderedDict: ("$ordered_dict", lambda d: (list(d.items()),), OrderedDict),
    Counter: ("$counter", lambda d: (dict(d),), Counter),
    defaultdict: ("$defaultdict", lambda d: (d.default_factory, list(d.items())), defaultdict),
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

    Args:
        value: what to encode.
        other: called with a value that has no exact form here and with its path; returns JSON
            or raises.
        path: how to name the value in messages, such as `context['model']`.

    Returns:
        JSON: dictionaries with string keys, lists, strings, numbers, booleans and `None`.

    Example:
        >>> from prefect_optuna.blocks.artifacts.values import decode_value, encode_value
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

    Args:
        data: the JSON.
        other: called with a tag that is not known here and with what it holds.

    Returns:
        The value.

    Example:
        >>> from prefect_optuna.blocks.artifacts.values import decode_value
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
            return np.dtype(held)
        case "$scalar":
            return np.array(decode_value(held[1], other), held[0])[()]
        case "$scalar_bytes":
            return np.frombuffer(base64.b64decode(held[1]), held[0])[0]
        case "$zoned":
            kind = datetime if held[0] == "datetime" else time
            zone = decode_value(held[2], other)
            return kind.fromisoformat(held[1]).replace(tzinfo=zone, fold=held[3])
        case "$utc_offset":
            return timezone(decode_value(held, other))
        case _:
            return other(tag, held)


def _has_text(value: Any) -> bool:
    """Whether a value survives as text: a time's fixed offset does, its named zone does not."""
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
    if dtype.kind in "biufcUS" and dtype.char not in "gG":
        return {"$scalar": [dtype.str, encode_value(value.item(), other)]}
    # A long double or a time has no exact number in JSON.
    return {"$scalar_bytes": [dtype.str, base64.b64encode(value.tobytes()).decode("ascii")]}
