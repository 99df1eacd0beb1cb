"""Inspection of live objects, beyond what `inspect` tells."""

from __future__ import annotations

import ast
import contextlib
import copyreg
import dis
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
from dataclasses import dataclass, field
from enum import EnumMeta
from pathlib import PurePath
from types import CodeType, FunctionType, ModuleType
from typing import Any

import optuna

from prefect_optuna.tasks.archive.code.sources import inner_codes, parse

# Names of its module, and attributes of them, that a piece of code refers to.
#
# Read off the bytecode, where the compiler has already decided which names are global.


_GLOBAL = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_FREE = {"LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"}
_ATTRIBUTE = {"LOAD_ATTR", "LOAD_METHOD"}
_BETWEEN = {"PUSH_NULL", "CACHE", "EXTENDED_ARG", "NOP"}
_COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}
_CO_OPTIMIZED = 0x1

Chain = tuple[str, ...]


@dataclass
class References:
    """Names, each with the attributes read off it: `np.random.rand` is a chain of three.

    Attributes:
        now: global names that are needed when the statement runs: decorators, base classes,
            and all that a class body does.
        later: global names that are needed when what it defines is called.
        free: variables of enclosing functions.
        assigned: global names that the code itself assigns.
        imports: whether a function imports something when it is called.
    """

    now: dict[Chain, None] = field(default_factory=dict)
    later: dict[Chain, None] = field(default_factory=dict)
    free: dict[Chain, None] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)
    imports: bool = False


def references(code: CodeType) -> References:
    """Find what a code object, and all code inside it, refers to."""
    used = References()
    _scan(code, used, now=not code.co_flags & _CO_OPTIMIZED)
    return used


def _scan(code: CodeType, found: References, *, now: bool) -> None:
    globals_found = found.now if now else found.later
    local: set[str] = set()
    chain: list[str] = []
    into: dict[Chain, None] = globals_found
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name in _ATTRIBUTE:
            if chain:
                chain.append(instruction.argval)
            continue
        if name in _BETWEEN:
            continue
        if chain:
            into[tuple(chain)] = None
            chain = []
        if name in _GLOBAL and instruction.argval not in local:
            chain, into = [instruction.argval], globals_found
        elif name in _FREE:
            chain, into = [instruction.argval], found.free
        elif name in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            found.assigned.add(instruction.argval)
        elif name == "STORE_NAME":
            local.add(instruction.argval)
        elif name == "IMPORT_NAME":
            found.imports = True
    if chain:
        into[tuple(chain)] = None
    for inner in inner_codes(code):
        is_function = inner.co_flags & _CO_OPTIMIZED and inner.co_name not in _COMPREHENSIONS
        _scan(inner, found, now=now and not is_function)


@dataclass(frozen=True)
class LocalImport:
    """An import inside a function: the module, how relative it is, and what is used of it.

    `used` holds chains of attributes of the module; `()` stands for the module as a whole. One
    that is guarded is in a `try` that catches its failing.
    """

    module: str
    level: int
    used: tuple[Chain, ...]
    is_guarded: bool = False


def local_imports(source: str) -> Iterator[LocalImport]:
    """Find the imports in the source of a function or class."""
    tree = parse(source)
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(map(_catches_imports, node.handlers))
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            used = tuple((alias.name,) for alias in node.names)
            yield LocalImport(node.module or "", node.level, used, node in guarded)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    used = tuple(_attributes(tree, alias.asname))
                    yield LocalImport(alias.name, 0, used, node in guarded)
                else:
                    top = alias.name.partition(".")[0]
                    yield LocalImport(top, 0, tuple(_attributes(tree, top)), node in guarded)


def _catches_imports(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return not names.isdisjoint({"ImportError", "ModuleNotFoundError", "Exception"})


def _attributes(tree: ast.AST, name: str) -> Iterator[Chain]:
    """The chains of attributes that are read off a name; `()` where the name stands alone."""
    within: set[int] = set()
    for node in ast.walk(tree):  # breadth first: the outermost attribute comes first
        chain: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and inner.id == name and id(inner) not in within:
            within.add(id(inner))
            if isinstance(inner.ctx, ast.Load):
                yield tuple(reversed(chain))


# Messages about things that cannot be captured: each says what to do instead.


class RefusedError(Exception):
    """Something cannot be captured; the message is one line of the `CaptureError`."""


def titled(function: FunctionType) -> str:
    """The full name of a function."""
    return f"{function.__module__}.{function.__qualname__}"


def described(value: Any) -> str:
    """Describe what kind of value this is, for a message."""
    if isinstance(value, FunctionType):
        return f"the function {titled(value)}"
    kind = type(value)
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return f"{article} {module}{kind.__qualname__}"


CANNOT = "which cannot be written down exactly"
"""The words of a message about a value that has no exact form."""


def unknown_value(value: Any, path: str) -> str:
    """A value has no exact form in an archive."""
    return (
        f"{path} is {described(value)}, {CANNOT}. Make it inside a "
        "function (functools.cache keeps it), or pass what it is made from through "
        "Problem(context=...): numbers, text, lists, mappings, arrays, tables, dataclasses."
    )


def too_large(path: str, size: int, limit: int) -> str:
    """A value has more bytes than an archive takes."""
    return (
        f"{path} has {size / 1e9:.1f} GB, and at most {limit / 1e9:.1f} GB are archived. Keep it "
        "in a file, and read the file in `run`."
    )


def secret_value(path: str, variable: str) -> str:
    """Describe a value of an environment variable that is secret by its name."""
    return (
        f"{path} holds the value of the environment variable {variable}. Read it inside the "
        f"function, when it runs: os.environ[{variable!r}]."
    )


def secret_by_name(path: str) -> str:
    """A value has the name of a secret, or is a URL with one."""
    return (
        f"{path} is a secret, as its name or a URL in it says, and everybody who reads the archive "
        "would read it. Put it into an environment variable, and read that inside the function, "
        "when it runs. If it is none, give it another name."
    )


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


# Objects that are more than their attributes, taken apart and put together as Python does it.
#
# `__reduce_ex__(2)` says what an object is made of: what makes it, its state, its items. Only
# code of installed packages is asked for that; nothing of the user's is called.


# What Python may ask of an object that it takes apart.
_ASKED = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__iter__",
    "items",
    "__class__",
)
# They stand for something that is elsewhere, and know passwords.
_REFUSED = (optuna.Study, optuna.Trial, optuna.storages.BaseStorage)


@dataclass(frozen=True)
class Parts:
    """The parts from which an object can be made again.

    Attributes:
        is_new: whether it is made by `make.__new__(make, ...)`, and not by calling `make`.
        make: a class, or an installed function.
        arguments: for that.
        keywords: for that.
        rest: `state`, `items` and `pairs`, as far as there are any.
    """

    is_new: bool
    make: Any
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    rest: Mapping[str, Any] = field(default_factory=dict)


def take_apart(value: Any) -> Parts | None:
    """Take an object apart; `None` where Python cannot, or would have to ask code of the user's.

    Example:
        >>> from prefect_optuna.tasks.archive.code.inspection import put_together, take_apart
        >>> class Words(dict):
        ...     pass
        >>> parts = take_apart(Words(a=1))
        >>> parts.rest
        {'pairs': [['a', 1]]}
    """
    if isinstance(value, _REFUSED) or not _is_asked_in_installed_code(type(value)):
        return None
    try:
        reduced: Any = value.__reduce_ex__(2)
        if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 5:
            return None
        padded: Any = (*reduced, None, None, None)
        make, arguments, state, items, pairs = padded[:5]
        rest: dict[str, Any] = {}
        if state is not None:
            rest["state"] = state
        if items is not None and (listed := list(items)):
            rest["items"] = listed
        if pairs is not None and (listed := [[key, item] for key, item in pairs]):
            rest["pairs"] = listed
    except Exception:  # noqa: BLE001 - objects may raise anything there
        return None
    newobj: Any = copyreg.__newobj__  # pyright: ignore[reportAttributeAccessIssue]
    newobj_ex: Any = copyreg.__newobj_ex__  # pyright: ignore[reportAttributeAccessIssue]
    if make is newobj:
        return Parts(True, arguments[0], tuple(arguments[1:]), {}, rest)
    if make is newobj_ex:
        return Parts(True, arguments[0], tuple(arguments[1]), dict(arguments[2]), rest)
    if not isinstance(make, type) and (import_path(make) is None or _is_builtin(make)):
        return None  # `iter` and `getattr` make what belongs to something else
    return Parts(False, make, tuple(arguments), {}, rest)


def put_together(parts: Parts) -> Any:
    """Make an object of its parts; `fill_in` gives it the rest of them, which may refer to it."""
    make = parts.make
    if parts.is_new:
        return make.__new__(make, *parts.arguments, **parts.keywords)
    return make(*parts.arguments, **parts.keywords)


def fill_in(value: Any, rest: Mapping[str, Any]) -> None:
    """Give an object its items, pairs and state."""
    # By its type: what an object says of itself is no part of the archive.
    kind: Any = type(value)
    for item in rest.get("items", ()):
        kind.append(value, item)
    for key, item in rest.get("pairs", ()):
        kind.__setitem__(value, key, item)
    if "state" in rest:
        _set_state(value, kind, rest["state"])


def _set_state(value: Any, kind: Any, state: Any) -> None:
    if (set_state := getattr(kind, "__setstate__", None)) is not None:
        set_state(value, state)
        return
    # Those of slots come beside the others.
    for attributes in state if isinstance(state, tuple) else (state,):
        for name, attribute in (attributes or {}).items():
            object.__setattr__(value, name, attribute)


def installed_name(value: Any) -> str | None:
    """Return the name of an object that an installed module keeps: NumPy's own generator.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.tasks.archive.code.inspection import installed_name
        >>> installed_name(np.random.mtrand._rand)
        'numpy.random.mtrand:_rand'
    """
    parts = str(type(value).__module__).split(".")
    for end in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:end]))
        if module is None or not is_installed(vars(module)):
            continue
        for name, held in list(vars(module).items()):
            if held is value:
                return f"{module.__name__}:{name}"
    return None


def _is_asked_in_installed_code(kind: type) -> bool:
    for name in _ASKED:
        owner = next((base for base in kind.__mro__ if name in vars(base)), None)
        if owner is None:
            continue
        module = sys.modules.get(owner.__module__)
        # A dataclass has its methods from Python.
        made_by = getattr(vars(owner)[name], "__module__", None)
        if made_by != "dataclasses" and (module is None or not is_installed(vars(module))):
            return False
    return True


def _is_builtin(function: Any) -> bool:
    return getattr(function, "__module__", None) in (None, "builtins")
