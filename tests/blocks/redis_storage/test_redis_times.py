"""Times on the server are in UTC, and each process reads them in its own time zone, as Optuna's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import optuna
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.blocks.redis_storage.layout import decode_time, encode_time

Open = Callable[..., RedisStorage]

WRITTEN_BY_0_1_0 = Path(__file__).parent / "data" / "prefect-optuna-0.1.0.json"

ANOTHER_PROCESS = """
import json, sys
import optuna
from prefect_optuna.blocks.redis_storage import RedisStorage

with RedisStorage(sys.argv[1], namespace=sys.argv[2]) as storage:
    study = optuna.load_study(study_name="s", storage=storage)
    seen = study.trials[0]
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    made = study.trials[1]
    times = [t for trial in (seen, made) for t in (trial.datetime_start, trial.datetime_complete)]
    print(json.dumps([(t.isoformat(), t.timestamp()) for t in times]))
"""


@pytest.mark.slow
def test_two_processes_in_different_time_zones_agree_on_when_a_trial_ran(
    open_storage: Open, redis_server: str, namespace: str
) -> None:
    study = optuna.create_study(storage=open_storage(), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    ended = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROCESS, redis_server, namespace],
        env={**os.environ, "TZ": "Asia/Kathmandu"},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    there = json.loads(ended.stdout)

    here = [t for trial in study.trials for t in (trial.datetime_start, trial.datetime_complete)]
    assert all(moment is not None and moment.tzinfo is None for moment in here)
    assert [moment.timestamp() for moment in here if moment] == [moment for _, moment in there]
    for wall_clock, moment in there:  # which is 5:45 before UTC
        in_utc = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
        assert datetime.fromisoformat(wall_clock) - in_utc == timedelta(hours=5, minutes=45)


def test_a_time_zone_of_the_writer_is_read_as_by_optuna_s_own_storages(
    open_storage: Open, tmp_path: Path
) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=-3)))
    trial = optuna.trial.create_trial(value=1.0)
    trial.datetime_start, trial.datetime_complete = moment, moment + timedelta(seconds=1)
    read = []
    storages: list[BaseStorage] = [
        open_storage(),
        JournalStorage(JournalFileBackend(str(tmp_path / "journal"))),
        RDBStorage(f"sqlite:///{tmp_path}/db"),
    ]
    for storage in storages:
        study = optuna.create_study(storage=storage)
        study.add_trial(trial)
        read.append((study.trials[0].datetime_start, study.trials[0].datetime_complete))
    assert read[0] == read[1] == read[2]
    assert read[0][0] == moment.astimezone().replace(tzinfo=None)


def test_what_0_1_0_wrote_is_read_and_goes_on(
    redis_server: str, namespace: str, open_storage: Open
) -> None:
    content = json.loads(WRITTEN_BY_0_1_0.read_text())
    with redis.Redis.from_url(redis_server) as client:
        for name, stored in content["keys"].items():
            key = name.replace("{old", f"{{{namespace}")
            if stored["type"] == "hash":
                client.hset(key, mapping=stored["value"])
            else:
                client.rpush(key, *stored["value"])
    study = optuna.load_study(study_name="old", storage=open_storage())

    for trial, then in zip(study.trials, content["expected"], strict=True):
        assert trial.state == TrialState[then["state"]]
        assert (trial.values, trial.params) == (then["values"], then["params"])
        for moment, text in (
            (trial.datetime_start, then["start"]),
            (trial.datetime_complete, then["complete"]),
        ):
            expected = datetime.fromisoformat(text) if text else None
            if expected is not None and expected.tzinfo is not None:
                expected = expected.astimezone().replace(tzinfo=None)
            assert moment == expected  # the wall clock of whoever wrote it: no zone was kept

    study.optimize(lambda trial: trial.suggest_float("x", -1, 1), n_trials=2)
    study.tell(2, 1.0)
    again = optuna.load_study(study_name="old", storage=open_storage()).trials
    assert [trial.state for trial in again].count(TrialState.COMPLETE) == 5
    assert [t.datetime_start for t in again] == [t.datetime_start for t in study.trials]


@given(st.floats(min_value=0, max_value=4e9).map(lambda s: datetime.fromtimestamp(s, UTC)))
def test_a_time_keeps_its_microseconds(moment: datetime) -> None:
    read = decode_time(json.loads(encode_time(moment)))
    assert read is not None
    assert read.astimezone(UTC) == moment


@pytest.mark.parametrize("stored", ["1e999", "NaN", "1e300", '"yesterday"', "1" * 40])
def test_what_is_no_time_is_said_to_be_none(stored: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_time(json.loads(stored))
