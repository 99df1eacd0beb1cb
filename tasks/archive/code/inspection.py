"""Inspection of live objects, beyond what `inspect` tells."""

from __future__ import annotations

import ast
import contextlib
import copyreg
import functools
import importlib.metadata
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
import types
from abc import ABCMeta
from collections.abc import Iterator, Mapping
from enum import EnumMeta
from pathlib import PurePath
from types import FunctionType, ModuleType
from typing import Any

from prefect_optuna.tasks.archive.code.sources import parse

ARCHIVED_AS = "__archived_as__"
ARCHIVED_IMPORTS = "__archived_imports__"
ARCHIVED_FILE = "__archived_file__"

_DEPTH = 4
_OURSELVES = "prefect_optuna"


def functions_in(value: Any, depth: int = _DEPTH) -> Iterator[FunctionType]:
    """The Python functions that a callable is made of, from the outside in."""
    if depth == 0 or not callable(value):
        return
    inside: list[Any] = []
    if isinstance(value, FunctionType):
        yield value
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # a variable that has no value yet
                inside.append(cell.cell_contents)
        inside.append(value.__dict__.get("__wrapped__"))
    elif isinstance(value, types.MethodType):
        inside.append(value.__func__)
    elif isinstance(value, functools.partial):
        inside.append(value.func)
    elif not isinstance(value, type):
        inside.append(getattr(value, "__wrapped__", None))
        inside.extend(getattr(value, "__dict__", {}).values())
    for item in inside:
        yield from functions_in(item, depth - 1)


def functions_of_class(cls: type) -> Iterator[FunctionType]:
    """The functions in the body of a class, also those inside properties and the like."""
    for value in vars(cls).values():
        parts = [value]
        parts.extend(
            getattr(value, name, None) for name in ("__func__", "func", "fget", "fset", "fdel")
        )
        for part in parts:
            if isinstance(part, FunctionType):
                function = inspect.unwrap(part)
                if isinstance(function, FunctionType):
                    yield function


def attribute_names(cls: type) -> set[str]:
    """The names in a class, private ones as its source has them."""
    prefix = f"_{cls.__name__.lstrip('_')}__"
    return {f"__{n[len(prefix) :]}" if n.startswith(prefix) else n for n in vars(cls)}


def changed_attributes(cls: type, source: str) -> dict[str, Any]:
    """Return attributes that a class's statement, run again, might not give: set later or drawn.

    What is written there as a literal and still holds is left out, and so are methods and the like,
    unless somebody has put others in their place.
    """
    named = issubclass(cls, tuple) and hasattr(cls, "_fields")
    if isinstance(cls, EnumMeta) or named or _is_made_by_installed_code(type(cls)):
        return {}
    body = _body(cls, source)
    changed: dict[str, Any] = {}
    for name, value in vars(cls).items():
        if (name.startswith("__") and name.endswith("__")) or name.startswith("_abc_"):
            continue
        said = body.get(name)
        if isinstance(value, FunctionType):
            is_own = value.__code__.co_qualname == f"{cls.__qualname__}.{name}"
            if is_own or value.__code__.co_filename.startswith("<"):
                continue
            if said is not None and getattr(said, "decorator_list", [None]):
                continue  # the statement makes it again
        elif isinstance(value, type) or hasattr(type(value), "__get__"):
            continue
        elif isinstance(said, (ast.Assign, ast.AnnAssign)) and said.value is not None:
            with contextlib.suppress(ValueError, TypeError, SyntaxError, RecursionError):
                literal = ast.literal_eval(said.value)
                if type(literal) is type(value) and repr(literal) == repr(value):
                    continue
        changed[name] = value
    return changed


def _is_made_by_installed_code(metaclass: type) -> bool:
    """Tell whether a metaclass does something that is not known here."""
    if metaclass in (type, ABCMeta):
        return False
    module = sys.modules.get(metaclass.__module__)
    return module is None or is_installed(vars(module))


def _body(cls: type, source: str) -> dict[str, ast.stmt]:
    """The last statement of a class's body that binds each name."""
    node = next((n for n in ast.walk(parse(source)) if isinstance(n, ast.ClassDef)), None)
    statements: dict[str, ast.stmt] = {}
    for statement in node.body if node is not None else ():
        names = [getattr(statement, "name", None)]
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        targets = [statement.target] if isinstance(statement, ast.AnnAssign) else targets
        names += [target.id for target in targets if isinstance(target, ast.Name)]
        statements |= {_mangled(cls, name): statement for name in names if name}
    return statements


def _mangled(cls: type, name: str) -> str:
    private = name.startswith("__") and not name.endswith("__")
    return f"_{cls.__name__.lstrip('_')}{name}" if private else name


def owner_of(value: FunctionType | type, module_globals: Mapping[str, Any]) -> type | None:
    """The class at the top of a module that a function or class is an attribute of."""
    names = value.__qualname__.split(".")
    if len(names) == 1 or "<locals>" in names:
        return None
    owner: Any = module_globals.get(names[0])
    for name in names[1:-1]:
        owner = getattr(owner, name, None)
    if isinstance(owner, type) and getattr(owner, names[-1], None) is value:
        return owner
    return None


def method_name(method: types.MethodType) -> str | None:
    """The attribute by which an object or a class has a method; `None` if it was bound otherwise.

    It is not always that of its function: private names are mangled, a decorator gives a function
    of another name, and `super()` or `types.MethodType` bind what the object does not have so.
    """
    owner = method.__self__
    kind = owner if isinstance(owner, type) else type(owner)
    names = (name for base in kind.__mro__ for name in vars(base))
    for name in (method.__func__.__name__, *names):
        held = inspect.getattr_static(owner, name, None)  # runs none of the user's code
        if getattr(held, "__func__", held) is method.__func__:
            return name
    return None


def instance_state(value: Any) -> dict[str, Any] | None:
    """The attributes of an object, if they are all there is to it; else `None`.

    Python's own preparation for copying tells: it fails for objects with parts in C, such as
    locks and sockets, and has more than attributes for those that are lists or numbers.
    """
    kind = type(value)
    if _copies_by_itself(kind) or issubclass(kind, (list, dict)):  # whose items would be asked for
        return None
    try:
        make, arguments, _, *items = object.__reduce_ex__(value, 2)
    except TypeError:
        return None
    if make is not copyreg.__newobj__ or arguments != (kind,) or any(items):  # pyright: ignore[reportAttributeAccessIssue]
        return None
    state = dict(getattr(value, "__dict__", {}))
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            private = slot.startswith("__") and not slot.endswith("__")
            name = f"_{base.__name__.lstrip('_')}{slot}" if private else slot
            if slot not in ("__dict__", "__weakref__") and hasattr(value, name):
                state[name] = getattr(value, name)
    return state


def _copies_by_itself(kind: type) -> bool:
    """Tell whether a type customizes copying or pickling; dataclasses' own methods do not count."""
    for name in ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__"):
        method = getattr(kind, name, None)
        own = method is not getattr(object, name, None)
        if own and getattr(method, "__module__", None) != "dataclasses":
            return True
    return False


def absolute_name(module: str | None, level: int, module_globals: Mapping[str, Any]) -> str:
    """The full name of the module that a (relative) import names."""
    if not level:
        return module or ""
    package = str(module_globals.get("__package__") or "").split(".")
    parts = package[: len(package) - level + 1]
    return ".".join([*parts, module] if module else parts)


def imported_module(name: str, module_globals: Mapping[str, Any]) -> ModuleType | None:
    """The module that an import in a module finds; among archived modules, those come first."""
    if archived := module_globals.get(ARCHIVED_AS):
        package = str(module_globals["__name__"]).removesuffix(archived)
        if package + name in sys.modules:
            return sys.modules[package + name]
    return sys.modules.get(name)


# Set in the modules that restored code lives in: the name their code was captured under, and where
# names that were imported come from.
@functools.cache
def _installation_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(site.getsitepackages())
    folders.add(site.getusersitepackages())
    return tuple(sorted({os.path.realpath(folder) + os.sep for folder in folders}))


@functools.cache
def _lies_in_installation(file: str) -> bool:
    if {"site-packages", "dist-packages"}.intersection(PurePath(file).parts):
        return True
    return os.path.realpath(file).startswith(_installation_folders())


def is_installed(module_globals: Mapping[str, Any]) -> bool:
    """Tell whether a module belongs to Python, to an installed distribution or to this project."""
    name = module_globals.get("__name__") or ""
    if ARCHIVED_AS in module_globals or name == "__main__":
        return False
    if name.partition(".")[0] == _OURSELVES:
        return True
    file = module_globals.get("__file__")
    if file:
        return _lies_in_installation(file)
    if folders := list(module_globals.get("__path__") or ()):
        return all(_lies_in_installation(folder) for folder in folders)
    origin = getattr(module_globals.get("__spec__"), "origin", None)
    return origin in ("built-in", "frozen") or name in sys.builtin_module_names


def module_label(module_globals: Mapping[str, Any]) -> str:
    """The name to archive a module under: the one it is imported by, also if it runs as script."""
    if archived := module_globals.get(ARCHIVED_AS):
        return archived
    name = module_globals.get("__name__") or "__main__"
    if not name.startswith("__"):
        return name
    spec = module_globals.get("__spec__")
    if spec is not None and spec.name and not spec.name.startswith("__"):
        return spec.name.removesuffix(".__main__")
    file = module_globals.get("__file__")
    return PurePath(file).stem if file else name


def import_path(obj: Any) -> str | None:
    """Return the path to import an installed function or class: `"package.module:name"`.

    The shortest way is taken, as that is the public one: `scipy.integrate:quad`, though it is
    defined in a private module.
    """
    module = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    if not isinstance(name, str):
        return None
    if not isinstance(module, str):
        # NumPy's functions in C do not say where they are from; their type does.
        module = type(obj).__module__
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        candidate = ".".join(parts[:end])
        holder = sys.modules.get(candidate)
        if holder is not None and is_installed(vars(holder)) and _at(holder, name) is obj:
            return f"{candidate}:{name}"
    return None


def _at(module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        # By the dictionary, for an attribute of a module may be imported on first look; but what
        # it promises is there for everybody, whoever has looked before.
        if isinstance(value, ModuleType) and part in getattr(value, "__all__", ()):
            value = getattr(value, part, None)
        else:
            value = vars(value).get(part) if isinstance(value, (ModuleType, type)) else None
    return value


@functools.cache
def distribution_of(module: str) -> str | None:
    """The name to `pip install` for a module; `None` for Python's own and for unknown ones."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return None
    try:
        return importlib.metadata.distribution(top).name
    except importlib.metadata.PackageNotFoundError:
        pass
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    for distribution in importlib.metadata.distributions():
        listed = distribution.read_text("top_level.txt")
        if listed is not None:
            if top in listed.split():
                return distribution.name
        elif f"\n{top}/" in f"\n{distribution.read_text('RECORD') or ''}":
            return distribution.name
    return None
