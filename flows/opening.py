"""What comes before the first trial of any study: arguments, a rehearsal, the study itself."""

from __future__ import annotations

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from prefect_optuna.blocks import StudyStorage
from prefect_optuna.blocks._secrets import error_words
from prefect_optuna.blocks.errors import InvalidProblemError, InvalidSettingError
from prefect_optuna.flows.study import (
    FlowStudy,
    Pruner,
    Sampler,
    continued_seed,
    make_pruner,
    make_sampler,
)
from prefect_optuna.flows.study_run import suggest_params
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.seeding import study_seed
from prefect_optuna.tasks.trial_scope import TrialScope

__all__ = ["check_settings", "open_study", "rehearse", "seed_of_trials"]


def check_settings(
    n_trials: int | None, timeout: float | None, n_jobs: int, retries: int, seed: int | None
) -> None:
    """Refuse numbers that cannot work.

    Args:
        n_trials: how many finished trials end the study; `None` for no limit.
        timeout: seconds after which no more trials are asked; `None` for no limit.
        n_jobs: how many trials run at once; -1 for the number of processors.
        retries: how many times `run` is called again.
        seed: of the sampler.

    Raises:
        InvalidSettingError: one of them cannot.
    """
    if n_trials is not None and n_trials < 1:
        raise InvalidSettingError(
            f"`n_trials` is the number of finished trials to reach, 1 or more; found {n_trials}."
        )
    if timeout is not None and not timeout > 0:
        raise InvalidSettingError(f"`timeout` is in seconds, more than 0; found {timeout}.")
    if n_trials is None and timeout is None:
        raise InvalidSettingError("Give `n_trials`, `timeout` or both: else the study never ends.")
    if n_jobs == 0 or n_jobs < -1:
        raise InvalidSettingError(
            f"`n_jobs` is 1 or more, or -1 for the number of processors; found {n_jobs}."
        )
    if retries < 0:
        raise InvalidSettingError(f"`retries` is 0 or more, found {retries}.")
    if seed is not None and seed < 0:
        raise InvalidSettingError(f"`seed` is 0 or more, found {seed}.")


def rehearse(problem: Problem, scope: TrialScope) -> None:
    """Call `suggest` once on a study that nobody keeps: its mistakes show before any trial.

    Args:
        problem: the problem.
        scope: of its trials.

    Raises:
        InvalidProblemError: `suggest` does not work.
    """
    if problem.suggest is None:
        return
    storage = optuna.storages.InMemoryStorage()
    name = f"a rehearsal of {problem.name}"  # Optuna logs it
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], study_name=name)
    study = optuna.Study(name, storage, optuna.samplers.RandomSampler(seed=0))
    try:
        suggest_params(problem, study.ask(), scope, seed=0)  # the caller's generators stay
    except (InvalidProblemError, optuna.TrialPruned):
        raise
    except Exception as error:
        raise InvalidProblemError(f"`suggest` does not work: {error_words(error)}") from error


def open_study(
    block: StudyStorage,
    name: str,
    problem: Problem,
    sampler: BaseSampler | Sampler | str | None,
    pruner: BasePruner | Pruner | str | None,
    seed: int | None,
) -> FlowStudy:
    """Create the study, or go on with it.

    Args:
        block: where it is kept.
        name: of the study.
        problem: what it optimizes.
        sampler: a sampler, or its name; `None` is Optuna's own choice.
        pruner: stops trials early; likewise.
        seed: seeds the sampler; of a study that goes on, its number of trials is mixed in.

    Raises:
        InvalidSettingError: no such sampler or pruner, or not with these options.
        StudyMismatchError: it exists with other directions.
    """
    make_sampler(sampler, seed)  # before anything is created: an option may be wrong
    made_pruner = make_pruner(pruner)
    plain = block.create_study(name, directions=list(problem.directions), load_if_exists=True)
    seed = continued_seed(seed, len(plain.get_trials(deepcopy=False)))
    return FlowStudy.open(name, block.get_storage(), sampler, made_pruner, seed=seed)


def seed_of_trials(study: optuna.Study, seed: int | None) -> int:
    """What the seeds of a study's trials come from.

    Args:
        study: the study, which keeps it.
        seed: what the user says, if anything.
    """
    storage = study._storage  # pyright: ignore[reportPrivateUsage] - a study has no other way
    return study_seed(storage, storage.get_study_id_from_name(study.study_name), seed)
