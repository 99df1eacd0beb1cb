"""Names of its module, and attributes of them, that a piece of code refers to.

Read off the bytecode, where the compiler has already decided which names are global.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType

from prefect_optuna.tasks.archive.code.sources import inner_codes, parse

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
