"""The contract: each test is a row of the table of what storages survive."""

# ruff: noqa: S101 -- these are the assertions of tests
# A storage deals in ids, which are private in Optuna.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import math
import os
import pickle
import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from prefect_optuna.blocks.testing.processes import (
    Crew,
    FaultyProxy,
    History,
    StorageUnderTest,
    ask_and_tell_in_forks,
    create_at_once,
    fail_stale_trials,
    hang_in_a_trial,
    load_everything,
    mixed_load,
    open_study,
    optimize_until,
    pop_enqueued,
    tell_until,
    violations,
)

# Every kind of call that a storage gets, in sequence, with the state that each has to leave.


_X = FloatDistribution(0, 1)


def every_kind_of_call(
    storage: BaseStorage, truth: BaseStorage, name: str
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield calls to make on `storage`; after each, `truth` is asked whether it has come to pass.

    A call that comes to nothing, or to more than was asked, raises AssertionError when the next
    one is fetched. Reads compare their answer with that of `truth`.
    """
    ids: dict[str, Any] = {}

    def keep(key: str, answer: object) -> None:
        ids[key] = answer

    def trial() -> FrozenTrial:
        return truth.get_trial(ids["trial"])

    yield (
        "create_new_study",
        lambda: keep("study", storage.create_new_study([StudyDirection.MINIMIZE], name)),
    )
    assert [s._study_id for s in truth.get_all_studies() if s.study_name == name] == [ids["study"]]
    study: int = ids["study"]

    yield "set_study_user_attr", lambda: storage.set_study_user_attr(study, "key", [1])
    assert truth.get_study_user_attrs(study) == {"key": [1]}
    yield "set_study_system_attr", lambda: storage.set_study_system_attr(study, "key", [2])
    assert truth.get_study_system_attrs(study) == {"key": [2]}

    yield "create_new_trial", lambda: keep("trial", storage.create_new_trial(study))
    assert [t._trial_id for t in truth.get_all_trials(study)] == [ids["trial"]]
    waiting = create_trial(state=TrialState.WAITING, user_attrs={"queued": 1})
    yield (
        "create_new_trial, waiting",
        lambda: keep("waiting", storage.create_new_trial(study, waiting)),
    )
    assert [t._trial_id for t in truth.get_all_trials(study)] == [ids["trial"], ids["waiting"]]
    yield (
        "set_trial_state_values, to running",
        lambda: keep("won", storage.set_trial_state_values(ids["waiting"], TrialState.RUNNING)),
    )
    assert ids["won"] is True
    assert truth.get_trial(ids["waiting"]).state == TrialState.RUNNING
    yield (
        "set_trial_state_values, to running again",
        lambda: keep("won", storage.set_trial_state_values(ids["waiting"], TrialState.RUNNING)),
    )
    assert ids["won"] is False

    # A storage may let these travel with what comes next, so they are read back through it.
    yield "set_trial_param", lambda: storage.set_trial_param(ids["trial"], "x", 0.25, _X)
    assert storage.get_trial(ids["trial"]).params == {"x": 0.25}
    yield (
        "set_trial_intermediate_value",
        lambda: storage.set_trial_intermediate_value(ids["trial"], 3, 0.5),
    )
    assert storage.get_trial(ids["trial"]).intermediate_values == {3: 0.5}
    yield "set_trial_user_attr", lambda: storage.set_trial_user_attr(ids["trial"], "u", "ü")
    assert storage.get_trial(ids["trial"]).user_attrs == {"u": "ü"}
    yield "set_trial_system_attr", lambda: storage.set_trial_system_attr(ids["trial"], "s", [1])
    assert storage.get_trial(ids["trial"]).system_attrs == {"s": [1]}
    if isinstance(storage, BaseHeartbeat) and is_heartbeat_enabled(storage):
        yield "record_heartbeat", lambda: storage.record_heartbeat(ids["trial"])
    yield (
        "set_trial_state_values, to complete",
        lambda: keep(
            "won", storage.set_trial_state_values(ids["trial"], TrialState.COMPLETE, [0.75])
        ),
    )
    assert ids["won"] is True
    assert (trial().state, trial().values) == (TrialState.COMPLETE, [0.75])
    assert (trial().params, trial().intermediate_values) == ({"x": 0.25}, {3: 0.5})
    assert (trial().user_attrs, trial().system_attrs) == ({"u": "ü"}, {"s": [1]})
    now = datetime.now()  # noqa: DTZ005 -- Optuna's times have no zone
    done = create_trial(value=0.125, params={"x": 0.5}, distributions={"x": _X})
    done.datetime_start = done.datetime_complete = now
    yield "create_new_trial, finished", lambda: keep("done", storage.create_new_trial(study, done))
    assert [t.value for t in truth.get_all_trials(study)] == [0.75, None, 0.125]

    reads: dict[str, Callable[[BaseStorage], object]] = {
        "get_trial": lambda s: s.get_trial(ids["trial"]),
        "get_all_trials": lambda s: s.get_all_trials(study),
        "get_n_trials": lambda s: s.get_n_trials(study),
        "get_best_trial": lambda s: s.get_best_trial(study).number,
        "get_trial_param": lambda s: s.get_trial_param(ids["trial"], "x"),
        "get_trial_number_from_id": lambda s: s.get_trial_number_from_id(ids["waiting"]),
        "get_trial_id_from_study_id_trial_number": lambda s: (
            s.get_trial_id_from_study_id_trial_number(study, 2)
        ),
        "get_study_id_from_name": lambda s: s.get_study_id_from_name(name),
        "get_study_name_from_id": lambda s: s.get_study_name_from_id(study),
        "get_study_directions": lambda s: s.get_study_directions(study),
        "get_study_user_attrs": lambda s: s.get_study_user_attrs(study),
        "get_study_system_attrs": lambda s: s.get_study_system_attrs(study),
        "get_all_studies": lambda s: sorted(f._study_id for f in s.get_all_studies()),
    }
    for call, read in reads.items():
        yield call, lambda read=read: keep("answer", read(storage))
        assert ids["answer"] == read(truth)

    yield "delete_study", lambda: storage.delete_study(study)
    assert name not in [s.study_name for s in truth.get_all_studies()]


_STUDY = "contract"
_KIB, _MIB = 1024, 1024 * 1024
_NAMES = {
    "unicode": "Größe/変数 🚀 'quoted\" \\ {tag} \u2028",
    "empty": "",
    "long": "n" * 600,
    "nul": "before\0after",
}


class StudyStorageContract:
    """Tests of a storage that many processes use, and around which things break.

    Subclass it and say how to open the storage; pytest runs the rows. Rows that need something
    which your storage has not, such as a server that can be killed, are skipped and say so.
    They take about half a minute for a storage that passes them.

    Example:
        In a test file of yours:
        ```python
        class TestMyStorage(StudyStorageContract):
            @pytest.fixture
            def under_test(self, tmp_path):
                return StorageUnderTest(connect=partial(MyStorage, tmp_path / "database"))
        ```
    """

    known_failures: ClassVar[Mapping[str, str]] = {}
    """Rows that the storage does not pass, each with the reason. They are run, and have to fail.

    A row is named as pytest names it, such as `test_any_name_is_kept[long]`.
    """

    @pytest.fixture(autouse=True)
    def _fails_as_it_is_known_to(self, request: pytest.FixtureRequest) -> None:
        if reason := self.known_failures.get(request.node.name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def under_test(self) -> StorageUnderTest:
        """An empty database for each test. To be overridden; it may yield, and clean up."""
        raise NotImplementedError(
            "expected a fixture `under_test` that returns a StorageUnderTest, found none. "
            f"Write one in {type(self).__name__}."
        )

    # Many processes at once.

    def test_enqueued_trials_are_popped_once(self, under_test: StorageUnderTest) -> None:
        """8 processes pop 160 enqueued trials: each exactly once."""
        study = _create(under_test)
        for x in range(160):
            study.enqueue_trial({"x": float(x)}, user_attrs={"enqueued": x})
        with Crew(under_test.connect, together=8) as crew:
            for _ in range(8):
                crew.send(pop_enqueued, _STUDY)
            popped = [pop for answer in crew.answers(limit=90) for pop in answer]
        times = Counter(number for number, _ in popped)
        twice = sorted(number for number, count in times.items() if count > 1)
        assert not twice, f"{len(twice)} trials were given to more than one process: {twice}"
        assert sorted(x for _, x in popped) == [float(x) for x in range(160)]

    def test_a_study_is_created_once(self, under_test: StorageUnderTest) -> None:
        """8 processes create the same study in an empty database: one winner, no crash."""
        with Crew(under_test.connect, together=8) as crew:
            for _ in range(8):
                crew.send(create_at_once)
            answers = crew.answers()
        assert len({study_id for study_id, _ in answers}) == 1
        assert sum(won for _, won in answers) == 1, "expected one process to create the study"
        names = sorted(s.study_name for s in under_test.connect().get_all_studies())
        assert names == ["one winner", "shared"]

    def test_a_storage_object_survives_a_fork(self, under_test: StorageUnderTest) -> None:
        """One storage object is used across a fork by 4 children."""
        if not hasattr(os, "fork"):
            pytest.skip("this system has no fork")
        study = _create(under_test)
        with Crew(under_test.connect) as crew:
            crew.send(ask_and_tell_in_forks, _STUDY, 4, 25)
            (numbers,) = crew.answers(limit=45)
        assert sorted(numbers) == list(range(126)), "expected each trial to be given to one process"
        assert {t.state for t in study.get_trials()} == {TrialState.COMPLETE}

    # Workers that die.

    def test_a_killed_worker_s_trial_is_tried_again(
        self, under_test: StorageUnderTest, tmp_path: Path
    ) -> None:
        """A worker is killed in a trial: with heartbeats it is failed, and tried again once."""
        connect = under_test.connect_with_heartbeat or under_test.connect
        storage = connect()
        assert is_heartbeat_enabled(storage), "the storage has no heartbeats: RUNNING for ever"
        study = _create(under_test)
        sign = tmp_path / "running"
        with Crew(connect) as crew:
            victim = crew.send(hang_in_a_trial, _STUDY, sign)
            _wait_for(sign.exists, "a worker is in a trial")
            number = int(sign.read_text())
            crew.kill(victim)
        with Crew(connect, together=2) as crew:
            for _ in range(2):
                crew.send(optimize_until, _STUDY, number, 40.0)
            crew.answers()
        trials = study.get_trials()
        again = [t.number for t in trials if t.system_attrs.get("failed_trial") == number]
        assert trials[number].state == TrialState.FAIL, f"it is {trials[number].state.name}"
        assert len(again) == 1, f"expected trial {number} to be tried again once, found {again}"
        assert not [t.number for t in trials if t.state == TrialState.RUNNING]

    def test_a_mixed_load_under_random_kills_has_a_true_history(
        self, under_test: StorageUnderTest, tmp_path: Path
    ) -> None:
        """12 processes under a mixed load and random kills: the history is true to a model."""
        connect = under_test.connect_with_heartbeat or under_test.connect
        _create(under_test)
        rng = random.Random(7)  # noqa: S311 -- no secret hangs on it
        stop = tmp_path / "stop"
        with Crew(connect) as crew:
            logs: list[Path] = []

            def send() -> int:
                logs.append(tmp_path / f"w{len(logs)}.log")
                seed = len(logs)
                return crew.send(mixed_load, _STUDY, logs[-1], stop, seed, heartbeat)

            storage = connect()
            heartbeat = is_heartbeat_enabled(storage)
            alive = [send() for _ in range(12)]
            for _ in range(6):
                before = sum(log.stat().st_size for log in logs if log.exists())
                _wait_for(
                    lambda before=before: _size(logs) > before + 6000,
                    "the processes get on with their work",
                )
                crew.kill(alive.pop(rng.randrange(len(alive))))
                alive.append(send())
            stop.touch()
            crew.answers()
        study = open_study(connect(), _STUDY)
        if heartbeat:
            _fail_stale(study)
        broken = violations(
            map(History.read, logs),
            study.get_trials(),
            study.user_attrs,
            recovered=heartbeat,
            heartbeat_on_ask=under_test.heartbeat_on_ask,
        )
        assert not broken, "\n".join(broken)
        assert len(study.get_trials(states=[TrialState.COMPLETE])) > 20

    # Servers and connections that fail.

    def test_an_earlier_state_is_noticed(self, under_test: StorageUnderTest) -> None:
        """The server is restored to a state 10 trials earlier, under the eyes of a client."""
        if under_test.save_state is None:
            pytest.skip("no save_state: the database cannot be set back")
        study = _create(under_test)
        _tell(study, 10)
        study.enqueue_trial({"x": 0.5})
        restore = under_test.save_state()
        _tell(study, 10)
        assert len(study.get_trials(deepcopy=False)) == 20
        restore()
        states: list[str] = []
        for _ in range(3):
            trial = study.ask()
            states.append(f"{trial.number} {trial.storage.get_trial(trial._trial_id).state.name}")
            study.tell(trial, trial.suggest_float("x", 0, 1))
        assert states == ["10 RUNNING", "11 RUNNING", "12 RUNNING"], f"asked, and got {states}"
        newcomer = open_study(under_test.connect(), _STUDY)
        assert study.get_trials() == newcomer.get_trials(), "a newcomer sees other trials"
        assert [t.state for t in newcomer.get_trials()] == [TrialState.COMPLETE] * 13

    @pytest.mark.parametrize("what", ["reply", "second reply", "request"])
    def test_a_dropped_connection_changes_nothing(
        self, under_test: StorageUnderTest, what: str
    ) -> None:
        """The connection drops at every kind of call: each call has its effect, once."""
        with _proxied(under_test) as (proxy, storage):
            truth = under_test.connect()
            failed: list[str] = []
            calls = every_kind_of_call(storage, truth, _STUDY)
            end: Literal["request", "reply"] = "request" if what == "request" else "reply"
            name, call = next(calls)
            while True:
                proxy.cut(end, passing=int(what == "second reply"))
                try:
                    call()
                except Exception as error:  # noqa: BLE001 -- collected: all of them are of interest
                    failed.append(f"{name} raised {type(error).__name__}: {error}")
                    break  # the others build on it
                proxy.disarm()
                try:
                    name, call = next(calls)
                except StopIteration:
                    break
                except AssertionError as error:
                    failed.append(f"{name} had another effect than it should have: {error}")
                    break
            assert not failed, failed[0]

    def test_dropped_idle_connections_are_made_again(self, under_test: StorageUnderTest) -> None:
        """Idle connections are killed."""
        with _proxied(under_test) as (proxy, storage):
            study = optuna.create_study(storage=storage, study_name=_STUDY)
            for _ in range(5):
                _tell(study, 1)
                proxy.drop_connections()
            trial = study.ask()
            proxy.drop_connections()
            trial.suggest_float("x", 0, 1)
            proxy.drop_connections()
            study.tell(trial, 0.5)
            proxy.drop_connections()
            states = [t.state for t in open_study(under_test.connect(), _STUDY).get_trials()]
            assert states == [TrialState.COMPLETE] * 6

    def test_a_killed_server_loses_nothing(
        self, under_test: StorageUnderTest, tmp_path: Path
    ) -> None:
        """The server is killed and started again: no acknowledged tell is lost, clients go on."""
        if under_test.kill_server is None or under_test.start_server is None:
            pytest.skip("no kill_server and start_server: there is no server to kill")
        study = _create(under_test)
        stop = tmp_path / "stop"
        logs = [tmp_path / f"w{n}.log" for n in range(3)]

        def each_gets_on() -> None:
            before = [_size([log]) for log in logs]
            _wait_for(
                lambda: all(_size([log]) > b + 2000 for log, b in zip(logs, before, strict=True)),
                "every process tells trials",
                30.0,
            )

        with Crew(under_test.connect) as crew:
            for log in logs:
                crew.send(tell_until, _STUDY, log, stop)
            each_gets_on()
            for _ in range(2):
                under_test.kill_server()
                under_test.start_server()
                each_gets_on()
            stop.touch()
            crew.answers()
        broken = violations(map(History.read, logs), _patiently(study.get_trials))
        assert not broken, "\n".join(broken)

    # Damage and malice.

    @pytest.mark.parametrize("with_what", [None, b"\x80garbage\0{"], ids=["missing", "garbage"])
    def test_damage_is_an_error_and_no_hang(
        self, under_test: StorageUnderTest, with_what: bytes | None
    ) -> None:
        """Something is missing or holds garbage: an error, or the whole truth, and no hang."""
        if under_test.damage is None:
            pytest.skip("no damage: the contract does not know what to break")
        study = _create(under_test)
        _tell(study, 5)
        (truth,) = _in_a_process(under_test, load_everything)
        assert isinstance(truth, list), truth
        for thing in under_test.damage(with_what):
            try:
                (answer,) = _in_a_process(under_test, load_everything, limit=15)
            except AssertionError as error:
                raise AssertionError(f"{thing}: {error}") from None
            if isinstance(answer, list):
                assert answer[:5] == truth[:5], f"{thing}: trials were silently lost or changed"

    def test_a_hostile_value_runs_no_code(
        self, under_test: StorageUnderTest, tmp_path: Path
    ) -> None:
        """Whoever can write to the database cannot run code in its clients."""
        if under_test.damage is None:
            pytest.skip("no damage: the contract does not know where to write")
        study = _create(under_test)
        _tell(study, 105)  # a journal makes a snapshot at trial 100
        mark = tmp_path / "code has run"
        for thing in under_test.damage(pickle.dumps(_Touch(mark))):
            with suppress(AssertionError):  # that it dies or hangs is the business of another row
                _in_a_process(under_test, load_everything, limit=8)
            assert not mark.exists(), f"{thing}: the value was unpickled, and ran code"

    # What is kept.

    def test_delete_study_frees_everything(self, under_test: StorageUnderTest) -> None:
        """`delete_study` frees what the study has taken."""
        if under_test.stored_bytes is None:
            pytest.skip("no stored_bytes: what the database holds cannot be weighed")
        storage = under_test.connect()
        for name in ("first", "second"):
            optuna.create_study(storage=storage, study_name=name)
        optuna.delete_study(study_name="first", storage=storage)
        empty = under_test.stored_bytes()
        study = _create(under_test)
        _tell(study, 20)
        study.enqueue_trial({"x": 1.0})
        study.set_user_attr("large", _text(100 * _KIB))
        trial = study.ask()
        trial.set_user_attr("large", _text(100 * _KIB))
        study.tell(trial, state=TrialState.FAIL)  # a storage may have held it back until now
        full = under_test.stored_bytes()
        assert full > empty + 150 * _KIB, f"stored_bytes says {full - empty} of 200 KiB"
        optuna.delete_study(study_name=_STUDY, storage=storage)
        left = under_test.stored_bytes() - empty
        assert left < 2 * _KIB, f"{left} bytes of {full - empty} are left after delete_study"

    def test_overwriting_an_attribute_takes_no_more_room(
        self, under_test: StorageUnderTest
    ) -> None:
        """Overwriting an attribute does not grow the database."""
        if under_test.stored_bytes is None:
            pytest.skip("no stored_bytes: what the database holds cannot be weighed")
        study = _create(under_test)
        trial = study.ask()

        def overwrite(times: int) -> None:
            for _ in range(times):
                study.set_user_attr("note", _text(10 * _KIB))
                trial.set_user_attr("note", _text(10 * _KIB))
                trial.storage.get_trial(trial._trial_id)  # who holds it back has sent it now

        overwrite(20)
        before = under_test.stored_bytes()
        overwrite(150)
        growth = under_test.stored_bytes() - before
        study.tell(trial, state=TrialState.FAIL)
        assert growth < 100 * _KIB, f"300 times 10 KiB in the same place took {growth} bytes more"

    def test_numbers_that_are_no_finite_ones_are_kept(self, under_test: StorageUnderTest) -> None:
        """NaN and infinite values are kept."""
        storage = under_test.connect()
        study_id = storage.create_new_study([StudyDirection.MINIMIZE] * 2, _STUDY)
        numbers = [math.inf, -math.inf, math.nan, 5e-324, 1.7976931348623157e308]
        for number in numbers:
            trial_id = storage.create_new_trial(study_id)
            storage.set_trial_intermediate_value(trial_id, 0, number)
            storage.set_trial_user_attr(trial_id, "number", [number])
            if math.isnan(number):  # Optuna tells none
                storage.set_trial_state_values(trial_id, TrialState.FAIL)
            else:
                storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [number, 1.0])
        trials = under_test.connect().get_all_trials(study_id)
        for number, trial in zip(numbers, trials, strict=True):
            assert repr(trial.intermediate_values[0]) == repr(number)
            assert repr(trial.user_attrs["number"]) == repr([number])
            if not math.isnan(number):
                assert repr(trial.values[0]) == repr(number)

    @pytest.mark.parametrize("kind", _NAMES)
    def test_any_name_is_kept(self, under_test: StorageUnderTest, kind: str) -> None:
        """Unicode, empty, 600-character and NUL-holding names are kept."""
        name = _NAMES[kind]
        storage = under_test.connect()
        study_id = storage.create_new_study([StudyDirection.MINIMIZE], name)
        storage.set_study_user_attr(study_id, name, name)
        storage.set_study_system_attr(study_id, name, name)
        trial_id = storage.create_new_trial(study_id)
        storage.set_trial_param(trial_id, name, 0.5, FloatDistribution(0, 1))
        storage.set_trial_user_attr(trial_id, name, {name: name})
        storage.set_trial_system_attr(trial_id, name, [name])
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
        other = under_test.connect()
        assert other.get_study_id_from_name(name) == study_id
        assert [s.study_name for s in other.get_all_studies()] == [name]
        assert other.get_study_user_attrs(study_id) == {name: name}
        assert other.get_study_system_attrs(study_id) == {name: name}
        (trial,) = other.get_all_trials(study_id)
        assert trial.params == {name: 0.5}
        assert (trial.user_attrs, trial.system_attrs) == ({name: {name: name}}, {name: [name]})

    def test_large_attributes_are_kept(self, under_test: StorageUnderTest) -> None:
        """Attributes of 5 MB are kept."""
        study = _create(under_test)
        large = "Größe " * (5 * _MIB // 7)
        study.set_user_attr("large", large)
        trial = study.ask()
        trial.set_user_attr("large", large)
        study.tell(trial, 0.5)
        other = open_study(under_test.connect(), _STUDY)
        assert other.user_attrs["large"] == large
        assert other.trials[0].user_attrs["large"] == large


def contract_rows() -> dict[str, str]:
    """List what the contract asks.

    Returns:
        For each test of `StudyStorageContract`, by its name, the sentence that it proves.

    Example:
        >>> from prefect_optuna.blocks.testing import contract_rows
        >>> contract_rows()["test_dropped_idle_connections_are_made_again"]
        'Idle connections are killed.'
    """
    return {
        name: (value.__doc__ or "").strip()
        for name, value in vars(StudyStorageContract).items()
        if name.startswith("test_")
    }


_random = random.Random(7)  # noqa: S311 -- no secret hangs on it


def _text(size: int) -> str:
    """Return text that no database can compress or deduplicate."""
    return _random.randbytes(size // 2).hex()


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self._path),)


def _create(under_test: StorageUnderTest) -> Study:
    return optuna.create_study(
        storage=under_test.connect(),
        study_name=_STUDY,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )


def _tell(study: Study, times: int) -> None:
    for _ in range(times):
        trial = study.ask()
        study.tell(trial, trial.suggest_float("x", 0, 1))


@contextmanager
def _proxied(under_test: StorageUnderTest) -> Generator[tuple[FaultyProxy, BaseStorage]]:
    if under_test.server_port is None or under_test.connect_through is None:
        pytest.skip("no server_port and connect_through: there is no connection to drop")
    with FaultyProxy(under_test.server_port) as proxy:
        yield proxy, under_test.connect_through(proxy.port)()


def _in_a_process(
    under_test: StorageUnderTest, work: Callable[..., Any], *, limit: float = 60.0
) -> list[Any]:
    with Crew(under_test.connect) as crew:
        crew.send(work, _STUDY)
        return crew.answers(limit=limit)


def _wait_for(condition: Callable[[], bool], what: str, limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {limit:g} s"
        time.sleep(0.01)


def _size(logs: list[Path]) -> int:
    return sum(log.stat().st_size for log in logs if log.exists())


def _fail_stale(study: Study) -> None:
    def none_is_running() -> bool:
        fail_stale_trials(study)
        return not study.get_trials(deepcopy=False, states=[TrialState.RUNNING])

    with suppress(AssertionError):  # the history says which
        _wait_for(none_is_running, "stale trials are failed", 20.0)


def _patiently(read: Callable[[], Any]) -> Any:
    """The connection was lost with the server; a storage may notice it by an error."""
    for _ in range(3):
        try:
            return read()
        except Exception:  # noqa: BLE001 -- whatever its client raises
            time.sleep(0.1)
    return read()
