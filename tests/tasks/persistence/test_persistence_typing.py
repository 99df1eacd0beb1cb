"""Type checkers see the generated `__init__`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_a_type_checker_sees_the_arguments_and_the_types_of_a_class(tmp_path: Path) -> None:
    typed = Path(__file__).with_name("typed_persistence.py")
    (tmp_path / "typed.py").write_text(typed.read_text())
    (tmp_path / "prefect_optuna").symlink_to(ROOT)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"include": ["typed.py"], "extraPaths": ["."], "pythonVersion": "3.11"})
    )
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    output = subprocess.run(
        [*command, "-p", "pyrightconfig.json"], cwd=tmp_path, capture_output=True, text=True
    )
    lines = typed.read_text().splitlines()
    found = {
        one["range"]["start"]["line"]: (one["severity"], one["message"])
        for one in json.loads(output.stdout)["generalDiagnostics"]
    }
    expected = {
        number: line.rpartition("# ")[2]
        for number, line in enumerate(lines)
        if line.startswith(("reveal_type", "Spectrum(", "Box["))
    }
    problems = {lines[n]: text for n, text in found.items() if n not in expected}
    assert problems == {}
    for number, comment in expected.items():
        severity, message = found.get(number, ("none", ""))
        if comment.startswith("error: "):
            assert severity == "error", lines[number]
            assert all(name in message for name in comment[len("error: ") :].split(", ")), message
        elif lines[number].startswith("reveal_type"):
            assert severity == "information", lines[number]
            assert f'is "{comment}' in message, message
        else:
            assert severity == "none", message
