"""A small storm in each run of the tests; `make chaos` makes larger ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.storm import storm


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_survives_a_storm_and_nothing_is_lost(tmp_path: Path) -> None:
    assert storm(25, seed=7, n_machines=2, n_trials=120, folder=tmp_path) == []
