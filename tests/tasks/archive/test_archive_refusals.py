"""What cannot be captured is said at once, all of it, with the way out."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Generator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, SecretStr

from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import Capture


class OrderedKeys(dict[str, int]):
    """It is pickled in a way of its own."""

    def __reduce__(self) -> Any:
        return OrderedKeys, (dict(self),)


class Login(BaseModel):
    password: SecretStr


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def load(folder: Path, source: str, name: str = "study") -> Any:
    (folder / f"{name}.py").write_text(dedent(source).lstrip("\n"), encoding="utf-8")
    importlib.invalidate_caches()
    return importlib.import_module(name)


def no_parameters(trial: Any) -> dict[str, float]:
    return {}


def refusal(run: Any, **rest: Any) -> str:
    with pytest.raises(CaptureError) as error:
        Capture.of(Problem(suggest=no_parameters, run=run, **rest))
    return str(error.value)


def test_a_function_from_exec_has_no_source() -> None:
    namespace: dict[str, Any] = {"__name__": "study"}
    exec(compile("def run(params): return 1", "<made>", "exec"), namespace)
    message = refusal(namespace["run"])
    assert "study.run (<made>:1)" in message
    assert "as a function with def" in message


def test_an_edited_function_is_caught(project: Path) -> None:
    module = load(project, "def run(params):\n    return 1\n")
    (project / "study.py").write_text("def run(params):\n    return 1.0\n")
    message = refusal(module.run)
    assert f"study.run ({project / 'study.py'}:1)" in message
    assert "does not match the running code" in message
    assert "start Python again" in message


@pytest.mark.parametrize(
    "edited",
    [
        "def helper(x): return x + 2\ndef run(params): return helper(1)\n",
        "def helper(x): return x - 1\ndef run(params): return helper(1)\n",
        "def helper(x): return x + 1.0\ndef run(params): return helper(1)\n",
        "def helper(y): return y + 1\ndef run(params): return helper(1)\n",
        "def helper(x, *y): return x + 1\ndef run(params): return helper(1)\n",
        "def renamed(x): return x + 1\ndef run(params): return helper(1)\n",
    ],
)
def test_an_edited_helper_is_caught(project: Path, edited: str) -> None:
    module = load(project, "def helper(x): return x + 1\ndef run(params): return helper(1)\n")
    (project / "study.py").write_text(edited)
    assert "study.helper" in refusal(module.run)


def test_even_the_sign_of_a_zero_is_compared(project: Path) -> None:
    module = load(project, "def run(params):\n    return 0.0, (1, 0.0)\n")
    Capture.of(Problem(suggest=no_parameters, run=module.run))
    (project / "study.py").write_text("def run(params):\n    return 0.0, (1, -0.0)\n")
    assert "does not match the running code" in refusal(module.run)


@pytest.mark.parametrize("edited", ["this is no Python", ""])
def test_a_broken_file_is_caught(project: Path, edited: str) -> None:
    module = load(project, "def run(params): return 1\n")
    (project / "study.py").write_text(edited)
    assert "study.run" in refusal(module.run)


@pytest.mark.parametrize(
    "edited",
    [
        "class Model:\n    def go(self): return 2\ndef run(params): return Model().go()\n",
        "class Model:\n    def went(self): return 1\ndef run(params): return Model().go()\n",
        "class Model:\n    def go(self): return 1\n    def new(self): return 3\n"
        "def run(params): return Model().go()\n",
    ],
)
def test_an_edited_class_is_caught(project: Path, edited: str) -> None:
    source = "class Model:\n    def go(self): return 1\ndef run(params): return Model().go()\n"
    module = load(project, source)
    (project / "study.py").write_text(edited)
    message = refusal(module.run)
    assert "class Model" in message
    assert "start Python again" in message


def test_an_edited_decorated_function_is_caught(project: Path) -> None:
    source = "import functools\n@functools.cache\ndef run(params):\n    return 1\n"
    module = load(project, source)
    (project / "study.py").write_text(source.replace("1", "2"))
    assert "start Python again" in refusal(module.run)


def test_a_deleted_file_is_caught(project: Path) -> None:
    module = load(project, "def run(params): return 1\n")
    (project / "study.py").unlink()
    assert "its file is gone" in refusal(module.run)


def test_a_name_that_is_not_defined_is_named_with_its_user(project: Path) -> None:
    module = load(project, "def run(params): return helper(params)\n")
    message = refusal(module.run)
    assert "study.run uses the name 'helper'" in message
    assert "the module 'study' does not define" in message


def test_a_generator_and_a_socket_are_refused_with_the_way_out(project: Path) -> None:
    module = load(
        project,
        """
        import socket
        NUMBERS = (number for number in range(3))
        class Client:
            def __init__(self):
                self.connection = socket.socket()
        client = Client()
        client.connection.close()
        def run(params):
            return next(NUMBERS), client.connection
        """,
    )
    message = refusal(module.run)
    assert "study.NUMBERS is a generator" in message
    assert "study.client.connection is a socket.socket" in message
    assert "Make it inside a function" in message


def test_everything_that_is_wrong_is_in_one_message(project: Path) -> None:
    module = load(
        project,
        """
        NUMBERS = (number for number in range(3))
        FILE = open(__file__)
        FILE.close()
        def helper(): return NUMBERS, missing
        def run(params): return helper(), FILE
        """,
    )
    message = refusal(module.run, context={"socket": (i for i in range(3))})
    assert message.count("\n  - ") == 4
    for part in ("study.NUMBERS", "study.FILE", "'missing'", "context['socket']"):
        assert part in message


def test_a_local_class_that_uses_a_variable_is_refused() -> None:
    k = 3

    class Local:
        def go(self) -> int:
            return k

    local = Local()

    def run(params: Any) -> int:
        return local.go()

    message = refusal(run)
    assert "is defined inside a function and uses its variable 'k'" in message
    assert "Define the class at the top of a module" in message


def test_a_decorator_that_hides_the_function_is_refused(project: Path) -> None:
    module = load(
        project,
        """
        class Opaque:
            __slots__ = ("call",)
            def __init__(self, function): self.call = [function]
            def __call__(self, params): return self.call[0](params)
        @Opaque
        def run(params): return 1
        """,
    )
    message = refusal(module.run)
    assert "hides the function" in message
    assert "functools.wraps" in message


def test_an_installed_decorator_s_closure_is_refused_unless_it_is_a_global() -> None:
    import contextlib

    @contextlib.contextmanager
    def local(params: Any) -> Any:
        yield 1

    message = refusal(local)
    assert "contextlib" in message
    assert "at the top of a module" in message


class OwnArray(np.ndarray):
    def __reduce__(self):
        raise AssertionError("code of the user's is not to be called")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.full(100_001, "a", object), "array of 100001 Python objects"),
        (np.zeros(2).view(OwnArray), "plain NumPy array"),
        (np.broadcast_to(np.float64(0), 1 << 28), "2.1 GB, and at most 1.1 GB"),
        (SecretStr("hunter2"), "is a secret"),
        (OrderedKeys(a=1), "OrderedKeys, which cannot be written down"),
        ((i for i in range(3)), "generator"),
        ({"deep": [type("Made", (), {})]}, "['deep'][0] is the class Made"),
    ],
)
def test_values_of_the_context_are_refused_by_name(value: Any, words: str) -> None:
    message = refusal(no_parameters, context={"thing": value})
    assert "context['thing']" in message
    assert words in message
    assert "hunter2" not in message


def test_a_secret_in_a_model_is_refused() -> None:
    message = refusal(no_parameters, context={"login": Login(password=SecretStr("hunter2"))})
    assert "hunter2" not in message
    assert "context['login']['password'] is a secret" in message


def test_a_local_module_that_fails_to_import_is_reported(project: Path) -> None:
    load(project, "", "other")
    (project / "broken.py").write_text("1 / 0\n")
    module = load(project, "def run(params):\n    import broken\n    return broken.x\n")
    assert re.search(
        "study.run imports broken, which fails: ZeroDivisionError", refusal(module.run)
    )


# -- secrets of this machine ---------------------------------------------------------------------

SECRET = "canary-5ecre7/of=mine"

HELD = {
    "a constant": "TOKEN = SECRET\ndef run(params): return len(TOKEN)",
    "a header": "HEAD = {'a': [f'Bearer {SECRET}']}\ndef run(params): return len(HEAD)",
    "all variables": "import os\nALL = dict(os.environ)\ndef run(params): return len(ALL)",
    "bytes": "RAW = b'x' + SECRET.encode()\ndef run(params): return len(RAW)",
    "a small array": (
        "import numpy as np\nA = np.array(['x', SECRET])\ndef run(params): return len(A)"
    ),
    "a large array": (
        "import numpy as np\nA = np.array(['x', SECRET] * 999)\ndef run(params): return len(A)"
    ),
    "bytes as numbers": (
        "import numpy as np\nA = np.frombuffer(SECRET.encode() * 99, 'u1')\n"
        "def run(params): return len(A)"
    ),
    "a table": (
        "import pyarrow as pa\nT = pa.table({'x': [SECRET] * 9})\ndef run(params): return len(T)"
    ),
    "a default": "def run(params, token=SECRET): return len(token)",
    "a closure": (
        "def make(token):\n    def run(params): return len(token)\n    return run\n"
        "run = make(SECRET)"
    ),
    "an attribute": ("def run(params): return len(run.token)\nrun.token = SECRET"),
    "the source": f"def run(params): return len({SECRET!r})",
}


@pytest.mark.parametrize("held", HELD)
def test_the_value_of_a_secret_environment_variable_is_not_archived(
    project: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")  # of the tests; it would be found first
    monkeypatch.setenv("LAB_API_TOKEN", SECRET)
    message = refusal(
        load(project, f"import os\nSECRET = os.environ['LAB_API_TOKEN']\n{HELD[held]}\n").run
    )
    assert "the environment variable LAB_API_TOKEN" in message
    assert "Read it inside the function, when it runs: os.environ['LAB_API_TOKEN']" in message
    assert SECRET not in message


@pytest.mark.parametrize("context", [{"login": {"token": SECRET}}, {SECRET: 1}, {"n": 4711_0815}])
def test_a_context_with_a_secret_is_refused_without_quoting_it(
    monkeypatch: pytest.MonkeyPatch, context: dict[str, Any]
) -> None:
    monkeypatch.setenv("LAB_API_TOKEN", SECRET)
    monkeypatch.setenv("LAB_DOOR_KEY", "47110815")
    message = refusal(no_parameters, context=context)
    assert "LAB_API_TOKEN" in message or "LAB_DOOR_KEY" in message
    assert SECRET not in message
    assert "47110815" not in message


def test_what_is_read_when_it_runs_and_words_that_are_passwords_elsewhere_are_archived(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_API_TOKEN", SECRET)
    monkeypatch.setenv("POSTGRES_PASSWORD", "postgres")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    module = load(
        project,
        """
        import os
        DRIVER = "postgresql+psycopg"
        def run(params):
            return len(os.environ["LAB_API_TOKEN"]) + len(DRIVER.replace("postgres", "false"))
        """,
    )
    Capture.of(Problem(suggest=no_parameters, run=module.run))
