"""What a run does with a trial that another run has taken from it."""

from __future__ import annotations

import logging
from typing import Any

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.flows.session import Session, is_lost
from prefect_optuna.flows.spool import Delivery, TrialKeeper
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import InlineDispatcher
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import ResultWriter
from prefect_optuna.tasks.trial import FlowTrial, TrialRunner


@pytest.mark.parametrize("kind", ["problem", "plain objective", "sampler"])
@pytest.mark.usefixtures("prefect_server")
def test_a_trial_that_was_taken_away_while_it_suggested_has_not_failed(kind: str) -> None:
    storage = InMemoryStorage()
    optuna.create_study(study_name="s", storage=storage)
    other, taken = Session(optuna.load_study(study_name="s", storage=storage), storage), list[Any]()

    runs: list[Any] = []

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

    def suggest(trial: optuna.Trial) -> dict[str, float]:
        return {"x": objective(trial)}

    def run(params: dict[str, float]) -> float:
        runs.append(params)
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
        assert len(runs) == 3  # what was taken away before it ran does not run here


def test_a_trial_that_was_told_is_still_refused_what_comes_after() -> None:
    study = optuna.create_study()
    trial = FlowTrial(study, study.ask()._trial_id)
    study.tell(trial.number, 1.0)
    with pytest.raises(UpdateFinishedTrialError):
        trial.set_user_attr("too", "late")
    assert not trial.taken
