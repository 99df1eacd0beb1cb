"""The source of live functions and classes, refused unless it is what runs."""

from __future__ import annotations

import ast
import decimal
import linecache
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from prefect_optuna.blocks._secrets import secret_paths
from prefect_optuna.tasks.archive.code.inspection import (
    ARCHIVED_FILE,
    RefusedError,
    attribute_names,
    described,
    functions_in,
    functions_of_class,
    titled,
)
from prefect_optuna.tasks.archive.code.sources import (
    FUTURE_ANNOTATIONS,
    SourceFile,
    compile_function,
    compile_statement,
    inner_codes,
    same_code,
)

# Changes that a script has made around its code: attributes of modules, library settings.
#
# `np.float = float`, `sklearn.set_config(transform_output="pandas")` and
# `decimal.getcontext().prec = 50` stand at the top of a script, in no function that a problem
# reaches, and its results depend on them. They are read where they have taken effect, and written
# down as what sets them again.


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


# Variables of a class body that nobody has written: of `super()`, and of annotations, which
# Python 3.14 evaluates on first look.
_OF_THE_COMPILER = ("__class__", "__classdict__")
_START_AGAIN = (
    "The file was edited after it was loaded: start Python again (in a notebook, run the cell "
    "again), so that what is archived is what runs."
)


@dataclass(frozen=True)
class FunctionSource:
    """The source of a function, without decorators, and the code it compiles to."""

    text: str
    qualname: str
    futures: tuple[str, ...]
    code: CodeType


@dataclass(frozen=True)
class StatementSource:
    """The source of a statement: a class, a decorated function, or an assignment."""

    text: str
    futures: tuple[str, ...]
    code: CodeType


class VerifiedSources:
    """Finds sources in files, and reads each file once."""

    def __init__(self) -> None:
        self._files: dict[str, SourceFile] = {}

    def function(self, function: FunctionType) -> FunctionSource:
        """Find the source of a function or lambda.

        Of several lambdas on a line it is the one with the bytecode that runs; where two have
        the same bytecode, they do the same.
        """
        code = function.__code__
        file = self._file(code.co_filename, function.__globals__)
        where = f"{titled(function)} ({code.co_filename}:{code.co_firstlineno})"
        no_source = RefusedError(
            f"{where} has no source: it was made by exec, typed at a prompt, or its file is "
            "gone. Write it in a file or in a notebook cell, as a function with def."
        )
        if not file.text:
            raise no_source
        futures = ("annotations",) if code.co_flags & FUTURE_ANNOTATIONS else ()
        qualname = code.co_qualname  # functools.wraps gives the function another name
        for candidate in file.candidates(code):
            node: Any = candidate.node
            source = file.function_text(node)
            try:
                compiled = compile_function(
                    source.text,
                    qualname,
                    code.co_freevars,
                    file.filename,
                    futures=futures,
                    imported=file.imported,
                    line=source.line,
                )
            except SyntaxError:
                continue
            if same_code(compiled, code):
                return FunctionSource(source.text, qualname, futures, compiled)
        if code.co_filename == "<string>":  # whatever was given to exec last has this name
            raise no_source
        raise RefusedError(f"{where}: its source does not match the running code. {_START_AGAIN}")

    def class_statement(self, cls: type, module_globals: dict[str, Any]) -> StatementSource | None:
        """Find the statement of a class; `None` if no class statement has made it.

        One of its name may have made a class that derives from it, as `class Point(_Point)` does
        after `_Point = namedtuple("Point", "x")`.
        """
        for file in self._files_of_class(cls, module_globals):
            for definition in reversed(file.definitions.get(cls.__name__, [])):
                node = definition.node
                if not isinstance(node, ast.ClassDef) or definition.qualname != cls.__qualname__:
                    continue
                if all(cls is not module_globals.get(name) for name in _names(node.bases)):
                    self._verify_class(cls, node, file)
                    return _statement(node, file)
        return None

    def decorated_function(
        self, value: Any, name: str, module_globals: dict[str, Any]
    ) -> StatementSource | None:
        """Find the decorated `def` that has made a global; `None` if it was made otherwise.

        A decorator that returned the function itself is no matter: that is a function.
        """
        wrapped = list(functions_in(value))
        files = [self._file(f.__code__.co_filename, f.__globals__) for f in wrapped]
        for file in [*files, *self.files(module_globals)]:
            node = file.top_level.get(name, [None])[-1]
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            if not node.decorator_list:
                continue
            inner = [function for function in wrapped if function.__code__.co_name == name]
            if any(function is value for function in inner):
                return None
            compiled = list(inner_codes(_as_it_was(node, file)))
            if any(same_code(f.__code__, code) for f in inner for code in compiled):
                return _statement(node, file)
            reason = (
                f"its source does not match the running code. {_START_AGAIN}"
                if inner
                else f"a decorator has made {described(value)} of it, which hides the function. "
                "Let the decorator keep it in `__wrapped__`, as functools.wraps does."
            )
            raise RefusedError(f"the function {name} ({file.filename}:{node.lineno}): {reason}")
        return None

    def assignment(self, name: str, module_globals: dict[str, Any]) -> StatementSource | None:
        """Find the only statement that binds a global, if it is an assignment."""
        for file in self.files(module_globals):
            statements = file.top_level.get(name, [])
            if len(statements) == 1 and isinstance(statements[0], (ast.Assign, ast.AnnAssign)):
                return _statement(statements[0], file)
        return None

    def imports(
        self, name: str, module_globals: dict[str, Any]
    ) -> Iterator[tuple[ast.ImportFrom, str]]:
        """The `from ... import` statements that bind a global, each with the name over there."""
        for file in self.files(module_globals):
            for statement in file.top_level.get(name, []):
                if isinstance(statement, ast.ImportFrom):
                    for alias in statement.names:
                        if (alias.asname or alias.name) == name:
                            yield statement, alias.name

    def files(self, module_globals: dict[str, Any]) -> Iterator[SourceFile]:
        """The file of a module; of a notebook, its cells, the newest first."""
        if file := module_globals.get(ARCHIVED_FILE) or module_globals.get("__file__"):
            yield self._file(file, module_globals)
        elif module_globals.get("__name__") == "__main__":
            for filename in reversed(list(linecache.cache)):
                if "ipython" in filename or "ipykernel" in filename:
                    yield self._file(filename, module_globals)

    def _file(self, filename: str, module_globals: dict[str, Any]) -> SourceFile:
        own = module_globals.get(ARCHIVED_FILE) or module_globals.get("__file__")
        if own and not filename.startswith("<") and not Path(filename).exists():
            filename = own  # a relative path, and the current directory has changed since
        if filename not in self._files:
            self._files[filename] = SourceFile(filename, module_globals)
        return self._files[filename]

    def _files_of_class(self, cls: type, module_globals: dict[str, Any]) -> Iterator[SourceFile]:
        for function in functions_of_class(cls):
            if function.__globals__ is module_globals:
                yield self._file(function.__code__.co_filename, module_globals)
        yield from self.files(module_globals)

    def _verify_class(self, cls: type, node: ast.ClassDef, file: SourceFile) -> None:
        where = f"the class {cls.__qualname__} ({file.filename}:{node.lineno})"
        compiled = list(_all_codes(_as_it_was(node, file)))
        for function in functions_of_class(cls):
            code = function.__code__
            own = code.co_qualname.startswith(f"{cls.__qualname__}.")
            if code.co_filename != file.filename or not own:
                continue
            free = [name for name in code.co_freevars if name not in _OF_THE_COMPILER]
            if free:
                raise RefusedError(
                    f"{where} is defined inside a function and uses its variable {free[0]!r}. "
                    "Define the class at the top of a module, and pass it what it needs."
                )
            if not any(same_code(code, other) for other in compiled):
                raise RefusedError(
                    f"{where}: the source of {function.__qualname__} does not match the running "
                    f"code. {_START_AGAIN}"
                )
        names = attribute_names(cls)
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name not in names:
                raise RefusedError(
                    f"{where}: its source has a method {item.name!r}, and the running class has "
                    f"not. {_START_AGAIN}"
                )


def _names(nodes: Iterable[ast.expr]) -> list[str]:
    return [node.id for node in nodes if isinstance(node, ast.Name)]


def _statement(node: ast.stmt, file: SourceFile) -> StatementSource:
    text = file.statement_text(node).text
    futures = tuple(name for name in file.futures if name == "annotations")
    return StatementSource(text, futures, compile_statement(text, file.filename, futures=futures))


def _as_it_was(node: ast.stmt, file: SourceFile) -> CodeType:
    """A statement's code as the compiler made it between the others of its module."""
    source = file.statement_text(node)
    return compile_statement(
        source.text,
        file.filename,
        futures=file.futures,
        imported=file.imported,
        line=source.line,
    )


def _all_codes(code: CodeType) -> Iterator[CodeType]:
    for inner in inner_codes(code):
        yield inner
        yield from _all_codes(inner)
