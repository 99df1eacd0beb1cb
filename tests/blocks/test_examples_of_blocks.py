"""The examples in the docstrings and in the README of the floor run as they are printed."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

from prefect_optuna import blocks

FOLDER = Path(blocks.__file__).parent
MODULES = sorted(module.name for module in pkgutil.iter_modules([str(FOLDER)]))
WITH_EXAMPLES = {"artifact_filesystem", "locations", "settings", "study_storage"}


@pytest.mark.parametrize("name", MODULES)
def test_the_docstrings_of(name: str) -> None:
    module = importlib.import_module(f"prefect_optuna.blocks.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0
    assert (result.attempted > 0) == (name in WITH_EXAMPLES)


def test_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (FOLDER / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (output,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script))
    assert capsys.readouterr().out == output


def test_the_readme_names_every_storage() -> None:
    text = (FOLDER / "README.md").read_text()
    for name in blocks.__all__:
        if name.endswith(("StudyStorage", "FileSystem")) and name != "StudyStorage":
            assert name in text
