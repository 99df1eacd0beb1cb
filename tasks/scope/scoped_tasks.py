"""Prefect tasks that take the scope along, to wherever they run.

The scope goes as one more argument, by value: to threads and processes, to Dask, to whoever
serves background tasks, and to each retry. It is a keyword that Prefect sees and the function
does not.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from prefect.cache_policies import STABLE_TRANSFORMS, CachePolicy
from prefect.context import TaskRunContext
from prefect.tasks import Task, TaskOptions
from prefect.utilities.annotations import unmapped
from prefect.utilities.hashing import hash_objects
from typing_extensions import Unpack

from prefect_optuna.errors import InvalidParameterError
from prefect_optuna.tasks.scope.auto_parameters import in_frame, is_deferred
from prefect_optuna.tasks.scope.facade import ScopeSnapshot, capture, restore
from prefect_optuna.tasks.scope.frames import get

P = ParamSpec("P")
R = TypeVar("R")

SCOPE_ARGUMENT = "_param_scope"
"""The keyword under which a task is given its scope, a `ScopeSnapshot`."""


class ScopedTask(Task[P, R]):
    """A Prefect task whose function sees the scope in which it was called, submitted or delayed.

    Wherever it runs: on threads, in a process pool, on Dask, in a task worker. What it writes to
    the scope ends with the run; a retry starts with what was there at first. The values have to
    be picklable where they leave the process. In a task runner that is handed the task itself,
    pass the scope with the parameters: `{SCOPE_ARGUMENT: capture()}`.

    Made by `scoped_task`, or directly, with the arguments of `prefect.Task`.

    Raises:
        InvalidParameterError: the function has a parameter of the name `SCOPE_ARGUMENT`.

    Example:
        >>> from prefect_optuna.tasks.scope import ScopedTask, param_scope
        >>> def simulate():
        ...     return param_scope.dt(1.0)
        >>> task = ScopedTask(simulate, name="simulate")
        >>> with param_scope(dt=0.1):
        ...     task.fn()
        0.1
    """

    def __init__(self, fn: Callable[P, R], **options: Unpack[TaskOptions]) -> None:
        super().__init__(fn, **options)
        self.fn: Any = _ScopedFunction(self.fn)

    # For a type checker the methods stay Prefect's, with all their overloads.
    if not TYPE_CHECKING:

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            """Run the task, as `prefect.Task` does."""
            return super().__call__(*args, **_with_scope(kwargs))

        def submit(self, *args: Any, **kwargs: Any) -> Any:
            """Submit a run of the task to the flow's task runner, as `prefect.Task` does."""
            return super().submit(*args, **_with_scope(kwargs))

        def map(self, *args: Any, **kwargs: Any) -> Any:
            """Submit a run for each item, as `prefect.Task` does; all get the same scope."""
            kwargs.setdefault(SCOPE_ARGUMENT, unmapped(capture()))
            return super().map(*args, **kwargs)

        def apply_async(self, args: Any = None, kwargs: Any = None, **more: Any) -> Any:
            """Have a task worker run the task, as `prefect.Task` does; `delay` comes here."""
            return super().apply_async(args, _with_scope(kwargs or {}), **more)

        def with_options(self, **options: Any) -> Self:
            """The same task with other options, as `prefect.Task` makes it."""
            scoped = copy.copy(self)
            vars(scoped).update(vars(super().with_options(**options)))
            return scoped


@overload
def scoped_task(fn: Callable[P, R], /) -> ScopedTask[P, R]: ...


@overload
def scoped_task(
    fn: None = None, /, **options: Unpack[TaskOptions]
) -> Callable[[Callable[P, R]], ScopedTask[P, R]]: ...


def scoped_task(fn: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
    """Make a Prefect task whose function sees the scope in which it was called.

    A decorator, with or without arguments.

    Args:
        fn: the function.
        options: as `prefect.task` takes them.

    Returns:
        The task, or a decorator.

    Raises:
        InvalidParameterError: the function has a parameter of the name `SCOPE_ARGUMENT`.

    Example:
        >>> from prefect import flow
        >>> from prefect_optuna.tasks.scope import auto_param, param_scope, scoped_task
        >>> @auto_param
        ... def simulate(dt=1.0):
        ...     return dt
        >>> @scoped_task(retries=2)
        ... def work():
        ...     return simulate()
        >>> @flow
        ... def study():
        ...     with param_scope("simulate.dt=0.1"):
        ...         return work.submit().result()
        >>> study()
        0.1
    """
    return partial(ScopedTask, **options) if fn is None else ScopedTask(fn, **options)


@dataclass
class ScopeCachePolicy(CachePolicy):
    """A cache policy by which a result is not used again under another scope.

    To be added to others: `INPUTS + SCOPE`. `INPUTS` alone takes no notice of the scope.

    Example:
        >>> from prefect.cache_policies import INPUTS
        >>> from prefect_optuna.tasks.scope import SCOPE, scoped_task
        >>> @scoped_task(cache_policy=INPUTS + SCOPE)
        ... def simulate(years):
        ...     return years
    """

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """The key of a run: a digest of its scope's names and values.

        Args:
            task_ctx: the run.
            inputs: its parameters; without a scope among them, the one in force here counts.
            flow_parameters: not used.
            kwargs: not used.

        Raises:
            HashError: a value can be written neither as JSON nor as a pickle.

        Example:
            >>> from prefect_optuna.tasks.scope import SCOPE, param_scope
            >>> keys = set()
            >>> for dt in (0.1, 0.2, 0.1):
            ...     with param_scope(dt=dt).allow_unread():
            ...         keys.add(SCOPE.compute_key(None, {}, {}))
            >>> len(keys)
            2
        """
        snapshot: ScopeSnapshot | None = inputs.get(SCOPE_ARGUMENT)
        values = get()[0] if snapshot is None else snapshot.values()
        return hash_objects(
            sorted(values), [values[key] for key in sorted(values)], raise_on_failure=True
        )


SCOPE = ScopeCachePolicy()
"""The part of a cache policy that tells scopes apart; to be added: `INPUTS + SCOPE`."""

# Prefect's own `INPUTS` sees the scope among the inputs. Whether it counts, `SCOPE` says.
STABLE_TRANSFORMS[ScopeSnapshot] = lambda snapshot: "scope"


def _with_scope(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {SCOPE_ARGUMENT: capture(), **kwargs}


class _ScopedFunction:
    """A function that takes its scope as one more keyword, and goes without saying without it.

    To `inspect`, and so to Prefect, it is a function: of the same kind, with one more parameter.
    """

    def __init__(self, function: Any) -> None:
        update_wrapper(self, function)
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if SCOPE_ARGUMENT in signature.parameters:
            raise InvalidParameterError(
                f"{function.__name__} has a parameter {SCOPE_ARGUMENT!r}, the name under which a "
                "scoped task is given its scope. Call it something else."
            )
        scope = inspect.Parameter(SCOPE_ARGUMENT, inspect.Parameter.KEYWORD_ONLY, default=None)
        at = len(parameters)
        if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
            at -= 1
        parameters.insert(at, scope)
        self.__signature__ = signature.replace(parameters=parameters)
        self._function = function
        self._is_deferred = is_deferred(function)
        inner = inspect.unwrap(function)
        if hasattr(inner, "__code__"):
            self.__code__ = function.__code__ if hasattr(function, "__code__") else inner.__code__
            self.__defaults__ = inner.__defaults__
            self.__kwdefaults__ = inner.__kwdefaults__

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        snapshot: ScopeSnapshot | None = kwargs.pop(SCOPE_ARGUMENT, None)
        if snapshot is None:
            return self._function(*args, **kwargs)
        with restore(snapshot):
            result = self._function(*args, **kwargs)
            return in_frame(result, get()) if self._is_deferred else result
