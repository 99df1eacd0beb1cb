"""Options that several commands have."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Group, Parameter

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
