"""Simulated annealing as a sampler of one's own; quadratic."""

import numpy as np
import optuna
from optuna import distributions
from optuna.samplers import BaseSampler
from prefect_optuna.flows import optimize


class SimulatedAnnealingSampler(BaseSampler):
    def __init__(self, temperature=100, cooldown_factor=0.9, seed=None):
        self._rng = np.random.RandomState(seed)
        self._independent_sampler = optuna.samplers.RandomSampler(seed=seed)
        self._temperature = temperature
        self.cooldown_factor = cooldown_factor
        self._current_trial = None

    def infer_relative_search_space(self, study, trial):
        return optuna.search_space.intersection_search_space(
            study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        )

    def sample_relative(self, study, trial, search_space):
        if search_space == {}:
            return {}
        prev = study.get_trials(deepcopy=False)[-2]
        if self._current_trial is None or self._rng.uniform() < 0.5:
            self._current_trial = prev
        self._temperature *= self.cooldown_factor
        params = {}
        for name, dist in search_space.items():
            cur = self._current_trial.params[name]
            w = (dist.high - dist.low) * 0.1
            params[name] = float(self._rng.uniform(max(dist.low, cur - w), min(dist.high, cur + w)))
        return params

    def sample_independent(self, study, trial, name, dist):
        return self._independent_sampler.sample_independent(study, trial, name, dist)


def objective(trial):
    x = trial.suggest_float("x", -100, 100)
    y = trial.suggest_float("y", -5, 5)
    return x**2 + y + np.random.rand()


if __name__ == "__main__":
    optimize(objective, study_name="again", n_trials=12, sampler=SimulatedAnnealingSampler())
