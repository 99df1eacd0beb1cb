from collections import OrderedDict
from dataclasses import dataclass, field
import numpy as np
from prefect_optuna.flows import optimize


class Config(dict):
    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as e:
            raise AttributeError(name) from e


class History(list):
    limit = 3

    def note(self, v):
        self.append(v)


@dataclass(slots=True)
class Range:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Frozen:
    offset: float


class Experiment:
    def __init__(self):
        self.config = Config(noise=0.1, space=Range(-3, 3))
        self.history = History([1.0])
        self.steps = OrderedDict(a=1, b=2)
        self.frozen = Frozen(0.5)
        self.rng = np.random.RandomState(3)
        self.gen = np.random.default_rng(5)
        self.data = np.arange(100000.0)

    def run(self, trial):
        x = trial.suggest_float("x", self.config.space.low, self.config.space.high)
        return x**2 + self.config.noise * np.random.randn() + self.frozen.offset + self.data[-1]


exp = Experiment()
optimize(exp.run, study_name="again", n_trials=4)
