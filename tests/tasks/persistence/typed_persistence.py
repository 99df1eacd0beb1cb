"""What a type checker has to see of persistence classes; `reveal_type` and errors are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar, reveal_type

import numpy as np
from prefect import task

from prefect_optuna.tasks.persistence import (
    ArrowHandler,
    autoinc_field,
    field,
    from_dict,
    load,
    persisted,
    persistence_class,
)

T = TypeVar("T")


@persistence_class
class Spectrum:
    animal: str = field(validator=True, filename=True)
    date: str = field(validator=True, filename=True)
    run: int = autoinc_field()
    power: np.ndarray
    channels: list[int]


@persistence_class(eq=True, version=2)
class Box(Generic[T]):
    key: str = field(filename=True)
    depth: float = field(default=1.0)
    held: T = field(init=False)


@task(**persisted(Spectrum, storage="artifact-file-system/lab"))
def analyse(animal: str, date: str) -> Spectrum:
    return Spectrum(animal, date, power=np.zeros(3), channels=[1])


reveal_type(analyse("lynx", "2026-01-02").run)  # int
reveal_type(Box[int]("k").held)  # int
reveal_type(ArrowHandler(Spectrum, Path()).load_persistence("x").power)  # ndarray
reveal_type(load(Spectrum, "x.arrow").channels)  # list[int]
reveal_type(from_dict(Box[str], {}).held)  # str
Box[int]("k", 2.0)
Spectrum("lynx")  # error: "date", "power", "channels"
Spectrum(1, "d", power=np.zeros(3), channels=[1])  # error: "animal"
Box[int]("k", held=3)  # error: "held"
