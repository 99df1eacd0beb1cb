"""The source of running code: found, and proven to be the source of what runs."""

from __future__ import annotations
import __future__

import ast
import contextlib
import linecache
import sys
import textwrap
import threading
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import CodeType
from typing import Any

FUTURE_ANNOTATIONS = __future__.annotations.compiler_flag

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
DefinitionNode = FunctionNode | ast.ClassDef

# What makes two functions behave alike, apart from their bytecode and constants.
_COMPARED = (
    "co_name",
    "co_argcount",
    "co_posonlyargcount",
    "co_kwonlyargcount",
    "co_names",
    "co_varnames",
    "co_freevars",
    "co_cellvars",
)


@dataclass(frozen=True)
class Definition:
    """A function, lambda or class in a source file, and the names it is nested in."""

    node: DefinitionNode
    qualname: str


@dataclass(frozen=True)
class SourceText:
    """A piece of source, and the line of its file that its first line is."""

    text: str
    line: int


_parsing = threading.Lock()


def parse(source: str) -> ast.Module:
    """Parse source, one thread at a time: Python 3.11 raises `SystemError` otherwise."""
    with _parsing:
        return ast.parse(source)


def _read(filename: str, module_globals: dict[str, Any]) -> str:
    """The text of a file as it is now; of a notebook cell or a module in an archive, too."""
    # Past linecache, which may have an older text, and is not made for threads.
    with (
        contextlib.suppress(OSError, SyntaxError, UnicodeDecodeError),
        tokenize.open(filename) as file,
    ):
        return file.read()
    return "".join(linecache.getlines(filename, module_globals)) or _command(filename)


def _command(filename: str) -> str:
    """The program of `python -c`, which linecache knows since Python 3.13 only."""
    arguments = sys.orig_argv
    if filename != "<string>" or "-c" not in arguments[1:-1]:
        return ""
    return arguments[arguments.index("-c") + 1]


def first_line(node: DefinitionNode | ast.stmt) -> int:
    """The line a statement starts on, decorators included; that is where its code starts."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


class SourceFile:
    """The text of one file as it is now, and what it defines."""

    def __init__(self, filename: str, module_globals: dict[str, Any]) -> None:
        self.filename = filename
        self.text: str = _read(filename, module_globals)

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree; empty if the text is no longer Python."""
        try:
            return parse(self.text)
        except SyntaxError:
            return ast.Module([], [])

    @cached_property
    def definitions(self) -> dict[str, list[Definition]]:
        """Everything that is defined at any depth, by its last name."""
        by_name: dict[str, list[Definition]] = {}
        for definition in _definitions(self.tree, ""):
            by_name.setdefault(definition.qualname.rpartition(".")[2], []).append(definition)
        return by_name

    @cached_property
    def futures(self) -> list[str]:
        """The `from __future__` imports."""
        return sorted(
            alias.name
            for node in self.tree.body
            if isinstance(node, ast.ImportFrom) and node.module == "__future__"
            for alias in node.names
        )

    @cached_property
    def imported(self) -> frozenset[str]:
        """The names that are imported at the top of the module."""
        return frozenset(
            (alias.asname or alias.name).partition(".")[0]
            for statement in _statements(self.tree.body)
            if isinstance(statement, (ast.Import, ast.ImportFrom))
            for alias in statement.names
            if alias.name != "*"
        )

    @cached_property
    def top_level(self) -> dict[str, list[ast.stmt]]:
        """The statements that bind each global name, in order."""
        statements: dict[str, list[ast.stmt]] = {}
        for statement in _statements(self.tree.body):
            for name in _bound(statement):
                statements.setdefault(name, []).append(statement)
        return statements

    def candidates(self, code: CodeType) -> list[Definition]:
        """The definitions that have the name of the code; those on its line come first."""
        same_name = self.definitions.get(code.co_name, [])
        return sorted(same_name, key=lambda d: abs(first_line(d.node) - code.co_firstlineno))

    def function_text(self, node: FunctionNode) -> SourceText:
        """The source of a function without its decorators, or of a lambda."""
        if isinstance(node, ast.Lambda):
            text = ast.get_source_segment(self.text, node) or ""
            return SourceText(text if "\n" not in text else f"({text})", node.lineno)
        return self._lines(node, node.lineno)

    def statement_text(self, node: ast.stmt) -> SourceText:
        """The source of a statement, decorators included."""
        return self._lines(node, first_line(node))

    @cached_property
    def _all_lines(self) -> list[str]:
        return self.text.splitlines(keepends=True)

    def _lines(self, node: ast.stmt, first: int) -> SourceText:
        text = "".join(self._all_lines[first - 1 : node.end_lineno]).rstrip("\n")
        follows = node.col_offset > 0 and not text[: len(text) - len(text.lstrip())]
        if follows or self._is_followed(node):
            return SourceText(ast.get_source_segment(self.text, node) or "", first)
        if node.col_offset == 0:
            return SourceText(text, first)
        indented = f"if True:\n{text}"
        dedented = textwrap.dedent(text)
        if _same_syntax(dedented, indented):
            return SourceText(dedented, first)
        # Dedenting would change a string that spans lines.
        return SourceText(indented, first - 1)

    def _is_followed(self, node: ast.AST) -> bool:
        """Tell whether another statement comes after a semicolon, on the same line."""
        last: Any = node
        line = self._all_lines[last.end_lineno - 1].encode()
        return line[last.end_col_offset :].lstrip().startswith(b";")


def compile_function(
    source: str,
    qualname: str,
    free: Sequence[str],
    filename: str,
    *,
    futures: Sequence[str] = (),
    imported: Iterable[str] = (),
    line: int = 1,
) -> CodeType:
    """Compile a function to the code object it had where it was written, running nothing.

    The names it was nested in are put around it, because they decide which variables are free,
    what `super()` and private names mean, and what inner functions are called.
    """
    target = _single(parse("\n" * (line - 1) + source))
    node: Any = target.value if isinstance(target, ast.Expr) else target
    if not isinstance(node, FunctionNode):
        raise SyntaxError(f"{qualname}: expected the source of one function")
    # Defaults and annotations belong to the function object, and are restored as values.
    node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
    node.args.kw_defaults = [d and ast.Constant(None) for d in node.args.kw_defaults]
    for argument in ast.walk(node.args):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if not isinstance(node, ast.Lambda):
        node.decorator_list = []
        node.returns = None
        node.type_params = []  # pyright: ignore[reportAttributeAccessIssue]

    statement = target
    unbound = [name for name in free if name != "__class__"]
    for name, is_function in reversed(_scopes(qualname)):
        if is_function:
            statement = _function(name, unbound, statement)
            unbound = []
        else:
            statement = _class(name, statement)
    if unbound:
        statement = _function("_", unbound, statement)
    tree = _with_imports(ast.Module([statement], []), imported)
    code: CodeType = compile(tree, filename, "exec", flags=_flags(futures), dont_inherit=True)
    code = next(inner_codes(code))
    while statement is not target:
        code = next(inner_codes(code))
        statement = statement.body[0]  # pyright: ignore[reportAttributeAccessIssue]
    # A comprehension, which is no scope one could write, has left its name out.
    return code.replace(co_qualname=qualname)


def compile_statement(
    source: str,
    filename: str,
    *,
    futures: Sequence[str] = (),
    imported: Iterable[str] = (),
    line: int = 1,
) -> CodeType:
    """Compile a statement as the top level of its module had it; see `compile_function`."""
    tree = _with_imports(parse("\n" * (line - 1) + source), imported)
    return compile(tree, filename, "exec", flags=_flags(futures), dont_inherit=True)


def _with_imports(tree: ast.Module, names: Iterable[str]) -> ast.Module:
    """Tell the compiler which names are imported, in a branch that is never executed."""
    aliases = [ast.alias(name) for name in sorted(names)]
    never: list[ast.stmt] = (
        [ast.If(ast.Constant(False), [ast.Import(aliases)], [])] if aliases else []
    )
    return ast.fix_missing_locations(ast.Module([*never, *tree.body], tree.type_ignores))


def _flags(futures: Sequence[str]) -> int:
    flags = 0
    for name in futures:
        flags |= getattr(__future__, name).compiler_flag
    return flags


def inner_codes(code: CodeType) -> Iterator[CodeType]:
    """The code objects directly inside another one."""
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def same_code(one: CodeType, other: CodeType) -> bool:
    """Tell whether two code objects do the same, wherever they were written."""
    if "@py_builtins" in (*one.co_names, *other.co_names):
        # Pytest rewrites the assertions of a test module: there is nothing to compare.
        return one.co_name == other.co_name
    if any(getattr(one, name) != getattr(other, name) for name in _COMPARED):
        return False
    if one.co_code != other.co_code or len(one.co_consts) != len(other.co_consts):
        return False
    return all(map(_same_constant, one.co_consts, other.co_consts))


def _same_constant(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, CodeType):
        return same_code(one, other)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same_constant, one, other))
    if isinstance(one, frozenset):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    return repr(one) == repr(other)  # tells 0.0 from -0.0, and takes NaN for NaN


def _definitions(node: ast.AST, prefix: str) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        inner = prefix
        if isinstance(child, DefinitionNode):
            name = "<lambda>" if isinstance(child, ast.Lambda) else child.name
            yield Definition(child, prefix + name)
            inner += f"{name}." if isinstance(child, ast.ClassDef) else f"{name}.<locals>."
        yield from _definitions(child, inner)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under `if`, `try`, `with` and loops included."""
    for statement in body:
        yield statement
        for block in ("body", "orelse", "finalbody"):
            if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from _statements(getattr(statement, block, []))
        for handler in getattr(statement, "handlers", []):
            yield from _statements(handler.body)


def _bound(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [statement.name]
        case ast.Import() | ast.ImportFrom():
            return [alias.asname or alias.name for alias in statement.names]
        case ast.Assign(targets=[ast.Name(id=name)]):
            return [name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


def _single(tree: ast.Module) -> ast.stmt:
    statements = tree.body
    if len(statements) == 1 and isinstance(statements[0], ast.If):
        statements = statements[0].body
    if len(statements) != 1:
        raise SyntaxError("expected the source of one function")
    return statements[0]


def _same_syntax(one: str, other: str) -> bool:
    try:
        return ast.dump(_single(parse(one))) == ast.dump(_single(parse(other)))
    except SyntaxError:
        return False


def _scopes(qualname: str) -> list[tuple[str, bool]]:
    """The names around the last one, and whether each is a function (else it is a class)."""
    scopes: list[tuple[str, bool]] = []
    for part in qualname.split(".")[:-1]:
        if part == "<locals>":
            scopes[-1] = (scopes[-1][0], True)
        else:
            scopes.append((part, False))
    return scopes


def _function(name: str, arguments: Sequence[str], body: ast.stmt) -> ast.stmt:
    node: Any = parse("def _(): pass").body[0]
    node.name = name
    node.args.args = [ast.arg(argument) for argument in arguments]
    node.body = [body]
    return node


def _class(name: str, body: ast.stmt) -> ast.stmt:
    node: Any = parse("class _: pass").body[0]
    node.name = name
    node.body = [body]
    return node
