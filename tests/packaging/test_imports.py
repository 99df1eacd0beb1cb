"""The public names, and what importing them costs."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import prefect_optuna

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
def test_a_floor_exports_what_it_imports_and_nothing_else(name: str) -> None:
    floor = importlib.import_module(name)
    for public_name in floor.__all__:
        getattr(floor, public_name)  # one floor imports its names when they are asked for
    public = {
        name
        for name, value in vars(floor).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
    }
    assert sorted(floor.__all__) == sorted(public)
    # Importing a module would put it in the place of what has its name.
    assert not {module.name for module in pkgutil.iter_modules(floor.__path__)} & {*floor.__all__}
    assert floor.__doc__


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

    rooms = ["tasks.scope", "tasks.persistence", "blocks.artifacts"]
    public = {
        name: value
        for floor in map(
            importlib.import_module, [*FLOORS, *(f"prefect_optuna.{room}" for room in rooms)]
        )
        for name in floor.__all__
        if isinstance(value := getattr(floor, name), type) and issubclass(value, Exception)
    }
    assert public == {name: getattr(errors, name) for name in errors.__all__}


def test_importing_the_package_alone_imports_neither_prefect_nor_optuna() -> None:
    loaded = modules_after("import prefect_optuna")
    assert "prefect_optuna" in loaded
    assert not loaded & {"prefect", "optuna", "numpy", *FLOORS}


@pytest.mark.parametrize(
    "statement",
    [
        "from prefect_optuna.tasks import ArchivedStudy, Problem, param_scope, persistence_class",
        "from prefect_optuna.flows import distribute, optimize, reevaluate",
    ],
)
def test_a_floor_imports_nothing_heavy_beyond_prefect_and_optuna(statement: str) -> None:
    anyway = modules_after("import prefect, prefect.blocks.abstract, optuna")
    assert not (modules_after(statement) - anyway) & HEAVY
