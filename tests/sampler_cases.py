"""Studies for each sampler, and a run of them that can be killed, below any server."""

from __future__ import annotations

import importlib.util
import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage

from prefect_optuna.flows.session import (
    Session,
    _alive_here,  # pyright: ignore[reportPrivateUsage]
    is_lost,
)
from prefect_optuna.flows.study import FlowStudy, Sampler, continued_seed
from prefect_optuna.flows.study_run import StudyRun
from prefect_optuna.flows.task_runners import InlineDispatcher
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.problem import Direction
from prefect_optuna.tasks.trial import Assignment, Outcome, TrialRunner

SAMPLERS: dict[str, Sampler] = {
    "tpe": Sampler(name="tpe", options={"n_startup_trials": 4}),
    "tpe-group": Sampler(name="tpe", options={"n_startup_trials": 4, "group": True,
                                              "multivariate": True, "constant_liar": True}),
    "random": Sampler(name="random"),
    "cmaes": Sampler(name="cmaes", options={"n_startup_trials": 2, "popsize": 4,
                                            "warn_independent_sampling": False}),
    "qmc": Sampler(name="qmc", options={"warn_independent_sampling": False}),
    "qmc-scrambled": Sampler(name="qmc", options={"scramble": True,
                                                  "warn_independent_sampling": False}),
    "nsgaii": Sampler(name="nsgaii", options={"population_size": 4}),
    "nsgaiii": Sampler(name="nsgaiii", options={"population_size": 4}),
    "brute-force": Sampler(name="brute-force"),
}  # fmt: skip
if importlib.util.find_spec("torch") is not None:
    SAMPLERS["gp"] = Sampler(
        name="gp", options={"n_startup_trials": 4, "warn_independent_sampling": False}
    )

EACH_SAMPLER = [
    pytest.param(name, marks=pytest.mark.slow) if name == "gp" else name for name in SAMPLERS
]

warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def noisy(trial: optuna.Trial) -> Any:
    """Parameters of all kinds, some of which depend on others, and noise of the trial's own."""
    x = trial.suggest_float("x", -1, 1)
    y = trial.suggest_float("y", 1e-3, 1, log=True)
    n = trial.suggest_int("n", 0, 9)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    if kind == "b":
        x += trial.suggest_float("shift", 0, 1)
    value = x**2 + y + n + random.random() / 100
    if len(trial.study.directions) > 1:
        return value, abs(x - n)
    trial.report(x, 0)
    if n == 7:
        raise optuna.TrialPruned
    return value


def on_a_grid(trial: optuna.Trial) -> Any:
    """The same with few points, of which all may be tried."""
    x = trial.suggest_int("x", 0, 3)
    y = trial.suggest_float("y", 0, 1, step=0.25)
    return x + y + (trial.suggest_int("z", 0, 1) if x == 2 else random.random())


def problem_of(sampler: str) -> Problem:
    """What a sampler is tried with."""
    if sampler == "brute-force":
        return Problem(objective=on_a_grid)
    many: list[Direction] = ["minimize", "minimize"] if sampler.startswith("nsga") else ["minimize"]
    return Problem(objective=noisy, directions=many)


def slowly(problem: Problem, seconds: float) -> Problem:
    """The same, that takes some time."""
    objective: Any = problem.objective

    def run(trial: optuna.Trial) -> Any:
        time.sleep(seconds / 2)
        value = objective(trial)
        time.sleep(seconds / 2)
        return value

    return Problem(objective=run, directions=problem.directions)


class Killed(BaseException):
    """Nothing goes on."""


class Mortal:
    """A storage whose process dies at a call of it, before or after that has an effect."""

    def __init__(self, storage: BaseStorage, calls: float = float("inf"), after: bool = False):
        self.inner, self.left, self.after = storage, calls, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if not callable(method) or not name.startswith(
            ("set", "create_new_trial", "get_all_trials")
        ):
            return method

        def call(*args: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not self.after):
                raise Killed
            result = method(*args, **named)
            if self.left == 0:
                raise Killed
            return result

        return call


class Here(InlineDispatcher):
    """Trials without the task runs around them, which need a server."""

    def run(self, first: int, assignments: Any, *, report: Callable[[Outcome], None]) -> None:
        for assignment in assignments:
            report(self.trial_runner(assignment))


class Threads:
    """The same for several at once."""

    task_runs = 0

    def __init__(self, runner: TrialRunner, n_jobs: int) -> None:
        self.trial_runner, self._n_jobs = runner, n_jobs
        self._pool = ThreadPoolExecutor(n_jobs)
        self._running: set[Future[Outcome]] = set()

    def room(self) -> int:
        return self._n_jobs - len(self._running)

    def put(self, assignments: list[Assignment]) -> None:
        self._running |= {self._pool.submit(self.trial_runner, one) for one in assignments}

    def get(self, timeout: float) -> list[Outcome]:
        done, self._running = wait(self._running, timeout, return_when="FIRST_COMPLETED")
        return [one.result() for one in done]

    def close(self) -> None:
        self._pool.shutdown()


def run_study(
    storage: Any,
    problem: Problem,
    n_trials: int,
    *,
    sampler: Any,
    seed: int | None = 1,
    n_jobs: int = 1,
    seed_of_trials: int = 5,
    slow: float = 0.0,
) -> list[optuna.trial.FrozenTrial]:
    """What `optimize` does between a server and an archive; the trials that count, in place."""
    name = "study"
    if not [one for one in storage.get_all_studies() if one.study_name == name]:
        kinds = [optuna.study.StudyDirection[one.upper()] for one in problem.directions]
        storage.create_new_study(kinds, name)
    study = FlowStudy.open(name, storage, sampler, "none", seed=seed)
    if not isinstance(sampler, optuna.samplers.BaseSampler) and study.trials:
        study.later_seed = continued_seed(seed, len(study.trials))
    runner = TrialRunner(problem if not slow else slowly(problem, slow))
    run = StudyRun(
        study=study,
        session=Session(study, study.storage, seed=seed_of_trials),
        dispatcher=Here(runner) if n_jobs == 1 else Threads(runner, n_jobs),
        logger=logging.getLogger("quiet"),
        n_trials=n_trials,
    )
    run.run()
    return counted(study.trials)


def counted(trials: list[optuna.trial.FrozenTrial]) -> list[optuna.trial.FrozenTrial]:
    """The trials that count, in the order in which they were asked first."""
    kept = [trial for trial in trials if trial.state.is_finished() and not is_lost(trial)]
    return sorted(kept, key=lambda one: one.system_attrs.get("retry_history", [one.number])[0])


def told(trials: list[optuna.trial.FrozenTrial]) -> list[Any]:
    """What of trials has to be the same."""
    return [(trial.params, trial.values, trial.state.name) for trial in trials]


def lives(
    storage: BaseStorage, rng: random.Random, most: int, **named: Any
) -> Iterator[BaseException | None]:
    """Run a study, and kill it at random moments, until it is there."""
    while True:
        mortal = Mortal(storage, rng.randint(1, most), rng.random() < 0.5)
        try:
            run_study(mortal, **named)
        except Killed as killed:
            _alive_here.clear()  # as in a process that is gone
            yield killed
        else:
            return
