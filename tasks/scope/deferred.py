"""Functions whose body runs later than the call: coroutines, and generators of both kinds.

Their body sees the scope of the call, whatever is in force where it is awaited or iterated, and
what it does with scopes never shows outside while it is suspended.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Coroutine, Generator
from types import MethodType
from typing import Any

from prefect_optuna.tasks.scope.filling import Plan, bind, without_partial
from prefect_optuna.tasks.scope.frames import Frame, Reader, get, put


def is_deferred(function: Any) -> bool:
    """Tell whether the body of a function runs later than the call."""
    return (
        inspect.iscoroutinefunction(function)
        or inspect.isgeneratorfunction(function)
        or inspect.isasyncgenfunction(function)
    )


class DeferredFunction:
    """A coroutine or generator function whose body runs in the scope of the call.

    No function, since none could look at the scope when it is called and still be a coroutine
    function for `inspect`. That takes anything for a function that has these attributes.
    """

    def __init__(self, function: Any, plan: Plan) -> None:
        inner = without_partial(function)
        functools.update_wrapper(self, inner)
        self.__wrapped__: Any = function
        self.__code__: Any = inner.__code__
        self.__defaults__: Any = inner.__defaults__
        self.__kwdefaults__: Any = inner.__kwdefaults__
        self.__auto_param__ = plan
        self._call = bind(function, plan, "return CALL, §before")

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - the function's own
        return in_frame(*self._call(*args, **kwargs))

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<auto_param {self.__wrapped__!r}>"

    def __reduce__(self) -> Any:
        return DeferredFunction, (self.__wrapped__, self.__auto_param__)


def in_frame(body: Any, frame: Frame) -> Any:
    """Have a coroutine or a generator that has not started run in a frame."""
    reader = Reader(frame)
    if inspect.iscoroutine(body):
        wrapper: Any = _awaited(body, frame, reader)
    elif inspect.isgenerator(body):
        wrapper = _iterated(body, frame, reader)
    else:
        wrapper = _async_iterated(body, frame, reader)
    wrapper.__name__, wrapper.__qualname__ = body.__name__, body.__qualname__
    return wrapper


async def _awaited(body: Coroutine[Any, Any, Any], frame: Frame, reader: Reader) -> Any:
    outer = get()
    put(frame)
    try:
        return await body
    finally:
        put(outer)
        reader.is_done()


def _iterated(
    body: Generator[Any, Any, Any], frame: Frame, reader: Reader
) -> Generator[Any, Any, Any]:
    step: Any = body.send
    argument: Any = None
    while True:
        outer = get()
        put(frame)
        try:
            item = step(argument)
        except StopIteration as stop:
            reader.is_done()
            return stop.value
        finally:
            frame = get()
            put(outer)
        try:
            argument = yield item
            step = body.send
        except GeneratorExit:
            outer = get()
            put(frame)
            try:
                body.close()
            finally:
                put(outer)
            raise
        except BaseException as error:  # noqa: BLE001 - the body has the say
            step, argument = body.throw, error


async def _async_iterated(
    body: AsyncGenerator[Any, Any], frame: Frame, reader: Reader
) -> AsyncGenerator[Any, Any]:
    step: Any = body.asend
    argument: Any = None
    while True:
        outer = get()
        put(frame)
        try:
            item = await step(argument)
        except StopAsyncIteration:
            reader.is_done()
            return
        finally:
            frame = get()
            put(outer)
        try:
            argument = yield item
            step = body.asend
        except GeneratorExit:
            outer = get()
            put(frame)
            try:
                await body.aclose()
            finally:
                put(outer)
            raise
        except BaseException as error:  # noqa: BLE001 - the body has the say
            step, argument = body.athrow, error
