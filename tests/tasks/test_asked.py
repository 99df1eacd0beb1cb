"""What archived code asks its process for."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from prefect_optuna.tasks.archive.code.inspection import ARCHIVED_AS
from prefect_optuna.tasks.reevaluation.replay import what_is_asked_for

THEN = datetime(2024, 2, 29, 12)  # noqa: DTZ001 - as Optuna has them


@pytest.mark.parametrize(
    ("code", "noted"),
    [
        ("time.localtime().tm_yday == 60", {"time.localtime"}),
        ("time.localtime(None).tm_yday == 60", {"time.localtime"}),
        ("time.gmtime().tm_year == 2024", {"time.gmtime"}),
        ("time.strftime('%Y') == '2024'", {"time.strftime"}),
        ("time.ctime().endswith('2024')", {"time.ctime"}),
        ("time.asctime().endswith('2024')", {"time.asctime"}),
        ("time.localtime(0).tm_year in (1969, 1970)", set()),
        ("time.strftime('%Y', time.gmtime(0)) == '1970'", set()),
        ("time.asctime(time.gmtime(0)).endswith('1970')", set()),
    ],
)
def test_calendars_are_put_back_and_noted_where_they_say_what_time_it_is(
    code: str, noted: set[str]
) -> None:
    with what_is_asked_for(clock=True) as asked:
        asked.start_at(THEN)
        assert eval(code, {ARCHIVED_AS: "script", "time": time})
    assert asked.clock == noted
    assert time.localtime().tm_year > 2024
