"""Scopes taken by hand to other threads and processes."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from prefect_optuna.tasks.scope import (
    InvalidParameterError,
    ScopeSnapshot,
    auto_param,
    capture,
    param_scope,
    restore,
)


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    param_scope.warn_unread(False)
    yield
    param_scope.warn_unread(True)


@auto_param
def simulate(dt: float = 0.1) -> float:
    return dt


def work(snapshot: ScopeSnapshot, number: int = 0) -> Any:
    with restore(snapshot) as scope:
        param_scope.number = number
        with param_scope(inner=1):
            found = simulate(), dict(scope), str(param_scope.explain("simulate.dt").origin)
    assert not param_scope.current()
    return found


def test_a_captured_scope_is_restored_in_a_thread() -> None:
    with param_scope("simulate.dt=0.2", seed=7):
        snapshot = capture()
        assert param_scope.capture().values() == snapshot.values()
        param_scope.seed = 8
    assert snapshot.values() == {"seed": 7, "simulate.dt": "0.2"}
    with ThreadPoolExecutor(4) as pool:
        for number, (dt, values, _) in enumerate(pool.map(work, [snapshot] * 20, range(20))):
            assert dt == 0.2
            assert values == {"seed": 7, "simulate.dt": "0.2", "number": number}
    with param_scope(other=1), param_scope.restore(snapshot) as scope:
        assert dict(scope) == dict(param_scope.current()) == snapshot.values(), "in place of it"


@pytest.mark.slow
def test_a_captured_scope_is_restored_in_another_process() -> None:
    with param_scope.labelled({"simulate": {"dt": 0.2}, "seed": 7}, origin="trial 17"):
        snapshot = capture()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        found = pool.submit(work, snapshot, 3).result()
    assert found == (0.2, {"simulate.dt": 0.2, "seed": 7, "number": 3}, "trial 17")


def test_a_snapshot_is_small_and_takes_functions_of_a_script_along() -> None:
    with param_scope(scale=lambda x: 2 * x):
        snapshot = capture()
    pickled = pickle.dumps(snapshot)
    assert len(pickled) < 2000
    with restore(pickle.loads(pickled)):
        assert param_scope.scale()(21) == 42
    assert repr(pickle.loads(pickle.dumps(_captured(a=1)))) == "ScopeSnapshot(a=1)"


def test_a_value_that_cannot_travel_is_named_and_stays_usable_here() -> None:
    snapshot = _captured(ok=1, model={"lock": threading.Lock()})
    message = r"The parameter 'model\.lock' cannot travel to another process: its value, a "
    with pytest.raises(InvalidParameterError, match=message):
        pickle.dumps(snapshot)
    with restore(snapshot):
        assert param_scope.model.lock().acquire()


def test_what_is_outside_scopes_is_captured_as_it_is_then() -> None:
    try:
        before = capture()
        with param_scope(base=1):
            param_scope.frozen()
        with restore(before):
            assert not param_scope.current()
        with restore(capture()):
            assert param_scope.base() == 1
    finally:
        with param_scope.empty():
            param_scope.frozen(replace=True)


def test_a_restored_scope_may_end_out_of_order() -> None:
    one, two = restore(_captured(a=1)), restore(_captured(b=2))
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert dict(param_scope.current()) == {"b": 2}
    two.__exit__(None, None, None)
    assert not param_scope.current()


def _captured(**values: Any) -> ScopeSnapshot:
    with param_scope(**values):
        return capture()
