"""Names and values that somebody has registered for a study, and its three entry points.

Together they are a `Problem`. Its functions find what they refer to as they always do, in the
globals and closures that are archived with them; whoever names a parameter `ctx` gets all the
registered values there.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from types import FrameType, ModuleType
from typing import Any, Literal

from prefect_optuna.blocks import ArchiveError, InvalidSettingError
from prefect_optuna.errors import CaptureError, UnknownNameError
from prefect_optuna.tasks.archive.code.inspection import import_path
from prefect_optuna.tasks.archive.code.reach import Reach
from prefect_optuna.tasks.archive.code.refusals import described
from prefect_optuna.tasks.problem import Direction, Problem

EntryPoint = Literal["suggest", "run", "eval"]

_CALLED = {"suggest": "suggest(trial)", "run": "run(params, ctx)", "eval": "eval(result, trial)"}


@dataclass(frozen=True)
class Registered:
    """Names and entry points; a change makes a new one, so that a mistake changes nothing.

    Attributes:
        context: the values by name.
        entrypoints: the names of the functions that suggest, run and evaluate.
    """

    context: Mapping[str, Any] = field(default_factory=dict)
    entrypoints: Mapping[EntryPoint, str] = field(default_factory=dict)

    def with_names(
        self,
        values: Mapping[str, Any],
        *,
        own: Iterable[dict[str, Any]] = (),
        allow_pickle: bool = False,
    ) -> Registered:
        """Add names, each replacing its former value."""
        for name in values:
            if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidSettingError(
                    f"{name!r} is no name for a value of the context: expected one that a "
                    "variable can have, of letters, digits and _, such as 'growth_rate'."
                )
        _check_values(values, Reach(own, allow_pickle=allow_pickle))
        return replace(self, context={**self.context, **values})

    def with_entrypoint(self, part: EntryPoint, name: str) -> Registered:
        """Say which registered function is an entry point."""
        if name not in self.context:
            near = get_close_matches(str(name), self.context, n=3)
            known = near or list(self.context)
            hint = f"Did you mean {' or '.join(map(repr, known[:5]))}? " if known else ""
            raise UnknownNameError(
                f"Nothing is registered as {name!r}. {hint}Define it within `with "
                f"archive.register():`, or call archive.context_add({name!r}, ...)."
            )
        changed = replace(self, entrypoints={**self.entrypoints, part: name})
        _check_source(part, name, self.context[name])
        changed.problem(probe=True)
        return changed

    @property
    def is_complete(self) -> bool:
        """True once all three entry points are known."""
        return len(self.entrypoints) == len(_CALLED)

    def missing(self, *, run: bool = True) -> list[str]:
        """List what is missing for a study to be run again, and how to give it."""
        missing: list[str] = []
        if not self.context:
            missing.append("a context: `with archive.register():` around the definitions")
        for part, called in _CALLED.items():
            if part not in self.entrypoints and (part != "run" or run):
                missing.append(f"the function {called}: archive.set_{part}_entrypoint(name)")
        return missing

    def problem(
        self,
        *,
        axes: Mapping[str, Any] | None = None,
        directions: Iterable[Direction] = ("minimize",),
        probe: bool = False,
    ) -> Problem:
        """The problem that this is. Without a `run`, `eval` gets the parameters."""
        if not probe and (missing := self.missing(run=False)):
            raise ArchiveError(listing("There is no problem yet. It needs", missing))
        functions: dict[EntryPoint, Any] = {
            part: self.context[name] for part, name in self.entrypoints.items()
        }
        evaluate = functions.get("eval")
        run = functions.get("run") or (None if probe else evaluate)
        return Problem(
            suggest=functions.get("suggest", _stand_in),
            run=run or _stand_in,
            evaluate=None if run is evaluate else evaluate,
            context=self.context,
            axes=axes or {},
            directions=tuple(directions),
        )


@dataclass(frozen=True)
class ArchiveReport:
    """The contents of a study's archive, as `OptunaArchive.check_minimal` found them.

    Attributes:
        study_name: the study.
        suggest: the name of the function that suggests parameters.
        run: the name of the function that simulates or trains; `None` if there is none.
        evaluate: the name of the function that gives the value.
        context: the names of all that is registered.
        axes: the names of the axes.
        code_version: the digest of what has been captured.
    """

    study_name: str
    suggest: str
    run: str | None
    evaluate: str
    context: tuple[str, ...]
    axes: tuple[str, ...]
    code_version: str


def listing(title: str, items: Iterable[str]) -> str:
    """A message with several points."""
    return "\n".join([f"{title}:", *(f"  - {item}" for item in items)])


def _stand_in(first: Any) -> dict[str, Any]:
    raise NotImplementedError


def _check_values(values: Mapping[str, Any], reach: Reach) -> None:
    """Say now what could not be archived later; what values refer to is looked at then."""
    for name, value in values.items():
        reach.value(value, name)
    if reach.refusals:
        raise CaptureError(
            listing("Nothing has been registered, for this cannot be archived", reach.refusals)
            + "\nWhat no archived function needs gets a name that starts with `_`, or is made "
            "outside of the block."
        )


def _check_source(part: EntryPoint, name: str, value: Any) -> None:
    if not callable(value) or isinstance(value, (type, ModuleType)):
        raise CaptureError(
            f"{name!r} is {described(value)}, and a function is expected: {_CALLED[part]}."
        )
    if (path := import_path(value)) is not None:
        raise CaptureError(
            f"{name!r} is {path.replace(':', '.')}, which is installed and has no source of "
            f"yours. Wrap it: def {part}(...): return {name}(...)."
        )


class Registration:
    """Compares a scope before and after a `with` block.

    A name counts if it was not there before, or if it is another object now: whoever runs a cell
    of a notebook twice defines the same names twice. Names that start with `_` do not count.

    Attributes:
        names: what has been added; empty until the block has ended.
    """

    def __init__(self, frame: FrameType, add: Callable[[Mapping[str, Any]], None]) -> None:
        self.names: tuple[str, ...] = ()
        self._frame: FrameType | None = frame
        self._add = add
        # A copy: some Pythons give out the live variables, others what they were at this moment.
        self._before = dict(frame.f_locals)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        frame, before = self._frame, self._before
        # The scope would be kept alive by what looks at it.
        self._frame, self._before = None, {}
        if frame is None or kind is not None:
            return
        nothing = object()
        added = {
            name: value
            for name, value in dict(frame.f_locals).items()
            if not name.startswith("_")
            and before.get(name, nothing) is not value
            and value is not self
        }
        self._add(added)
        self.names = tuple(added)
