"""`auto_param`: each test names the rows of the specification that it proves."""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import subprocess
import sys
import warnings
from collections import namedtuple
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import pytest
from prefect import task

from prefect_optuna.tasks.scope import InvalidParameterError, auto_param, auto_params, param_scope
from prefect_optuna.tasks.scope.frames import MISSING


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    param_scope.warn_unread(False)
    yield
    param_scope.warn_unread(True)


@auto_param
def foo(a: int, b: int = 2, c: str = "c", d: Any = None) -> tuple[Any, ...]:
    return a, b, c, d


def test_HP43_the_namespace_is_the_name_or_what_is_given() -> None:
    @auto_param("my.ns")
    def named(a: int, b: int = 2) -> tuple[int, int]:
        return a, b

    with param_scope("foo.b=3", "my.ns.b=4"):
        assert foo(1) == (1, 3, "c", None)
        assert named(1) == (1, 4)
    assert (foo(1), named(1)) == ((1, 2, "c", None), (1, 2))


def test_HP44_the_call_goes_before_the_scope_and_the_scope_before_the_default() -> None:
    with param_scope(foo={"b": 3, "c": "scope"}):
        assert foo(1, b=5) == (1, 5, "scope", None)
        assert foo(1, b=2) == (1, 2, "scope", None), "also where it is the default"


def test_HP45_an_argument_by_position_goes_before_the_scope() -> None:
    with param_scope(**{"foo.b": 3}):
        assert foo(1, 5) == (1, 5, "c", None)
        assert foo(1, 5, "x", 7) == (1, 5, "x", 7)
    assert foo(1, 5) == (1, 5, "c", None)


def test_HP46_a_value_takes_on_the_type_of_the_default() -> None:
    def called(value: Any, name: str) -> Any:
        with param_scope(**{f"foo.{name}": value}):
            return foo(1)["abcd".index(name)]

    values = [called("3", "b"), called("x", "b"), called("1.5", "b"), called(5, "c")]
    assert values == [3, "x", 1.5, "5"]
    assert [type(value) for value in values] == [int, str, float, str]
    assert called("3", "d") == "3"


def test_HP47_none_in_the_scope_is_passed_on() -> None:
    with param_scope(foo={"b": None, "c": None}):
        assert foo(1) == (1, None, None, None)


def test_HP48_required_parameters_are_filled_on_request_only() -> None:
    def bar(a: int, b: list[int], c: str = "c") -> tuple[Any, ...]:
        return a, b, c

    plain, filled = auto_param(bar), auto_param(required=True)(bar)
    with param_scope("bar.a=3", bar={"b": [1]}):
        with pytest.raises(TypeError, match=r"bar\(\) missing 2 required positional arguments"):
            plain()  # type: ignore[call-arg]
        assert filled() == (3, [1], "c")  # type: ignore[call-arg]
        assert filled(4) == (4, [1], "c")  # type: ignore[call-arg]
    with pytest.raises(InvalidParameterError, match=r"'a' is required: pass it, or set 'bar\.a'"):
        filled()  # type: ignore[call-arg]


def test_HP49_every_kind_of_parameter_is_filled_except_the_collecting_ones() -> None:
    @auto_param
    def kinds(a: int, b: int = 2, /, c: int = 3, *rest: int, k: int = 4, **more: int) -> Any:
        return a, b, c, rest, k, more

    values = {"b": 20, "c": 30, "k": 40, "rest": (1,), "more": {"x": 1}, "a": 9}
    with param_scope(kinds=values):
        assert kinds(1) == (1, 20, 30, (), 40, {})
        assert kinds(1, 5) == (1, 5, 30, (), 40, {})
        assert kinds(1, 5, 6, 7, k=8, z=9) == (1, 5, 6, (7,), 8, {"z": 9})
        assert kinds(1, c=6, b=0) == (1, 20, 6, (), 40, {"b": 0})
    assert kinds(1) == (1, 2, 3, (), 4, {})


def test_HP49_names_that_the_wrapper_might_use_itself_are_free() -> None:
    @auto_param
    def names(_before: int = 1, __frames: int = 2, function: int = 3, make: int = 4) -> Any:
        return _before, __frames, function, make

    with param_scope(**{"names._before": 10, "names.function": 30}):
        assert names() == (10, 2, 30, 4)
        assert names(make=0) == (10, 2, 30, 0)


@auto_param
class Foo:
    def __init__(self, a: int, b: int = 2) -> None:
        self.a, self.b = a, b


class Child(Foo):
    def __init__(self, c: int = 3) -> None:
        super().__init__(1)
        self.c = c


def test_HP50_a_class_stays_a_class() -> None:
    assert isinstance(Foo, type)
    assert isinstance(Foo(1), Foo)
    assert issubclass(Child, Foo)
    with param_scope("Foo.b=5"):
        assert Foo(1).b == 5
        assert Foo(1, 6).b == 6
        assert Child().b == 5
        assert pickle.loads(pickle.dumps(Foo(1))).b == 5
    assert Foo(1).b == 2
    assert list(inspect.signature(Foo).parameters) == ["a", "b"]


def test_HP50_data_classes_and_named_tuples_are_classes_too() -> None:
    @auto_param
    @dataclass(frozen=True)
    class Data:
        a: int
        b: int = 2
        c: list[int] = field(default_factory=lambda: [1])

    @auto_param("point")
    class Point(NamedTuple):
        x: int
        y: int = 0

    assert Data(1) == Data(1, 2, [1])
    with param_scope(Data={"b": "5"}, point={"y": "7"}):
        assert Data(1) == Data(1, 5, [1])
        assert Data(1).c is not Data(1).c
        assert Point(1) == (1, 7)
        assert Point(1, 2)._replace(x=3) == (3, 2)
    assert Point(1) == (1, 0)
    nothing_to_fill = type("Plain", (), {})
    assert auto_param(nothing_to_fill) is nothing_to_fill


class Model:
    @auto_param
    def fit(self, rate: float = 0.1) -> float:
        return rate

    @auto_param(qualname=True)
    def score(self, depth: int = 1) -> int:
        return depth

    @auto_param("static")
    @staticmethod
    def static(n: int = 1) -> int:
        return n

    @auto_param("made")
    @classmethod
    def made(cls, n: int = 1) -> tuple[type, int]:
        return cls, n


def test_HP51_a_method_goes_by_its_name_or_its_qualified_name() -> None:
    with param_scope("fit.rate=0.5", "Model.score.depth=3", "Model.fit.rate=9", "made.n=4"):
        assert Model().fit() == 0.5
        assert Model().score() == 3
        assert Model.made() == (Model, 4)
        assert Model().static() == 1
    with param_scope("static.n=5"):
        assert Model.static() == 5


@auto_param
async def coroutine(a: int, b: int = 2) -> tuple[int, int, Any]:
    param_scope.inside = 1
    await asyncio.sleep(0)
    return a, b, param_scope.x("no")


@auto_param
def generator(b: int = 2) -> Generator[Any, Any, str]:
    param_scope.inside = 1
    with param_scope(own=1):
        while True:
            sent = yield b, param_scope.x("no"), param_scope.inside(0), param_scope.own(0)
            if sent == "stop":
                return "stopped"


@auto_param
async def asynchronous_generator(b: int = 2) -> AsyncGenerator[Any, Any]:
    with param_scope(own=1):
        yield b, param_scope.x("no")
        await asyncio.sleep(0)
        yield b, param_scope.own(0)


def test_HP52_inspect_sees_what_kind_a_function_is() -> None:
    class Service:
        @auto_param
        async def call(self, b: int = 2) -> int:
            return b

    assert inspect.iscoroutinefunction(coroutine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.14
        assert asyncio.iscoroutinefunction(coroutine)
    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(asynchronous_generator)
    assert inspect.iscoroutinefunction(Service().call)
    assert not inspect.iscoroutinefunction(foo)
    assert inspect.isfunction(foo)
    with param_scope("call.b=3"):
        assert asyncio.run(Service().call()) == 3
    assert task(coroutine).isasync
    assert task(generator).isgenerator
    assert list(inspect.signature(coroutine).parameters) == ["a", "b"]
    assert (coroutine.__name__, generator.__qualname__) == ("coroutine", "generator")


def test_HP52_a_coroutine_runs_in_the_scope_of_the_call() -> None:
    async def main() -> Any:
        with param_scope("coroutine.b=3", x="yes"):
            called = coroutine(1)
        with param_scope(x="elsewhere"):
            result = await called
            assert param_scope.x() == "elsewhere"
            assert param_scope.inside("no") == "no"
        return result

    assert asyncio.run(main()) == (1, 3, "yes")
    with pytest.raises(TypeError, match=r"coroutine\(\) missing 1 required"):
        coroutine()  # type: ignore[call-arg]


def test_HP52_a_generator_runs_in_the_scope_of_the_call_and_shows_nothing_of_its_own() -> None:
    with param_scope("generator.b=3", x="yes"):
        iterator = generator()
    for _ in range(2):
        assert next(iterator) == (3, "yes", 1, 1)
        assert not param_scope.current(), "also while it is suspended"
    with param_scope(x="elsewhere"), pytest.raises(StopIteration) as stopped:
        iterator.send("stop")
    assert stopped.value.value == "stopped"
    thrown = generator()
    next(thrown)
    with pytest.raises(ZeroDivisionError):
        thrown.throw(ZeroDivisionError())
    closed = generator()
    next(closed)
    closed.close()
    assert list(closed) == []
    assert not param_scope.current()


def test_HP52_an_asynchronous_generator_does_as_well() -> None:
    async def main() -> list[Any]:
        with param_scope("asynchronous_generator.b=3", x="yes"):
            iterator = asynchronous_generator()
        found = []
        async for item in iterator:
            assert not param_scope.current()
            found.append(item)
        early = asynchronous_generator()
        await early.__anext__()
        await early.aclose()
        with pytest.raises(ZeroDivisionError):
            await asynchronous_generator().athrow(ZeroDivisionError())
        return found

    assert asyncio.run(main()) == [(3, "yes"), (3, 1)]
    assert not param_scope.current()


def test_HP53_a_default_may_be_an_array() -> None:
    array, number = np.arange(3), np.float64(1.5)

    @auto_param
    def numeric(a: Any = array, b: Any = number) -> Any:
        return a, b

    assert numeric()[0] is array
    with param_scope(numeric={"a": [1]}):
        assert numeric()[0] == [1]


def test_HP54_the_body_runs_in_a_scope_of_its_own() -> None:
    @auto_param
    def body(b: int = 2) -> Any:
        seen = param_scope.body.b("no"), param_scope.written("no")
        param_scope.written = 1
        param_scope.body.b = 9
        return seen

    context = __import__("contextvars").copy_context()
    assert context.run(body) == ("no", "no")
    assert context.run(lambda: param_scope.written("no")) == "no"
    with param_scope(x=1):
        assert body(b=5) == body() == ("no", "no")
        assert dict(param_scope.current()) == {"x": 1}


def test_HP54_a_scope_that_ends_within_the_body_has_ended() -> None:
    outer, inner = param_scope(a=1), param_scope(b=2)
    outer.__enter__()
    inner.__enter__()

    @auto_param
    def leave() -> None:
        outer.__exit__(None, None, None)
        param_scope.c = 3

    leave()
    assert dict(param_scope.current()) == {"a": 1, "b": 2}, "inner has found `a` when it began"
    inner.__exit__(None, None, None)
    assert not param_scope.current()


def test_HP55_the_wrapped_function_and_the_plan_are_attributes() -> None:
    assert inspect.unwrap(foo).__code__.co_name == "foo"
    assert foo.__wrapped__ is inspect.unwrap(foo)
    assert foo.__auto_param__.namespace == "foo"
    assert [slot.key for slot in foo.__auto_param__.slots] == ["foo.b", "foo.c", "foo.d"]
    assert (foo.__name__, foo.__module__) == ("foo", __name__)


def test_HP56_empty_parentheses_and_partial_functions_are_fine() -> None:
    @auto_param()
    def empty(b: int = 2) -> int:
        return b

    partial = auto_param(functools.partial(foo.__wrapped__, 1, c="bound"))
    with param_scope(empty={"b": 3}, foo={"b": 4}):
        assert empty() == 3
        assert partial() == (1, 4, "bound", None)
        assert auto_param("p")(functools.partial(foo.__wrapped__, 1))() == (1, 2, "c", None)
    asynchronous = auto_param(functools.partial(coroutine.__wrapped__, 1))
    with param_scope("coroutine.b=5"):
        assert asyncio.run(asynchronous()) == (1, 5, "no")


@pytest.mark.parametrize("target", [3, task(lambda: 1), object()])
def test_what_is_no_function_is_refused(target: Any) -> None:
    with pytest.raises(InvalidParameterError, match="is for functions and classes, found"):
        auto_param(target)


def test_a_text_is_read_as_a_literal_on_request() -> None:
    @auto_param("literal", literal=True)
    def literal(layers: Any = (8,), name: str = "x") -> Any:
        return layers, name

    with param_scope("literal.layers=[16, 16]", "literal.name=[1]"):
        assert literal() == ([16, 16], "[1]")


def test_functions_are_listed_with_type_default_and_description() -> None:
    @auto_param("listing.simulate", required=True)
    def simulate(start: float, years: int, dt: float | None = None, scheme="rk4") -> None:
        """Simulate.

        Args:
            years: how long, in years.
            dt: time step.
        """

    def found() -> list[Any]:
        return [p for p in auto_params() if p.name.startswith("listing.")]

    dt, scheme, start, years = found()
    assert (years.name, years.type, years.doc) == (
        "listing.simulate.years",
        int,
        "how long, in years.",
    )
    assert years.default is start.default is MISSING
    assert (dt.default, dt.doc) == (None, "time step.")
    assert (scheme.type, scheme.default, scheme.doc) == (str, "rk4", "")
    assert start.function.endswith(
        "test_functions_are_listed_with_type_default_and_description.<locals>.simulate"
    )
    del simulate
    gc.collect()
    assert found() == [], "a function that is gone is not listed"


@pytest.mark.slow
def test_functions_of_a_script_can_be_pickled_by_value(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        """if True:
        import asyncio, cloudpickle, sys
        from prefect_optuna.tasks.scope import auto_param, param_scope

        rate = param_scope.rate

        @auto_param
        def simulate(a, b=2):
            return a, b, rate(0), param_scope.x(0)

        @auto_param
        async def later(b=2):
            return b

        @auto_param
        class Model:
            def __init__(self, width=8):
                self.width = width

        sys.stdout.buffer.write(cloudpickle.dumps((simulate, later, Model)))
        """
    )
    made = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, check=True)
    simulate, later, model = cloudpickle.loads(made.stdout)
    assert simulate.__module__ == "__main__"
    with param_scope("simulate.b=3", "later.b=4", "Model.width=16", rate=5, x=6):
        assert simulate(1) == (1, 3, 5, 6)
        assert asyncio.run(later()) == 4
        assert model().width == 16
    assert simulate(1) == (1, 2, 0, 0)
    assert copy.deepcopy(simulate) is simulate


def test_named_tuples_of_collections_are_filled() -> None:
    pair = auto_param("pair")(namedtuple("Pair", "a b", defaults=[2]))
    with param_scope("pair.b=3"):
        assert pair(1) == (1, 3)
