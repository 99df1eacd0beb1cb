"""What a study ran in: Python, the machine, installed distributions, the state of the code."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

__all__ = ["Environment", "GitState"]

_GIT_SECONDS = 3.0


@dataclass(frozen=True)
class GitState:
    """The state of a git work tree.

    Attributes:
        commit: the commit that is checked out; empty before the first one.
        branch: its branch; empty if the head is detached.
        dirty: whether tracked files differ from the commit.
    """

    commit: str
    branch: str
    dirty: bool


@dataclass(frozen=True)
class Environment:
    """What a study ran in. No environment variables, and no names of machines or people.

    Attributes:
        python: version of Python, such as `"3.11.7"`.
        implementation: `"CPython"` or another.
        platform: the operating system, as `platform.platform()` says it.
        machine: the processor's architecture, such as `"x86_64"`.
        cpu_count: how many processors there are.
        distributions: version by name of every installed distribution.
        git: state of the folder that the problem's source lies in; `None` outside a repository.
        script: name of the script that Python was started with, without its folder.
    """

    python: str
    implementation: str
    platform: str
    machine: str
    cpu_count: int
    distributions: dict[str, str] = field(default_factory=dict)
    git: GitState | None = None
    script: str | None = None

    @classmethod
    def capture(cls, folder: str | Path | None = None) -> Environment:
        """Describe this process. The distributions are listed once per process.

        Args:
            folder: where the problem's source lies, for the state of its git repository.

        Example:
            >>> from prefect_optuna.tasks import Environment
            >>> Environment.capture().implementation in ("CPython", "PyPy")
            True
        """
        return replace(_here(), git=_git_state(folder) if folder else None)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Environment:
        """Read what `to_json` returned; fields of newer versions are left out."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        if known.get("git"):
            known["git"] = GitState(**known["git"])
        return cls(**known)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)

    def diff(self, other: Environment | None = None) -> dict[str, tuple[Any, Any]]:
        """Say what differs between two environments.

        Args:
            other: the other one; by default that of this process.

        Returns:
            For each difference its name and the two values, this environment's first; `None`
            stands for what is not there. A distribution is named `"distributions.numpy"`.

        Example:
            >>> from prefect_optuna.tasks import Environment
            >>> here = Environment.capture()
            >>> here.diff(here)
            {}
        """
        if other is None:
            other = Environment.capture()
        mine, its = _flat(self), _flat(other)
        return {
            name: (mine.get(name), its.get(name))
            for name in sorted(mine.keys() | its.keys())
            if mine.get(name) != its.get(name)
        }


def _flat(environment: Environment) -> dict[str, Any]:
    fields = environment.to_json()
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        elif value is not None:
            flat[name] = value
    return flat


@functools.cache
def _here() -> Environment:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return Environment(
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        platform=platform.platform(),
        machine=platform.machine(),
        cpu_count=os.cpu_count() or 1,
        distributions=_distributions(),
        script=Path(script).name if script else None,
    )


def _distributions() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = _name_and_version(distribution)
        if name and name not in found:  # the first one on the path is the one that is imported
            found[name] = version
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _name_and_version(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Read the head of the metadata only: parsing all of it takes most of the time."""
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    name = version = ""
    for line in text.splitlines():
        if not line:
            break
        key, _, value = line.partition(":")
        if key == "Name":
            name = value.strip()
        elif key == "Version":
            version = value.strip()
        if name and version:
            break
    return name, version


def _git_state(folder: str | Path) -> GitState | None:
    try:
        output = subprocess.run(
            ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"],  # noqa: S607
            cwd=folder,
            # Or git would write to the index of a repository that others are working in.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    lines = output.splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch."))
    commit, branch = heads.get("branch.oid", ""), heads.get("branch.head", "")
    return GitState(
        commit="" if commit == "(initial)" else commit,
        branch="" if branch == "(detached)" else branch,
        dirty=any(not line.startswith("#") for line in lines),
    )
