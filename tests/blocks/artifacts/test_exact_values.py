"""Values as tagged JSON: exact, whatever the type."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType, SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_optuna.blocks.codec.values import decode_value, encode_value


class RefusedError(Exception):
    """The value has no exact form."""


def refuse(value: Any, path: str) -> Any:
    raise RefusedError(path)


def unknown(tag: str, held: Any) -> Any:
    raise AssertionError(f"unknown tag {tag}")


def there_and_back(value: Any) -> Any:
    return decode_value(json.loads(json.dumps(encode_value(value, refuse))), unknown)


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, (float, np.floating)):
        both_nan = math.isnan(one) and math.isnan(other)
        assert both_nan or (one == other and math.copysign(1, one) == math.copysign(1, other))
    elif isinstance(one, complex):
        assert_same(one.real, other.real)
        assert_same(one.imag, other.imag)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


_hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False)
    | st.dates()
    | st.uuids()
    | st.fractions(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
_values = st.recursive(
    _hashable
    | st.floats()
    | st.complex_numbers()
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.timezone(dt.timedelta(hours=2))))
    | st.times()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.sets(_hashable, max_size=3)
    | st.from_type(range)
    | st.floats(width=32).map(np.float32)
    | st.floats().map(np.float64)
    | st.integers(-128, 127).map(np.int8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_hashable, inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "$set", "$ref", ""]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_values)
def test_values_come_back_with_their_types_and_order(value: Any) -> None:
    assert_same(there_and_back(value), value)


@pytest.mark.parametrize(
    "value",
    [
        Path("data/counts.csv"),
        PurePosixPath("a/b"),
        PureWindowsPath("C:/a"),
        Decimal("NaN").copy_abs(),
        Fraction(1, 3),
        UUID(int=7),
        ZoneInfo("Europe/Oslo"),
        dt.datetime(2020, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Oslo"), fold=1),
        dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        slice(1, None, 2),
        deque([1, 2], maxlen=3),
        OrderedDict([("b", 1), ("a", 2)]),
        Counter("abca"),
        defaultdict(None, {"a": 1}),
        SimpleNamespace(rate=0.5),
        bytearray(b"\x00\xff"),
        re.compile(r"(\d+)", re.IGNORECASE),
        np.dtype(">i4"),
        np.datetime64("2020-01-01T00:00", "m"),
        np.timedelta64(3, "h"),
        np.str_("é"),
        np.bool_(True),
        np.complex64(1 - 2j),
        np.uint64(2**64 - 1),
        10**60,
        "lone surrogate \ud800",
    ],
    ids=repr,
)
def test_less_common_values_come_back(value: Any) -> None:
    back = there_and_back(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_a_read_only_mapping_comes_back() -> None:
    assert there_and_back(MappingProxyType({"a": (1,)})) == MappingProxyType({"a": (1,)})


@given(st.sets(st.text(), min_size=2))
def test_a_set_has_one_form_whatever_its_order(value: set[str]) -> None:
    backwards = {*sorted(value, reverse=True)}
    assert encode_value(value, refuse) == encode_value(backwards, refuse)


def test_what_has_no_exact_form_is_refused_with_its_path() -> None:
    with pytest.raises(RefusedError, match=re.escape("context['models'][1]['best']")):
        encode_value({"models": [1, {"best": object()}]}, refuse, "context")


def test_a_list_that_contains_itself_is_refused() -> None:
    value: list[Any] = [1]
    value.append(value)
    with pytest.raises(RefusedError, match="it contains itself"):
        encode_value(value, refuse, "loop")


def test_plain_values_stay_readable() -> None:
    assert encode_value({"rate": 0.5, "on": True}, refuse) == {"rate": 0.5, "on": True}
