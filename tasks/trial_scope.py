"""The scope around a trial: what its functions can read there, and what they did read."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

from prefect_optuna.blocks._secrets import SecretVariables, secret_paths
from prefect_optuna.blocks.codec.values import encode_value
from prefect_optuna.tasks.scope import capture, param_scope, recording, restore
from prefect_optuna.tasks.scope.checking import check_types, unread_words
from prefect_optuna.tasks.scope.frames import get
from prefect_optuna.tasks.scope.unread import may_be_read_elsewhere
from prefect_optuna.tasks.scope.values import flatten

_MAX_READS, _MAX_LETTERS = 100, 200  # an attribute of a trial stays small
_LEFT_OUT = "***"  # a secret, which the trial has put into the scope itself


class TrialScope:
    """The parameters of a study, for whichever thread or process runs its trials.

    It takes the scope that is in force where it is made. It can be pickled if the values can.

    Example:
        >>> from prefect_optuna.tasks import param_scope
        >>> from prefect_optuna.tasks.trial_scope import TrialScope
        >>> with param_scope(**{"simulate.dt": 0.1, "seed": 1}):
        ...     scope = TrialScope({"seed": 7})
        >>> with scope.around(3, {"x": 0.5}) as used:
        ...     param_scope.seed(0), param_scope.simulate.dt(1.0), param_scope.x(0.0)
        (7, 0.1, 0.5)
        >>> scope.attribute(used, {"x": 0.5})
        {'seed': 7, 'simulate.dt': 0.1}
    """

    def __init__(self, given: Mapping[str, Any] | None = None, *, handed_out: bool = False) -> None:
        self._given = set(flatten(given or {}))
        self._handed_out = handed_out
        self.values: dict[str, Any] = {**capture().values(), **(given or {})}
        """The parameters, for functions that name `scope`, and for the archive."""
        if handed_out:
            may_be_read_elsewhere(get())
        with param_scope.labelled(given or {}, origin="the scope of the study"):
            self._snapshot = capture()

    def check(self) -> None:
        """Refuse parameters that do not become of the type that `auto_param` functions take."""
        check_types(self.values)

    def unread(self, read: Iterable[str]) -> str:
        """Name the given parameters that a trial has not read; empty if it has read all."""
        names = set(read)
        if self._handed_out or len(names) >= _MAX_READS:
            return ""
        return unread_words(self._given - names, names)

    @contextmanager
    def around(
        self, number: int | None = None, params: Mapping[str, Any] | None = None
    ) -> Generator[dict[str, Any]]:
        """Put the parameters in force, together with those of a trial."""
        # Whatever `suggest` returns is a mapping, and no more is known of it.
        named = {str(name): value for name, value in (params or {}).items()}
        own = param_scope.labelled(named, origin=f"trial {number}")
        with restore(self._snapshot), own, recording() as used:
            yield used

    def attribute(self, used: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what was read, as an attribute of the trial: JSON, without its own parameters."""

        def short(value: Any, _: str) -> str:
            return repr(value)[:_MAX_LETTERS]

        names = [name for name in used if name not in params][:_MAX_READS]
        variables = SecretVariables.here()

        def public(name: str) -> Any:
            if any(secret_paths({name: used[name]}, "")):
                return _LEFT_OUT
            encoded = encode_value(used[name], short, name)
            return _cut(encoded) if variables.name_in(encoded) is None else _LEFT_OUT

        return {name: public(name) for name in names}


def _cut(value: Any) -> Any:
    text = str(value)
    return value if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 1] + "…"
