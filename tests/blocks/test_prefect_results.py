"""What Prefect reads as a result where a block keeps them is data, whoever has written it."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.cache_policies import INPUTS
from prefect.results import (
    ResultRecord,  # pyright: ignore[reportPrivateImportUsage]
    ResultRecordMetadata,  # pyright: ignore[reportPrivateImportUsage]
    ResultStore,
)
from prefect.serializers import JSONSerializer, PickleSerializer

from prefect_optuna.blocks import ArtifactFileSystem, ArtifactLoadError

MODULE = "brought_along_by_a_result"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is there if code has run: that of a pickle, or of a module on Python's path."""
    marker = tmp_path / "ran"
    folder = tmp_path / "on the path"
    folder.mkdir()
    text = (
        f"open({str(marker)!r}, 'w').close()\nloads = dumps = compress = decompress = Model = int"
    )
    (folder / f"{MODULE}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(__import__("sys").modules, MODULE, raising=False)
    return marker


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def pickled(marker: Path) -> str:
    return base64.b64encode(pickle.dumps(Touch(marker))).decode()


def record(serializer: dict[str, Any] | None, result: str, **more: Any) -> bytes:
    metadata = {} if serializer is None else {"serializer": serializer}
    return json.dumps({"metadata": {**metadata, **more}, "result": result}).encode()


def _escaped(marker: Path) -> bytes:
    return record({"type": "pickle"}, pickled(marker)).replace(b"pickle", rb"\u0070ickle")


PLAIN = {"type": "json"}
# What somebody puts in the place of a result, and what the reader's own serializer is.
PAYLOADS: dict[str, tuple[Callable[[Path], bytes], Any]] = {
    "pickle": (lambda m: record({"type": "pickle"}, pickled(m)), JSONSerializer),
    "pickle by default": (lambda m: record(None, pickled(m)), JSONSerializer),
    "pickle, escaped": (_escaped, JSONSerializer),
    "two serializers": (
        lambda m: record({"type": "pickle"}, pickled(m)).replace(
            b'{"serializer"', b'{"serializer": {"type": "json"}, "serializer"'
        ),
        JSONSerializer,
    ),
    "a pickle library": (
        lambda m: record({"type": "pickle", "picklelib": MODULE}, "AA=="), JSONSerializer
    ),
    "a JSON library": (lambda m: record({**PLAIN, "jsonlib": MODULE}, "1"), JSONSerializer),
    "a decoder": (
        lambda m: record({**PLAIN, "object_decoder": f"{MODULE}.loads"}, "{}"), JSONSerializer
    ),
    "compressed": (
        lambda m: record(
            {"type": "compressed", "serializer": PLAIN, "compressionlib": MODULE}, "AA=="
        ),
        JSONSerializer,
    ),
    "a class": (
        lambda m: record(PLAIN, json.dumps([{"__class__": f"{MODULE}.Model", "data": 1}])),
        JSONSerializer,
    ),
    "an error": (
        lambda m: record(PLAIN, json.dumps({"__exc_type__": f"{MODULE}.Model", "message": ""})),
        JSONSerializer,
    ),
    "a module of a persistence class": (
        lambda m: record({"type": "persistence", "module": MODULE}, "ARROW1"), JSONSerializer
    ),
    "no record, read by pickle": (lambda m: pickled(m).encode(), PickleSerializer),
    "JSON text, read by pickle": (lambda m: json.dumps(pickled(m)).encode(), PickleSerializer),
    "a name of metadata, read by pickle": (
        lambda m: json.dumps({pickled(m): 1, "serializer": PLAIN, "storage_key": "x"}).encode(),
        PickleSerializer,
    ),
    "a broken record, read by pickle": (
        lambda m: record(PLAIN, "1", expiration=pickled(m)), PickleSerializer
    ),
    "a broken record with a class": (
        lambda m: record(PLAIN, "1", expiration="x", __class__=f"{MODULE}.Model", data=1),
        JSONSerializer,
    ),
    "of a former Prefect": (
        lambda m: json.dumps({"serializer": {"type": "pickle"}, "data": pickled(m)}).encode(),
        JSONSerializer,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_no_result_runs_code(name: str, way: str, tmp_path: Path, marker: Path) -> None:
    artifacts = ArtifactFileSystem(url=str(tmp_path / "results"))
    payload, serializer = PAYLOADS[name]
    artifacts.write_path("key", payload(marker))
    store = ResultStore(result_storage=artifacts, serializer=serializer())
    try:
        found = store.read("key") if way == "sync" else asyncio.run(store.aread("key"))
        assert type(found.result) in (int, dict)  # plain data
    except Exception:  # noqa: BLE001 - whatever it is, it is no result
        pass
    assert not marker.exists()


def test_most_of_it_runs_where_somebody_has_allowed_it(tmp_path: Path, marker: Path) -> None:
    artifacts = ArtifactFileSystem(url=str(tmp_path / "results"), allow_pickle=True)
    payload, serializer = PAYLOADS["pickle"]
    artifacts.write_path("key", payload(marker))
    ResultStore(result_storage=artifacts, serializer=serializer()).read("key")
    assert marker.exists()


def test_metadata_that_is_kept_apart_is_checked_as_well(tmp_path: Path, marker: Path) -> None:
    artifacts = ArtifactFileSystem(url=str(tmp_path / "results"))
    metadata = {"storage_key": "key", "serializer": {"type": "pickle"}}
    artifacts.write_path("meta", json.dumps(metadata).encode())
    artifacts.write_path("key", pickled(marker).encode())
    store = ResultStore(
        result_storage=artifacts, metadata_storage=artifacts, serializer=JSONSerializer()
    )
    with pytest.raises(ArtifactLoadError, match=r"set allow_pickle=True in the block"):
        store.read("meta")
    assert not marker.exists()


@pytest.mark.parametrize("result", [1, "text", [1.5, None, {"a": "é"}], {"metadata": 1}])
def test_plain_json_comes_back(result: Any, tmp_path: Path) -> None:
    artifacts = ArtifactFileSystem(url=str(tmp_path / "results"))
    metadata = ResultRecordMetadata(storage_key="key", serializer=JSONSerializer())
    content = ResultRecord(metadata=metadata, result=result).serialize()
    artifacts.write_path("key", content)
    store = ResultStore(result_storage=artifacts, serializer=JSONSerializer())
    found = store.read("key")
    assert found.result == result
    assert found.metadata == metadata
    assert artifacts.read_path("key") == content  # everybody else reads what is there


@pytest.mark.usefixtures("prefect_server")
def test_what_will_not_be_read_is_said_when_it_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts = ArtifactFileSystem(url=str(tmp_path / "results"))
    artifacts.save("results-by-pickle", overwrite=True, _sync=True)
    calls: list[int] = []

    def square(x: int) -> int:
        calls.append(x)
        return x * x

    def squares(serializer: str) -> list[int]:
        options: dict[str, Any] = {"persist_result": True, "result_storage": artifacts}
        squared = task(square, result_serializer=serializer, cache_policy=INPUTS, **options)
        return flow(lambda: [squared(3), squared(3)], name="squares")()

    assert squares("pickle") == [9, 9]
    assert calls == [3, 3]
    assert "will not be read again" in caplog.text
    caplog.clear()
    assert squares("json") == [9, 9]
    assert calls == [3, 3, 3]
    assert "will not be read again" not in caplog.text
