from __future__ import annotations
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum, auto, IntEnum
from typing import Generic, TypeVar, NamedTuple, Callable, Protocol, ClassVar
import random
import math
from prefect_optuna import optimize

T = TypeVar("T", bound="Model")


class Kind(Enum):
    A = auto()
    B = "b"

    @property
    def scale(self):
        return 2.0 if self is Kind.A else 3.0


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Registry(type):
    classes: dict[str, type] = {}

    def __new__(mcls, name, bases, ns, **kw):
        cls = super().__new__(mcls, name, bases, ns)
        mcls.classes[name.lower()] = cls
        return cls


class Point(NamedTuple):
    x: float
    y: float = 0.0

    def norm(self) -> float:
        return math.hypot(self.x, self.y)


@dataclass(frozen=True)
class Config:
    kind: Kind = Kind.A
    level: Level = Level.HIGH
    points: list[Point] = field(default_factory=lambda: [Point(1, 2), Point(3)])
    limits: ClassVar[tuple[float, float]] = (-5, 5)


@dataclass(slots=True)
class State:
    noise: float = 0.1
    history: list = field(default_factory=list)


class Model(ABC):
    def __init__(self, config: Config):
        self.config = config

    @abstractmethod
    def loss(self, x: float) -> float: ...

    @classmethod
    def make(cls: type[T], config: Config) -> T:
        return cls(config)


class Quadratic(Model):
    def loss(self, x):
        return self.config.kind.scale * sum((x - p.x) ** 2 + p.norm() for p in self.config.points)


class Noisy(Quadratic):
    def loss(self, x):
        return super().loss(x) + random.gauss(0, STATE.noise) * int(self.config.level)


class Thing(metaclass=Registry):
    pass


class Other(Thing):
    value = 7


class Runner(Generic[T]):
    def __init__(self, model: T) -> None:
        self.model = model

    def __call__(self, trial) -> float:
        return (
            self.model.loss(trial.suggest_float("x", *Config.limits))
            + Registry.classes["other"].value
        )


STATE = State()
optimize(Runner(Noisy.make(Config())), study_name="again", n_trials=4)
