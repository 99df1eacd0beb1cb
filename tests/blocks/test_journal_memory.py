"""What trials have in common takes memory once."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_optuna.blocks import JournalStudyStorage
from prefect_optuna.blocks._journal_replay import Replay

values = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.0, 0.0, -0.0, "", "a", float("nan")]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.lists(values, min_size=2, max_size=4))
def test_an_attribute_is_what_it_was_set_to_whatever_was_set_before(given: list[Any]) -> None:
    replay = Replay({})
    kept = [replay.kept({"k": copy.deepcopy(value)})["k"] for value in given]
    assert repr(kept) == repr(given)  # 1 is not True, 0.0 is not -0.0, and order counts


@pytest.mark.parametrize("read", [False, True], ids=["written", "read"])
def test_what_trials_have_in_common_is_there_once(tmp_path: Path, read: bool) -> None:
    block = JournalStudyStorage(path=tmp_path / "studies.journal")
    study = block.create_study("tuning", sampler=optuna.samplers.RandomSampler(seed=1))
    series = {"a": {"dtype": "<f8", "shape": [20]}}
    note = {"number": 0, "series": series, "list": [0.5, {"unit": "s"}], "version": "bf84"}
    for number in range(3):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("note", json.loads(json.dumps({**note, "number": number})))
        study.tell(trial, 1.0)
    if read:
        study = block.model_copy().load_study("tuning")
    first, second, third = study.get_trials(deepcopy=False)
    assert [t.user_attrs["note"] for t in (first, second, third)] == [
        {**note, "number": number} for number in range(3)
    ]
    for earlier, later in ((first, second), (second, third)):
        assert earlier.user_attrs["note"]["series"] is later.user_attrs["note"]["series"]
        assert earlier.user_attrs["note"]["list"][1] is later.user_attrs["note"]["list"][1]
        assert earlier.user_attrs["note"]["version"] is later.user_attrs["note"]["version"]
        assert earlier.distributions is later.distributions
    study.trials[0].user_attrs["note"]["series"].clear()  # a copy, which is its reader's
    assert study.trials[1].user_attrs["note"]["series"] == note["series"]
