"""`ParamScope`: a set of parameters that is in force for the length of a `with` block."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from sys import _getframe  # pyright: ignore[reportPrivateUsage]
from types import TracebackType
from typing import Any, Self

import cloudpickle

from prefect_optuna.errors import InvalidParameterError
from prefect_optuna.tasks.scope import unread
from prefect_optuna.tasks.scope.accessor import Accessor, checked_key, show
from prefect_optuna.tasks.scope.frames import (
    Frame,
    Layer,
    find,
    get,
    pop,
    put,
    view,
    write,
)
from prefect_optuna.tasks.scope.origins import Origin, caller
from prefect_optuna.tasks.scope.values import flatten, parse_assignments


class ParamScope(Mapping[str, Any]):
    """Parameters, in force for everything that runs within its `with` block.

    `param_scope(...)` makes one. It sees the values of the scope around it; which one that is
    shows when it is entered. A scope that is not entered reads as if it were entered now.

    Keys are dotted names, taken as they are. Nested dictionaries are flattened to them. The
    names of the methods (`keys`, `get`, `update`, ...) are fine as keys; reach them by index,
    `scope["keys"]`, or by call, `scope("keys")(default)`.

    It is a mapping, with one departure: `scope["missing"]` is no error but a reference, so that
    `scope["missing"] | 5` is 5.

    Args:
        assignments: texts `key=value`, split at the first equals sign; the value stays text, and
            becomes a number where it is read with one as the default. They go before `values`.
        values: the parameters.

    Raises:
        InvalidParameterError: an argument or a key is no text.
        InvalidSettingError: a text has no equals sign.

    Warns:
        UnreadParameterWarning: at the end of the outermost scope, of a key that nobody has read.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> with param_scope("optimizer.lr=0.1", model={"depth": 3}) as scope:
        ...     scope.optimizer.lr(1.0), param_scope.model.depth(1), param_scope.model.width(8)
        (0.1, 3, 8)
        >>> scope
        param_scope(**{'model.depth': 3, 'optimizer.lr': '0.1'})
    """

    __slots__ = ("__dict__", "_layer")

    _layer: Layer

    def __init__(self, /, *assignments: str, **values: Any) -> None:
        for key in values:
            if isinstance(values[key], dict):
                values = flatten(values)
                break
        if assignments:
            values |= parse_assignments(assignments)
        caller = _getframe(1)
        # Names and values of a content: see `frames`.
        _set_layer(self, [(values, None, True, (caller.f_code, caller.f_lasti), True)])

    def __enter__(self) -> Self:
        # As `entered` does, only faster.
        layer = self._layer
        content = layer[0]
        outer = get()
        values, _, _, _, reads, recorders = outer
        if reads is None and unread.enabled:
            reads = {}
        own = content[0]
        put((values | own if content[2] else own, content, layer, outer, reads, recorders))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        layer = self._layer
        frame: Frame | None = get()
        parent = frame[3]
        if frame[2] is layer and parent is not None:
            put(parent)
        elif (frame := pop(layer)) is None:
            return
        else:
            parent = frame[3]
        content, reads = frame[1], frame[4]
        # What was written inside stays readable, and is there when it is entered again.
        layer[0] = content
        if reads is not None and kind is None:
            if content[4]:
                for key in content[0]:
                    if key not in reads:
                        reads[key] = content
            # In one go, for other threads may still read.
            if (parent is None or parent[4] is not reads) and any(reads.values()):
                unread.warn(reads)

    def __call__(self, name: str = "") -> Accessor:
        """A parameter by its name, whatever the name is.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(keys=3)("keys")(0), param_scope(keys=3)().keys(0)
            (3, 3)
        """
        return Accessor(self._layer, name)

    def __getattr__(self, name: str) -> Accessor:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(
                f"{name!r} is no parameter by attribute; use an index: [{name!r}]."
            )
        accessor = self.__dict__[name] = Accessor(self._layer, name)
        return accessor

    def __setattr__(self, name: str, value: Any) -> None:
        write(self._layer, flatten({name: value}), caller(1))

    def __getitem__(self, name: str) -> Any:
        accessor = Accessor(self._layer, checked_key(name))
        return accessor() if name in view(self._layer)[0] else accessor

    def __setitem__(self, name: str, value: Any) -> None:
        write(self._layer, flatten({name: value}), caller(1))

    def __contains__(self, name: object) -> bool:
        values, _, _, _, reads, _ = view(self._layer)
        if reads is not None and isinstance(name, str):
            reads[name] = None
        return name in values

    def __iter__(self) -> Iterator[str]:
        values, _, _, _, reads, _ = view(self._layer)
        if reads is not None:
            reads.update(dict.fromkeys(values))
        return iter(values)

    def __len__(self) -> int:
        return len(view(self._layer)[0])

    def get(self, name: str, default: Any = None) -> Any:
        """Read a parameter, as `scope(name)(default)` does.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(seed="7").get("seed", 0)
            7
        """
        return Accessor(self._layer, name)(default)

    def put(self, name: str, value: Any) -> None:
        """Set a parameter.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> scope = param_scope()
            >>> scope.put("model.depth", 3)
            >>> scope
            param_scope(**{'model.depth': 3})
        """
        write(self._layer, flatten({name: value}), caller(1))

    def update(self, values: Mapping[str, Any]) -> Self:
        """Set several parameters at once.

        Returns:
            The scope itself.

        Raises:
            InvalidParameterError: a key is no text; nothing has been set then.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(a=1).update({"b": {"c": 2}})
            param_scope(a=1, **{'b.c': 2})
        """
        write(self._layer, flatten(values), caller(1))
        return self

    def clear(self) -> Self:
        """Remove all parameters, inherited ones included.

        Returns:
            The scope itself.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(a=1).clear()
            param_scope()
        """
        write(self._layer, None, caller(1))
        return self

    def storage(self) -> Storage:
        """The parameters as they are now.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(a={"b": 1}).storage().storage()
            {'a.b': 1}
        """
        return Storage(self)

    def allow_unread(self) -> Self:
        """Have no warning of keys of this scope that nobody reads.

        Returns:
            The scope itself.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope(perhaps=1).allow_unread():
            ...     pass
        """
        own, origins, inherits, origin, _ = self._layer[0]
        self._layer[0] = (own, origins, inherits, origin, False)
        return self

    def __repr__(self) -> str:
        return show(view(self._layer)[0])

    def __copy__(self) -> Self:
        return self._like(copy.copy)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self._like(lambda own: copy.deepcopy(own, memo))

    def __reduce__(self) -> Any:
        # Elsewhere there is no scope around it: all that it shows goes along.
        values, (_, _, inherits, _, _), *_ = view(self._layer)
        return _unpickled, (pack(values), inherits)

    def _like(self, copied: Callable[[dict[str, Any]], dict[str, Any]]) -> Self:
        frame = find(self._layer)
        own, origins, inherits, origin, warns = self._layer[0] if frame is None else frame[1]
        return self._on([(copied(own), origins, inherits, origin, warns)])

    @classmethod
    def _on(cls, layer: Layer) -> Self:
        self = cls.__new__(cls)
        _set_layer(self, layer)
        return self


class Storage(dict[str, Any]):
    """The parameters of a scope at one moment, under dotted keys."""

    def storage(self) -> dict[str, Any]:
        """A plain dictionary of them.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(a=1).storage().storage()
            {'a': 1}
        """
        return dict(self)


def make_scope(
    values: dict[str, Any],
    *,
    origin: Origin,
    origins: dict[str, Origin] | None = None,
    inherits: bool = True,
    warns: bool = True,
) -> ParamScope:
    """Make a scope of dotted keys, and say where they come from."""
    return handle([(values, origins, inherits, origin, warns)])


def handle(layer: Layer) -> ParamScope:
    """One more handle on a scope."""
    return ParamScope._on(layer)  # pyright: ignore[reportPrivateUsage]


def _unpickled(packed: bytes, inherits: bool) -> ParamScope:
    return make_scope(unpack(packed), origin="a pickled scope", inherits=inherits)


# Past `__setattr__`, which sets parameters.
_set_layer: Any = vars(ParamScope)["_layer"].__set__


def pack(values: dict[str, Any]) -> bytes:
    """Pickle the values of a scope, functions of a script included."""
    try:
        return cloudpickle.dumps(values)
    except Exception as error:
        for key, value in values.items():
            try:
                cloudpickle.dumps(value)
            except Exception as reason:
                raise InvalidParameterError(
                    f"The parameter {key!r} cannot travel to another process: its value, a "
                    f"{type(value).__module__}.{type(value).__qualname__}, cannot be pickled "
                    f"({type(reason).__name__}: {reason}). Pass what it is made from, and make it "
                    "where it is used."
                ) from reason
        raise InvalidParameterError(
            f"The parameters {', '.join(values)} cannot travel to another process together: "
            f"{type(error).__name__}: {error}."
        ) from error


def unpack(packed: bytes) -> dict[str, Any]:
    """The values again."""
    return pickle.loads(packed)  # noqa: S301 - within something that is being unpickled
