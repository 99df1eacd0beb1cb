"""What captured code needs of other packages, and what is said of those that are not here."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.tasks import Environment, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code import inspection
from prefect_optuna.tasks.archive.code.capture import (
    needed_packages,
    other_versions,
    require_packages,
)
from prefect_optuna.tasks.archive.code.restore import restore_problem
from prefect_optuna.tasks.archive.record import environment

Captured = tuple[Capture, Environment]
Take = Callable[..., Captured]


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Take:
    """Captures a script that imports packages, which are gone afterwards, and so is the script."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget() -> None:
        environment._here.cache_clear()
        inspection.distribution_of.cache_clear()
        importlib.invalidate_caches()

    def take(source: str, **packages: str) -> Captured:
        for name, version in packages.items():
            (site / f"{name}.py").write_text("def f(x): return x\n")
            metadata = site / f"{name}-{version}.dist-info"
            metadata.mkdir()
            lines = f"Metadata-Version: 2.1\nName: {name.title()}\nVersion: {version}\n"
            (metadata / "METADATA").write_text(lines)
        (tmp_path / "fitting.py").write_text(dedent(source))
        forget()
        fitting: Any = importlib.import_module("fitting")
        captured = Capture.of(Problem(objective=fitting.objective)), Environment.capture()
        shutil.rmtree(site)
        (tmp_path / "fitting.py").unlink()
        for name in ("fitting", *packages):
            sys.modules.pop(name, None)
        forget()
        return captured

    return take


def test_all_that_is_missing_is_named_at_once_with_who_imports_it_and_what_to_do(
    take: Take,
) -> None:
    capture, there = take(
        """
        import lost

        RAN = []

        def objective(trial):
            from gone import f
            return f(lost.f(trial.suggest_float("x", 0, 1)))
        """,
        lost="1.2",
        gone="3.4",
    )
    with pytest.raises(ArchiveError) as refused:
        restore_problem(capture, there)
    assert str(refused.value) == (
        f"This Python ({sys.version.split()[0]}) lacks Gone 3.4, which fitting.py imports; "
        "Lost 1.2, which fitting.py imports. No trial was begun. Install them where this runs, "
        "such as in the image of the workers, and start it again: "
        "pip install Gone==3.4 Lost==1.2"
    )
    assert f"prefect_optuna_archive_{capture.code_version[:12]}" not in sys.modules


def test_what_the_code_goes_on_without_and_what_it_does_not_import_is_not_missed(
    take: Take,
) -> None:
    capture, there = take(
        """
        import other

        def objective(trial):
            try:
                import gone
            except ImportError:
                return trial.suggest_float("x", 0, 1)
            return gone.f(2.0)
        """,
        gone="3.4",
        other="1.0",
    )
    assert [(one.name, one.is_optional) for one in needed_packages(capture, there)] == [
        ("Gone", True)
    ]
    require_packages(capture, there)
    problem = restore_problem(capture, there)

    class Trial:
        def suggest_float(self, *_: Any) -> float:
            return 0.5

    assert problem.objective is not None
    assert problem.objective(Trial()) == 0.5


def test_another_version_is_said_and_is_no_error() -> None:
    capture = Capture.of(Problem.of("prefect_optuna.flows.examples.lynx_hare:problem"))
    here = Environment.capture()
    assert other_versions(capture, here) == []
    there = replace(here, distributions={**here.distributions, "numpy": "0.9", "optuna": "0.1"})
    [line] = other_versions(capture, there)
    assert line.startswith("numpy is ")
    assert line.endswith("here, and was 0.9 where the code was captured.")
    require_packages(capture, there)
