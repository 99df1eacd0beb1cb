"""A user's module: a persistence class and a task whose results are of that class."""

from __future__ import annotations

import os

import numpy as np
from prefect import task

from prefect_optuna.tasks.persistence import autoinc_field, field, persisted, persistence_class

CALLS: list[tuple[str, str]] = []


@persistence_class
class Spectrum:
    """As in the README."""

    animal: str = field(validator=True, filename=True)
    date: str = field(validator=True, filename=True)
    run: int = autoinc_field()
    power: np.ndarray
    channels: list[int]


@task(**persisted(Spectrum, storage=f"artifact-file-system/{os.environ.get('LAB', 'lab')}"))
def analyse(animal: str, date: str) -> Spectrum:
    """Compute, and say so."""
    CALLS.append((animal, date))
    return Spectrum(animal, date, power=np.arange(1000.0), channels=[1, 2])


def again(name: str) -> int:
    """What another process does: it computes nothing, and returns how often it did."""
    found = analyse.with_options(result_storage=f"artifact-file-system/{name}")(
        "lynx", "2026-01-02"
    )
    assert found.power.sum() == np.arange(1000.0).sum()
    assert (found.animal, found.run) == ("lynx", 0)
    return len(CALLS)


if __name__ == "__main__":
    import sys

    print(again(sys.argv[1]))
