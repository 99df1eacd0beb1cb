"""What `make` says where it cannot go on, and what `make peers` measures without a peer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def peers(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script of `make peers` where none of the peers is installed."""
    benchmarks = folder / "tests" / "benchmarks"
    if not benchmarks.exists():
        benchmarks.mkdir(parents=True)
        for name in ("peers.py", "peer_studies.py"):
            shutil.copy(ROOT / "tests" / "benchmarks" / name, benchmarks)
    return subprocess.run(
        [sys.executable, str(benchmarks / "peers.py"), *arguments],
        cwd=folder, capture_output=True, text=True, encoding="utf-8",
    )  # fmt: skip


@pytest.mark.slow
def test_peers_are_listed_where_none_is_installed(tmp_path: Path) -> None:
    assert "--install" in peers(tmp_path, "--help").stdout
    listed = peers(tmp_path, "--list")
    assert listed.returncode == 0, listed.stderr
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert "not installed" in lines["ray"]
    assert "not installed" in lines["flyte"]
    assert "not installed" not in lines["ours"]


@pytest.mark.slow
def test_peers_names_what_it_does_not_measure(tmp_path: Path) -> None:
    found = peers(tmp_path, "--trials=3", "--rounds=1", "optuna-memory", "optuna-journal", "ray")
    assert found.returncode == 0, found.stderr
    rows = [line.split(" | ") for line in found.stdout.splitlines() if "| Optuna, " in line]
    assert [row[0] for row in rows] == ["| Optuna, in memory", "| Optuna, JournalFileBackend"] * 2
    for row in rows:
        assert row[2] == "3", row
        figures = [float(cell.strip(" |").replace(",", "")) for cell in row[3:]]
        assert min(figures) >= 0, row
    # A sleep of 10 ms is in a trial, and the base is once as slow as itself.
    assert float(rows[0][4]) >= 10
    assert rows[0][6] == "1.0"
    assert "- Ray Tune: not installed; `make peers` does it" in found.stdout


@pytest.mark.slow
def test_peers_measures_this_package(tmp_path: Path) -> None:
    found = peers(tmp_path, "--trials=3", "--rounds=1", "ours", "ours-problem", "ours-processes")
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("| prefect-optuna, ") == 6
    assert "NOT MEASURED" not in found.stdout
