"""What every artifact is and does, whatever its handler."""

from __future__ import annotations

import copy
import io
import json
import pickle
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import IO, Any, ClassVar

import pytest

from prefect_optuna.blocks import (
    ArtifactError,
    ArtifactLoadError,
    ArtifactLogError,
    InvalidVersionError,
    PrefectOptunaError,
    ReadOnlyError,
    VersionNotFoundError,
)
from prefect_optuna.blocks.artifacts import (
    Artifact,
    CSVArtifact,
    JSONArtifact,
    PickleArtifact,
    PydanticArtifact,
    TextArtifact,
    decode,
    encode,
    handlers,
)
from prefect_optuna.errors import CorruptArtifactError, InvalidSettingError, UnknownHandlerError

ALL = sorted(handlers().values(), key=lambda handler: handler.alias)
BY_ALIAS = pytest.mark.parametrize("handler", ALL, ids=lambda handler: handler.alias)


@BY_ALIAS
def test_LZ1_a_handler_is_a_slotted_unhashable_artifact(handler: type[Artifact]) -> None:
    artifact = handler.construct("a name")
    assert isinstance(artifact, Artifact)
    assert not hasattr(artifact, "__dict__")
    with pytest.raises(TypeError, match="unhashable"):
        hash(artifact)
    assert isinstance(handler.alias, str)
    assert isinstance(handler.suffix, str)
    assert isinstance(handler.binary, bool)
    assert handler.output_only is (handler.alias in ("png", "svg", "html"))


def test_LZ1_the_base_cannot_be_constructed() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Artifact.construct("a", fname="a")


def test_LZ2_artifacts_are_equal_where_the_fields_of_their_handler_are() -> None:
    assert JSONArtifact.construct("a") == JSONArtifact.construct("b", value=3, version=2)
    assert PickleArtifact.construct("a", python_version="3.10") != PickleArtifact.construct(
        "a", python_version="3.11"
    )
    assert JSONArtifact.construct("a") != TextArtifact.construct("a")


def test_LZ3_construct_fills_in_what_is_left_out() -> None:
    before = datetime.now(UTC)
    artifact = JSONArtifact.construct("My feature names", value=[1], unknown="ignored")
    assert before <= artifact.created_at <= datetime.now(UTC)
    assert artifact.created_at.tzinfo is UTC
    assert artifact.fname == f"my-feature-names-{artifact.created_at:%Y%m%d%H%M%S}.json"
    assert artifact.value == [1]
    assert artifact.writer_kwargs == {}
    assert (artifact.version, artifact.dirty, artifact.expiry) == (0, True, None)


def test_LZ3_construct_keeps_what_is_given() -> None:
    here = timezone(timedelta(hours=2))
    artifact = JSONArtifact.construct(
        "a",
        fname="own.json",
        created_at=datetime(2025, 1, 20, 13, 23, 30, 7),  # noqa: DTZ001
        expiry=datetime(2025, 1, 20, 2, tzinfo=here),
        writer_kwargs={"indent": 4},
        version=3,
        dirty=False,
    )
    assert artifact.fname == "own.json"
    assert artifact.created_at == datetime(2025, 1, 20, 13, 23, 30, 7, tzinfo=UTC)
    assert artifact.expiry == datetime(2025, 1, 20, tzinfo=UTC)
    assert artifact.writer_kwargs == {"indent": 4}
    assert (artifact.version, artifact.dirty) == (3, False)


@pytest.mark.parametrize(
    ("name", "fname", "expected"),
    [
        ("My feature names", None, "my-feature-names-20250120132330.json"),
        ("a", "", "a-20250120132330.json"),
        ("Überlänge µ", None, "uberlange-m-20250120132330.json"),
        ("???", None, "artifact-20250120132330.json"),
    ],
)
def test_LZ3_a_file_is_named_after_the_artifact(
    name: str, fname: str | None, expected: str
) -> None:
    created_at = datetime(2025, 1, 20, 13, 23, 30, tzinfo=UTC)
    assert JSONArtifact.construct(name, fname=fname, created_at=created_at).fname == expected


@pytest.mark.parametrize("fname", ["../../esc.json", "/etc/esc.json", "C:esc.json", "a\\b", "a\0"])
def test_LZ21_a_file_name_never_leads_out(fname: str) -> None:
    with pytest.raises(InvalidSettingError, match="artifact path"):
        JSONArtifact.construct("a", fname=fname)
    assert "/" not in JSONArtifact.construct("../../esc").fname


def test_LZ7_a_pickled_artifact_holds_its_value_as_its_handler_writes_it() -> None:
    csv = CSVArtifact.construct("t", table(), writer_kwargs={"delimiter": ";"}, version=4)
    assert b"1;2" in pickle.dumps(csv)
    again = pickle.loads(pickle.dumps(csv))
    assert type(again) is CSVArtifact
    assert again.value.to_pydict() == {"x": [1], "y": [2]}
    assert (again.name, again.version, again.created_at) == ("t", 4, csv.created_at)
    assert again.writer_kwargs == {"delimiter": ";"}


def test_LZ7_an_artifact_without_a_value_stays_one() -> None:
    assert pickle.loads(pickle.dumps(JSONArtifact.construct("a"))).value is None


def test_LZ7_every_handler_gives_the_value_of_a_pickled_artifact_back() -> None:
    listed = JSONArtifact.construct("a", (1, {2}))
    assert copy.deepcopy(listed).value == (1, {2})
    pickled = PickleArtifact.construct("a", Ellipsis, writer_kwargs={"allow_pickle": True})
    assert pickle.loads(pickle.dumps(pickled)).value is Ellipsis
    model = PydanticArtifact.construct("a", local_model())
    assert pickle.loads(pickle.dumps(model)).value == model.value
    with pytest.raises(ArtifactLogError, match="allow_pickle=True"):
        pickle.dumps(PickleArtifact.construct("a", 1))


def test_LZ18_a_handler_gets_a_file_of_its_kind_and_its_arguments() -> None:
    seen: list[Any] = []

    class Probe(Artifact):
        __slots__ = ()
        alias: ClassVar[str] = "probe"
        suffix: ClassVar[str] = "probe"
        binary: ClassVar[bool] = False

        @classmethod
        def write(cls, obj: Any, buf: IO[Any], **writer_kwargs: Any) -> None:
            seen.append((type(buf), writer_kwargs))
            buf.write(obj if cls.binary is False else obj.encode())

        @classmethod
        def read(cls, buf: IO[Any], **reader_kwargs: Any) -> Any:
            seen.append((type(buf), reader_kwargs))
            return buf.read()

    assert encode(Probe, "µ\r\n", a=1) == b"\xc2\xb5\r\n"
    assert decode(Probe, b"\xc2\xb5\r\n", b=2) == "µ\r\n"
    Probe.binary = True
    assert encode(Probe, "µ") == b"\xc2\xb5"
    assert decode(Probe, b"\xc2\xb5") == b"\xc2\xb5"
    text, binary = io.TextIOWrapper, io.BytesIO
    assert seen == [(text, {"a": 1}), (text, {"b": 2}), (binary, {}), (binary, {})]


@pytest.mark.parametrize(
    ("error", "also"),
    [
        (ArtifactError, PrefectOptunaError),
        (ArtifactLogError, ArtifactError),
        (ArtifactLogError, ValueError),
        (ArtifactLoadError, ArtifactError),
        (CorruptArtifactError, ArtifactLoadError),
        (ArtifactLoadError, ArtifactLoadError),
        (UnknownHandlerError, ValueError),
        (VersionNotFoundError, LookupError),
        (InvalidVersionError, ValueError),
        (ReadOnlyError, PermissionError),
    ],
)
def test_LZ34_the_errors_have_one_root_and_are_builtins(
    error: type[Exception], also: type[Exception]
) -> None:
    assert issubclass(error, also)
    assert issubclass(error, PrefectOptunaError)


@BY_ALIAS
def test_LZ34_a_value_that_a_handler_cannot_write_is_an_error_that_names_both(
    handler: type[Artifact],
) -> None:
    with pytest.raises(ArtifactLogError) as caught:
        encode(handler, (i for i in ()), **permission(handler))
    assert handler.alias in str(caught.value) or "JSON" in str(caught.value)
    assert "generator" in str(caught.value)


@BY_ALIAS
def test_LZ34_bytes_that_a_handler_cannot_read_are_an_error_that_names_it(
    handler: type[Artifact],
) -> None:
    for content in (b"\x80\x05broken\xff", b"\xff\xfe\x00"):
        with pytest.raises(ArtifactLoadError, match=f"'{handler.alias}'"):
            decode(handler, content, **permission(handler))
    if not permission(handler):
        with pytest.raises(CorruptArtifactError):
            decode(handler, content)


@BY_ALIAS
def test_an_unknown_argument_is_refused_when_writing_and_reading(handler: type[Artifact]) -> None:
    value = example(handler)
    with pytest.raises(ArtifactLogError, match="nonsense"):
        encode(handler, value, nonsense=1, **permission(handler))
    content = encode(handler, value, **permission(handler))
    with pytest.raises(ArtifactLoadError, match="nonsense"):
        decode(handler, content, nonsense=1, **permission(handler))


@BY_ALIAS
def test_the_same_value_gives_the_same_bytes(handler: type[Artifact]) -> None:
    once, again = (encode(handler, example(handler), **permission(handler)) for _ in range(2))
    assert once == again


@pytest.mark.parametrize(
    "alias",  # half of a text is a text: the checksum of the repository tells
    sorted(handlers().keys() - {"text", "markdown", "yaml", "csv"}),
)
def test_truncated_content_is_an_error_and_no_value(alias: str) -> None:
    handler = handlers()[alias]
    content = encode(handler, example(handler), **permission(handler))
    with pytest.raises(ArtifactLoadError, match=handler.alias):
        decode(handler, content[: len(content) // 2 if not handler.output_only else 5])


def test_a_failing_handler_leaves_no_half_value() -> None:
    buffer = io.StringIO()
    with pytest.raises(ArtifactLogError):
        JSONArtifact.write({"fine": 1, "not": open}, buffer)
    assert buffer.getvalue() == ""


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joblib", None)
    joblib = handlers()["joblib"]
    with pytest.raises(ArtifactLogError, match="pip install joblib"):
        encode(joblib, 1, allow_pickle=True)
    with pytest.raises(ArtifactLoadError, match="pip install joblib"):
        decode(joblib, b"", allow_pickle=True)


def test_a_handler_of_somebody_else_records_fields_of_its_own() -> None:
    @dataclass(slots=True)
    class Onnx(TextArtifact):
        alias: ClassVar[str] = "onnx"
        opset: int = 21

    assert Onnx.construct("a").environment() == {"opset": 21}
    assert Onnx.construct("a", opset=20).environment() == {"opset": 20}
    assert Onnx.construct("a", opset=20) != Onnx.construct("a")
    assert Onnx.current_environment({"opset": 20}) == {"opset": 21}


def permission(handler: type[Artifact]) -> dict[str, Any]:
    return {"allow_pickle": True} if handler.alias in ("pickle", "joblib") else {}


def to_read(handler: type[Artifact]) -> dict[str, Any]:
    model = {"model": type(local_model())} if handler.alias == "pydantic" else {}
    return {**permission(handler), **model}


def table() -> Any:
    import pyarrow as pa

    return pa.table({"x": [1], "y": [2]})


def local_model() -> Any:
    from prefect_optuna.blocks import OptunaSettings

    return OptunaSettings()


def example(handler: type[Artifact]) -> Any:
    """A value that the handler writes, made anew each time."""
    import numpy as np
    from matplotlib.figure import Figure
    from plotly.graph_objects import Figure as PlotlyFigure

    match handler.alias:
        case "text" | "markdown":
            return "some text"
        case "npy":
            return np.arange(100.0)
        case "npz":
            return {"b": np.arange(100), "a": np.zeros((2, 3))}
        case "csv" | "parquet" | "arrow":
            return table()
        case "pydantic":
            return local_model()
        case "png" | "svg":
            figure = Figure(figsize=(2, 1))
            axes = figure.subplots()
            axes.plot([1, 2], label="a")
            axes.legend()
            return figure
        case "html":
            return PlotlyFigure(data=[{"y": [1, 2]}])
        case _:
            return {"x": [1, 2.5], "name": "µ", "on": True}


def test_reading_does_not_close_what_it_is_given() -> None:
    for handler in ALL:
        content = encode(handler, example(handler), **permission(handler))
        raw = io.BytesIO(content)
        buffer = raw if handler.binary else io.TextIOWrapper(raw, "utf-8", newline="")
        handler.read(buffer, **to_read(handler))
        assert not buffer.closed, handler.alias


def test_the_environment_is_plain_json_and_is_now_what_it_was() -> None:
    for handler in ALL:
        environment = handler.construct("a", example(handler)).environment()
        assert json.loads(json.dumps(environment)) == environment
        assert handler.current_environment(environment) == environment
