"""The Arrow file of an object: exact, readable without this project, mapped, lazy, safe."""

from __future__ import annotations

import copy
import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from filesystems import s3_filesystem
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from prefect_optuna.tasks.persistence import (
    ArrowHandler,
    UnsupportedValueError,
    ZstdHandler,
    as_dict,
    field,
    load,
    persistence_class,
    save,
)
from prefect_optuna.tasks.persistence.container import Container, write_container
from prefect_optuna.tasks.persistence.info import same


@persistence_class
class Holder:
    key: str = field(validator=True, filename=True)
    count: int = 3
    power: Any


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.binary(max_size=20),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
DTYPES = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="?"),
    npst.unsigned_integer_dtypes(endianness="?"),
    npst.floating_dtypes(endianness="?"),
    npst.complex_number_dtypes(endianness="?"),
    npst.datetime64_dtypes(endianness="?"),
    npst.timedelta64_dtypes(endianness="?"),
    npst.byte_string_dtypes(min_len=1, max_len=5),
    npst.unicode_string_dtypes(min_len=1, max_len=5),
    npst.array_dtypes(allow_subarrays=True),
)
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
HASHABLE = st.one_of(st.text(), st.integers(), st.booleans(), st.none())
NESTED = st.recursive(
    st.one_of(SCALARS, ARRAYS, st.lists(st.floats(), min_size=17, max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(HASHABLE, inner, max_size=3),
        st.sets(HASHABLE, max_size=3),
    ),
    max_leaves=8,
)


def alike(one: Any, other: Any) -> bool:
    """Of the same type and value, down to the bits of arrays."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and (one.tobytes() == other.tobytes() or same(one, other))
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, complex):
        return alike(one.real, other.real) and alike(one.imag, other.imag)
    return one == other


@settings(max_examples=40)
@given(value=NESTED, compression=st.sampled_from([None, "zstd"]))
@example(value=np.array([["a\0b", "\0c"], ["", "é"]], order="F"), compression=None)
@example(value=np.array(b"\0\1"), compression=None)
def test_every_value_comes_back_as_it_was(value: Any, compression: str | None) -> None:
    file = io.BytesIO()
    write_container(file, {"value": value, "other": 1}, {}, compression=compression)
    container = Container(file.getvalue())
    try:
        assert alike(container.values()["value"], value)
        assert alike(Container(io.BytesIO(file.getvalue())).value("value"), value)
    finally:
        value = None


@settings(max_examples=40)
@given(content=st.binary(max_size=300), at=st.integers(0, 2000))
def test_damaged_bytes_are_an_error_or_a_whole_object(content: bytes, at: int) -> None:
    from prefect_optuna.tasks.persistence import CorruptPersistenceError

    file = io.BytesIO()
    write_container(file, {"x": np.arange(20.0), "y": {"z": [1, 2]}}, {})
    whole = file.getvalue()
    damaged = whole[:at] + content + whole[at + len(content) :]
    try:
        found = Container(damaged).values()
    except CorruptPersistenceError:
        return
    assert found.keys() == {"x", "y"}
    assert found["x"].shape == (20,)


def test_every_damaged_byte_of_the_header_is_an_error() -> None:
    from prefect_optuna.tasks.persistence import CorruptPersistenceError

    file = io.BytesIO()
    write_container(file, {"x": np.arange(20.0), "y": {"z": [1, 2]}}, {"class": "Holder"})
    whole = file.getvalue()
    header = b'{"format"'
    # The schema is there twice: before the values, and in the footer, which readers believe.
    start = whole.rindex(header)
    end = whole.index(b"}}", whole.index(b'"columns":', start))
    for at in range(start, end):
        damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        with pytest.raises(CorruptPersistenceError):
            Container(damaged).values()


@pytest.mark.parametrize("handler", [ArrowHandler, ZstdHandler])
def test_tables_come_back_as_they_were(tmp_path: Path, handler: Any) -> None:
    tables = {
        "pandas": pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=pd.Index([5, 6], name="i")),
        "series": pd.Series([1.5, 2.5], name="s"),
        "polars": pl.DataFrame({"q": [1.5, None]}),
        "arrow": pa.table({"k": [[1], [2, 3]]}),
        "rows only": pd.DataFrame(index=[1, 2, 3]),
    }
    handler(Holder, tmp_path).save_persistence(Holder("k", power=tables))
    found = ArrowHandler(Holder, tmp_path).load_persistence(Holder("k")).power
    pd.testing.assert_frame_equal(found["pandas"], tables["pandas"])
    pd.testing.assert_series_equal(found["series"], tables["series"])
    assert found["polars"].equals(tables["polars"])
    assert found["arrow"].equals(tables["arrow"])
    assert list(found["rows only"].index) == [1, 2, 3]


def test_the_file_opens_without_this_project(tmp_path: Path) -> None:
    power = {"left": np.arange(6.0).reshape(2, 3), "right": [0.5] * 20}
    save(Holder("lynx", power=power), tmp_path / "x.arrow")
    table = feather.read_table(tmp_path / "x.arrow")
    assert table.to_pylist() == [
        {
            "key": "lynx",
            "power.left": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            "power.right": [0.5] * 20,
            "count": 3,
        }
    ]
    assert table.schema.field("power.left").metadata == {b"dtype": b"<f8", b"shape": b"[2, 3]"}
    assert pl.read_ipc(tmp_path / "x.arrow")["key"].to_list() == ["lynx"]
    assert pd.read_feather(tmp_path / "x.arrow").shape == (1, 4)


def test_an_array_of_a_local_file_is_a_view_that_may_be_written_to(tmp_path: Path) -> None:
    save(Holder("k", power=np.arange(1000.0)), tmp_path / "x.arrow")
    before = (tmp_path / "x.arrow").read_bytes()
    power = load(Holder, tmp_path / "x.arrow").power
    base = power
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert type(base).__name__ in ("mmap", "memoryview")
    power[0] = 7.0
    assert power[0] == 7.0
    assert (tmp_path / "x.arrow").read_bytes() == before
    save(Holder("k", power=np.zeros(1000)), tmp_path / "x.arrow")
    assert power[999] == 999.0


def test_lazy_fields_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    save(Holder("k", power={"x": np.arange(5)}, count=4), tmp_path / "x.arrow")
    for travel in (lambda one: one, copy.copy, lambda one: pickle.loads(pickle.dumps(one))):
        found = travel(load(Holder, tmp_path / "x.arrow", lazy=True))
        assert (found.key, found.count) == ("k", 4)
        assert "power" not in vars(found)
        assert found.power["x"].tolist() == [0, 1, 2, 3, 4]
        assert found.power is found.power
        assert set(as_dict(found)) == {"key", "count", "power"}
        with pytest.raises(AttributeError, match="no attribute 'other'"):
            _ = found.other


def test_of_a_lazy_remote_object_only_what_is_asked_for_is_sent(s3_server: str) -> None:
    artifacts = s3_filesystem(s3_server, default_block_size=4096)
    handler = ArrowHandler(Holder, artifacts, lazy=True)
    handler.save_persistence(Holder("k", power={"x": np.arange(3), "big": np.zeros(500_000)}))

    file = artifacts.open("cache-Holder-k.arrow")
    sent = 0
    read = file.read

    def counting(size: int = -1) -> bytes:
        nonlocal sent
        content = read(size)
        sent += len(content)
        return content

    file.read = counting
    container = Container(file)
    assert container.header["class"] == "Holder"
    assert sent < 100_000
    assert handler.load_persistence(Holder("k")).power["x"].tolist() == [0, 1, 2]


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append({"again": value})
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"Holder\.power is of type builtins\.object"),
        ({"x": [1, lambda: 0]}, r"Holder\.power\.x\[1\] is of type builtins\.function"),
        (np.array([object()]), r"Holder\.power is an array of Python objects"),
        (np.ma.masked_array([1], [True]), r"Holder\.power is a MaskedArray"),
        (pa.table([[1], [2]], names=["a", "a"]), "two columns of one name"),
        (pd.DataFrame({"a": [1, "x"]}), "a column that Arrow cannot hold"),
        (cyclic(), "contains itself"),
    ],
)
def test_a_value_that_the_file_cannot_hold_is_named_with_its_place(
    tmp_path: Path, value: Any, message: str
) -> None:
    with pytest.raises(UnsupportedValueError, match=message):
        save(Holder("k", power=value), tmp_path / "x.arrow")
    assert list(tmp_path.iterdir()) == []


def test_an_array_keeps_its_order_in_memory_and_a_newer_format_is_refused(tmp_path: Path) -> None:
    from prefect_optuna.tasks.persistence import CorruptPersistenceError, container

    save(Holder("k", power=np.asfortranarray(np.ones((3, 4)))), tmp_path / "x.arrow")
    assert load(Holder, tmp_path / "x.arrow").power.flags.f_contiguous
    file = io.BytesIO()
    write_container(file, {}, {"format": container.FORMAT + 1})
    with pytest.raises(CorruptPersistenceError, match="pip install --upgrade"):
        Container(file.getvalue())
