"""The optimization problem: a `Problem` says how to suggest, run and evaluate.

The three parts are ordinary functions of the user's. They ask for what else they need by the
name of a parameter, so that the simple case stays simple:

========== =================== ==========================================================
part       first argument      may also name
========== =================== ==========================================================
suggest    `trial`             `context`, `scope`
run        `params`            `context` (or `ctx`), `scope`, `trial`
evaluate   `result`            `params`, `context` (or `ctx`), `scope`, `trial`
plot       `result`            `params`, `context` (or `ctx`), `scope`
========== =================== ==========================================================

`run` and `evaluate` are executed by a task, perhaps in another process. One that names `trial`
gets a live Optuna trial there, for `trial.set_constraint`, `trial.report` and the like; that needs
a storage that the worker can reach.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from prefect_optuna.blocks.texts import card
from prefect_optuna.errors import InvalidProblemError
from prefect_optuna.tasks.machine import Resources, ResourcesGiven

Direction = Literal["minimize", "maximize"]

_FIRST = {"suggest": "trial", "run": "params", "evaluate": "result", "plot": "result"}
_BY_NAME = {
    "suggest": ("context", "ctx", "scope"),
    "run": ("context", "ctx", "scope", "trial", "stopping"),
    "evaluate": ("params", "context", "ctx", "scope", "trial"),
    "plot": ("params", "context", "ctx", "scope"),
}


@dataclass(frozen=True)
class Problem:
    """An optimization problem.

    Args:
        suggest: `suggest(trial)` returns the trial's parameters as a mapping of names to values.
            It runs in the flow's process, next to the study.
        run: `run(params)` simulates or trains, and returns the result: numbers, arrays, Arrow
            tables, data frames, or a mapping of those. It runs as (part of) a task run, on
            whichever task runner the flow has. What it returns is archived.
        evaluate: `evaluate(result)` returns the value to optimize, or one for each direction.
            Without it, what `run` returns is the value. `evaluate(result, trial)` may also call
            `trial.set_constraint`.
        objective: a plain Optuna objective, in place of the three above.
        context: values that the functions get by naming a parameter `context`. Archived.
        axes: the coordinates of the result's series, such as `{"year": YEARS}`. Archived.
        directions: `"minimize"` or `"maximize"`, one for each value.
        plot: `plot(result)` returns a Matplotlib figure of one trial, for the report.
        resources: what one trial has to itself, such as
            `{"cpus": 2, "memory": "4 GiB", "gpus": 1}`; by default nothing is counted. Archived.

    Raises:
        InvalidProblemError: a part is missing, is not callable, or asks for something unknown.
        InvalidSettingError: the resources cannot be read.

    Example:
        >>> from prefect_optuna.tasks import Problem
        >>> problem = Problem(
        ...     suggest=lambda trial: {"x": trial.suggest_float("x", -5, 5)},
        ...     run=lambda params: params["x"] ** 2,
        ... )
        >>> problem.directions
        ('minimize',)
    """

    suggest: Callable[..., Mapping[str, Any]] | None = None
    run: Callable[..., Any] | None = None
    evaluate: Callable[..., float | Sequence[float]] | None = None
    objective: Callable[..., float | Sequence[float]] | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    directions: Sequence[Direction] = ("minimize",)
    plot: Callable[..., Any] | None = None
    resources: ResourcesGiven | None = None
    _named: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def _repr_html_(self) -> str:
        """Return the card for notebooks: the names of its parts, and no values of its context."""
        parts = {name: getattr(self, name) for name in (*_FIRST, "objective")}
        facts = {
            **{k: f"{getattr(v, '__qualname__', type(v).__name__)}" for k, v in parts.items() if v},
            "directions": ", ".join(self.directions),
            "context": ", ".join(self.context),
            "axes": ", ".join(self.axes),
        }
        return card("Problem", [(name, text) for name, text in facts.items() if text])

    def __post_init__(self) -> None:
        if (self.objective is None) == (self.run is None):
            raise InvalidProblemError(
                "A problem has either a `run` function or an `objective`: "
                + ("got neither." if self.run is None else "got both.")
                + " Use Problem(suggest=..., run=..., evaluate=...) or Problem(objective=...)."
            )
        if self.objective is not None and (self.suggest or self.evaluate):
            raise InvalidProblemError(
                "An `objective` suggests and evaluates by itself: leave out `suggest` and "
                "`evaluate`, or pass `run` in place of `objective`."
            )
        if self.run is not None and self.suggest is None:
            raise InvalidProblemError(
                "A problem with `run` needs `suggest`, a function that takes an Optuna trial and "
                "returns the parameters as a mapping: "
                'def suggest(trial): return {"x": trial.suggest_float("x", 0, 1)}.'
            )
        object.__setattr__(self, "directions", as_directions(self.directions))
        object.__setattr__(self, "resources", Resources.of(self.resources))
        named: dict[str, tuple[str, ...]] = {}
        for part in ("suggest", "run", "evaluate", "objective", "plot"):
            function = getattr(self, part)
            if function is None:
                continue
            if not callable(function):
                raise InvalidProblemError(
                    f"`{part}` has to be a function, found {type(function).__name__}."
                )
            if part != "objective":
                _check_signature(part, function)
            named[part] = tuple(_parameters(function)[1:])
        object.__setattr__(self, "_named", named)

    @property
    def name(self) -> str:
        """The name of the function that does the work, for people.

        Example:
            >>> from prefect_optuna.tasks import Problem
            >>> def parabola(trial):
            ...     return trial.suggest_float("x", -5, 5) ** 2
            >>> Problem(objective=parabola).name
            'parabola'
        """
        return _function_name(self.run or self.objective)

    @property
    def needs_trial(self) -> bool:
        """True if a worker needs a live Optuna trial, and so the storage, to run this problem."""
        if self.objective is not None:
            return True
        return any("trial" in self._named.get(part, ()) for part in ("run", "evaluate"))

    @property
    def names_scope(self) -> bool:
        """True if a part gets the parameters of the scope by naming a parameter `scope`."""
        return any("scope" in names for names in self._named.values())

    @property
    def names_stopping(self) -> bool:
        """True if `run` hears that it should stop, by naming a parameter `stopping`."""
        return "stopping" in self._named.get("run", ())

    def call(self, part: str, first: Any, **available: Any) -> Any:
        """Call a part of the problem with its first argument and whatever else it names.

        Args:
            part: `"suggest"`, `"run"`, `"evaluate"` or `"plot"`.
            first: the trial, the parameters or the result.
            available: what the function may ask for by name; `context` (also as `ctx`) is always
                available.

        Returns:
            What the function returns. `evaluate` is the identity where the problem has none.

        Example:
            >>> from prefect_optuna.tasks import Problem
            >>> def run(params, context):
            ...     return context["gain"] * params["x"]
            >>> problem = Problem(suggest=lambda trial: {}, run=run, context={"gain": 3})
            >>> problem.call("run", {"x": 2})
            6
        """
        function = getattr(self, part)
        if function is None:
            return first
        values = {"context": self.context, "ctx": self.context, **available}
        wanted = {name: values[name] for name in self._named[part] if name in values}
        return function(first, **wanted)

    @classmethod
    def of(
        cls,
        value: Problem | Callable[..., Any] | str,
        *,
        directions: Direction | Sequence[Direction] | None = None,
    ) -> Problem:
        """Make a problem from what people have at hand.

        Args:
            value: a `Problem`; a plain Optuna objective; or where one of them is to be found:
                `"package.module:attribute"` or `"path/to/file.py:attribute"`. Modules are looked
                for on Python's path and in the current directory.
            directions: replaces the directions of the problem.

        Raises:
            InvalidProblemError: the value is no problem, or nothing importable is there.

        Example:
            >>> from prefect_optuna.tasks import Problem
            >>> Problem.of("prefect_optuna.flows.examples.lynx_hare:problem").name
            'simulate'
        """
        where = ""
        if isinstance(value, str):
            where = f" ({value})"
            value = _import(value)
        if isinstance(value, Problem):
            problem = value
        elif callable(value) and not isinstance(value, type):
            problem = cls(objective=value)
        else:
            raise InvalidProblemError(
                "Expected a Problem, an Optuna objective (a function of a trial) or "
                f'"package.module:attribute", found {type(value).__name__}{where}.'
            )
        if directions is not None:
            wanted = as_directions(directions)
            if wanted != tuple(problem.directions):
                problem = replace(problem, directions=wanted)
        return problem


def as_directions(value: Any) -> tuple[Direction, ...]:
    """Directions as a problem has them, of a word, Optuna's own constants, or several of them.

    Example:
        >>> from prefect_optuna.tasks.problem import as_directions
        >>> as_directions("Maximize")
        ('maximize',)
    """
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    words = [str(getattr(direction, "name", direction)).lower() for direction in several]
    if not words or set(words) - {"minimize", "maximize"}:
        raise InvalidProblemError(
            f'`directions` holds "minimize" or "maximize" for each value, found {value!r}.'
        )
    return tuple(words)  # pyright: ignore[reportReturnType] - looked at above


def _function_name(function: Any) -> str:
    name = getattr(function, "__name__", None) or type(function).__name__
    return "objective" if name == "<lambda>" else name


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names a function can be given by position or keyword; `[""]` where nobody can tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [""]
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)] or [""]


def _check_signature(part: str, function: Callable[..., Any]) -> None:
    """Say now what would fail in every trial: a part that cannot be called as it will be."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    parameters = list(signature.parameters.values())
    takes_first = bool(parameters) and parameters[0].kind is not inspect.Parameter.KEYWORD_ONLY
    unknown = [
        p.name
        for p in parameters[1:]
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in _BY_NAME[part]
    ]
    if takes_first and not unknown:
        return
    given = f"{_function_name(function)}{signature}"
    raise InvalidProblemError(
        f"`{part}` is called as {part}({_FIRST[part]}), and may name "
        f"{', '.join(_BY_NAME[part])} as further parameters; found {given}. "
        + (f"Give a default to: {', '.join(unknown)}." if unknown else "")
    )


def _import(path: str) -> Any:
    """Import what `"module:attribute"` names."""
    module_name, colon, attribute = path.rpartition(":")
    if not colon or not module_name or not attribute:
        raise InvalidProblemError(
            'A problem is named as "package.module:attribute" or "path/to/file.py:attribute", '
            f"found {path!r}."
        )
    try:
        module = _load(module_name)
    except Exception as error:
        raise InvalidProblemError(
            f"Cannot import {module_name!r} for the problem {path!r}: "
            f"{type(error).__name__}: {error}. Is the module installed, or in the current "
            f"directory ({Path.cwd()})?"
        ) from error
    value: Any = module
    for name in attribute.split("."):
        try:
            value = getattr(value, name)
        except AttributeError:
            near = [n for n, v in vars(module).items() if isinstance(v, Problem)]
            raise InvalidProblemError(
                f"Module {module_name!r} has no {attribute!r}. "
                + (f"Its problems: {', '.join(near)}." if near else "It holds no Problem.")
            ) from None
    return value


def _load(name: str) -> ModuleType:
    if name.endswith(".py"):
        path = Path(name).resolve()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise FileNotFoundError(f"no such file: {path}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # before execution: dataclasses and pickle look it up
        try:
            with _importable(path.parent):  # the file's neighbours, as when Python runs it
                spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(path.stem, None)
            raise
        return module
    with _importable(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _importable(folder: Path) -> Generator[None]:
    """Look for modules here first, and afterwards last: process pools pass the path on."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
