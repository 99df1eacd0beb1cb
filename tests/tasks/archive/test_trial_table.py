"""Trials as a table, for other programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import optuna
import pytest

from prefect_optuna.blocks import InvalidSettingError, log_metric
from prefect_optuna.tasks.archive.record.trial_records import trial_table, write_csv, write_parquet


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", 0, 1)
    trial.suggest_categorical("kind", ["=1+1", "plain"])
    log_metric(trial, "rmse", 0.25)
    trial.set_user_attr("note", "=HYPERLINK(1)")
    trial.set_user_attr("mixed", 1 if trial.number else [1, "a"])
    trial.set_constraint("mass", x - 2)
    if trial.number == 2:
        raise optuna.TrialPruned
    return x


@pytest.fixture
def trials() -> list[optuna.trial.FrozenTrial]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=3)
    return study.trials


@pytest.mark.parametrize("kind", ["arrow", "pandas", "polars"])
def test_a_table_has_values_parameters_metrics_constraints_and_attributes(
    kind: str, trials: list[optuna.trial.FrozenTrial]
) -> None:
    table = trial_table(trials, kind)  # type: ignore[arg-type]
    columns = table.column_names if kind == "arrow" else list(table.columns)
    assert columns == [
        "number", "state", "value", "started", "completed", "seconds", "param.x", "param.kind",
        "metric.rmse", "constraint.mass", "user.note", "user.mixed",
    ]  # fmt: skip
    found = table["value"].to_pylist() if kind == "arrow" else table["value"].to_list()
    assert found[:2] == [trial.value for trial in trials[:2]]
    assert found[2] is None or found[2] != found[2]
    mixed = table["user.mixed"].to_pylist() if kind == "arrow" else list(table["user.mixed"])
    assert mixed == ['[1, "a"]', "1", "1"]


def test_another_kind_is_refused(trials: list[optuna.trial.FrozenTrial]) -> None:
    with pytest.raises(InvalidSettingError, match="arrow, pandas, polars; found 'excel'"):
        trial_table(trials, "excel")  # type: ignore[arg-type]


def test_no_cell_of_a_csv_file_is_a_formula(
    trials: list[optuna.trial.FrozenTrial], tmp_path: Path
) -> None:
    trials[0].user_attrs["@name"] = 1
    write_csv(trials, tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["user.note"] for row in rows] == ["'=HYPERLINK(1)"] * 3
    assert {row["param.kind"] for row in rows} <= {"'=1+1", "plain"}
    assert float(rows[0]["constraint.mass"]) < 0  # a number stays one
    assert rows[2]["value"] == ""


@pytest.mark.parametrize(
    "text",
    ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(1)", "\t=1", "  =1", "\r\n+1", "\ttext", "\uff1d1"],
)
def test_no_beginning_of_a_formula_is_overlooked(text: str, tmp_path: Path) -> None:
    trial = optuna.trial.create_trial(value=-1.5, user_attrs={"note": text, text: "plain"})
    write_csv([trial], tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="", encoding="utf-8") as file:
        names, row = csv.reader(file)
    assert row[names.index("user.note")] == f"'{text}"
    assert row[names.index(f"user.{text}")] == "plain"
    assert row[names.index("value")] == "-1.5"


def test_parquet_is_read_by_others(trials: list[optuna.trial.FrozenTrial], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_parquet(trials, tmp_path / "trials.parquet")
    table = pq.read_table(tmp_path / "trials.parquet")
    assert table["param.x"].to_pylist() == [trial.params["x"] for trial in trials]


def test_no_text_and_no_number_keeps_a_table_from_being_made(tmp_path: Path) -> None:
    half = "\ud800"
    trial = optuna.trial.create_trial(
        value=1.0,
        params={f"c{half}": half},
        distributions={f"c{half}": optuna.distributions.CategoricalDistribution([half])},
        user_attrs={"note": half, "large": 10**400, half: [half]},
    )
    other = optuna.trial.create_trial(value=1.0, user_attrs={"large": 0.5})
    table = trial_table([trial, other])
    assert table["param.c\\ud800"].to_pylist() == ["\\ud800", None]
    assert table["user.large"].to_pylist() == [str(10**400), "0.5"]
    write_parquet([trial], tmp_path / "trials.parquet")
    write_csv([trial], tmp_path / "trials.csv")
    assert "\\ud800" in (tmp_path / "trials.csv").read_text(encoding="utf-8")


def test_a_terminal_obeys_nothing_that_stands_in_a_table() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    evil = "\x1b[2J\u202e\x9b"
    trial = optuna.trial.create_trial(value=1.0, user_attrs={evil: evil, "list": [evil]})
    shown, written = Terminal(), io.StringIO()
    write_csv([trial], shown)
    write_csv([trial], written)
    assert shown.getvalue().replace("\n", "").isprintable()
    assert evil in written.getvalue()


@pytest.mark.parametrize("own", [{"sha256": "ab", "inline": [1]}, "mine"])
def test_where_an_archived_result_is_is_no_column(own: object) -> None:
    trial = optuna.trial.create_trial(value=0.5, user_attrs={"result": own, "seed": 3})
    named = [n for n in trial_table([trial]).column_names if n.startswith("user.")]
    assert named == (["user.seed"] if isinstance(own, dict) else ["user.result", "user.seed"])
