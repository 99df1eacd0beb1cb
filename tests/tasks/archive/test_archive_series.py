"""Axes and time series: written by trials, read across them."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_optuna.blocks import (
    ArchiveError,
    ArtifactFileSystem,
    InMemoryStudyStorage,
    InvalidSettingError,
    SQLStudyStorage,
)
from prefect_optuna.errors import StudyMismatchError, UnknownNameError
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.series.results import inline_digest
from prefect_optuna.tasks.archive.series.series_table import SeriesReader
from prefect_optuna.tasks.archive.series.timeseries import Axis, problem_axes

YEARS = np.arange(1900, 1905)
TIMES = np.linspace(0.0, 1.0, 5)


def suggest(trial: optuna.Trial) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def populations(params: dict[str, float]) -> dict[str, Any]:
    return {
        "hare": params["x"] * YEARS,
        "lynx": YEARS.tolist(),
        "field": np.arange(10.0).reshape(5, 2),
        "fit": {"a": np.zeros(3), "b": np.ones(3)},
        "note": "ok",
    }


def misfit(result: dict[str, Any]) -> float:
    return float(result["hare"].sum())


PROBLEM = Problem(suggest=suggest, run=populations, evaluate=misfit, axes={"year": YEARS})


@pytest.fixture
def memory(tmp_path: Path) -> InMemoryStudyStorage:
    return InMemoryStudyStorage(name=f"series-{tmp_path.name}")


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "artifacts"))


@pytest.fixture
def study(memory: InMemoryStudyStorage) -> optuna.Study:
    return memory.create_study("series")


@pytest.fixture(scope="module")
def code() -> Capture:
    """What there has to be for a study to have an archive; captured once, and without git."""
    problem = Problem(suggest=suggest, run=populations, evaluate=misfit)
    return dataclasses.replace(Capture.of(problem), folder=None)


@pytest.fixture
def archive(study: optuna.Study, artifacts: ArtifactFileSystem, code: Capture) -> OptunaArchive:
    """An archive with the axes t (5 values) and depth (3 values)."""
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(code)
    archive.study_add_axis("t", TIMES, unit="s")
    archive.study_add_axis("depth", [10, 20, 30])
    return archive


@pytest.fixture
def load(
    memory: InMemoryStudyStorage, artifacts: ArtifactFileSystem
) -> Callable[[], ArchivedStudy]:
    return lambda: ArchivedStudy.load("series", storage=memory, artifacts=artifacts)


def add(
    archive: OptunaArchive, values: Any, axes: Any = "t", value: float = 0.0, **rest: Any
) -> int:
    """A trial with one series, `loss`; returns its number."""
    study = archive.study
    assert study is not None
    trial = study.ask()
    archive.trial_add_timeseries(trial, "loss", values, axes, **rest)
    study.tell(trial, value)
    return trial.number


# -- OA20: axes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 1.5],
        range(1900, 1910),
        np.arange(5000.0),
        ["north", "south"],
        np.array(["2026-01-01", "2026-01-02"], "M8[D]"),
        np.arange(3, dtype=">i2"),
        [True, False],
    ],
    ids=["list", "range", "long", "text", "times", "big endian", "flags"],
)
def test_OA20_an_axis_is_a_study_attribute_and_comes_back(
    archive: OptunaArchive, study: optuna.Study, values: Any, load: Any
) -> None:
    archive.study_add_axis("place", values)
    assert len(str(study.user_attrs["axis:place"])) < 200
    np.testing.assert_array_equal(load().axes["place"], np.asarray(values))


def test_OA20_the_same_axis_again_is_nothing_and_another_one_is_refused(
    archive: OptunaArchive, study: optuna.Study
) -> None:
    before = dict(study.user_attrs)
    archive.study_add_axis("t", list(TIMES), unit="s")
    archive.study_add_axis("depth", np.array([10, 20, 30], np.int16))
    OptunaArchive(study, artifacts=archive.artifacts).study_add_axis("t", TIMES, unit="s")
    for again in (archive, OptunaArchive(study, artifacts=archive.artifacts)):
        for values, unit in ((TIMES[:4], "s"), (TIMES + 1, "s"), (TIMES, "min")):
            with pytest.raises(ArchiveError, match=r"5 values from 0\.0 to 1\.0 s") as error:
                again.study_add_axis("t", values, unit=unit)
            assert isinstance(error.value, ValueError)
            assert "axis_values" in str(error.value)
    assert dict(study.user_attrs) == before


def test_OA20_an_axis_of_the_problem_and_one_of_the_study_are_one_thing(
    study: optuna.Study, artifacts: ArtifactFileSystem, load: Any
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    np.testing.assert_array_equal(load().axes["year"], YEARS)
    for one in (archive, OptunaArchive(study, artifacts=artifacts)):
        with pytest.raises(ArchiveError, match="'year' already"):
            one.study_add_axis("year", YEARS + 1)
        one.study_add_axis("year", YEARS, unit="a")
    assert study.user_attrs["axis:year"]["unit"] == "a"
    add(archive, np.arange(5.0), "year")
    assert load().timeseries("loss")["year"].to_pylist() == YEARS.tolist()
    other = Problem(suggest=suggest, run=populations, evaluate=misfit, axes={"year": YEARS[:3]})
    with pytest.raises(ArchiveError, match="'year' already"):
        archive.save_problem(other)


def test_an_axis_that_was_registered_before_the_study_is_checked_as_well() -> None:
    archive = OptunaArchive(artifacts="memory://series-buffered")
    archive.study_add_axis("t", [1, 2])
    archive.study_add_axis("t", [1, 2])
    with pytest.raises(ArchiveError, match="has the axis 't' already"):
        archive.study_add_axis("t", [1, 3])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.0, math.nan], "found nan at index 1"),
        ([math.inf], "found inf at index 0"),
        (np.array(["NaT"], "M8[s]"), "NaT at index 0"),
        (np.zeros((2, 2)), 'layout="product"'),
        (3.0, "one dimension"),
        ([{}, 1], "numbers, text or times"),
        ([[1], [1, 2]], "list of numbers"),
        (np.broadcast_to(0.0, 1 << 28), "2.1 GB, and at most 1.1 GB"),
    ],
)
def test_OA20_what_is_no_axis_is_refused(
    archive: OptunaArchive, study: optuna.Study, values: Any, words: str
) -> None:
    with pytest.raises(ArchiveError) as error:
        archive.study_add_axis("new", values)
    assert words in str(error.value)
    assert "axis:new" not in study.user_attrs


@pytest.mark.parametrize("name", ["", "trial", 3])
def test_an_axis_needs_a_name_of_its_own(archive: OptunaArchive, name: Any) -> None:
    with pytest.raises(InvalidSettingError, match="'trial'"):
        archive.study_add_axis(name, [1, 2])


# -- OA21 to OA24: series -------------------------------------------------------------------------


@pytest.mark.usefixtures("in_files")
def test_OA21_a_series_is_a_file_a_reference_and_what_all_trials_have_in_common(
    archive: OptunaArchive, study: optuna.Study, artifacts: ArtifactFileSystem
) -> None:
    number = add(archive, [3.0, 2.0, math.nan, 1.0, -math.inf])
    assert study.user_attrs["timeseries:loss"] == {
        "axes": ["t"],
        "columns": ["value"],
        "layout": "aligned",
        "dtype": "<f8",
    }
    reference = study.trials[number].user_attrs["timeseries:loss"]
    assert artifacts.sha256(reference["path"]) == reference["sha256"]
    assert artifacts.info(reference["path"]).size == reference["bytes"]
    assert reference["rows"] == 5
    with artifacts.open(reference["path"]) as file:  # any reader of Arrow opens it
        table = pa.ipc.open_file(file.read()).read_all()
    assert table.column_names == ["value"]


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("rows", [5, 40])
def test_a_short_series_needs_no_file(
    archive: OptunaArchive, study: optuna.Study, load: Any, columns: int, rows: int
) -> None:
    names = [f"c{number}" for number in range(columns)]
    values = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) / 7
    values[-1, -1] = np.nan
    trial = study.ask()
    archive.study_add_axis("step", np.arange(rows))
    archive.trial_add_timeseries(trial, "loss", values, ["step"], columns=names)
    study.tell(trial, 0.0)
    assert not archive.artifacts.glob("studies/*/series/**")
    table = load().timeseries("loss")
    assert table.column_names == ["trial", "step", *names]
    found = np.column_stack([table[name].to_numpy() for name in names])
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    "change",
    [
        {"inline": "AAAA"},
        {"inline": "not base 64"},
        {"inline": None},
        {"sha256": "0" * 32},
        {"rows": 4},
        {"rows": "5"},
        {"rows": 1 << 60},
    ],
)
def test_a_short_series_that_was_changed_is_refused(
    archive: OptunaArchive, study: optuna.Study, load: Any, change: dict[str, Any]
) -> None:
    trial = study.ask()
    archive.trial_add_timeseries(trial, "loss", TIMES, ["t"])
    reference = trial.user_attrs["timeseries:loss"]
    changed = {**reference, **change}
    if isinstance(changed["inline"], str) and "sha256" not in change:
        changed["sha256"] = inline_digest(["loss", changed["inline"]])
    trial.set_user_attr("timeseries:loss", changed)
    study.tell(trial, 0.0)
    for _ in range(2):  # in a table of several, too
        with pytest.raises(ArchiveError, match="The archive is damaged: the series 'loss'"):
            load().timeseries("loss")
        add(archive, TIMES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"axes": ["depth"], "values": [1, 2, 3]}, "axes ('depth',) in place of ('t',)"),
        ({"value_col": "error"}, "columns ('error',) in place of ('value',)"),
        ({"layout": "product"}, "layout 'product' in place of 'aligned'"),
        ({"units": {"value": "m"}}, "units {'value': 'm'} in place of {}"),
        ({"values": np.zeros(5, "M8[s]")}, "dtype '<M8[s]' in place of '<f8'"),
    ],
)
def test_OA21_a_second_trial_with_another_spec_is_refused(
    archive: OptunaArchive, study: optuna.Study, change: dict[str, Any], words: str
) -> None:
    add(archive, np.zeros(5))
    files = archive.artifacts.glob("**")
    again = OptunaArchive(study, artifacts=archive.artifacts)
    trial = study.ask()
    given_ = {"values": np.zeros(5), "axes": ["t"], **change}
    for one in (archive, again):
        with pytest.raises(ArchiveError) as error:
            one.trial_add_timeseries(trial, "loss", **given_)
        assert isinstance(error.value, ValueError)
        assert words in str(error.value)
        assert "take another key" in str(error.value)
    assert trial.user_attrs == {}
    assert archive.artifacts.glob("**") == files


def test_OA21_numbers_that_fit_into_the_type_of_the_first_trial_are_taken(
    archive: OptunaArchive, load: Any
) -> None:
    add(archive, np.zeros(5))
    add(archive, [1, 2, 3, 4, 5])
    add(archive, np.ones(5, np.float32))
    assert load().timeseries("loss")["value"].type == pa.float64()


def test_OA22_on_a_grid_the_last_axis_is_the_fastest(archive: OptunaArchive, load: Any) -> None:
    grid = np.arange(15.0).reshape(5, 3)
    add(archive, grid, ["t", "depth"], layout="product")
    add(archive, grid.ravel(), ["t", "depth"], layout="product")
    table = load().timeseries("loss", trials=0)
    expected = [
        (t, d, v) for (i, t) in enumerate(TIMES) for d, v in zip((10, 20, 30), grid[i], strict=True)
    ]
    found = zip(*(table[name].to_pylist() for name in ("t", "depth", "value")), strict=True)
    assert list(found) == expected
    assert load().timeseries("loss", trials=1)["value"].to_pylist() == table["value"].to_pylist()


def test_OA22_a_grid_may_have_columns(archive: OptunaArchive, load: Any) -> None:
    values = np.arange(30.0).reshape(5, 3, 2)
    add(archive, values, ["t", "depth"], layout="product", columns=["u", "v"])
    table = load().timeseries("loss")
    np.testing.assert_array_equal(table["v"].to_numpy(), values[..., 1].ravel())


def test_OA23_a_series_that_was_cut_short_is_taken_when_that_is_meant(
    archive: OptunaArchive, study: optuna.Study, load: Any
) -> None:
    with pytest.raises(ArchiveError, match=r"3 rows of values.*allow_partial=True") as error:
        add(archive, [1.0, 2.0, 3.0])
    assert "axis_values" in str(error.value)
    number = add(archive, [1.0, 2.0, 3.0], allow_partial=True)
    assert study.trials[number].user_attrs["timeseries:loss"]["partial"] is True
    full = add(archive, np.zeros(5), allow_partial=True)
    assert "partial" not in study.trials[full].user_attrs["timeseries:loss"]
    table = load().timeseries("loss", trials=[full, number])
    assert table["t"].to_pylist() == [*TIMES, *TIMES[:3]]
    assert table["trial"].to_pylist() == [full] * 5 + [number] * 3


def test_OA23_a_trial_may_have_coordinates_of_its_own(archive: OptunaArchive, load: Any) -> None:
    add(archive, [1.0, 2.0], axis_values={"t": [0.25, 0.75]})
    add(archive, np.zeros(5))
    assert load().timeseries("loss", trials=[0, 1])["t"].to_pylist() == [0.25, 0.75, *TIMES]


def test_OA23_coordinates_of_its_own_on_a_grid(archive: OptunaArchive, load: Any) -> None:
    add(archive, np.arange(6.0), ["t", "depth"], layout="product", axis_values={"t": [7.0, 8.0]})
    add(archive, np.zeros(15), ["t", "depth"], layout="product")
    table = load().timeseries("loss", trials=0)
    assert table["t"].to_pylist() == [7, 7, 7, 8, 8, 8]
    assert table["depth"].to_pylist() == [10, 20, 30] * 2
    assert load().timeseries("loss").num_rows == 21


def test_OA23_aligned_axes_are_zipped(archive: OptunaArchive, load: Any) -> None:
    archive.study_add_axis("height", np.arange(5) * 100)
    add(archive, np.arange(5.0), ["t", "height"])
    table = load().timeseries("loss")
    assert table["height"].to_pylist() == [0, 100, 200, 300, 400]
    with pytest.raises(ArchiveError, match="'t' with 5, 'depth' with 3"):
        add(archive, np.arange(5.0), ["t", "depth"])


def test_OA24_several_columns_have_names_and_units(archive: OptunaArchive, load: Any) -> None:
    values = np.arange(10.0).reshape(5, 2)
    add(archive, values, columns=["hare", "lynx"], units={"hare": "thousands"})
    table = load().timeseries("loss")
    assert table.column_names == ["trial", "t", "hare", "lynx"]
    np.testing.assert_array_equal(table["lynx"].to_numpy(), values[:, 1])
    assert table.schema.field("hare").metadata == {b"unit": b"thousands"}
    assert table.schema.field("t").metadata == {b"unit": b"s"}


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"values": np.zeros(6)}, "6 rows of values, and its axis 't' (5)"),
        ({"values": np.zeros((5, 2))}, "columns=[...]"),
        ({"values": np.zeros((5, 2)), "columns": ["a", "b", "c"]}, "the shape (rows, 3)"),
        ({"values": np.zeros(5), "columns": ["a"]}, "the shape (rows, 1)"),
        ({"values": np.zeros((5, 1)), "columns": ["a"], "value_col": "b"}, "Leave one out"),
        ({"values": np.zeros((5, 2)), "columns": ["a", "a"]}, "two columns called 'a'"),
        ({"values": np.zeros(5), "value_col": "t"}, "two columns called 't'"),
        ({"values": np.zeros(5), "value_col": "trial"}, "two columns called 'trial'"),
        ({"values": np.zeros((5, 2)), "columns": "ab"}, "value_col='ab'"),
        ({"values": np.zeros((5, 1)), "columns": [""]}, "names of columns"),
        ({"values": np.zeros(5), "layout": "zipped"}, '"aligned" or "product"'),
        ({"values": np.zeros(5), "axes": []}, "names of its axes"),
        ({"values": np.zeros(5), "units": {"x": "m"}}, "`units` names ['x']"),
        ({"values": [1, "a"]}, "numbers of up to 64 bits or times"),
        ({"values": [threading.Lock()] * 5}, "numbers of up to 64 bits or times"),
        ({"values": np.zeros(5, complex)}, "complex128"),
        ({"values": 3.0}, "numbers"),
        ({"values": [[1], [1, 2]]}, "no array of numbers"),
        ({"values": np.broadcast_to(0.0, (1 << 28,))}, "2.1 GB, and at most 1.1 GB"),
    ],
)
def test_OA22_OA23_OA24_what_does_not_fit_is_refused_and_leaves_nothing(
    archive: OptunaArchive, study: optuna.Study, given_: dict[str, Any], words: str
) -> None:
    files, attributes = archive.artifacts.glob("**"), dict(study.user_attrs)
    trial = study.ask()
    with pytest.raises(ArchiveError) as error:
        archive.trial_add_timeseries(trial, "loss", **{"axes": ["t"], **given_})
    assert words in str(error.value)
    assert "'loss'" in str(error.value)
    assert trial.user_attrs == {}
    assert (archive.artifacts.glob("**"), dict(study.user_attrs)) == (files, attributes)


def test_an_axis_that_nobody_has_added_is_named_with_the_way_out(archive: OptunaArchive) -> None:
    with pytest.raises(UnknownNameError, match=r"no axis 'dept'.*'depth'.*study_add_axis"):
        add(archive, [1.0], "dept")
    with pytest.raises(UnknownNameError, match="`axis_values` names"):
        add(archive, np.zeros(5), axis_values={"depth": [1]})
    with pytest.raises(ArchiveError, match="nan"):
        add(archive, [1.0], axis_values={"t": [math.nan]})


def test_only_a_running_trial_of_this_study_takes_a_series(
    archive: OptunaArchive, study: optuna.Study
) -> None:
    trial = study.ask()
    study.tell(trial, 1.0)
    files = archive.artifacts.glob("**")
    with pytest.raises(ArchiveError, match="found a FrozenTrial"):
        archive.trial_add_timeseries(study.trials[0], "x", TIMES, ["t"])  # type: ignore[arg-type]
    other = optuna.create_study(study_name="other").ask()
    with pytest.raises(StudyMismatchError, match="one of the study"):
        archive.trial_add_timeseries(other, "x", TIMES, ["t"])
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        archive.trial_add_timeseries(trial, "x", TIMES, ["t"])
    assert archive.artifacts.glob("**") == files
    with pytest.raises(InvalidSettingError, match="key of a series"):
        archive.trial_add_timeseries(study.ask(), "", TIMES, ["t"])
    with pytest.raises(ArchiveError, match="no study"):
        OptunaArchive(artifacts=archive.artifacts).trial_add_timeseries(trial, "x", TIMES, ["t"])


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize("key", ["../up", "a/b", "Ä ö", "x" * 300, ".", "%2E", "Hare"])
def test_any_word_can_be_the_key_of_a_series(archive: OptunaArchive, load: Any, key: str) -> None:
    study = archive.study
    assert study is not None
    for other in (key, "hare", "%252E"):
        trial = study.ask()
        archive.trial_add_timeseries(trial, other, TIMES + len(other), ["t"])
        study.tell(trial, 0.0)
        path = study.trials[-1].user_attrs[f"timeseries:{other}"]["path"]
        assert path.split("/")[2] == "series"
        assert len(path.split("/")) == 5
    table = load().timeseries(key)
    assert table["value"].to_pylist() == (TIMES + len(key)).tolist()


def test_a_trial_that_gives_a_series_twice_has_the_later_one(
    archive: OptunaArchive, study: optuna.Study, load: Any
) -> None:
    trial = study.ask()
    for values in (TIMES, TIMES * 2, TIMES * 2):
        archive.trial_add_timeseries(trial, "loss", values, ["t"])
    study.tell(trial, 0.0)
    assert load().timeseries("loss")["value"].to_pylist() == (TIMES * 2).tolist()


@settings(max_examples=40)
@given(data=st.data())
def test_OA21_whatever_is_written_is_read(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
    layout = data.draw(st.sampled_from(["aligned", "product"]))
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=len(names), max_size=len(names)))
    if layout == "aligned":
        sizes = sizes[:1] * len(names)
    width = data.draw(st.integers(0, 2))  # 0: one column without a name of its own
    dtype = data.draw(
        st.sampled_from(["<f8", "<f4", ">f8", "<i4", "|b1", "<u8", "<m8[s]", "<m8[h]"])
    )
    axes = {
        n: np.arange(size) * 10.0 + i for i, (n, size) in enumerate(zip(names, sizes, strict=True))
    }
    size = math.prod(sizes) if layout == "product" else sizes[0]
    rows = data.draw(st.integers(0, size))
    own = data.draw(st.sets(st.sampled_from(names)))
    values = np.arange(rows * max(width, 1)).astype(dtype).reshape(rows, max(width, 1))

    study = optuna.create_study()
    artifacts = ArtifactFileSystem(url="memory://series-property")
    archive = OptunaArchive(study, artifacts=artifacts)
    for name in set(names) - own:
        archive.study_add_axis(name, axes[name])
    columns = [f"v{i}" for i in range(width)] or None
    trial = study.ask()
    archive.trial_add_timeseries(
        trial,
        "s",
        values if width else values[:, 0],
        names,
        columns=columns,
        layout=layout,
        axis_values={name: axes[name] for name in own},
        allow_partial=True,
    )
    study.tell(trial, 0.0)
    known = {name: Axis(name, values) for name, values in axes.items()}
    table, _ = SeriesReader(study, artifacts, "s", lambda trial: known).table(None)
    if layout == "product":
        grid = np.meshgrid(*axes.values(), indexing="ij")
        expected = {n: part.ravel()[:rows] for n, part in zip(names, grid, strict=True)}
    else:
        expected = {n: part[:rows] for n, part in axes.items()}
    assert table.column_names == ["trial", *names, *(columns or ["value"])]
    for name, part in expected.items():
        np.testing.assert_array_equal(table[name].to_numpy(), part)
    for number, name in enumerate(columns or ["value"]):
        np.testing.assert_array_equal(table[name].to_numpy(), values[:, number])


# -- across trials --------------------------------------------------------------------------------


def test_one_table_of_the_best_trials(archive: OptunaArchive, load: Any) -> None:
    for value in (3.0, 1.0, 2.0):
        add(archive, TIMES * value, value=value)
    table = load().timeseries("loss", trials="best:2")
    assert table["trial"].to_pylist() == [1] * 5 + [2] * 5
    np.testing.assert_array_equal(table["value"].to_numpy(), [*TIMES, *(TIMES * 2)])
    assert load().timeseries("loss", trials=lambda t: t.value > 1)["trial"].to_pylist()[0] == 0
    with pytest.raises(InvalidSettingError, match="best:K"):
        load().timeseries("loss", trials="worst")


@pytest.mark.usefixtures("in_files")
def test_files_of_other_trials_are_not_read(
    archive: OptunaArchive, study: optuna.Study, load: Any
) -> None:
    for value in (3.0, 1.0, 2.0):
        add(archive, TIMES * value, value=value)
    archive.artifacts.rm(study.trials[0].user_attrs["timeseries:loss"]["path"])
    archived = load()
    assert archived.timeseries("loss", trials="best:2").num_rows == 10
    with pytest.raises(ArchiveError, match="series 'loss' of trial 0 is missing"):
        archived.timeseries("loss")


@pytest.mark.usefixtures("in_files")
@pytest.mark.parametrize("damage", [b"", b"x" * 2000], ids=["emptied", "replaced"])
def test_a_damaged_file_is_refused(
    archive: OptunaArchive, study: optuna.Study, load: Any, damage: bytes
) -> None:
    add(archive, TIMES)
    archive.artifacts.write_path(study.trials[0].user_attrs["timeseries:loss"]["path"], damage)
    with pytest.raises(ArchiveError, match=r"series 'loss' of trial 0.*SHA-256"):
        load().timeseries("loss")


@pytest.mark.parametrize("small", [True, False])
def test_the_values_of_another_series_are_refused(
    archive: OptunaArchive,
    study: optuna.Study,
    load: Any,
    small: bool,
    request: pytest.FixtureRequest,
) -> None:
    if not small:
        request.getfixturevalue("in_files")
    trial = study.ask()
    archive.trial_add_timeseries(trial, "loss", TIMES, ["t"])
    archive.trial_add_timeseries(trial, "gain", TIMES, ["t"])
    trial.set_user_attr("timeseries:loss", trial.user_attrs["timeseries:gain"])
    study.tell(trial, 0.0)
    words = "is not what was archived" if small else "holds another one: 'gain'"
    with pytest.raises(ArchiveError, match=words):
        load().timeseries("loss")


def test_an_axis_that_was_changed_afterwards_is_noticed(
    archive: OptunaArchive, study: optuna.Study, load: Any
) -> None:
    add(archive, TIMES)
    attribute = study.user_attrs["axis:t"]
    study.set_user_attr("axis:t", {**attribute, "values": (TIMES * 2).tolist()})
    with pytest.raises(ArchiveError, match="along the axis 't', which is another one now"):
        load().timeseries("loss")
    study.set_user_attr("axis:t", {**attribute, "values": [1.0]})
    with pytest.raises(ArchiveError, match="1 values in place of 5"):
        load().timeseries("loss")


def test_trials_without_the_series_are_left_out_unless_they_are_named(
    archive: OptunaArchive, study: optuna.Study, load: Any
) -> None:
    add(archive, TIMES)
    study.tell(study.ask(), 5.0)
    archived = load()
    assert set(archived.timeseries("loss", trials="all")["trial"].to_pylist()) == {0}
    with pytest.raises(ArchiveError, match=r"no series 'loss': \[1\]"):
        archived.timeseries("loss", trials=[0, 1])
    with pytest.raises(ArchiveError, match=r"no series 'los'\. There is: 'loss'"):
        archived.timeseries("los")
    assert archived.series == ["loss"]


def test_pruned_trials_have_series_as_well(
    archive: OptunaArchive, study: optuna.Study, load: Any
) -> None:
    def objective(trial: optuna.Trial) -> float:
        losses = [1.0 / (step + 1) for step in range(2 + trial.number)]
        archive.trial_add_timeseries(trial, "loss", losses, ["t"], allow_partial=True)
        if trial.number < 2:
            raise optuna.TrialPruned
        return losses[-1]

    study.optimize(objective, n_trials=3)
    table = load().timeseries("loss", trials="pruned")
    assert table["trial"].to_pylist() == [0, 0, 1, 1, 1]


def test_series_of_results_are_read_along_the_axes_of_the_problem(
    study: optuna.Study, artifacts: ArtifactFileSystem, load: Any
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    for x in (0.5, 0.25):
        trial = study.ask()
        result = populations({"x": x})
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        study.tell(trial, misfit(result))
    archived = load()
    table = archived.timeseries("hare", trials="best:2")
    assert table.column_names == ["trial", "year", "hare"]
    assert table["trial"].to_pylist() == [1] * 5 + [0] * 5
    np.testing.assert_array_equal(table["hare"].to_numpy(), [*(YEARS / 4), *(YEARS / 2)])
    assert archived.timeseries("field", trials=0).column_names == [
        "trial",
        "year",
        "dim_1",
        "field",
    ]
    assert archived.timeseries("fit", trials=0).to_pydict() == {
        "trial": [0] * 3,
        "dim_0": [0, 1, 2],
        "fit.a": [0.0] * 3,
        "fit.b": [1.0] * 3,
    }
    assert archived.series == ["field", "fit.a", "fit.b", "hare", "lynx"]
    assert "Series: field, fit.a, fit.b, hare, lynx" in archived.describe()


def test_columns_of_aligned_results_and_of_tables_are_series(
    study: optuna.Study, artifacts: ArtifactFileSystem, load: Any
) -> None:
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.save_problem(PROBLEM)
    results = [
        {"hare": YEARS * 1.0, "lynx": YEARS * 2.0},
        pa.table({"year": YEARS, "hare": YEARS * 3.0, "other": YEARS}),
        {"hare": [1.5, 2.5]},  # of another length than the axis
    ]
    for result in results:
        trial = study.ask()
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        study.tell(trial, 0.0)
    archived = load()
    table = archived.timeseries("hare", trials=[0, 1])
    assert table.column_names == ["trial", "year", "hare"]
    np.testing.assert_array_equal(table["hare"].to_numpy(), [*YEARS, *(YEARS * 3.0)])
    assert archived.timeseries("hare", trials=2).to_pydict() == {
        "trial": [2, 2],
        "dim_0": [0, 1],
        "hare": [1.5, 2.5],
    }


def test_a_table_across_trials_as_pandas_and_xarray(archive: OptunaArchive, load: Any) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("xarray")
    grid = np.arange(30.0).reshape(5, 3, 2)
    for factor in (1.0, 2.0):
        add(
            archive,
            grid * factor,
            ["t", "depth"],
            layout="product",
            columns=["u", "v"],
            units={"u": "m/s"},
        )
    archived = load()
    frame = archived.timeseries("loss", kind="pandas")
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["trial", "t", "depth", "u", "v"]
    data = archived.timeseries("loss", kind="xarray")
    assert dict(data.sizes) == {"trial": 2, "t": 5, "depth": 3}
    np.testing.assert_array_equal(data["u"].sel(trial=1), grid[..., 0] * 2)
    assert (data["u"].attrs["units"], data["t"].attrs["units"]) == ("m/s", "s")
    with pytest.raises(InvalidSettingError, match="'polars'"):
        archived.timeseries("loss", kind="polars")


def test_series_that_were_cut_short_are_filled_with_nan_by_xarray(
    archive: OptunaArchive, load: Any
) -> None:
    pytest.importorskip("xarray")
    archive.study_add_axis("height", np.arange(5) * 100)
    add(archive, [1.0, 2.0], ["t", "height"], allow_partial=True)
    add(archive, np.zeros(5), ["t", "height"])
    data = load().timeseries("loss", kind="xarray")
    assert dict(data.sizes) == {"trial": 2, "t": 5}
    assert np.isnan(data["value"].sel(trial=0)).sum() == 3
    assert "height" in data.coords


def test_series_are_small_attributes_of_trials(
    artifacts: ArtifactFileSystem, tmp_path: Path
) -> None:
    storage = SQLStudyStorage(url=f"sqlite:///{tmp_path}/studies.db")
    study = storage.create_study("small")
    archive = OptunaArchive(study, artifacts=artifacts)
    archive.study_add_axis("t", np.arange(20_000) / 7)
    trial = study.ask()
    archive.trial_add_timeseries(trial, "walk", np.arange(20_000.0) ** 0.5, ["t"])
    study.tell(trial, 0.0)
    assert (tmp_path / "studies.db").stat().st_size < 250_000
    assert len(str(study.trials[0].user_attrs)) < 400
    storage.get_storage().engine.dispose()


def test_an_axis_that_is_no_data_is_passed_over_and_one_whose_data_are_gone_is_not() -> None:
    axes = {"days": {"$call": ["pandas:Index", []]}, "t": {"$npy": {"sha256": "gone"}}}

    def there(_: str) -> bytes:
        np.save(content := BytesIO(), np.arange(3.0))
        return content.getvalue()

    def gone(_: str) -> bytes:
        raise ArchiveError("It is gone.")

    assert list(problem_axes({"symbols": [], "axes": axes}, there)) == ["t"]
    with pytest.raises(ArchiveError, match="gone"):
        problem_axes({"symbols": [], "axes": axes}, gone)
