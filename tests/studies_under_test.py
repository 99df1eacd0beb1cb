"""Studies whose reports are looked at: a fit by two workers, two directions, hostile texts."""

from __future__ import annotations

import datetime as dt
import random

import optuna

from prefect_optuna.flows.examples import lynx_hare
from prefect_optuna.flows.plots import figure_png, series_plot
from prefect_optuna.flows.study import StudyStatus

HOSTILE = 'a|b `c` <img src=x onerror="document.title=1"> *d* [e](javascript:f) $g$'


def lynx_hare_study() -> StudyStatus:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
    results = []
    for _ in range(60):
        trial = study.ask()
        params = lynx_hare.suggest(trial)
        if trial.number % 20 == 7:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            results.append(lynx_hare.simulate(params))
            study.tell(trial, lynx_hare.misfit(results[-1]))
    best = study.best_params
    trials = study.trials
    run_by_workers(trials)
    return StudyStatus(
        study_name="browser-lynx-hare",
        directions=("minimize",),
        trials=trials,
        n_trials=60,
        state="completed",
        elapsed=14.2,
        storage="journal:///data/lynx-hare/study.log",
        artifacts="/data/lynx-hare/artifacts",
        best_figure=figure_png(lynx_hare.plot(lynx_hare.simulate(best), best)),
        ensemble=series_plot(
            lynx_hare.simulate(best), lynx_hare.problem.axes, others=results, max_bytes=35_000
        ),
        notes=("the code changed at trial 50",),
    )


def run_by_workers(trials: list[optuna.trial.FrozenTrial]) -> None:
    """Let two workers have run them, two at a time, with a pause over lunch."""
    start = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - as Optuna has them
    free = [0.0] * 4
    rng = random.Random(1)
    for trial in trials:
        if trial.number == 30:
            free = [3600.0] * 4
        lane = free.index(min(free))
        seconds = rng.gammavariate(3, 4)
        trial.datetime_start = start + dt.timedelta(seconds=free[lane])
        trial.datetime_complete = trial.datetime_start + dt.timedelta(seconds=seconds)
        trial.system_attrs = {"prefect_optuna:session": "ab"[lane // 2]}
        free[lane] += seconds + 0.2


def pareto_study() -> StudyStatus:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.optimize(
        lambda t: (
            t.suggest_float("x", 0, 1),
            1 - (t.params["x"] - t.suggest_float("y", 0, 1)) ** 2,
        ),
        n_trials=40,
    )
    return StudyStatus(
        "browser-pareto", ("minimize", "maximize"), study.trials, 80, "running", 3.0, "a", "b"
    )


def hostile_study() -> StudyStatus:
    study = optuna.create_study()
    for value in (4.0, 3.0, 2.0):
        trial = study.ask({HOSTILE: optuna.distributions.CategoricalDistribution([HOSTILE])})
        study.tell(trial, value)
    return StudyStatus(
        f"browser {HOSTILE}",
        ("minimize",),
        study.trials,
        None,
        "interrupted",
        7800.0,
        HOSTILE,
        HOSTILE,
        notes=(HOSTILE,),
    )
