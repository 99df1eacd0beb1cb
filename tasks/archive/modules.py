"""Which modules are installed, and are recorded by name, and which are the user's own code."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import PurePath
from types import ModuleType
from typing import Any

__all__ = [
    "ARCHIVED_AS",
    "ARCHIVED_IMPORTS",
    "distribution_of",
    "import_path",
    "is_installed",
    "module_label",
]

# Set in the modules that restored code lives in: the name their code was captured under, and where
# names that were imported come from.
ARCHIVED_AS = "__archived_as__"
ARCHIVED_IMPORTS = "__archived_imports__"

_OURSELVES = "prefect_optuna"


@functools.cache
def _installation_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(site.getsitepackages())
    folders.add(site.getusersitepackages())
    return tuple(sorted({os.path.realpath(folder) + os.sep for folder in folders}))


@functools.cache
def _lies_in_installation(file: str) -> bool:
    if {"site-packages", "dist-packages"}.intersection(PurePath(file).parts):
        return True
    return os.path.realpath(file).startswith(_installation_folders())


def is_installed(module_globals: Mapping[str, Any]) -> bool:
    """Whether a module belongs to Python, to an installed distribution or to this project.

    Args:
        module_globals: the module's `__dict__`.
    """
    name = module_globals.get("__name__") or ""
    if ARCHIVED_AS in module_globals or name == "__main__":
        return False
    if name.partition(".")[0] == _OURSELVES:
        return True
    file = module_globals.get("__file__")
    if file:
        return _lies_in_installation(file)
    if folders := list(module_globals.get("__path__") or ()):
        return all(_lies_in_installation(folder) for folder in folders)
    origin = getattr(module_globals.get("__spec__"), "origin", None)
    return origin in ("built-in", "frozen") or name in sys.builtin_module_names


def module_label(module_globals: Mapping[str, Any]) -> str:
    """The name to archive a module under: the one it is imported by, also if it runs as script."""
    if archived := module_globals.get(ARCHIVED_AS):
        return archived
    name = module_globals.get("__name__") or "__main__"
    if not name.startswith("__"):
        return name
    spec = module_globals.get("__spec__")
    if spec is not None and spec.name and not spec.name.startswith("__"):
        return spec.name.removesuffix(".__main__")
    file = module_globals.get("__file__")
    return PurePath(file).stem if file else name


def import_path(obj: Any) -> str | None:
    """Where an installed function or class is imported from: `"package.module:name"`.

    The shortest way is taken, as that is the public one: `scipy.integrate:quad`, though it is
    defined in a private module.
    """
    module = getattr(obj, "__module__", None)
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    if not isinstance(name, str):
        return None
    if not isinstance(module, str):
        # NumPy's functions in C do not say where they are from; their type does.
        module = type(obj).__module__
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        candidate = ".".join(parts[:end])
        found = sys.modules.get(candidate)
        if found is not None and is_installed(vars(found)) and _at(found, name) is obj:
            return f"{candidate}:{name}"
    return None


def _at(module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        # By the dictionary, for an attribute of a module may be imported on first look.
        value = vars(value).get(part) if isinstance(value, (ModuleType, type)) else None
    return value


@functools.cache
def distribution_of(module: str) -> str | None:
    """The name to `pip install` for a module; `None` for Python's own and for unknown ones."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return None
    try:
        return importlib.metadata.distribution(top).name
    except importlib.metadata.PackageNotFoundError:
        pass
    found = importlib.util.find_spec(top)
    if found is None:
        return None
    for distribution in importlib.metadata.distributions():
        listed = distribution.read_text("top_level.txt")
        if listed is not None:
            if top in listed.split():
                return distribution.name
        elif f"\n{top}/" in f"\n{distribution.read_text('RECORD') or ''}":
            return distribution.name
    return None
