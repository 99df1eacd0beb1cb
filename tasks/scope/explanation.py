"""The layer that gave a parameter its value: scopes from the inside out, then the default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.tasks.scope.auto_parameters import find_default
from prefect_optuna.tasks.scope.frames import Frame, origins_of
from prefect_optuna.tasks.scope.origins import describe
from prefect_optuna.tasks.scope.unread import nearest
from prefect_optuna.tasks.scope.values import coerce


@dataclass(frozen=True)
class Explanation:
    """The origin of a parameter's value.

    Args:
        name: the dotted key.
        layers: everything that gives it a value, the one that counts first: where that is, and
            the value there. Empty if nothing does.
        hint: the known name that is nearest, where nothing gives it a value.

    Example:
        >>> from prefect_optuna.tasks.scope import param_scope
        >>> with param_scope.labelled({"dt": 0.1}, origin="study lynx-hare"):
        ...     with param_scope.labelled({"dt": 0.2}, origin="trial 17"):
        ...         print(param_scope.explain("dt"))
        dt = 0.2 from trial 17, in place of 0.1 from study lynx-hare
    """

    name: str
    layers: tuple[tuple[str, Any], ...]
    hint: str | None = None

    @property
    def origin(self) -> str | None:
        """The layer that the value comes from; `None` if it has none.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope.labelled({"dt": 0.2}, origin="trial 17"):
            ...     param_scope.explain("dt").origin
            'trial 17'
        """
        return self.layers[0][0] if self.layers else None

    @property
    def value(self) -> Any:
        """The value; `None` if it has none.

        Example:
            >>> from prefect_optuna.tasks.scope import param_scope
            >>> with param_scope.labelled({"dt": 0.2}, origin="trial 17"):
            ...     param_scope.explain("dt").value
            0.2
        """
        return self.layers[0][1] if self.layers else None

    def __str__(self) -> str:
        if not self.layers:
            hint = (
                f"; did you mean {self.hint}?"
                if self.hint
                else "; one inside another function is known once that is called"
            )
            return visible_line(f"{self.name} is not set, and no auto_param function has it{hint}")
        first, *others = [f"{value!r} from {origin}" for origin, value in self.layers]
        rest = f", in place of {', '.join(others)}" if others else ""
        return visible_line(f"{self.name} = {first}{rest}")


def explain(name: str, frame: Frame) -> Explanation:
    """Explain a parameter as it is read in a frame."""
    layers = [(describe(origin), value) for origin, value in origins_of(name, frame)]
    if (known := find_default(name)) is not None:
        function, default = known
        layers = [(origin, coerce(value, default)) for origin, value in layers]
        layers.append((f"the default in {function}", default))
    return Explanation(name, tuple(layers), None if layers else nearest(name, set(frame[0])))
