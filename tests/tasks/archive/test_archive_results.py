"""What `run` returns, as an Arrow file, and back."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
import threading
from collections import namedtuple
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydantic import BaseModel

from prefect_optuna.blocks import ArchiveError, InMemoryStudyStorage
from prefect_optuna.blocks.codec.tables import arrays_of, base64_of
from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import decode_result, encode_result
from prefect_optuna.tasks.archive.series.results import (
    decode_inline,
    decode_inline_series,
    encode_inline,
    encode_with_spec,
    inline_digest,
)

PROBLEM = Problem(suggest=lambda trial: {}, run=lambda params: {}, evaluate=lambda result: 0.0)


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        if one.dtype.kind in "fc":
            # Bit by bit: signed zeros, and NaN equal to NaN.
            one, other = (x.astype(x.dtype.newbyteorder("=")) for x in (one, other))
            np.testing.assert_array_equal(one, other)
            np.testing.assert_array_equal(np.signbit(one.real), np.signbit(other.real))
        else:
            np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, pa.Table):
        assert one.equals(other, check_metadata=True)
    else:
        assert one == other or (one != one and other != other)


def _times(kind: str) -> st.SearchStrategy[np.dtype[Any]]:
    units = st.sampled_from(["Y", "M", "D", "h", "m", "s", "ms", "us", "ns"])
    return units.map(lambda unit: np.dtype(f"{kind}8[{unit}]"))


_texts = npst.unicode_string_dtypes(max_len=3) | npst.byte_string_dtypes(max_len=3)


@given(npst.arrays(_texts, npst.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=4)))
@example(np.array(["a\0b", "\0c"]))
@example(np.array([b"a\0b", b"", b"\0\1"]))
def test_text_comes_back_whole(texts: Any) -> None:
    result = {"texts": texts, "numbers": np.zeros(2)}
    try:
        content = encode_result(result)
    except CaptureError:
        return  # such as half of a surrogate pair
    assert_same(decode_result(content), result)


_dtypes = (
    npst.boolean_dtypes()
    | npst.integer_dtypes(endianness="?")
    | npst.unsigned_integer_dtypes(endianness="?")
    | npst.floating_dtypes(sizes=(16, 32, 64), endianness="?")
    | npst.complex_number_dtypes(sizes=(64, 128), endianness="?")
    | npst.unicode_string_dtypes(max_len=5)
    | npst.byte_string_dtypes(max_len=5)
    | _times("M")
    | _times("m")
)


def _encodable(array: np.ndarray[Any, Any]) -> bool:
    if array.dtype.kind != "U":
        return True
    return not any("\ud800" <= letter <= "\udfff" for word in array.flat for letter in word)


_arrays = npst.arrays(
    _dtypes, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
).filter(_encodable)
_leaves = (
    _arrays
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.dates()
    | st.floats().map(np.float64)
    | st.lists(st.floats(), max_size=25)
    | st.lists(st.integers(), max_size=25).map(tuple)
    | st.lists(st.booleans(), max_size=5)
    | st.lists(st.floats(width=32).map(np.float32), max_size=5)
    | st.lists(st.integers() | st.floats() | st.text(), max_size=5)
)
_keys = st.text(max_size=5) | st.integers() | st.sampled_from(["$series", "$inline", "a.b", "a"])
_results = st.recursive(
    _leaves,
    lambda inner: (
        st.dictionaries(_keys, inner, max_size=5) | st.lists(inner, max_size=3).map(tuple)
    ),
    max_leaves=8,
)


@given(_results)
def test_small_results_come_back_from_their_trial_s_attribute(result: Any) -> None:
    reference = encode_inline(result)
    if reference is not None:
        assert_same(decode_inline(json.loads(json.dumps(reference))), result)


_plain_dtypes = (
    npst.scalar_dtypes() | npst.unicode_string_dtypes(max_len=3) | npst.datetime64_dtypes()
)
_plain_arrays = _plain_dtypes.flatmap(
    lambda dtype: npst.arrays(
        dtype, npst.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=30)
    )
)


@given(st.dictionaries(_keys | st.just('a","b'), _plain_arrays, max_size=4))
def test_a_layout_that_has_been_seen_gives_what_looking_anew_gives(result: Any) -> None:
    def encoded(given: Any) -> Any:
        try:
            return encode_inline(given)
        except CaptureError as error:
            return str(error)

    anew = encoded(MappingProxyType(result))  # of which no layout is kept
    for seen in (encoded(result), encoded({name: array.copy() for name, array in result.items()})):
        assert seen == anew
        assert list(seen or ()) == list(anew or ())


SMALL = [
    {"curve": np.linspace(0, 1, 20), "note": "ok"},
    {"deep": {"er": [np.ones((2, 3), np.float32), (1, 2.5, "a", None)], "n": math.nan}},
    {"list": [1.5, 2.5], "tuple": (1, 2), "flags": np.array([True, False]), "c": np.ones(1) * 1j},
    [np.float32(1), np.float32(2)],
    {"times": np.array(["2026-01-02"], "M8[D]"), "big": np.arange(3, dtype=">i4"), "empty": []},
    {3: np.zeros(0), "$odd": b"bytes"},
    {"a nul": "a\0b", "of one": np.array("\0b")},
    "text",
    {},
]


@pytest.mark.parametrize("result", SMALL, ids=map(str, range(len(SMALL))))
def test_what_people_return_needs_no_file_where_it_is_small(result: Any) -> None:
    reference = encode_inline(result)
    assert reference is not None
    assert_same(decode_inline(json.loads(json.dumps(reference))), result)


_notes = st.sampled_from([1, 1.0, True, "a", None, math.nan, {"b": -0.0}])


@given(st.data())
def test_series_of_many_attributes_are_those_of_each_and_each_is_verified(
    data: st.DataObject,
) -> None:
    curves = data.draw(st.lists(npst.arrays(np.float64, 3), min_size=1, max_size=6))
    references = [
        json.loads(
            json.dumps(encode_inline({"note": data.draw(_notes), "curve": [curve, curve[:2]]}))
        )
        for curve in curves
    ]
    both = decode_inline_series(references, "curve")
    assert_same(both, {"curve.0": np.stack(curves), "curve.1": np.stack(curves)[:, :2]})
    place = data.draw(st.integers(0, len(curves) - 1))
    good = references[place]["inline"]
    other = encode_inline({"curve": [np.full(3, 0.125), np.zeros(2)]})
    assert other is not None
    for damaged in (
        [{"note": 2, **good[0]}, *good[1:]],
        [good[0], other["inline"][1], good[2]],
        good[:2],
        [*good, good[2]],
        [good[0], None, good[2]],
        None,
    ):
        references[place] = {**references[place], "inline": damaged}
        if damaged != good:
            with pytest.raises(ArchiveError):
                decode_inline_series(references, "curve")


@pytest.mark.parametrize("text", ["AAAA", "AAAAAAAA8D8=AAAAAAAA8D8=", "AAAAAAAA8D8", "\u00e9", ""])
def test_a_series_of_another_length_among_many_is_refused_whatever_its_digest_says(
    text: str,
) -> None:
    references = [encode_inline({"curve": np.array([n])}) for n in (0.0, 1.0, 2.0)]
    changed = {**references[1], "inline": [references[1]["inline"][0], text]}
    changed["sha256"] = inline_digest({key: changed[key] for key in ("inline", "series")})
    with pytest.raises(ArchiveError):
        decode_inline_series([references[0], changed, references[2]], "curve")


def test_arrays_of_several_lengths_are_refused_even_if_they_are_long_enough_together() -> None:
    texts = [base64_of(np.zeros(length, "<f4")) for length in (1, 3)]
    with pytest.raises(ValueError, match="one length"):
        arrays_of(texts, "<f8", [1])


def _of_two_trials(values: np.ndarray[Any, Any], name: str) -> ArchivedStudy:
    storage, artifacts = InMemoryStudyStorage(name=name), f"memory://{name}"
    study = storage.create_study("s")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    for _ in range(2):
        trial = study.ask()
        trial.set_user_attr("result", archive.writer().write(trial.number, {"c": values}))
        study.tell(trial, 0.0)
    return ArchivedStudy.load("s", storage=storage, artifacts=artifacts)


@pytest.mark.parametrize("length", [3, 900])
@pytest.mark.parametrize("dtype", [">i4", ">f8", "<f2", "M8[D]", "m8[us]", "?", "M8[h]", "<c16"])
def test_a_table_of_series_has_whatever_type_arrow_has(
    dtype: str, length: int, request: pytest.FixtureRequest
) -> None:
    values = np.arange(length).astype(dtype) if dtype != "?" else np.arange(length) % 2 == 0
    archived = _of_two_trials(values, request.node.name)
    if dtype in ("M8[h]", "<c16"):
        with pytest.raises(ArchiveError, match=r"which a table cannot have.*result\(number\)"):
            archived.timeseries("c")
    else:
        table = archived.timeseries("c")
        assert_same(
            table["c"].to_numpy(), np.tile(values.astype(values.dtype.newbyteorder("=")), 2)
        )
        assert table["trial"].to_pylist() == [0] * length + [1] * length


@given(_results)
def test_results_come_back_with_structure_types_and_values(result: Any) -> None:
    content = encode_result(result)
    pa.feather.read_table(pa.BufferReader(content)).validate(full=True)
    assert_same(decode_result(content), result)


@pytest.mark.parametrize(
    ("kind", "bits"), [("f2", 0xFE01), ("f4", 0xFFC00000), ("f8", 0xFFF8_0000_0000_0007)]
)
def test_nan_alone_keeps_its_bits(kind: str, bits: int) -> None:
    array = np.array(bits, f"u{kind[1]}").view(kind)
    for value in (array, array[()], [array[()], 1.0]):
        found = decode_result(encode_result(value))
        first, expected = (one[0] if isinstance(one, list) else one for one in (found, value))
        assert first.tobytes() == expected.tobytes()


@given(
    st.integers(0, 20).flatmap(
        lambda n: st.dictionaries(
            st.text(min_size=1, max_size=4), npst.arrays(np.float64, n), min_size=1, max_size=4
        )
    )
)
def test_series_of_one_length_are_columns(result: dict[str, np.ndarray[Any, Any]]) -> None:
    content, spec = encode_with_spec(result)
    assert spec["layout"] == "aligned"
    table = pa.feather.read_table(pa.BufferReader(content))
    for name, values in result.items():
        np.testing.assert_array_equal(table.column(name).to_numpy(), values)


def test_axes_of_that_length_are_columns_before_the_series() -> None:
    result = {"hare": np.array([30.0, 47.2]), "lynx": [4.0, 6.1], "note": "ok", "ends": (1.0, 2, 3)}
    content = encode_result(result, {"year": [1900, 1901], "depth": [1, 2, 3]})
    table = pa.feather.read_table(pa.BufferReader(content))
    assert table.column_names == ["year", "hare", "lynx"]
    assert table.column("year").to_pylist() == [1900, 1901]
    assert_same(decode_result(content), result)


def test_a_series_keeps_its_name_when_an_axis_has_the_same() -> None:
    result = {"t": np.zeros(2), "x": np.ones(2)}
    content = encode_result(result, {"t": [5, 6]})
    assert pa.feather.read_table(pa.BufferReader(content)).column("t").to_pylist() == [0, 0]
    assert_same(decode_result(content), result)


def test_series_of_several_lengths_are_lists_in_one_row() -> None:
    result = {"field": np.arange(6.0).reshape(2, 3), "loss": [0.5] * 40}
    content, spec = encode_with_spec(result)
    assert spec == {
        "layout": "packed",
        "series": {
            "field": {"dtype": "<f8", "shape": [2, 3]},
            "loss": {"dtype": "<f8", "shape": [40]},
        },
    }
    table = pa.feather.read_table(pa.BufferReader(content))
    assert table.num_rows == 1
    assert table.column("field").to_pylist() == [[0, 1, 2, 3, 4, 5]]


def test_short_lists_do_not_keep_series_from_being_columns() -> None:
    content, spec = encode_with_spec({"x": np.zeros(50), "bounds": [0.0, 1.0], "t": (1, 2)})
    assert spec["layout"] == "aligned"
    assert decode_result(content)["bounds"] == [0.0, 1.0]
    assert decode_result(content)["t"] == (1, 2)


def test_nested_mappings_have_dotted_column_names() -> None:
    result = {"fit": {"a": np.zeros(3), "b": np.ones(3)}}
    table = pa.feather.read_table(pa.BufferReader(encode_result(result)))
    assert table.column_names == ["fit.a", "fit.b"]


def test_decoded_arrays_can_be_written_to() -> None:
    decode_result(encode_result({"x": np.zeros(3)}))["x"][0] = 1.0


def test_dataclasses_named_tuples_and_models_are_mappings() -> None:
    @dataclasses.dataclass
    class Run:
        loss: np.ndarray[Any, Any]
        steps: int

    class Model(BaseModel):
        rate: float

    Pair = namedtuple("Pair", "x y")
    result = {"run": Run(np.ones(2), 3), "model": Model(rate=0.5), "pair": Pair(1, "a")}
    expected = {
        "run": {"loss": np.ones(2), "steps": 3},
        "model": {"rate": 0.5},
        "pair": {"x": 1, "y": "a"},
    }
    assert_same(decode_result(encode_result(result)), expected)


_table = (
    pa.table(
        {
            "x": pa.chunked_array([[1, 2], [3]]),
            "when": [dt.date(2020, 1, 1), None, dt.date(2021, 1, 1)],
            "kind": pa.chunked_array(
                [
                    pa.array(["a", "b"]).dictionary_encode(),
                    pa.array(["c"]).dictionary_encode(),
                ]
            ),
        }
    )
    .unify_dictionaries()
    .replace_schema_metadata({"unit": "m"})
)


def test_a_table_is_written_as_it_is() -> None:
    content = encode_result(_table)
    decoded = decode_result(content)
    assert decoded.equals(_table)
    assert decoded.schema.metadata == {b"unit": b"m"}
    assert pa.feather.read_table(pa.BufferReader(content)).column("x").to_pylist() == [1, 2, 3]


def test_tables_among_other_values_come_back() -> None:
    batch = pa.record_batch({"y": [1.5, None]})
    decoded = decode_result(encode_result({"t": _table, "b": batch, "v": 1.5}))
    assert decoded["t"].equals(_table, check_metadata=True)
    assert isinstance(decoded["b"], pa.RecordBatch)
    assert decoded["b"].equals(batch)
    assert decoded["v"] == 1.5


def test_an_empty_table_comes_back() -> None:
    empty = pa.schema({"x": pa.int64()}).empty_table()
    assert decode_result(encode_result(empty)).equals(empty)
    assert decode_result(encode_result({"t": empty}))["t"].equals(empty)


def test_any_table_with_arrow_s_protocol_comes_back_as_arrow() -> None:
    class Frame:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return pa.table({"x": [1, 2]}).__arrow_c_stream__(requested_schema)

    assert decode_result(encode_result(Frame())).equals(pa.table({"x": [1, 2]}))


def test_pandas_objects_come_back() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"x": [1.5, 2.5], "kind": ["a", "b"]},
        index=pd.date_range("2020-01-01", periods=2, freq="D", name="day"),
    )
    pd.testing.assert_frame_equal(decode_result(encode_result(frame)), frame, check_freq=False)
    for series in (frame["x"], pd.Series([1, 2])):
        back = decode_result(encode_result({"s": series, "v": 1}))["s"]
        pd.testing.assert_series_equal(back, series, check_freq=False)
    with pytest.raises(CaptureError, match="Give each column one type"):
        encode_result({"f": pd.DataFrame({"x": [1, "a", object()]})})


def test_polars_objects_come_back() -> None:
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"x": [1.5, None], "kind": ["a", "b"]})
    assert decode_result(encode_result(frame)).equals(frame)
    back = decode_result(encode_result({"f": frame, "s": frame["x"]}))
    assert back["f"].equals(frame)
    assert back["s"].equals(frame["x"])


def test_xarray_objects_come_back() -> None:
    xr = pytest.importorskip("xarray")
    data = xr.Dataset(
        {"height": (("t", "x"), np.arange(6.0).reshape(2, 3), {"unit": "m"})},
        coords={"t": np.array(["2020-01-01", "2020-01-02"], "M8[ns]"), "x": [1, 2, 3]},
        attrs={"model": "waves"},
    )
    assert decode_result(encode_result(data)).identical(data)
    assert decode_result(encode_result({"h": data["height"]}))["h"].identical(data["height"])


class _Sensor:
    """Something nobody can archive."""


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"fit": {"sensor": _Sensor()}}, ["['fit']['sensor']", "_Sensor"]),
        ([1, threading.Lock()], ["[1]", "lock"]),
        (np.array([1, "a"], object), ["object", "astype"]),
        ({"m": np.ma.masked_array([1.0], [True])}, ["['m']", "MaskedArray", "filled"]),
        ({"s": np.zeros(2, [("a", int)])}, ["['s']", "one array for each field"]),
        ({"x": np.zeros(2, np.longdouble)}, ["['x']", "64 bits"]),
        ({"f": print}, ["['f']", "builtin_function_or_method"]),
        ({"bad": np.array(["\ud800"])}, ["['bad']"]),
        ({"t": pa.table([[1], [2]], names=["a", "a"])}, ["['t']", "two columns of one name"]),
    ],
)
def test_what_cannot_be_archived_is_named(result: Any, words: list[str]) -> None:
    with pytest.raises(CaptureError) as error:
        encode_result(result)
    for word in words:
        assert word in str(error.value)


def test_a_result_that_contains_itself_is_refused() -> None:
    result: dict[str, Any] = {}
    result["again"] = result
    with pytest.raises(CaptureError, match="contains itself"):
        encode_result(result)


@pytest.mark.parametrize("content", [b"", b"no arrow file", encode_result([1.0, 2.0])[:-9]])
def test_other_bytes_are_no_result(content: bytes) -> None:
    with pytest.raises(ArchiveError, match="Arrow file of an archived result"):
        decode_result(content)


def test_an_arrow_file_of_somebody_else_is_no_result() -> None:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, pa.schema({"x": pa.int64()})):
        pass
    with pytest.raises(ArchiveError, match="Arrow file of an archived result"):
        decode_result(sink.getvalue())


def test_a_newer_format_is_refused_with_the_way_out() -> None:
    table = pa.feather.read_table(pa.BufferReader(encode_result([1.0])))
    metadata = json.loads(table.schema.metadata[b"prefect_optuna"])
    newer = {b"prefect_optuna": json.dumps({**metadata, "format": 99}).encode()}
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata(newer)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write(table)
    with pytest.raises(ArchiveError, match="pip install --upgrade prefect-optuna"):
        decode_result(sink.getvalue())


def test_large_series_are_compressed() -> None:
    steps = np.repeat(np.arange(100.0), 1000)
    assert len(encode_result({"x": steps})) < steps.nbytes / 10
