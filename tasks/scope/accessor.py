"""The accessor `param_scope.a.b`: a parameter by its name, to be read or set."""

from __future__ import annotations

from typing import Any, NoReturn

from prefect_optuna.errors import InvalidParameterError, MissingParameterError
from prefect_optuna.tasks.scope.frames import Layer, get, view, write
from prefect_optuna.tasks.scope.origins import caller
from prefect_optuna.tasks.scope.values import MISSING, coerce, flatten


class Accessor:
    r"""A parameter by its name. It refers to the value, and never is the value.

    | expression | what it does |
    |---|---|
    | `param_scope.a.b()` | the value; `MissingParameterError` where there is none |
    | `param_scope.a.b(1)`, `param_scope.a.b \| 1` | the value as an `int`, or 1 without one |
    | `param_scope.a.b(None)` | the value as it is, or `None` |
    | `param_scope.a.b([], literal=True)` | a text is read as a Python literal |
    | `bool(param_scope.a.b)` | whether there is a value that counts as true |
    | `param_scope.a.b = 2` | set it in the innermost scope |

    `None` is a value like any other: a default takes its place only if the parameter is missing.
    A parameter named `get_or_else`, or one whose name has two leading and trailing underscores, is
    reached by index: `param_scope["model.get_or_else"]`.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> with param_scope("simulate.dt=0.01"):
        ...     param_scope.simulate.dt(1.0), param_scope.simulate.steps | 100
        (0.01, 100)
    """

    __slots__ = ("__dict__", "_layer", "_name")

    _layer: Layer | None
    _name: str

    def __init__(self, layer: Layer | None, name: str) -> None:
        _set_accessor_layer(self, layer)
        _set_name(self, name)

    def __call__(self, default: Any = MISSING, *, literal: bool = False) -> Any:
        """Read the parameter.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(seed="7").seed(0)
            7
        """
        frame = get()
        layer = self._layer
        if layer is not None and layer is not frame[2]:
            frame = view(layer)
        # Values, reads and recorders; unpacking all of a frame takes longer.
        name = self._name
        value = frame[0].get(name, MISSING)
        if (reads := frame[4]) is not None:
            reads[name] = None
        if value is MISSING:
            if default is MISSING:
                raise _missing(name)
            value = default
        elif type(value) is not type(default) and default is not MISSING:
            value = coerce(value, default, literal)
        if frame[5]:
            for recorder in frame[5]:
                recorder[name] = value
        return value

    __or__ = __call__

    def get_or_else(self, default: Any = None) -> Any:
        """Read the parameter, or the default where it is missing.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> param_scope(seed="7").seed.get_or_else(0)
            7
        """
        return self(default)

    def __bool__(self) -> bool:
        return bool(self(None))

    def __getattr__(self, name: str) -> Accessor:
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeError(
                f"{name!r} is no parameter by attribute; use an index: [{name!r}]."
            )
        child = self.__dict__[name] = Accessor(self._layer, self._child(name))
        return child

    def __getitem__(self, name: str) -> Accessor:
        return Accessor(self._layer, self._child(checked_key(name)))

    def __setattr__(self, name: str, value: Any) -> None:
        write(self._layer, flatten({self._child(name): value}), caller(1))

    def __setitem__(self, name: str, value: Any) -> None:
        write(self._layer, flatten({self._child(checked_key(name)): value}), caller(1))

    def _child(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name

    def __repr__(self) -> str:
        values = (get() if self._layer is None else view(self._layer))[0]
        return f"<{self._name} in {show(values)}>"

    def __reduce__(self) -> Any:
        # The accessors of `param_scope` only: those of a scope go with the scope.
        if self._layer is None:
            return Accessor, (None, self._name)
        raise InvalidParameterError(
            f"{self._name!r} is taken from a scope, and such a reference cannot be pickled. "
            "Pass the scope, or the value: call it."
        )

    def __copy__(self) -> Accessor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Accessor:
        return self

    def __iter__(self) -> NoReturn:
        raise self._no_value("iterated over")

    def __contains__(self, item: object) -> NoReturn:
        raise self._no_value("searched")

    def __len__(self) -> NoReturn:
        raise self._no_value("measured")

    def _no_value(self, action: str) -> InvalidParameterError:
        return InvalidParameterError(
            f"The parameter {self._name!r} cannot be {action}: it is a reference, not its value. "
            f"Read it with {self._name}() or, with a default, {self._name}(1) or {self._name} | 1."
        )


def show(values: dict[str, Any]) -> str:
    """A scope as the call that makes it."""
    shown = [f"{key}={value!r}" for key, value in values.items() if key.isidentifier()]
    if rest := {key: value for key, value in values.items() if not key.isidentifier()}:
        shown.append(f"**{rest!r}")
    return f"param_scope({', '.join(shown)})"


def _missing(name: str) -> MissingParameterError:
    return MissingParameterError(
        f"The parameter {name!r} is required and in no scope. Set it, "
        f"with param_scope(**{{{name!r}: ...}}): ..., or read it with a default."
    )


def checked_key(name: Any) -> str:
    """A key, once it is certain to be text."""
    if not isinstance(name, str):
        raise InvalidParameterError(
            f"A parameter's key has to be text, found {name!r} ({type(name).__name__})."
        )
    return name


def _refusal(action: str) -> Any:
    def refuse(self: Accessor, *others: object) -> NoReturn:
        raise self._no_value(action)  # pyright: ignore[reportPrivateUsage]

    return refuse


# To be slots they have to be in the class; what they say is the same for all.
_OPERATORS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod divmod rdivmod pow "
    "rpow matmul rmatmul lshift rlshift rshift rrshift and rand xor rxor ror lt le gt ge neg pos "
    "abs invert round"
)
for _operator in _OPERATORS.split(" "):
    setattr(Accessor, f"__{_operator}__", _refusal("calculated with or compared"))
for _conversion in ("int", "float", "complex", "index"):
    setattr(Accessor, f"__{_conversion}__", _refusal("converted"))

# Past `__setattr__`, which sets parameters.
_set_accessor_layer: Any = vars(Accessor)["_layer"].__set__
_set_name: Any = vars(Accessor)["_name"].__set__
