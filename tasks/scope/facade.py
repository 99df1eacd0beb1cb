"""`param_scope`: makes scopes, and reads and writes the one that is in force."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any, Final

from prefect_optuna.tasks.scope.accessor import Accessor
from prefect_optuna.tasks.scope.carrying import ScopeSnapshot, capture, restore
from prefect_optuna.tasks.scope.explanation import Explanation, explain
from prefect_optuna.tasks.scope.files import from_files
from prefect_optuna.tasks.scope.frames import ROOT, freeze, get, recording, write
from prefect_optuna.tasks.scope.origins import caller
from prefect_optuna.tasks.scope.scope import ParamScope, handle, make_scope
from prefect_optuna.tasks.scope.unread import may_be_read_elsewhere, switch
from prefect_optuna.tasks.scope.values import flatten, parse_assignments


class ScopeFacade:
    r"""The class of `param_scope`: the way to the scope that is in force here and now.

    | expression | what it does |
    |---|---|
    | `param_scope("a=1", b=2)` | makes a scope, a `ParamScope`, to be entered by `with` |
    | `param_scope.a.b(1)`, `param_scope.a.b \| 1` | reads one, as the type of the default |
    | `param_scope.a.b()` | reads a parameter that has to be there |
    | `param_scope["a.b"]` | the value, or a reference to what is missing |
    | `param_scope.a.b = 2` | sets a parameter in the innermost scope |

    A write outside every scope holds for the rest of the thread, or of the asyncio task or other
    context that it happens in. A read changes nothing.

    The names of the methods here are fine as keys; reach them by index, or by call:
    `param_scope.current()("empty")(default)`.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> def simulate():
        ...     return param_scope.simulate.dt(0.1)
        >>> with param_scope(**{"simulate.dt": 0.01}):
        ...     simulate()
        0.01
        >>> simulate()
        0.1
    """

    # A class is no descriptor: calling the one object of this class makes a scope directly.
    __call__: Final = ParamScope

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, ParamScope)

    def __getattr__(self, name: str) -> Accessor:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(
                f"{name!r} is no parameter by attribute; use an index: [{name!r}]."
            )
        # The same object for ever, for it looks up the scope when it is used.
        accessor = self.__dict__[name] = Accessor(None, name)
        return accessor

    def __setattr__(self, name: str, value: Any) -> None:
        write(None, flatten({name: value}), caller(1))

    def __getitem__(self, name: str) -> Any:
        return self.current()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        write(None, flatten({name: value}), caller(1))

    def __contains__(self, name: object) -> bool:
        return name in self.current()

    def __iter__(self) -> Iterator[str]:
        return iter(self.current())

    def __repr__(self) -> str:
        return repr(self.current())

    def __reduce__(self) -> str:
        return "param_scope"

    def current(self) -> ParamScope:
        """The innermost scope that is in force here; what is written to it holds.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope(a=1):
            ...     param_scope.current().b = 2
            ...     dict(param_scope.current())
            {'a': 1, 'b': 2}
        """
        return handle(get()[2])

    def empty(self, /, *assignments: str, **values: Any) -> ParamScope:
        """Make a scope that inherits nothing.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope(a=1), param_scope.empty("b=2") as scope:
            ...     param_scope.a("gone"), dict(scope)
            ('gone', {'b': '2'})
        """
        own = flatten(values) | parse_assignments(assignments)
        return make_scope(own, origin=caller(1), inherits=False)

    def labelled(
        self, values: Mapping[str, Any], *, origin: str, warn_unread: bool = False
    ) -> ParamScope:
        """Make a scope with words for where its values come from, as `explain` shows them.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope.labelled({"x": 0.5}, origin="trial 17"):
            ...     print(param_scope.explain("x"))
            x = 0.5 from trial 17
        """
        return make_scope(flatten(values), origin=origin, warns=warn_unread)

    def init(self, params: Mapping[str, Any] | None = None) -> None:
        """Enter a scope for the rest of this thread, or of the context that this runs in.

        Example:
            >>> from contextvars import copy_context
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> def thread():
            ...     param_scope.init({"seed": 7})
            ...     return param_scope.seed(0)
            >>> copy_context().run(thread), param_scope.seed(0)
            (7, 0)
        """
        make_scope(flatten(params or {}), origin=caller(1), warns=False).__enter__()

    def frozen(self, *, replace: bool = False) -> None:
        """Make the parameters that are in force here the base of every thread.

        They show wherever no scope is in force, and through scopes that are entered from then on.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope(seed=7):
            ...     param_scope.frozen()
            >>> param_scope.seed(0)
            7
            >>> with param_scope.empty():
            ...     param_scope.frozen(replace=True)
        """
        frame = get()
        may_be_read_elsewhere(frame)
        values = frame[0]
        freeze(dict(values) if replace else ROOT[0] | values)

    def explain(self, name: str) -> Explanation:
        """Say which layer gives a parameter its value.

        Example:
            >>> from prefect_optuna.tasks.scope import auto_param, param_scope
            >>> @auto_param
            ... def explained(dt=0.1):
            ...     return dt
            >>> with param_scope.labelled({"explained.dt": "0.2"}, origin="the command line"):
            ...     print(param_scope.explain("explained.dt"))
            explained.dt = 0.2 from the command line, in place of 0.1 from the default in ...
        """
        return explain(name, get())

    def warn_unread(self, on: bool) -> None:
        """Say whether scopes warn of keys that were set and never read, in this process.

        `ParamScope.allow_unread` does it for one scope, and a filter of Python's `warnings` for
        the category `UnreadParameterWarning`.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope.warn_unread(False)
            >>> with param_scope(simulat=1):
            ...     pass
            >>> param_scope.warn_unread(True)
        """
        switch(on)

    def recording(self) -> AbstractContextManager[dict[str, Any]]:
        """Record every parameter that is read within a block; see `recording`.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope(seed="7"), param_scope.recording() as used:
            ...     param_scope.seed(0), param_scope.steps(100)
            (7, 100)
            >>> used
            {'seed': 7, 'steps': 100}
        """
        return recording()

    def capture(self) -> ScopeSnapshot:
        """Take the parameters that are in force here; see `capture`.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope(seed=7).allow_unread():
            ...     param_scope.capture()
            ScopeSnapshot(seed=7)
        """
        return capture()

    def restore(self, snapshot: ScopeSnapshot) -> AbstractContextManager[ParamScope]:
        """Put captured parameters in force for the length of a block; see `restore`.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope(seed=7):
            ...     snapshot = param_scope.capture()
            >>> with param_scope.restore(snapshot):
            ...     param_scope.seed()
            7
        """
        return restore(snapshot)

    def from_files(
        self,
        *paths: str | PathLike[str],
        define: Iterable[str] = (),
        warn_unread: bool = True,
    ) -> ParamScope:
        """Make a scope of files, merged in order, and of assignments; see `from_files`.

        Example:
            >>> from pathlib import Path
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> _ = Path("lab.json").write_text('{"simulate": {"dt": 0.1}}')
            >>> with param_scope.from_files("lab.json", define=["seed=7"]):
            ...     param_scope.simulate.dt(1.0), param_scope.seed(0)
            (0.1, 7)
        """
        return from_files(*paths, define=define, warn_unread=warn_unread)


param_scope: ScopeFacade = ScopeFacade()
"""Makes scopes, and reads and writes the one that is in force."""
