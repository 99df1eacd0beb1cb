"""What a trial has other threads and processes do follows from its seed."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed

from prefect_optuna.tasks.seeding import seeding


def drawn(_: int = 0) -> tuple[float, ...]:
    return (random.random(), *made())


def made(_: int = 0) -> tuple[float, ...]:
    """Without the generators that threads share."""
    return (random.Random().random(), np.random.default_rng().random(), entropy())


def entropy() -> float:
    return float(np.random.RandomState().rand())


def in_a_thread() -> list[Any]:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(made())) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    return found


def in_an_executor() -> list[Any]:
    with ThreadPoolExecutor(2) as executor:
        return list(executor.map(made, range(4)))


def in_processes() -> list[Any]:
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as executor:
        return list(executor.map(drawn, range(4)))


def in_a_pool() -> list[Any]:
    with get_context("fork").Pool(2) as pool:
        tasks = [(number, 0) for number in range(3)]
        return [
            pool.map(drawn, range(4)),
            pool.starmap(max, tasks),
            list(pool.imap(drawn, range(3))),
            pool.apply(drawn),
        ]


def in_a_process_of_its_own() -> list[Any]:
    context = get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=lambda: queue.put([drawn(), np.random.rand()]))
    process.start()
    found = queue.get()
    process.join()
    return found


def in_joblib() -> list[Any]:
    return [
        Parallel(n_jobs=2)(delayed(drawn)(number) for number in range(4)),
        Parallel(n_jobs=2, prefer="threads")([delayed(made)(number) for number in range(4)]),
    ]


WAYS = (
    in_a_thread,
    in_an_executor,
    in_processes,
    in_a_pool,
    in_a_process_of_its_own,
)


def run(way: Callable[[], list[Any]], seed: int) -> list[Any]:
    with seeding(seed):
        return [way(), random.random()]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_same_seed_gives_the_same_numbers_elsewhere(way: Callable[[], list[Any]]) -> None:
    assert run(way, 1) == run(way, 1) != run(way, 2)


def test_the_same_seed_gives_the_same_numbers_through_joblib() -> None:
    # In a process of its own, with which the processes of joblib end.
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from test_elsewhere import in_joblib, run
print(run(in_joblib, 1) == run(in_joblib, 1) != run(in_joblib, 2))
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    assert done.stdout.split() == ["True"]


def test_each_task_draws_its_own_numbers() -> None:
    with seeding(1):
        found = in_an_executor()
    assert len(set(found)) == len(found)


def test_outside_of_a_trial_nothing_is_seeded() -> None:
    with seeding(1):
        pass
    assert in_an_executor() != in_an_executor()
