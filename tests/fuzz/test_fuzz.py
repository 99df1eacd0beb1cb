"""Bytes of strangers: a short run of the fuzzer, and what it has found."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.fuzz import fuzz


@pytest.mark.slow
def test_damaged_input_is_an_error_of_ours_or_a_value(tmp_path: Path) -> None:
    assert fuzz([], 1, 1.0, tmp_path) == ""
