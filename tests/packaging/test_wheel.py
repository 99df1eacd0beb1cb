"""What `pip install` puts on another machine is all there and works there."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ["blocks", "tasks", "flows", "deployments"]

IMPORT_ALL = """
import importlib, pkgutil, prefect_optuna

for module in pkgutil.walk_packages(prefect_optuna.__path__, "prefect_optuna."):
    print(importlib.import_module(module.name).__name__)
print(prefect_optuna.__path__[0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that no earlier build has a part in it."""
    source = tmp_path_factory.mktemp("source") / "repository"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"))
    target = tmp_path_factory.mktemp("dist")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(target), str(source)], check=True)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the package from the wheel only.

    The dependencies are those of this environment, by a line in a .pth file: Python reads no
    .pth files there, so that the editable install's does not take effect.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    bin_folder = folder / ("Scripts" if sys.platform == "win32" else "bin")
    (site_packages,) = folder.rglob("site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if ".data/" in name]
        archive.extractall(site_packages)
    return bin_folder / "python"


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(path))


def modules_of_the_repository() -> set[str]:
    paths = [path for floor in FLOORS for path in (ROOT / floor).rglob("*.py")]
    site = ROOT / "deployments/site"  # for `make docs` alone
    paths = [path for path in paths if site not in path.parents]
    paths += [ROOT / "errors.py", ROOT / "_lazy.py"]
    names = {
        ".".join(["prefect_optuna", *p.relative_to(ROOT).with_suffix("").parts]) for p in paths
    }
    return {name.removesuffix(".__init__") for name in names}


@pytest.mark.slow
def test_every_module_is_in_the_wheel_and_can_be_imported_from_it(
    python: Path, tmp_path: Path
) -> None:
    result = subprocess.run(
        [python, "-I", "-c", IMPORT_ALL], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    *imported, location = result.stdout.split()
    assert set(imported) == modules_of_the_repository()
    assert Path(location).is_relative_to(python.parents[1])


def test_the_type_marker_and_the_example_s_data_are_in_the_wheel(files: set[str]) -> None:
    assert "prefect_optuna/py.typed" in files
    assert "prefect_optuna/flows/examples/lynx_hare.csv" in files
    assert "prefect_optuna/deployments/prefect.yaml" in files


def test_nothing_but_the_package_is_in_the_wheel(files: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in files} == {"prefect_optuna"}
    assert not [name for name in files if name.startswith("prefect_optuna/tests")]


def test_prefect_finds_the_blocks_by_the_entry_point(python: Path, tmp_path: Path) -> None:
    script = (
        "from prefect.plugins import load_prefect_collections as load\n"
        "print(load()['prefect_optuna'].__name__)"
    )
    result = subprocess.run(
        [python, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == "prefect_optuna.blocks\n"


def test_the_extras_are_there(metadata: Message) -> None:
    expected = {"s3", "gcs", "azure", "sftp", "dask", "ray", "dashboard", "examples", "test"}
    assert expected <= set(metadata.get_all("Provides-Extra", []))
