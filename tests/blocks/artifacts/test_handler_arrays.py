"""NPY and NPZ: arrays without pickle."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as np_st

from prefect_optuna.blocks import ArtifactLoadError, ArtifactLogError
from prefect_optuna.blocks.artifacts import (
    NPYArtifact,
    NPZArtifact,
    decode,
    encode,
    handler_for,
)
from prefect_optuna.errors import CorruptArtifactError

RECORDS = np.array([(1, 2.5, b"a")], [("n", "<i4"), ("x", ">f8"), ("s", "S2")])


@settings(max_examples=40)
@given(np_st.arrays(np_st.scalar_dtypes(), np_st.array_shapes(min_dims=0, min_side=0)))
def test_an_array_comes_back_with_type_and_shape(array: np.ndarray[Any, Any]) -> None:
    again = decode(NPYArtifact, encode(NPYArtifact, array))
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()
    assert again.flags.writeable


@pytest.mark.parametrize(
    "array", [RECORDS, np.asfortranarray(np.arange(6).reshape(2, 3)), np.arange(9)[::2]]
)
def test_arrays_of_any_layout_come_back(array: np.ndarray[Any, Any]) -> None:
    np.testing.assert_array_equal(decode(NPYArtifact, encode(NPYArtifact, array)), array)
    again = decode(NPZArtifact, encode(NPZArtifact, {"a": array}, compressed=True))
    np.testing.assert_array_equal(again["a"], array)


def test_numpy_reads_the_files_and_the_other_way_round() -> None:
    arrays = {"a": np.arange(3), "b.npy": np.eye(2), "c/d": np.zeros(0)}
    npz = np.load(io.BytesIO(encode(NPZArtifact, arrays)), allow_pickle=False)
    assert sorted(npz.files) == sorted(arrays)
    np.testing.assert_array_equal(npz["b.npy"], np.eye(2))
    file = io.BytesIO()
    np.savez_compressed(file, a=np.arange(3), b=np.eye(2))
    assert list(decode(NPZArtifact, file.getvalue())) == ["a", "b"]
    assert np.load(io.BytesIO(encode(NPYArtifact, np.arange(3)))).tolist() == [0, 1, 2]


def test_the_keys_of_an_npz_file_are_any_text() -> None:
    arrays = {key: np.array([i]) for i, key in enumerate(["file", "", "../a", "µ", "a.npy", "a"])}
    again = decode(NPZArtifact, encode(NPZArtifact, arrays))
    assert {key: array.tolist() for key, array in again.items()} == {
        key: array.tolist() for key, array in arrays.items()
    }
    assert list(again) == list(arrays)


def test_an_npz_file_does_not_depend_on_the_time() -> None:
    arrays = {"a": np.arange(3)}
    for compressed in (False, True):
        content = encode(NPZArtifact, arrays, compressed=compressed)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (entry,) = archive.infolist()
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)
        assert (entry.compress_type == zipfile.ZIP_DEFLATED) is compressed


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, 2], "is of type list"),
        (np.ma.masked_array([1], [True]), "MaskedArray"),
        (np.array([None]), "Python objects"),
        (np.zeros(1, [("a", "O")]), "Python objects"),
    ],
)
def test_what_is_no_plain_array_is_refused(value: Any, says: str) -> None:
    with pytest.raises(ArtifactLogError, match=says):
        encode(NPYArtifact, value)
    with pytest.raises(ArtifactLogError):
        encode(NPZArtifact, {"a": value})


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1], "found list"),
        ({"a": np.zeros(1), "b": 3}, "int at 'b'"),
        ({1: np.zeros(1)}, "the key 1"),
        ({"a\0b": np.zeros(1)}, "NUL"),
        ({"\ud800": np.zeros(1)}, "UnicodeEncodeError"),
    ],
)
def test_what_is_no_dictionary_of_arrays_is_refused(value: Any, says: str) -> None:
    with pytest.raises(ArtifactLogError, match=says):
        encode(NPZArtifact, value)


RAN: list[str] = []


class Payload:
    def __reduce__(self) -> Any:
        return run, ("the code of the file",)


def run(what: str) -> None:
    RAN.append(what)


def test_a_file_with_a_pickle_in_it_is_not_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.array([Payload()]), allow_pickle=True)
    with pytest.raises(CorruptArtifactError, match="allow_pickle=False"):
        decode(NPYArtifact, file.getvalue())
    with pytest.raises(ArtifactLoadError, match="no argument 'allow_pickle'"):
        decode(NPYArtifact, file.getvalue(), allow_pickle=True)
    assert RAN == []


def test_a_header_that_asks_for_all_the_memory_is_corrupt() -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1152921504606846,)}"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with pytest.raises(CorruptArtifactError, match="'npy'"):
        decode(NPYArtifact, content)


def test_a_flipped_bit_in_an_npz_file_is_found() -> None:
    content = bytearray(encode(NPZArtifact, {"a": np.arange(100)}))
    content[400] ^= 1
    with pytest.raises(CorruptArtifactError, match="Bad CRC"):
        decode(NPZArtifact, bytes(content))


def test_arrays_have_a_handler_and_dictionaries_of_arrays_only_as_well() -> None:
    array = np.zeros(2)
    assert handler_for(array) is NPYArtifact
    assert handler_for({"a": array, "b": array}) is NPZArtifact
    assert [handler_for(v).alias for v in ({}, {"a": array, "n": 3}, [array])] == ["json"] * 3
