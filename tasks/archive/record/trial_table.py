"""The trials of a study as a table: for pandas, polars and Arrow, and as CSV and Parquet files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from optuna.trial import FrozenTrial

from prefect_optuna.blocks import logged_metrics
from prefect_optuna.blocks.codec.tables import from_arrow
from prefect_optuna.blocks.texts import visible_line
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.archive.record.attributes import RESULT_KEY

TableKind = Literal["arrow", "pandas", "polars"]

_KINDS = {"arrow": "pyarrow.Table", "pandas": "pandas.DataFrame", "polars": "polars.DataFrame"}
# What spreadsheets take for a formula, after the white space that some of them skip; the wide ones
# are read as the narrow ones where Chinese or Japanese is spoken.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def trial_columns(trials: Sequence[FrozenTrial]) -> dict[str, list[Any]]:
    """The trials as columns: each a list with a value or `None` for each trial.

    Returns:
        `number`, `state`, `value` (or `value.0`, `value.1`, ...), `started`, `completed`,
        `seconds`; then `param.NAME`, `metric.NAME`, `constraint.NAME` and `user.NAME`. Attributes
        that are lists or mappings are JSON; where an archived result is, is not among them.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.archive.record.trial_table import trial_columns
        >>> trial = optuna.trial.create_trial(value=0.5, user_attrs={"fold": 3})
        >>> columns = trial_columns([trial])
        >>> columns["value"], columns["user.fold"]
        ([0.5], [3])
    """
    columns: dict[str, list[Any]] = {
        "number": [trial.number for trial in trials],
        "state": [trial.state.name.lower() for trial in trials],
    }
    values = [trial.values or [] for trial in trials]
    count = max(map(len, values), default=1) or 1
    for index in range(count):
        name = "value" if count == 1 else f"value.{index}"
        columns[name] = [float(row[index]) if index < len(row) else None for row in values]
    columns["started"] = [trial.datetime_start for trial in trials]
    columns["completed"] = [trial.datetime_complete for trial in trials]
    columns["seconds"] = [t.duration.total_seconds() if t.duration else None for t in trials]
    metrics = [logged_metrics(trial) for trial in trials]
    groups: dict[str, Sequence[Mapping[str, Any]]] = {
        "param": [trial.params for trial in trials],
        "metric": metrics,
        "constraint": [trial.constraints for trial in trials],
        "user": [
            {
                name: value
                for name, value in trial.user_attrs.items()
                if name.removeprefix("metric:") not in logged and not _is_reference(name, value)
            }
            for trial, logged in zip(trials, metrics, strict=True)
        ],
    }
    for group, rows in groups.items():
        for name in dict.fromkeys(name for row in rows for name in row):
            cells = _one_type([row.get(name) for row in rows])
            columns[_utf8(f"{group}.{name}")] = [
                _utf8(cell) if isinstance(cell, str) else cell for cell in cells
            ]
    return columns


def _is_reference(name: str, value: Any) -> bool:
    """Tell whether an attribute says where a result is archived."""
    return name == RESULT_KEY and isinstance(value, Mapping) and "sha256" in value


def trial_table(trials: Sequence[FrozenTrial], kind: TableKind = "arrow") -> Any:
    """The trials as a table, with the columns of `trial_columns`.

    Example:
        >>> import optuna
        >>> from prefect_optuna.tasks.archive.record.trial_table import trial_table
        >>> trial_table([optuna.trial.create_trial(value=0.5)])["value"].to_pylist()
        [0.5]
    """
    import pyarrow as pa

    if kind not in _KINDS:
        raise InvalidSettingError(f"`kind` is one of {', '.join(_KINDS)}; found {kind!r}.")
    return from_arrow(pa.table(trial_columns(trials)), _KINDS[kind])


def write_csv(trials: Sequence[FrozenTrial], place: str | Path | TextIO) -> None:
    """Write the trials to a CSV file, by its path or open.

    A text that a spreadsheet would take for a formula gets an apostrophe in front. On a terminal
    all texts are written so that it only shows them.
    """
    if isinstance(place, (str, Path)):
        with Path(place).open("w", encoding="utf-8", newline="") as file:
            write_csv(trials, file)
        return
    columns = trial_columns(trials)
    writer = csv.writer(place, lineterminator="\n")
    cell_of = _seen if place.isatty() else _harmless
    writer.writerow(map(cell_of, columns))
    writer.writerows([cell_of(cell) for cell in row] for row in zip(*columns.values(), strict=True))


def write_parquet(trials: Sequence[FrozenTrial], path: str | Path) -> None:
    """Write the trials to a Parquet file."""
    import pyarrow.parquet as pq

    pq.write_table(trial_table(trials), path)


def _one_type(cells: list[Any]) -> list[Any]:
    """A column has one type: numbers, flags, or text."""
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {int} and all(-(2**63) <= cell < 2**63 for cell in cells if cell is not None):
        return cells
    if kinds <= {bool} or kinds <= {str}:
        return cells
    if kinds <= {int, float}:
        with suppress(OverflowError):  # an integer that is larger than any float is text
            return [cell if cell is None else float(cell) for cell in cells]
    return [cell if cell is None or isinstance(cell, str) else _text(cell) for cell in cells]


def _utf8(text: str) -> str:
    """Text that every file takes: JSON may have halves of letters, which are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _text(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _seen(cell: Any) -> Any:
    cell = _harmless(cell)
    return visible_line(cell) if isinstance(cell, str) else cell


def _harmless(cell: Any) -> Any:
    if isinstance(cell, datetime):
        return cell.isoformat()
    if isinstance(cell, str) and (
        cell.lstrip().startswith(_FORMULA) or cell[:1] in ("\t", "\r", "\n")
    ):
        return f"'{cell}"
    return cell
