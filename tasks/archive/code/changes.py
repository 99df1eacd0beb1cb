"""Changes that a script has made around its code: attributes of modules, library settings.

`np.float = float`, `sklearn.set_config(transform_output="pandas")` and `decimal.getcontext().prec
= 50` stand at the top of a script, in no function that a problem reaches, and its results depend
on them. They are read where they have taken effect, and written down as what sets them again.
"""

from __future__ import annotations

import ast
import decimal
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from prefect_optuna.blocks._secrets import secret_paths
from prefect_optuna.tasks.archive.code.sources import SourceFile

_NO_MATTER = {"sys", "builtins", "optuna", "prefect", "prefect_optuna"}
_ARGUMENTS = re.compile(r"\bargv\b|\bparse_(?:known_)?args\(")
_ERRORS = re.compile(r"\b(?:simplefilter|filterwarnings)\(\s*['\"]error['\"]")


@dataclass(frozen=True)
class Change:
    """Something that is to be as it is here.

    Attributes:
        module: whose it is; where code does not use it, it is of no matter.
        path: what it is an attribute of, such as `"numpy:"`, or the function that sets it.
        name: of the attribute; empty where `path` is a function.
        value: of the attribute, or the arguments of the function.
        keywords: for the function.
    """

    module: str
    path: str
    name: str
    value: Any
    keywords: Mapping[str, Any] | None = None


def patches(files: Iterable[SourceFile], module_globals: Mapping[str, Any]) -> Iterator[Change]:
    """Attributes of imported modules, and of what lies in them, that a module has assigned."""
    for file in files:
        for target in _targets(file.tree):
            chain = _chain(target)
            root = module_globals.get(chain[0]) if chain else None
            if not isinstance(root, ModuleType) or root.__name__ in _NO_MATTER:
                continue
            owner: Any = root
            for part in chain[1:-1]:
                owner = getattr(owner, part, None)
            if owner is None or not hasattr(owner, chain[-1]):
                continue
            if isinstance(owner, ModuleType):
                path = owner.__name__
            else:
                path = f"{root.__name__}:{'.'.join(chain[1:-1])}"
            yield Change(root.__name__, path, chain[-1], getattr(owner, chain[-1]))


def settings(files: Iterable[SourceFile], code: Iterable[str]) -> Iterator[Change]:
    """Settings of the process that are not what they are in a new one, and that code may read."""
    listed = list(files)
    for read in (_decimal, _numpy, _recursion, _sklearn, _pandas, _torch):
        yield from read()
    if any(_ERRORS.search(file.text) for file in listed):
        yield from _warnings()
    if any(_ARGUMENTS.search(text) for text in code) and not any(
        secret_paths(_options(sys.argv), "sys.argv")
    ):
        yield Change("sys", "sys", "argv", list(sys.argv))
    if names := {name for file in listed for name in _variables(file.tree)}:
        held = {name: os.environ[name] for name in sorted(names) if name in os.environ}
        yield Change("os", "os:environ.update", "", [held])


def _options(arguments: list[str]) -> dict[str, str]:
    """Return the options of a command line with their values, `--token=x` and `--token x`."""
    options: dict[str, str] = {}
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument.startswith("-"):
            name, given, value = argument.lstrip("-").partition("=")
            options[name] = value if given else following
    return options


def _targets(tree: ast.Module) -> Iterator[ast.Attribute]:
    """Yield the attributes assigned when a module is loaded, outside its functions and classes."""
    for node in _at_once(tree.body):
        targets = node.targets if isinstance(node, ast.Assign) else []
        yield from (target for target in targets if isinstance(target, ast.Attribute))


def _at_once(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield node
            yield from _at_once(ast.iter_child_nodes(node))


def _chain(node: ast.expr) -> list[str]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


def _variables(tree: ast.Module) -> Iterator[str]:
    """The names of environment variables that a module sets itself."""
    for node in ast.walk(tree):
        key: Any = None
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            key = node.slice if _chain(node.value)[-1:] == ["environ"] else None
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            chain = _chain(node.func)
            is_set = chain[-2:] == ["environ", "setdefault"] or chain == ["os", "putenv"]
            key = node.args[0] if is_set else None
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value


# -- settings of libraries ------------------------------------------------------------------------


def _decimal() -> Iterator[Change]:
    here, new = decimal.getcontext(), decimal.DefaultContext
    for name in ("prec", "rounding", "Emin", "Emax"):
        if getattr(here, name) != getattr(new, name):
            yield Change("decimal", "decimal:getcontext()", name, getattr(here, name))


def _numpy() -> Iterator[Change]:
    new = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
    here = dict(np.geterr())
    if here != new and "call" not in here.values():
        yield Change("numpy", "numpy:seterr", "", [], here)


def _recursion() -> Iterator[Change]:
    if sys.getrecursionlimit() > 3000:  # which is IPython's; a deeper one was chosen
        yield Change("sys", "sys:setrecursionlimit", "", [sys.getrecursionlimit()])


def _sklearn() -> Iterator[Change]:
    module: Any = sys.modules.get("sklearn._config")
    new = getattr(module, "_global_config", None)
    if isinstance(new, dict):
        here = module.get_config()
        if changed := {name: here[name] for name in here if here[name] != new.get(name)}:
            yield Change("sklearn", "sklearn:set_config", "", [], changed)


def _pandas() -> Iterator[Change]:
    module: Any = sys.modules.get("pandas._config.config")
    held = getattr(module, "_global_config", {})
    for name, option in getattr(module, "_registered_options", {}).items():
        group, _, key = name.partition(".")
        if group in ("mode", "future", "compute") and key in held.get(group, {}):
            here = held[group][key]  # `get_option` warns of those that are deprecated
            if here is not option.defval and here != option.defval:
                yield Change("pandas", "pandas:set_option", "", [name, here])


def _torch() -> Iterator[Change]:
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "get_default_dtype"):
        return
    if torch.get_default_dtype() is not torch.float32:
        name = str(torch.get_default_dtype())  # torch.float64
        yield Change("torch", "torch:set_default_dtype", "", [_Named(name.replace(".", ":"))])
    for read, function, new in (
        ("are_deterministic_algorithms_enabled", "use_deterministic_algorithms", False),
        ("get_float32_matmul_precision", "set_float32_matmul_precision", "highest"),
        ("is_grad_enabled", "set_grad_enabled", True),
    ):
        if (here := getattr(torch, read)()) != new:
            yield Change("torch", f"torch:{function}", "", [here])


def _warnings() -> Iterator[Change]:
    """The filters of warnings, one by one, where code makes errors of some."""
    for action, message, kind, module, line in reversed(warnings.filters):
        pattern, of = (getattr(regex, "pattern", regex) or "" for regex in (message, module))
        yield Change("warnings", "warnings:filterwarnings", "", [action, pattern, kind, of, line])


@dataclass(frozen=True)
class _Named:
    """An argument that is imported by its name."""

    path: str


def encoded(change: Change, value: Callable[[Any, str], Any]) -> Any:
    """A change as tagged JSON that restoring carries out; `value` writes down what it takes."""
    module, _, name = change.path.partition(":")
    where = change.path.replace(":", ".")
    if change.name:
        path = change.path.removesuffix("()")
        owner: Any = {"$import": path if name else module}
        owner = {"$make": [owner, []]} if name.endswith("()") else owner
        return {"$with": [owner, {change.name: value(change.value, f"{where}.{change.name}")}]}
    arguments = [
        {"$import": item.path} if isinstance(item, _Named) else value(item, where)
        for item in change.value
    ]
    function: Any = {"$import": change.path}
    if name.count("."):  # a method of what is imported: os.environ.update
        held, _, method = change.path.rpartition(".")
        function = {"$method": [{"$import": held}, method]}
    if change.keywords:
        keywords = {key: value(item, where) for key, item in change.keywords.items()}
        function = {"$partial": [function, [], keywords]}
    return {"$make": [function, arguments]}
