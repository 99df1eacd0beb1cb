"""What scripts do around their functions: it is captured, for their results depend on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from prefect_optuna.tasks.archive.code.verified_sources import settings

# Captures `run` of a script; or, in another process, restores that, and prints what it gives.
_CAPTURE = """
import json, pickle, sys
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import Capture
def archive(run):
    capture = Capture.of(Problem(suggest=lambda trial: {}, run=run))
    with open("capture.pickle", "wb") as file:
        pickle.dump((capture.document, dict(capture.blobs)), file)
    print("ANSWER", json.dumps(run({})))
"""
_RESTORE = """
import json, pickle
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code.restore import restore_problem
with open("capture.pickle", "rb") as file:
    problem = restore_problem(Capture(*pickle.load(file)))
print("ANSWER", json.dumps(problem.run({})))
"""
SCRIPTS = {
    "attributes of classes": """
        import random
        class Config:
            rate = 0.1
            names = ["a"]
            drawn = random.SystemRandom().random()
            def shown(self): return "as written"
        Config.rate = 0.5
        Config.more = {"depth": 3}
        Config.names.append("b")
        Config.shown = lambda self: "put in its place"
        def run(params):
            c = Config
            return [c.rate, c.more, c.names, c.drawn, Config().shown()]
    """,
    "registers": """
        LOSSES = {}
        def register(name):
            def decorator(function):
                LOSSES[name] = function
                return function
            return decorator
        @register("square")
        def square(x): return x * x
        class Base:
            known = {}
            def __init_subclass__(cls): Base.known[cls.__name__] = cls
        class One(Base):
            def value(self): return 1
        class Meta(type):
            made = {}
            def __new__(mcls, name, bases, body):
                mcls.made[name] = super().__new__(mcls, name, bases, body)
                return mcls.made[name]
        class Two(metaclass=Meta):
            def value(self): return 2
        def run(params):
            kinds = [*Base.known.values(), *Meta.made.values()]
            return [LOSSES["square"](3), [kind().value() for kind in kinds]]
    """,
    "patches of modules": """
        import math
        import numpy as np
        import os.path as paths
        np.float = float
        math.gravity = 9.81
        paths.mine = len
        def run(params):
            return [np.float(1), math.gravity, paths.mine("abc")]
    """,
    "settings": """
        import decimal, os, sys, warnings
        import numpy as np
        import pandas as pd
        decimal.getcontext().prec = 50
        np.seterr(divide="raise")
        sys.setrecursionlimit(7000)
        pd.set_option("compute.use_bottleneck", False)
        os.environ["LAB_MODE"] = "fast"
        os.environ.setdefault("LAB_PLACE", "here")
        warnings.simplefilter("error", FutureWarning)
        def run(params):
            found = [str(1 / decimal.Decimal(3)), np.geterr(), sys.getrecursionlimit()]
            found += [pd.get_option("compute.use_bottleneck")]
            try:
                warnings.warn("soon", FutureWarning)
            except FutureWarning:
                found.append("an error")
            return [*found, os.environ.get("LAB_MODE"), os.environ.get("LAB_PLACE")]
    """,
    "what belongs to a process": """
        import queue, sys, threading
        LOCK, AGAIN, EVENT = threading.Lock(), threading.RLock(), threading.Event()
        MINE, QUEUE, NEXT = threading.local(), queue.Queue(), iter([4, 5, 6])
        LOG, SAID = open("log.txt", "w"), sys.stderr
        class Guarded:
            def __init__(self): self.lock = LOCK
        guarded = Guarded()
        def run(params):
            with LOCK, AGAIN:
                is_locked = guarded.lock.locked()
                MINE.x = 1
                QUEUE.put(2)
                print("said", file=LOG)
                print("said", file=SAID)
                return [is_locked, MINE.x, QUEUE.get(), next(NEXT), EVENT.is_set()]
    """,
    "what code looks up": """
        import argparse, os, sys
        sys.argv = ["script.py", "--scale", "2.5"]
        RATE = 3
        def double(x): return 2 * x
        def run(params):
            parser = argparse.ArgumentParser()
            parser.add_argument("--scale", type=float)
            here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "log.txt")
            found = [parser.parse_args().scale, os.path.basename(here), os.path.exists(here)]
            name = "double"
            return [*found, globals()[name](1), eval("RATE + 1")]
    """,
    "what only its statement makes": """
        import sqlite3
        from rich.console import Console
        connection = sqlite3.connect(":memory:")
        console = Console(stderr=True, width=33)
        def run(params):
            console.print("said")
            return [connection.execute("select 1 + 1").fetchone(), console.width]
    """,
    "arrays of other kinds": """
        import numpy as np
        MASKED = np.ma.masked_array([1, 2, 3], mask=[0, 1, 0])
        TABLE = np.rec.array([(1, 2.5)], dtype=[("a", int), ("b", float)])
        MATRIX = np.matrix([[1, 2], [3, 4]])
        def run(params):
            return [int(MASKED.sum()), float(TABLE.b[0]), (MATRIX * MATRIX).tolist()]
    """,
    "methods under another name": """
        import functools, types
        def logged(function):
            def inner(*given):
                return function(*given) + 0.5
            return inner
        class Model:
            base = 2
            def __init__(self):
                self.own = types.MethodType(lambda self: self.base * 7, self)
            def __fit(self): return self.base
            def handle(self): return self.__fit
            @logged
            def fit(self): return self.base * 3
            also = fit
            score = lambda self: self.base * 5
            @classmethod
            def make(cls): return cls.base * 11
        class Better(Model):
            base = 3
            def fit(self): return 100
            @property
            def plain(self): return super().fit
        def apart(self): return self.base * 13
        Model.joined = apart
        model, better = Model(), Better()
        METHODS = [model.handle(), model.fit, model.also, model.score, model.own, model.joined]
        METHODS += [better.handle(), better.fit, better.plain, Better.make]
        METHODS += [functools.partial(types.MethodType(apart, better))]
        def run(params): return [method() for method in METHODS]
    """,
    "what objects hold of a process": """
        import threading
        from tqdm import tqdm
        class Guarded:
            def __init__(self):
                self.lock, self.mine = threading.Lock(), threading.local()
                self.log = open("log.txt", "a")
                self.bar = tqdm(total=2)
        HELD = Guarded()
        def made():
            bar, steps = tqdm(total=3), tqdm([1, 2])
            def tell():
                bar.update()
                bar.set_postfix({"loss": 1})
                return [bar.total, sum(steps)]
            return tell
        TELL = made()
        def run(params):
            with HELD.lock:
                HELD.bar.update()
                return [*TELL(), HELD.bar.total]
    """,
    "objects that raise when they are looked at": """
        import numpy as np
        np.savez("data.npz", a=np.arange(3.0))
        DATA = np.load("data.npz")
        def run(params): return DATA["a"].tolist()
    """,
    "statements on one line": """
        import sqlite3
        MADE = []
        def count(): MADE.append(1)
        first = sqlite3.connect(":memory:"); count(); second = sqlite3.connect(":memory:")
        def run(params):
            return [*first.execute("select 1"), *second.execute("select 2"), len(MADE)]
    """,
    "a base with the name of its class": """
        from collections import namedtuple
        _Point = namedtuple("Point", "x y")
        class Point(_Point):
            def size(self): return self.x + self.y
        class Bare(namedtuple("Bare", "x")): pass
        def run(params): return [Point(1, 2).size(), _Point(3, 4), Bare(5)]
    """,
    "closures and objects that refer to one another": """
        from dataclasses import dataclass
        @dataclass
        class Spec:
            size: int
        def made(double, specs):
            def one(size): return double(size)
            def several(size): return [one(size), one(size)]
            def last(): return several(specs[0].size) + [double(1)]
            return last
        LAST = made(lambda size: 2 * size, [Spec(3)])
        class Node:
            def __init__(self, specs):
                self.first = lambda: self.specs[0].size
                self.specs = specs
        NODE = Node([Spec(4)])
        def run(params): return [LAST(), NODE.first()]
    """,
    "arrays with names": """
        import xarray
        GRID = xarray.DataArray([1.0, 2.0], dims="time")
        def run(params): return float(GRID.sum("time"))
    """,
}


def answer(folder: Path, *arguments: str) -> Any:
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    [line] = [line for line in ended.stdout.splitlines() if line.startswith("ANSWER ")]
    return json.loads(line.removeprefix("ANSWER "))


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_code_finds_what_its_script_has_changed(name: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    (tmp_path / "log.txt").touch()
    script.write_text(f"{_CAPTURE}\n{dedent(SCRIPTS[name])}\narchive(run)\n", encoding="utf-8")
    then = answer(tmp_path, script.name)
    script.unlink()
    (tmp_path / "log.txt").write_text("kept", encoding="utf-8")
    assert answer(tmp_path, "-c", _RESTORE) == then
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "kept"


def test_a_secret_of_the_command_line_is_not_archived(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (["--api-key", "s3cret-of-mine"], ["--api-key=s3cret-of-mine"]):
        monkeypatch.setattr("sys.argv", ["script.py", "--scale", "2", *given])
        assert list(settings([], ["parser.parse_args()"])) == []
    monkeypatch.setattr("sys.argv", ["script.py", "--scale", "2"])
    (change,) = settings([], ["parser.parse_args()"])
    assert change.value == ["script.py", "--scale", "2"]
