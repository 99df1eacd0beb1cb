"""`param_scope`: each test names the rows of the specification that it proves."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from enum import IntEnum
from fractions import Fraction
from threading import Barrier, Thread
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.scope import (
    InvalidParameterError,
    ParamScope,
    UnknownNameError,
    param_scope,
)


@pytest.fixture(autouse=True)
def quiet() -> Generator[None]:
    """Many scopes here hold keys that no test reads."""
    param_scope.warn_unread(False)
    yield
    param_scope.warn_unread(True)
    with param_scope.empty():
        param_scope.frozen(replace=True)


def alone(test: Callable[[], Any]) -> Any:
    """Run in a copy of the context, so that what is written outside scopes ends with the test."""
    return copy_context().run(test)


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_HP1_keywords_and_texts_make_a_scope_and_texts_win() -> None:
    assert param_scope("a=1", a=2).a() == "1"
    assert dict(param_scope("a=b=c", " a = 1 ", "=5", n=3)) == {
        "n": 3,
        "a": "b=c",
        " a ": " 1 ",
        "": "5",
    }
    with pytest.raises(InvalidSettingError, match=r"'bogus' .* found no equals sign"):
        param_scope("bogus")
    assert issubclass(InvalidSettingError, (PrefectOptunaError, ValueError))


@pytest.mark.parametrize("wrong", [1, None, {"a": 1}, ["a=1"], 1.5, b"a=1"])
def test_HP2_a_positional_argument_that_is_no_text_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(InvalidParameterError, match="key=value") as error:
        param_scope(wrong)
    assert repr(wrong) in str(error.value)
    assert isinstance(error.value, TypeError)
    with pytest.raises(InvalidParameterError):
        param_scope.empty(wrong)


def test_HP3_a_parameter_may_be_called_self() -> None:
    assert param_scope(self=1, cls=2).self() == 1
    assert param_scope.empty(self=1)["self"] == 1
    with param_scope(self=1, args=2, values=3):
        assert (param_scope.self(0), param_scope.args(0), param_scope["values"]) == (1, 2, 3)


def test_HP4_dictionaries_are_flattened_and_leaf_and_branch_coexist() -> None:
    assert dict(param_scope(a={"b": {"c": 1}}, e={})) == {"a.b.c": 1}
    assert param_scope(a={"b": 1}).a("d") == "d"
    both = param_scope(**{"a": 1, "a.b": 2})
    assert (both.a(), both.a.b()) == (1, 2)


@pytest.mark.parametrize("make", [lambda v: param_scope(**v), lambda v: param_scope().update(v)])
def test_HP5_a_key_that_is_no_text_is_named(make: Callable[[Any], Any]) -> None:
    with pytest.raises(InvalidParameterError, match=r"found 1 \(int\) below 'a'"):
        make({"a": {1: 2}})
    scope = param_scope(a=0)
    with pytest.raises(InvalidParameterError):
        scope.update({"a": 1, "b": {None: 2}})
    assert dict(scope) == {"a": 0}, "nothing is half set"
    with pytest.raises(InvalidParameterError, match="found 3"):
        scope[3] = 1  # type: ignore[index]


def test_HP6_a_dictionary_is_flattened_however_it_is_set() -> None:
    scope = param_scope()
    scope.a = {"x": 1}
    scope["b"] = {"x": 2}
    scope.c.d = {"x": 3}
    scope.c["e"] = {"x": 4}
    scope.put("f", {"x": 5})
    scope.update({"g": {"x": 6}})
    expected = {"a.x": 1, "b.x": 2, "c.d.x": 3, "c.e.x": 4, "f.x": 5, "g.x": 6}
    assert dict(scope) == expected
    with param_scope() as inner:
        param_scope.a = {"x": 1}
        param_scope.b.c = {"x": 2}
        param_scope["d"] = {"x": 3}
        assert dict(inner) == {"a.x": 1, "b.c.x": 2, "d.x": 3}


def test_HP7_a_required_parameter_that_is_missing_is_a_key_error_that_names_it() -> None:
    with pytest.raises(UnknownNameError, match=r"^The parameter 'a\.b' is required") as error:
        param_scope().a.b()
    assert isinstance(error.value, KeyError)
    with pytest.raises(KeyError):
        param_scope.a.b()
    again = pickle.loads(pickle.dumps(error.value))
    assert str(again) == str(error.value)


def test_HP8_HP9_a_default_gives_its_type_and_stands_in_for_what_is_missing() -> None:
    scope = param_scope("n=3", none=None)
    assert scope.n(1) == 3
    assert (scope.n | 1) == 3
    assert scope.n.get_or_else(1) == 3
    assert scope.missing(1) == 1
    assert (scope.missing | "x") == "x"
    assert scope.n(None) == "3"
    assert (scope.n | None) == "3"
    assert scope.missing(None) is None
    with scope:
        assert (param_scope.n(1), param_scope.n | 1, param_scope.missing | 7) == (3, 3, 7)


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        *[(word, False, True) for word in ("y", "Yes", "t", "TRUE", "on", "1")],
        *[(word, True, False) for word in ("n", "No", "f", "FALSE", "off", "0")],
        (True, False, True),
        (2, False, True),
        (0, True, False),
        ("2", True, True),
        ("abc", False, False),
        (1.0, False, True),
        (0.0, True, False),
        (np.True_, False, True),
        (np.False_, True, False),
        (np.float64(0.5), False, True),
        (np.int64(0), True, False),
        (Fraction(1, 2), False, True),
        ([1], True, True),
        ([1], False, False),
    ],
)
def test_HP10_a_flag_is_read_from_words_and_from_every_kind_of_number(
    value: Any, default: bool, expected: bool
) -> None:
    assert param_scope(a=value).a(default) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", 3),
        ("1.5", 1.5),
        ("1e3", 1000),
        ("1_000", 1000),
        (" 5 ", 5),
        ("inf", math.inf),
        ("-Infinity", -math.inf),
        ("0x10", "0x10"),
        ("abc", "abc"),
        ("", ""),
        ("9007199254740993", 9007199254740993),
        ("1e23", 10**23),
        ("9007199254740993.0", 9007199254740993),
        ("1e400", "1e400"),
        ("9" * 5000, "9" * 5000),
        (1.7, 1),
        (-1.7, -1),
        (math.inf, math.inf),
        (True, 1),
        (np.float64(2.9), 2),
        ([1], [1]),
    ],
)
def test_HP11_a_whole_number_is_exact_and_what_is_none_stays_as_it_is(
    value: Any, expected: Any
) -> None:
    found = param_scope(a=value).a(0)
    assert found == expected
    assert type(found) is type(expected)


def test_HP11_nan_and_arrays_are_no_whole_numbers() -> None:
    assert math.isnan(param_scope(a="nan").a(0))
    assert math.isnan(param_scope(a=math.nan).a(0))
    array = np.array([1])
    assert param_scope(a=array).a(0) is array
    assert param_scope(a=array).a(0.5) is array


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.5", 0.5), (1, 1.0), ("1e-3", 1e-3), ("abc", "abc"), ([1], [1]), (10**400, 10**400)],
)
def test_HP12_a_fraction_is_read_where_it_can_be(value: Any, expected: Any) -> None:
    found = param_scope(a=value).a(2.0)
    assert found == expected
    assert type(found) is type(expected)


def test_HP13_text_is_made_of_anything() -> None:
    assert param_scope(a=[1]).a("x") == "[1]"
    with param_scope(a=1):
        assert param_scope.current().a("empty") == "1"


def test_HP14_other_types_do_not_convert_unless_asked_to() -> None:
    scope = param_scope("a=[1, 2]", "b=[1, ")
    assert scope.a([]) == "[1, 2]"
    assert scope.a([], literal=True) == [1, 2]
    assert scope.b([], literal=True) == "[1, "
    assert scope.a("x", literal=True) == "[1, 2]"
    assert scope.a(np.float64(1)) == "[1, 2]"


@pytest.mark.parametrize("default", [3, 3.0, "gone", True, [], None])
def test_HP15_none_is_a_value(default: Any) -> None:
    scope = param_scope(a=None)
    assert scope.a() is None
    assert scope.a(default) is None
    assert list(scope.keys()) == ["a"]
    assert scope["a"] is None


def test_HP16_integers_of_any_size_are_kept() -> None:
    assert param_scope(a=2**63).a("missing") == str(2**63)
    assert param_scope(a=-(2**200)).a(0) == -(2**200)
    scope = param_scope()
    scope.a = 2**64
    assert scope.a() == 2**64


class Colour(IntEnum):
    RED = 1


class Text(str):
    pass


def test_HP17_any_object_comes_back_itself() -> None:
    objects = [object(), np.float64(1), Colour.RED, Text("x"), [1], np.arange(3), len]
    for value in objects:
        scope = param_scope(a=value)
        assert scope.a() is value
        assert scope["a"] is value
        with scope, param_scope():
            assert param_scope.a() is value
    with param_scope(a=[]):
        with param_scope():
            param_scope.a().append(1)
        assert param_scope.a() == [1]


def test_HP18_a_reference_is_never_the_value_and_says_so() -> None:
    scope = param_scope(a=1, no=0, text="false")
    assert repr(scope.a) == "<a in param_scope(a=1, no=0, text='false')>"
    assert f"{scope.a}" == repr(scope.a)
    assert not scope.missing
    assert scope.a
    assert not scope.no
    assert scope.text
    assert scope.a != 1
    uses: list[Callable[[Any], Any]] = [
        lambda a: a + 1,
        lambda a: 1 + a,
        lambda a: a < 1,
        lambda a: -a,
        lambda a: 1 | a,
        int,
        float,
        len,
        list,
        lambda a: 1 in a,
        lambda a: [1, 2][a],
        round,
    ]
    for use in uses:
        with pytest.raises(TypeError, match=r"'a' cannot be .*Read it with a\(\)"):
            use(scope.a)


def test_HP19_references_of_param_scope_stay_what_they_are() -> None:
    with param_scope(**{"a.b": 1, "a.c": 2}):
        assert not param_scope.missing
        assert param_scope["a.b"] == 1
        a = param_scope.a
        b = a.b
        assert repr(b).startswith("<a.b in")
        assert (a.c(0), b(0), a.b.d("no")) == (2, 1, "no")
        assert repr(a).startswith("<a in")


def test_HP20_an_index_gives_the_value_or_a_reference_that_takes_a_default() -> None:
    scope = param_scope(**{"a.b": 1})
    assert scope["a.b"] == 1
    assert (scope["missing"] | 5) == 5
    assert scope["missing"](5) == 5
    assert not scope["missing"]
    assert scope.a["b"]() == scope.a.b() == 1
    with pytest.raises(TypeError):
        scope["a.b"](0)
    with pytest.raises(InvalidParameterError, match="found 3"):
        scope[3]  # type: ignore[index]
    with scope:
        assert (param_scope["a.b"], param_scope["missing"] | 5) == (1, 5)


def test_HP21_a_scope_is_a_mapping() -> None:
    with param_scope(a=1):
        scope = param_scope(b=2)
        assert dict(scope) == {**scope} == {"a": 1, "b": 2}
        assert isinstance(scope, Mapping)
        assert (len(scope), list(scope), "a" in scope, "c" in scope) == (2, ["a", "b"], True, False)
        assert list(scope.items()) == [("a", 1), ("b", 2)]
        assert list(scope.values()) == [1, 2]
        assert scope == {"a": 1, "b": 2}
        assert scope != {"a": 1}
        assert scope.get("missing") is None
        assert scope.get("missing", 3) == 3
        assert "a" in param_scope
        assert list(param_scope) == ["a"]


def test_HP22_the_storage_is_a_flat_dictionary() -> None:
    scope = param_scope(a={"b": 1}, n=None)
    assert scope.storage().storage() == {"a.b": 1, "n": None}
    assert type(scope.storage().storage()) is dict
    assert list(scope.storage().keys()) == ["a.b", "n"]


RESERVED = ["keys", "items", "values", "get", "put", "update", "clear", "storage"]
FACADE = ["current", "empty", "init", "frozen", "capture", "restore", "explain", "recording"]


@pytest.mark.parametrize("name", [*RESERVED, *FACADE, "get_or_else", "_name", "_layer"])
def test_HP23_a_name_of_a_method_is_reached_by_index_and_by_call(name: str) -> None:
    scope = param_scope(**{name: 3})
    assert scope[name] == 3
    assert scope(name)(0) == 3
    assert scope(name) | 0 == 3
    setattr(scope, name, 4)
    assert scope[name] == 4
    with scope:
        assert param_scope[name] == 4
        assert param_scope.current()(name)() == 4
        setattr(param_scope, name, 5)
        assert param_scope[name] == 5
    if name not in ("get_or_else", "_name", "_layer"):
        assert getattr(param_scope(**{name: 3})(), name)(0) == 3


@pytest.mark.parametrize("key", ["A", "a-b", "a_b", "ä.😀", "", "a..b", ".a", " ", "a b"])
def test_HP24_keys_are_taken_as_they_are(key: str) -> None:
    scope = param_scope(**{key: 1})
    assert scope[key] == 1
    assert scope(key)(0) == 1
    assert list(scope) == [key]


def test_HP25_a_scope_inherits_where_it_is_entered() -> None:
    scope = param_scope(a=1)
    with param_scope(b=2, a=0):
        assert dict(scope) == {"b": 2, "a": 1}, "it reads as if it were entered now"
        with scope:
            assert param_scope.b("no") == "2"
            assert param_scope.a(0) == 1
    with scope:
        assert param_scope.b("no") == "no"


def test_HP26_what_is_written_inside_does_not_change_the_scope_around() -> None:
    with param_scope(a=1):
        with param_scope(b=1):
            param_scope.a = 2
            param_scope.c = 3
            assert param_scope.a() == 2
        assert dict(param_scope.current()) == {"a": 1}


def test_HP27_what_is_written_outside_meanwhile_shows_afterwards() -> None:
    with param_scope() as outer:
        with param_scope(b=1):
            outer.a = 1
            assert param_scope.a("no") == "no"
            assert outer.a() == 1
        assert param_scope.a("no") == "1"


def test_HP28_what_is_written_to_a_scope_stays_with_it() -> None:
    with param_scope() as scope:
        scope.b = 2
        param_scope.c = 3
        assert param_scope.b() == 2
        assert dict(param_scope()) == {"b": 2, "c": 3}
    assert (scope.b(), scope.c()) == (2, 3)
    with scope:
        assert (param_scope.b(), param_scope.c()) == (2, 3)


def test_HP29_a_scope_that_is_not_entered_is_seen_by_nobody() -> None:
    with param_scope(a=1):
        other = param_scope()
        other.b = 2
        assert other.b() == 2
        assert param_scope.b("no") == "no"


def test_HP30_a_write_outside_scopes_holds_for_its_context_and_a_read_changes_nothing() -> None:
    def test() -> None:
        assert param_scope.a("no") == "no"
        assert not param_scope.current()
        param_scope.a = 1
        param_scope.current().b = 2
        with param_scope(c=3):
            assert dict(param_scope.current()) == {"a": 1, "b": 2, "c": 3}
        assert dict(param_scope.current()) == {"a": 1, "b": 2}
        assert in_thread(lambda: param_scope.a("no")) == "no"

    alone(test)
    assert param_scope.a("no") == "no"
    with param_scope(z=1):
        param_scope.frozen()
    assert param_scope.z(0) == 1, "reading has not shut this thread off from the base"


def test_HP31_an_exception_ends_the_scope_and_goes_on() -> None:
    with pytest.raises(ZeroDivisionError), param_scope(a=1):
        raise ZeroDivisionError
    assert param_scope.a("no") == "no"


def test_HP32_scopes_may_end_in_any_order() -> None:
    one, two, three = param_scope(a=1), param_scope(b=2), param_scope(c=3)
    for scope in (one, two, three):
        scope.__enter__()
    two.__exit__(None, None, None)
    one.__exit__(None, None, None)
    assert param_scope.c() == 3
    three.__exit__(None, None, None)
    assert not param_scope.current()
    three.__exit__(None, None, None)
    assert not param_scope.current()


def test_HP33_a_generator_that_holds_a_scope_leaves_nothing_behind() -> None:
    def generate() -> Generator[Any]:
        with param_scope(x=42):
            yield param_scope.x()

    generator = generate()
    assert next(generator) == 42
    with param_scope(y=1):
        assert list(generator) == []
        assert param_scope.y() == 1
    assert param_scope.x("no") == "no"
    forgotten = generate()
    next(forgotten)
    forgotten.close()
    assert not param_scope.current()


def test_HP33_an_asynchronous_generator_may_be_closed_by_another_task() -> None:
    async def generate() -> Any:
        with param_scope(x=42):
            yield 1

    async def main() -> Any:
        generator = generate()
        await generator.__anext__()
        await asyncio.create_task(generator.aclose())
        return param_scope.x(0)

    # Its frame is in the context in which it was entered, which ends with this.
    assert asyncio.run(main()) == 42
    assert not param_scope.current()


def test_HP34_an_empty_scope_inherits_nothing() -> None:
    with param_scope(a=1):
        empty = param_scope.empty("b=1", c={"d": 2})
        assert dict(empty) == {"c.d": 2, "b": "1"}
        with empty:
            assert param_scope.a("gone") == "gone"
            assert param_scope.b(0) == 1
        assert param_scope.a() == 1


def test_HP35_clear_removes_everything() -> None:
    with param_scope(a=1):
        scope = param_scope(b=2)
        assert scope.clear() is scope
        assert list(scope.keys()) == []
        with param_scope(b=2) as inner:
            assert dict(inner.clear()) == {}
            assert param_scope.a("gone") == "gone"
        assert param_scope.a() == 1


def test_HP36_the_current_scope_is_live() -> None:
    with param_scope(a=1) as scope:
        current = param_scope.current()
        assert current is not scope
        current.b = 2
        param_scope.c = 3
        scope.d = 4
        assert current == scope == {"a": 1, "b": 2, "c": 3, "d": 4}
        with param_scope(e=5):
            assert "e" in param_scope.current()
            assert "e" not in current
    assert scope.b() == 2


def test_HP37_init_enters_a_scope_for_good() -> None:
    def thread() -> Any:
        param_scope.init()
        param_scope.init(None)
        param_scope.init({"a": {"b": 1}})
        with param_scope(c=2):
            pass
        return param_scope.a.b(0)

    assert in_thread(thread) == 1
    with param_scope(x=1):
        alone(lambda: param_scope.init({"y": 1}))
        assert param_scope.y("no") == "no"


def test_HP38_frozen_makes_a_base_for_all_threads() -> None:
    with param_scope(a=1):
        assert param_scope.frozen() is None
    with param_scope(b=2):
        param_scope.frozen()
    expected = {"a": 1, "b": 2}
    assert dict(in_thread(param_scope.current)) == expected
    assert dict(param_scope.current()) == expected, "in this thread as well"
    with param_scope() as inside, param_scope.empty(c=3):
        param_scope.frozen(replace=True)
        assert dict(inside) == expected, "a scope keeps what it has found"
    assert dict(in_thread(param_scope.current)) == {"c": 3}


def test_HP39_a_thread_sees_nothing_but_the_base_and_a_copied_context_everything() -> None:
    async def asynchronous() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()
        return (
            await loop.run_in_executor(None, lambda: param_scope.a("no")),
            await asyncio.to_thread(lambda: param_scope.a("no")),
        )

    with param_scope(a=1):
        assert in_thread(lambda: param_scope.a("no")) == "no"
        context = copy_context()
        assert in_thread(lambda: context.run(lambda: param_scope.a("no"))) == "1"
        assert asyncio.run(asynchronous()) == ("no", "1")


def test_HP39_threads_that_write_at_once_never_see_each_other() -> None:
    barrier, wrong = Barrier(8), list[int]()

    def work(number: int) -> None:
        with param_scope(n=number):
            barrier.wait()
            for step in range(200):
                param_scope.step = step
                if (param_scope.n(), param_scope.step()) != (number, step):
                    wrong.append(number)

    threads = [Thread(target=work, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_HP40_asyncio_tasks_inherit_and_write_for_themselves() -> None:
    async def child(number: int) -> list[Any]:
        seen = [param_scope.base("no")]
        param_scope.z = number
        param_scope.current().y = number
        await asyncio.sleep(0)
        with param_scope(w=number):
            await asyncio.sleep(0)
            seen += [param_scope.z(0), param_scope.y(0), param_scope.w(0)]
        return seen

    async def main() -> None:
        with param_scope(base=1) as scope:
            results = await asyncio.gather(*[child(n) for n in range(50)])
            assert results == [["1", n, n, n] for n in range(50)]
            assert dict(scope) == {"base": 1}
        assert dict(scope) == {"base": 1}

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_HP41_a_forked_child_inherits_and_a_new_process_does_not() -> None:
    script = """if True:
        import os, subprocess, sys
        from prefect_optuna.tasks.scope import param_scope
        with param_scope(a=1):
            pid = os.fork()
            if pid == 0:
                os._exit(param_scope.a(0))
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 1
        """
    # In a process of its own, for this one has threads; and nobody in the parent reads `a`,
    # which is no reason to warn.
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", script], check=True)


def test_HP42_scopes_are_copied_and_pickled() -> None:
    with param_scope(outer=[1]):
        scope = param_scope(a=[2])
        for entered in (False, True):
            if entered:
                scope.__enter__()
                scope.b = 3
            shallow, deep = copy.copy(scope), copy.deepcopy(scope)
            again = pickle.loads(pickle.dumps(scope))
            for other in (shallow, deep, again):
                assert other == scope
                assert isinstance(other, ParamScope)
            assert shallow.a() is scope.a()
            assert deep.a() is not scope.a()
            shallow.c = 4
            assert "c" not in scope
        scope.__exit__(None, None, None)
    assert again == {"outer": [1], "a": [2], "b": 3}, "there is nothing to inherit elsewhere"
    assert dict(copy.copy(scope)) == {"a": [2], "b": 3}
    assert pickle.loads(pickle.dumps(param_scope.empty(a=1))) == {"a": 1}


def test_HP42_a_value_that_cannot_be_pickled_is_named() -> None:
    scope = param_scope(a=1, **{"model.lock": __import__("threading").Lock()})
    with pytest.raises(InvalidParameterError, match=r"'model\.lock' .* '_thread\.lock'"):
        pickle.dumps(scope)
    assert issubclass(InvalidParameterError, TypeError)
    function = pickle.loads(pickle.dumps(param_scope(f=lambda x: x + 1)))
    assert function.f()(1) == 2


def test_HP42_references_and_param_scope_itself_are_pickled_by_name() -> None:
    assert pickle.loads(cloudpickle.dumps(param_scope)) is param_scope
    assert copy.deepcopy(param_scope) is param_scope
    reference = pickle.loads(pickle.dumps(param_scope.a.b))
    with param_scope(a={"b": 3}):
        assert reference(0) == 3
    with pytest.raises(InvalidParameterError, match="'a'"):
        pickle.dumps(param_scope(a=1).a)


def test_HP64_the_contract_is_what_the_documentation_says() -> None:
    assert (param_scope(a="abc").a | 0) == "abc", "what cannot be converted stays"
    assert param_scope(a=None).a(1) is None, "None is a value"
    assert param_scope(**{"not/valid!": 1})["not/valid!"] == 1, "any text is a key"


def test_a_scope_shows_its_values() -> None:
    assert repr(param_scope(a=1, b={"c": "x"})) == "param_scope(a=1, **{'b.c': 'x'})"
    with param_scope(a=1):
        assert repr(param_scope) == "param_scope(a=1)"
        assert eval(repr(param_scope(b={"c": 2}))) == {"a": 1, "b.c": 2}
    assert isinstance(param_scope(), param_scope)  # type: ignore[arg-type]
    assert not isinstance({}, param_scope)  # type: ignore[arg-type]


def test_a_scope_can_be_entered_again_and_within_itself() -> None:
    scope = param_scope(a=1)
    with scope, param_scope(a=2):
        with scope:
            assert param_scope.a() == 1
        assert param_scope.a() == 2
    assert not param_scope.current()


KEYS = st.sampled_from(["a", "b", "a.b", "get"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.dictionaries(KEYS, st.integers(), max_size=2)),
        st.tuples(st.just("empty"), st.dictionaries(KEYS, st.integers(), max_size=2)),
        st.tuples(st.just("write"), st.tuples(KEYS, st.integers())),
        st.tuples(st.just("write to"), st.tuples(st.integers(0, 9), KEYS, st.integers())),
        st.tuples(st.just("clear"), st.none()),
        st.tuples(st.just("exit"), st.integers(0, 9)),
    ),
    max_size=25,
)


@settings(max_examples=40)
@given(STEPS)
def test_scopes_behave_like_a_list_of_dictionaries(steps: list[tuple[str, Any]]) -> None:
    def test() -> None:
        model: list[dict[str, int]] = [{}]
        scopes: list[Any] = [None]
        for action, argument in steps:
            if action in ("enter", "empty"):
                make = param_scope if action == "enter" else param_scope.empty
                scopes.append(make(**argument).__enter__())
                model.append((model[-1] if action == "enter" else {}) | argument)
            elif action == "write":
                key, value = argument
                param_scope[key] = value
                model[-1] = model[-1] | {key: value}
            elif action == "write to" and len(scopes) > 1:
                number, key, value = argument
                number = number % (len(scopes) - 1) + 1
                scopes[number][key] = value
                model[number] = model[number] | {key: value}
            elif action == "clear":
                param_scope.current().clear()
                model[-1] = {}
            elif action == "exit" and len(scopes) > 1:
                number = argument % (len(scopes) - 1) + 1
                scopes.pop(number).__exit__(None, None, None)
                model.pop(number)
            assert dict(param_scope.current()) == model[-1]
            for scope, values in zip(scopes[1:], model[1:], strict=True):
                assert dict(scope) == values

    alone(test)
