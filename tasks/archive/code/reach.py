"""Search for everything that a problem's functions reach, and its record.

It starts at the problem's functions and follows what they refer to: helpers, classes, constants,
closures' variables, decorators, modules. What is the user's own is recorded as source or as a
value, in a namespace for each module it came from; what is installed is recorded as an import.
None of it is called, and nothing is pickled unless that is asked for.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import hashlib
import importlib
import importlib.util
import io
import logging
import os
import platform
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from types import CellType, FunctionType, ModuleType
from typing import Any, TypeAlias

import numpy as np
import optuna

from prefect_optuna.blocks._secrets import SecretVariables, secret_paths
from prefect_optuna.blocks.codec.tables import npy_bytes, table_kind
from prefect_optuna.blocks.codec.values import encode_value
from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks.archive.code.inspection import (
    ARCHIVED_IMPORTS,
    CANNOT,
    Chain,
    Parts,
    References,
    RefusedError,
    absolute_name,
    changed_attributes,
    described,
    distribution_of,
    functions_in,
    import_path,
    imported_module,
    installed_name,
    instance_state,
    is_installed,
    local_imports,
    method_name,
    module_label,
    owner_of,
    references,
    secret_by_name,
    take_apart,
    titled,
    too_large,
    unknown_value,
)
from prefect_optuna.tasks.archive.code.sources import parse
from prefect_optuna.tasks.archive.code.verified_sources import (
    Change,
    StatementSource,
    VerifiedSources,
    encoded,
    patches,
    settings,
)
from prefect_optuna.tasks.archive.series.results import encode_result

_MAX_INLINE = 1024  # bytes of an array; what is larger is a blob of its own
_MAX_BLOB = 1 << 30  # bytes
_MAX_OBJECTS = 100_000  # of an array of Python objects

_LRUCache = type(functools.cache(len))

Json: TypeAlias = Any


@dataclass
class _Namespace:
    """A module of the user's.

    Attributes:
        label: the name it is archived under.
        globals: its globals.
        names: the names that have been captured, or are about to be.
        assigned: the names that its functions assign when they are called.
    """

    label: str
    globals: dict[str, Any]
    names: set[str] = field(default_factory=set)
    assigned: set[str] = field(default_factory=set)

    def unused(self, name: str) -> str:
        """A name for what has none in its module; no identifier, so never in the way."""
        number = 1
        while f"{name}#{number}" in self.names:
            number += 1
        self.names.add(f"{name}#{number}")
        return f"{name}#{number}"


@dataclass(frozen=True)
class _Place:
    """The place of a value: a namespace, its global name there if any, and a path for people.

    It may be held by an object, which has made it for itself.
    """

    space: _Namespace
    name: str | None
    path: str
    is_held: bool = False

    def inside(self, path: str | None = None, *, is_held: bool = False) -> _Place:
        """The place of a part of the value, which has no global name."""
        return _Place(self.space, None, path or self.path, is_held or self.is_held)


class ReachedCode:
    """Everything reached so far.

    Attributes:
        symbols: what has been captured, each after what it needs when it is restored.
        blobs: bytes of arrays and tables by their SHA-256 digest.
        distributions: what to `pip install`, by the name of the module that needs it.
        refusals: what cannot be captured, and why.
        pickled: what has been pickled.
    """

    def __init__(self, own: Iterable[dict[str, Any]] = (), *, allow_pickle: bool = False) -> None:
        self.pickled: list[str] = []
        self._allow_pickle = allow_pickle
        self.symbols: list[dict[str, Json]] = []
        self.blobs: dict[str, bytes] = {}
        self.distributions: dict[str, str] = {}
        self.refusals: dict[str, None] = {}
        self._own = {id(module_globals) for module_globals in own}
        self._sources = VerifiedSources()
        # What belongs to the problem and to no module; no module has such a name.
        self._problem = _Namespace("<problem>", {})
        self._spaces: dict[int, _Namespace] = {}
        # With the objects themselves, so that no other one gets their id.
        self._known: dict[int, tuple[Any, Json]] = {}
        self._cells: dict[int, tuple[CellType, Json]] = {}
        self._pending: deque[Callable[[], None]] = deque()
        self._missing: dict[tuple[str, str], tuple[_Namespace, str]] = {}

    def value(self, value: Any, path: str) -> Json:
        """Capture a value, and remember to follow what it refers to."""
        return self._value(value, _Place(self._problem, None, path))

    def finish(self) -> None:
        """Follow everything that has been remembered, to the end."""
        self._follow_pending()
        self._changes()
        self._follow_pending()
        for (_, name), (space, user) in self._missing.items():
            if name not in space.assigned:
                self.refusals[
                    f"{user} uses the name {name!r}, which the module {space.label!r} does not "
                    "define. Define it before the study starts, or correct its spelling."
                ] = None

    # -- values -----------------------------------------------------------------------------

    def _value(self, value: Any, place: _Place) -> Json:
        def other(inner: Any, path: str) -> Json:
            if (known := self._known.get(id(inner))) is not None:
                return known[1]
            return self._object(inner, place if inner is value else place.inside(path))

        if (known := self._known.get(id(value))) is not None:
            return known[1]
        try:
            return encode_value(value, other, place.path)
        except RefusedError as refusal:
            self.refusals[str(refusal)] = None
        except RecursionError:
            self.refusals[f"{place.path} is nested too deeply to be archived."] = None
        except Exception:  # noqa: BLE001 - objects may raise anything when they are looked at
            self.refusals[unknown_value(value, place.path)] = None
        return None

    def _object(self, value: Any, place: _Place) -> Json:
        """A value that is no plain data."""
        if place.name is not None:
            if (imported := self._imported(value, place.space, place.name)) is not None:
                return imported
            if (decorated := self._decorated(value, place.space, place.name)) is not None:
                return decorated
        elif (known := self._global_name(value)) is not None:
            return self._named(value, *known)
        inside = place.inside()
        match value:
            case FunctionType(registry=types.MappingProxyType()):
                return self._single_dispatch(value, inside)
            case FunctionType():
                return self._function(value, place)
            case type():
                return self._class(value, place)
            case ModuleType():
                return self._module(value, place)
            case types.MethodType():
                return self._method(value, inside)
            case functools.partial():
                parts = (value.func, list(value.args), dict(value.keywords))
                return {"$partial": [self._value(part, inside) for part in parts]}
            case Enum():
                kind = self._value(type(value), inside)
                if value.name in type(value).__members__:
                    return {"$attribute": [kind, value.name]}
                return {"$make": [kind, [self._value(value.value, inside)]]}  # a union of flags
            case logging.Logger():
                return {"$logger": value.name}
            case types.GenericAlias():
                parts = (value.__origin__, list(value.__args__))
                return {"$alias": [self._value(part, inside) for part in parts]}
            case np.ndarray():
                is_plain = type(value) in (np.ndarray, np.memmap)
                if not is_plain and (parts := take_apart(value)) is not None:
                    return self._parts(value, parts, place)
                return self._array(value, place.path)
            case _ if isinstance(value, _LRUCache):
                parameters = value.cache_parameters()
                function = self._value(value.__wrapped__, inside)
                return {"$lru_cache": [function, parameters["maxsize"], parameters["typed"]]}
            case _ if (path := import_path(value)) is not None:
                return self._import(path)
            case _ if table_kind(value) not in (None, "arrow"):  # which would be another one's
                return self._table(value, place.path)
            case _ if self._is_of_code(place) and (makes := _made_anew(value)) is not None:
                path, arguments = makes
                name, reference = self._named_object(value, place)
                made = [self._import(path), self._value(arguments, inside)]
                self._emit(place.space, name, "value", value={"$make": made})
                return reference
            case types.BuiltinMethodType() if value.__self__ is not None:
                return {"$method": [self._value(value.__self__, inside), value.__name__]}
            case _ if place.name is not None and _is_definition(value):
                return self._assignment(value, place.space, place.name, place.path)
            case _:
                return self._instance(value, place)

    def _is_of_code(self, place: _Place) -> bool:
        """Tell whether code has a value, and nobody has passed it on to the problem by itself."""
        return place.is_held or place.space is not self._problem

    def _method(self, method: types.MethodType, place: _Place) -> Json:
        owner = self._value(method.__self__, place)
        if (name := method_name(method)) is not None:
            return {"$method": [owner, name]}
        function = self._value(method.__func__, place)
        return {"$make": [self._import("types:MethodType"), [function, owner]]}

    def _array(self, array: np.ndarray[Any, Any], path: str) -> Json:
        if type(array) not in (np.ndarray, np.memmap):
            raise RefusedError(
                f"{path} is {described(array)}. Pass a plain NumPy array: np.asarray(...)."
            )
        if array.dtype == object and array.size <= _MAX_OBJECTS:
            items = self._value(array.ravel().tolist(), _Place(self._problem, None, path))
            return {"$objects": [list(array.shape), items]}
        if array.dtype.hasobject:
            raise RefusedError(
                f"{path} is an array of {array.size} Python objects. Give it a dtype of numbers, "
                "text or times, or pass a list."
            )
        if array.nbytes > _MAX_BLOB:
            raise RefusedError(too_large(path, array.nbytes, _MAX_BLOB))
        return {"$npy": self._binary(npy_bytes(array))}

    def _table(self, table: Any, path: str) -> Json:
        try:
            content = encode_result(table)
        except CaptureError as error:
            raise RefusedError(f"{path}: {error}") from None
        if len(content) > _MAX_BLOB:
            raise RefusedError(too_large(path, len(content), _MAX_BLOB))
        return {"$table": self._binary(content)}

    def _binary(self, content: bytes) -> Json:
        if len(content) <= _MAX_INLINE:
            return encode_value(content, lambda value, path: None)
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return {"sha256": digest}

    def _instance(self, value: Any, place: _Place) -> Json:
        """An object by its class and its attributes."""
        kind: Any = type(value)
        inside = place.inside()
        if hasattr(value, "get_secret_value"):
            raise RefusedError(
                f"{place.path} is a secret, and archives can be read by others. Read it where it "
                "is used, from a Prefect block or an environment variable."
            )
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return {"$make": [self._value(kind, inside), self._value(list(value), inside)]}
        if (path := installed_name(value)) is not None:
            return self._import(path)
        state, tag = instance_state(value), "$instance"
        if state is None and _is_pydantic_model(value):
            state, tag = value.__getstate__(), "$pydantic"
        if state is None:
            if (parts := take_apart(value)) is not None:
                return self._parts(value, parts, place)
            return self._pickle(value, place.path)
        owner = self._value(kind, inside)
        name, reference = self._named_object(value, place)
        encoded = {
            key: self._value(
                part,
                place.inside(
                    place.path if key == "__dict__" else f"{place.path}.{key}", is_held=True
                ),
            )
            for key, part in state.items()
        }
        self._emit(place.space, name, "value", value={tag: [owner, encoded]})
        return reference

    def _named_object(self, value: Any, place: _Place) -> tuple[str, Json]:
        """A name for an object, which its own parts may refer to."""
        name = place.name or place.space.unused(f"{type(value).__name__}()")
        reference = {"$ref": f"{place.space.label}:{name}"}
        self._known[id(value)] = (value, reference)
        return name, reference

    def _parts(self, value: Any, parts: Parts, place: _Place) -> Json:
        """An object as Python takes it apart."""
        state, pairs = parts.rest.get("state"), parts.rest.get("pairs", ())
        for held in (state, {key: item for key, item in pairs if type(key) is str}):
            for path in secret_paths(_plain(held), place.path):
                raise RefusedError(secret_by_name(path))
        inside = place.inside()
        made_with = [
            self._value(parts.make, inside),
            self._value(list(parts.arguments), inside),
            self._value(dict(parts.keywords), inside),
        ]
        name, reference = self._named_object(value, place)
        rest = {part: self._value(held, inside) for part, held in parts.rest.items()}
        tag = "$new" if parts.is_new else "$call"
        self._emit(place.space, name, "value", value={tag: [*made_with, rest]})
        return reference

    def _pickle(self, value: Any, path: str) -> Json:
        if isinstance(value, optuna.Study):
            raise RefusedError(
                f"{path} is {described(value)}, which is elsewhere when the code runs again. Take "
                "`trial.study` inside of the function."
            )
        if not self._allow_pickle:
            raise RefusedError(unknown_value(value, path))
        import cloudpickle

        try:
            content = cloudpickle.dumps(value)
        except Exception as error:  # noqa: BLE001 - objects may raise anything there
            raise RefusedError(
                f"{unknown_value(value, path)} It cannot be pickled either: {error}"
            ) from None
        if len(content) > _MAX_BLOB:
            raise RefusedError(too_large(path, len(content), _MAX_BLOB))
        self.pickled.append(path)
        self._needs("cloudpickle")
        return {"$pickle": [platform.python_version(), self._binary(content)]}

    def _single_dispatch(self, function: Any, place: _Place) -> Json:
        registry = dict(function.registry)
        first = self._value(registry.pop(object), place)
        others = [[self._value(kind, place), self._value(f, place)] for kind, f in registry.items()]
        return {"$singledispatch": [first, others]}

    def _changes(self) -> None:
        """Record what scripts have changed around their code, first: code may depend on it."""
        files = {id(s): list(self._sources.files(s.globals)) for s in self._spaces.values()}
        code = [str(symbol.get("source", "")) for symbol in self.symbols]
        changes = list(settings((file for several in files.values() for file in several), code))
        for space in list(self._spaces.values()):
            changes += patches(files[id(space)], space.globals)
        place = _Place(self._problem, None, "")
        symbols: list[dict[str, Json]] = []
        for change in changes:
            top = change.module.partition(".")[0]
            if top not in self.distributions and top not in sys.stdlib_module_names:
                continue  # none of the code uses it
            value = self._tried(lambda change=change: self._change(change, place))
            if value is not None:
                name = self._problem.unused(change.path.replace(":", "."))
                symbols.append(
                    {"module": self._problem.label, "name": name, "mode": "value", "value": value}
                )
        self.symbols[:0] = symbols

    def _change(self, change: Change, place: _Place) -> Json:
        for path in secret_paths({change.name: change.value}, change.path):
            raise RefusedError(secret_by_name(path))
        return encoded(change, lambda value, path: self._value(value, place.inside(path)))

    def _tried(self, encode: Callable[[], Json]) -> Json:
        """Encode something that may be left out; `None` if it cannot be captured, or is secret."""
        before = dict(self.refusals)
        try:
            value = encode()
        except RefusedError:
            value = None
        refused, self.refusals = self.refusals != before, before
        return None if refused or SecretVariables.here().name_in(value) else value

    # -- modules and their names ------------------------------------------------------------

    def _is_installed(self, module_globals: dict[str, Any]) -> bool:
        return id(module_globals) not in self._own and is_installed(module_globals)

    def _space(self, module_globals: dict[str, Any]) -> _Namespace:
        space = self._spaces.get(id(module_globals))
        if space is None:
            label = first = module_label(module_globals)
            labels = {other.label for other in self._spaces.values()}
            number = 2
            while label in labels:
                label, number = f"{first}_{number}", number + 1
            space = self._spaces[id(module_globals)] = _Namespace(label, module_globals)
        return space

    def _reach(self, space: _Namespace, chain: Chain, user: str) -> None:
        """Capture a global name; of a module of the user's, what is used of it."""
        name, attributes = chain[0], chain[1:]
        if name == "__file__" and name not in space.names and "__file__" in space.globals:
            space.names.add(name)  # data lies beside it
            path = os.path.abspath(space.globals[name])  # noqa: PTH100 - links stay as they are
            self._emit(space, name, "value", value=path)
        if name.startswith("__") and name.endswith("__"):
            return  # every module has these, with values of its own
        if name not in space.globals:
            if not hasattr(builtins, name):
                # For now: a function that is captured later may assign it.
                self._missing.setdefault((space.label, name), (space, user))
            return
        value = space.globals[name]
        if isinstance(value, ModuleType):
            self._reach_module(space, name, value, attributes, user)
        elif name not in space.names:
            space.names.add(name)
            self._global(space, name, value)

    def _reach_module(
        self, space: _Namespace, name: str, module: ModuleType, attributes: Chain, user: str
    ) -> None:
        if not self._is_installed(vars(module)):
            inner = self._space(vars(module))
            if name not in space.names:
                space.names.add(name)
                self._emit(space, name, "value", value={"$module": inner.label})
            self._reach_attributes(inner, attributes, user)
            return
        if name not in space.names:
            space.names.add(name)
            self._emit(space, name, "import", value=self._import(module.__name__))
        submodules: list[str] = []
        for attribute in attributes:
            below = vars(module).get(attribute)
            if not isinstance(below, ModuleType):
                break
            if below.__name__ != f"{module.__name__}.{attribute}":
                break
            module = below
            submodules.append(module.__name__)
        if submodules:
            symbol = next(
                s for s in self.symbols if (s["module"], s["name"]) == (space.label, name)
            )
            known = symbol.setdefault("submodules", [])
            known.extend(name for name in submodules if name not in known)

    def _reach_attributes(self, space: _Namespace, chain: Chain, user: str) -> None:
        if chain:
            self._reach(space, chain, user)
            return
        # The module is used as a whole: passed on, or looked into by `getattr`.
        for name in list(space.globals):
            if not name.startswith("_"):
                self._reach(space, (name,), user)

    def _module(self, module: ModuleType, place: _Place) -> Json:
        if self._is_installed(vars(module)):
            return self._import(module.__name__)
        space = self._space(vars(module))
        self._pending.append(lambda: self._reach_attributes(space, (), place.path))
        return {"$module": space.label}

    def _global(self, space: _Namespace, name: str, value: Any) -> None:
        reference = {"$ref": f"{space.label}:{name}"}
        place = _Place(space, name, f"{space.label}.{name}")
        before = self._captured()
        encoded = self._value(value, place)
        if (
            self.refusals.keys() != before[0].keys()
            and (source := self._made_by_a_call(value, space, name, before[0])) is not None
        ):
            self.refusals, self._known, self._cells, self.blobs = before[:4]
            del self.symbols[before[4] :]
            self._pending = before[5]
            self._statement(value, space, name, source)
            return
        if encoded == reference:
            return  # it has been recorded under this name
        is_import = isinstance(encoded, dict) and list(encoded) == ["$import"]
        self._emit(space, name, "import" if is_import else "value", value=encoded)
        if isinstance(value, (list, dict, set, np.ndarray)):
            # One object, however many names it has: those who share it go on sharing it.
            self._known.setdefault(id(value), (value, reference))

    def _captured(self) -> tuple[Any, ...]:
        """Return a snapshot of the capture so far, to go back to."""
        return (
            dict(self.refusals),
            dict(self._known),
            dict(self._cells),
            dict(self.blobs),
            len(self.symbols),
            self._pending.copy(),
        )

    def _made_by_a_call(
        self, value: Any, space: _Namespace, name: str, refusals: Mapping[str, None]
    ) -> StatementSource | None:
        """The statement that makes an installed object anew, such as `xgboost.DMatrix(data)`.

        It takes the place of what cannot be written down, as parts in C cannot; what is secret, and
        what is closed or used up, would not be the same.
        """
        kind = type(value)
        module = sys.modules.get(kind.__module__)
        top = kind.__module__.partition(".")[0]
        if module is None or top in _NOT_ANEW or not self._is_installed(vars(module)):
            return None
        if not all(CANNOT in refusal for refusal in self.refusals.keys() - refusals.keys()):
            return None
        source = self._sources.assignment(name, space.globals)
        if source is None:
            return None
        [made] = parse(source.text).body
        targets = made.targets if isinstance(made, ast.Assign) else [getattr(made, "target", None)]
        is_plain = len(targets) == 1 and isinstance(targets[0], ast.Name)
        return source if is_plain and isinstance(getattr(made, "value", None), ast.Call) else None

    def _named(self, value: Any, space: _Namespace, name: str) -> Json:
        """Capture a value by the global name it has in its module."""
        if name not in space.names:
            space.names.add(name)
            self._global(space, name, value)
        known = self._known.get(id(value))
        return known[1] if known is not None else {"$ref": f"{space.label}:{name}"}

    def _emit(self, space: _Namespace, name: str, mode: str, **rest: Json) -> None:
        self.symbols.append({"module": space.label, "name": name, "mode": mode, **rest})

    def _import(self, path: str) -> Json:
        self._needs(path.partition(":")[0])
        return {"$import": path}

    def _needs(self, module: str) -> None:
        if (distribution := distribution_of(module)) is not None:
            self.distributions[module.partition(".")[0]] = distribution

    def _imported(self, value: Any, space: _Namespace, name: str) -> Json:
        """Encode a global by the module's own import statement, if that still holds."""
        if (archived := space.globals.get(ARCHIVED_IMPORTS, {}).get(name)) is not None:
            return self._import(archived)
        for statement, original in self._sources.imports(name, space.globals):
            module = sys.modules.get(
                absolute_name(statement.module, statement.level, space.globals)
            )
            if module is None or not self._is_installed(vars(module)):
                continue
            if getattr(module, original, None) is value:  # the statement has looked there, too
                return self._import(f"{module.__name__}:{original}")
        return None

    def _global_name(self, value: Any) -> tuple[_Namespace, str] | None:
        """The module of the user's that a function or the like is a global of, and its name."""
        if not callable(value) or isinstance(value, (type, types.MethodType, functools.partial)):
            return None
        module = sys.modules.get(getattr(value, "__module__", None) or "")
        modules = [vars(module)] if module is not None else []
        modules.extend(function.__globals__ for function in functions_in(value))
        own = getattr(value, "__name__", None)
        for module_globals in modules:
            if self._is_installed(module_globals):
                continue
            if isinstance(own, str) and module_globals.get(own) is value:
                return self._space(module_globals), own
            if not isinstance(value, FunctionType):
                for name, held in module_globals.items():
                    if held is value:
                        return self._space(module_globals), name
        return None

    # -- functions --------------------------------------------------------------------------

    def _function(self, function: FunctionType, place: _Place) -> Json:
        if self._is_installed(function.__globals__):
            if (path := import_path(function)) is not None:
                return self._import(path)
            raise RefusedError(
                f"{place.path} is {described(function)}, made inside the installed module "
                f"{function.__globals__.get('__name__')!r}, from which it cannot be imported by "
                "name. Make what has it inside a function of your own; a decorator, put on one at "
                "the top of a module."
            )
        space = self._space(function.__globals__)
        if (owner := owner_of(function, function.__globals__)) is not None:
            return {"$attribute": [self._value(owner, place.inside()), function.__name__]}
        if place.space is not space and space.globals.get(function.__name__) is function:
            return self._named(function, space, function.__name__)
        name = place.name if place.space is space else None
        source = self._sources.function(function)
        name = name or space.unused(function.__qualname__)
        reference = {"$ref": f"{space.label}:{name}"}
        self._known[id(function)] = (function, reference)
        used = references(source.code)
        self._emit(
            space,
            name,
            "source",
            kind="function",
            source=source.text,
            qualname=source.qualname,
            **({"futures": list(source.futures)} if source.futures else {}),
            **self._belongings(function, reference["$ref"], source.qualname, used),
        )
        self._follow(space, used, source.text, titled(function))
        return reference

    def _belongings(
        self, function: FunctionType, reference: str, qualname: str, found: References
    ) -> dict[str, Json]:
        """Encode what a function object has besides its code, as values."""
        title = titled(function)
        place = _Place(self._space(function.__globals__), None, title)
        a_default = place.inside(f"a default value of {title}")
        encoded: dict[str, Json] = {}
        if function.__closure__:
            encoded["free"] = {
                name: self._variable(name, cell, reference, found, place)
                for name, cell in zip(
                    function.__code__.co_freevars, function.__closure__, strict=True
                )
            }
        if function.__defaults__:
            encoded["defaults"] = self._value(list(function.__defaults__), a_default)
        if function.__kwdefaults__:
            encoded["kwdefaults"] = self._value(dict(function.__kwdefaults__), a_default)
        if annotations := _annotations(function):
            encoded["annotations"] = self._value(annotations, place)
        if attributes := {k: v for k, v in vars(function).items() if k != "__wrapped__"}:
            encoded["attributes"] = self._value(attributes, place)
        if function.__qualname__ != qualname:
            encoded["called"] = function.__qualname__
        return encoded

    def _variable(
        self, name: str, cell: CellType, reference: str, found: References, place: _Place
    ) -> Json:
        """The value of a closure's variable; one that closures share is named, not repeated."""
        if (shared := self._cells.get(id(cell))) is not None:
            return shared[1]
        self._cells[id(cell)] = (cell, {"$cell": [reference, name]})
        try:
            value = cell.cell_contents
        except ValueError:
            return {"$unbound": True}  # the function would fail if it used it
        where = f"the variable {name!r} of {place.path}"
        if isinstance(value, ModuleType) and not self._is_installed(vars(value)):
            space = self._space(vars(value))
            for chain in found.free:
                if chain[0] == name:
                    self._reach_attributes(space, chain[1:], where)
            return {"$module": space.label}
        return self._value(value, place.inside(where))

    def _follow(self, space: _Namespace, found: References, source: str, user: str) -> None:
        """Capture what code refers to when it is called: later, as it may refer to itself."""
        space.assigned |= found.assigned

        def follow() -> None:
            for chain in found.later:
                self._reach(space, chain, user)
            for name in sorted(found.assigned.intersection(space.globals)):
                self._reach(space, (name,), user)
            if found.imports:
                self._local_imports(space, source, user)
            if any(chain[:1] in _LOOKED_UP or chain[:2] in _LOOKED_UP for chain in found.later):
                self._whole_module(space)

        self._pending.append(follow)

    def _whole_module(self, space: _Namespace) -> None:
        """Capture what code may look up by its name, as far as it can be."""
        for name in list(space.globals):
            if not name.startswith("_") and name not in space.names:
                self._tried(lambda name=name: self._reach(space, (name,), space.label))

    def _follow_pending(self) -> None:
        while self._pending:
            self._pending.popleft()()

    def _local_imports(self, space: _Namespace, source: str, user: str) -> None:
        """Capture what functions import when they are called."""
        for statement in local_imports(source):
            name = absolute_name(statement.module, statement.level, space.globals)
            module = imported_module(name, space.globals) or self._import_of_the_users(name, user)
            if module is None:
                continue
            if self._is_installed(vars(module)):
                self._needs(name)
                continue
            inner = self._space(vars(module))
            for chain in statement.used:
                self._reach_attributes(inner, chain, user)

    def _import_of_the_users(self, name: str, user: str) -> ModuleType | None:
        """Import a module that no call has imported yet, if it is the user's own."""
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            spec = None
        if spec is None or not spec.origin:
            return None  # perhaps never needed; if it is, the call itself says so
        if is_installed({"__name__": name, "__file__": spec.origin, "__spec__": spec}):
            self._needs(name)
            return None
        try:
            return importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever their module raises
            self.refusals[
                f"{user} imports {name}, which fails: {type(error).__name__}: {error}."
            ] = None
            return None

    # -- statements: classes, decorated functions, definitions by assignment -------------------

    def _class(self, cls: type, place: _Place) -> Json:
        module = sys.modules.get(cls.__module__)
        if module is None or self._is_installed(vars(module)):
            if (path := import_path(cls)) is not None:
                return self._import(path)
            raise RefusedError(
                f"{place.path} is the class {cls.__qualname__}, which cannot be imported from "
                f"{cls.__module__!r}. Define it at the top of a module."
            )
        space = self._space(vars(module))
        if (owner := owner_of(cls, space.globals)) is not None:
            return {"$attribute": [self._value(owner, place.inside()), cls.__name__]}
        is_global = space.globals.get(cls.__name__) is cls
        if is_global and (place.space, place.name) != (space, cls.__name__):
            return self._named(cls, space, cls.__name__)
        source = self._sources.class_statement(cls, space.globals)
        if source is None and place.name is not None and place.space is space:
            return self._assignment(cls, space, place.name, place.path)
        if source is None:
            raise RefusedError(
                f"{place.path} is the class {cls.__qualname__}, which no class statement in the "
                f"module {space.label!r} has made. Define it with one, at the top of the module."
            )
        name = cls.__name__ if is_global else space.unused(cls.__name__)
        reference = self._statement(cls, space, name, source)
        self._pending.append(lambda: self._attributes(cls, source.text, space, reference))
        return reference

    def _attributes(self, cls: type, source: str, space: _Namespace, reference: Json) -> None:
        """Record what a class holds that its statement alone does not give: set later, or drawn."""
        title = f"{space.label}.{cls.__qualname__}"
        place = _Place(space, None, title)
        held: dict[str, Json] = {}
        for name, value in changed_attributes(cls, source).items():
            if any(secret_paths({name: value}, title)):
                continue
            part = place.inside(f"{title}.{name}")
            kept = self._tried(lambda value=value, part=part: [self._value(value, part)])
            if kept is not None:
                held[name] = kept[0]
        if held:
            name = space.unused(f"{cls.__name__}.attributes")
            self._emit(space, name, "value", value={"$with": [reference, held]})

    def _decorated(self, value: Any, space: _Namespace, name: str) -> Json:
        """A global that a decorated `def` has made, unless it is still a plain function."""
        if isinstance(value, type):
            return None
        if isinstance(getattr(value, "registry", None), types.MappingProxyType):
            return None  # singledispatch: other statements have added to it
        source = self._sources.decorated_function(value, name, space.globals)
        return self._statement(value, space, name, source) if source is not None else None

    def _assignment(self, value: Any, space: _Namespace, name: str, path: str) -> Json:
        """A definition that is an assignment, such as a type variable or a named tuple."""
        source = self._sources.assignment(name, space.globals)
        if source is None:
            raise RefusedError(unknown_value(value, path))
        return self._statement(value, space, name, source)

    def _statement(self, value: Any, space: _Namespace, name: str, source: StatementSource) -> Json:
        reference = {"$ref": f"{space.label}:{name}"}
        self._known[id(value)] = (value, reference)
        used = references(source.code)
        title = f"{space.label}.{name}"
        for chain in used.now:
            self._reach(space, chain, title)
        # What a decorator or a base class calls has to be there before the statement runs.
        self._follow_pending()
        futures = {"futures": list(source.futures)} if source.futures else {}
        self._emit(space, name, "source", kind="statement", source=source.text, **futures)
        self._follow(space, used, source.text, title)
        return reference


def _made_anew(value: Any) -> tuple[str, list[Any]] | None:
    """Return how to make an object of this process again: a function and its arguments.

    Whoever runs the code again is to overwrite nobody's files: one that is open for writing is then
    open on nothing.
    """
    for name in ("stdout", "stderr", "stdin"):
        if any(value is getattr(sys, stream) for stream in (name, f"__{name}__")):
            return "builtins:getattr", [sys, name]
    if isinstance(value, _LOCKS):
        return f"threading:{'Lock' if isinstance(value, _LOCKS[0]) else 'RLock'}", []
    if isinstance(value, io.IOBase) and _is_for_writing(value):
        return "builtins:open", [os.devnull, "w" if isinstance(value, io.TextIOBase) else "wb"]
    if type(value) is threading.local:
        return "threading:local", []  # what it has is of each thread
    if type(value) in _ITERATORS:
        return "builtins:iter", [list(copy.copy(value))]
    bar: Any = value
    if isinstance(bar, getattr(sys.modules.get("tqdm.std"), "tqdm", ())):
        return "tqdm.std:tqdm", [bar.iterable, None, bar.total]
    return None


_LOOKED_UP = {("globals",), ("eval",), ("exec",), ("sys", "modules")}
_NOT_ANEW = {"_io", "builtins", "optuna", "prefect", "prefect_optuna", "pydantic", "socket"}
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_ITERATORS = (type(iter([])), type(iter(())), type(iter(range(0))))


def _is_for_writing(file: io.IOBase) -> bool:
    in_memory = isinstance(file, (io.StringIO, io.BytesIO))
    try:
        return not in_memory and file.writable() and not file.readable()
    except ValueError:
        return not in_memory  # it is closed


def _is_definition(value: Any) -> bool:
    """Tell whether a value is made by an assignment that may as well be made again."""
    return isinstance(value, ContextVar) or type(value).__module__ in ("typing", "types")


def _plain(value: Any) -> Any:
    """Return what lies in lists and mappings; objects inside of them are looked at separately."""
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    return value if type(value) in (str, bytes) else None


def _is_pydantic_model(value: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(value, pydantic.BaseModel)


def _annotations(function: FunctionType) -> dict[str, Any]:
    """The annotations that are text, classes or aliases of those; others are left out."""
    try:
        annotations = dict(function.__annotations__)
    except NameError:  # evaluated on first look, since Python 3.14
        return {}
    kept = (str, type, types.GenericAlias, types.NoneType)
    return {name: value for name, value in annotations.items() if isinstance(value, kept)}
