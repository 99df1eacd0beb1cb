"""What a trial costs does not grow with the study: nothing reads all trials for each."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from prefect_optuna.blocks import JournalStudyStorage
from prefect_optuna.blocks.redis_storage import RedisStorage
from prefect_optuna.blocks.redis_storage.study_copy import StudyCopy
from prefect_optuna.flows import study_run
from prefect_optuna.flows.session import OpenTrials, Session
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import InlineDispatcher
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.trial import TrialRunner

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
