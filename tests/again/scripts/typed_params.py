from __future__ import annotations
import typing as t
from typing import (
    Optional,
    Literal,
    TypedDict,
    Annotated,
    overload,
    Final,
    TYPE_CHECKING,
    ParamSpec,
    TypeVar,
    Callable,
    Any,
)
from dataclasses import dataclass, field, asdict, replace, fields
import enum, abc
import numpy as np
import numpy.typing as npt
from prefect_optuna import optimize

if TYPE_CHECKING:
    import optuna
P = ParamSpec("P")
R = TypeVar("R")
Arr = npt.NDArray[np.float64]
Mode = Literal["a", "b"]


class TD(TypedDict, total=False):
    a: int


class Color(str, enum.Enum):
    RED = "red"
    BLUE = "blue"


class Fl(enum.Flag):
    A = enum.auto()
    B = enum.auto()
    AB = A | B


@dataclass
class Params:
    lr: float
    mode: Mode = "a"
    opts: dict[str, Any] = field(default_factory=dict)
    color: Color = Color.RED

    def __post_init__(self):
        self.lr2 = self.lr * 2

    @classmethod
    def suggest(cls, trial: optuna.Trial) -> Params:
        return cls(
            lr=trial.suggest_float("lr", 0, 1),
            mode=trial.suggest_categorical("m", t.get_args(Mode)),
            color=Color(trial.suggest_categorical("c", [c.value for c in Color])),
        )


def deco(f: Callable[P, R]) -> Callable[P, R]:
    def wrapper(*a: P.args, **k: P.kwargs) -> R:
        return f(*a, **k)

    return wrapper


DEFAULT: Final[Params] = Params(0.5, opts={"f": Fl.A | Fl.B})


class Proto(t.Protocol):
    def go(self) -> int: ...


class Prop:
    def __init__(self):
        self._x = 1

    @property
    def x(self):
        return self._x

    @x.setter
    def x(self, v):
        self._x = v

    @staticmethod
    def s():
        return 5

    def __enter__(self):
        return self

    def __exit__(self, *a):
        return False

    def __getattr__(self, n):
        if n.startswith("dyn_"):
            return 7
        raise AttributeError(n)


pr = Prop()


@deco
def objective(trial: optuna.Trial) -> float:
    p = Params.suggest(trial)
    match p.mode:
        case "a":
            v = 1
        case _:
            v = 2
    with Prop() as q:
        q.x = 4
        v += q.x + q.s() + q.dyn_a + pr.dyn_b
    if (k := len(asdict(p))) > 2:
        v += k
    td: TD = {"a": 1}
    return v + p.lr2 + td["a"] + len(DEFAULT.opts["f"]) + (p.color is Color.RED)


optimize(objective, study_name="again", n_trials=3)
