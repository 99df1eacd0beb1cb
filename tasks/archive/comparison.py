"""`diff`: what differs between two archived studies."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import TrialState

from prefect_optuna.blocks import ArchiveError, ArtifactFileSystem, StudyStorage
from prefect_optuna.blocks.study_summary import is_feasible
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.tasks.archive.archived_study import ArchivedStudy
from prefect_optuna.tasks.archive.code.restore import restore_value

_Pairs = Mapping[str, tuple[Any, Any]]
_SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class StudyDiff:
    """The differences between two archived studies; `print` it. Falsy when there are none.

    In each mapping, a name goes with the two values, that of the first study first; `None` stands
    for what is not there.

    Attributes:
        names: of the two studies.
        code: for each symbol whose source differs, such as `"model.simulate"`, a unified diff.
        context: values that the functions use: the problem's context and axes, constants of
            modules, and the scope.
        environment: as `Environment.diff` says it.
        space: parameters, and the distributions that they were drawn from, as JSON.
        results: `"trials"`, `"complete"`, `"pruned"`, `"failed"`, `"directions"` and `"best"`,
            where that is the best value of a feasible trial, or with several directions the best
            of each.

    Example:
        >>> from prefect_optuna.tasks.archive.comparison import StudyDiff
        >>> print(StudyDiff(("one", "two"), results={"best": (0.5, 0.25)}))
        'one' against 'two'
        Results:
          best: 0.5 -> 0.25
    """

    names: tuple[str, str]
    code: Mapping[str, str] = field(default_factory=dict)
    context: _Pairs = field(default_factory=dict)
    environment: _Pairs = field(default_factory=dict)
    space: _Pairs = field(default_factory=dict)
    results: _Pairs = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.code, self.context, self.environment, self.space, self.results))

    def __str__(self) -> str:
        if not self:
            return f"{self.names[0]!r} and {self.names[1]!r} do not differ."
        lines = [f"{self.names[0]!r} against {self.names[1]!r}"]
        if self.code:
            lines += ["Code:", *(line for text in self.code.values() for line in text.splitlines())]
        for title, pairs in (
            ("Context", self.context),
            ("Environment", self.environment),
            ("Space", self.space),
            ("Results", self.results),
        ):
            if pairs:
                lines.append(f"{title}:")
            for name, (first, second) in pairs.items():
                lines.append(f"  {name}: {_shown(first)} -> {_shown(second)}")
        return "\n".join(map(visible_line, lines))

    __repr__ = __str__


def diff(
    study_a: ArchivedStudy | str,
    study_b: ArchivedStudy | str,
    *,
    storage: StudyStorage | str | Path | None = None,
    artifacts: ArtifactFileSystem | str | Path | None = None,
) -> StudyDiff:
    """Compare two archived studies: code, context, environment, space and results.

    Of each study it is the last version that is compared. Nothing is executed.

    Args:
        study_a: the first study, loaded, or its name.
        study_b: the second one, likewise.
        storage: where studies given by name are; what `optimize` takes, with its default.
        artifacts: where their archives are, likewise.

    Raises:
        StudyNotFoundError: there is no study of that name.
        ArchiveError: one has no archive, or a part of it is missing or damaged.

    Example:
        >>> from prefect_optuna.blocks import InMemoryStudyStorage
        >>> from prefect_optuna.flows.examples.lynx_hare import problem
        >>> from prefect_optuna.tasks import OptunaArchive, diff
        >>> storage = InMemoryStudyStorage(name="docs-diff")
        >>> for name in "one", "two":
        ...     study = storage.create_study(name, load_if_exists=True)
        ...     _ = OptunaArchive(study, artifacts="memory://docs-diff").save_problem(problem)
        >>> diff("one", "two", storage=storage, artifacts="memory://docs-diff")
        'one' and 'two' do not differ.
    """
    a, b = (
        study
        if isinstance(study, ArchivedStudy)
        else ArchivedStudy.load(study, storage=storage, artifacts=artifacts)
        for study in (study_a, study_b)
    )
    return StudyDiff(
        names=(a.study.study_name, b.study.study_name),
        code=_code(a, b),
        context=_pairs(_context(a), _context(b)),
        environment=a.environment.diff(b.environment),
        space=_pairs(_space(a), _space(b)),
        results=_pairs(_results(a), _results(b)),
    )


def _code(a: ArchivedStudy, b: ArchivedStudy) -> dict[str, str]:
    """A unified diff for each symbol: symbols stay the same when code around them moves."""
    before, after = _sources(a), _sources(b)
    diffs: dict[str, str] = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            lines = difflib.unified_diff(
                old.splitlines(), new.splitlines(), f"a/{name}", f"b/{name}", lineterm=""
            )
            diffs[name] = "\n".join(lines)
    return diffs


def _sources(archived: ArchivedStudy) -> dict[str, str]:
    document = archived.capture().document
    sources = {
        _symbol(symbol): symbol["source"]
        for symbol in document["symbols"]
        if symbol["mode"] == "source"
    }
    entrypoints = {
        f"entrypoint {part}": json.dumps(reference)
        for part, reference in document["entrypoints"].items()
    }
    return sources | entrypoints


def _context(archived: ArchivedStudy) -> dict[str, Any]:
    document = archived.capture().document
    values = {
        _symbol(symbol): symbol["value"]
        for symbol in document["symbols"]
        if symbol["mode"] not in ("source", "import")
    }
    values |= {f"context[{name!r}]": value for name, value in document["context"].items()}
    values |= {f"axes[{name!r}]": value for name, value in document["axes"].items()}
    values |= {f"scope[{name!r}]": value for name, value in archived.scope().items()}
    return values


def _space(archived: ArchivedStudy) -> dict[str, Any]:
    space: dict[str, list[Any]] = {}
    for trial in archived.study.get_trials(deepcopy=False):
        for name, distribution in trial.distributions.items():
            described = json.loads(distribution_to_json(distribution))
            if described not in space.setdefault(name, []):
                space[name].append(described)
    return {name: ones[0] if len(ones) == 1 else ones for name, ones in sorted(space.items())}


def _results(archived: ArchivedStudy) -> dict[str, Any]:
    study = archived.study
    trials = study.get_trials(deepcopy=False)
    counts = Counter(trial.state for trial in trials)
    feasible = [t.values for t in trials if t.state == TrialState.COMPLETE and is_feasible(t)]
    best = [
        (max if direction == StudyDirection.MAXIMIZE else min)(column)
        for direction, column in zip(study.directions, zip(*feasible, strict=True), strict=False)
    ]
    return {
        "trials": len(trials),
        "complete": counts[TrialState.COMPLETE],
        "pruned": counts[TrialState.PRUNED],
        "failed": counts[TrialState.FAIL],
        "directions": [direction.name.lower() for direction in study.directions],
        "best": best[0] if len(best) == 1 else best or None,
    }


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [*a, *(name for name in b if name not in a)]
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def _symbol(symbol: Mapping[str, Any]) -> str:
    return f"{symbol['module']}.{symbol['name']}"


def _shown(value: Any) -> str:
    """A value as a person would write it, short: what is tagged JSON is read where it can be."""
    try:
        text = repr(restore_value(value))
    except (ArchiveError, TypeError, ValueError):
        text = json.dumps(value, default=repr)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
