"""A scope from files and from a command line."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prefect_optuna.errors import (
    ConfigFileError,
    ConfigFileNotFoundError,
    MissingParameterError,
)
from prefect_optuna.tasks.scope.origins import Origin
from prefect_optuna.tasks.scope.scope import ParamScope, make_scope
from prefect_optuna.tasks.scope.values import MISSING, flatten, parse_assignments

_REFERENCE = re.compile(r"\$\{([^${}]+)\}")


def from_files(
    *paths: str | os.PathLike[str], define: Iterable[str] = (), warn_unread: bool = True
) -> ParamScope:
    r"""Make a scope of files, in order, and of assignments after them: what comes later wins.

    A value may refer to another one: `"${data.root}/train.csv"` becomes a text, and
    `"${optimizer.lr}"` alone is whatever that is, also a whole branch.

    Args:
        paths: JSON (`.json`), YAML (`.yaml`, `.yml`) or TOML files (`.toml`), each with a mapping.
        define: texts `key=value`, as `-D` takes them on a command line.
        warn_unread: whether a key that is never read is worth a warning.

    Raises:
        ConfigFileNotFoundError: a file is not there.
        ConfigFileError: a file is malformed or of another kind, or references go in a circle.
        MissingParameterError: a reference leads nowhere.
        InvalidParameterError: a key is no text.
        InvalidSettingError: an assignment has no equals sign.

    Example:
        >>> from pathlib import Path
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> _ = Path("study.toml").write_text('seed = 7\n[simulate]\ndt = 0.1\n')
        >>> with param_scope.from_files("study.toml", define=["simulate.dt=0.2"]):
        ...     param_scope.seed(0), param_scope.simulate.dt(1.0)
        ...     print(param_scope.explain("seed"))
        (7, 0.2)
        seed = 7 from study.toml
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for path in paths:
        _merge(values, origins, flatten(_read(Path(path))), str(path))
    for key, value in parse_assignments(define).items():
        _merge(values, origins, {key: value}, f"the command line ({key}={value})")
    resolved = flatten({key: _resolve(value, values, (key,)) for key, value in values.items()})
    # A branch that a reference has brought in comes from where the reference stands.
    for key in resolved.keys() - origins.keys():
        origins[key] = next(origins[up] for up in _above(key) if up in origins)
    return make_scope(resolved, origin="files", origins=origins, warns=warn_unread)


def add_scope_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a command line `-C/--config FILE ...` and `-D/--define KEY=VALUE ...`.

    Both can be repeated. What follows them and is no option is theirs: put other arguments first,
    or `--` between.

    Args:
        parser: the command line; `scope_from_arguments` takes what it parses.

    Example:
        >>> import argparse
        >>> from prefect_optuna.tasks.scope import add_scope_arguments, scope_from_arguments
        >>> parser = argparse.ArgumentParser()
        >>> add_scope_arguments(parser)
        >>> scope_from_arguments(parser.parse_args(["-D", "seed=7", "simulate.dt=0.2"]))
        param_scope(seed='7', **{'simulate.dt': '0.2'})
    """
    group = parser.add_argument_group("parameters")
    group.add_argument(
        "-C",
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="JSON, YAML or TOML files of parameters; a later one wins",
    )
    group.add_argument(
        "-D",
        "--define",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="parameters by their dotted names; they win over files",
    )


def scope_from_arguments(arguments: argparse.Namespace) -> ParamScope:
    """Make the scope that a command line with `add_scope_arguments` asks for.

    Args:
        arguments: what the parser returned.

    Raises:
        PrefectOptunaError: as `from_files` does.

    Example:
        >>> import argparse
        >>> from prefect_optuna.tasks.scope import add_scope_arguments, scope_from_arguments
        >>> parser = argparse.ArgumentParser()
        >>> add_scope_arguments(parser)
        >>> with scope_from_arguments(parser.parse_args(["--define", "seed=7"])) as scope:
        ...     scope.seed(0)
        7
    """
    return from_files(*arguments.config, define=arguments.define)


def _read(path: Path) -> dict[Any, Any]:
    kind = path.suffix.lower()
    if kind not in (".json", ".yaml", ".yml", ".toml"):
        raise ConfigFileError(
            f"Expected a file of parameters that ends in .json, .yaml, .yml or .toml, found {path}."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigFileNotFoundError(
            f"There is no file of parameters {path}, seen from {Path.cwd()}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"The file of parameters {path} cannot be read: {error}") from error
    try:
        content = _parse(text, kind)
    except Exception as error:
        raise ConfigFileError(
            f"Expected {kind[1:].upper()} in the file of parameters {path}: {error}"
        ) from error
    if content is None:  # an empty YAML file
        return {}
    if not isinstance(content, dict):
        raise ConfigFileError(
            f"Expected a mapping of names to values in the file of parameters {path}, found a "
            f"{type(content).__name__}."
        )
    return content


def _parse(text: str, kind: str) -> Any:
    if kind == ".json":
        return json.loads(text)
    if kind == ".toml":
        return _toml(text)
    import yaml

    return yaml.safe_load(text)


def _toml(text: str) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(text)


def _merge(
    values: dict[str, Any], origins: dict[str, Origin], new: dict[str, Any], origin: str
) -> None:
    """A later leaf takes the place of a branch, and a later branch that of a leaf."""
    for key in new:
        for old in [old for old in values if old.startswith(f"{key}.")]:
            del values[old], origins[old]
        for old in _above(key):
            if old in values and old not in new:
                del values[old], origins[old]
    values.update(new)
    origins.update(dict.fromkeys(new, origin))


def _above(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _resolve(value: Any, values: dict[str, Any], on_the_way: tuple[str, ...]) -> Any:
    if isinstance(value, list):
        return [_resolve(item, values, on_the_way) for item in value]
    if isinstance(value, dict):
        return {key: _resolve(item, values, on_the_way) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    if whole := _REFERENCE.fullmatch(value):
        return _referred(whole[1].strip(), values, on_the_way)
    return _REFERENCE.sub(lambda match: str(_referred(match[1].strip(), values, on_the_way)), value)


def _referred(name: str, values: dict[str, Any], on_the_way: tuple[str, ...]) -> Any:
    if name in on_the_way:
        circle = " -> ".join((*on_the_way, name))
        raise ConfigFileError(f"References between parameters go in a circle: {circle}.")
    referred = values.get(name, MISSING)
    if referred is MISSING:
        branch = {
            key.removeprefix(f"{name}."): value
            for key, value in values.items()
            if key.startswith(f"{name}.")
        }
        if not branch:
            raise MissingParameterError(
                f"The parameter {on_the_way[0]!r} refers to ${{{name}}}, and nothing sets {name!r}."
            )
        referred = branch
    return _resolve(referred, values, (*on_the_way, name))
