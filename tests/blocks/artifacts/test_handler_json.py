"""JSON: what comes back, what the file looks like, and what is refused."""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from prefect_optuna.blocks import ArtifactLoadError, ArtifactLogError
from prefect_optuna.blocks.artifacts import JSONArtifact, decode, encode
from prefect_optuna.errors import CorruptArtifactError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # With lone surrogates, and with keys that look like tags.
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["$tuple", "$", "$array"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.just("$tuple"), inner, max_size=3)
    ),
    max_leaves=15,
)
ARRAYS = np_st.arrays(
    st.one_of(
        np_st.boolean_dtypes(),
        np_st.integer_dtypes(endianness="?"),
        np_st.floating_dtypes(endianness="?"),
        np_st.complex_number_dtypes(),
        np_st.datetime64_dtypes(),
        np_st.unicode_string_dtypes(max_len=3),
        np_st.byte_string_dtypes(max_len=3),
    ),
    np_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)
RICH = st.recursive(
    PLAIN
    | st.floats()
    | st.complex_numbers()
    | st.binary(max_size=5)
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(ZoneInfo("Europe/Berlin")))
    | st.dates()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | np_st.from_dtype(np.dtype("f4"))
    | np_st.from_dtype(np.dtype("i2"))
    | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=3)
        | st.sets(st.integers(), max_size=3)
        | st.dictionaries(st.integers() | st.text(max_size=3) | st.dates(), inner, max_size=3)
        | st.dictionaries(st.tuples(st.integers(), st.none()), inner, max_size=2)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal in type and value, with NaN equal to NaN and minus zero unlike zero."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.generic) and a.dtype.kind == "f" and np.isnan(a):
        return a.dtype == b.dtype and bool(np.isnan(b))
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, complex):
        return same((a.real, a.imag), (b.real, b.imag))
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=False)
        return len(a) == len(b) and all(same(x, y) for x, y in pairs)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Decimal):
        return str(a) == str(b)
    return a == b


def has_no_tag(value: Any) -> bool:
    if isinstance(value, dict):
        alone = next(iter(value)) if len(value) == 1 else ""
        return not alone.startswith("$") and all(map(has_no_tag, value.values()))
    return not isinstance(value, list) or all(map(has_no_tag, value))


@settings(max_examples=60)
@given(RICH)
def test_LZ22_any_value_comes_back_with_its_types_from_valid_json(value: Any) -> None:
    content = encode(JSONArtifact, value)

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    json.loads(content, parse_constant=refuse)
    assert same(decode(JSONArtifact, content), value)


@settings(max_examples=60)
@given(PLAIN.filter(has_no_tag))
def test_LZ4_plain_json_stays_exactly_that_json(value: Any) -> None:
    content = encode(JSONArtifact, value)
    assert content.decode() == json.dumps(value)
    assert same(decode(JSONArtifact, content), value)


def test_LZ4_the_arguments_are_those_of_json() -> None:
    value = {"b": 1, "a": [Decimal("0.1")]}
    content = encode(JSONArtifact, {"b": 1, "a": 0.1}, indent=2, sort_keys=True)
    assert content == b'{\n  "a": 0.1,\n  "b": 1\n}'
    assert decode(JSONArtifact, content, parse_float=Decimal) == {"a": Decimal("0.1"), "b": 1}
    assert decode(JSONArtifact, encode(JSONArtifact, value, indent=1)) == value


@pytest.mark.parametrize(
    "value",
    [
        np.float32(0.1),
        np.float64(0.1),
        np.int8(-3),
        np.bool_(True),
        np.datetime64("2025-01-20", "D"),
        np.longdouble(1) / 3,
        np.array([]).reshape(0, 3),
        np.array([[1.5, np.nan], [-np.inf, -0.0]]),
        np.array(["a", "µ"]),
        np.array(3, ">i2"),
        math.nan,
        -math.inf,
        {"$tuple": [1]},
        {"$array": 1, "b": 2},
        {1: "a", None: "b", (1, 2): "c", 2.5: "d"},
        (1, (2, [3])),
        {3, 1, 2},
        b"\x00\xff",
        datetime(2025, 1, 20, 13, 23, 30, 7, tzinfo=UTC),
        date(2025, 1, 20),
        timedelta(days=-1, microseconds=3),
        UUID(int=5),
        OrderedDict(b=1, a=2),
        range(3),
        10**30,
    ],
    ids=repr,
)
def test_LZ22_what_json_lacks_comes_back_right(value: Any) -> None:
    assert same(decode(JSONArtifact, encode(JSONArtifact, {"held": [value]})), {"held": [value]})


def test_LZ4_a_json_schema_stays_one() -> None:
    schema = {"$schema": "https://json-schema.org", "type": "object", "$defs": {"a": {"$id": 1}}}
    content = encode(JSONArtifact, schema)
    assert content.startswith(b'{"$schema": "https://json-schema.org", "type": "object"')
    assert decode(JSONArtifact, content) == schema


def test_an_array_of_finite_numbers_can_be_read_by_people() -> None:
    content = encode(JSONArtifact, {"loss": np.array([[1.5, 2.0]])})
    assert content == b'{"loss": {"$array": ["<f8", [1, 2], [1.5, 2.0]]}}'
    array = decode(JSONArtifact, content)["loss"]
    array[0, 0] = 3  # the array is new, and not that of the file


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        ({"a": [0, 1, 2, {"b": open}]}, "$.a[3].b", "builtin_function_or_method"),
        (Colour.RED, "$", "Colour"),
        ([Point(1)], "$[0]", "Point"),
        ({"a b": {1: Point(1)}}, "$['a b'][1]", "Point"),
        ({"a": np.array([None])}, "$.a", "numpy.ndarray of object"),
        ({"m": np.ma.masked_array([1], [True])}, "$.m", "MaskedArray"),
        ({"r": np.zeros(1, "i4,f8")}, "$.r", "numpy.ndarray of"),
        ({(1, Colour.RED): 1}, "$, key", "Colour"),
    ],
)
def test_LZ22_what_would_not_come_back_is_refused_with_its_place_and_type(
    value: Any, path: str, kind: str
) -> None:
    with pytest.raises(ArtifactLogError) as caught:
        encode(JSONArtifact, value)
    assert str(caught.value).startswith(path)
    assert kind in str(caught.value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {"a": []}
    loop["a"].append(loop)
    with pytest.raises(ArtifactLogError, match=re.escape("$.a[0] (it contains itself)")):
        encode(JSONArtifact, loop)


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ArtifactLogError, match="RecursionError"):
        encode(JSONArtifact, deep)
    while deep:  # a list of that depth must not be deleted at once
        deep = deep.pop()


def test_default_converts_what_has_no_exact_form() -> None:
    content = encode(
        JSONArtifact, {"c": Colour.RED, "p": Point(1)}, default=lambda v: (np.ones(1), v.__doc__)
    )
    assert same(
        decode(JSONArtifact, content),
        {"c": (np.ones(1), Colour.__doc__), "p": (np.ones(1), Point.__doc__)},
    )


def test_LZ22_nan_is_written_whatever_is_asked_for() -> None:
    with pytest.raises(ArtifactLogError, match="allow_nan"):
        encode(JSONArtifact, math.nan, allow_nan=True)


def test_json_that_others_have_written_is_read() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$comment": "x"}}}
    assert decode(JSONArtifact, json.dumps(schema).encode()) == schema
    assert decode(JSONArtifact, b'{"properties": {"a": {"$ref": "#/a"}}}') == {
        "properties": {"a": {"$ref": "#/a"}}
    }
    # lazyscribe's, which is no JSON
    assert math.isnan(decode(JSONArtifact, b"[NaN]")[0])


def test_an_object_of_others_that_looks_like_ours_can_be_read_plainly() -> None:
    content = b'{"when": {"$date": {"$numberLong": "1"}}, "set": {"$set": [1]}}'
    with pytest.raises(ArtifactLoadError, match="plain=True"):
        decode(JSONArtifact, content)
    assert decode(JSONArtifact, content, plain=True) == json.loads(content)


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff", b"[1] 2"])
def test_damaged_json_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptArtifactError, match="'json' cannot read these"):
        decode(JSONArtifact, content)
