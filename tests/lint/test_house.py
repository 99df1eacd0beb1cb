"""The check of the house finds circles, also those that are there for types only."""

from pathlib import Path

import pytest
from lint.house import circles, imported, modules


@pytest.mark.parametrize(
    "back",
    [
        "import prefect_optuna.tasks.one",
        "def lazy():\n    from prefect_optuna.tasks import one",
        "if TYPE_CHECKING:\n    from prefect_optuna.tasks.one import One",
    ],
)
def test_a_circle_is_found_wherever_it_closes(tmp_path: Path, back: str) -> None:
    room = tmp_path / "tasks"
    room.mkdir()
    (room / "__init__.py").write_text("")
    (room / "one.py").write_text("from prefect_optuna.tasks.two import Two")
    (room / "two.py").write_text(back)
    (room / "three.py").write_text("import prefect_optuna.tasks.one, json")
    known = modules(tmp_path)
    found = circles({name: {*imported(tree, known)} - {name} for name, tree in known.items()})
    assert found == [["prefect_optuna.tasks.one", "prefect_optuna.tasks.two"]]


def test_a_line_is_no_circle(tmp_path: Path) -> None:
    room = tmp_path / "blocks"
    room.mkdir()
    (room / "one.py").write_text("from prefect_optuna.blocks.two import Two")
    (room / "two.py").write_text("import prefect_optuna.blocks.three")
    (room / "three.py").write_text("import os")
    known = modules(tmp_path)
    assert circles({name: {*imported(tree, known)} for name, tree in known.items()}) == []
