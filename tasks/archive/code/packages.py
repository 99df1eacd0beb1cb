"""The packages that captured code imports, and which of them are not here, or are others."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.blocks.texts import command, visible_line
from prefect_optuna.tasks.archive.code.references import local_imports

if TYPE_CHECKING:
    from prefect_optuna.tasks.archive.code.capture import Capture
    from prefect_optuna.tasks.archive.record.environment import Environment

_OURS = "prefect-optuna"


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
        """The requirement in pip's syntax."""
        return f"{self.name}=={self.version}" if self.version else self.name


def needed_packages(capture: Capture, environment: Environment | None) -> list[Needed]:
    """List what captured code imports of other distributions. Nothing is executed."""
    versions = environment.distributions if environment is not None else {}
    used: dict[str, dict[str, None]] = {}
    guarded: set[str] = set()
    firmly: set[str] = set()
    for symbol in capture.document["symbols"]:
        for module, is_guarded in _imports_of(symbol):
            top = module.partition(".")[0]
            used.setdefault(top, {})[symbol["module"]] = None
            (guarded if is_guarded else firmly).add(top)
    packages = {
        name: Needed(
            top,
            name,
            versions.get(name, ""),
            tuple(sorted(used.get(top, ()))),
            top in guarded - firmly,
        )
        for top, name in capture.document["distributions"].items()
    }
    return [packages[name] for name in sorted(packages, key=str.lower)]


def missing_packages(capture: Capture, environment: Environment | None) -> list[Needed]:
    """List the packages that captured code cannot do without, and that are not here."""
    return [
        package
        for package in needed_packages(capture, environment)
        if not package.is_optional and not _is_here(package.module)
    ]


def require_packages(
    capture: Capture, environment: Environment | None, *, otherwise: str = ""
) -> None:
    """Refuse captured code whose packages are not here, before any of it has run.

    `otherwise` is what else there is to do than to install them, in a sentence.
    """
    missing = missing_packages(capture, environment)
    if not missing:
        return
    install = command("pip", "install", *(package.requirement for package in missing))
    if not otherwise and _is_worker():
        otherwise = "Deploy it with --install, and workers install it."
    raise ArchiveError(
        visible_line(
            f"{lack_words(missing)}. No trial was begun. "
            f"{f'{otherwise} Or i' if otherwise else 'I'}nstall "
            f"{'it' if len(missing) == 1 else 'them'} where this runs, such as in the image of the "
            f"workers, and start it again: {install}"
        )
    )


def lack_words(missing: Iterable[Needed]) -> str:
    """Say that packages are not here."""
    return f"{_here()} lacks {'; '.join(map(_use, missing))}"


def lacking(capture: Capture, environment: Environment) -> list[str]:
    """Say what is not here as it was where code was captured: Python, and what it imports."""
    lines: list[str] = []
    if not is_this_python(environment):
        lines.append(f"{environment.implementation.removeprefix('C')} {environment.python}")
    for one in needed_packages(capture, environment):
        if one.name == _OURS:
            continue
        here = _version_here(one.name)
        is_there = here == one.version if one.version else one.is_optional or _is_here(one.module)
        if not is_there:
            lines.append(f"{_use(one)}{f' and is {here} here' if here else ''}")
    return [visible_line(line) for line in lines]


def is_this_python(environment: Environment) -> bool:
    """Tell whether code of an environment is for this Python: the same but for its last number."""
    here = platform.python_version_tuple()[:2]
    return (
        environment.implementation == platform.python_implementation()
        and tuple(environment.python.split(".")[:2]) == here
    )


def other_versions(capture: Capture, environment: Environment | None) -> list[str]:
    """Say which packages that the code imports are here in another version."""
    lines: list[str] = []
    for need in needed_packages(capture, environment):
        here = _version_here(need.name)
        if here and need.version and here != need.version:
            lines.append(
                f"{need.name} is {here} here, and was {need.version} where the code was captured."
            )
    return lines


def edited_files(name: str) -> list[str]:
    """The modules of a distribution that are not what was installed: somebody has edited them.

    Example:
        >>> from prefect_optuna.tasks.archive.code.packages import edited_files
        >>> edited_files("optuna")
        []
    """
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    edited: list[str] = []
    for file in files:
        if file.suffix == ".py" and file.hash is not None and file.hash.mode == "sha256":
            with contextlib.suppress(OSError):
                digest = hashlib.sha256(Path(file.locate()).read_bytes()).digest()
                if base64.urlsafe_b64encode(digest).decode().rstrip("=") != file.hash.value:
                    edited.append(str(file))
    return edited


def _imports_of(symbol: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The modules that a symbol imports, and whether it goes on without them."""
    if symbol["mode"] == "source":
        # What does not parse is of another Python, which is said when it is compiled.
        with contextlib.suppress(SyntaxError):
            for statement in local_imports(symbol["source"]):
                if statement.level == 0:
                    yield statement.module, statement.is_guarded
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


def _use(one: Needed) -> str:
    return f"{f'{one.name} {one.version}'.strip()}, which {_files(one.users)}"


def _files(users: tuple[str, ...]) -> str:
    if not users:
        return "the archived code needs"
    files = [f"{user.replace('.', '/')}.py" for user in users]
    if len(files) == 1:
        return f"{files[0]} imports"
    return f"{', '.join(files[:-1])} and {files[-1]} import"


def _here() -> str:
    return "This worker" if _is_worker() else f"This Python ({platform.python_version()})"


def _is_worker() -> bool:
    from prefect.runtime import deployment

    return bool(deployment.id)
