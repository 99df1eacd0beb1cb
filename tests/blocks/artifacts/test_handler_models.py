"""Pydantic models: the class, the fields, and what is never imported."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from pydantic import (
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    computed_field,
    field_validator,
)

from prefect_optuna.blocks import ArtifactLoadError, ArtifactLogError, ArtifactRepository
from prefect_optuna.blocks.artifacts import (
    PydanticArtifact,
    decode,
    encode,
    handler_for,
    register_handler,
    registry,
)
from prefect_optuna.errors import CorruptArtifactError


class Kind(Enum):
    LYNX = "lynx"


class Layer(BaseModel):
    size: int


class Settings(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    rate: float
    kind: Kind = Kind.LYNX
    layers: tuple[Layer, ...] = ()
    when: datetime = datetime(2025, 1, 20, tzinfo=UTC)
    span: tuple[int, int] = (1, 2)
    names: set[str] = {"a", "b"}
    raw: bytes = b"\xff"
    url: AnyUrl = AnyUrl("https://example.org/a")
    weights: np.ndarray = Field(default_factory=lambda: np.arange(3.0))
    other_name: Literal["x"] = Field("x", alias="otherName")

    @computed_field
    @property
    def twice(self) -> float:
        return 2 * self.rate


class Nested:
    class Inner(BaseModel):
        x: int


def settings() -> Settings:
    return Settings(rate=math.inf, layers=(Layer(size=8),))


def test_a_model_comes_back_as_one_with_all_its_types() -> None:
    content = encode(PydanticArtifact, settings())
    json.loads(content, parse_constant=lambda token: pytest.fail(f"{token} is no JSON"))
    again = decode(PydanticArtifact, content, model=Settings)
    assert type(again) is Settings
    assert again.weights.tolist() == [0.0, 1.0, 2.0]
    for name in Settings.model_fields:
        if name != "weights":
            assert getattr(again, name) == getattr(settings(), name), name


def test_the_file_says_the_class_and_is_readable() -> None:
    content = encode(PydanticArtifact, Layer(size=3), indent=1)
    assert json.loads(content) == {"$model": f"{__name__}:Layer", "fields": {"size": 3}}
    assert handler_for(Layer(size=3)) is PydanticArtifact


def test_nested_classes_and_root_models_come_back() -> None:
    inner = encode(PydanticArtifact, Nested.Inner(x=1))
    assert decode(PydanticArtifact, inner, model=Nested.Inner) == Nested.Inner(x=1)
    root = RootModel[list[int]]([1, 2])
    assert decode(PydanticArtifact, encode(PydanticArtifact, root), model=RootModel[list[int]]) == (
        root
    )


def test_what_is_read_is_validated() -> None:
    content = encode(PydanticArtifact, Layer(size=3)).replace(b"3", b'"three"')
    with pytest.raises(ArtifactLoadError, match=r"(?s)Layer refuses the fields .*valid integer"):
        decode(PydanticArtifact, content, model=Layer)


# The last validates by importing what it is told: whatever is on Python's path.
@pytest.mark.parametrize(
    "path",
    [
        "antigravity:Model",
        f"{__name__}:Layer",
        "os:getcwd",
        "",
        "prefect.serializers:PickleSerializer",
    ],
)
def test_no_class_is_validated_because_a_file_names_it(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "brought_along.py").write_text(f"open({str(marker)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    content = json.dumps({"$model": path, "fields": {"picklelib": "brought_along"}}).encode()
    with contextlib.suppress(ArtifactLoadError):
        decode(PydanticArtifact, content)
    assert not marker.exists()
    with pytest.raises(ArtifactLoadError, match="pass it as model="):
        decode(PydanticArtifact, content)
    assert "antigravity" not in sys.modules


def test_the_class_that_is_passed_counts_and_not_the_one_that_is_named() -> None:
    class Local(BaseModel):
        size: int

    content = encode(PydanticArtifact, Local(size=3))
    assert decode(PydanticArtifact, content, model=Layer) == Layer(size=3)


def test_a_registered_handler_knows_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_own", dict(registry._own))
    monkeypatch.setattr(registry, "_asked", list(registry._asked))

    @register_handler
    class LayerArtifact(PydanticArtifact):
        __slots__ = ()
        alias: ClassVar[str] = "layer"
        model = Layer

    assert handler_for(Layer(size=3)) is LayerArtifact
    assert handler_for(Nested.Inner(x=1)) is PydanticArtifact
    repository = ArtifactRepository("memory://layers")
    repository.log("layer", Layer(size=3))
    assert repository.load("layer") == Layer(size=3)


class Secretive(BaseModel):
    user: str = "me"
    password: SecretStr


class Base(BaseModel):
    layer: Layer


class WideLayer(Layer):
    width: int


class Changing(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _more(cls, n: int) -> int:
        return n + 1


class Strange(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    handle: object


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Secretive(password=SecretStr("hunter2")), r"\$.password is of type pydantic.*SecretStr"),
        (Base(layer=WideLayer(size=1, width=2)), "would come back with other fields"),
        (Changing(n=1), "would come back with other fields"),
        (Strange(handle=open), r"\$.handle is of type builtin_function"),
        (Layer.model_construct(size="three"), "could not be read again"),
        (Layer, "expects an instance"),
        ({"size": 3}, "found dict"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
def test_a_model_that_would_not_come_back_is_refused(value: Any, says: str) -> None:
    with pytest.raises(ArtifactLogError, match=says) as caught:
        encode(PydanticArtifact, value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{}", b"[1]", b'{"$mod'])
def test_what_is_no_such_file_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptArtifactError, match="'pydantic'"):
        decode(PydanticArtifact, content)
