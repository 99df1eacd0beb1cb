"""Pydantic models: the class, the fields, and what is never imported."""

from __future__ import annotations

import json
import math
import sys
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

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

from prefect_optuna.blocks import ArtifactLoadError, ArtifactLogError, CorruptArtifactError
from prefect_optuna.blocks.artifacts import PydanticArtifact, decode, encode, handler_for


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
    again = decode(PydanticArtifact, content)
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
    assert decode(PydanticArtifact, encode(PydanticArtifact, Nested.Inner(x=1))) == Nested.Inner(
        x=1
    )
    root = RootModel[list[int]]([1, 2])
    assert decode(PydanticArtifact, encode(PydanticArtifact, root), model=RootModel[list[int]]) == (
        root
    )


def test_what_is_read_is_validated() -> None:
    content = encode(PydanticArtifact, Layer(size=3)).replace(b"3", b'"three"')
    with pytest.raises(ArtifactLoadError, match=r"(?s)Layer refuses the fields .*valid integer"):
        decode(PydanticArtifact, content)


def test_nothing_is_imported_because_a_file_names_it() -> None:
    content = b'{"$model": "antigravity:Model", "fields": {}}'
    with pytest.raises(ArtifactLoadError, match="'antigravity' is not imported"):
        decode(PydanticArtifact, content)
    assert "antigravity" not in sys.modules
    # Not by a module that imports what it is asked for, either.
    lazy = b'{"$model": "prefect_optuna:ArchivedStudy", "fields": {}}'
    with pytest.raises(ArtifactLoadError, match="has no model 'ArchivedStudy'"):
        decode(PydanticArtifact, lazy)


@pytest.mark.parametrize(
    "path", ["os:getcwd", "json:JSONEncoder", f"{__name__}:Gone", f"{__name__}:settings", "", "os"]
)
def test_what_is_no_model_is_not_called(path: str) -> None:
    with pytest.raises(ArtifactLoadError, match="pass it as model="):
        decode(PydanticArtifact, json.dumps({"$model": path, "fields": {}}).encode())


def test_a_class_that_is_not_to_be_found_can_be_passed() -> None:
    class Local(BaseModel):
        size: int

    content = encode(PydanticArtifact, Local(size=3))
    with pytest.raises(ArtifactLoadError, match="<locals>"):
        decode(PydanticArtifact, content)
    assert decode(PydanticArtifact, content, model=Layer) == Layer(size=3)


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


@pytest.mark.parametrize("content", [b"{}", b"[1]", b'{"$model": 3, "fields": {}}', b'{"$mod'])
def test_what_is_no_such_file_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptArtifactError, match="'pydantic'"):
        decode(PydanticArtifact, content)
