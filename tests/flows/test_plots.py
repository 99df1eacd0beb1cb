"""Pictures: small, right, and drawn whatever a study has come to."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import threading
from collections.abc import Sequence

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from optuna.trial import TrialState
from PIL import Image

from prefect_optuna.blocks.study_summary import best_first, pareto_front
from prefect_optuna.flows import plots
from prefect_optuna.flows.plots import figure_png, history_plot, pareto_plot, series_plot, thumbnail

BLUE = (0, 114, 178)
VERMILION = (213, 94, 0)
GREY = (175, 184, 193)


def study_of(values: Sequence[object], directions: Sequence[str] = ("minimize",)) -> optuna.Study:
    """A real study with these values; "fail" and ("pruned", value) for the other states."""
    study = optuna.create_study(directions=list(directions))
    for value in values:
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        if value == "fail":
            study.tell(trial, state=TrialState.FAIL)
        elif isinstance(value, tuple) and value[0] == "pruned":
            trial.report(value[1], step=1)
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, value)  # type: ignore[arg-type]
    return study


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def count(png: bytes, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels(png) - colour).max(axis=2) < 25).sum())


def rows_of(png: bytes, colour: tuple[int, int, int]) -> np.ndarray:
    return np.nonzero((np.abs(pixels(png) - colour).max(axis=2) < 25).any(axis=1))[0]


@pytest.mark.parametrize(
    "values",
    [
        [],
        [1.0],
        ["fail"] * 5,
        [("pruned", 3.0)] * 3,
        [0.0] * 4,
        [-1.0, -5.0, -3.0],
        [math.inf, 1.0, math.inf],
        [math.inf, -math.inf],
        [1.7e308, -1.7e308, 0.0],
        [5e-324, 1.0],
        [10.0**-k for k in range(12)],
    ],
    ids=repr,
)
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_history_can_be_drawn_of_any_study(values: list[object], direction: str) -> None:
    study = study_of(values, [direction])
    png = history_plot(study.trials, [direction])
    assert pixels(png).shape[1] == 1400
    assert len(png) <= 100_000


@settings(max_examples=12)
@given(
    st.lists(
        st.one_of(
            st.just("fail"),
            st.floats(allow_nan=False),
            st.tuples(st.just("pruned"), st.floats(allow_nan=False)),
        ),
        max_size=8,
    ),
    st.sampled_from(["minimize", "maximize"]),
)
def test_no_value_breaks_a_history(values: list[object], direction: str) -> None:
    assert history_plot(study_of(values, [direction]).trials, [direction])


def test_a_history_marks_failed_and_pruned_trials() -> None:
    plain = history_plot(study_of([1.0, 2.0, 3.0]).trials, ["minimize"])
    marked = history_plot(study_of([1.0, "fail", 2.0, ("pruned", 2.5), 3.0]).trials, ["minimize"])
    assert count(plain, VERMILION) == 0
    assert count(marked, VERMILION) > 50
    assert count(marked, GREY) > count(plain, GREY) + 50


def test_lost_trials_are_not_drawn_as_failed() -> None:
    trials = study_of([1.0, "fail", 2.0]).trials
    trials[1].system_attrs = {"prefect_optuna:lost": {"session": "s", "why": "gone"}}
    assert count(history_plot(trials, ["minimize"]), VERMILION) == 0


def test_the_best_so_far_falls_when_minimizing_and_rises_when_maximizing() -> None:
    values = [3.0, 2.0, 4.0, 1.0, 5.0] * 4
    for direction, at_top in (("minimize", False), ("maximize", True)):
        picture = pixels(history_plot(study_of(values, [direction]).trials, [direction]))
        blue = np.abs(picture - BLUE).max(axis=2) < 25
        blue[:60] = False  # the title
        last = np.nonzero(blue[:, 1300])[0].mean() / len(picture)
        assert (last < 0.4) if at_top else (last > 0.6)


def test_one_huge_value_does_not_flatten_the_others() -> None:
    values = [1 + 0.5 * math.sin(i) for i in range(60)]
    calm = rows_of(history_plot(study_of(values).trials, ["minimize"]), (86, 180, 233))
    study = study_of([*values[:30], 1e9, *values[31:]])
    wild = rows_of(history_plot(study.trials, ["minimize"]), (86, 180, 233))
    assert len(wild) > 0.6 * len(calm)


def test_every_direction_gets_a_panel_unless_one_is_asked_for() -> None:
    study = study_of([[1.0, 2.0], [2.0, 1.0]], ["minimize", "maximize"])
    both = pixels(history_plot(study.trials, ["minimize", "maximize"]))
    one = pixels(history_plot(study.trials, ["minimize", "maximize"], target=1))
    assert both.shape[0] > 1.2 * one.shape[0]


def test_infeasible_trials_are_not_the_best_so_far() -> None:
    study = optuna.create_study()
    for value, constraint in ((5.0, -1.0), (1.0, 1.0)):
        trial = study.ask()
        trial.set_constraint("c", constraint)
        study.tell(trial, value)
    assert [t.number for t in best_first(study.trials, ["minimize"])] == [0]
    assert count(history_plot(study.trials, ["minimize"]), (204, 121, 167)) > 20


def test_ten_thousand_trials_keep_the_limit() -> None:
    rng = np.random.default_rng(0)
    trials = [optuna.trial.create_trial(value=float(v)) for v in rng.normal(size=10_000)]
    for number, trial in enumerate(trials):
        trial.number = number
    png = history_plot(trials, ["minimize"], max_bytes=60_000)
    assert len(png) <= 60_000
    assert pixels(png).shape[1] >= 700


@pytest.mark.parametrize("first", ["minimize", "maximize"])
@pytest.mark.parametrize("second", ["minimize", "maximize"])
def test_a_pareto_front_is_drawn_for_any_directions(first: str, second: str) -> None:
    rng = np.random.default_rng(0)
    study = study_of([*rng.normal(size=(40, 2)).tolist(), "fail"], [first, second])
    assert count(pareto_plot(study.trials, [first, second]), BLUE) > 200


def test_a_pareto_plot_of_nothing_is_empty_and_no_error() -> None:
    assert pareto_plot([], ["minimize", "minimize"])
    assert pareto_plot(study_of(["fail"], ["minimize"] * 2).trials, ["minimize"] * 2)


@settings(max_examples=60)
@given(
    st.integers(2, 4).flatmap(
        lambda n: st.tuples(
            st.lists(st.sampled_from(["minimize", "maximize"]), min_size=n, max_size=n),
            st.lists(
                st.lists(
                    st.one_of(st.integers(0, 3).map(float), st.just(math.inf)),
                    min_size=n,
                    max_size=n,
                ),
                max_size=12,
            ),
        )
    )
)
def test_the_front_is_the_one_that_optuna_finds(case: tuple[list[str], list[list[float]]]) -> None:
    directions, values = case
    study = study_of(values, directions)
    ours = pareto_front(study.trials, directions)
    assert [t.number for t in ours] == [t.number for t in study.best_trials]


@settings(max_examples=40)
@given(
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=10),
    st.sampled_from(["minimize", "maximize"]),
)
def test_the_first_of_the_ranking_is_optuna_s_best(values: list[float], direction: str) -> None:
    study = study_of(values, [direction])
    ranked = best_first(study.trials, [direction])
    assert ranked[0].value == study.best_value
    assert sorted(t.number for t in ranked) == list(range(len(values)))


def dates(n: int) -> list[np.datetime64]:
    return [np.datetime64("2024-01-01") + np.timedelta64(i, "D") for i in range(n)]


@pytest.mark.parametrize(
    ("result", "axes"),
    [
        ({"a": [1, 2, 3], "b": np.array([1.0, 2.0, np.nan])}, {"year": [1900, 1901, 1902]}),
        ({"a": [1, 2, 3], "b": [1000.0, 2000.0, 3000.0]}, {}),
        ({"a": [1, 2, 3], "n": 4, "text": "abc", "grid": np.ones((2, 2))}, {"year": [1, 2]}),
        ({f"a name that is much too long ${i}": [i, 2] for i in range(30)}, {"$\\frac{": [1, 2]}),
        ({"a": [1, 2, 3]}, {"day": dates(3)}),
        ({"t": [0, 1, 2], "a": [1, 2, 3]}, {"t": [0, 1, 2]}),
        ({"a": [0.0, 0.0, 0.0], "b": [1.0, 2.0, 3.0]}, {}),
        ([1.0, 2.0, 3.0], None),
        (np.linspace(0, 1, 50), {}),
    ],
)
def test_series_of_many_kinds_are_drawn(result: object, axes: dict[str, list[object]]) -> None:
    png = series_plot(result, axes)
    assert png is not None
    assert len(png) <= 100_000
    assert count(png, BLUE) > 100


def test_arrow_tables_are_drawn_as_mappings_are() -> None:
    import pyarrow as pa

    columns = {"hare": [1.0, 2.0, 3.0], "name": ["a", "b", "c"]}
    assert series_plot(pa.table(columns), {}) == series_plot(columns, {})


@pytest.mark.parametrize(
    "result",
    [0.5, None, "text", {}, {"a": 1.0}, {"a": [1.0]}, {"a": [[1, 2], [3]]}, {"a": [math.nan] * 3}],
    ids=repr,
)
def test_what_is_no_series_is_not_drawn(result: object) -> None:
    assert series_plot(result, {"year": [1, 2, 3]}) is None


@pytest.mark.parametrize("size", [(2, 2), (7, 3), (40, 30)])
def test_any_figure_fits_by_lowering_the_resolution(size: tuple[float, float]) -> None:
    figure = Figure(figsize=size)
    figure.subplots().imshow(np.random.default_rng(0).random((300, 300)))
    before = figure.dpi
    png = figure_png(figure, max_bytes=30_000)
    assert len(png) <= 30_000
    assert pixels(png).shape[1] <= 1400
    assert figure.dpi == before


def test_a_figure_that_does_not_fit_is_laid_out_once_and_drawn_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = []
    draw = plots._draw
    monkeypatch.setattr(plots, "_draw", lambda figure, dpi: drawn.append(dpi) or draw(figure, dpi))
    figure = plots.new_figure(3.0)
    axes = figure.subplots()
    x, y = np.random.default_rng(0).random((2, 1000))
    axes.scatter(x, y, s=4)
    layout, laid_out = figure.get_layout_engine(), []
    execute = type(layout).execute
    monkeypatch.setattr(
        type(layout), "execute", lambda self, figure: laid_out.append(1) or execute(self, figure)
    )
    largest = len(figure_png(figure))
    assert (len(drawn), len(laid_out)) == (1, 1)
    picture = figure_png(figure, max_bytes=int(0.7 * largest))
    assert (len(drawn), len(laid_out)) == (3, 2)
    assert 0.5 * largest < len(picture) <= 0.7 * largest  # as sharp as there is room for
    assert figure.get_layout_engine() is layout


def test_a_limit_that_no_picture_keeps_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes=10"):
        figure_png(Figure(), max_bytes=10)


def test_a_transparent_figure_stays_transparent() -> None:
    figure = Figure(figsize=(2, 2))
    figure.patch.set_alpha(0.0)
    with Image.open(io.BytesIO(figure_png(figure))) as image:
        assert image.convert("RGBA").getpixel((5, 5))[3] == 0  # type: ignore[index]


def test_a_thumbnail_is_smaller_and_never_larger_than_the_picture() -> None:
    figure = Figure(figsize=(7, 3))
    figure.subplots().imshow(np.random.default_rng(0).random((50, 50)))
    picture = figure_png(figure)
    small = thumbnail(picture)
    assert pixels(small).shape[1] <= 280
    assert len(small) <= 10_000
    assert pixels(thumbnail(small)).shape == pixels(small).shape


def test_pictures_are_drawn_in_several_threads_at_once() -> None:
    trials = study_of([1.0, 2.0, "fail", 0.5]).trials
    pictures: list[bytes] = []

    def draw() -> None:
        pictures.append(history_plot(trials, ["minimize"]))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pictures) == 4
    assert len(set(pictures)) == 1


@pytest.mark.slow
def test_pyplot_is_not_touched() -> None:
    code = (
        "import sys; from prefect_optuna.flows.plots import history_plot;"
        "assert 'matplotlib' not in sys.modules, 'imported too early';"
        "history_plot([], ['minimize']); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
