"""What Optuna's former Redis storage has left behind is rescued, and runs nothing on the way.

The files in `data/` were written by the `RedisStorage` of the Optuna in their names, to a real
server: each key's values, and the trials as that Optuna itself returned them.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
from collections.abc import Callable, Generator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from redis_servers import RedisServer

from prefect_optuna.blocks import (
    StorageUnavailableError,
    StudyNotFoundError,
    import_legacy_redis,
    read_legacy_redis,
)
from prefect_optuna.blocks.codec import untrusted
from prefect_optuna.blocks.codec.untrusted import loads
from prefect_optuna.errors import DamagedStorageError, PickleRefusedError, StudyMismatchError

DATA = Path(__file__).with_name("data")
VERSIONS = ["1.5.0", "2.10.1", "3.0.6"]
TRIAL = "trial_id:0000000001:frozentrial"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Generator[redis.Redis]:
    with server.client() as client:
        client.flushall()
        yield client


def fill(client: redis.Redis, version: str) -> dict[str, Any]:
    """Put back what that Optuna wrote, and return what it expected."""
    content = json.loads((DATA / f"optuna-{version}.json").read_text())
    decode = base64.b64decode
    for key, value in content["keys"].items():
        if isinstance(value, str):
            client.set(key, decode(value))
        elif isinstance(value, list):
            client.rpush(key, *map(decode, value))
        else:
            client.hset(key, mapping={decode(k): decode(v) for k, v in value.items()})
    return content["expected"]


def as_dumped(trial: FrozenTrial) -> dict[str, Any]:
    """The trial in the form of the files."""
    times = (trial.datetime_start, trial.datetime_complete)
    start, complete = (time.isoformat() if time else None for time in times)
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "intermediate": {str(step): value for step, value in trial.intermediate_values.items()},
        "start": start,
        "complete": complete,
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_every_trial_is_read_as_the_optuna_that_wrote_it_read_it(
    version: str, server: RedisServer, client: redis.Redis
) -> None:
    expected = fill(client, version)
    studies = {study.name: study for study in read_legacy_redis(server.url)}
    assert set(expected) <= set(studies)
    for name, trials in expected.items():
        assert [as_dumped(trial) for trial in studies[name].trials] == trials
    old = studies["old"]
    assert {t.state for t in old.trials} == set(TrialState)
    assert old.directions == (StudyDirection.MAXIMIZE,)
    assert old.user_attrs == {"owner": "lab", "when": [1, 2]}
    assert old.system_attrs == {"note": "system"}
    assert studies["empty"].trials == () == studies["never directed"].trials
    assert studies["never directed"].directions == (StudyDirection.MINIMIZE,)
    assert "deleted" not in studies
    assert type(old.trials[0].user_attrs["numpy"]) is float
    assert old.trials[0].user_attrs["numpy bool"] is True


@pytest.mark.parametrize("version", VERSIONS)
def test_old_kinds_of_distributions_become_today_s(
    version: str, server: RedisServer, client: redis.Redis
) -> None:
    fill(client, version)
    found = dict(read_legacy_redis(server.url, "old")[0].trials[0].distributions)
    if version == "1.5.0":
        found["logint"] = IntDistribution(1, 100, log=True)  # it had none
    assert found == {
        "uniform": FloatDistribution(-5, 5),
        "loguniform": FloatDistribution(1e-5, 1, log=True),
        "discrete": FloatDistribution(0, 1, step=0.25),
        "int": IntDistribution(0, 10, step=2),
        "logint": IntDistribution(1, 100, log=True),
        "kind": CategoricalDistribution(("a", None, 2, 0.5, True)),
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_an_import_copies_everything_and_fails_what_nobody_can_finish(
    version: str, server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    expected = fill(client, version)
    storage = InMemoryStorage()
    names = import_legacy_redis(server.url, storage)
    assert names[0] == "old"
    assert len(names) == len(storage.get_all_studies())
    for name, trials in expected.items():
        copies = storage.get_all_trials(storage.get_study_id_from_name(name))
        for copy, trial in zip(map(as_dumped, copies), trials, strict=True):
            if trial["state"] == "RUNNING":
                assert copy["state"] == "FAIL"
                assert copy["complete"]
            else:
                assert copy == trial


def test_an_import_into_a_database_named_by_its_url_goes_on_there(
    server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    from prefect_optuna.blocks import as_study_storage

    fill(client, "2.10.1")
    url = f"journal:///{tmp_path}/rescued.journal"
    assert import_legacy_redis(server.url, url, "old") == ["old"]
    study = as_study_storage(url).load_study("old")
    trial = study.ask()
    assert trial.suggest_float("uniform", -5, 5) == 1.5  # the one that was enqueued back then


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "key", ["study_id:0000000000:study_name", "study_id:0000000000:study_summary", TRIAL]
)
def test_a_hostile_pickle_is_refused_with_its_key_and_what_it_wanted(
    key: str, server: RedisServer, client: redis.Redis, tmp_path: Path
) -> None:
    fill(client, "3.0.6")
    client.set(key, pickle.dumps(Evil(tmp_path / "mark")))
    storage = InMemoryStorage()
    with pytest.raises(PickleRefusedError) as refusal:
        import_legacy_redis(server.url, storage)
    assert key in str(refusal.value)
    assert "posix.mkdir" in str(refusal.value)
    assert not (tmp_path / "mark").exists()
    assert storage.get_all_studies() == []


@pytest.mark.parametrize(
    "name",
    [
        b"cos\nsystem\n",
        b"coptuna.storages\nRDBStorage\n",
        b"coptuna.trial\nFrozenTrial.__init__\n",
        b"cbuiltins\neval\n",
        b"cnumpy\nload\n",
        b"cdatetime\nsys\n",
    ],
)
def test_no_name_but_those_of_studies_leads_anywhere(
    name: bytes, server: RedisServer, client: redis.Redis
) -> None:
    fill(client, "3.0.6")
    client.set(TRIAL, name + b".")
    with pytest.raises(PickleRefusedError, match=name.split(b"\n")[1].decode().replace(".", r"\.")):
        read_legacy_redis(server.url)


def test_a_hostile_study_list_is_refused(server: RedisServer, client: redis.Redis) -> None:
    client.rpush("study_list", pickle.dumps(os.getcwd))
    with pytest.raises(PickleRefusedError, match="study_list"):
        read_legacy_redis(server.url)


@pytest.mark.parametrize("value", [b"", b"garbage", pickle.dumps(3), pickle.dumps({})])
def test_damage_is_named_by_its_key_and_other_studies_can_still_be_read(
    value: bytes, server: RedisServer, client: redis.Redis
) -> None:
    fill(client, "2.10.1")
    client.set(TRIAL, value)
    with pytest.raises(DamagedStorageError, match=TRIAL):
        read_legacy_redis(server.url)
    assert len(read_legacy_redis(server.url, "two objectives")[0].trials) == 2


def test_a_missing_key_is_named(server: RedisServer, client: redis.Redis) -> None:
    fill(client, "2.10.1")
    client.delete(TRIAL)
    with pytest.raises(DamagedStorageError, match=f"{TRIAL}.*missing"):
        read_legacy_redis(server.url)


def test_a_key_of_another_program_is_named(server: RedisServer, client: redis.Redis) -> None:
    client.set("study_list", "mine")
    with pytest.raises(DamagedStorageError, match="study_list"):
        read_legacy_redis(server.url)


def test_an_import_touches_nothing_when_a_study_is_there_already(
    server: RedisServer, client: redis.Redis
) -> None:
    fill(client, "2.10.1")
    storage = InMemoryStorage()
    storage.create_new_study([StudyDirection.MINIMIZE], "two objectives")
    with pytest.raises(StudyMismatchError, match="two objectives"):
        import_legacy_redis(server.url, storage)
    assert len(storage.get_all_studies()) == 1


def test_an_import_that_fails_on_its_way_leaves_nothing(
    server: RedisServer, client: redis.Redis
) -> None:
    class Full(InMemoryStorage):
        def create_new_trial(self, *args: Any, **options: Any) -> int:
            if self.get_n_trials(0) == 3:
                raise OSError("no space left")
            return super().create_new_trial(*args, **options)

    fill(client, "2.10.1")
    storage: BaseStorage = Full()
    with pytest.raises(OSError, match="no space left"):
        import_legacy_redis(server.url, storage)
    assert storage.get_all_studies() == []


def test_an_unknown_name_is_answered_with_those_that_are_there(
    server: RedisServer, client: redis.Redis
) -> None:
    fill(client, "2.10.1")
    with pytest.raises(StudyNotFoundError, match="'two objectives'"):
        read_legacy_redis(server.url, "odl")


def test_an_empty_database_has_no_studies(server: RedisServer, client: redis.Redis) -> None:
    assert read_legacy_redis(server.url) == []


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    from servers import free_port

    url = f"redis://:hunter2@127.0.0.1:{free_port()}/0"
    with pytest.raises(StorageUnavailableError, match=r"redis://127\.0\.0\.1:\d+/0") as error:
        read_legacy_redis(url)
    assert "hunter2" not in str(error.value)


def _changes_the_enumeration() -> bytes:
    """A pickle that sets an attribute of the class `TrialState`."""
    return b"\x80\x04coptuna.trial._state\nTrialState\nN}(\x8c\x0bis_finished\x8c\x05wrongu\x86b."


def test_a_pickle_changes_no_class_of_the_process(server: RedisServer, client: redis.Redis) -> None:
    fill(client, "3.0.6")
    client.set(TRIAL, _changes_the_enumeration())
    finished = TrialState.is_finished
    try:
        with pytest.raises(DamagedStorageError, match=TRIAL):
            read_legacy_redis(server.url)
        assert TrialState.is_finished is finished
    finally:
        TrialState.is_finished = finished  # or else the other tests would suffer, too


_NAMED = st.sampled_from(
    [
        ("optuna.trial", "FrozenTrial"),
        ("optuna.trial._state", "TrialState"),
        ("datetime", "datetime"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("collections", "OrderedDict"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("optuna.trial", "FrozenTrial.__init__"),
        ("builtins", "eval"),
        ("os", "system"),
    ]
).map(lambda name: f"c{name[0]}\n{name[1]}\n".encode())
_VALUES = st.sampled_from(
    [b"N", b"K\x05", b"J\xff\xff\xff\x7f", b"\x8c\x02f8", b"\x8c\x0b__setstate__", b"\x88",
     b"C\x08", b"\x8c\x08__dict__", b"\x8c\x07__new__", b"B\x04\0\0\0abcd", b"G?\xf0\0\0\0\0\0\0"]
)  # fmt: skip
_OPCODES = st.sampled_from(
    [bytes([op]) for op in b"(.0123abdeilostu2\x81\x85\x86\x87\x92\x8f\x90\x91\x93\x94)]}"]
    + [b"h\x00", b"h\x01", b"\x82\x01", b"P0\n", b"Q"]
)


@settings(max_examples=200)
@given(st.lists(st.one_of(_NAMED, _VALUES, _OPCODES), max_size=24))
def test_no_sequence_of_opcodes_gets_at_a_real_object(parts: list[bytes]) -> None:
    before = _state_of_classes()
    try:
        value = loads(
            b"".join([b"\x80\x04", *parts, b"."]),
            "optuna",
            ["FrozenTrial"],
            {"TrialState": TrialState},
            arrays=True,
        )
    except Exception:  # noqa: BLE001 - whatever a broken pickle raises; what it does is the matter
        value = None
    assert _is_data(value)
    assert _state_of_classes() == before


def _state_of_classes() -> list[Any]:
    kinds = (TrialState, untrusted.Stored, *untrusted._MADE, untrusted._Noted)
    return [(kind.__name__, dict(vars(kind))) for kind in kinds]


def _is_data(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_data, value))
    if isinstance(value, dict):
        return all(_is_data(key) and _is_data(item) for key, item in value.items())
    return value is None or isinstance(
        value,
        (bool, int, float, str, bytes, datetime, timedelta, timezone, TrialState, np.ndarray,
         untrusted._DType),
    )  # fmt: skip


def test_an_import_leaves_behind_what_a_sampler_would_unpickle(
    server: RedisServer, client: redis.Redis
) -> None:
    fill(client, "3.0.6")
    trial = create_trial(value=1.0, system_attrs={"cma:optimizer:0": "80", "cma:generation": 3})
    trial.number = 1
    client.set(TRIAL, pickle.dumps(trial))
    storage = InMemoryStorage()
    import_legacy_redis(server.url, storage, "old")
    [study] = storage.get_all_studies()
    assert storage.get_all_trials(study._study_id)[1].system_attrs == {"cma:generation": 3}
