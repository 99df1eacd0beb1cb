"""Blocks that hand out an Optuna storage."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from prefect.blocks.core import Block
from pydantic import ConfigDict, PrivateAttr, ValidationError

from prefect_optuna.blocks.settings import invalid_setting
from prefect_optuna.blocks.texts import card
from prefect_optuna.errors import StudyMismatchError, StudyNotFoundError

_Direction: TypeAlias = Literal["minimize", "maximize"] | StudyDirection

_opening = threading.RLock()
_inherited: list[BaseStorage] = []


def _renew_lock_after_fork() -> None:
    # Another thread of the parent may have held the lock; in the child nobody would release it.
    global _opening
    _opening = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock_after_fork)


class StudyStorage(Block, ABC):
    """Where the studies of a project are kept: the base of all storage blocks.

    A block is configuration. It opens the Optuna storage on first use and keeps it for as long
    as the block lives in this process; a copy, a pickle and a forked child open their own.
    """

    # A slot, because pydantic copies, compares and pickles its private attributes.
    __slots__ = ("_opened",)

    # Without this, pydantic quotes the rejected input, and with it a URL's password.
    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    if not TYPE_CHECKING:  # checkers know the fields

        def __init__(self, *args: Any, **settings: Any) -> None:
            try:
                super().__init__(*args, **settings)
            except ValidationError as error:
                raise invalid_setting(f"The block {type(self).__name__}", error) from None

    if TYPE_CHECKING:
        _opened: tuple[int, BaseStorage] = PrivateAttr()

    @abstractmethod
    def _open(self) -> BaseStorage:
        """Open the storage, or raise `StorageUnavailableError`."""

    @property
    @abstractmethod
    def location(self) -> str:
        """The storage's URL for people to read, without any password."""

    def _repr_html_(self) -> str:
        """Return the card that notebooks show."""
        return card(type(self).__name__, [("where", self.location)])

    def get_storage(self) -> BaseStorage:
        """Return the Optuna storage of this block, the same one each time.

        Safe to call from many threads.

        Returns:
            A storage to pass to Optuna's own functions.

        Raises:
            StorageUnavailableError: the storage cannot be reached, read or written.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> block = InMemoryStudyStorage(name="docs")
            >>> block.get_storage() is block.get_storage()
            True
        """
        storage = self._opened_here()
        if storage is None:
            with _opening:
                storage = self._opened_here()
                if storage is None:
                    storage = self._open()
                    self._opened = (os.getpid(), storage)
        return storage

    def _opened_here(self) -> BaseStorage | None:
        pid, storage = getattr(self, "_opened", (None, None))
        if storage is None or pid == os.getpid():
            return storage
        # A fork's connections are its parent's: closing them here, which is what collecting the
        # garbage would do, would close them there.
        _inherited.append(storage)
        return None

    def create_study(
        self,
        study_name: str | None = None,
        *,
        direction: _Direction | None = None,
        directions: Sequence[_Direction] | None = None,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
        load_if_exists: bool = False,
    ) -> optuna.Study:
        """Create a study in this storage, as `optuna.create_study` does.

        Args:
            study_name: its name; Optuna makes one up if there is none.
            direction: `"minimize"` (the default) or `"maximize"`, for one objective.
            directions: one direction for each objective, in place of `direction`.
            sampler: suggests the parameters; Optuna's default is TPE.
            pruner: stops trials early; Optuna's default is the median pruner.
            load_if_exists: return a study of that name if there is one, which must have the
                directions asked for.

        Returns:
            The study.

        Raises:
            StudyMismatchError: a study of that name exists and has other directions.
            optuna.exceptions.DuplicatedStudyError: a study of that name exists, and
                `load_if_exists` is false.
            StorageUnavailableError: the storage cannot be reached.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> study = InMemoryStudyStorage(name="docs").create_study(
            ...     "tuning", direction="maximize", load_if_exists=True
            ... )
            >>> study.direction.name
            'MAXIMIZE'
        """
        study = optuna.create_study(
            storage=self.get_storage(),
            study_name=study_name,
            direction=direction,
            directions=directions,
            sampler=sampler,
            pruner=pruner,
            load_if_exists=load_if_exists,
        )
        wanted: Sequence[_Direction] = directions or ([direction] if direction else [])
        if wanted and _names(wanted) != _names(study.directions):
            raise StudyMismatchError(
                f"The study {study_name!r} in {self.location} has the directions "
                f"{_names(study.directions)}, and {_names(wanted)} were asked for. "
                "Take another study name, or the directions that the study has."
            )
        return study

    def load_study(
        self,
        study_name: str,
        *,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
    ) -> optuna.Study:
        """Load a study of this storage, as `optuna.load_study` does.

        Args:
            study_name: its name.
            sampler: suggests the parameters of further trials.
            pruner: stops further trials early.

        Returns:
            The study.

        Raises:
            StudyNotFoundError: the storage has no study of that name; says which are near.
            StorageUnavailableError: the storage cannot be reached.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> block = InMemoryStudyStorage(name="docs")
            >>> _ = block.create_study("lynx-hare", load_if_exists=True)
            >>> block.load_study("lynx-hare").study_name
            'lynx-hare'
        """
        try:
            return optuna.load_study(
                study_name=study_name, storage=self.get_storage(), sampler=sampler, pruner=pruner
            )
        except KeyError:
            names = self.study_names()
        raise StudyNotFoundError(
            f"There is no study {study_name!r} in {self.location}. {_near(study_name, names)}"
        )

    def study_names(self) -> list[str]:
        """List the names of all studies in this storage.

        Returns:
            The names, oldest study first.

        Raises:
            StorageUnavailableError: the storage cannot be reached.

        Example:
            >>> from prefect_optuna.blocks import InMemoryStudyStorage
            >>> InMemoryStudyStorage(name="nothing yet").study_names()
            []
        """
        return [study.study_name for study in self.get_storage().get_all_studies()]


def _names(directions: Sequence[_Direction]) -> list[str]:
    return [d.name.lower() if isinstance(d, StudyDirection) else d for d in directions]


def _near(wanted: str, names: list[str]) -> str:
    if not names:
        return "It has no studies yet."
    if near := get_close_matches(wanted, names, n=5, cutoff=0.5):
        return f"Did you mean {' or '.join(map(repr, near))}?"
    newest = ", ".join(map(repr, names[-5:]))
    return f"It has {len(names)} studies; the newest are: {newest}."
