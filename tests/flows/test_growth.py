"""What a trial costs does not grow with the study: nothing reads all trials for each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState

from prefect_optuna.blocks import (
    JournalStudyStorage,
    SQLStudyStorage,
    _journal_replay,
    study_summary,
)
from prefect_optuna.blocks.patience import Patience
from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.blocks.redis_storage.study_copy import StudyCopy
from prefect_optuna.blocks.study_summary import LOST, StudySummary, best_first, summary_of
from prefect_optuna.flows import events, optimize, report, study_run
from prefect_optuna.flows.events import StudySums
from prefect_optuna.flows.session import OpenTrials, Session
from prefect_optuna.flows.study import FlowStudy, StudyStatus
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import InlineDispatcher
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.seeding import SHARED_KEY, shared_note
from prefect_optuna.tasks.trial import LiveTrial, TrialRunner

TRIALS = 40


class Counted:
    """A storage, and how often it was called, and how many trials it has returned."""

    def __init__(self, storage: BaseStorage) -> None:
        self.calls: Counter[str] = Counter()
        self.trials = 0
        for name in dir(BaseStorage):
            method = getattr(storage, name)
            if callable(method) and not name.startswith("__"):
                setattr(storage, name, self.counted(name, method))

    def counted(self, name: str, method: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            found = method(*args, **more)
            self.calls[name] += 1
            if name == "get_all_trials":
                self.trials += len(found)
            return found

        return call


def fill(block: JournalStudyStorage, n_trials: int) -> None:
    """A study with so many finished trials, by copying the line of the first."""
    study = block.create_study("s")
    study.add_trial(
        optuna.trial.create_trial(
            value=9.0,
            params={"x": 3.0},
            distributions={"x": optuna.distributions.FloatDistribution(-5, 5)},
        )
    )
    line = block.path.read_bytes().splitlines(keepends=True)[-1]
    with block.path.open("ab") as journal:
        journal.writelines([line] * (n_trials - 1))


def cost(block: JournalStudyStorage, before: int) -> tuple[Counter[str], int]:
    """What the loop of `optimize` has the storage do, from one trial that is told to the last."""
    fill(block, before)
    storage = block.get_storage()
    study = FlowStudy.open("s", storage, optuna.samplers.RandomSampler(seed=0), None)
    problem = Problem(
        suggest=lambda trial: {"x": trial.suggest_float("x", -5, 5)},
        run=lambda params: params["x"],
        evaluate=lambda result: result**2,
    )
    counts: list[tuple[Counter[str], int]] = []

    def count(study: optuna.Study, _: optuna.trial.FrozenTrial) -> None:
        assert study.best_value <= 9
        counts.append((counted.calls.copy(), counted.trials))

    run = StudyRun(
        study,
        Session(study, study.storage, seed=1),
        InlineDispatcher(TrialRunner(problem)),
        logging.getLogger("test"),
        n_trials=before + TRIALS,
        callbacks=[count],
    )
    counted = Counted(storage)
    run.run()
    assert storage.get_n_trials(study._study_id) == before + TRIALS
    (first_calls, first_trials), (calls, trials) = counts[0], counts[-1]
    return calls - first_calls, trials - first_trials


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_calls_and_trials_read_do_not_grow_with_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How it stands as a whole, with what others do, is looked at now and then.
    for seconds in ("REFRESH_SECONDS", "RECOVER_SECONDS"):
        monkeypatch.setattr(study_run, seconds, 600)
    few, many = [
        cost(JournalStudyStorage(path=tmp_path / f"{before}.journal"), before)
        for before in (1_000, 100_000)
    ]
    assert few == many
    calls, trials = many
    assert trials == 0
    assert calls["set_trial_state_values"] == calls["set_trial_param"] == TRIALS - 1
    assert sum(calls.values()) <= 12 * TRIALS


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_trial_in_a_database_is_read_as_often_beside_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_jobs: int
) -> None:
    read = 0
    build = RDBStorage._build_frozen_trial_from_trial_model

    def counting(self: RDBStorage, trial: Any) -> optuna.trial.FrozenTrial:
        nonlocal read
        read += 1
        return build(self, trial)

    monkeypatch.setattr(RDBStorage, "_build_frozen_trial_from_trial_model", counting)
    costs: list[int] = []
    for before in (10, 210):
        block = SQLStudyStorage(url=f"sqlite:///{tmp_path / str(before)}.db")
        done = optuna.trial.create_trial(value=9.0)
        block.create_study("s").add_trials([done] * before)
        read = 0
        optimize(
            Problem(objective=lambda trial: trial.suggest_float("x", 0, 1)),
            study_name="s",
            storage=block,
            n_trials=before + TRIALS,
            n_jobs=n_jobs,
            sampler="random",
        )
        costs.append(read)
    assert costs[1] - costs[0] <= 3 * 200  # who opens a study reads it
    assert costs[0] <= 8 * TRIALS


def test_a_live_trial_in_another_process_reads_no_other_one_of_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = SQLStudyStorage(url=f"sqlite:///{tmp_path}/s.db")
    study = block.create_study("s")
    study.add_trials([optuna.trial.create_trial(value=9.0)] * 20)
    number = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).number
    read: list[int] = []
    build = RDBStorage._build_frozen_trial_from_trial_model

    def noting(self: RDBStorage, trial: Any) -> optuna.trial.FrozenTrial:
        read.append(trial.number)
        return build(self, trial)

    monkeypatch.setattr(RDBStorage, "_build_frozen_trial_from_trial_model", noting)
    live = LiveTrial(block, "s", number, study.sampler, study.pruner, "run").open(Patience())
    assert 0 <= live.suggest_float("x", 0, 1) <= 1
    live.set_user_attr("seen", True)
    assert set(read) == {number}


def test_the_live_trials_of_a_run_in_one_process_read_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = SQLStudyStorage(url=url).create_study("s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=40)
    read: list[int] = []
    build = RDBStorage._build_frozen_trial_from_trial_model

    def noting(self: RDBStorage, trial: Any) -> optuna.trial.FrozenTrial:
        read.append(trial.number)
        return build(self, trial)

    costs: list[int] = []
    for run in ("one", "one", "one", "two"):
        number = study.ask().number
        block = SQLStudyStorage(url=url)  # as it arrives with each task run
        live = LiveTrial(block, "s", number, TPESampler(seed=1), study.pruner, run)
        with monkeypatch.context() as patch:
            patch.setattr(RDBStorage, "_build_frozen_trial_from_trial_model", noting)
            assert 0 <= live.open(Patience()).suggest_float("x", 0, 1) <= 1
        study.tell(number, 1.0)
        costs.append(len(read))
        read.clear()
    # Another run might find another study of this name, whose trials have the same ids.
    assert min(costs[0], costs[3]) >= 40
    assert max(costs[1:3]) <= 12


def test_looking_at_what_is_new_makes_no_list_of_all_trials(
    redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(RedisStorage(redis_server, namespace=f"growth-{uuid4()}")) as storage:
        optuna.create_study(study_name="s", storage=storage)
        study = FlowStudy.open("s", storage, optuna.samplers.RandomSampler(seed=0), None)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=20)
        running = study.ask()
        session = Session(study, study.storage, seed=1)
        monkeypatch.delattr(StudyCopy, "trials")
        session.release(2)
        follows = OpenTrials()
        new, ended = follows.look(study.trials_view())
        assert (len(new), len(ended), len(follows.open)) == (23, 20, 3)
        study.tell(running, 0.5)
        new, ended = follows.look(study.trials_view())
        assert (new, [trial.number for trial in ended]) == ([], [20])
        assert study.trials_view()[-1].state == TrialState.WAITING
        assert session.recover() == []


class Looked(list[optuna.trial.FrozenTrial]):
    """Trials, and how many of them were looked at."""

    count = 0

    def __iter__(self) -> Any:
        self.count += len(self)
        return super().__iter__()

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.count += len(found) if isinstance(place, slice) else 1
        return found


def test_how_the_study_stands_is_told_from_what_has_happened_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = JournalStudyStorage(path=tmp_path / "s.journal")
    fill(block, 1_000)
    study = FlowStudy.open("s", block.get_storage(), None, None)
    runner = InlineDispatcher(TrialRunner(Problem(objective=lambda trial: 0.0)))
    session, logger = Session(study, study.storage), logging.getLogger("test")
    run = StudyRun(study, session, runner, logger, n_trials=2_000)
    running = study.ask()
    trials = Looked(study.get_trials(deepcopy=False))
    monkeypatch.setattr(study, "trials_view", lambda: trials)
    run._refresh()
    assert trials.count == len(trials) == 1_001
    trials.count = 0
    study.tell(running, 1.0)
    trials[-1] = study.storage.get_trial(running._trial_id)
    run._refresh()
    assert trials.count == 1
    assert run.finished == 1_001


def test_more_trials_are_asked_for_without_going_through_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = JournalStudyStorage(path=tmp_path / "s.journal")
    fill(block, 1_000)
    study = FlowStudy.open("s", block.get_storage(), None, None)
    session = Session(study, study.storage, seed=1)
    repeated = study.ask()
    study.tell(repeated, state=optuna.trial.TrialState.FAIL)
    session._repeat(study.trials[-1])
    trials = Looked(study.get_trials(deepcopy=False))
    below = study.storage.storage
    monkeypatch.setattr(below, "get_all_trials", lambda *_, **__: trials)
    monkeypatch.setattr(session, "_waiting", list)
    session.release(1)
    assert (session._next, session._n_repeats) == (1_003, 1)
    trials.count = 0
    session.release(1)
    assert trials.count == 1  # the one that has not ended
    assert (session._next, session._n_repeats) == (1_004, 1)


def ended_ago(
    state: str, value: float, minutes: int, directions: Sequence[str]
) -> optuna.trial.FrozenTrial:
    """A trial that ended so many minutes ago."""
    now = datetime.now()  # noqa: DTZ005 - as Optuna's times are
    trial = optuna.trial.create_trial(
        values=[value, -value][: len(directions)] if state in ("complete", "infeasible") else None,
        state=STATES[state],
        constraints={"mass": 1.0} if state == "infeasible" else None,
        system_attrs={LOST: {"reason": "a crash"}} if state == "lost" else {},
        user_attrs={SHARED_KEY: ["random"]} if value > 2 else {},
    )
    trial.datetime_start = now - timedelta(minutes=minutes + 1)
    trial.datetime_complete = now - timedelta(minutes=minutes)
    return trial


STATES = {
    "complete": TrialState.COMPLETE,
    "infeasible": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "lost": TrialState.FAIL,
}
STEPS = st.lists(
    st.one_of(
        st.sampled_from(["ask", "enqueue"]),
        st.just("tell"),
        st.just("look"),
        st.tuples(
            st.sampled_from([*STATES]),
            st.sampled_from([0.0, 1.0, 2.0, 3.0]),
            st.integers(0, 4 * 24 * 60),
        ),
    ),
    max_size=40,
)


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["minimize", "minimize"]])
@given(steps=STEPS)
def test_sums_that_grow_are_those_of_all_trials(steps: list[Any], directions: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "MOST_LOOKED_AT", 6)
        patch.setattr(events, "MOST_BEST", 3)
        patch.setattr(study_summary, "MOST_BEST", 3)
        study, sums = optuna.create_study(directions=directions), StudySums(directions)
        heard: list[int] = []
        for step in [*steps, "look"]:
            running = study.get_trials(states=[TrialState.RUNNING])
            if step == "ask":
                study.ask()
            elif step == "enqueue":
                study.enqueue_trial({})
            elif step == "tell" and running:
                study.tell(running[0].number, [1.5] * len(directions))
            elif isinstance(step, tuple):
                study.add_trial(ended_ago(*step, directions))
            elif step == "look":
                summary, some, ended = sums.look(study.get_trials(deepcopy=False))
                heard += [trial.number for trial in ended]
                compare(summary, some, study.trials, directions)
                assert sums.shared.note() == shared_note(study.trials)
        assert sorted(heard) == [t.number for t in study.trials if t.state.is_finished()]


def compare(
    summary: StudySummary,
    some: Sequence[optuna.trial.FrozenTrial],
    trials: list[optuna.trial.FrozenTrial],
    directions: Sequence[str],
) -> None:
    """A summary that has grown with one that is made of all trials at once."""
    exact = summary_of(trials, directions)
    assert replace(summary, since_best=None, yesterday=None) == exact
    ended = [trial for trial in trials if trial.state.is_finished()]
    if len(directions) == 1 and exact.best:
        assert summary.since_best == sum(t.number > exact.best[0].number for t in ended)
    older = [
        trial
        for trial in ended
        if trial.datetime_complete is None
        or trial.datetime_complete < datetime.now() - timedelta(days=1)  # noqa: DTZ005
    ]
    if len(older) < len(ended) and not any(t.duration and is_about_a_day_old(t) for t in ended):
        assert summary.yesterday is not None
        assert summary.yesterday[0] == len(older)
        if len(directions) == 1:
            assert summary.yesterday[1] == next(iter(best_first(older, directions)), None)
    if len(trials) <= 6:
        assert some == trials
    else:
        numbers = {trial.number for trial in some}
        assert numbers >= {trial.number for trial in [*exact.best, *exact.unfinished]}
        assert len(numbers) <= 6 + len(exact.best) + len(exact.unfinished)
        assert [trial.number for trial in some] == sorted(numbers)


def is_about_a_day_old(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether the minute in which a trial ended is that of 24 hours ago, or beside it."""
    assert trial.datetime_complete
    age = datetime.now() - trial.datetime_complete  # noqa: DTZ005
    return abs(age - timedelta(days=1)) < timedelta(minutes=2)


def test_a_look_at_a_large_study_is_one_at_what_is_new(tmp_path: Path) -> None:
    block = JournalStudyStorage(path=tmp_path / "s.journal")
    fill(block, 6_000)
    study = block.load_study("s")
    running = study.ask()
    trials, sums = Looked(study.get_trials(deepcopy=False)), StudySums(["minimize"])
    sums.look(trials)
    trials.count = 0
    study.tell(running, 10.0)
    trials[-1] = study.trials[-1]
    summary, some, ended = sums.look(trials)
    assert trials.count == 1
    assert (summary.n_trials, summary.since_best, len(ended)) == (6_001, 6_000, 1)
    assert 5_000 <= len(some) <= 5_101
    assert len({trial.number // 1000 for trial in some}) == 7  # from the first to the last


@pytest.mark.usefixtures("prefect_server")
def test_whoever_opens_the_journal_after_a_run_reads_on_from_its_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_journal_replay, "_WORTH", 1)
    block = JournalStudyStorage(path=tmp_path / "s.journal")
    optimize(Problem(objective=lambda trial: 0.0), n_trials=3, study_name="s", storage=block)
    read: list[Any] = []
    monkeypatch.setattr(_journal_replay.Replay, "apply", lambda _, record: read.append(record))
    assert len(JournalStudyStorage(path=block.path).load_study("s").trials) == 3
    assert len(read) < 10  # of the end of the run


@pytest.mark.usefixtures("prefect_server")
def test_the_report_of_a_large_study_is_made_of_some_trials_and_counts_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MOST_LOOKED_AT", 20)
    monkeypatch.setattr(events, "MOST_BEST", 5)
    statuses: list[StudyStatus] = []
    original = report.render_report

    def render(status: StudyStatus, **options: Any) -> report.Report:
        statuses.append(status)
        return original(status, **options)

    monkeypatch.setattr(report, "render_report", render)
    optimize(
        Problem(
            suggest=lambda trial: {"x": trial.suggest_float("x", -1, 1)},
            run=lambda params: params["x"],
            evaluate=lambda result: result**2,
        ),
        study_name="large",
        n_trials=60,
        storage=JournalStudyStorage(path=tmp_path / "s.journal"),
        artifacts=tmp_path / "artifacts",
        sampler="random",
    )
    last = statuses[-1]
    assert last.summary is not None
    assert (last.state, last.summary.n_trials) == ("completed", 60)
    assert 20 <= len(last.trials) <= 25
    text = original(last, pictures=False).markdown
    assert "**60 of 60 trials** (60 complete)" in text
    assert f"Pictures and tables are of {len(last.trials)} of the 60 trials" in text
    best = last.best[0]
    assert best.number == min(last.trials, key=lambda trial: trial.value or 0).number
    later = 59 - best.number
    assert later == 0 or f"none better in {later:,} trial" in text
