"""The check of the floors finds what it is there to find."""

from pathlib import Path

import pytest
from lint.floors import violations


@pytest.mark.parametrize(
    ("floor", "statement", "complaint"),
    [
        ("blocks", "from prefect_optuna.tasks import Problem", "is a floor above"),
        ("tasks", "import prefect_optuna.flows.optimize_flow", "is a floor above"),
        ("flows", "def lazy():\n    from prefect_optuna import deployments", "is a floor above"),
        ("tasks", "from blocks import StudyStorage", "as it is named when installed"),
        ("flows", "from prefect_optuna import optimize", "not from the package's root"),
    ],
)
def test_an_import_that_leads_upwards_is_found(
    tmp_path: Path, floor: str, statement: str, complaint: str
) -> None:
    (tmp_path / floor / "room").mkdir(parents=True)
    (tmp_path / floor / "room" / "module.py").write_text(statement)
    (found,) = violations(tmp_path)
    assert "module.py:" in found
    assert complaint in found


@pytest.mark.parametrize(
    ("floor", "statement"),
    [
        ("blocks", "from prefect_optuna.errors import PrefectOptunaError"),
        ("deployments", "from prefect_optuna import tasks\nimport prefect_optuna.flows"),
        ("tasks", "from prefect import flows, task\nimport optuna"),
    ],
)
def test_an_import_that_leads_downwards_is_let_alone(
    tmp_path: Path, floor: str, statement: str
) -> None:
    (tmp_path / floor).mkdir()
    (tmp_path / floor / "module.py").write_text(statement)
    assert list(violations(tmp_path)) == []
