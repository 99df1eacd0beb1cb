"""Objects that people hold are archived as Python takes them apart, and are the same afterwards."""

from __future__ import annotations

import functools
import json
import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from scipy.interpolate import interp1d
from scipy.sparse import csr_matrix
from scipy.stats import norm
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from prefect_optuna.blocks import ArchiveError
from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code.restore import acts_of, restore_problem


class Config(dict[str, Any]):
    """With attributes for keys, as many write it."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class History(list[float]):
    limit = 3

    def newest(self) -> float:
        return self[-1]


class Settings(OrderedDict[str, int]):
    """Of a subclass in C."""


@dataclass(slots=True)
class Range:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Offset:
    value: float


class Scaled(StandardScaler):
    """An estimator of one's own, with the methods of an installed one."""

    extra = 2.0


def restored(function: Callable[..., Any]) -> Any:
    """The function as it comes out of an archive, and what a review says of it."""
    problem = Problem(objective=function)
    capture = Capture.of(problem)
    assert capture.content == Capture.of(problem).content
    objective = restore_problem(capture).objective
    assert objective is not None
    return objective


IRIS: Any = load_iris()
FRAME: Any = pd.DataFrame(IRIS.data, columns=IRIS.feature_names)
FOREST: Any = RandomForestClassifier(5, random_state=0).fit(FRAME, IRIS.target)
PIPELINE: Any = make_pipeline(Scaled(), LogisticRegression()).fit(IRIS.data, IRIS.target)
VECTORS: Any = TfidfVectorizer().fit(["fast good", "slow bad"])
SPLIT: Any = StratifiedKFold(3, shuffle=True)
CURVE: Any = interp1d(np.linspace(0, 3, 50), np.sin(np.linspace(0, 3, 50)))
NOISE: Any = norm(0, 0.1)
GENERATORS: Any = (random.Random(3), np.random.RandomState(3), np.random.default_rng(3))
MATRIX: Any = csr_matrix(np.eye(40))
WORDS = np.array(["a", None, ("b", 2)], dtype=object)


def use_forest(trial: Any) -> Any:
    return FOREST.predict_proba(FRAME).tolist(), list(FOREST.feature_names_in_), IRIS.target.sum()


def use_pipeline(trial: Any) -> Any:
    return PIPELINE.predict(IRIS.data).tolist(), PIPELINE[0].extra


def use_vectors(trial: Any) -> Any:
    folds = [len(test) for _, test in SPLIT.split(IRIS.data, IRIS.target)]
    return VECTORS.transform(["good bad"]).toarray().tolist(), folds


def use_scipy(trial: Any) -> Any:
    return float(CURVE(1.5)), NOISE.cdf(0.05), MATRIX.sum(), WORDS.tolist()


def use_shared_generator(trial: Any) -> Any:
    np.random.seed(7)
    return NOISE.rvs(), np.random.rand()


HELD = Config(noise=0.1, space=Range(-3, 3), data=np.arange(500.0))
HELD["itself"] = HELD
PAST = History([1.0, 2.0])
STEPS = Settings(b=1, a=2)
SHIFT = Offset(0.5)


def use_own(trial: Any) -> Any:
    same = HELD.itself is HELD and type(HELD).__name__ == "Config"
    space = (HELD.space.low, HELD.space.high)
    return same, space, HELD.data.sum(), PAST.newest(), PAST.limit, list(STEPS.items()), SHIFT.value


@pytest.mark.parametrize(
    "function",
    [use_forest, use_pipeline, use_vectors, use_scipy, use_shared_generator, use_own],
)
def test_objects_are_the_same_when_they_come_back(function: Callable[..., Any]) -> None:
    again = restored(function)
    assert again.__module__ != function.__module__
    assert again(None) == function(None)


def draw(trial: Any) -> Any:
    python, old, new = GENERATORS
    return python.random(), old.rand(), new.random()


def test_generators_come_back_in_the_state_they_had() -> None:
    again = restored(draw)
    assert again(None) == draw(None)


class Objective:
    """What most people write who have data."""

    def __init__(self, data: Bunch, **fixed: Any) -> None:
        self.data = data
        self.model = LogisticRegression(**fixed)

    def __call__(self, trial: Any) -> float:
        return float(self.model.fit(self.data.data, self.data.target).score(*self.both()))

    def both(self) -> tuple[Any, Any]:
        return self.data.data, self.data.target

    def run(self, trial: Any) -> float:
        return self(trial)


def score(trial: Any, x: Any, y: Any = None) -> float:
    return float(np.asarray(x).sum() + np.asarray(y).sum())


def _closure() -> Callable[[Any], float]:
    x, y = load_iris(return_X_y=True, as_frame=True)
    return lambda trial: score(trial, x, y)  # pyright: ignore[reportUnknownLambdaType]


@pytest.mark.parametrize(
    "function",
    [
        Objective(IRIS, max_iter=3000, C=0.1),
        Objective(IRIS, max_iter=3000, C=0.1).run,
        functools.partial(score, x=IRIS.data, y=IRIS.target),
        _closure(),
    ],
    ids=["a callable object", "a bound method", "a partial", "a lambda with data in its closure"],
)
def test_callables_that_hold_data_are_the_same_when_they_come_back(
    function: Callable[..., Any],
) -> None:
    assert restored(function)(None) == function(None)


def test_a_large_array_is_kept_once_however_many_hold_it() -> None:
    data = np.arange(100_000.0)
    first, second = Config(data=data), Bunch(data=data, again=data)

    def objective(trial: Any) -> float:
        return float(first.data.sum() + second.data.sum() + second.again.sum())

    capture = Capture.of(Problem(objective=objective))
    assert [len(blob) > 800_000 for blob in capture.blobs.values()] == [True]
    assert len(capture.content) < 10_000
    assert restored(objective)(None) == objective(None)


def test_all_that_puts_an_object_together_is_in_the_review() -> None:
    capture = Capture.of(Problem(objective=use_vectors))
    acts = [f"{act.does} {act.what}" for act in acts_of(capture.document)]
    assert any(
        act.startswith("make sklearn.feature_extraction.text.TfidfVectorizer.__new__(")
        and "gives it its state" in act
        for act in acts
    )
    assert "import sklearn.feature_extraction.text.TfidfVectorizer" in acts


class Loud(dict[str, int]):
    """Its own way of being copied is code of the user's."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError("it was called")


class LoudItems(dict[str, int]):
    def items(self) -> Any:
        raise AssertionError("it was called")


@pytest.mark.parametrize("value", [Loud(a=1), LoudItems(a=1), (i for i in range(3))], ids=type)
def test_nothing_of_the_users_is_called_and_what_python_cannot_take_apart_is_refused(
    value: Any,
) -> None:
    def objective(trial: Any) -> float:
        return len(str(value))

    with pytest.raises(CaptureError, match=r"the variable 'value' .* cannot be written down"):
        Capture.of(Problem(objective=objective))


def test_a_study_is_not_an_object_to_hold() -> None:
    study = optuna.create_study()

    def objective(trial: Any) -> float:
        return study.best_value

    with pytest.raises(CaptureError, match=r"optuna.*Study.*Take `trial\.study`"):
        Capture.of(Problem(objective=objective))


@pytest.mark.parametrize(
    "held",
    [
        Bunch(password="correct horse"),
        Config(login=[{"api_key": "x7Kw92aB"}]),
        Config(url="postgresql://lab:hunter22@db/studies"),
    ],
    ids=["by name", "further inside", "in a URL"],
)
def test_a_secret_in_an_object_is_refused(held: Any) -> None:
    def objective(trial: Any) -> float:
        return len(held)

    with pytest.raises(CaptureError, match="is a secret, as its name or a URL in it says"):
        Capture.of(Problem(objective=objective))


@pytest.mark.parametrize("shape", [[4], ["9" * 40, 3], [-3, -1], 3])
def test_a_shape_that_does_not_fit_its_objects_is_refused(shape: Any) -> None:
    capture = Capture.of(Problem(objective=use_scipy))
    text = capture.content.decode()
    changed = json.loads(text)
    for symbol in changed["symbols"]:
        if symbol["name"] == "WORDS":
            assert symbol["value"]["$objects"][0] == [3]
            symbol["value"]["$objects"][0] = shape
    with pytest.raises(ArchiveError, match=r"3 objects for the shape|names no shape"):
        restore_problem(Capture(changed, capture.blobs))
