"""Lookup of a version: by its number, by the time it was made, or as of a time."""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect_optuna.blocks.artifacts.index import VersionIndex, with_marks
from prefect_optuna.blocks.artifacts.records import ArtifactVersion
from prefect_optuna.errors import InvalidVersionError, VersionNotFoundError

_EXPECTED = (
    "Expected a number, such as 3, or a time: a datetime, or text such as '2025-01-25T12:36:22'."
)


def as_moment(value: Any) -> datetime:
    """Turn a `datetime` or its text into a moment in UTC; one without a zone is taken as UTC."""
    return _span(value)[0]


def find_version(
    index: VersionIndex,
    directory: str,
    name: str,
    numbers: Sequence[int],
    version: Any,
    asof: Any,
) -> ArtifactVersion:
    """Find the version that is meant, with its marks."""
    if version is not None and asof is not None:
        raise InvalidVersionError(
            f"Expected one of `version` and `asof`, found both: {version!r} and {asof!r}."
        )
    if asof is not None:
        return _current(index, directory, name, numbers, _span(asof)[1], asof=True)
    if version is None:
        now = datetime.now(UTC)
        return _current(index, directory, name, numbers, now, asof=False)
    if isinstance(version, (datetime, str)):
        number = _made_at(index, directory, name, numbers, version)
    else:
        number = _as_number(version)
        if number not in numbers:
            raise VersionNotFoundError(
                f"There is no version {number} of {name!r}, only {_list(numbers)}."
            )
    return with_marks(index.record(directory, number), index.marks(directory, [number])[number])


def _as_number(version: Any) -> int:
    try:
        if isinstance(version, bool):
            raise TypeError
        return operator.index(version)
    except TypeError:
        raise InvalidVersionError(f"{version!r} is no version. {_EXPECTED}") from None


def _current(
    index: VersionIndex,
    directory: str,
    name: str,
    numbers: Sequence[int],
    moment: datetime,
    *,
    asof: bool,
) -> ArtifactVersion:
    """The newest version that was there at a moment and not out of date then."""
    if asof:
        end = bisect_right(numbers, moment, key=lambda n: index.record(directory, n).created_at)
        if end == 0:
            first = index.record(directory, numbers[0]).created_at
            raise VersionNotFoundError(
                f"As of {moment.isoformat()} there was no version of {name!r} yet; the first, "
                f"{numbers[0]}, was made at {first.isoformat()}."
            )
        numbers = numbers[:end]
    end, step = len(numbers), 1
    while end > 0:
        batch = numbers[max(0, end - step) : end]
        marks = index.marks(directory, batch)
        for number in reversed(batch):
            expiry = marks[number].expiry
            if expiry is None or moment < expiry:
                return with_marks(index.record(directory, number), marks[number])
        end, step = end - len(batch), step * 4
    raise VersionNotFoundError(
        f"All versions of {name!r} are expired as of {moment.isoformat()}: {_list(numbers)}. Name "
        "one by its number to load it all the same, or set a later time with `expire`."
    )


def _made_at(
    index: VersionIndex,
    directory: str,
    name: str,
    numbers: Sequence[int],
    version: datetime | str,
) -> int:
    first, last = _span(version)

    def created_at(number: int) -> datetime:
        return index.record(directory, number).created_at

    made = numbers[
        bisect_left(numbers, first, key=created_at) : bisect_right(numbers, last, key=created_at)
    ]
    if len(made) == 1:
        return made[0]
    if made:
        raise VersionNotFoundError(
            f"{len(made)} versions of {name!r} were made in the second {version}: {_list(made)}. "
            "Name one by its number, or by its time to the microsecond."
        )
    raise VersionNotFoundError(
        f"No version of {name!r} was made at {first.isoformat()}. There are {_list(numbers)}, made "
        f"from {created_at(numbers[0]).isoformat()} to {created_at(numbers[-1]).isoformat()}; "
        "`asof` finds the one that was the newest at some time."
    )


def _span(value: Any) -> tuple[datetime, datetime]:
    """The first and the last microsecond that are meant: text without a fraction means a second."""
    if isinstance(value, str):
        text = value.strip()
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise InvalidVersionError(f"{value!r} is no time. {_EXPECTED}") from None
        whole_second = "." not in text and "," not in text
    elif isinstance(value, datetime):
        moment, whole_second = value, False
    else:
        raise InvalidVersionError(f"{value!r} is no time. {_EXPECTED}")
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return moment, moment + timedelta(microseconds=999_999 if whole_second else 0)
    except OverflowError:
        raise InvalidVersionError(f"{value!r} is too far away. {_EXPECTED}") from None


def _list(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"version {numbers[0]}"
    if len(numbers) == numbers[-1] - numbers[0] + 1:
        return f"versions {numbers[0]} to {numbers[-1]}"
    return f"versions {', '.join(map(str, numbers))}"
