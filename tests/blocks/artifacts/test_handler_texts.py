"""Text, Markdown and YAML."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_optuna.blocks import ArtifactLogError
from prefect_optuna.blocks.artifacts import (
    Artifact,
    MarkdownArtifact,
    TextArtifact,
    YAMLArtifact,
    decode,
    encode,
    handler_for,
)
from prefect_optuna.errors import CorruptArtifactError

TEXTS = pytest.mark.parametrize("handler", [TextArtifact, MarkdownArtifact])
YAML = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.dates()
    | st.text(max_size=8)
    | st.binary(max_size=5)
    | st.sampled_from(["1e3", "no", "~", "x: y"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)


@TEXTS
@settings(max_examples=40)
@given(text=st.text(max_size=20) | st.just("\r\n\r\x85\ufeff\0"))
def test_text_comes_back_to_the_letter(handler: type[Artifact], text: str) -> None:
    content = encode(handler, text)
    assert content == text.encode()
    assert decode(handler, content) == text


@TEXTS
@pytest.mark.parametrize("value", [b"bytes", 3, None, ["a"]])
def test_what_is_no_text_is_refused(handler: type[Artifact], value: Any) -> None:
    with pytest.raises(ArtifactLogError, match=f"'{handler.alias}' expects a string"):
        encode(handler, value)


def test_text_that_utf_8_cannot_encode_is_refused() -> None:
    with pytest.raises(ArtifactLogError, match="surrogates not allowed"):
        encode(TextArtifact, "\ud800")


def test_bytes_that_are_no_text_are_corrupt() -> None:
    with pytest.raises(CorruptArtifactError, match=r"'text' .* UnicodeDecodeError"):
        decode(TextArtifact, b"\xff")


def test_text_is_text_and_markdown_only_where_it_is_called_so() -> None:
    assert handler_for("# A heading") is TextArtifact
    assert not MarkdownArtifact.takes("# A heading")
    assert MarkdownArtifact.suffix == "md"


@settings(max_examples=60)
@given(YAML)
def test_LZ8_plain_values_come_back_from_yaml(value: Any) -> None:
    assert decode(YAMLArtifact, encode(YAMLArtifact, value)) == value


def test_LZ8_yaml_is_what_people_write() -> None:
    value = {"rate": 0.1, "at": date(2025, 1, 20), "a": [1, {"µ": None}], "s": {2}}
    content = encode(YAMLArtifact, value)
    assert (
        content.decode() == "rate: 0.1\nat: 2025-01-20\na:\n- 1\n- µ: null\ns: !!set\n  2: null\n"
    )
    assert decode(YAMLArtifact, content) == value
    assert encode(YAMLArtifact, {"a": [1]}, default_flow_style=True) == b"{a: [1]}\n"
    when = datetime(2025, 1, 20, 13, tzinfo=UTC)
    assert decode(YAMLArtifact, encode(YAMLArtifact, when)) == when
    assert math.isnan(decode(YAMLArtifact, encode(YAMLArtifact, math.nan)))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": (1, 2)}, r"the tuple \(1, 2\) back as a list"),
        ({"a": np.float64(1)}, r"np\.float64|a value in it: 1\.0"),  # NumPy 2, or 1
        ({"a": object}, "<class 'object'>"),
        ([np.zeros(2)], "array"),
    ],
)
def test_what_yaml_would_not_give_back_is_refused(value: Any, says: str) -> None:
    with pytest.raises(ArtifactLogError, match=says):
        encode(YAMLArtifact, value)


@pytest.mark.parametrize(
    "content", [b"!!python/object/apply:os.getcwd []", b"a: [1", b"a: b: c", b"\xff", b"- !x 1"]
)
def test_yaml_that_is_damaged_or_not_safe_is_corrupt(content: bytes) -> None:
    with pytest.raises(CorruptArtifactError, match="'yaml'"):
        decode(YAMLArtifact, content)
