"""The packages that captured code imports, and which of them are not here, or are others."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.blocks.texts import command, visible_line
from prefect_optuna.tasks.archive.code.references import local_imports

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.code.capture import Capture
    from prefect_optuna.tasks.archive.record.environment import Environment


@dataclass(frozen=True)
class Needed:
    """A package that captured code imports.

    Attributes:
        module: what it imports.
        name: of the distribution.
        version: that was installed where it was captured; empty if that is unknown.
        users: the modules that import it, sorted.
        is_optional: whether the code goes on without it: it imports it within functions only, and
            catches that it is not there.
    """

    module: str
    name: str
    version: str
    users: tuple[str, ...]
    is_optional: bool

    @property
    def requirement(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}" if self.version else self.name


def needed_packages(capture: Capture, environment: Environment | None) -> list[Needed]:
    """What captured code imports of other distributions. Nothing is executed."""
    versions = environment.distributions if environment is not None else {}
    used: dict[str, dict[str, None]] = {}
    guarded: set[str] = set()
    firmly: set[str] = set()
    for symbol in capture.document["symbols"]:
        for module, is_guarded in _imports_of(symbol):
            top = module.partition(".")[0]
            used.setdefault(top, {})[symbol["module"]] = None
            (guarded if is_guarded else firmly).add(top)
    found = {
        name: Needed(
            top,
            name,
            versions.get(name, ""),
            tuple(sorted(used.get(top, ()))),
            top in guarded - firmly,
        )
        for top, name in capture.document["distributions"].items()
    }
    return [found[name] for name in sorted(found, key=str.lower)]


def require_packages(capture: Capture, environment: Environment | None) -> None:
    """Refuse captured code whose packages are not here, before any of it has run."""
    missing = [
        one
        for one in needed_packages(capture, environment)
        if not one.is_optional and not _is_here(one.module)
    ]
    if not missing:
        return
    listed = "; ".join(
        f"{f'{one.name} {one.version}'.strip()}, which {_files(one.users)}" for one in missing
    )
    install = command("pip", "install", *(one.requirement for one in missing))
    raise ArchiveError(
        visible_line(
            f"{_here()} lacks {listed}. No trial was begun. Install "
            f"{'it' if len(missing) == 1 else 'them'} where this runs, such as in the image of the "
            f"workers, and start it again: {install}"
        )
    )


def other_versions(capture: Capture, environment: Environment | None) -> list[str]:
    """Say which packages that the code imports are here in another version."""
    found: list[str] = []
    for one in needed_packages(capture, environment):
        here = _version_here(one.name)
        if here and one.version and here != one.version:
            found.append(
                f"{one.name} is {here} here, and was {one.version} where the code was captured."
            )
    return found


def _imports_of(symbol: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The modules that a symbol imports, and whether it goes on without them."""
    if symbol["mode"] == "source":
        # What does not parse is of another Python, which is said when it is compiled.
        with contextlib.suppress(SyntaxError):
            for found in local_imports(symbol["source"]):
                if found.level == 0:
                    yield found.module, found.is_guarded
    for path in _import_tags(symbol):
        yield path.partition(":")[0], False


def _import_tags(data: Any) -> Iterator[str]:
    if isinstance(data, dict):
        for key, value in data.items():  # pyright: ignore[reportUnknownVariableType]
            if key == "$import" and isinstance(value, str):
                yield value
            else:
                yield from _import_tags(value)
    elif isinstance(data, list):
        for value in data:  # pyright: ignore[reportUnknownVariableType]
            yield from _import_tags(value)


def _is_here(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version_here(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _files(users: tuple[str, ...]) -> str:
    if not users:
        return "the archived code needs"
    files = [f"{user.replace('.', '/')}.py" for user in users]
    if len(files) == 1:
        return f"{files[0]} imports"
    return f"{', '.join(files[:-1])} and {files[-1]} import"


def _here() -> str:
    from prefect.runtime import deployment

    return "This worker" if deployment.id else f"This Python ({sys.version.split()[0]})"
