"""`param_scope`: makes scopes, reads files, and takes a scope to other threads and tasks."""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import os
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial, update_wrapper
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar, overload

from prefect.cache_policies import STABLE_TRANSFORMS, CachePolicy
from prefect.context import TaskRunContext
from prefect.tasks import Task, TaskOptions
from prefect.utilities.annotations import unmapped
from prefect.utilities.hashing import hash_objects
from typing_extensions import Unpack

from prefect_optuna.errors import (
    ConfigFileError,
    InvalidParameterError,
    PathNotFoundError,
    UnknownNameError,
)
from prefect_optuna.tasks.scope.auto_parameters import in_frame, is_deferred
from prefect_optuna.tasks.scope.frames import (
    MISSING,
    ROOT,
    Content,
    Frame,
    Layer,
    Origin,
    Reader,
    caller,
    describe,
    entered,
    flatten,
    freeze,
    get,
    origins_of,
    parse_assignments,
    pop,
    put,
    recording,
    write,
)
from prefect_optuna.tasks.scope.scope import (
    Accessor,
    Explanation,
    ParamScope,
    explain,
    handle,
    make_scope,
    may_be_read_elsewhere,
    pack,
    switch,
    unpack,
)

# A scope from files and from a command line.


_REFERENCE = re.compile(r"\$\{([^${}]+)\}")


def from_files(
    *paths: str | os.PathLike[str], define: Iterable[str] = (), warn_unread: bool = True
) -> ParamScope:
    r"""Make a scope of files, in order, and of assignments after them: what comes later wins.

    A value may refer to another one: `"${data.root}/train.csv"` becomes a text, and
    `"${optimizer.lr}"` alone is whatever that is, also a whole branch.

    Args:
        paths: JSON (`.json`), YAML (`.yaml`, `.yml`) or TOML files (`.toml`), each with a mapping.
        define: texts `key=value`, as `-D` takes them on a command line.
        warn_unread: whether a key that is never read is worth a warning.

    Raises:
        PathNotFoundError: a file is not there.
        ConfigFileError: a file is malformed or of another kind, or references go in a circle.
        UnknownNameError: a reference leads nowhere.
        InvalidParameterError: a key is no text.
        InvalidSettingError: an assignment has no equals sign.

    Example:
        >>> from pathlib import Path
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> _ = Path("study.toml").write_text('seed = 7\n[simulate]\ndt = 0.1\n')
        >>> with param_scope.from_files("study.toml", define=["simulate.dt=0.2"]):
        ...     param_scope.seed(0), param_scope.simulate.dt(1.0)
        ...     print(param_scope.explain("seed"))
        (7, 0.2)
        seed = 7 from study.toml
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for path in paths:
        _merge(values, origins, flatten(_read(Path(path))), str(path))
    for key, value in parse_assignments(define).items():
        _merge(values, origins, {key: value}, f"the command line ({key}={value})")
    resolved = flatten({key: _resolve(value, values, (key,)) for key, value in values.items()})
    # A branch that a reference has brought in comes from where the reference stands.
    for key in resolved.keys() - origins.keys():
        origins[key] = next(origins[up] for up in _above(key) if up in origins)
    return make_scope(resolved, origin="files", origins=origins, warns=warn_unread)


def add_scope_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command line `-C/--config FILE ...` and `-D/--define KEY=VALUE ...`.

    Both can be repeated. What follows them and is no option is theirs: put other arguments first,
    or `--` between.

    Args:
        parser: the command line; `scope_from_arguments` takes what it parses.

    Example:
        >>> import argparse
        >>> from prefect_optuna.tasks.scope import add_scope_arguments, scope_from_arguments
        >>> parser = argparse.ArgumentParser()
        >>> add_scope_arguments(parser)
        >>> scope_from_arguments(parser.parse_args(["-D", "seed=7", "simulate.dt=0.2"]))
        param_scope(seed='7', **{'simulate.dt': '0.2'})
    """
    group = parser.add_argument_group("parameters")
    group.add_argument(
        "-C",
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="JSON, YAML or TOML files of parameters; a later one wins",
    )
    group.add_argument(
        "-D",
        "--define",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="parameters by their dotted names; they win over files",
    )


def scope_from_arguments(arguments: argparse.Namespace) -> ParamScope:
    """Make the scope that a command line with `add_scope_arguments` asks for.

    Args:
        arguments: what the parser returned.

    Raises:
        PrefectOptunaError: as `from_files` does.

    Example:
        >>> import argparse
        >>> from prefect_optuna.tasks.scope import add_scope_arguments, scope_from_arguments
        >>> parser = argparse.ArgumentParser()
        >>> add_scope_arguments(parser)
        >>> with scope_from_arguments(parser.parse_args(["--define", "seed=7"])) as scope:
        ...     scope.seed(0)
        7
    """
    return from_files(*arguments.config, define=arguments.define)


def _read(path: Path) -> dict[Any, Any]:
    kind = path.suffix.lower()
    if kind not in (".json", ".yaml", ".yml", ".toml"):
        raise ConfigFileError(
            f"Expected a file of parameters that ends in .json, .yaml, .yml or .toml, found {path}."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PathNotFoundError(
            f"There is no file of parameters {path}, seen from {Path.cwd()}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"The file of parameters {path} cannot be read: {error}") from error
    try:
        content = _parse(text, kind)
    except Exception as error:
        raise ConfigFileError(
            f"Expected {kind[1:].upper()} in the file of parameters {path}: {error}"
        ) from error
    if content is None:  # an empty YAML file
        return {}
    if not isinstance(content, dict):
        raise ConfigFileError(
            f"Expected a mapping of names to values in the file of parameters {path}, found a "
            f"{type(content).__name__}."
        )
    return content


def _parse(text: str, kind: str) -> Any:
    if kind == ".json":
        return json.loads(text)
    if kind == ".toml":
        return _toml(text)
    import yaml

    return yaml.safe_load(text)


def _toml(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def _merge(
    values: dict[str, Any], origins: dict[str, Origin], new: dict[str, Any], origin: str
) -> None:
    """A later leaf takes the place of a branch, and a later branch that of a leaf."""
    for key in new:
        for old in [old for old in values if old.startswith(f"{key}.")]:
            del values[old], origins[old]
        for old in _above(key):
            if old in values and old not in new:
                del values[old], origins[old]
    values.update(new)
    origins.update(dict.fromkeys(new, origin))


def _above(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _resolve(value: Any, values: dict[str, Any], on_the_way: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_resolve(item, values, on_the_way) for item in value]
    if isinstance(value, dict):
        return {key: _resolve(item, values, on_the_way) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if whole := _REFERENCE.fullmatch(value):
        return _referred(whole[1].strip(), values, on_the_way)
    return _REFERENCE.sub(lambda match: str(_referred(match[1].strip(), values, on_the_way)), value)


def _referred(name: str, values: dict[str, Any], on_the_way: tuple[str, ...]) -> Any:
    if name in on_the_way:
        circle = " -> ".join((*on_the_way, name))
        raise ConfigFileError(f"References between parameters go in a circle: {circle}.")
    referred = values.get(name, MISSING)
    if referred is MISSING:
        branch = {
            key.removeprefix(f"{name}."): value
            for key, value in values.items()
            if key.startswith(f"{name}.")
        }
        if not branch:
            raise UnknownNameError(
                f"The parameter {on_the_way[0]!r} refers to ${{{name}}}, and nothing sets {name!r}."
            )
        referred = branch
    return _resolve(referred, values, (*on_the_way, name))


# A scope taken by hand to another thread or process: `capture` there, `restore` here.


class ScopeSnapshot:
    """All parameters as they were at one moment, and where each came from.

    Made by `capture`, entered by `restore`. It can be pickled if its values can.

    Example:
        >>> from prefect_optuna.tasks.scope import capture, param_scope
        >>> with param_scope(seed=7):
        ...     snapshot = capture()
        >>> snapshot
        ScopeSnapshot(seed=7)
        >>> snapshot.values()
        {'seed': 7}
    """

    __slots__ = ("_content", "_frame", "_reader")

    def __init__(self, frame: Frame) -> None:
        values, content, layer, parent, reads, recorders = frame
        if frame is ROOT:
            values = dict(values)
        self._frame: Frame = (values, content, layer, parent, reads, recorders)
        self._reader = Reader(frame)
        self._content: Content | None = None  # once it is restored, for it may be often

    def __del__(self) -> None:
        # It is never restored if it is thrown away.
        self._reader.is_done()

    def values(self) -> dict[str, Any]:
        """The parameters, under dotted keys; to list them is not to read them.

        Example:
            >>> from prefect_optuna.tasks.scope import capture, param_scope
            >>> with param_scope(model={"depth": 3}).allow_unread():
            ...     capture().values()
            {'model.depth': 3}
        """
        return dict(self._frame[0])

    def __repr__(self) -> str:
        return "ScopeSnapshot" + repr(handle(self._layer())).removeprefix("param_scope")

    def _layer(self) -> Layer:
        if self._content is None:
            frame = self._frame
            self._content = (frame[0], _origins(frame), False, "a captured scope", False)
        return [self._content]

    def __reduce__(self) -> Any:
        may_be_read_elsewhere(self._frame)
        packed = pack(self._frame[0])
        words: dict[Origin, str] = {}
        origins = _origins(self._frame)
        for origin in origins.values():
            if origin not in words:
                words[origin] = describe(origin)
        return _unpickled, (packed, {key: words[origin] for key, origin in origins.items()})


def capture() -> ScopeSnapshot:
    """Take the parameters that are in force here, to be restored elsewhere.

    Example:
        >>> from threading import Thread
        >>> from prefect_optuna.tasks.scope import capture, param_scope, restore
        >>> def work(snapshot):
        ...     with restore(snapshot):
        ...         print(param_scope.seed())
        >>> with param_scope(seed=7):
        ...     thread = Thread(target=work, args=[capture()])
        >>> thread.start(); thread.join()
        7
    """
    return ScopeSnapshot(get())


@contextmanager
def restore(snapshot: ScopeSnapshot) -> Generator[ParamScope]:
    """Put captured parameters in force, in place of those that are, for the length of a block.

    What is written in the block ends with it. In the process that captured them, what is read
    here counts as read there.

    Args:
        snapshot: what `capture` returned.

    Example:
        >>> from prefect_optuna.tasks.scope import capture, param_scope, restore
        >>> with param_scope(seed=7):
        ...     snapshot = capture()
        >>> with restore(snapshot) as scope:
        ...     scope.seed()
        7
    """
    captured: Frame = snapshot._frame  # pyright: ignore[reportPrivateUsage]
    reader: Reader = snapshot._reader  # pyright: ignore[reportPrivateUsage]
    _, _, _, _, reads, recorders = captured
    outer, layer = get(), snapshot._layer()  # pyright: ignore[reportPrivateUsage]
    values, content, _, _, _, recording = entered(layer, outer)
    others = [recorder for recorder in recording if all(recorder is not two for two in recorders)]
    put((values, content, layer, outer, reads, (*recorders, *others)))
    try:
        yield handle(layer)
    finally:
        pop(layer)
        reader.is_done()


def _origins(frame: Frame) -> dict[str, Origin]:
    """Return the origin of each value in force in a frame."""
    return {key: next(origins_of(key, frame), ("the frozen base",))[0] for key in frame[0]}


def _unpickled(packed: bytes, origins: dict[str, Origin]) -> ScopeSnapshot:
    content: Content = (unpack(packed), origins, False, "a captured scope", False)
    return ScopeSnapshot(entered([content], ROOT))


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


# Prefect tasks that take the scope along, to wherever they run: as one more argument, by value, to
# threads and processes, to Dask, to whoever serves background tasks, and to each retry. It is a
# keyword that Prefect sees and the function does not.

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
