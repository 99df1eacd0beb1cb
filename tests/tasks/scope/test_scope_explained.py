"""Which layer gave a value, what was never read, and what was read."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import sys
import warnings
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Thread
from typing import Any

import pytest

from prefect_optuna.tasks.scope import (
    UnreadParameterWarning,
    auto_param,
    capture,
    param_scope,
    restore,
)


@auto_param
def simulate(dt: float = 0.1, steps: int = 100) -> tuple[float, int]:
    return dt, steps


@pytest.fixture
def quiet() -> Generator[None]:
    param_scope.warn_unread(False)
    yield
    param_scope.warn_unread(True)


def line(back: int) -> str:
    """How `explain` names a line so many above that of the caller."""
    return f"scope at {os.path.relpath(__file__)}:{sys._getframe(1).f_lineno - back}"


def test_explain_names_the_default_the_scope_the_trial_and_the_line() -> None:
    default = "simulate.dt = 0.1 from the default in "
    assert str(param_scope.explain("simulate.dt")).startswith(default)
    with param_scope("simulate.dt=0.2"):
        assert param_scope.explain("simulate.dt").origin == line(1)
        assert param_scope.explain("simulate.dt").value == 0.2, "converted as it is read"
        with param_scope.labelled({"simulate": {"dt": 0.3}}, origin="trial 17"):
            explanation = param_scope.explain("simulate.dt")
            assert (explanation.origin, explanation.value) == ("trial 17", 0.3)
            assert [value for _, value in explanation.layers] == [0.3, 0.2, 0.1]
            assert str(explanation).startswith("simulate.dt = 0.3 from trial 17, in place of 0.2")
            param_scope.simulate.dt = 0.4
            assert param_scope.explain("simulate.dt").origin == line(1)
            assert simulate() == (0.4, 100)
        with param_scope.empty():
            assert "default" in str(param_scope.explain("simulate.dt").origin)


@pytest.mark.usefixtures("quiet")
def test_explain_tells_files_copies_and_the_frozen_base_apart() -> None:
    try:
        with param_scope(base=1):
            param_scope.frozen()
        assert str(param_scope.explain("base")) == "base = 1 from the frozen base"
        with param_scope.labelled({"x": 1}, origin="study"), param_scope(y=2) as scope:
            place = line(1)
            snapshot = pickle.loads(pickle.dumps(capture()))
            copied = copy.copy(scope)
    finally:
        with param_scope.empty():
            param_scope.frozen(replace=True)
    with restore(snapshot):
        assert param_scope.explain("x").origin == "study"
        assert param_scope.explain("base").origin == "the frozen base"
        assert param_scope.explain("y").origin == place
    with copied:
        assert param_scope.explain("y").origin == place


def test_a_function_inside_another_is_known_once_that_was_called() -> None:
    def outer() -> Any:
        @auto_param
        def buried(depth: int = 3) -> int:
            return depth

        return buried

    assert str(param_scope.explain("buried.depth")).endswith(
        "one inside another function is known once that is called"
    )
    buried = outer()
    assert param_scope.explain("buried.depth").value == buried() == 3


@pytest.mark.usefixtures("quiet")
def test_explain_of_an_unknown_key_names_the_nearest() -> None:
    explanation = param_scope.explain("simulat.dt")
    assert explanation.origin is None
    assert explanation.value is None
    assert str(explanation).endswith("; did you mean simulate.dt?")


def test_a_key_that_is_set_and_never_read_warns_at_the_outermost_exit() -> None:
    with pytest.warns(UnreadParameterWarning) as caught:  # noqa: PT031 - when it warns is the point
        with param_scope(outer=1):
            with param_scope("simulat.dt=0.2"):
                simulate()
            assert len(caught) == 0
            param_scope.outer()
        assert len(caught) == 1
    message = str(caught[0].message)
    assert message.startswith("simulat.dt was set and never read; did you mean simulate.dt? (scope")
    assert caught[0].filename == __file__


@auto_param
def erode(grains: int = 1) -> int:  # of a name that no other test has
    return grains


def test_the_nearest_name_may_be_one_that_was_asked_for() -> None:
    expected = r"^modle\.depth was set and never read; did you mean model\.depth\? "
    with pytest.warns(UnreadParameterWarning, match=expected), param_scope(modle={"depth": 3}):
        param_scope.model.depth(1)
    expected = r"^grains was set and never read; did you mean erode\.grains\? "
    with pytest.warns(UnreadParameterWarning, match=expected), param_scope(grains=3):
        erode()
    expected = r"^zzz was set and never read \(scope at"
    with pytest.warns(UnreadParameterWarning, match=expected), param_scope(zzz=3):
        pass


def test_a_place_warns_once() -> None:
    with pytest.warns(UnreadParameterWarning) as caught:  # noqa: PT031 - how often is the point
        for value in range(5):
            with param_scope(one=value, two=value):
                pass
    assert len(caught) == 1
    assert [line[:3] for line in str(caught[0].message).splitlines()] == ["one", "two"]


def test_one_warning_names_a_few_keys_and_first_those_that_may_be_misspelt() -> None:
    keys = {**{f"key-{'x' * n}": n for n in range(20)}, "simulat.dt": 1}
    with pytest.warns(UnreadParameterWarning) as caught, param_scope(**keys):
        pass
    (warning,) = caught
    first, *_, last = str(warning.message).splitlines()
    assert first.startswith("simulat.dt was set and never read; did you mean simulate.dt? (")
    assert last == "... and 16 more keys"


def test_what_a_coroutine_or_a_generator_reads_later_is_read() -> None:
    @auto_param
    async def later() -> None:
        param_scope.a(0)

    @auto_param
    def generate() -> Generator[Any]:
        yield param_scope.b(0)

    with param_scope(a=1, b=2):
        called, iterator = later(), generate()
    asyncio.run(called)
    list(iterator)
    with pytest.warns(UnreadParameterWarning, match="^c "), param_scope(b=2, c=3):
        list(generate())
    with pytest.warns(UnreadParameterWarning, match="^c "), param_scope(a=1, c=3):
        asyncio.run(later())


def test_what_is_read_does_not_warn_however_it_is_read() -> None:
    names = ["call", "pipe", "index", "contains", "get", "auto", "pair", "flag"]
    scope = param_scope(**dict.fromkeys(names, 1))
    with scope, param_scope("simulate.steps=3"):
        param_scope.call(0), param_scope.pipe | 0, param_scope["index"], "contains" in scope
        scope.get("get"), simulate(), bool(scope.flag), scope.pair(0), param_scope.auto()
    with param_scope(a=1) as mapping:
        dict(mapping)
    with param_scope(a=1), param_scope(a=2):
        param_scope.a()
    with param_scope(a=1):
        with param_scope(b=2):
            param_scope.a()
            written = param_scope.current()
            written.c = 3
            param_scope.c()
        with param_scope():
            param_scope.b(0)


def test_reads_in_tasks_threads_and_other_processes_count() -> None:
    async def main() -> None:
        async def child() -> Any:
            return param_scope.a(0)

        await asyncio.gather(child())

    def work(snapshot: Any) -> None:
        with restore(snapshot):
            param_scope.b(0)

    with param_scope(a=1, b=2, c=3):
        asyncio.run(main())
        thread = Thread(target=work, args=[capture()])
        thread.start()
        thread.join()
        context = copy_context()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(context.run, lambda: param_scope.c(0)).result()
    with param_scope(elsewhere=1):
        pickle.dumps(capture())
    with param_scope(later=1):
        snapshot = capture()
    with pytest.warns(UnreadParameterWarning, match="^d "), param_scope(d=1):
        work(capture())
    with pytest.warns(UnreadParameterWarning, match="^e "), param_scope(e=1):
        capture().values()
    work(snapshot)


def test_an_exception_excuses_what_was_not_read() -> None:
    with pytest.raises(ZeroDivisionError), param_scope(a=1):
        raise ZeroDivisionError
    with param_scope(a=1):
        param_scope.a()
        with pytest.raises(ZeroDivisionError), param_scope(b=2):
            raise ZeroDivisionError


def test_the_warning_can_be_switched_off() -> None:
    with param_scope(a=1).allow_unread(), param_scope.labelled({"x": 1}, origin="trial 1"):
        pass
    loud = param_scope.labelled({"x": 1}, origin="trial 1", warn_unread=True)
    with pytest.warns(UnreadParameterWarning, match=r"^x .*trial 1"), loud:
        pass
    param_scope.warn_unread(False)
    try:
        with param_scope(a=1):
            pass
    finally:
        param_scope.warn_unread(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreadParameterWarning)
        with param_scope(a=1):
            pass


@pytest.mark.usefixtures("quiet")
def test_a_recording_holds_what_the_code_really_got() -> None:
    with param_scope("simulate.dt=0.2", a="3", unread=1, none=None):
        with param_scope.recording() as used:
            assert simulate(steps=5) == (0.2, 5)
            assert (param_scope.a(0), param_scope.missing(7), param_scope.none(1)) == (3, 7, None)
            assert param_scope["a"] == "3"
            with pytest.raises(KeyError):
                param_scope.gone()
        param_scope.after(1)
    assert used == {"simulate.dt": 0.2, "a": "3", "missing": 7, "none": None}
    with param_scope.recording() as defaults:
        simulate()
    assert defaults == {"simulate.dt": 0.1, "simulate.steps": 100}


@pytest.mark.usefixtures("quiet")
def test_a_recording_goes_into_scopes_tasks_and_threads_and_nests() -> None:
    async def child(number: int) -> None:
        await asyncio.sleep(0)
        param_scope[f"task{number}"](number)

    async def main() -> None:
        await asyncio.gather(*[child(number) for number in range(3)])

    def work(snapshot: Any) -> None:
        with restore(snapshot):
            param_scope.thread(1)

    with param_scope.recording() as outer, param_scope(a=1):
        with param_scope.recording() as inner, param_scope.empty(b=2):
            param_scope.b()
            thread = Thread(target=work, args=[capture()])
            thread.start()
            thread.join()
        asyncio.run(main())
        with restore(pickle.loads(pickle.dumps(capture()))):
            param_scope.a(0)
        param_scope.written = 1
    assert inner == {"b": 2, "thread": 1}
    assert outer == inner | {"task0": 0, "task1": 1, "task2": 2, "a": 1}
    assert not param_scope.current()


@pytest.mark.usefixtures("quiet")
def test_recordings_of_threads_at_once_are_apart() -> None:
    def work(number: int) -> dict[str, Any]:
        with param_scope(n=number), param_scope.recording() as used:
            for step in range(100):
                param_scope[f"k{number}"](step)
                param_scope.n(0)
        return used

    with ThreadPoolExecutor(8) as pool:
        for number, used in enumerate(pool.map(work, range(32))):
            assert used == {f"k{number}": 99, "n": number}
