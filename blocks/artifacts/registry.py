"""Registry of artifact handlers, and the choice of one for a value.

Where two handlers could be meant, the same one is taken everywhere: those of `register_handler`
come first, the latest at the front, then the built-in ones, then those of installed packages in
the order of their names. An alias means one handler: whoever comes second with it is refused.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from prefect.logging import get_logger

from prefect_optuna.blocks.artifacts.artifact import Artifact, type_name
from prefect_optuna.blocks.artifacts.figure_artifacts import HTMLArtifact, PNGArtifact, SVGArtifact
from prefect_optuna.blocks.artifacts.table_artifacts import (
    ArrowArtifact,
    CSVArtifact,
    NPYArtifact,
    NPZArtifact,
    ParquetArtifact,
)
from prefect_optuna.blocks.artifacts.value_artifacts import (
    JoblibArtifact,
    JSONArtifact,
    MarkdownArtifact,
    PickleArtifact,
    PydanticArtifact,
    TextArtifact,
    YAMLArtifact,
)
from prefect_optuna.errors import UnknownHandlerError

ENTRY_POINT_GROUP = "prefect_optuna.artifacts"
"""Entry points in which packages name their handlers: `alias = "package.module:Class"`."""

# In the order in which they are asked whether they take a value: NPZ before JSON, for both take
# a dictionary of arrays.
_BUILT_IN: tuple[type[Artifact], ...] = (
    NPZArtifact,
    TextArtifact,
    JSONArtifact,
    NPYArtifact,
    ParquetArtifact,
    PydanticArtifact,
    PNGArtifact,
    HTMLArtifact,
    SVGArtifact,
    MarkdownArtifact,
    YAMLArtifact,
    CSVArtifact,
    ArrowArtifact,
    PickleArtifact,
    JoblibArtifact,
)

_ALIAS = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_HandlerClass = TypeVar("_HandlerClass", bound=type[Artifact])

_logger = get_logger(__name__)
_own: dict[str, type[Artifact]] = {handler.alias: handler for handler in _BUILT_IN}
_asked: list[type[Artifact]] = list(_BUILT_IN)


def find_handler(alias: str) -> type[Artifact]:
    """Find a handler by its alias, in lower and upper case as it is.

    Unlike lazyscribe, which searches all installed packages and all subclasses in every call,
    this knows built-in and registered handlers at once, and searches the packages once.

    Args:
        alias: such as "json" or "parquet".

    Returns:
        The class.

    Raises:
        UnknownHandlerError: nobody offers that alias, or a package does and it cannot be imported,
            is no handler, or another one has it, too.

    Example:
        >>> from prefect_optuna.blocks.artifacts import find_handler
        >>> find_handler("json").__name__
        'JSONArtifact'
    """
    handler = _own.get(alias)
    if handler is not None:
        return handler
    installed = _installed()
    if alias in installed.handlers:
        return installed.handlers[alias]
    if alias in installed.broken:
        raise installed.broken[alias].error()
    known = handlers()
    near = difflib.get_close_matches(str(alias), known, n=1)
    raise UnknownHandlerError(
        f"No artifact handler has the alias {alias!r}"
        + (f"; did you mean {near[0]!r}?" if near else ".")
        + f" There are {', '.join(known)}. Installed packages offer more by the entry point group "
        f"{ENTRY_POINT_GROUP!r}, and register_handler adds one for this process."
    )


def handler_for(value: Any) -> type[Artifact]:
    """Find the handler for a value by its type; no library is imported for it.

    Args:
        value: the value. Pickle and joblib are never picked.

    Returns:
        The class.

    Raises:
        UnknownHandlerError: no handler takes values of this type; names it.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.blocks.artifacts import handler_for
        >>> [handler_for(value).alias for value in ({"x": 1}, "text", np.zeros(2))]
        ['json', 'text', 'npy']
    """
    for handler in _asked:
        if handler.takes(value):
            return handler
    installed = _installed()
    for handler in installed.handlers.values():
        if handler.takes(value):
            return handler
    broken = "".join(f" {failed.text}" for failed in installed.broken.values())
    raise UnknownHandlerError(
        f"No artifact handler takes a value of the type {type_name(value)}. Name one that does, "
        f"such as handler='json' with default=..., register one with register_handler, or, if you "
        f"trust who reads and writes, use handler='pickle' with allow_pickle=True.{broken}"
    )


def handlers() -> Mapping[str, type[Artifact]]:
    """List all handlers.

    Returns:
        Their classes by alias, sorted by alias; those that cannot be loaded are not among them.

    Example:
        >>> from prefect_optuna.blocks.artifacts import handlers
        >>> [alias for alias, handler in handlers().items() if handler.output_only]
        ['html', 'png', 'svg']
    """
    known = {**_installed().handlers, **_own}
    return MappingProxyType(dict(sorted(known.items())))


def register_handler(handler: _HandlerClass) -> _HandlerClass:
    """Add a handler in this process, also as a decorator.

    A package that others install should name it in the entry point group
    `prefect_optuna.artifacts` instead, so that it is found in every process.

    Args:
        handler: the class. It is asked before all others whether it takes a value. A class of
            the same name and module replaces the one before, as in a notebook's cell.

    Returns:
        The class itself.

    Raises:
        UnknownHandlerError: it is no complete handler, or another one has its alias.

    Example:
        >>> from typing import ClassVar
        >>> from prefect_optuna.blocks.artifacts import TextArtifact, find_handler, register_handler
        >>> @register_handler
        ... class RestArtifact(TextArtifact):
        ...     alias: ClassVar[str] = "rst"
        ...     suffix: ClassVar[str] = "rst"
        >>> find_handler("rst").__name__
        'RestArtifact'
    """
    problem = _problem(handler)
    if problem:
        raise UnknownHandlerError(f"{handler!r} cannot be registered: {problem}")
    present = _own.get(handler.alias)
    if present is not None and _path(present) != _path(handler):
        raise UnknownHandlerError(
            f"{_path(handler)} cannot be registered: {_path(present)} has the alias "
            f"{handler.alias!r} already. Pick another alias."
        )
    if present is not None:
        _asked.remove(present)
    _asked.insert(0, handler)
    _own[handler.alias] = handler
    return handler


class _Broken(NamedTuple):
    """The reason why an alias has no handler. Each lookup gets an error of its own."""

    text: str
    cause: BaseException | None = None

    def error(self) -> UnknownHandlerError:
        error = UnknownHandlerError(self.text)
        error.__cause__ = self.cause
        return error


class _Installed(NamedTuple):
    handlers: dict[str, type[Artifact]]
    broken: dict[str, _Broken]


@functools.cache
def _installed() -> _Installed:
    """The handlers that installed packages offer."""
    offered: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        offered.setdefault(point.name, {}).setdefault(point.value, point)
    handlers: dict[str, type[Artifact]] = {}
    broken: dict[str, _Broken] = {}
    for alias, points in sorted(offered.items()):
        titles = " and ".join(sorted(map(_title, points.values())))
        if alias in {handler.alias for handler in _BUILT_IN}:
            _logger.warning(
                "%s is left out: the artifact handler %r is built in. It should pick another "
                "alias.",
                titles,
                alias,
            )
        elif len(points) > 1:
            broken[alias] = _Broken(
                f"Two packages offer an artifact handler {alias!r}: {titles}. Uninstall one."
            )
        else:
            (point,) = points.values()
            loaded = _load(point)
            if isinstance(loaded, _Broken):
                broken[alias] = loaded
            else:
                handlers[alias] = loaded
    return _Installed(handlers, broken)


def _load(point: EntryPoint) -> type[Artifact] | _Broken:
    try:
        handler = point.load()
    except Exception as error:  # noqa: BLE001 - one package's fault must not touch the others
        return _Broken(
            f"{_title(point)} cannot be imported: {type(error).__name__}: {error}. Update or "
            "uninstall that package.",
            error,
        )
    problem = _problem(handler)
    if not problem and handler.alias != point.name:
        problem = f"its alias is {handler.alias!r}, and has to be the name of the entry point."
    if problem:
        return _Broken(f"{_title(point)} cannot be used: {problem}")
    return handler


def _problem(handler: Any) -> str:
    if not isinstance(handler, type) or not issubclass(handler, Artifact):
        given = f"the class {handler.__name__}" if isinstance(handler, type) else type_name(handler)
        return f"expected a subclass of Artifact, and found {given}."
    if inspect.isabstract(handler):
        return f"it lacks {', '.join(sorted(handler.__abstractmethods__))}."
    for name, pattern in (("alias", _ALIAS), ("suffix", _SUFFIX)):
        value = getattr(handler, name, None)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            return f"its {name} has to match {pattern.pattern}, and is {value!r}."
    for name in ("binary", "output_only"):
        if not isinstance(getattr(handler, name, None), bool):
            return f"its {name} has to be True or False."
    return ""


def _title(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else "an unknown package"
    return f"The entry point {point.name} = {point.value} of {package}"


def _path(handler: type[Artifact]) -> str:
    return f"{handler.__module__}:{handler.__qualname__}"
