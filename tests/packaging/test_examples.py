"""Every example in a docstring or a README runs as it stands."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("blocks", "tasks", "flows", "deployments")
MODULES = sorted(
    path
    for path in (
        ROOT / "__init__.py",
        *(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py")),
    )
    if ">>> " in path.read_text()
)
READMES = sorted([ROOT / "README.md", *(ROOT / floor / "README.md" for floor in FLOORS)])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_examples_in_the_docstrings_of_a_module_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(["prefect_optuna", *parts]).removesuffix(".__init__"))
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner, report = doctest.DocTestRunner(optionflags=flags), list[str]()
    for example in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(example, out=report.append)
    assert runner.tries, "the examples are where doctest does not find them"
    assert not runner.failures, "".join(report)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("path", READMES, ids=name_of)
def test_the_python_of_a_readme_runs_from_top_to_bottom(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = Document.parse(str(path), PythonCodeBlockParser(), SkipParser())
    for example in document.examples():
        example.evaluate()
