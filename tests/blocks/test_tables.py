"""Tables as Arrow and back: what computes with them has to give the same to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from prefect_optuna.blocks.codec.tables import from_arrow, to_arrow

GRID = np.random.default_rng(0).normal(size=(50, 4))
BY_COLUMNS = {
    "columns": pd.DataFrame({"a": GRID[:, 0].copy(), "b": GRID[:, 1].copy()}),
    "columns of an array": pd.DataFrame(np.asfortranarray(GRID), columns=list("abcd")),
    "two types": pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5]}),
    "text": pd.DataFrame(np.array([["x", "y"], ["z", "w"]], dtype=object), columns=["a", "b"]),
    "nothing": pd.DataFrame({"a": [], "b": []}),
}
BY_ROWS = {
    "numbers": pd.DataFrame(GRID, columns=list("abcd"), index=pd.RangeIndex(3, 153, 3), copy=False),
    "flags": pd.DataFrame(GRID > 0, columns=list("abcd"), copy=False),
    "whole numbers": pd.DataFrame((GRID * 9).astype(np.int32), columns=list("abcd"), copy=False),
}


@pytest.mark.parametrize("frame", BY_ROWS.values(), ids=BY_ROWS)
def test_numbers_that_lie_row_by_row_do_so_again(frame: pd.DataFrame) -> None:
    assert frame.to_numpy().flags.c_contiguous  # pandas turns an array round that it copies
    back = from_arrow(to_arrow(frame), "pandas.DataFrame")
    pd.testing.assert_frame_equal(back, frame)
    assert back.to_numpy().strides == frame.to_numpy().strides
    # Sums of another order differ in their last bits.
    assert (back.to_numpy() @ np.full(4, 0.1)).tobytes() == (
        frame.to_numpy() @ np.full(4, 0.1)
    ).tobytes()


@pytest.mark.parametrize("frame", BY_COLUMNS.values(), ids=BY_COLUMNS)
def test_other_frames_come_back_as_they_did(frame: pd.DataFrame) -> None:
    table: Any = to_arrow(frame)
    assert b"prefect_optuna:layout" not in table.schema.metadata
    pd.testing.assert_frame_equal(from_arrow(table, "pandas.DataFrame"), frame, check_dtype=False)


def test_a_file_that_somebody_has_changed_is_a_frame_all_the_same() -> None:
    table = to_arrow(BY_ROWS["numbers"])
    mixed = table.set_column(0, "a", table["a"].cast("float32"))
    assert str(from_arrow(mixed, "pandas.DataFrame").dtypes["a"]) == "float32"
