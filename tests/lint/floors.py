"""A floor imports only the floors below it, and the package's root imports none.

python tests/lint/floors.py
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "prefect_optuna"
FLOORS = ["blocks", "tasks", "flows", "deployments"]  # from the ground up
BELOW = ["_lazy", "errors"]  # what all of them may use


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from prefect_optuna import tasks` names the floor only after the `import`.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def violations(root: Path) -> Iterator[str]:
    """One line per import that leads upwards, or to a floor by a name it has not when installed."""
    for height, floor in enumerate(FLOORS):
        for path in sorted((root / floor).rglob("*.py")):
            for line, module in imported_modules(ast.parse(path.read_text(), str(path))):
                package, _, rest = module.partition(".")
                target = rest.split(".")[0]
                where = f"{path}:{line}"
                if package in FLOORS:
                    yield f"{where}: import {PACKAGE}.{package}, as it is named when installed"
                elif package == PACKAGE and target in FLOORS[height + 1 :]:
                    yield f"{where}: {floor} may not import {module}, it is a floor above"
                elif package == PACKAGE and target not in {*FLOORS, *BELOW}:
                    yield f"{where}: import {module} from its floor, not from the package's root"


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    found = list(violations(Path(__file__).resolve().parents[2]))
    print("\n".join(found) if found else "floors: imports lead downwards only")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
