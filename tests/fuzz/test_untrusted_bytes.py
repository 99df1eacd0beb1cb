"""What files and values of strangers have done to their readers: each stays a test."""

from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.trial import create_trial
from pydantic import SecretStr

from prefect_optuna.blocks import (
    ArchiveError,
    InMemoryStudyStorage,
    JournalStudyStorage,
    RedisStudyStorage,
    SQLStudyStorage,
    StorageUnavailableError,
    StudyStorage,
    as_artifact_filesystem,
)
from prefect_optuna.blocks.artifacts import decode, encode, find_handler
from prefect_optuna.blocks.codec import untrusted
from prefect_optuna.blocks.codec.untrusted import read_arrow
from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.errors import (
    ArtifactLoadError,
    ArtifactLogError,
    AttributeEncodingError,
    DamagedStorageError,
)
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import decode_result, encode_result
from prefect_optuna.tasks.archive.carrying import portable
from prefect_optuna.tasks.persistence import PersistenceError
from prefect_optuna.tasks.persistence.container import Container, write_container

# Arrow


def test_a_column_that_claims_more_values_than_it_has_gives_no_memory_away() -> None:
    content = encode_result(pa.table({"x": np.arange(40)}))
    forged = content.replace(struct.pack("<qq", 40, 0), struct.pack("<qq", 100_000, 0))
    at = content.rfind(struct.pack("<q", 40), 0, content.index(struct.pack("<qq", 40, 0)))
    forged = forged[:at] + struct.pack("<q", 100_000) + forged[at + 8 :]
    assert forged != content
    with pytest.raises(ArchiveError):
        decode_result(forged)


def test_text_whose_offsets_lead_out_of_the_file_is_refused() -> None:
    content = encode_result(pa.table({"x": ["lynx", "hare"]}))
    forged = content.replace(struct.pack("<3i", 0, 4, 8), struct.pack("<3i", 0, 4, 1 << 30))
    assert forged != content
    with pytest.raises(ArchiveError):
        decode_result(forged)


def test_categories_that_do_not_exist_are_refused() -> None:
    codes = pa.DictionaryArray.from_arrays(pa.array([77, 78, 79], pa.int32()), ["a"], safe=False)
    with pytest.raises(ArchiveError):
        decode_result(encode_result(pa.table({"x": codes})))


def test_what_claims_to_unpack_to_terabytes_is_refused_before_there_is_memory_for_it() -> None:
    content = encode_result({"x": np.zeros(20_000)})
    forged = content.replace(struct.pack("<q", 160_000), struct.pack("<q", 1 << 42))
    assert forged != content
    with pytest.raises(ArchiveError, match="would unpack to"):
        decode_result(forged)


def test_what_shrinks_to_nearly_nothing_is_written_so_that_it_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(untrusted, "UNPACKED", 1 << 16)
    monkeypatch.setattr("prefect_optuna.tasks.persistence.container.UNPACKED", 1 << 16)
    zeros = np.zeros(1 << 20)
    assert not decode_result(encode_result({"x": zeros}))["x"].any()
    file = io.BytesIO()
    write_container(file, {"x": zeros}, {}, compression="zstd")
    assert not Container(file.getvalue()).values()["x"].any()
    with pytest.raises(ArtifactLogError, match="without compression"):
        encode(find_handler("arrow"), pa.table({"x": zeros}), compression="zstd")


class _Opaque(pa.ExtensionType):
    made = 0

    def __init__(self) -> None:
        super().__init__(pa.int64(), "strangers.type")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"a pickle, perhaps"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> _Opaque:
        cls.made += 1
        return cls()


@pytest.mark.parametrize("alias", ["arrow", "parquet", "result"])
def test_no_class_of_an_extension_type_is_asked_to_read_a_file(alias: str) -> None:
    table = pa.table({"x": pa.ExtensionArray.from_storage(_Opaque(), pa.array([1]))})
    sink = io.BytesIO()
    if alias == "parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    pa.register_extension_type(_Opaque())
    try:
        _Opaque.made = 0
        read = decode_result if alias == "result" else partial(decode, find_handler(alias))
        with pytest.raises((ArchiveError, ArtifactLoadError), match="extension type"):
            read(sink.getvalue())
        assert _Opaque.made == 0
    finally:
        pa.unregister_extension_type("strangers.type")


def _parquet(**options: Any) -> bytes:
    sink = io.BytesIO()
    table = pa.table({"x": [1, None, 3], "text": ["a", "bb", None], "lists": [[1.5], [], None]})
    pq.write_table(table, sink, **options)
    return sink.getvalue()


# x: 1, None, 3; text: "a", "bb", None, with counts of levels, which older writers do not have.
COUNTED = base64.b64decode(
    "UEFSMRUEFSAVIEwVBBUAEgAAAQAAAAAAAAADAAAAAAAAABUAFRIVEiwVBhUQFQYVBhwYCAMAAAAAAAAAGAgBAAAAAA"
    "AAABYCKAgDAAAAAAAAABgIAQAAAAAAAAAREQAAAAIAAAADBQEDAhUEFRYVFkwVBBUAEgAAAQAAAGECAAAAYmIVABUS"
    "FRIsFQYVEBUGFQYcNgIoAmJiGAFhEREAAAACAAAAAwMBAwIVBBk8NQAYBnNjaGVtYRUEABUEJQIYAXgAFQwlAhgEdG"
    "V4dCUATBwAAAAWBhkcGSwmABwVBBk1AAYQGRgBeBUAFgYWzAEWzAEmRCYIHBgIAwAAAAAAAAAYCAEAAAAAAAAAFgIo"
    "CAMAAAAAAAAAGAgBAAAAAAAAABERABksFQQVABUCABUAFRAVAgA8KQYZJgIEAAAAJgAcFQwZNQAGEBkYBHRleHQVAB"
    "YGFoABFoABJoYCJtQBHDYCKAJiYhgBYRERABksFQQVABUCABUAFRAVAgA8FgYZBhkmAgQAAAAWzAIWBiYIFswCACgg"
    "cGFycXVldC1jcHAtYXJyb3cgdmVyc2lvbiAyNi4wLjEZLBwAABwAAAAUAQAAUEFSMQ=="
)

READS_PARQUET = """
import sys
from prefect_optuna.blocks.artifacts import decode, find_handler
from prefect_optuna.errors import ArtifactLoadError

try:
    decode(find_handler("parquet"), sys.stdin.buffer.read())
except ArtifactLoadError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["levels", "letters", "encrypted", "columns"])
def test_what_arrow_throws_where_nobody_catches_is_an_error(what: str) -> None:
    content = COUNTED
    start = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    footer = content[start:-8]
    first = footer.index(b"&\x00\x1c\x15\x04")  # the columns, in Thrift's compact encoding
    second = footer.index(b"&\x00\x1c\x15\x0c")
    match what:
        case "levels":
            forged = footer.replace(b"\x26\x02\x04", b"\x36\x02\x04\x00")
        case "letters":  # of a column of numbers
            forged = footer.replace(b"<)\x06\x19&\x02\x04", b"<\x16\x06\x19\x06\x19&\x02\x04", 1)
        case "encrypted":
            key = b"\x5c\x2c\x19\x18\x01x\x00\x00"
            forged = footer[: second - 1] + key + footer[second - 1 :]
        case _:  # one more than in the schema
            forged = footer.replace(b"\x19,&", b"\x19<" + footer[first:second] + b"&", 1)
    assert forged != footer
    forged = content[:start] + forged + struct.pack("<I", len(forged)) + b"PAR1"
    reader = subprocess.run(
        [sys.executable, "-c", READS_PARQUET], input=forged, capture_output=True, check=False
    )
    assert reader.returncode == 0, reader.stderr[-2000:]
    assert b"cannot read these" in reader.stdout


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("page_index", [True, False])
def test_parquet_files_of_several_groups_of_rows_are_read(
    compression: str, page_index: bool
) -> None:
    content = _parquet(compression=compression, write_page_index=page_index, row_group_size=1)
    assert decode(find_handler("parquet"), content).to_pydict()["text"] == ["a", "bb", None]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"pandas_type": "int64"', b'"pandas_type": "<S2000000000"'),
        (b'"numpy_type": "int64"', b'"numpy_type": "<S2000000000"'),
        (b'"name": "x"', b'"name": {"x": 1}'),
    ],
)
def test_what_pandas_has_noted_on_a_table_takes_no_gigabytes(before: bytes, after: bytes) -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"x": [1, 2, 3]}))
    notes = table.schema.metadata[b"pandas"]
    assert before in notes
    forged = table.replace_schema_metadata({b"pandas": notes.replace(before, after)})
    for alias in ("arrow", "parquet"):
        sink = io.BytesIO()
        if alias == "parquet":
            pq.write_table(forged, sink)
        else:
            with pa.ipc.new_file(sink, forged.schema) as writer:
                writer.write_table(forged)
        with pytest.raises(ArtifactLoadError, match=r"too long|of that name"):
            decode(find_handler(alias), sink.getvalue(), as_="pandas")


def test_types_that_nobody_reads_are_not_written() -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1 << 30], pa.int32()), pa.array([1]))
    with pytest.raises(ArchiveError, match="run_end_encoded"):
        encode_result(pa.table({"x": runs}))


def test_text_that_comes_often_in_a_parquet_file_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(untrusted, "UNPACKED", 1 << 20)
    file = io.BytesIO()
    pq.write_table(pa.table({"x": ["lynx" * 10_000] * 3000}), file, compression="zstd")
    assert len(file.getvalue()) < 50_000
    with pytest.raises(ArtifactLoadError, match="would unpack to"):
        decode(find_handler("parquet"), file.getvalue())


def test_a_persisted_object_whose_header_is_of_something_else_is_refused() -> None:
    sink = io.BytesIO()
    header = json.dumps({"format": 1, "values": None, "columns": {}}).encode()
    table = pa.table({"x": [1]}).replace_schema_metadata({b"prefect_optuna.persistence": header})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(PersistenceError):
        Container(sink.getvalue()).values()


def test_text_that_would_be_padded_to_gigabytes_is_refused() -> None:
    content = encode_result({"x": np.array(["a", "b", "c"])})
    forged = content.replace(b'"<U1"', b'"<U9"')
    assert decode_result(forged)["x"].dtype == np.dtype("<U9")
    table = pa.ipc.open_file(content).read_all()
    metadata = table.schema.metadata[b"prefect_optuna"].replace(b"<U1", b"<U500000000")
    sink = io.BytesIO()
    table = table.replace_schema_metadata({b"prefect_optuna": metadata})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ArchiveError, match="would take 6,000,000,000"):
        decode_result(sink.getvalue())


@pytest.mark.parametrize("shape", [["9" * 40, 3], "9" * 40, [3, -1], [True], [1.5], [[1]]])
def test_a_shape_that_is_none_is_refused_before_it_is_multiplied(shape: Any) -> None:
    # A number times a text is the text, so many times over: it took the memory that there was.
    with pytest.raises(ValueError, match="no shape"):
        untrusted.array_size(np.dtype("<f8"), shape)
    content = encode_result({"x": np.arange(3.0)})
    table = pa.ipc.open_file(content).read_all()
    metadata = json.loads(table.schema.metadata[b"prefect_optuna"])
    metadata["series"][0]["shape"] = shape
    sink = io.BytesIO()
    table = table.replace_schema_metadata({b"prefect_optuna": json.dumps(metadata).encode()})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ArchiveError, match="no shape"):
        decode_result(sink.getvalue())


# NPY, NPZ, JSON, YAML


def _npy(header: dict[str, Any], content: bytes = b"\0" * 64) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


@pytest.mark.parametrize(
    ("shape", "descr"),
    [((1 << 40,), "<f8"), ((3,), "S2000000000"), ((1 << 62, 4), "<f8"), ((1 << 50,), "|V0")],
)
def test_an_array_that_is_larger_than_its_file_is_refused(
    shape: tuple[int, ...], descr: str
) -> None:
    content = _npy({"shape": shape, "descr": descr, "fortran_order": False})
    with pytest.raises(ArtifactLoadError, match="claims an array"):
        decode(find_handler("npy"), content)


def _compressed_otherwise(method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", encode(find_handler("npy"), np.zeros(1000)))
    return file.getvalue()


def _twice() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("x.npy", encode(find_handler("npy"), np.zeros(3)))
    return file.getvalue()


def _overlapping() -> bytes:
    content = encode(find_handler("npz"), {"a": np.zeros(100), "b": np.zeros(100)})
    at = content.rindex(b"PK\x01\x02")
    return content[: at + 42] + struct.pack("<I", 0) + content[at + 46 :]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_compressed_otherwise(zipfile.ZIP_BZIP2), "another way than by deflating"),
        (_compressed_otherwise(zipfile.ZIP_LZMA), "another way than by deflating"),
        (_twice(), "one name"),
        (_overlapping(), "overlap"),
    ],
)
def test_zip_files_with_tricks_are_refused(content: bytes, words: str) -> None:
    with pytest.raises(ArtifactLoadError, match=words):
        decode(find_handler("npz"), content)


@pytest.mark.parametrize(
    "value",
    [
        {"$fraction": "1e20000"},
        {"$deque": [{"$range": [0, 10**6, 1]}, None]},
        {"$counter": [{"$range": [0, 10**6, 1]}]},
        {"$scalar": ["S200000000", "x"]},
        {"$array": ["U20000000", [1], ["x"]]},
        {"$array": ["O", [1], [{}]]},
        {"$array": ["S200000000", [2], ["x", "x"]]},
        {"$array_bytes": ["S200000000", [0], ""]},
        {"$dtype": "(100000000,)f8"},
        {"$xarray": ["open_dataset", {}], "$x": {"$pattern": ["(" * 9000, 0]}},
    ],
)
def test_values_that_cost_more_than_their_text_are_refused(value: Any) -> None:
    content = json.dumps(value).encode()
    if "$array_bytes" in value or "$x" in value:
        with pytest.raises(ArtifactLoadError):
            decode(find_handler("json"), content.replace(b"[0]", b"[7]"))
        return
    with pytest.raises(ArtifactLoadError):
        decode(find_handler("json"), content)


def test_a_pattern_of_somebody_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    pattern = decode(find_handler("json"), b'{"$pattern": ["a+", 160]}')
    assert pattern.fullmatch("aaa")
    assert capsys.readouterr().out == ""


def test_padded_text_in_json_comes_back_all_the_same() -> None:
    array = np.zeros(100, "U5000")
    again = decode(find_handler("json"), encode(find_handler("json"), array))
    assert again.dtype == array.dtype
    assert (again == array).all()


def test_aliases_of_aliases_in_yaml_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    with pytest.raises(ArtifactLoadError, match="than it has text"):
        decode(find_handler("yaml"), "\n".join(lines).encode())
    shared = [1, 2]
    assert decode(find_handler("yaml"), encode(find_handler("yaml"), [shared, shared])) == [
        shared,
        shared,
    ]


# Exports


SCALE = np.linspace(0.0, 1.0, 10)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def run(params: dict[str, float]) -> dict[str, Any]:
    return {"curve": params["x"] * SCALE}


def evaluate(result: dict[str, Any]) -> float:
    return float(result["curve"].sum())


def _exported(name: str, path: Path, **attributes: Any) -> Path:
    storage = InMemoryStudyStorage(name=f"untrusted-{name}")
    study = storage.create_study("hares", load_if_exists=True)
    archive = OptunaArchive(study, artifacts=f"memory://untrusted-{name}")
    archive.save_problem(Problem(suggest=suggest, run=run, evaluate=evaluate))
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    study.tell(study.ask(), 1.0)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=archive.artifacts)
    return archived.export(path / "hares.zip")


def _imported(name: str, path: Path) -> ArchivedStudy:
    name = f"memory://untrusted-to-{name}"
    return ArchivedStudy.import_(path, storage=name, artifacts=name)


def _rewritten(path: Path, change: Callable[[str, bytes], bytes], method: int) -> Path:
    with zipfile.ZipFile(path) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(path, "w") as target:
        for name, content in entries.items():
            is_file = name.startswith("files/")
            target.writestr(name, change(name, content), 0 if is_file else method)
    return path


def test_a_hundred_megabytes_of_one_letter_go_through_a_file(tmp_path: Path) -> None:
    path = _exported("large", tmp_path, note="x" * 100_000_000)
    assert path.stat().st_size < 1_000_000
    assert len(_imported("large", path).study.user_attrs["note"]) == 100_000_000


def test_documents_of_an_export_unpack_to_so_much_and_larger_ones_are_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _exported("limit", tmp_path, note="x" * 100_000)
    monkeypatch.setattr(portable, "_MAX_UNPACKED", 50_000)
    with pytest.raises(ArchiveError, match="unpacks to more than 50,000"):
        _imported("limit", path)
    again = _exported("limit-again", tmp_path, note="x" * 100_000)
    assert len(_imported("limit-again", again).study.user_attrs["note"]) == 100_000


def test_an_export_that_is_compressed_in_another_way_is_refused(tmp_path: Path) -> None:
    path = _exported("bzip2", tmp_path)
    _rewritten(path, lambda _, content: content, zipfile.ZIP_BZIP2)
    with pytest.raises(ArchiveError, match="another way than by deflating"):
        _imported("bzip2", path)


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_an_export_with_what_nobody_could_read_again_is_refused(tmp_path: Path) -> None:
    path = _exported("deep", tmp_path, note="here")

    def change(name: str, content: bytes) -> bytes:
        return content.replace(b'"here"', json.dumps(_nested(300)).encode())

    _rewritten(path, change, zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match="nested in more than"):
        _imported("deep", path)
    assert InMemoryStudyStorage(name="untrusted-to-deep").study_names() == []


def test_an_attribute_of_something_else_is_damage() -> None:
    storage, artifacts = InMemoryStudyStorage(name="untrusted-series"), "memory://untrusted-series"
    study = storage.create_study("hares")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(Problem(suggest=suggest, run=run, evaluate=evaluate))
    archive.study_add_axis("t", [1, 2, 3])
    trial = study.ask()
    archive.trial_add_timeseries(trial, "loss", [3.0, 2.0, 1.0], ["t"])
    forged = {**trial.user_attrs["timeseries:loss"], "axes": {"t": []}}
    trial.set_user_attr("timeseries:loss", forged)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    with pytest.raises(ArchiveError, match="is damaged"):
        archived.timeseries("loss")


# Attributes


def _storage(kind: str, folder: Path, redis_server: str) -> StudyStorage:
    match kind:
        case "memory":
            return InMemoryStudyStorage(name=f"untrusted-{folder.name}")
        case "journal":
            return JournalStudyStorage(path=folder / "studies.journal")
        case "sqlite":
            return SQLStudyStorage(url=SecretStr(f"sqlite:///{folder / 'studies.db'}"))
        case _:
            return RedisStudyStorage(url=SecretStr(redis_server), namespace=folder.name)


@pytest.mark.parametrize("kind", ["memory", "journal", "sqlite", "redis"])
@pytest.mark.parametrize("value", [_nested(700), {"a": 10**5000}], ids=["nested", "digits"])
def test_what_nobody_could_read_again_is_refused_when_it_is_set(
    kind: str, value: Any, tmp_path: Path, redis_server: str
) -> None:
    storage = _storage(kind, tmp_path, redis_server)
    study = storage.create_study("hares")
    with pytest.raises(AttributeEncodingError, match="'note'"):
        study.set_user_attr("note", value)
    with pytest.raises(AttributeEncodingError, match="'note'"):
        study.ask().set_user_attr("note", value)
    with pytest.raises(AttributeEncodingError, match="'note'"):
        study.add_trial(create_trial(value=1.0, user_attrs={"note": value}))
    study.set_user_attr("note", _nested(99))
    again = _storage(kind, tmp_path, redis_server).load_study("hares")
    assert again.user_attrs["note"] == _nested(99)
    assert len(again.trials) == 1


def test_a_journal_that_is_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "studies.journal"
    JournalStudyStorage(path=path).create_study("hares")
    text = '{"op_code": 2, "study_id": 0, "user_attr": {"a": ' + "[" * 5000 + "]" * 5000 + "}}\n"
    path.write_text(path.read_text() + text)
    with pytest.raises(StorageUnavailableError, match="is damaged"):
        JournalStudyStorage(path=path).study_names()


@pytest.mark.parametrize(
    "record",
    [
        {"op_code": 0, "study_name": 7, "directions": [1]},
        {"op_code": 2, "study_id": 0, "user_attr": {"a": _nested(400)}},
        {"op_code": 3, "study_id": 0, "system_attr": {"a": _nested(400)}},
        {"op_code": 5, "trial_id": 0, "param_name": "k", "param_value_internal": 0, "distribution":
            json.dumps({"name": "CategoricalDistribution",
                        "attributes": {"choices": [_nested(400)]}})},
        {"op_code": 5, "trial_id": 0, "distribution": distribution_to_json(FloatDistribution(0, 1)),
            "param_name": "x", "param_value_internal": _nested(400)},
        {"op_code": 6, "trial_id": 0, "state": 1, "values": ["high"], "datetime_complete": None},
        {"op_code": 7, "trial_id": 0, "step": 1, "intermediate_value": {"a": 1}},
        {"op_code": 8, "trial_id": 0, "user_attr": {"a": _nested(400)}},
        {"op_code": 9, "trial_id": 0, "system_attr": {"a": _nested(400)}},
        {"op_code": 4, "study_id": 0, "datetime_start": None, "state": 1, "value": "high"},
        {"op_code": 4, "study_id": 0, "datetime_start": None, "user_attrs": {"a": _nested(400)}},
    ],
    ids=lambda record: f"{record['op_code']}-{list(record)[-1]}",
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Choices for a categorical distribution")
def test_a_journal_with_a_line_that_nobody_could_use_is_damaged(
    record: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "studies.journal"
    JournalStudyStorage(path=path).create_study("hares").ask()
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"worker_id": "stranger", **record}) + "\n")
    with pytest.raises(StorageUnavailableError, match="is damaged"):
        _ = JournalStudyStorage(path=path).load_study("hares").trials


@pytest.mark.parametrize("depth", [200, 5000])  # 200 is read, and copied, by any Python
def test_a_redis_value_that_is_nested_too_deeply_is_damage(
    depth: int, tmp_path: Path, redis_server: str
) -> None:
    import redis

    storage = _storage("redis", tmp_path, redis_server)
    storage.create_study("hares").set_user_attr("note", "hares")
    with redis.Redis.from_url(redis_server) as client:
        key = next(
            key for key in client.keys("*") if tmp_path.name.encode() in key and b"user" in key
        )
        client.hset(key, '"note"', "[" * depth + "]" * depth)
        with pytest.raises(DamagedStorageError):
            _ = _storage("redis", tmp_path, redis_server).load_study("hares").user_attrs
        client.delete(key)


def test_a_trial_in_redis_that_is_nested_too_deeply_to_be_copied_is_damage(
    tmp_path: Path, redis_server: str
) -> None:
    import redis

    study = _storage("redis", tmp_path, redis_server).create_study("hares")
    study.add_trial(create_trial(value=1.0, user_attrs={"note": "hares"}))
    with redis.Redis.from_url(redis_server) as client:
        (key,) = (k for k in client.keys(f"*{tmp_path.name}*finished"))
        nested = b"[" * 485 + b"]" * 485  # which is decoded, and copied no more
        client.lset(key, 0, client.lindex(key, 0).replace(b'"hares"', nested))
        with (
            closing(RedisStorage(redis_server, namespace=tmp_path.name)) as reader,
            pytest.raises(DamagedStorageError, match="RecursionError"),
        ):
            reader.get_all_trials(reader.get_study_id_from_name("hares"))


@pytest.mark.parametrize("count", [1, 10**12])
def test_a_count_of_trials_that_is_wrong_is_damage(
    count: int, tmp_path: Path, redis_server: str
) -> None:
    import redis

    study = _storage("redis", tmp_path, redis_server).create_study("hares")
    for _ in range(3):
        study.ask()
    with redis.Redis.from_url(redis_server) as client:
        (key,) = (k for k in client.keys(f"*{tmp_path.name}*meta"))
        client.hset(key, "next", count)
        with pytest.raises(DamagedStorageError):
            _ = _storage("redis", tmp_path, redis_server).load_study("hares").trials


def test_a_bracket_in_the_name_of_a_memory_is_only_a_bracket() -> None:
    assert as_artifact_filesystem("memory://[::1/x").location() == "memory://[::1/x"


def test_a_column_whose_name_is_no_utf_8_is_refused() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"a column": [1.0]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = sink.getvalue().to_pybytes()
    assert read_arrow(content).num_rows == 1
    with pytest.raises(ValueError, match="no UTF-8"):
        read_arrow(content.replace(b"a column", b"\xff column"))
