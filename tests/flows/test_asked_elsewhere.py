"""What a run does with a trial that another run has taken from it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks import ArtifactFileSystem, JournalStudyStorage
from prefect_optuna.blocks.patience import Patience
from prefect_optuna.flows.session import Session, is_lost
from prefect_optuna.flows.spool import Delivery, TrialKeeper
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import InlineDispatcher
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import ResultWriter
from prefect_optuna.tasks.trial import Assignment, FlowTrial, LiveTrial, TrialRunner


@pytest.mark.parametrize("kind", ["problem", "plain objective", "sampler"])
@pytest.mark.usefixtures("prefect_server")
def test_a_trial_that_was_taken_away_while_it_suggested_has_not_failed(kind: str) -> None:
    storage = InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    other, taken = Session(optuna.load_study(study_name="s", storage=storage), storage), list[Any]()

    runs: list[int] = []

    def stand_still(number: int) -> None:
        if not taken:
            taken.append(other.give_up(number, "its machine is gone", innocent=True))

    class Sampler(optuna.samplers.RandomSampler):
        def sample_relative(
            self, study: optuna.Study, trial: FrozenTrial, search_space: Any
        ) -> dict[str, Any]:
            stand_still(trial.number)
            study._storage.set_trial_system_attr(trial._trial_id, "sampler", 1)
            return {}

    study = FlowStudy.open("s", storage, Sampler() if kind == "sampler" else None, None)

    def objective(trial: optuna.Trial) -> float:
        stand_still(trial.number)
        return trial.suggest_float("x", 0, 1)

    def suggest(trial: optuna.Trial) -> dict[str, Any]:
        return {"x": objective(trial), "number": trial.number}

    def run(params: dict[str, Any]) -> float:
        runs.append(params["number"])
        return params["x"]

    if kind != "plain objective":
        problem = Problem(suggest=suggest, run=run, evaluate=float)
    else:
        problem = Problem(objective=objective)
    runner = InlineDispatcher(TrialRunner(problem))
    session, logger = Session(study, study.storage), logging.getLogger("test")
    writer = ResultWriter(ArtifactFileSystem(url="memory://taken"), "0b8f")
    keeper = TrialKeeper("s", "memory", "0b8f", session.id)
    delivery = Delivery(study, writer, lambda _: None, logger)
    StudyRun(study, session, runner, logger, n_trials=3, keeper=keeper, delivery=delivery).run()
    ended = [trial.state for trial in study.trials if not is_lost(trial)]
    assert taken
    assert ended == [TrialState.COMPLETE] * 3
    if kind != "plain objective":
        assert sorted(runs) == [1, 2, 3]  # 0 was taken away before it ran


def test_a_trial_that_was_told_is_still_refused_what_comes_after() -> None:
    study = optuna.create_study()
    trial = FlowTrial(study, study.ask()._trial_id)
    study.tell(trial.number, 1.0)
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr("too", "late")
    assert not trial.taken


def test_what_was_computed_is_kept_where_the_last_of_its_trial_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = JournalStudyStorage(path=tmp_path / "s.journal")
    number = block.create_study("s").ask().number
    live = LiveTrial(block, "s", number, RandomSampler(), NopPruner(), str(tmp_path))
    trial = live.open(Patience())
    trial.set_user_attr("words", 1)  # which a journal gathers, and writes with what comes next

    def refuse(_: LiveTrial, __: optuna.Trial) -> None:
        raise UpdateFinishedTrialError

    def opened(_: LiveTrial, __: Patience) -> optuna.Trial:
        return trial

    def objective(trial: optuna.Trial) -> float:
        return trial.user_attrs["words"] + 1.0

    monkeypatch.setattr(LiveTrial, "deliver", refuse)
    monkeypatch.setattr(LiveTrial, "open", opened)
    outcome = TrialRunner(Problem(objective=objective))(Assignment(number, {}, live))
    assert (outcome.state, outcome.values) == ("complete", (2.0,))
    assert outcome.undelivered is not None
    assert outcome.undelivered.user_attrs["words"] == 1
