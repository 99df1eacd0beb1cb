"""What commands have in common: options, answers, and exit codes."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Group, Parameter
from rich.console import Console, RenderableType

# Options that several commands have.


_PLACES = Group("Where it is kept", sort_key=5)
_SCOPE = Group("Parameters of the code", sort_key=4)
_SCHEDULE = Group("Deployment", sort_key=3)

Study: TypeAlias = Annotated[str, Parameter(help="The study, by its name.")]
Json: TypeAlias = Annotated[
    bool,
    Parameter(name="--json", negative="", help="One JSON document on standard output."),
]
Variables: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        metavar="NAME",
        negative="",
        help="A variable that the archived code needs as well, such as *HOME*; repeatable.",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Places:
    """Where studies and their archives are kept."""

    storage: Annotated[
        str | None,
        Parameter(
            group=_PLACES,
            metavar="PLACE",
            help="The studies: a saved block, *slug/name*, or a URL such as *sqlite:///study.db*.",
        ),
    ] = None
    artifacts: Annotated[
        str | None,
        Parameter(
            group=_PLACES,
            metavar="PLACE",
            help="The archives: a saved block, a folder, or a URL such as *s3://lab/studies*.",
        ),
    ] = None

    def keywords(self) -> dict[str, Any]:
        """Return them as the functions of this package take them."""
        return {"storage": self.storage, "artifacts": self.artifacts}


HERE: Places = Places()
"""The defaults."""


@Parameter(name="*")
@dataclass(frozen=True)
class Scope:
    """Parameters for `auto_param` functions and `param_scope`."""

    define: Annotated[
        list[str],
        Parameter(
            name=("--define", "-D"),
            group=_SCOPE,
            metavar="KEY=VALUE",
            negative="",
            help="A parameter by its dotted name, such as *-D simulate.dt=0.01*; wins over files.",
        ),
    ] = field(default_factory=list)
    config: Annotated[
        list[Path],
        Parameter(
            name=("--config", "-C"),
            group=_SCOPE,
            metavar="FILE",
            negative="",
            help="A JSON, YAML or TOML file of parameters; a later one wins.",
        ),
    ] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """The parameters; none where none were given."""
        if not self.define and not self.config:
            return {}
        from prefect_optuna.tasks.scope import from_files

        return dict(from_files(*self.config, define=self.define, warn_unread=False))


NO_SCOPE: Scope = Scope()
"""No parameters."""

Pool: TypeAlias = Annotated[
    str | None,
    Parameter(
        group=_SCHEDULE,
        metavar="NAME",
        help="The work pool; by default Prefect's default one, or the only one there is.",
    ),
]
Cron: TypeAlias = Annotated[
    str | None,
    Parameter(
        group=_SCHEDULE, metavar="LINE", help='When it runs by itself, such as *"0 3 \\* \\* \\*"*.'
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Schedule:
    """Options that all deployments have."""

    pool: Pool = None
    cron: Cron = None
    timezone: Annotated[
        str,
        Parameter(group=_SCHEDULE, metavar="ZONE", help="Of the cron line, as *Europe/Berlin*."),
    ] = "UTC"
    name: Annotated[
        str | None,
        Parameter(group=_SCHEDULE, help="Of the deployment; by default as its study."),
    ] = None
    tag: Annotated[
        list[str],
        Parameter(group=_SCHEDULE, metavar="TAG", negative="", help="Of its runs; repeatable."),
    ] = field(default_factory=list)
    version: Annotated[
        str | None,
        Parameter(name="--as-version", group=_SCHEDULE, help="Of the deployment."),
    ] = None
    run: Annotated[
        bool, Parameter(group=_SCHEDULE, negative="", help="Have it run now as well.")
    ] = False

    def keywords(self) -> dict[str, Any]:
        """Return them as the deploy helpers take them."""
        return {
            "pool": self.pool,
            "cron": self.cron,
            "timezone": self.timezone,
            "name": self.name,
            "tags": self.tag,
            "version": self.version,
        }


ON_DEMAND: Schedule = Schedule()
"""No schedule: it runs when somebody asks for it."""


OK = 0
"""Exit code of a command that has done its work."""

FAILED = 1
"""Exit code of a command that has failed; the message says why."""

USAGE = 2
"""The command line itself is wrong."""

DRIFT = 3
"""Trials were run again, and not all of them were reproduced."""

INTERRUPTED = 130
"""Ctrl-C."""


def answer(document: Any, *shown: RenderableType, as_json: bool) -> None:
    """Give the answer: to programs as JSON, or to people.

    Args:
        document: for programs.
        shown: for people, one below the other.
        as_json: which of the two.
    """
    if as_json:
        from prefect_optuna.blocks.texts import json_text

        # A command that goes on, such as `serve`, would keep it in a pipe's buffer.
        print(json_text(plain(document)), flush=True)
        return
    console = _terminal()
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, str))


def note(text: str) -> None:
    """Say something that is not the answer.

    Args:
        text: with rich's markup.
    """
    _terminal(stderr=True, soft_wrap=True).print(text)


# `blocks` imports Prefect, for which help and wrong usage must not wait.


def markup(text: str) -> str:
    """Text of others in rich's markup, as text."""
    from prefect_optuna.blocks import texts

    return texts.markup(text)


def command(*words: str) -> str:
    """Return a command that can be copied into a shell."""
    from prefect_optuna.blocks import texts

    return texts.command(*words)


def _terminal(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    from prefect_optuna.blocks import texts

    return texts.terminal(stderr=stderr, soft_wrap=soft_wrap)


@contextmanager
def working(text: str) -> Generator[None]:
    """Show that something takes its time, where somebody watches.

    What is printed meanwhile, by code that is not ours, goes to standard error.

    Args:
        text: what is done; no markup.
    """
    with _terminal(stderr=True).status(markup(text)), redirect_stdout(sys.stderr):
        yield


def plain(value: Any) -> Any:
    """A value as JSON has it: times as ISO 8601, numbers that JSON lacks as text.

    Example:
        >>> from prefect_optuna.deployments.cli.output import plain
        >>> plain({"value": float("inf"), "params": (1, 2.5)})
        {'value': 'inf', 'params': [1, 2.5]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, datetime):
        return value.astimezone().isoformat()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    return str(value)
