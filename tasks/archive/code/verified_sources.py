"""The source of live functions and classes, refused unless it is what runs."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from prefect_optuna.tasks.archive.code.inspection import (
    ARCHIVED_FILE,
    attribute_names,
    functions_in,
    functions_of_class,
)
from prefect_optuna.tasks.archive.code.refusals import RefusedError, described, titled
from prefect_optuna.tasks.archive.code.sources import (
    FUTURE_ANNOTATIONS,
    SourceFile,
    compile_function,
    compile_statement,
    inner_codes,
    same_code,
)

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
            free = [name for name in code.co_freevars if name != "__class__"]
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
