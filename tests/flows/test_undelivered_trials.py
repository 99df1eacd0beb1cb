"""A trial elsewhere that loses its storage: its outcome brings along what the storage lacks."""

from __future__ import annotations

import logging
from uuid import uuid4

import optuna
import redis
from optuna.samplers import RandomSampler

from prefect_optuna.blocks import RedisStudyStorage
from prefect_optuna.flows.session import Session
from prefect_optuna.flows.study import FlowStudy
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import InlineDispatcher
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.trial import Assignment, LiveTrial, TrialRunner


def test_what_a_trial_was_given_is_stored_by_the_parent_where_its_process_lost_the_storage(
    redis_server: str,
) -> None:
    name = f"undelivered-{uuid4().hex[:8]}"
    admin = redis.Redis.from_url(redis_server)
    admin.acl_setuser(name, enabled=True, passwords="+pw", commands=["+@all"], keys=["*"])

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0, 1)
        trial.report(0.25, 3)
        trial.set_user_attr("of", {"a": 1})
        admin.acl_setuser(name, enabled=False)
        admin.execute_command("CLIENT", "KILL", "USER", name)
        return x

    block = RedisStudyStorage(url=redis_server, namespace=name)
    block.create_study(name)
    sampler, pruner = RandomSampler(seed=1), optuna.pruners.NopPruner()
    study = FlowStudy.open(name, block.get_storage(), sampler, pruner)
    url = redis_server.replace("redis://", f"redis://{name}:pw@")
    there = RedisStudyStorage(url=url, namespace=name, retry_limit=0.1)
    there.get_storage()._flusher.close()  # only the end of the trial sends what waits
    problem = Problem.of(objective)
    runner = TrialRunner(problem)
    session = Session(study, block.get_storage())
    run = StudyRun(
        study,
        session,
        InlineDispatcher(runner),
        logging.getLogger(name),
        n_trials=1,
    )
    asked = session.ask(study)
    assert asked is not None
    run._in_flight[asked.number] = asked
    try:
        outcome = runner(
            Assignment(
                asked.number, trial=LiveTrial(there, name, asked.number, sampler, pruner, name)
            )
        )
        assert outcome.state == "complete", outcome.message
        assert study.trials[0].user_attrs == {}

        run._tell(outcome)

        trial = study.trials[0]
        assert trial.values == [trial.params["x"]]
        assert trial.intermediate_values == {3: 0.25}
        assert trial.user_attrs == {"of": {"a": 1}}
    finally:
        admin.acl_deluser(name)
        admin.close()
        there.get_storage()._waiting.clear()
        block.get_storage().close()
