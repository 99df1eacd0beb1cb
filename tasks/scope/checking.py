"""Values that somebody sets from outside, for a whole study: of the right name and the right type.

`param_scope` itself converts what it can and leaves the rest as it is, as the package that it
comes from does. Who sets `simulate.dt` for a study is told in a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from typing import Any

from prefect_optuna.blocks._secrets import is_secret_name, public_text
from prefect_optuna.errors import InvalidParameterError
from prefect_optuna.tasks.scope.auto_parameters import auto_params
from prefect_optuna.tasks.scope.unread import nearest
from prefect_optuna.tasks.scope.values import CONVERTERS, MISSING, coerce, flatten


def check_types(values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> None:
    """Refuse values that do not become of the type that the code takes."""
    if not values:
        return
    wanted: Mapping[str, Any] = (
        {known.name: known.default for known in auto_params()} if defaults is None else defaults
    )
    for key, value in flatten(values).items():
        default = wanted.get(key, MISSING)
        if value is None or type(default) not in CONVERTERS or _becomes(value, default):
            continue
        kind, given = type(default).__name__, type(value).__name__
        if not is_secret_name(key):
            given = f"{public_text(repr(value))} ({given})"
        raise InvalidParameterError(
            f"{key!r} is {'an' if kind == 'int' else 'a'} {kind}, such as {default!r}; found "
            f"{given}."
        )


def _becomes(value: Any, default: Any) -> bool:
    if isinstance(default, str) or getattr(value, "shape", ()):
        return True
    if isinstance(default, bool):
        return coerce(value, True) is coerce(value, False)  # what says nothing gives the default
    coerced = coerce(value, default)
    if isinstance(default, float):
        return isinstance(coerced, float)
    fraction = isinstance(value, float) and not (math.isfinite(value) and value.is_integer())
    return isinstance(coerced, int) and not fraction


def check_names(values: Mapping[str, Any], read: Set[str]) -> tuple[str, ...]:
    """Refuse a name that is misspelt.

    Example:
        >>> from prefect_optuna.tasks.scope.checking import check_names
        >>> check_names({"simulat.dt": 1}, {"simulate.dt"})
        Traceback (most recent call last):
            ...
        prefect_optuna.errors.InvalidParameterError: Nothing reads 'simulat.dt'; did ...
    """
    unknown = [key for key in flatten(values) if key not in read]
    for key in unknown:
        if (near := nearest(key, set(read))) is not None:
            raise InvalidParameterError(f"Nothing reads {key!r}; did you mean {near!r}?")
    return tuple(unknown)


def unread_words(unread: Set[str], read: Set[str]) -> str:
    """A sentence for people about keys that were set and not read.

    Example:
        >>> from prefect_optuna.tasks.scope.checking import unread_words
        >>> unread_words({"simulat.dt"}, {"simulate.dt"})
        "'simulat.dt' was set and not read; did you mean 'simulate.dt'?"
    """
    words: list[str] = []
    for key in sorted(unread):
        near = nearest(key, set(read))
        words.append(
            f"{key!r} was set and not read" + (f"; did you mean {near!r}?" if near else ".")
        )
    return " ".join(words)
