"""Stopping early: a trial hears that its machine is about to go, and saves what it has.

After SIGTERM, as of a preempted machine, `scancel` or a container that is stopped, a trial that
asks has some seconds. It may save a checkpoint and raise `TrialStopped`: it is asked again, by
whoever is free, with the attributes that it has set.
"""

from __future__ import annotations

import difflib
import threading
from pathlib import Path
from typing import Any, NoReturn

import optuna


class Stopping:
    """The signal that trials should stop: what `run` gets by naming a parameter `stopping`.

    It is true from the moment on in which the program was asked to end.

    Args:
        file: is there when processes of this machine are to stop, too.
        grace: seconds that trials have then, if any of them looks.
        is_asked: whether one surely looks.

    Example:
        >>> from prefect_optuna.tasks.stopping import Stopping
        >>> stopping = Stopping()
        >>> bool(stopping)
        False
        >>> stopping.set()
        >>> bool(stopping)
        True
    """

    def __init__(
        self, file: Path | None = None, grace: float = 0.0, *, is_asked: bool = False
    ) -> None:
        self.grace: float = grace
        self._file = file
        self._event = threading.Event()
        self._looked = is_asked

    def __reduce__(self) -> tuple[Any, ...]:
        return Stopping, (self._file,)

    def __bool__(self) -> bool:
        if not self._looked:
            self._looked = True
            if self._file is not None and not self._event.is_set():
                self._asked_file(self._file).touch()
        return self.is_set()

    def is_set(self) -> bool:
        """Tell whether trials should stop."""
        return self._event.is_set() or (self._file is not None and self._file.exists())

    @property
    def is_asked(self) -> bool:
        """True if any trial looks, so that it is worth while to wait for it."""
        return self._looked or (self._file is not None and self._asked_file(self._file).exists())

    def set(self) -> None:
        """Have trials stop."""
        self._event.set()
        if self._file is not None:
            self._file.touch()

    def close(self) -> None:
        """Remove what is on the disk."""
        if self._file is not None:
            self._asked_file(self._file).unlink(missing_ok=True)
            self._file.unlink(missing_ok=True)

    @staticmethod
    def _asked_file(file: Path) -> Path:
        return file.with_suffix(".asked")


TOLD_TO_PRUNE = "told_to_prune"
"""The user attribute of a trial that lists after how many reports `should_prune()` said yes.

Code may return what it has, as with `WilcoxonPruner`, or go on, in place of `TrialPruned`.
"""


class FlowTrial(optuna.Trial):
    """An Optuna trial that also hears when its machine is about to go.

    Attributes:
        told_to_prune: after how many reports it was told to end.
    """

    def __init__(
        self, study: optuna.Study, trial_id: int, stopping: Stopping | None = None
    ) -> None:
        super().__init__(study, trial_id)
        self._stopping = Stopping() if stopping is None else stopping
        self.told_to_prune: list[int] = []

    def should_prune(self) -> bool:
        """Tell whether Optuna's pruner gives the trial up."""
        is_given_up = super().should_prune()
        if is_given_up:
            self.told_to_prune.append(len(self._cached_frozen_trial.intermediate_values))
        return is_given_up

    def __getattr__(self, name: str) -> NoReturn:
        """Say what a trial lacks as Optuna's own would, and what may have been meant."""
        near = difflib.get_close_matches(name, dir(self), n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"'Trial' object has no attribute {name!r}{hint}")

    def should_stop(self) -> bool:
        """Tell whether the program was asked to end: save what there is, and raise `TrialStopped`.

        Example:
            >>> import optuna
            >>> from prefect_optuna.tasks.stopping import FlowTrial
            >>> study = optuna.create_study()
            >>> FlowTrial(study, study.ask()._trial_id).should_stop()
            False
        """
        return bool(self._stopping)
