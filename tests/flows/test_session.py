"""Sessions: the trials that dead processes leave behind are failed and asked again, once each."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState
from prefect.task_runners import ThreadPoolTaskRunner
from servers import wait_until

from prefect_optuna.blocks import (
    InMemoryStudyStorage,
    JournalStudyStorage,
    SQLStudyStorage,
    StorageUnavailableError,
)
from prefect_optuna.flows.session import (
    MARK,
    MAX_REPETITIONS,
    OpenTrials,
    Session,
    ask_sessions,
    give_order,
    is_lost,
    living_sessions,
    lost_trials,
    session_records,
    state_of,
)
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import (
    InlineDispatcher,
    ThreadDispatcher,
    task_run_seconds,
)
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.trial import TrialRunner


@pytest.fixture(params=["memory", "journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> BaseStorage:
    if request.param == "memory":
        return InMemoryStudyStorage(name=str(tmp_path)).get_storage()
    if request.param == "journal":
        return JournalStudyStorage(path=tmp_path / "studies.journal").get_storage()
    return SQLStudyStorage(url=f"sqlite:///{tmp_path}/studies.db").get_storage()


@pytest.fixture
def study(storage: BaseStorage) -> optuna.Study:
    return optuna.create_study(
        study_name="s", storage=storage, sampler=optuna.samplers.RandomSampler(seed=0)
    )


def dead_session(study: optuna.Study, storage: BaseStorage, **changes: object) -> Session:
    """A session as a killed process leaves it: its record says nothing of an end."""
    session = Session(study, storage)
    study_id = storage.get_study_id_from_name(study.study_name)
    session._write(closed=False)
    key = f"prefect_optuna:session:{session.id}"
    record = storage.get_study_system_attrs(study_id)[key]
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    storage.set_study_system_attr(study_id, key, {**record, "pid": gone.pid, **changes})
    return session


def asked(study: optuna.Study, session: Session) -> optuna.Trial:
    trial = study.ask()
    session.claim(trial)
    trial.suggest_float("x", 0, 1)
    return trial


def test_a_trial_of_a_dead_session_is_failed_and_asked_again_with_its_parameters(
    study: optuna.Study, storage: BaseStorage
) -> None:
    left = asked(study, dead_session(study, storage))
    session = Session(study, storage)

    assert session.recover() == [left.number]

    lost, again = study.trials
    assert lost.state == TrialState.FAIL
    assert is_lost(lost)
    assert again.state == TrialState.WAITING
    repetition = study.ask()
    assert repetition.number == again.number
    assert repetition.suggest_float("x", 0, 1) == left.params["x"]
    # As Optuna's own callback for stale trials marks them.
    assert study.trials[1].system_attrs["retry_history"] == [left.number]
    assert study.trials[1].system_attrs["failed_trial"] == left.number


def test_a_study_is_running_while_somebody_runs_it_and_else_says_how_it_ended(
    study: optuna.Study, storage: BaseStorage
) -> None:
    assert state_of(study, study.trials) == "completed"  # by Optuna alone
    session = Session(study, storage)
    session.open()
    assert state_of(study, study.trials) == "running"
    trial = asked(study, session)
    session.close(clean=False, state="interrupted")
    assert state_of(study, study.trials) == "interrupted"
    study.tell(trial, 1.0)
    assert state_of(study, study.trials) == "interrupted"
    again = Session(study, storage)
    again.open()
    again.close(state="completed")
    assert state_of(study, study.trials) == "completed"
    study.enqueue_trial({"x": 0.5})
    assert state_of(study, study.trials) == "interrupted"
    stopped = Session(study, storage)
    stopped.open()
    stopped.close(state="stopped")
    assert state_of(study, study.trials) == "stopped", "before its queue was empty"


def test_a_killed_session_runs_nothing_and_a_stranger_s_trial_may_run(
    study: optuna.Study, storage: BaseStorage
) -> None:
    trial = asked(study, dead_session(study, storage))
    assert state_of(study, study.trials) == "interrupted"
    study.tell(trial, 1.0)
    elsewhere = {"place": "another machine", "renewed": time.time() - 1000}
    dead_session(study, storage, **elsewhere)
    assert state_of(study, study.trials) == "interrupted"
    study.ask()
    assert state_of(study, study.trials) == "running"


def test_a_study_is_complete_though_one_that_ran_it_was_killed_before_its_end(
    study: optuna.Study, storage: BaseStorage
) -> None:
    study.tell(study.ask(), 1.0)
    wanted_more = dead_session(study, storage, n_trials=2)
    assert state_of(study, study.trials) == "interrupted"
    other = Session(study, storage, {"n_trials": 2})
    other.opened = wanted_more.opened - 1  # it was there before
    other.open()
    study.tell(study.ask(), 1.0)
    other.close(state="completed")
    assert state_of(study, study.trials) == "completed"
    dead_session(study, storage, n_trials="many")
    assert state_of(study, study.trials) == "interrupted"


def test_recovering_twice_asks_again_once(study: optuna.Study, storage: BaseStorage) -> None:
    asked(study, dead_session(study, storage))
    assert Session(study, storage).recover() == [0]
    assert Session(study, storage).recover() == []
    assert len(study.trials) == 2


def test_recovering_from_many_threads_asks_each_trial_again_once(
    study: optuna.Study, storage: BaseStorage
) -> None:
    dead = dead_session(study, storage)
    numbers = [asked(study, dead).number for _ in range(10)]
    barrier = threading.Barrier(6)

    def recover() -> None:
        session = Session(study, storage)
        session.open()
        barrier.wait()
        session.recover()
        session.close()

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(recover) for _ in range(6)]:
            future.result()

    waiting = [trial for trial in study.trials if trial.state == TrialState.WAITING]
    assert sorted(t.system_attrs["failed_trial"] for t in waiting) == numbers


def test_trials_of_live_sessions_and_of_strangers_are_left_alone(
    study: optuna.Study, storage: BaseStorage
) -> None:
    live = Session(study, storage)
    live.open()
    asked(study, live)
    stranger = study.ask()  # a plain Optuna worker
    stranger.suggest_float("x", 0, 1)

    assert Session(study, storage).recover() == []

    assert [trial.state for trial in study.trials] == [TrialState.RUNNING] * 2
    live.close()


def test_a_trial_that_was_asked_and_not_yet_claimed_is_recovered(
    study: optuna.Study, storage: BaseStorage
) -> None:
    dead_session(study, storage)
    study.ask()
    assert Session(study, storage).recover() == [0]


def test_an_empty_trial_from_before_any_dead_session_belongs_to_a_stranger(
    study: optuna.Study, storage: BaseStorage
) -> None:
    study.ask()
    later = time.time() + 300
    dead_session(study, storage, opened=later, renewed=later)
    assert Session(study, storage).recover() == []


@pytest.mark.parametrize("behind", [0, 7200], ids=["", "whose clock is two hours behind"])
def test_a_session_of_another_machine_is_dead_when_its_record_stands_still(
    study: optuna.Study, storage: BaseStorage, behind: float
) -> None:
    there = {"place": "elsewhere", "lease": 0.5, "renewed": time.time() - behind}
    alive, dead = (dead_session(study, storage, **there) for _ in range(2))
    running, left = asked(study, alive), asked(study, dead)
    study_id = storage.get_study_id_from_name(study.study_name)
    key = f"prefect_optuna:session:{alive.id}"
    session = Session(study, storage)
    assert session.recover() == []
    assert session.others_running(study.trials) == 2
    given_up = []
    for beat in range(4):
        time.sleep(0.2)
        record = storage.get_study_system_attrs(study_id)[key]
        storage.set_study_system_attr(study_id, key, record | {"renewed": beat})
        given_up += session.recover()
    assert given_up == [left.number]
    assert study.trials[running.number].state == TrialState.RUNNING
    assert session.others_running(study.trials) == 1  # what was left waits in the queue


def test_time_in_which_nobody_could_look_kills_no_session(
    study: optuna.Study, storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_optuna.flows.session._MOST_BETWEEN_LOOKS", 0.1)
    session = Session(study, storage)
    asked(study, dead_session(study, storage, place="elsewhere", lease=0.4))
    session.recover()
    time.sleep(0.6)
    assert session.recover() == []


def test_a_trial_given_up_by_somebody_who_died_before_asking_it_again_is_asked_again(
    study: optuna.Study, storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = asked(study, dead_session(study, storage))
    dies = dead_session(study, storage)
    with monkeypatch.context() as patch:
        patch.setattr(dies, "_repeat", lambda *_: None)
        dies.recover()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]

    Session(study, storage).recover()
    Session(study, storage).recover()

    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[1].system_attrs["fixed_params"] == left.params


def test_a_trial_that_takes_its_process_down_each_time_counts_as_failed_in_the_end(
    study: optuna.Study, storage: BaseStorage
) -> None:
    for _ in range(MAX_REPETITIONS + 1):
        asked(study, dead_session(study, storage))
        Session(study, storage).recover()
    assert all(trial.state == TrialState.FAIL for trial in study.trials)
    assert len(study.trials) == MAX_REPETITIONS + 1
    assert len(lost_trials(study.trials)) == MAX_REPETITIONS
    assert len({trial.params["x"] for trial in study.trials}) == 1


def test_kill_9_leaves_a_session_that_the_next_start_finds_dead(tmp_path: Path) -> None:
    path = tmp_path / "studies.journal"
    script = f"""
        import os, signal
        from prefect_optuna.blocks import JournalStudyStorage
        from prefect_optuna.flows.session import Session
        block = JournalStudyStorage(path={str(path)!r})
        study = block.create_study("s")
        session = Session(study, block.get_storage())
        session.open()
        trial = study.ask()
        session.claim(trial)
        trial.suggest_float("x", 0, 1)
        print("running", flush=True)
        signal.pause()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        block = JournalStudyStorage(path=path)
        study = block.load_study("s")
        assert Session(study, block.get_storage()).recover() == []
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and a zombie
        assert Session(study, block.get_storage()).recover() == [0]
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class Answerless(InMemoryStorage):
    """What it is asked for it does, and then the answer is lost in an outage, once."""

    loses = ""

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        done = super().set_trial_state_values(trial_id, state, values)
        if state.name == self.loses:
            self.loses = ""
            raise ConnectionError("the cable")
        return done


@pytest.mark.parametrize("somebody_runs_it", [False, True])
def test_a_trial_that_was_taken_in_an_outage_is_asked_again_unless_somebody_runs_it(
    somebody_runs_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefect_optuna.flows.session.CLAIM_SECONDS", 0.0)
    plain = Answerless()
    optuna.create_study(study_name="s", storage=plain).enqueue_trial({"x": 0.25})
    study = FlowStudy.open("s", plain, optuna.samplers.RandomSampler(), None)
    session = Session(study, study.storage)
    plain.loses = "RUNNING"
    assert session.take(study) is None
    if somebody_runs_it:
        optuna.Trial(study, plain.get_all_trials(0)[0]._trial_id).suggest_float("x", 0, 1)
    time.sleep(0.01)

    again = session.take(study)

    if somebody_runs_it:
        assert again is None
        assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    else:
        assert again is not None
        assert is_lost(study.trials[0])
        assert again.suggest_float("x", 0, 1) == 0.25


def study_run(plain: InMemoryStorage, problem: Problem, **more: Any) -> StudyRun:
    optuna.create_study(study_name="s", storage=plain)
    study = FlowStudy.open("s", plain, optuna.samplers.RandomSampler(), None)
    return StudyRun(
        study,
        Session(study, study.storage),
        InlineDispatcher(TrialRunner(problem)),
        logging.getLogger("test"),
        n_trials=3,
        **more,
    )


def test_the_more_others_run_the_longer_is_a_task_run_for_a_server_takes_in_so_many() -> None:
    plain = InMemoryStorage()
    problem = Problem.of(lambda trial: trial.suggest_float("x", 0, 1))
    run = study_run(plain, problem)
    dispatcher = ThreadDispatcher(ThreadPoolTaskRunner(), TrialRunner(problem), n_jobs=8)
    run.dispatcher = dispatcher
    other = Session(run.study, plain)
    other.open()
    for _ in range(56):
        asked(run.study, other)
    run._refresh()
    other.close()
    assert dispatcher.others == 56
    assert task_run_seconds(8 + dispatcher.others) == 6.4  # 10 a second, from 64 at once
    assert task_run_seconds(1) < 1


@pytest.mark.usefixtures("prefect_server")
def test_a_trial_whose_telling_was_answered_by_an_outage_counts_once() -> None:
    plain, told = Answerless(), []
    plain.loses = "COMPLETE"
    run = study_run(plain, Problem.of(lambda trial: trial.suggest_float("x", 0, 1)))
    run.callbacks = [lambda _, trial: told.append(trial.number)]
    run.run()
    assert told == [0, 1, 2]
    assert [t.state for t in plain.get_all_trials(0)] == [TrialState.COMPLETE] * 3


def test_a_trial_whose_suggest_meets_an_outage_has_not_failed() -> None:
    def suggest(trial: optuna.Trial) -> dict[str, float]:
        raise StorageUnavailableError("away")

    plain = InMemoryStorage()
    problem = Problem(suggest=suggest, run=lambda params: 0.0)
    with pytest.raises(StorageUnavailableError, match="away"):
        study_run(plain, problem, catch=(Exception,)).run()
    lost, again = plain.get_all_trials(0)
    assert is_lost(lost)
    assert again.state == TrialState.WAITING


def test_losses_that_were_not_its_doing_do_not_count_against_a_trial(
    study: optuna.Study, storage: BaseStorage
) -> None:
    session = Session(study, storage)
    session.open()
    number = asked(study, session).number
    for _ in range(2 * MAX_REPETITIONS):
        again = session.give_up(number, "interrupted", innocent=True)
        assert again is not None
        number = asked(study, session).number
        assert number == again
    for _ in range(MAX_REPETITIONS):
        assert session.give_up(number, "its process died") is not None
        number = asked(study, session).number
    again = session.give_up(number, "interrupted", innocent=True)  # however often it died before
    assert again is not None
    assert asked(study, session).number == again
    assert session.give_up(again, "its process died") is None
    session.close()


def test_orders_of_different_names_stand_beside_each_other(
    study: optuna.Study, storage: BaseStorage
) -> None:
    session = Session(study, storage)
    session.open()
    give_order(study, session.id, workers=3)
    assert ask_sessions(study, "pause") == 1
    assert session.orders() == {"workers": 3, "do": "pause"}
    assert ask_sessions(study, "resume") == 1
    assert (session.asked(), session.orders()["workers"]) == (None, 3)
    session.close()


def test_a_trial_that_is_one_too_many_is_taken_back(
    study: optuna.Study, storage: BaseStorage
) -> None:
    session = Session(study, storage)
    session.open()
    new = asked(study, session).number
    study.enqueue_trial({"x": 0.5})
    queued = asked(study, session).number
    session.withdraw(new)
    session.withdraw(queued)
    session.close()
    assert all(is_lost(study.trials[number]) for number in (new, queued))
    (waiting,) = study.get_trials(states=(TrialState.WAITING,))
    assert waiting.system_attrs["fixed_params"] == {"x": 0.5}
    assert Session(study, storage).recover() == []
    assert len(study.get_trials(states=(TrialState.WAITING,))) == 1


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "given_up", [False, True], ids=["", "and is given up, not asked again yet"]
)
def test_a_trial_that_a_dead_session_has_left_is_still_to_come(given_up: bool) -> None:
    plain, told = InMemoryStorage(), []
    run = study_run(plain, Problem.of(lambda trial: trial.suggest_float("x", 0, 1)))
    dead = dead_session(run.study, plain, closed=True, clean=False)
    left = asked(run.study, dead).number
    if given_up:
        mark = {"session": dead.id, "why": "it died"}
        plain.set_trial_system_attr(left, "prefect_optuna:lost", mark)
        plain.set_trial_state_values(left, TrialState.FAIL)
    recover = run._recover
    run._recover = lambda: None if not told else recover()  # it comes a moment later
    run.callbacks = [lambda _, trial: told.append(trial.number)]
    run.run()
    trials = plain.get_all_trials(0)
    assert told == [1, 2, 3]
    assert [is_lost(t) for t in trials] == [True, False, False, False]  # and no fifth
    assert trials[3].system_attrs["retry_history"] == [left]


def test_what_was_asked_before_comes_before_though_it_is_asked_again(
    study: optuna.Study, storage: BaseStorage
) -> None:
    session, other = Session(study, storage), dead_session(study, storage)
    numbers = [asked(study, other).number for _ in range(2)]
    new = asked(study, session).number
    session.give_up(numbers[0], "its process died")
    follows = OpenTrials()
    follows.look(study.trials)
    assert follows.ahead_of(new, study.trials) == 2
    session.withdraw(new)
    asked(study, session)  # the lost one again
    study.tell(asked(study, session), 1.0)
    follows.look(study.trials)
    assert follows.ahead_of(new + 5, study.trials) == 3
    assert follows.ahead_of(new, study.trials) == 2


def test_what_two_runs_asked_again_at_once_is_run_once(
    study: optuna.Study, storage: BaseStorage
) -> None:
    left = asked(study, dead_session(study, storage)).number
    session = Session(study, storage)
    session.open()
    session.give_up(left, "its process died")
    session._repeat(study.trials[left])
    flow_study = FlowStudy.open("s", storage, optuna.samplers.RandomSampler(), None)
    taken = session.take(flow_study)
    assert taken is not None
    assert session.take(flow_study) is None
    assert [is_lost(t) for t in study.trials] == [True, False, True]
    assert taken.number == 1
    assert Session(study, storage).recover() == []
    session.close()
    assert len(study.trials) == 3


@pytest.mark.usefixtures("prefect_server")
def test_whoever_runs_a_study_can_be_asked_to_pause_to_go_on_and_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prefect_optuna.flows.study_run.REFRESH_SECONDS", 0.05)
    storage = InMemoryStorage()

    def slow(trial: optuna.Trial) -> float:
        time.sleep(0.02)
        return trial.suggest_float("x", 0, 1)

    run = study_run(storage, Problem.of(slow))
    run.n_trials = None
    plain = optuna.load_study(study_name="s", storage=storage)

    def finished() -> int:
        return sum(trial.state.is_finished() for trial in plain.get_trials(deepcopy=False))

    assert ask_sessions(plain, "stop") == 0
    thread = threading.Thread(target=run.run)
    thread.start()
    wait_until(lambda: finished() > 3, what="some trials")
    assert ask_sessions(plain, "pause") == 1
    wait_until(lambda: run._paused and not run._in_flight, what="a pause")
    assert state_of(plain, plain.trials) == "paused"
    seen = finished()
    time.sleep(0.3)
    assert finished() == seen
    assert ask_sessions(plain, "resume") == 1
    wait_until(lambda: finished() > seen + 3, what="more trials")
    assert ask_sessions(plain, "stop") == 1
    thread.join(10)
    assert not thread.is_alive()
    assert state_of(plain, plain.trials) == "stopped"
    assert {trial.state for trial in plain.trials} == {TrialState.COMPLETE}


def test_one_look_takes_an_old_record_of_another_machine_for_a_dead_one(
    study: optuna.Study, storage: BaseStorage
) -> None:
    now = time.time()
    fresh = dead_session(study, storage, place="elsewhere", renewed=now - 10, lease=6.0)
    dead_session(study, storage, place="elsewhere", renewed=now - 13, lease=6.0)
    assert list(living_sessions(study)) == [fresh.id]


def test_a_death_that_was_seen_counts_though_the_clock_of_the_dead_was_ahead(
    study: optuna.Study, storage: BaseStorage
) -> None:
    ahead = {"place": "elsewhere", "renewed": time.time() + 7200, "lease": 0.3}
    dead = dead_session(study, storage, **ahead)
    assert list(living_sessions(study)) == [dead.id]
    session = Session(study, storage)
    session.recover()
    time.sleep(0.4)
    session.recover()
    assert living_sessions(study) == {}
    assert state_of(study, study.trials) == "interrupted"
    dead.open()  # it only stood still
    assert list(living_sessions(study)) == [dead.id]
    dead.close()


def test_a_session_says_how_long_its_lease_is(
    study: optuna.Study, storage: BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_LEASE", "6")
    session = Session(study, storage)
    session.open()
    assert session.records()[session.id]["lease"] == 6
    session.close()


@pytest.mark.parametrize(
    "change",
    [{"renewed": "x"}, {"opened": float("nan")}, {"pid": -1}, {"pid": 1 << 70}, {"place": None}],
)
def test_a_record_that_no_session_has_written_stops_nobody(
    study: optuna.Study, storage: BaseStorage, change: dict[str, Any]
) -> None:
    study.ask()
    whole = dead_session(study, storage).id
    record = storage.get_study_system_attrs(study._study_id)[f"{MARK}:{whole}"]
    for key, damaged in {"damaged": record | change, "list": [1], "empty": {}}.items():
        storage.set_study_system_attr(study._study_id, f"{MARK}:{key}", damaged)
    assert list(session_records(study)) == [whole]
    assert state_of(study, study.get_trials()) == "running"  # the trial is of Optuna alone
    assert ask_sessions(study, "stop") == 0


def test_a_study_whose_trials_wait_for_nobody_is_interrupted(study: optuna.Study) -> None:
    assert state_of(study, study.get_trials()) == "completed"
    study.enqueue_trial({})
    assert state_of(study, study.get_trials()) == "interrupted"


def test_a_look_at_the_trials_of_a_study_costs_what_has_happened_since_the_one_before(
    study: optuna.Study,
) -> None:
    class Settled:
        def __getattr__(self, name: str) -> NoReturn:
            raise AssertionError(f"{name} of a trial that has ended was looked at again")

    follows = OpenTrials()
    study.tell(study.ask(), 1.0)
    running = study.ask()
    new, ended = follows.look(study.trials)
    assert [t.number for t in new] == [0, 1]
    assert [t.number for t in ended] == [0]
    study.ask()
    trials: list[Any] = [Settled(), *study.trials[1:]]
    new, ended = follows.look(trials)
    assert ([t.number for t in new], ended, follows.finished) == ([2], [], 1)
    study.tell(running, 1.0)
    _, ended = follows.look([Settled(), *study.trials[1:]])  # type: ignore[list-item]
    assert [t.number for t in ended] == [1]
    assert [t.number for t in follows.open] == [2]
