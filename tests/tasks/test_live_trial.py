"""A running trial, opened in another process than the one that has asked for it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import optuna
import pytest

from prefect_optuna.blocks import RedisStudyStorage, SQLStudyStorage
from prefect_optuna.blocks.patience import Patience
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.trial import Assignment, LiveTrial, TrialRunner


@pytest.mark.parametrize("params", [{"x": 0.5}, {}])
def test_a_trial_suggests_there_whether_or_not_its_parameters_are_fixed(
    params: dict[str, float], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study = SQLStudyStorage(url=url).create_study("s")
    study.enqueue_trial(params)
    asked = study.ask()

    sampler, pruner = optuna.samplers.RandomSampler(seed=1), optuna.pruners.NopPruner()
    block = SQLStudyStorage(url=url)
    there = LiveTrial(block, "s", asked.number, sampler, pruner, url).open(Patience())
    x = there.suggest_float("x", 0, 1)

    assert study.trials[0].params == {"x": x}
    assert x == params.get("x", x)


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def test_what_it_was_given_is_stored_when_its_outcome_comes_back(redis_server: str) -> None:
    name = f"live-{uuid4().hex[:8]}"
    block = RedisStudyStorage(url=redis_server, namespace=name)
    study = block.create_study(name)
    # Writes of a trial wait for its next one, unless a parameter is the first of its kind.
    study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 0.0)
    asked = study.ask()
    sampler, pruner = optuna.samplers.RandomSampler(seed=1), optuna.pruners.NopPruner()
    elsewhere = RedisStudyStorage(url=redis_server, namespace=name)
    live = LiveTrial(elsewhere, name, asked.number, sampler, pruner, name)

    outcome = TrialRunner(Problem.of(objective))(Assignment(asked.number, trial=live))

    assert outcome.values is not None
    assert study.trials[1].params == {"x": outcome.values[0]}
    block.get_storage().close()
    elsewhere.get_storage().close()
