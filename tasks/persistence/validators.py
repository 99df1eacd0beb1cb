"""Checks of objects that were loaded: are they new enough, whole, of one experiment."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from prefect.logging import get_logger

from prefect_optuna.errors import PersistenceConcatError
from prefect_optuna.tasks.persistence.info import ensure_persistence_class
from prefect_optuna.tasks.persistence.same import same

T = TypeVar("T")

_logger = get_logger("persistence")

Moment = float | Path | tuple[int, int, int] | date | datetime


def create_date_validate(obj: Moment, ref: Moment, verbose: bool = True) -> bool:
    """Say whether something was made at the time of something else, or later.

    Args:
        obj: a time in seconds, a path, whose file's time of change counts, (year, month, day), a
            date, or a date with time. What has no time zone is local time; a day begins at
            midnight.
        ref: what it is compared with.
        verbose: log why not.

    Returns:
        Whether it was; `False` if a file is missing.

    Raises:
        TypeError: this is no time.

    Example:
        >>> from prefect_optuna.tasks.persistence import create_date_validate
        >>> create_date_validate((2026, 1, 3), (2026, 1, 2))
        True
    """
    try:
        made, needed = _seconds(obj), _seconds(ref)
    except FileNotFoundError as error:
        if verbose:
            _logger.warning("There is no file %s to compare the time of.", error.filename)
        return False
    if made >= needed:
        return True
    if verbose:
        when = datetime.fromtimestamp(needed, tz=UTC).astimezone()
        _logger.warning("persistence data is created before %s", when.isoformat(" ", "seconds"))
    return False


def attributes_validate(obj: Any, *exclude: str) -> bool:
    """Say whether all fields of an object are set that have no value in its class.

    Args:
        obj: an object of a persistence class.
        exclude: names of fields that may be unset.

    Returns:
        Whether they are.

    Raises:
        InvalidPersistenceClassError: it is no such object.

    Example:
        >>> from prefect_optuna.tasks.persistence import attributes_validate, field
        >>> from prefect_optuna.tasks.persistence import persistence_class
        >>> @persistence_class
        ... class Session:
        ...     animal: str = field(filename=True)
        ...     power: list[float]
        >>> attributes_validate(Session("lynx")), attributes_validate(Session("lynx"), "power")
        (False, True)
    """
    return all(
        field.optional or field.field_name in exclude or hasattr(obj, field.field_name)
        for field in ensure_persistence_class(obj).fields
    )


class ETLConcatable(abc.ABC, Generic[T]):
    """Something whose objects, one for each imaging plane, can be put together to one."""

    @abc.abstractmethod
    def concat_etl(self, data: list[T]) -> T:
        """Put the objects of all planes together.

        Args:
            data: the objects.

        Returns:
            One object.
        """


def validate_concat_etl_persistence(
    data: Sequence[Any], field_check: tuple[str, ...] | None = None
) -> None:
    """Make sure that objects are the planes of one experiment.

    They need `exp_date`, `animal` and `plane_index`.

    Args:
        data: the objects.
        field_check: names of more fields that have to be the same in all.

    Raises:
        PersistenceConcatError: they are of different experiments; names the field.
        RuntimeError: there are none, or they have no `exp_date` or `animal`.
        AttributeError: one has no `plane_index`.
        TypeError: a `plane_index` is no int.

    Example:
        >>> from prefect_optuna.tasks.persistence import field, persistence_class
        >>> from prefect_optuna.tasks.persistence import validate_concat_etl_persistence
        >>> @persistence_class
        ... class Plane:
        ...     exp_date: str = field(filename=True)
        ...     animal: str = field(filename=True)
        ...     plane_index: int = field(filename=True)
        >>> validate_concat_etl_persistence([Plane("2026-01-02", "lynx", n) for n in range(2)])
    """
    if not data or any(not hasattr(data[0], name) for name in ("exp_date", "animal")):
        raise RuntimeError(
            "different dataset is not concatable: expected objects with exp_date and animal."
        )
    for number, plane in enumerate(data):
        if not hasattr(plane, "plane_index"):
            raise AttributeError(f"not plane index field: object {number} has no plane_index.")
        if type(plane.plane_index) is not int:
            raise TypeError(
                f"Expected an int as plane_index of object {number}, found "
                f"{type(plane.plane_index).__name__}."
            )
    for name in ("exp_date", "animal", *(field_check or ())):
        first = getattr(data[0], name)
        for number, plane in enumerate(data):
            if not same(first, getattr(plane, name)):
                raise PersistenceConcatError(
                    f"Expected one {name} in all objects, found another in object {number} than in "
                    "the first. Concatenate the planes of one experiment only."
                )


def _seconds(moment: Moment) -> float:
    if isinstance(moment, bool):
        raise TypeError("Expected a time, found a bool.")
    if isinstance(moment, (int, float)):
        return float(moment)
    if isinstance(moment, Path):
        return moment.stat().st_mtime
    if isinstance(moment, tuple):
        return _local(datetime(*moment))  # noqa: DTZ001 - a day of the user's own calendar
    if isinstance(moment, datetime):
        return _local(moment)
    if isinstance(moment, date):  # pyright: ignore[reportUnnecessaryIsInstance]
        return _local(datetime(moment.year, moment.month, moment.day))  # noqa: DTZ001
    raise TypeError(
        f"Expected seconds, a path, (year, month, day) or a date, found {type(moment).__name__}."
    )


def _local(moment: datetime) -> float:
    return moment.timestamp()
