"""How large the house is: lines, modules, names, errors, and circles of imports.

    python tests/lint/house.py

`make house` prints the table; `make lint` fails when a figure is above its limit. A limit is what
was last reached, so that it only goes down; the aim is where it should be.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGE = "prefect_optuna"
FLOORS = ["blocks", "tasks", "flows", "deployments"]
ROOT = Path(__file__).resolve().parents[2]
ENTRANCE = f"{PACKAGE}.flows.optimize_flow"


class Figure(NamedTuple):
    """One line of the table."""

    name: str
    value: int
    limit: int
    aim: int


def files(root: Path) -> list[Path]:
    """The files of the package; what makes the documentation is not installed."""
    found = [*root.glob("errors.py")]
    found += [path for floor in FLOORS for path in sorted((root / floor).rglob("*.py"))]
    return [path for path in found if root / "deployments/site" not in path.parents]


def modules(root: Path) -> dict[str, ast.Module]:
    """The syntax of every module of the package, by its name when installed."""
    found: dict[str, ast.Module] = {}
    for path in files(root):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join([PACKAGE, *parts]).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(tree: ast.Module, known: Mapping[str, ast.Module]) -> Iterator[str]:
    """The modules of the package that one imports, wherever in it, for types as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that lead to each other, after Tarjan (1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        path.append(name)
        for other in arrows[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in path:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            place = path.index(name)
            if len(group := path[place:]) > 1:
                found.append(sorted(group))
            del path[place:]

    for name in arrows:
        if name not in order:
            visit(name)
    return found


def reached(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
    """All modules that one leads to, itself among them."""
    found: set[str] = set()
    pending = [start]
    while pending:
        if (name := pending.pop()) not in found:
            found.add(name)
            pending += arrows[name]
    return found


def public_names(tree: ast.Module) -> list[str]:
    """What `__all__` lists."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def errors(known: Mapping[str, ast.Module]) -> set[str]:
    """The classes whose names end in Error."""
    return {
        node.name
        for tree in known.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
    }


def lines(root: Path) -> int:
    """The lines of all modules."""
    return sum(path.read_text(encoding="utf-8").count("\n") for path in files(root))


def figures(root: Path) -> tuple[list[Figure], list[list[str]]]:
    """The table, and the circles by their modules."""
    known = modules(root)
    # The face of a floor names what is in it; who imports a name from there, means that module.
    arrows = {name: {*imported(tree, known)} - {name} for name, tree in known.items()}
    found = circles(arrows)
    names = sum(len(public_names(known[f"{PACKAGE}.{floor}"])) for floor in FLOORS)
    return [
        Figure("product lines", lines(root), 62_241, 36_500),
        Figure("modules", len(known), 135, 135),
        Figure("public names on the floors", names, 91, 110),
        Figure("error classes", len(errors(known)), 55, 55),
        Figure("circles of imports", len(found), 0, 0),
        Figure("modules that optimize reaches", len(reached(ENTRANCE, arrows)), 100, 100),
    ], found


def main() -> int:
    """Print the table; 1 if a figure is above its limit."""
    table, found = figures(ROOT)
    print(f"{'':<32}{'now':>8}{'limit':>8}{'aim':>8}")
    for figure in table:
        mark = "  above its limit" if figure.value > figure.limit else ""
        print(f"{figure.name:<32}{figure.value:>8,}{figure.limit:>8,}{figure.aim:>8,}{mark}")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    limit = settings["tool"]["coverage"]["report"]["fail_under"]
    print(f"{'branch coverage, %':<32}{'':>8}{limit:>8}{'':>8}  measured by `make coverage`")
    for group in found:
        print("circle:", ", ".join(group))
    return int(any(figure.value > figure.limit for figure in table))


if __name__ == "__main__":
    sys.exit(main())
