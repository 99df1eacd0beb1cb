"""Every example in a docstring or a README runs as it stands."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import redis

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ("blocks", "tasks", "flows", "deployments")
SLOW = {ROOT / "deployments/local_server.py"}  # it starts servers
MODULES = [
    pytest.param(path, marks=pytest.mark.slow) if path in SLOW else path
    for path in sorted(
        [ROOT / "__init__.py", *(p for floor in FLOORS for p in (ROOT / floor).rglob("*.py"))]
    )
    if ">>> " in path.read_text()
]
READMES = [
    ROOT / "README.md",
    ROOT / "blocks/README.md",
    ROOT / "tasks/README.md",
    pytest.param(ROOT / "flows/README.md", marks=pytest.mark.slow),
    pytest.param(ROOT / "deployments/README.md", marks=pytest.mark.slow),
]

# A fenced block, and the one without a language that follows it directly: what it prints.
PYTHON = re.compile(r"^```python\n(?P<code>.*?)^```$(?:\n+```\n(?P<output>.*?)^```$)?", re.M | re.S)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def handlers_as_they_were() -> Generator[None]:
    """An example registers a handler, for the rest of the process."""
    from prefect_optuna.blocks.artifacts import registry

    own, asked = dict(registry._own), list(registry._asked)
    yield
    registry._own.clear()
    registry._own.update(own)
    registry._asked[:] = asked


@pytest.mark.usefixtures("prefect_server", "handlers_as_they_were")
@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_examples_in_the_docstrings_of_a_module_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_server)
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
def test_the_python_of_a_readme_is_a_program_that_prints_what_the_readme_says(
    path: Path, tmp_path: Path, redis_server: str
) -> None:
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()  # other tests have left studies there
    text = path.read_text(encoding="utf-8")
    program, expected = "", ""
    for block in PYTHON.finditer(text):
        # On the lines it has in the README, for the traceback.
        blank_lines = text.count("\n", 0, block.start("code")) - program.count("\n")
        program += "\n" * blank_lines + block["code"]
        expected += ".*" + re.escape(block["output"] or "").replace(r"\.\.\.", ".*")
    (tmp_path / "readme.py").write_text(program)
    result = subprocess.run(
        [sys.executable, "readme.py"],
        cwd=tmp_path,
        env={**os.environ, "REDIS_URL": redis_server},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(expected + ".*", result.stdout, re.S), result.stdout
