"""Bytes of strangers: a short run of the fuzzer, and what it has found."""

from __future__ import annotations

from pathlib import Path

import fuzz.fuzz
import pytest


@pytest.mark.parametrize(
    "name", ["results", "containers", "artifacts", "exports", "archives", "redis", "urls"]
)
def test_damaged_input_is_an_error_of_ours_or_a_value(name: str, tmp_path: Path) -> None:
    assert fuzz.fuzz.fuzz([name], 1, 1.0, tmp_path) == []
