"""A problem's functions, with everything they need to run where their script is unknown.

Capture goes by reach. It starts at the problem's functions and follows what they refer to:
helpers, classes, constants, closures' variables, decorators, modules. What is the user's own
is recorded as source or as a value, what is installed as an import. Nothing is executed, and
nothing is pickled.
"""

from __future__ import annotations

import __future__
import ast
import builtins
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import json
import logging
import os
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from io import BytesIO
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from prefect_optuna.blocks import CaptureError, ResultEncodingError
from prefect_optuna.tasks.archive.modules import (
    ARCHIVED_AS,
    ARCHIVED_IMPORTS,
    distribution_of,
    import_path,
    is_installed,
    module_label,
)
from prefect_optuna.tasks.archive.references import (
    Chain,
    References,
    local_imports,
    references,
)
from prefect_optuna.tasks.archive.results import encode_result
from prefect_optuna.tasks.archive.sources import (
    Definition,
    SourceFile,
    compile_function,
    compile_statement,
    inner_codes,
    same_code,
)
from prefect_optuna.tasks.archive.tables import table_kind
from prefect_optuna.tasks.archive.values import encode_value

if TYPE_CHECKING:
    from prefect_optuna.tasks.problem import Problem

__all__ = ["CAPTURE_FORMAT", "Capture", "encode_scope"]

CAPTURE_FORMAT = 1
_PARTS = ("suggest", "run", "evaluate", "objective", "plot")

_MAX_INLINE = 1024  # bytes of an array; what is larger is a blob of its own
_MAX_BLOB = 1 << 30  # bytes

Json: TypeAlias = Any


@dataclass(frozen=True)
class Capture:
    """A problem with everything it needs to run where its script is unknown.

    Attributes:
        document: JSON: the entry points, the captured symbols in the order in which they are
            restored, the context, the axes and the directions.
        blobs: arrays and tables by the SHA-256 digest of their bytes.
        axes: the axes of the problem, as they were given.
        folder: the folder that the problem's source lies in, if it has one.

    Example:
        >>> from prefect_optuna.flows.examples.lynx_hare import problem
        >>> from prefect_optuna.tasks.archive import Capture
        >>> sorted(Capture.of(problem).document["entrypoints"])
        ['evaluate', 'plot', 'run', 'suggest']
    """

    document: dict[str, Json]
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)
    folder: str | None = None

    @classmethod
    def of(cls, problem: Problem) -> Capture:
        """Capture a problem's functions, context and axes.

        Args:
            problem: what to capture.

        Raises:
            CaptureError: something cannot be captured; the message lists everything, and says
                for each what to do.
        """
        return _Capturer(problem).capture()

    @functools.cached_property
    def content(self) -> bytes:
        """The document as bytes, the same for the same problem."""
        return json.dumps(self.document, indent=1).encode("ascii")

    @functools.cached_property
    def code_version(self) -> str:
        """The SHA-256 digest of the content: it differs when any part of the problem does."""
        return hashlib.sha256(self.content).hexdigest()


def encode_scope(scope: Mapping[str, Any]) -> Json:
    """Turn the scope of a flow into tagged JSON.

    Raises:
        CaptureError: it holds something that has no exact form there.
    """

    def refuse(value: Any, path: str) -> Json:
        raise CaptureError(_unknown_value(value, path))

    return encode_value(dict(scope), refuse, "scope")


class _Namespace:
    """A module of the user's: its globals, the name it is archived under, and its source."""

    def __init__(self, module_globals: dict[str, Any], label: str) -> None:
        self.globals = module_globals
        self.label = label
        self.names: set[str] = set()
        self.assigned: set[str] = set()

    @functools.cached_property
    def source(self) -> SourceFile | None:
        file = self.globals.get("__file__")
        return SourceFile(file, self.globals) if file else None


@dataclass(frozen=True)
class _Place:
    """Where a value was met: in which namespace, and under which global name if it has one."""

    space: _Namespace
    name: str | None
    path: str


class _Refused(Exception):
    """A value that cannot be captured; the message is one line of the final error."""


class _Capturer:
    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._spaces: dict[int, _Namespace] = {}
        self._labels: set[str] = set()
        self._known: dict[int, tuple[Any, Json]] = {}
        self._files: dict[str, SourceFile] = {}
        self._symbols: list[dict[str, Json]] = []
        self._pending: deque[Callable[[], None]] = deque()
        self._missing: dict[tuple[str, str], tuple[_Namespace, str]] = {}
        self._blobs: dict[str, bytes] = {}
        self._distributions: dict[str, str] = {}
        self._problems: dict[str, None] = {}
        self._own: set[int] = set()
        # For values of the context that need a name: no module is called like this.
        self._root = _Namespace({}, "<problem>")

    def capture(self) -> Capture:
        problem = self._problem
        functions = {part: f for part in _PARTS if (f := getattr(problem, part)) is not None}
        for function in functions.values():
            inner = inspect.unwrap(function)
            # The examples of this project are problems like any other.
            if isinstance(inner, FunctionType) and "<locals>" not in inner.__qualname__:
                self._own.add(id(inner.__globals__))
        entrypoints = {
            part: self._top_value(function, f"`{part}`") for part, function in functions.items()
        }
        context = {
            key: self._top_value(value, f"context[{key!r}]")
            for key, value in problem.context.items()
        }
        axes = {
            name: self._top_value(values, f"axes[{name!r}]")
            for name, values in problem.axes.items()
        }
        self._drain()
        self._report()
        document = {
            "format": CAPTURE_FORMAT,
            "kind": "prefect-optuna/capture",
            "entrypoints": entrypoints,
            "symbols": self._symbols,
            "context": context,
            "axes": axes,
            "directions": list(problem.directions),
            "distributions": dict(sorted(self._distributions.items())),
            "blobs": {digest: len(content) for digest, content in sorted(self._blobs.items())},
        }
        return Capture(document, self._blobs, problem.axes, _folder(functions.values()))

    def _report(self) -> None:
        for (_, name), (space, user) in self._missing.items():
            if name not in space.assigned:
                self._refuse(
                    f"{user} uses the name {name!r}, which is not defined in the module "
                    f"{space.label!r}. Define it before the study starts, or correct its spelling."
                )
        if self._problems:
            found = "\n".join(f"  - {problem}" for problem in self._problems)
            raise CaptureError(
                f"The problem {self._problem.name!r} cannot be archived, so that it could not be "
                f"run again from the study alone:\n{found}"
            )

    def _refuse(self, message: str) -> None:
        self._problems[message] = None

    def _drain(self) -> None:
        while self._pending:
            self._pending.popleft()()

    # -- modules ----------------------------------------------------------------------------

    def _is_installed(self, module_globals: dict[str, Any]) -> bool:
        return id(module_globals) not in self._own and is_installed(module_globals)

    def _space(self, module_globals: dict[str, Any]) -> _Namespace:
        space = self._spaces.get(id(module_globals))
        if space is None:
            label = base = module_label(module_globals)
            number = 2
            while label in self._labels:
                label = f"{base}_{number}"
                number += 1
            self._labels.add(label)
            space = self._spaces[id(module_globals)] = _Namespace(module_globals, label)
        return space

    def _file(self, filename: str, module_globals: dict[str, Any]) -> SourceFile:
        own = module_globals.get("__file__")
        if own and not filename.startswith("<") and not os.path.exists(filename):
            filename = own  # a relative path, and the directory has changed since
        if filename not in self._files:
            self._files[filename] = SourceFile(filename, module_globals)
        return self._files[filename]

    def _reach(self, space: _Namespace, chain: Chain, user: str) -> None:
        """Capture a global name; of a module of the user's, what is used of it."""
        name, rest = chain[0], chain[1:]
        if name.startswith("__") and name.endswith("__"):
            return
        if name not in space.globals:
            if not hasattr(builtins, name):
                self._missing.setdefault((space.label, name), (space, user))
            return
        value = space.globals[name]
        if isinstance(value, ModuleType):
            self._reach_module(space, name, value, rest, user)
        elif name not in space.names:
            space.names.add(name)
            self._symbol(space, name, value)

    def _symbol(self, space: _Namespace, name: str, value: Any) -> None:
        where = f"{space.label}.{name}"
        encoded = self._value(value, _Place(space, name, where))
        if encoded == {"$ref": f"{space.label}:{name}"}:
            return  # its source has been recorded under this name
        mode = "import" if isinstance(encoded, dict) and "$import" in encoded else "value"
        self._emit(space, name, mode, value=encoded)
        if isinstance(value, (list, dict, set, np.ndarray)):
            # One object, however many names it has: those who share it go on sharing it.
            self._known.setdefault(id(value), (value, {"$ref": f"{space.label}:{name}"}))

    def _emit(self, space: _Namespace, name: str, mode: str, **rest: Json) -> None:
        self._symbols.append({"module": space.label, "name": name, "mode": mode, **rest})

    def _reach_module(
        self, space: _Namespace, name: str, module: ModuleType, rest: Chain, user: str
    ) -> None:
        if not self._is_installed(vars(module)):
            inner = self._space(vars(module))
            if name not in space.names:
                space.names.add(name)
                self._emit(space, name, "value", value={"$module": inner.label})
            self._reach_attributes(inner, rest, user)
            return
        submodules = [module.__name__]
        for part in rest:
            below = vars(module).get(part)
            if not isinstance(below, ModuleType) or below.__name__ != f"{module.__name__}.{part}":
                break
            module = below
            submodules.append(module.__name__)
        self._distribution(module.__name__)
        symbol = next(
            (s for s in self._symbols if s["module"] == space.label and s["name"] == name), None
        )
        if symbol is None:
            space.names.add(name)
            self._emit(space, name, "import", value={"$import": submodules[0]})
            symbol = self._symbols[-1]
        if len(submodules) > 1:
            known = symbol.setdefault("submodules", [])
            known.extend(s for s in submodules[1:] if s not in known)

    def _reach_attributes(self, space: _Namespace, chain: Chain, user: str) -> None:
        if chain:
            self._reach(space, chain, user)
            return
        # The module is used as a whole: passed on, or looked into by `getattr`.
        for name in list(space.globals):
            if not name.startswith("_"):
                self._reach(space, (name,), user)

    def _distribution(self, module: str) -> None:
        if (name := distribution_of(module)) is not None:
            self._distributions[module.partition(".")[0]] = name

    # -- values -----------------------------------------------------------------------------

    def _top_value(self, value: Any, path: str) -> Json:
        return self._value(value, _Place(self._root, None, path))

    def _value(self, value: Any, place: _Place) -> Json:
        known = self._known.get(id(value))
        if known is not None:
            return known[1]

        def other(inner: Any, path: str) -> Json:
            known = self._known.get(id(inner))
            if known is not None:
                return known[1]
            where = place if inner is value else _Place(place.space, None, path)
            return self._object(inner, where)

        try:
            return encode_value(value, other, place.path)
        except _Refused as error:
            self._refuse(str(error))
            return None
        except RecursionError:
            self._refuse(f"{place.path} is nested too deeply to be archived.")
            return None

    def _object(self, value: Any, place: _Place) -> Json:
        if place.name is not None:
            if imported := self._imported(value, place.space, place.name):
                return imported
            if decorated := self._decorated(value, place):
                return decorated
        match value:
            case FunctionType():
                return self._function(value, place)
            case type():
                return self._class(value, place)
            case ModuleType():
                return self._module(value, place)
            case types.MethodType():
                return {"$method": [self._value(value.__self__, place), value.__func__.__name__]}
            case functools.partial():
                return self._partial(value, place)
            case Enum():
                return {"$attribute": [self._value(type(value), place), value.name]}
            case np.ndarray():
                return self._array(value, place)
            case logging.Logger():
                return {"$logger": value.name}
            case types.GenericAlias():
                origin, arguments = value.__origin__, list(value.__args__)
                return {"$alias": [self._value(origin, place), self._value(arguments, place)]}
            case _:
                return self._other_object(value, place)

    def _other_object(self, value: Any, place: _Place) -> Json:
        if (path := import_path(value)) is not None:
            self._distribution(path)
            return {"$import": path}
        if (table := self._table(value, place)) is not None:
            return table
        if place.name is not None and _is_definition(value):
            return self._assignment(value, place.space, place.name, place)
        if isinstance(value, types.BuiltinMethodType) and value.__self__ is not None:
            return {"$method": [self._value(value.__self__, place), value.__name__]}
        if wrapped := getattr(value, "__wrapped__", None):
            raise _Refused(
                f"{place.path} is {_describe(value)} around {_describe(wrapped)}, made where its "
                "source cannot be told. Put the decorator on a function at the top of a module."
            )
        return self._instance(value, place)

    def _module(self, module: ModuleType, place: _Place) -> Json:
        if self._is_installed(vars(module)):
            self._distribution(module.__name__)
            return {"$import": module.__name__}
        space = self._space(vars(module))
        self._pending.append(lambda: self._reach_attributes(space, (), place.path))
        return {"$module": space.label}

    def _partial(self, value: functools.partial[Any], place: _Place) -> Json:
        return {
            "$partial": [
                self._value(value.func, place),
                self._value(list(value.args), place),
                self._value(dict(value.keywords), place),
            ]
        }

    def _array(self, array: np.ndarray[Any, Any], place: _Place) -> Json:
        if type(array) is not np.ndarray and type(array) is not np.memmap:
            raise _Refused(
                f"{place.path} is a {_describe(array)}. Pass a plain NumPy array: np.asarray(...)."
            )
        if array.dtype.hasobject:
            raise _Refused(
                f"{place.path} is an array of Python objects. Give it a dtype of numbers, text or "
                "times, or pass a list."
            )
        if array.nbytes > _MAX_BLOB:
            raise _Refused(_too_large(place.path, array.nbytes))
        file = BytesIO()
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        return {"$npy": self._binary(file.getvalue())}

    def _table(self, value: Any, place: _Place) -> Json:
        if table_kind(value) is None:
            return None
        try:
            content = encode_result(value)
        except ResultEncodingError as error:
            raise _Refused(f"{place.path}: {error}") from None
        if len(content) > _MAX_BLOB:
            raise _Refused(_too_large(place.path, len(content)))
        return {"$table": self._binary(content)}

    def _binary(self, content: bytes) -> Json:
        if len(content) <= _MAX_INLINE:
            return encode_value(content, lambda value, path: None)
        digest = hashlib.sha256(content).hexdigest()
        self._blobs[digest] = content
        return {"sha256": digest}

    def _instance(self, value: Any, place: _Place) -> Json:
        kind = type(value)
        if kind.__module__ in ("builtins", "_thread", "_io", "_socket", "socket") or (
            _reduces_by_itself(kind)
        ):
            raise _Refused(_unknown_value(value, place.path))
        owner = self._value(kind, place)
        if isinstance(value, tuple):  # a named tuple
            return {"$make": [owner, [self._value(item, place) for item in value]]}
        state = dict(getattr(value, "__dict__", {}))
        for name in _slots(kind):
            if hasattr(value, name):
                state[name] = getattr(value, name)
        name = place.name or self._synthetic(place.space, f"{kind.__name__}()")
        reference = {"$ref": f"{place.space.label}:{name}"}
        self._known[id(value)] = (value, reference)
        encoded = {
            key: self._value(item, _Place(place.space, None, f"{place.path}.{key}"))
            for key, item in state.items()
        }
        self._emit(place.space, name, "value", value={"$instance": [owner, encoded]})
        return reference

    def _synthetic(self, space: _Namespace, name: str) -> str:
        """A name for what its module has no name for; no identifier, so never in the way."""
        number = 1
        while f"{name}#{number}" in space.names:
            number += 1
        space.names.add(f"{name}#{number}")
        return f"{name}#{number}"

    def _imported(self, value: Any, space: _Namespace, name: str) -> Json:
        """What the module's own import statement says about a name, if it still holds."""
        archived = space.globals.get(ARCHIVED_IMPORTS, {}).get(name)
        if archived is not None:
            self._distribution(archived)
            return {"$import": archived}
        if space.source is None:
            return None
        for statement in space.source.top_level.get(name, []):
            if not isinstance(statement, ast.ImportFrom):
                continue
            module = sys.modules.get(_absolute(statement.module, statement.level, space.globals))
            if module is None or not self._is_installed(vars(module)):
                continue
            original = next(a.name for a in statement.names if (a.asname or a.name) == name)
            if vars(module).get(original) is value:
                self._distribution(module.__name__)
                return {"$import": f"{module.__name__}:{original}"}
        return None

    # -- functions --------------------------------------------------------------------------

    def _function(self, function: FunctionType, place: _Place) -> Json:
        module_globals = function.__globals__
        if self._is_installed(module_globals):
            return self._installed_function(function, place)
        space = self._space(module_globals)
        if (attribute := self._attribute_of_class(function, place)) is not None:
            return attribute
        if place.space is not space or place.name is None:
            # Met somewhere else: it is captured under the name that its own module has for it.
            own = function.__name__
            if module_globals.get(own) is function:
                if own not in space.names:
                    space.names.add(own)
                    self._symbol(space, own, function)
                return {"$ref": f"{space.label}:{own}"}
        source, definition, code = self._source_of(function, place)
        qualname = _qualname(function, definition)
        named = place.space is space and place.name is not None
        name = place.name if named else self._synthetic(space, function.__qualname__)
        assert name is not None
        reference = {"$ref": f"{space.label}:{name}"}
        self._known[id(function)] = (function, reference)

        extra: dict[str, Json] = {}
        inside = _Place(space, None, name)
        found = references(code)
        if free := self._free_variables(function, found, inside):
            extra["free"] = free
        if function.__defaults__:
            extra["defaults"] = self._defaults(function, list(function.__defaults__), inside)
        if function.__kwdefaults__:
            extra["kwdefaults"] = self._defaults(function, dict(function.__kwdefaults__), inside)
        if annotations := self._annotations(function, inside):
            extra["annotations"] = annotations
        if state := {k: v for k, v in vars(function).items() if k != "__wrapped__"}:
            extra["attributes"] = self._value(state, inside)
        if function.__qualname__ != qualname:
            extra["called"] = function.__qualname__
        if function.__code__.co_flags & _ANNOTATIONS_FLAG:
            extra["futures"] = ["annotations"]
        self._emit(
            space,
            name,
            "source",
            kind="function",
            qualname=qualname,
            source=source,
            **extra,
        )
        self._follow(space, found, source, f"{space.label}.{function.__qualname__}")
        return reference

    def _source_of(
        self, function: FunctionType, place: _Place
    ) -> tuple[str, Definition, CodeType]:
        """The source of a function whose bytecode is what runs."""
        code = function.__code__
        file = self._file(code.co_filename, function.__globals__)
        where = f"{_function_title(function)} ({code.co_filename}:{code.co_firstlineno})"
        if not file.text:
            raise _Refused(
                f"{where} has no source: it was made by exec, typed at a prompt, or its file is "
                "gone. Write it in a file or a notebook cell, as a function with def."
            )
        candidates = file.candidates(code)
        futures = ["annotations"] if code.co_flags & _ANNOTATIONS_FLAG else []
        for candidate in candidates:
            node: Any = candidate.node
            source = file.function_text(node)
            try:
                compiled = compile_function(
                    source,
                    _qualname(function, candidate),
                    code.co_freevars,
                    code.co_filename,
                    futures=futures,
                    imported=file.imported.intersection(_names_of(code)),
                )
            except SyntaxError:
                continue
            if same_code(compiled, code):
                return source, candidate, compiled
        raise _Refused(
            f"{where}: the source no longer matches the running code, for the file was edited "
            "after it was loaded. Start Python again (in a notebook: run the cell again), so that "
            "what is archived is what runs."
        )

    def _installed_function(self, function: FunctionType, place: _Place) -> Json:
        if (path := import_path(function)) is not None:
            self._distribution(path)
            return {"$import": path}
        # A decorator's function around one of the user's.
        module = sys.modules.get(function.__module__ or "")
        name = function.__name__
        if (
            module is not None
            and not self._is_installed(vars(module))
            and vars(module).get(name) is function
        ):
            return self._named(function, self._space(vars(module)), name)
        code = function.__code__
        raise _Refused(
            f"{place.path} is {_function_title(function)}, made inside the installed module "
            f"{function.__globals__.get('__name__')!r} ({code.co_filename}:{code.co_firstlineno}),"
            " which cannot be imported by name. Put the decorator on a function at the top of a "
            "module of your own."
        )

    def _named(self, value: Any, space: _Namespace, name: str) -> Json:
        """Capture a value by the global name it has in a module."""
        if name not in space.names:
            space.names.add(name)
            self._symbol(space, name, value)
        known = self._known.get(id(value))
        return known[1] if known else {"$ref": f"{space.label}:{name}"}

    def _attribute_of_class(self, function: FunctionType, place: _Place) -> Json:
        """A static method, or a function taken off a class: an attribute of that class."""
        owner_name, dot, name = function.__qualname__.rpartition(".")
        if not dot or "<locals>" in owner_name:
            return None
        owner: Any = function.__globals__.get(owner_name.partition(".")[0])
        for part in owner_name.split(".")[1:]:
            owner = getattr(owner, part, None)
        if not isinstance(owner, type) or getattr(owner, name, None) is not function:
            return None
        return {"$attribute": [self._value(owner, place), name]}

    def _free_variables(
        self, function: FunctionType, found: References, place: _Place
    ) -> dict[str, Json]:
        encoded: dict[str, Json] = {}
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                value = cell.cell_contents
            except ValueError:
                continue  # not bound yet; the function would fail if it used it
            where = f"the variable {name!r} of {_function_title(function)}"
            if isinstance(value, ModuleType) and not self._is_installed(vars(value)):
                space = self._space(vars(value))
                for chain in found.free:
                    if chain[0] == name:
                        self._reach_attributes(space, chain[1:], where)
                encoded[name] = {"$module": space.label}
                continue
            encoded[name] = self._value(value, _Place(place.space, None, where))
        return encoded

    def _defaults(self, function: FunctionType, values: Any, place: _Place) -> Json:
        where = f"a default value of {_function_title(function)}"
        return self._value(values, _Place(place.space, None, where))

    def _annotations(self, function: FunctionType, place: _Place) -> Json:
        """Annotations, as far as they are strings, classes or aliases of those."""
        try:
            annotations = dict(function.__annotations__)
        except NameError:
            return {}
        plain = (str, type, types.GenericAlias, types.NoneType)
        return {
            name: self._value(value, place)
            for name, value in annotations.items()
            if isinstance(value, plain)
        }

    def _follow(self, space: _Namespace, found: References, source: str, user: str) -> None:
        """Capture, later, what code refers to when it is called."""
        space.assigned |= found.assigned

        def follow() -> None:
            for chain in found.later:
                self._reach(space, chain, user)
            for name in sorted(found.assigned):
                if name in space.globals:
                    self._reach(space, (name,), user)
            if found.imports:
                self._local_imports(space, source, user)

        self._pending.append(follow)

    def _local_imports(self, space: _Namespace, source: str, user: str) -> None:
        for found in local_imports(source):
            name = _absolute(found.module, found.level, space.globals)
            module = sys.modules.get(name)
            if module is None:
                # Not imported yet: this function has not been called.
                try:
                    spec = importlib.util.find_spec(name)
                except (ImportError, ValueError):
                    spec = None
                if spec is None or not spec.origin:
                    continue
                if is_installed({"__name__": name, "__file__": spec.origin, "__spec__": spec}):
                    self._distribution(name)
                    continue
                module = importlib.import_module(name)
            if self._is_installed(vars(module)):
                self._distribution(name)
                continue
            inner = self._space(vars(module))
            for chain in found.used:
                self._reach_attributes(inner, chain, user)

    # -- statements: classes, decorated functions, definitions by assignment -------------------

    def _class(self, cls: type, place: _Place) -> Json:
        module = sys.modules.get(cls.__module__)
        module_globals = vars(module) if module is not None else None
        if module_globals is None or self._is_installed(module_globals):
            if (path := import_path(cls)) is not None:
                self._distribution(path)
                return {"$import": path}
            raise _Refused(
                f"{place.path} is the class {cls.__qualname__}, which cannot be imported from "
                f"{cls.__module__!r}. Define it at the top of a module."
            )
        space = self._space(module_globals)
        owner_name, _, name = cls.__qualname__.rpartition(".")
        if owner_name and "<locals>" not in owner_name:
            owner: Any = module_globals.get(owner_name.partition(".")[0])
            for part in owner_name.split(".")[1:]:
                owner = getattr(owner, part, None)
            if isinstance(owner, type) and getattr(owner, name, None) is cls:
                return {"$attribute": [self._value(owner, place), name]}
        is_global = module_globals.get(name) is cls
        if is_global and not (place.space is space and place.name == name):
            return self._named(cls, space, name)
        source, file = self._class_source(cls, space, place)
        symbol = name if is_global else self._synthetic(space, cls.__qualname__)
        reference = {"$ref": f"{space.label}:{symbol}"}
        self._known[id(cls)] = (cls, reference)
        self._statement(space, symbol, source, file, cls.__qualname__)
        return reference

    def _class_source(
        self, cls: type, space: _Namespace, place: _Place
    ) -> tuple[str, SourceFile]:
        methods = [f for f in _functions_of_class(cls) if f.__globals__ is space.globals]
        files = [self._file(f.__code__.co_filename, space.globals) for f in methods]
        if space.source is not None:
            files.append(space.source)
        files.extend(self._notebook_cells(cls.__name__))
        for file in files:
            for definition in reversed(file.definitions.get(cls.__name__, [])):
                node = definition.node
                if not isinstance(node, ast.ClassDef) or definition.qualname != cls.__qualname__:
                    continue
                source = file.statement_text(node)
                self._verify_class(cls, node, source, file)
                return source, file
        if _is_assigned(space, place):
            assert place.name is not None
            statement = space.source.top_level[place.name][-1]  # pyright: ignore[reportOptionalMemberAccess]
            return space.source.statement_text(statement), space.source  # pyright: ignore[reportOptionalMemberAccess]
        raise _Refused(
            f"the class {cls.__qualname__} of the module {space.label!r} has no source there that "
            "matches. Define it with a class statement at the top of a module."
        )

    def _notebook_cells(self, name: str) -> Iterator[SourceFile]:
        import linecache

        for filename in reversed(list(linecache.cache)):
            if "ipython" in filename or "ipykernel" in filename:
                file = self._file(filename, {})
                if name in file.definitions:
                    yield file

    def _verify_class(
        self, cls: type, node: ast.ClassDef, source: str, file: SourceFile
    ) -> None:
        where = f"the class {cls.__qualname__} ({file.filename}:{node.lineno})"
        compiled = list(_all_codes(_for_comparison(source, file)))
        for function in _functions_of_class(cls):
            code = function.__code__
            if code.co_filename != file.filename:
                continue
            free = [name for name in code.co_freevars if name != "__class__"]
            if free:
                raise _Refused(
                    f"{where} is defined inside a function and uses its "
                    f"variable {free[0]!r}. Define the class at the top of a module, and pass it "
                    "what it needs."
                )
            if not any(same_code(code, other) for other in compiled):
                raise _Refused(
                    f"{where}: the source of {function.__qualname__} no longer matches the "
                    "running code, for the file was edited after it was loaded. Start Python "
                    "again, so that what is archived is what runs."
                )
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name not in _attributes_of(cls, node.name):
                raise _Refused(
                    f"{where}: the source has a method {item.name!r} that the running class does "
                    "not have, for the file was edited after it was loaded. Start Python again."
                )

    def _decorated(self, value: Any, place: _Place) -> Json:
        """A global that a decorated `def` has made, unless it is still the bare function."""
        space, name = place.space, place.name
        assert space is not None
        assert name is not None
        if isinstance(value, type):
            return None
        wrapped = list(_functions_in(value))
        files = [self._file(f.__code__.co_filename, f.__globals__) for f in wrapped]
        if space.source is not None:
            files.append(space.source)
        for file in files:
            statements = file.top_level.get(name, [])
            statement = statements[-1] if statements else None
            if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if not statement.decorator_list:
                continue
            inner = [f for f in wrapped if f.__code__.co_name == name]
            if isinstance(value, FunctionType) and value in inner:
                return None  # the decorator returned the function itself
            source = file.statement_text(statement)
            compiled = list(inner_codes(_for_comparison(source, file)))
            if not any(same_code(f.__code__, code) for f in inner for code in compiled):
                raise _Refused(
                    f"{space.label}.{name} ({file.filename}:{statement.lineno}) is {_describe(value)}"
                    ": its source does not match the running code. "
                    + (
                        "The file was edited after it was loaded: start Python again."
                        if inner
                        else "Its decorator hides the function: keep it in `__wrapped__`, as "
                        "functools.wraps does."
                    )
                )
            reference = {"$ref": f"{space.label}:{name}"}
            self._known[id(value)] = (value, reference)
            self._statement(space, name, source, file, name)
            return reference
        return None

    def _assignment(self, value: Any, space: _Namespace, name: str, place: _Place) -> Json:
        """A definition that is an assignment, such as a type variable or a named tuple."""
        if not _is_assigned(space, place):
            raise _Refused(_unknown_value(value, place.path))
        assert space.source is not None
        source = space.source.statement_text(space.source.top_level[name][-1])
        reference = {"$ref": f"{space.label}:{name}"}
        self._known[id(value)] = (value, reference)
        self._statement(space, name, source, space.source, name)
        return reference

    def _statement(
        self, space: _Namespace, name: str, source: str, file: SourceFile, user: str
    ) -> None:
        futures = ["annotations"] if "annotations" in file.futures else []
        code = compile_statement(source, file.filename, futures=futures)
        found = references(code)
        title = f"{space.label}.{user}"
        for chain in found.now:
            self._reach(space, chain, title)
        # What a decorator or a base class calls has to be there before the statement runs.
        self._drain()
        extra = {"futures": futures} if futures else {}
        self._emit(space, name, "source", kind="statement", source=source, **extra)
        self._follow(space, found, source, title)



def _folder(functions: Iterable[Any]) -> str | None:
    for function in functions:
        for inner in _functions_in(function):
            file = inner.__globals__.get("__file__")
            if file:
                return os.path.dirname(os.path.abspath(file))
    return None


def _functions_in(value: Any, depth: int = 4) -> Iterator[FunctionType]:
    """The Python functions that a value wraps, from the outside in."""
    if depth == 0:
        return
    inside: list[Any] = []
    if isinstance(value, FunctionType):
        yield value
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):
                inside.append(cell.cell_contents)
        inside.append(getattr(value, "__wrapped__", None))
    elif isinstance(value, types.MethodType):
        inside.append(value.__func__)
    elif isinstance(value, functools.partial):
        inside.append(value.func)
    elif not isinstance(value, (type, ModuleType)):
        inside.append(getattr(value, "__wrapped__", None))
        inside.extend(getattr(value, "__dict__", {}).values())
        inside = [item for item in inside if callable(item)]
    for item in inside:
        if callable(item):
            yield from _functions_in(item, depth - 1)


def _functions_of_class(cls: type) -> Iterator[FunctionType]:
    """The functions in the body of a class, also those inside properties and the like."""
    for value in vars(cls).values():
        inside = [value, getattr(value, "__func__", None), getattr(value, "func", None)]
        inside.extend(getattr(value, name, None) for name in ("fget", "fset", "fdel"))
        for item in inside:
            if isinstance(item, FunctionType):
                function = inspect.unwrap(item)
                if isinstance(function, FunctionType):
                    yield function


def _attributes_of(cls: type, private: str) -> set[str]:
    """The names in a class, private ones as they are written in its source."""
    prefix = f"_{private.lstrip('_')}__"
    return {f"__{n[len(prefix):]}" if n.startswith(prefix) else n for n in vars(cls)}


def _for_comparison(source: str, file: SourceFile) -> CodeType:
    """A statement's code, as the compiler made it between the other statements of its module."""
    return compile_statement(
        source, file.filename, futures=file.futures, imported=file.imported
    )


def _names_of(code: CodeType) -> set[str]:
    """All names that code mentions, the code inside it included."""
    return set(code.co_names).union(*(_names_of(inner) for inner in inner_codes(code)))


def _all_codes(code: CodeType) -> Iterator[CodeType]:
    for inner in inner_codes(code):
        yield inner
        yield from _all_codes(inner)


def _qualname(function: FunctionType, definition: Definition) -> str:
    """Where a function was defined; `functools.wraps` may have renamed the function object."""
    code = function.__code__
    return getattr(code, "co_qualname", None) or definition.qualname


def _absolute(module: str | None, level: int, module_globals: Mapping[str, Any]) -> str:
    if not level:
        return module or ""
    package = str(module_globals.get("__package__") or "")
    parts = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*parts, module] if module else parts)


def _is_definition(value: Any) -> bool:
    """Whether a value is made by an assignment that may as well be made again."""
    return isinstance(value, ContextVar) or type(value).__module__ in ("typing", "types")


def _is_assigned(space: _Namespace, place: _Place) -> bool:
    if space.source is None or place.space is not space or place.name is None:
        return False
    statements = space.source.top_level.get(place.name, [])
    return len(statements) == 1 and isinstance(statements[0], (ast.Assign, ast.AnnAssign))


def _reduces_by_itself(kind: type) -> bool:
    """Whether a type has its own way of being copied: its attributes are not all there is."""
    if kind.__reduce__ is not object.__reduce__ or kind.__reduce_ex__ is not object.__reduce_ex__:
        return True
    if getattr(kind, "__getstate__", None) is not getattr(object, "__getstate__", None):
        return not issubclass(kind, tuple)
    if hasattr(kind, "__setstate__"):
        return True
    return any(_is_native(base) for base in kind.__mro__)


def _is_native(base: type) -> bool:
    """Whether instances of a class hold something that Python does not see."""
    return base not in (object, tuple) and not base.__flags__ & _HEAP_TYPE


def _slots(kind: type) -> list[str]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return names


def _function_title(function: FunctionType) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _describe(value: Any) -> str:
    if isinstance(value, FunctionType):
        return f"the function {_function_title(value)}"
    kind = type(value)
    return f"{'an' if kind.__name__[0] in 'AEIOUaeiou' else 'a'} {kind.__module__}.{kind.__qualname__}"


def _unknown_value(value: Any, path: str) -> str:
    return (
        f"{path} is {_describe(value)}, which cannot be written down exactly. Make it inside a "
        "function (functools.cache keeps it), or pass what it is made from through "
        "Problem(context=...): numbers, text, lists, mappings, arrays, tables, dataclasses."
    )


def _too_large(path: str, size: int) -> str:
    return (
        f"{path} has {size / 1e9:.1f} GB; at most {_MAX_BLOB / 1e9:.1f} GB are archived. Keep it "
        "in a file, and read the file in `run`."
    )


_ANNOTATIONS_FLAG = __future__.annotations.compiler_flag
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement
