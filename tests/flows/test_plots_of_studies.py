"""The pictures of a whole study: importances, slices, timeline, ensemble; and what they cost."""

from __future__ import annotations

import datetime as dt
import io
import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image

from prefect_optuna.blocks import ArtifactFileSystem
from prefect_optuna.flows.gallery import (
    PICTURES,
    BestPicture,
    TimeShare,
    contour_plot,
    draw_gallery,
    importances_of,
    importances_plot,
    parallel_plot,
    slices_plot,
)
from prefect_optuna.flows.plots import series_plot, timeline_plot
from prefect_optuna.flows.study import StudyStatus
from prefect_optuna.tasks.archive import OptunaArchive
from prefect_optuna.tasks.archive.record.manifest import RESULT_KEY
from prefect_optuna.tasks.problem import Problem
from prefect_optuna.tasks.trial import TrialScope

pytestmark = pytest.mark.slow  # the fast ones draw by test_plots.py and test_report.py

START = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - as Optuna has them
SPACE = {
    "x": FloatDistribution(-1, 1),
    "rate": FloatDistribution(1e-5, 1, log=True),
    "n": IntDistribution(1, 9),
    "kind": CategoricalDistribution(["tanh", "$relu$", None]),
}


def random_trials(n: int, directions: Sequence[str] = ("minimize",)) -> list[FrozenTrial]:
    """Trials in which x matters, and nothing else does."""
    sign = [1 if direction == "minimize" else -1 for direction in directions]
    study = optuna.create_study(
        directions=list(directions), sampler=optuna.samplers.RandomSampler(seed=0)
    )
    for _ in range(n):
        trial = study.ask(SPACE)
        study.tell(trial, [s * trial.params["x"] ** 2 + 0.1 for s in sign])
    return study.trials


def timed(trials: Sequence[FrozenTrial], spans: Sequence[tuple[float, float]]) -> None:
    for trial, (start, end) in zip(trials, spans, strict=True):
        trial.datetime_start = START + dt.timedelta(seconds=start)
        trial.datetime_complete = START + dt.timedelta(seconds=end)


def pixels(png: bytes | None) -> np.ndarray:
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def count(png: bytes | None, colour: tuple[int, int, int], within: int = 12) -> int:
    return int((np.abs(pixels(png) - colour).max(axis=2) < within).sum())


# Importances


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_parameter_that_matters_is_first_whichever_way_is_better(direction: str) -> None:
    found = importances_of(random_trials(200, [direction]), [direction])
    assert next(iter(found)) == "x"
    assert found["x"] > 0.8
    assert sum(found.values()) == pytest.approx(1)


def test_importances_are_optuna_s_own_and_load_no_scikit_learn() -> None:
    program = """
        import sys, optuna
        from prefect_optuna.flows.gallery import importances_of
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
        study.optimize(
            lambda t: t.suggest_float("x", -1, 1) ** 2 + t.suggest_float("y", 0, 1), n_trials=100
        )
        found = importances_of(study.trials, ["minimize"])
        assert "sklearn" not in sys.modules
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        assert found == optuna.importance.get_param_importances(study, evaluator=evaluator)
        fanova = optuna.importance.FanovaImportanceEvaluator(n_trees=4)
        assert "sklearn" in sys.modules
        assert optuna.importance.get_param_importances(study, evaluator=fanova).keys() == {"x", "y"}
    """
    subprocess.run([sys.executable, "-c", dedent(program)], check=True)


def test_each_of_several_values_has_its_own_importances() -> None:
    directions = ["minimize", "maximize"]
    trials = random_trials(200, directions)
    for trial in trials:
        trial.values = [trial.values[0], trial.params["n"]]
    first, second = (importances_of(trials, directions, target) for target in (0, 1))
    assert next(iter(first)) == "x"
    assert next(iter(second)) == "n"
    assert [len(trial.values) for trial in trials] == [2] * 200  # they are the study's own


@pytest.mark.parametrize(
    "trials",
    [
        [],
        random_trials(5),
        [create_trial(value=1.0) for _ in range(30)],
        [create_trial(state=TrialState.FAIL) for _ in range(30)],
        [create_trial(value=math.inf) for _ in range(30)],
        [create_trial(value=float(i)) for i in range(30)],
    ],
    ids=["none", "few", "all the same", "failed", "infinite", "no parameters"],
)
def test_where_nothing_can_be_said_of_parameters_nothing_is(trials: list[FrozenTrial]) -> None:
    assert importances_of(trials, ["minimize"]) == {}
    assert importances_plot([{}]) is None


def test_bars_are_as_long_as_the_shares_are_large() -> None:
    png = importances_plot([{"a": 0.75, "b": 0.25}])
    blue = np.abs(pixels(png) - (38, 136, 191)).max(axis=2) < 25
    rows = blue.sum(axis=1)
    middle = len(rows) // 2
    assert rows[:middle].max() == pytest.approx(3 * rows[middle + 20 :].max(), rel=0.1)


def test_many_parameters_with_hostile_names_are_drawn_small() -> None:
    shares = {f"$\\frac{{{i} a name that is much too long": 1 / (i + 1) for i in range(40)}
    for several in ([shares], [shares, dict(reversed(shares.items()))]):
        png = importances_plot(several, max_bytes=15_000)
        assert png is not None
        assert len(png) <= 15_000


# Slices


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["minimize", "maximize"]])
def test_slices_of_every_kind_of_parameter_are_drawn_and_the_best_is_marked(
    directions: list[str],
) -> None:
    trials = random_trials(60, directions)
    png = slices_plot(trials, directions, importances_of(trials, directions))
    assert len(png or b"") <= 45_000
    assert count(png, (230, 159, 0)) > 100


def test_slices_show_the_whole_range_that_was_allowed() -> None:
    def orange_columns(high: float) -> float:
        space = {"x": FloatDistribution(0, high)}
        trials = [
            create_trial(value=v, params={"x": v}, distributions=space) for v in (1.0, 0.9, 0.8)
        ]
        for number, trial in enumerate(trials):
            trial.number = number
        picture = pixels(slices_plot(trials, ["minimize"]))
        orange = np.abs(picture - (230, 159, 0)).max(axis=2) < 12
        return float(np.nonzero(orange[60:].any(axis=0))[0].mean()) / picture.shape[1]

    assert orange_columns(1.0) > 0.7  # near the edge
    assert orange_columns(10.0) < 0.3


@settings(max_examples=8)
@given(
    st.lists(st.floats(allow_nan=False), min_size=3, max_size=6),
    st.sampled_from(["minimize", "maximize"]),
    st.sampled_from(
        [
            (FloatDistribution(0, 0), 0.0),
            (FloatDistribution(1e-300, 1e300, log=True), 1.0),
            (FloatDistribution(-1e300, 1e300), 1.0),
            (IntDistribution(1, 1), 1),
            (CategoricalDistribution(list("abcdefghij")), "c"),
        ]
    ),
)
def test_no_value_and_no_range_breaks_slices(
    values: list[float], direction: str, parameter: tuple[Any, Any]
) -> None:
    space, value = parameter
    trials = [
        create_trial(value=v, params={"$p_": value}, distributions={"$p_": space}) for v in values
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    assert slices_plot(trials, [direction])


# Parallel coordinates and contours


@pytest.mark.parametrize("directions", [["minimize"], ["maximize"], ["minimize", "maximize"]])
def test_lines_and_the_map_of_values_mark_the_best_trial(directions: list[str]) -> None:
    trials = random_trials(60, directions)
    shares = importances_of(trials, directions)
    for draw in (parallel_plot, contour_plot):
        png = draw(trials, directions, shares, max_bytes=90_000)
        assert len(png or b"") <= 90_000
        assert count(png, (230, 159, 0)) > 100


def test_the_map_is_dark_where_values_are_good() -> None:
    def darkness(direction: str) -> tuple[float, float]:
        """Of the left and of the right half; the values grow to the right."""
        space = {name: FloatDistribution(0, 1) for name in ("a", "b")}
        trials = []
        for number in range(100):
            params = {"a": number % 10 / 9, "b": number // 10 / 9}
            trial = create_trial(value=params["a"] + 1, params=params, distributions=dict(space))
            trial.number = number
            trials.append(trial)
        picture = pixels(contour_plot(trials, [direction], {"a": 0.9, "b": 0.1}))
        rows = picture[len(picture) // 4 : len(picture) // 2, : int(0.8 * picture.shape[1])]
        blue = np.where(rows.max(axis=2) - rows.min(axis=2) > 15, 255 - rows.mean(axis=2), np.nan)
        middle = blue.shape[1] // 2
        return float(np.nanmean(blue[:, :middle])), float(np.nanmean(blue[:, middle:]))

    left, right = darkness("minimize")
    assert left > right + 50
    left, right = darkness("maximize")
    assert right > left + 50


PARAMETERS = [
    (FloatDistribution(0, 0), st.just(0.0)),
    (FloatDistribution(0, 1), st.floats(0, 1)),
    (FloatDistribution(1e-300, 1e300, log=True), st.floats(1e-300, 1e300)),
    (FloatDistribution(-1e300, 1e300), st.floats(-1e300, 1e300)),
    (IntDistribution(1, 9), st.integers(1, 9)),
    (CategoricalDistribution(["$a_", None, 1.5]), st.sampled_from(["$a_", None, 1.5])),
]


@settings(max_examples=15)
@given(
    st.lists(st.sampled_from(PARAMETERS), min_size=1, max_size=4),
    st.lists(st.floats(allow_nan=False), min_size=3, max_size=16),
    st.sampled_from([["minimize"], ["maximize"], ["maximize", "minimize"]]),
    st.data(),
)
def test_no_value_and_no_range_breaks_lines_and_maps(
    parameters: list[tuple[Any, st.SearchStrategy[Any]]],
    values: list[float],
    directions: list[str],
    data: st.DataObject,
) -> None:
    space = {f"$p{i}_": distribution for i, (distribution, _) in enumerate(parameters)}
    trials = []
    for number, value in enumerate(values):
        params = {f"$p{i}_": data.draw(drawn) for i, (_, drawn) in enumerate(parameters)}
        trial = create_trial(
            values=[value] * len(directions), params=params, distributions=dict(space)
        )
        trial.number = number
        trials.append(trial)
    for draw in (parallel_plot, contour_plot):
        assert (draw(trials, directions) or b"\x89PNG").startswith(b"\x89PNG")


def test_lines_and_maps_need_trials_and_two_parameters() -> None:
    alone = {"x": FloatDistribution(0, 1)}
    trials = [create_trial(value=v, params={"x": v}, distributions=alone) for v in (0.1, 0.2, 0.3)]
    for draw in (parallel_plot, contour_plot):
        assert draw([], ["minimize"]) is None
        assert draw(random_trials(2), ["minimize"]) is None
        assert draw(trials, ["minimize"]) is None


def test_two_trials_are_no_slices() -> None:
    assert slices_plot(random_trials(2), ["minimize"]) is None
    assert slices_plot([], ["minimize"]) is None


# Timeline


def test_a_timeline_has_a_lane_for_each_trial_that_ran_at_a_time() -> None:
    trials = random_trials(4)
    timed(trials, [(0, 10), (10, 20), (20, 30), (30, 40)])
    one = pixels(timeline_plot(trials))
    timed(trials, [(0, 10), (0, 10), (0, 10), (10, 20)])
    three = pixels(timeline_plot(trials))
    assert len(three) > 1.3 * len(one)


def test_a_long_pause_takes_little_room() -> None:
    trials = random_trials(2)
    timed(trials, [(0, 10), (86_400, 86_410)])
    blue = np.abs(pixels(timeline_plot(trials)) - (86, 180, 233)).max(axis=2) < 12
    columns = blue[len(blue) // 3 : 2 * len(blue) // 3].any(axis=0).mean()
    assert columns > 0.8


def test_a_timeline_marks_failed_trials_and_the_best_one() -> None:
    trials = random_trials(3)
    timed(trials, [(0, 10), (10, 20), (20, 30)])
    plain = timeline_plot(trials)
    trials[1].state = TrialState.FAIL
    marked = timeline_plot(trials, best=2)
    assert count(plain, (213, 94, 0)) == count(plain, (0, 114, 178)) == 0
    assert count(marked, (213, 94, 0)) > 1000
    assert count(marked, (0, 114, 178)) > 1000


@settings(max_examples=8)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e7),
            st.sampled_from([0.0, 1e-4, 1.0, 1e5]),
            st.sampled_from([None, "a", "b"]),
        ),
        min_size=2,
        max_size=12,
    )
)
def test_no_clock_breaks_a_timeline(spans: list[tuple[float, float, str | None]]) -> None:
    trials = random_trials(len(spans))
    timed(trials, [(start, start + length) for start, length, _ in spans])
    for trial, (_, _, session) in zip(trials, spans, strict=True):
        trial.system_attrs = {"prefect_optuna:session": session} if session else {}
    assert timeline_plot(trials)


def test_what_has_not_ended_has_no_timeline() -> None:
    assert timeline_plot([]) is None
    study = optuna.create_study()
    study.ask()
    assert timeline_plot(study.trials) is None


# The ensemble


def test_the_best_trial_is_drawn_before_the_others() -> None:
    best = {"hare": np.arange(20.0)}
    others = [{"hare": np.arange(20.0) + shift} for shift in np.linspace(-9, 9, 40)]
    alone, before = series_plot(best), series_plot(best, others=others)
    shade = (215, 230, 241)
    assert count(alone, shade, 15) < 1000 < 5000 < count(before, shade, 15)
    assert count(before, (0, 114, 178), 25) > 500


@pytest.mark.parametrize(
    "other",
    [{}, {"hare": [1.0]}, {"hare": "text"}, {"hare": [math.nan] * 3}, {"hare": [math.inf] * 3}, 3],
    ids=repr,
)
def test_others_without_that_series_are_left_out(other: Any) -> None:
    assert series_plot({"hare": [1.0, 2.0, 3.0]}, others=[other] * 20)


class Archived:
    """A study with archived series, and its picture."""

    def __init__(self, folder: Path, n: int, *, plot: Any = None) -> None:
        self.problem = Problem(suggest=lambda t: {}, run=dict, evaluate=sum, plot=plot)
        self.filesystem = ArtifactFileSystem(url=str(folder))
        self.study = optuna.create_study()
        archive = OptunaArchive(self.study, artifacts=self.filesystem)
        archive.save_problem(Problem(suggest=suggest, run=run, evaluate=evaluate))
        for number in range(n):
            trial = self.study.ask()
            result = {"series": np.arange(10.0) + number}
            trial.set_user_attr(RESULT_KEY, archive.writer().write(trial.number, result))
            self.study.tell(trial, float(number))
        self.picture = BestPicture(
            self.problem, self.filesystem, TrialScope(), comparing=TimeShare(share=1e6)
        )


def suggest(trial: Any) -> dict[str, float]:
    return {"x": trial.suggest_float("x", 0, 1)}


def run(params: Any) -> Any:
    return params


def evaluate(result: Any) -> float:
    return 0.0


def test_without_a_plot_the_best_picture_shows_the_ensemble(tmp_path: Path) -> None:
    few, many = Archived(tmp_path / "few", 1), Archived(tmp_path / "many", 20)
    one, all_of_them = (a.picture.png(a.study.trials) for a in (few, many))
    assert count(one, (215, 230, 241), 15) < 1000 < 5000 < count(all_of_them, (215, 230, 241), 15)
    assert many.picture.ensemble is None


def test_beside_a_plot_the_ensemble_is_a_picture_of_its_own(tmp_path: Path) -> None:
    def plot(result: Any) -> Figure:
        figure = Figure()
        figure.subplots().plot(result["series"])
        return figure

    archived = Archived(tmp_path, 20, plot=plot)
    assert archived.picture.png(archived.study.trials)
    assert count(archived.picture.ensemble, (215, 230, 241), 15) > 5000


def test_the_best_picture_is_drawn_once_for_all_who_want_it_at_once(tmp_path: Path) -> None:
    drawn = []

    def plot(result: Any) -> Figure:
        drawn.append(threading.current_thread())
        time.sleep(0.2)
        return Figure(figsize=(2, 2))

    archived = Archived(tmp_path, 3, plot=plot)
    trials, pictures = archived.study.trials, []
    threads = [
        threading.Thread(target=lambda: pictures.append(archived.picture.png(trials)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(drawn) == 1
    assert [bool(picture) for picture in pictures] == [True] * 3
    assert archived.picture.png(trials, draw=False) == pictures[0] == pictures[2]
    assert archived.picture.png(trials, best=trials[1], draw=False) is None  # that is another one


def test_each_trial_of_the_ensemble_is_read_once_and_fifty_do(tmp_path: Path) -> None:
    archived = Archived(tmp_path, 80)
    trials = archived.study.trials
    assert archived.picture.png(trials[:40])
    read = dict(archived.picture._results)
    assert archived.picture.png(trials)
    again = archived.picture._results
    assert len(read) == 40
    assert len(again) == 50
    assert sum(again[number] is read[number] for number in again.keys() & read.keys()) >= 20


def test_a_gallery_of_no_trials_is_empty_and_one_without_time_has_a_picture() -> None:
    status = StudyStatus("s", ("minimize",), [], 9, "completed", 1.0, "", "")
    assert draw_gallery(status).pictures == {}
    status = StudyStatus("s", ("minimize",), random_trials(30), 9, "completed", 1.0, "", "")
    hurried = draw_gallery(status, seconds=-1.0)
    assert list(hurried.pictures) == ["history"]
    assert hurried.left_out
    everything = draw_gallery(status)
    of_pages = {"parallel", "contour"}
    assert list(everything.pictures) == [n for n in PICTURES if n not in {"pareto", *of_pages}]
    page = draw_gallery(status, for_page=True)
    assert set(page.pictures) == {*everything.pictures, *of_pages}
    assert not everything.left_out
    assert sum(map(len, everything.pictures.values())) < 130_000
