"""Names that a package imports when they are first used, so that importing it costs nothing."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any


def lazy_names(package: str, module_of: Mapping[str, str]) -> None:
    """Give a package its `__getattr__` and `__dir__` (PEP 562), by the module of each name."""
    itself = sys.modules[package]

    def get(name: str) -> Any:
        if (module := module_of.get(name)) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"prefect_optuna.{module}"), name)
        setattr(itself, name, value)
        return value

    vars(itself).update(__getattr__=get, __dir__=lambda: sorted({*vars(itself), *module_of}))
