"""The lab's containers find packages where uv or pip finds them here."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from chaos.package_index import PackageIndex


@pytest.fixture
def of_pip(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip says of its settings."""
    lines: list[str] = []

    def listed(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], 0, "\n".join(lines), "")

    monkeypatch.setattr("chaos.package_index.subprocess.run", listed)
    monkeypatch.setattr("chaos.package_index.os.environ", {"UV_CACHE_DIR": "/mine", "HOME": "/me"})
    return lines


def test_where_nothing_is_set_uv_asks_whom_it_asks_anyway(of_pip: list[str]) -> None:
    assert PackageIndex.of_this_machine() == PackageIndex({}, [])


def test_folders_that_pip_reads_are_mounted_under_the_same_path(
    of_pip: list[str], tmp_path: Path
) -> None:
    wheels, pages = tmp_path / "wheels", tmp_path / "index" / "simple"
    wheels.mkdir()
    pages.mkdir(parents=True)
    of_pip += [
        "global.index-url='https://packages.example/simple'",
        f"global.extra-index-url='file://{pages} https://more.example/simple'",
        f"install.find-links='{wheels} /nowhere/of/all'",
        "global.timeout='60'",
    ]
    index = PackageIndex.of_this_machine()
    assert index.variables == {
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "UV_INDEX": f"file://{pages} https://more.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{wheels},/nowhere/of/all",
    }
    both = [pages.parent, wheels]  # pages of an index lead to files beside them
    assert index.volumes == [f"{place}:{place}:ro" for place in both]


def test_what_uv_is_told_comes_before_what_pip_is_told(
    of_pip: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    of_pip += ["global.index-url='https://of-pip.example/simple'", ":env:.cert='/nowhere/ca.pem'"]
    own = {"UV_INDEX": "lab=https://of-uv.example/simple", "UV_INDEX_LAB_PASSWORD": "x"}
    monkeypatch.setattr("chaos.package_index.os.environ", {**own, "UV_PYTHON": "3.13"})
    assert PackageIndex.of_this_machine() == PackageIndex(own, [])
