"""Wheels of the tests, which uv takes for all that there is: no network, and quick."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import shutil
import sysconfig
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from prefect_optuna.tasks.archive import Environment
from prefect_optuna.tasks.archive.record import environment

TINY = "VALUE = {version}\n"


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """Write a wheel."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    wheel_text = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": wheel_text,
    }
    record = "".join(f"{one},sha256={_digest(text)},{len(text)}\n" for one, text in files.items())
    record += f"{about}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for one, text in {**files, f"{about}/RECORD": record}.items():
            archive.writestr(one, text)
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def only_these_wheels(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Make a folder of wheels in another one, and have uv see nothing else.

    Args:
        folder: where it is made, and where environments go.
        patch: for the variables of this process.

    Returns:
        The folder, with tiny 1.0, 1.4 and 2.0, and `rest`. That stands for everything that this
        package needs: it leads to what is installed here.
    """
    wheels = folder / "wheels"
    wheels.mkdir()
    for version in ("1.0", "1.4", "2.0"):
        wheel(wheels, "tiny", version, {"tiny.py": TINY.format(version=version)})
    wheel(wheels, "rest", "1.0", {"rest.pth": f"{sysconfig.get_path('purelib')}\n"})
    for name in [name for name in os.environ if name.startswith("UV_")]:
        patch.delenv(name)
    settings = folder / "settings.toml"
    settings.write_text(f"no-index = true\nfind-links = [{str(wheels)!r}]\n")
    patch.setenv("UV_CONFIG_FILE", str(settings))
    patch.setenv("UV_CACHE_DIR", str(folder / "uv"))
    patch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS", str(folder / "environments"))
    return wheels


def install_here(wheels: Path, name: str, version: str, patch: pytest.MonkeyPatch) -> None:
    """Install a wheel for this process and those that it starts."""
    site = wheels.parent / "site-packages"
    # Two versions of one length and one second look the same to who compiled the first.
    shutil.rmtree(site / "__pycache__", ignore_errors=True)
    with zipfile.ZipFile(wheels / f"{name}-{version}-py3-none-any.whl") as archive:
        archive.extractall(site)
    _look_again(patch)
    patch.syspath_prepend(str(site))
    patch.setenv("PYTHONPATH", str(site))


def record_only(patch: pytest.MonkeyPatch, **versions: str) -> None:
    """Have archives record `rest` and these as all that is installed."""
    found = {"rest": "1.0", **versions}
    patch.setattr(environment, "_distributions", lambda: found)
    patch.setattr(environment, "sources", dict)
    _look_again(patch)


def _look_again(patch: pytest.MonkeyPatch) -> None:
    """What is installed is looked up once in a process; not what a test has installed."""
    once = functools.cache(environment._here.__wrapped__)
    patch.setattr(environment, "_here", once)


def recorded(**versions: str) -> Environment:
    return replace(Environment.capture(), distributions={"rest": "1.0", **versions}, sources={})
