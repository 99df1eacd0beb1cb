"""Objects that are more than their attributes, taken apart and put together as Python does it.

`__reduce_ex__(2)` says what an object is made of: what makes it, its state, its items. Only code of
installed packages is asked for that; nothing of the user's is called.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from prefect_optuna.tasks.archive.code.inspection import import_path, is_installed

# What Python may ask of an object that it takes apart.
_ASKED = (
    "__reduce__",
    "__reduce_ex__",
    "__getstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
    "__iter__",
    "items",
    "__class__",
)
# They stand for something that is elsewhere, and know passwords.
_REFUSED = (optuna.Study, optuna.Trial, optuna.storages.BaseStorage)


@dataclass(frozen=True)
class Parts:
    """The parts from which an object can be made again.

    Attributes:
        is_new: whether it is made by `make.__new__(make, ...)`, and not by calling `make`.
        make: a class, or an installed function.
        arguments: for that.
        keywords: for that.
        rest: `state`, `items` and `pairs`, as far as there are any.
    """

    is_new: bool
    make: Any
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    rest: Mapping[str, Any] = field(default_factory=dict)


def take_apart(value: Any) -> Parts | None:
    """Take an object apart; `None` where Python cannot, or would have to ask code of the user's.

    Example:
        >>> from prefect_optuna.tasks.archive.code.taking_apart import put_together, take_apart
        >>> class Words(dict):
        ...     pass
        >>> parts = take_apart(Words(a=1))
        >>> parts.rest
        {'pairs': [['a', 1]]}
    """
    if isinstance(value, _REFUSED) or not _is_asked_in_installed_code(type(value)):
        return None
    try:
        reduced: Any = value.__reduce_ex__(2)
        if not isinstance(reduced, tuple) or not 2 <= len(reduced) <= 5:
            return None
        padded: Any = (*reduced, None, None, None)
        make, arguments, state, items, pairs = padded[:5]
        rest: dict[str, Any] = {}
        if state is not None:
            rest["state"] = state
        if items is not None and (listed := list(items)):
            rest["items"] = listed
        if pairs is not None and (listed := [[key, item] for key, item in pairs]):
            rest["pairs"] = listed
    except Exception:  # noqa: BLE001 - objects may raise anything there
        return None
    newobj: Any = copyreg.__newobj__  # pyright: ignore[reportAttributeAccessIssue]
    newobj_ex: Any = copyreg.__newobj_ex__  # pyright: ignore[reportAttributeAccessIssue]
    if make is newobj:
        return Parts(True, arguments[0], tuple(arguments[1:]), {}, rest)
    if make is newobj_ex:
        return Parts(True, arguments[0], tuple(arguments[1]), dict(arguments[2]), rest)
    if not isinstance(make, type) and (import_path(make) is None or _is_builtin(make)):
        return None  # `iter` and `getattr` make what belongs to something else
    return Parts(False, make, tuple(arguments), {}, rest)


def put_together(parts: Parts) -> Any:
    """Make an object of its parts; `fill_in` gives it the rest of them, which may refer to it."""
    make = parts.make
    if parts.is_new:
        return make.__new__(make, *parts.arguments, **parts.keywords)
    return make(*parts.arguments, **parts.keywords)


def fill_in(value: Any, rest: Mapping[str, Any]) -> None:
    """Give an object its items, pairs and state."""
    # By its type: what an object says of itself is no part of the archive.
    kind: Any = type(value)
    for item in rest.get("items", ()):
        kind.append(value, item)
    for key, item in rest.get("pairs", ()):
        kind.__setitem__(value, key, item)
    if "state" in rest:
        _set_state(value, kind, rest["state"])


def _set_state(value: Any, kind: Any, state: Any) -> None:
    if (set_state := getattr(kind, "__setstate__", None)) is not None:
        set_state(value, state)
        return
    # Those of slots come beside the others.
    for attributes in state if isinstance(state, tuple) else (state,):
        for name, attribute in (attributes or {}).items():
            object.__setattr__(value, name, attribute)


def installed_name(value: Any) -> str | None:
    """Return the name of an object that an installed module keeps: NumPy's own generator.

    Example:
        >>> import numpy as np
        >>> from prefect_optuna.tasks.archive.code.taking_apart import installed_name
        >>> installed_name(np.random.mtrand._rand)
        'numpy.random.mtrand:_rand'
    """
    parts = str(type(value).__module__).split(".")
    for end in range(1, len(parts) + 1):
        module = sys.modules.get(".".join(parts[:end]))
        if module is None or not is_installed(vars(module)):
            continue
        for name, held in list(vars(module).items()):
            if held is value:
                return f"{module.__name__}:{name}"
    return None


def _is_asked_in_installed_code(kind: type) -> bool:
    for name in _ASKED:
        owner = next((base for base in kind.__mro__ if name in vars(base)), None)
        if owner is None:
            continue
        module = sys.modules.get(owner.__module__)
        # A dataclass has its methods from Python.
        made_by = getattr(vars(owner)[name], "__module__", None)
        if made_by != "dataclasses" and (module is None or not is_installed(vars(module))):
            return False
    return True


def _is_builtin(function: Any) -> bool:
    return getattr(function, "__module__", None) in (None, "builtins")
