"""The public names, and what importing them costs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prefect_optuna

ROOT = Path(__file__).resolve().parents[2]
FLOORS = [f"prefect_optuna.{floor}" for floor in ("blocks", "tasks", "flows", "deployments")]
HEAVY = {"pandas", "matplotlib", "plotly", "sqlalchemy", "scipy", "sklearn", "pyarrow", "redis"}


def modules_after(statement: str) -> set[str]:
    """Names of the modules that a new interpreter has loaded after a statement."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(output.stdout.split())


@pytest.mark.parametrize("name", FLOORS)
def test_a_floor_has_the_names_that_it_promises(name: str) -> None:
    floor = importlib.import_module(name)
    for public_name in floor.__all__:
        getattr(floor, public_name)  # they are imported when they are asked for
    assert {*floor.__all__} <= {*dir(floor)}
    # Importing a module would put it in the place of what has its name.
    assert not {module.name for module in pkgutil.iter_modules(floor.__path__)} & {*floor.__all__}
    assert floor.__doc__


@pytest.mark.parametrize("floor", ["blocks", "tasks", "flows", "deployments"])
def test_what_is_public_is_in_the_readme_of_its_floor(floor: str) -> None:
    readme = (ROOT / floor / "README.md").read_text(encoding="utf-8")
    names = importlib.import_module(f"prefect_optuna.{floor}").__all__
    assert [name for name in names if not re.search(rf"\b{name}\b", readme)] == []


@pytest.mark.parametrize("floor", ["blocks", "tasks", "flows", "deployments"])
def test_the_readme_of_a_floor_names_the_files_that_are_there(floor: str) -> None:
    readme = (ROOT / floor / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in readme.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+\.py)`", row)}
    assert [name for name in sorted(named) if not (ROOT / floor / name).is_file()] == []
    assert len(named) > 5


def test_the_main_names_are_at_the_top_of_the_package() -> None:
    from prefect_optuna import blocks, flows, tasks

    assert prefect_optuna.optimize is flows.optimize
    assert prefect_optuna.ArchivedStudy is tasks.ArchivedStudy
    assert prefect_optuna.PrefectOptunaError is blocks.PrefectOptunaError
    for name in prefect_optuna.__all__:
        assert getattr(prefect_optuna, name) is not None
    assert set(prefect_optuna.__all__) <= set(dir(prefect_optuna))
    with pytest.raises(AttributeError, match="has no attribute 'optimise'"):
        getattr(prefect_optuna, "optimise")  # noqa: B009


def test_every_public_error_is_in_one_place() -> None:
    from prefect_optuna import errors

    tree = ast.parse((ROOT / "errors.py").read_text(encoding="utf-8"))
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert sorted(errors.__all__) == sorted(defined)
    elsewhere = {
        node.name: f"prefect_optuna.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}"
        for floor in FLOORS
        for path in (ROOT / floor.rpartition(".")[2]).rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    }
    for name, module in elsewhere.items():
        if re.search(r"(Error|Warning|Stopped)$", name):
            kind = getattr(importlib.import_module(module), name)
            assert not issubclass(kind, (errors.PrefectOptunaError, Warning)), kind
    rooms = [*FLOORS, "prefect_optuna.tasks.persistence", "prefect_optuna.tasks.scope"]
    for room in map(importlib.import_module, rooms):
        named = [name for name in room.__all__ if name.endswith(("Error", "Warning"))]
        assert {*named} <= {*errors.__all__}


def test_importing_the_package_alone_imports_neither_prefect_nor_optuna() -> None:
    loaded = modules_after("import prefect_optuna")
    assert "prefect_optuna" in loaded
    assert not loaded & {"prefect", "optuna", "numpy", *FLOORS}


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(  # flows import the other floors, too
            "from prefect_optuna.flows import distribute, optimize, reevaluate",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "from prefect_optuna.tasks import ArchivedStudy, Problem, param_scope, "
            "persistence_class",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_floor_imports_nothing_heavy_beyond_prefect_and_optuna(statement: str) -> None:
    anyway = modules_after("import prefect, prefect.blocks.abstract, optuna")
    assert not (modules_after(statement) - anyway) & HEAVY
