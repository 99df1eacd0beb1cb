"""What `make` says where it cannot go on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Takes `-c CODE` and runs the code as a Python of another version would.
OLD_PYTHON = """#!/bin/sh
exec {python} -c "import sys
sys.version_info, sys.version = (3, 9, 18), '3.9.18 (main)'
exec(sys.argv[2])" "$@"
"""


def test_a_python_that_is_too_old_is_one_line_before_anything_is_installed(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    python = tmp_path / "python3.9"
    python.write_text(OLD_PYTHON.format(python=sys.executable), encoding="utf-8")
    python.chmod(0o755)
    result = subprocess.run(
        ["make", "demo", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode != 0
    said = [line for line in result.stderr.splitlines() if not line.startswith("make")]
    assert said == [
        "Python 3.11 or later is needed; this is Python 3.9.18. "
        "Name another one: make PYTHON=python3.13 ..."
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "Makefile", "pyproject.toml", "python3.9",
    ]  # fmt: skip
