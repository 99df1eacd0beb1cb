"""Functions of all shapes: captured, and run by a process that never saw their files."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from prefect_optuna.blocks import ArtifactFileSystem, JournalStudyStorage
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive, Problem
from prefect_optuna.tasks.archive import Capture
from prefect_optuna.tasks.archive.code.restore import restore_problem

PROJECT = {
    "helpers.py": """
        import functools
        from physics import scale

        OFFSET = 10
        TABLE = {"a": (1, 2), 3: {4, 5}}

        def clash(x):
            return x * 2

        def add(x, y=OFFSET):
            return scale(x) + y

        def timed(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                wrapper.calls += 1
                return function(*args, **kwargs)
            wrapper.calls = 0
            return wrapper

        class Traced:
            def __init__(self, function):
                self.function = function
            def __call__(self, *args):
                return self.function(*args) + 0.5

        class Meta(type):
            def __new__(mcls, name, bases, body):
                body["made"] = OFFSET
                return super().__new__(mcls, name, bases, body)
    """,
    "physics/__init__.py": """
        from .factors import FACTOR

        def scale(x):
            return x * FACTOR
    """,
    "physics/factors.py": "FACTOR = 3",
    "physics/deep/__init__.py": "",
    "physics/deep/maths.py": """
        from ..factors import FACTOR
        from . import more

        def cube(x):
            return x ** FACTOR + more.ONE
    """,
    "physics/deep/more.py": """
        ONE = 1

        def clash(x):
            return x * 5
    """,
    "lazy.py": """
        VALUE = 41

        def value():
            return VALUE + 1
    """,
    "awkward.py": '''
        import asyncio, collections, contextlib, dataclasses, enum, functools, logging, re, typing
        import datetime as dt
        import math as m
        from functools import partial
        from pathlib import Path

        import numpy as np
        import pyarrow as pa
        import pydantic
        import scipy.integrate
        import scipy.special
        from prefect import task
        from scipy.stats import norm

        import helpers
        import physics.deep.maths
        import physics.deep.more as more
        from helpers import Meta, TABLE, Traced, add, timed
        from helpers import clash as helper_clash

        N = 4
        ARRAY = np.arange(2000.0)
        ARROW = pa.table({"x": [1, 2], "y": ["a", None]})
        CONSTANT = other_name = m.factorial(5)
        logger = logging.getLogger(__name__)
        PATTERN = re.compile(r"(\\d+)", re.I)
        Point = collections.namedtuple("Point", "x y")
        T = typing.TypeVar("T")
        START = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
        SHARED = [1]
        SAME = SHARED
        DTYPE = np.float32

        def plain(t): return N + t
        def helpers_of_other_modules(t): return add(t) + helpers.OFFSET + helper_clash(t)
        def clash(t): return t * 100
        def one_name_in_three_modules(t): return clash(t), helpers.clash(t), more.clash(t)
        def attribute_chain(t): return physics.deep.maths.cube(t)
        def large_array(t): return float(ARRAY.sum()) + t
        def arrow_table(t): return ARROW.column("x").to_pylist(), ARROW.num_rows + t
        def constants(t): return len(TABLE["a"]) + len(TABLE[3]) + CONSTANT + t
        def submodules(t):
            return scipy.integrate.quad(lambda x: x, 0, t)[0] + scipy.special.expit(0)
        def imported_instance(t): return round(float(norm.cdf(t * 0.0)), 3)
        def numpy_function(t): return float(np.add.reduce([t, 1])), str(DTYPE(t).dtype)
        def one_list_with_two_names(t):
            SHARED.append(t)
            return SAME is SHARED and len(SAME)

        def even(n): return True if n == 0 else odd(n - 1)
        def odd(n): return False if n == 0 else even(n - 1)
        def mutual_recursion(t): return even(10), odd(3)

        class Base:
            half = N / 2
            factor = half * 2
            def value(self): return self.factor
        class Model(Base, metaclass=Meta):
            def __init__(self, k): self.__k = k
            def value(self): return super().value() + self.__k + helpers.OFFSET + self.made
            @staticmethod
            def static(t): return t + N
            @classmethod
            def build(cls, t): return cls(t)
            def run(self, t): return self.value() + t
            def __call__(self, t): return self.run(t) * 2
            @property
            def double(self): return self.value() * 2
            class Inner:
                def go(self, t): return t + N
        def classes(t): return Model.build(t).value() + Model(1).double + Model.Inner().go(t)

        @dataclasses.dataclass(frozen=True)
        class Config:
            rate: float = 0.5
            names: tuple = ("a", "b")
            extra: dict = dataclasses.field(default_factory=dict)
        CONFIG = Config(0.25)
        def dataclass_instance(t): return CONFIG.rate + len(CONFIG.names) + t
        @dataclasses.dataclass(slots=True)
        class Slotted:
            a: int
        SLOTTED = Slotted(7)
        def slotted_instance(t): return SLOTTED.a + t
        class Settings(pydantic.BaseModel):
            rate: float = pydantic.Field(alias="Rate")
        SETTINGS = Settings(Rate=0.125)
        def pydantic_instance(t): return SETTINGS.rate + t
        class Colour(enum.Enum):
            RED = 1
            BLUE = "b"
        class Mode(enum.Flag):
            A = 1
            B = 2
        MODE = Mode.A | Mode.B
        def enumeration(t, colour=Colour.BLUE):
            return colour.value + Colour.RED.name + str(t) + str(MODE.value)
        def named_tuple(t, point=Point(1, 2)): return Point(t, 2).x + point._asdict()["y"]

        @timed
        def wrapped(t): return N * t
        @Traced
        def wrapped_without_wraps(t): return N + t
        @functools.lru_cache(maxsize=None)
        def cached(t): return N + t + 1
        @task(retries=1)
        def prefect_task(t): return N + t
        run_prefect_task = prefect_task.fn
        @contextlib.contextmanager
        def manager(x):
            yield x + N
        def context_manager(t):
            with manager(t) as value:
                return value
        @functools.singledispatch
        def kind(x): return "object"
        @kind.register
        def _(x: int): return f"int {N}"
        def single_dispatch(t): return kind(t) + kind("s")

        def make(k):
            shared = [k]
            def inner(t, n=k):
                return shared[0] + n + t + N
            return inner
        closure = make(7)
        def make_counter():
            count = 0
            def up():
                nonlocal count
                count += 1
            def get():
                return count
            def both(t):
                up(); up()
                return get() + t
            return both
        variable_of_three_closures = make_counter()
        def make_local_recursion():
            def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
            return fib
        local_recursion = make_local_recursion()
        def make_local_mutual_recursion():
            def a(n): return 0 if n == 0 else b(n - 1) + 1
            def b(n): return 0 if n == 0 else a(n - 1) + 2
            return a
        local_mutual_recursion = make_local_mutual_recursion()
        def make_with_module():
            import helpers as h, numpy
            def inner(t): return h.clash(t) + float(numpy.sqrt(4))
            return inner
        module_in_a_closure = make_with_module()
        wrapped_local = timed(lambda t: t - N)
        cached_local = functools.cache(lambda t: t - N - 1)
        def make_local_class():
            class Local:
                def go(self, t): return t + N
            return Local().go
        method_of_a_local_class = make_local_class()
        def make_with_text():
            def inner(t):
                text = """one
          two
        three"""
                return text.split("\\\\n"), t
            return inner
        text_that_spans_lines = make_with_text()

        square = lambda t: t * t + N
        first_of_a_line, second_of_a_line = (lambda t: t + 1), (lambda t: t + 2)
        early = [lambda t, i=i: t * i for i in range(3)]
        late = [lambda t: t * j for j in range(3)]
        default_of_a_lambda, last_of_a_loop = early[1], late[0]
        lambda_over_lines = (
            lambda t: [
                t,
                N,
            ]
        )
        partial_of_a_function = partial(add, y=1)
        partial_of_partial = partial(partial(lambda a, b, t: a + b + t, 1), 2)
        bound_method = Model(3).run
        callable_instance = Model(5)
        static_method = Model.static
        class_method = Model.Inner().go
        def bound_method_as_global(t): return bound_method(t)

        def local_imports(t):
            import lazy
            import physics.deep.maths
            from helpers import clash as c
            from physics.deep import more as mo
            return lazy.value() + mo.ONE + c(t) + physics.deep.maths.cube(t)
        def logger_and_pattern(t): return logger.name[-7:], PATTERN.findall("a1b22"), START.year + t
        def defaults(t, a=N, *, b=dt.timedelta(seconds=N), c=add): return t + a + b.seconds + c(1)
        def annotated(t: Config, u: int = 3) -> "Missing": return t + u
        def module_as_a_value(t): return getattr(helpers, "OFFSET") + t
        COUNT = 0
        def assigns_globals(t):
            global COUNT, NEW
            COUNT += 1
            NEW = t
            return COUNT + NEW
        def comprehensions(t): return [N * i for i in range(t)] + [helper_clash(i) for i in (1, N)]
        def nested_definitions(t):
            class Inner:
                z = N
                def go(self): return self.z + t
            return Inner().go() + (lambda u: u + N)(t)
        async def coroutine(t): return t + N
        def runs_a_coroutine(t): return asyncio.run(coroutine(t))
        def letters(t): é = "ñ→"; return len(é) + t
        def any_arguments(*args, **kwargs): return sum(args) + N + len(kwargs)
        def missing_package(t):
            try:
                import no_package_of_this_name
            except ImportError:
                return t + N
    ''',
}

CASES = """
    plain helpers_of_other_modules one_name_in_three_modules attribute_chain large_array
    arrow_table constants submodules imported_instance numpy_function one_list_with_two_names
    mutual_recursion classes dataclass_instance slotted_instance pydantic_instance enumeration
    named_tuple wrapped wrapped_without_wraps cached run_prefect_task context_manager
    single_dispatch closure variable_of_three_closures local_recursion local_mutual_recursion
    module_in_a_closure wrapped_local cached_local method_of_a_local_class text_that_spans_lines
    square first_of_a_line second_of_a_line default_of_a_lambda last_of_a_loop lambda_over_lines
    partial_of_a_function partial_of_partial bound_method callable_instance static_method
    class_method bound_method_as_global local_imports logger_and_pattern defaults annotated
    module_as_a_value assigns_globals comprehensions nested_definitions runs_a_coroutine letters
    any_arguments missing_package
""".split()  # noqa: SIM905 - it is long

IN_ANOTHER_PROCESS = """
import json, sys

from prefect_optuna.blocks import JournalStudyStorage
from prefect_optuna.tasks import ArchivedStudy
from prefect_optuna.tasks.archive import Capture

storage = JournalStudyStorage(path=sys.argv[1])
answers = {}
for name in sys.argv[3].split():
    archived = ArchivedStudy.load(name, storage=storage, artifacts=sys.argv[2])
    try:
        problem = archived.problem(trusted=True)
        again = Capture.of(problem).code_version
        originals = sorted({"helpers", "awkward"} & set(sys.modules))
        answers[name] = [repr(problem.run(3)), again, originals]
    except Exception as error:
        answers[name] = [f"{type(error).__name__}: {error}", None, []]
print(json.dumps(answers))
"""


def write_project(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A folder of the user's on Python's path; its modules are forgotten at the end."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


def load(folder: Path, **files: str) -> Any:
    """Write modules, and import the last one."""
    write_project(folder, {f"{name}.py": text for name, text in files.items()})
    importlib.invalidate_caches()
    return importlib.import_module(list(files)[-1])


def problem_of(function: Any, **rest: Any) -> Problem:
    return Problem(suggest=_no_parameters, run=function, **rest)


def _no_parameters(trial: Any) -> dict[str, float]:
    return {}


@dataclass
class Answer:
    expected: str
    found: str
    captured: str
    captured_again: str | None
    modules: list[str]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Each case, captured here, its files deleted, and run by another process."""
    root = tmp_path_factory.mktemp("awkward")
    folder = root / "project"
    write_project(folder, PROJECT)
    storage = JournalStudyStorage(path=root / "journal.log")
    artifacts = ArtifactFileSystem(url=str(root / "artifacts"))
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module("awkward")
        versions, expected = {}, {}
        for name in CASES:
            study = storage.create_study(name)
            problem = problem_of(getattr(module, name))
            versions[name] = OptunaArchive(study, artifacts=artifacts).save_problem(problem)
        for name in CASES:
            expected[name] = repr(getattr(module, name)(3))
    finally:
        sys.path.remove(str(folder))
        for name in [n for n in sys.modules if n.partition(".")[0] in _TOP_LEVEL]:
            del sys.modules[name]
        shutil.rmtree(folder)
    output = subprocess.run(
        [
            sys.executable,
            "-c",
            IN_ANOTHER_PROCESS,
            str(root / "journal.log"),
            str(root / "artifacts"),
            " ".join(CASES),
        ],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = json.loads(output)
    return {
        name: Answer(expected[name], found[name][0], versions[name], *found[name][1:])
        for name in CASES
    }


_TOP_LEVEL = {name.partition("/")[0].removesuffix(".py") for name in PROJECT}


@pytest.mark.parametrize("name", CASES)
def test_captured_functions_give_the_same_elsewhere(name: str, answers: dict[str, Answer]) -> None:
    answer = answers[name]
    assert answer.found == answer.expected
    assert answer.modules == []  # the restored code lives in modules of its own


@pytest.mark.parametrize("name", CASES)
def test_captured_again_they_have_the_same_version(name: str, answers: dict[str, Answer]) -> None:
    assert answers[name].captured_again == answers[name].captured


def test_modules_of_one_name_are_kept_apart(project: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        write_project(
            tmp_path / str(number),
            {"study.py": f"N = {number}\ndef run(x): return N\nproblem = run\n"},
        )
    one, two = (Problem.of(f"{tmp_path / n / 'study.py'}:run").objective for n in "12")
    sys.modules.pop("study")
    assert one is not None
    problem = Problem(suggest=_no_parameters, run=one, evaluate=two)
    restored = restore_problem(Capture.of(problem))
    assert restored.run is not None
    assert restored.evaluate is not None
    assert (restored.run({}), restored.evaluate({})) == (1, 2)


def test_capturing_calls_nothing(project: Path) -> None:
    module = load(
        project,
        study="""
        CALLS = []
        def decorate(function):
            CALLS.append("decorate")
            def inner(params):
                CALLS.append("inner")
                return function(params)
            inner.__wrapped__ = function
            return inner
        @decorate
        def run(params):
            CALLS.append("run")
        """,
    )
    Capture.of(problem_of(module.run))
    assert module.CALLS == ["decorate"]


def test_only_what_is_reached_is_captured(project: Path) -> None:
    module = load(
        project,
        study="""
        import socket
        SERVER = socket.socket()
        SERVER.close()
        def unused(): return SERVER
        def used(): return 1
        def run(params): return used()
        """,
    )
    symbols = Capture.of(problem_of(module.run)).document["symbols"]
    assert {s["name"] for s in symbols if s["module"] == "study"} == {"run", "used"}


def test_installed_packages_are_recorded_by_name_and_never_as_source(project: Path) -> None:
    module = load(
        project,
        study="""
        import optuna
        from numpy.linalg import norm
        def run(params): return norm([3, 4]), optuna.distributions.FloatDistribution(0, 1)
        """,
    )
    document = Capture.of(problem_of(module.run)).document
    sources = {s["name"] for s in document["symbols"] if s["mode"] == "source"}
    assert sources == {"run", "_no_parameters"}
    assert document["distributions"] == {"numpy": "numpy", "optuna": "optuna"}


def test_a_distribution_may_have_another_name_than_its_module(project: Path) -> None:
    module = load(project, study="import yaml\ndef run(params): return yaml.safe_load('1')\n")
    distributions = Capture.of(problem_of(module.run)).document["distributions"]
    assert distributions == {"yaml": "PyYAML"}


def test_installed_objects_are_recorded_by_their_public_name() -> None:
    from scipy.integrate import solve_ivp

    from prefect_optuna.blocks import ArtifactFileSystem

    context = {"solver": solve_ivp, "block": ArtifactFileSystem}
    document = Capture.of(problem_of(_no_parameters, context=context)).document
    assert document["context"] == {
        "solver": {"$import": "scipy.integrate:solve_ivp"},
        "block": {"$import": "prefect_optuna:ArtifactFileSystem"},
    }
    assert document["distributions"] == {"scipy": "scipy", "prefect_optuna": "prefect-optuna"}


@pytest.mark.parametrize("name", ["prefect_optuna", "prefect_optuna.tasks"])
def test_what_a_package_imports_when_it_is_asked_is_captured_alike_whoever_has_asked(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"from {name} import ArchivedStudy, param_scope\n\n\n"
    text += "def run(params):\n    return param_scope.gain(1.0), ArchivedStudy.__name__\n"
    (tmp_path / "lazily.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    documents: list[Any] = []
    for _ in range(2):
        run = importlib.import_module("lazily").run
        for package in map(sys.modules.__getitem__, ["prefect_optuna", "prefect_optuna.tasks"]):
            for lazy in ("ArchivedStudy", "param_scope"):
                vars(package).pop(lazy, None)
        documents.append(Capture.of(Problem(suggest=_no_parameters, run=run)).document)
        from prefect_optuna.tasks import ArchivedStudy, param_scope  # noqa: F401

        documents.append(Capture.of(Problem(suggest=_no_parameters, run=run)).document)
    assert all(document == documents[0] for document in documents)
    assert f"{name}:param_scope" in json.dumps(documents[0])
    del sys.modules["lazily"]


def test_functions_inside_a_function_are_captured_with_their_variables() -> None:
    gain = 3

    def helper(x: float) -> float:
        return x * gain

    def run(params: dict[str, float]) -> float:
        return helper(params["x"])

    capture = Capture.of(problem_of(run))
    values = [symbol.get("free") for symbol in capture.document["symbols"]]
    assert {"gain": 3} in values


def test_lambdas_in_one_call_are_told_apart() -> None:
    problem = Problem(suggest=lambda t: {"x": t.number}, run=lambda p: p["x"] + 1, evaluate=lambda r: -r)  # fmt: skip  # noqa: E501
    sources = [s["source"] for s in Capture.of(problem).document["symbols"]]
    assert sources == ['lambda t: {"x": t.number}', 'lambda p: p["x"] + 1', "lambda r: -r"]


def test_the_version_is_that_of_the_content(project: Path) -> None:
    module = load(project, study="N = 1\ndef run(params): return N\n")
    version = Capture.of(problem_of(module.run)).code_version
    assert Capture.of(problem_of(module.run)).code_version == version
    assert Capture.of(problem_of(module.run, context={"k": 1})).code_version != version
    module.N = 2
    assert Capture.of(problem_of(module.run)).code_version != version


def test_edits_elsewhere_in_a_file_do_not_matter(project: Path) -> None:
    module = load(project, study="def run(params):\n    return 1\n")
    version = Capture.of(problem_of(module.run)).code_version
    text = (project / "study.py").read_text()
    (project / "study.py").write_text(f"import os\n\n\ndef other():\n    pass\n\n\n{text}")
    assert Capture.of(problem_of(module.run)).code_version == version


def test_a_problem_of_thirty_functions_in_five_modules_is_captured_whole(project: Path) -> None:
    files = {}
    for number in range(5):
        functions = "".join(
            f"def f{i}(x):\n"
            f"    # {'a comment ' * 5}\n"
            f"    total = sum(x * k for k in range(3)) + CONSTANT * {i}\n"
            f"    return total + {f'f{i + 1}(x)' if i < 5 else 'below(x)'}\n\n"
            for i in range(6)
        )
        source = f"m{number - 1} import f0" if number else "math import sqrt"
        files[f"m{number}"] = f"from {source} as below\nCONSTANT = {number}\n\n{functions}"
    module = load(project, **files)
    problem = problem_of(module.f0)
    assert len(Capture.of(problem).document["symbols"]) > 30


def test_a_restored_problem_is_picklable_for_other_processes(project: Path, tmp_path: Path) -> None:
    import cloudpickle

    module = load(
        project,
        helper="BASE = 40\ndef add(x): return x + BASE\n",
        study="import helper\ndef run(params): return helper.add(params['x'])\n",
    )
    storage = JournalStudyStorage(path=tmp_path / "journal.log")
    study = storage.create_study("s")
    OptunaArchive(study, artifacts=tmp_path / "a").save_problem(problem_of(module.run))
    restored = ArchivedStudy.load("s", storage=storage, artifacts=tmp_path / "a")
    pickled = cloudpickle.dumps(restored.problem(trusted=True).run)
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)({'x': 2}))"
    output = subprocess.run(
        [sys.executable, "-c", code], input=pickled, check=True, capture_output=True, cwd="/"
    ).stdout
    assert output.strip() == b"42"
