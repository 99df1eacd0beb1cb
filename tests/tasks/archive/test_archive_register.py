"""`register()`: what a block of a script, a notebook or a function defines."""

from __future__ import annotations

import gc
import importlib
import inspect
import sys
import weakref
from collections.abc import Generator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from prefect_optuna.blocks import ArtifactFileSystem, InMemoryStudyStorage
from prefect_optuna.errors import CaptureError
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive


@pytest.fixture
def memory(tmp_path: Path) -> InMemoryStudyStorage:
    return InMemoryStudyStorage(name=f"register-{tmp_path.name}")


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactFileSystem:
    return ArtifactFileSystem(url=str(tmp_path / "artifacts"))


@pytest.fixture
def archive(memory: InMemoryStudyStorage, artifacts: ArtifactFileSystem) -> OptunaArchive:
    return OptunaArchive(memory.create_study("loop"), artifacts=artifacts)


@pytest.fixture
def restored(memory: InMemoryStudyStorage, artifacts: ArtifactFileSystem) -> Any:
    """The problem of the study, restored."""
    return lambda: ArchivedStudy.load("loop", storage=memory, artifacts=artifacts).problem(
        trusted=True
    )


@pytest.fixture
def script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: OptunaArchive
) -> Generator[Any]:
    """Runs a script that has `archive`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    monkeypatch.setitem(sys.modules, "given", type(sys)("given"))
    sys.modules["given"].archive = archive  # type: ignore[attr-defined]

    def run(source: str, name: str = "script") -> Any:
        text = f"from given import archive\n{dedent(source)}"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield run
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def finish(archive: OptunaArchive) -> None:
    archive.set_suggest_entrypoint("suggest")
    archive.set_run_entrypoint("simulate")
    archive.set_eval_entrypoint("misfit")
    archive.check_minimal()


def test_OA6_new_names_and_names_bound_anew_are_registered(
    script: Any, archive: OptunaArchive
) -> None:
    cell = """
        data = [1.0, 2.0]
        kept = 1
        with archive.register() as registered:
            data = [3.0, 4.0]
            newv = 5
            kept = kept
    """
    module = script(cell)
    assert module.registered.names == ("data", "newv")
    assert dict(archive.context) == {"data": [3.0, 4.0], "newv": 5}


def test_OA6_a_cell_that_runs_again_registers_the_same_names(archive: OptunaArchive) -> None:
    cell = "with archive.register() as registered:\n    data = [1.0]\n    rate = float('0.5')\n"
    space: dict[str, Any] = {"archive": archive, "__name__": "notebook"}
    for _ in range(2):
        exec(cell, space)
        assert space["registered"].names == ("data", "rate")


def test_OA7_a_block_in_a_function_takes_the_variables_that_its_functions_use(
    archive: OptunaArchive, restored: Any
) -> None:
    gain = np.arange(3.0)
    with archive.register() as registered:
        rate = 2.0

        def suggest(trial: Any) -> dict[str, float]:
            return {"x": trial.suggest_float("x", 0, 1)}

        def simulate(params: dict[str, float]) -> Any:
            return rate * gain * params["x"]

        def misfit(result: Any) -> float:
            return float(result.sum())

    assert set(registered.names) == {"rate", "suggest", "simulate", "misfit"}
    finish(archive)
    problem = restored()
    np.testing.assert_array_equal(problem.call("run", {"x": 2.0}), [0, 4, 8])
    assert problem.run is not simulate


def test_OA8_nothing_is_registered_when_the_block_fails(
    script: Any, archive: OptunaArchive
) -> None:
    archive.context_add("before", 1)
    with pytest.raises(ZeroDivisionError):
        script(
            """
            with archive.register():
                rate = 2.0
                rate / 0
            """
        )
    assert dict(archive.context) == {"before": 1}


def test_OA8_nothing_is_registered_when_one_value_cannot_be_archived(
    script: Any, archive: OptunaArchive
) -> None:
    with pytest.raises(CaptureError) as error:
        script(
            """
            import socket, threading
            with archive.register():
                rate = 2.0
                lock = threading.Lock()
                class Client:
                    def __init__(self): self.connection = socket.socket()
                client = Client()
                client.connection.close()
            """
        )
    assert "lock is a _thread.lock" in str(error.value)
    assert "client.connection is a socket.socket" in str(error.value)
    assert "starts with `_`" in str(error.value)
    assert dict(archive.context) == {}


def test_OA9_modules_and_installed_functions_are_imports_and_private_names_are_left_out(
    script: Any, archive: OptunaArchive, restored: Any
) -> None:
    script(
        """
        with archive.register():
            import math
            import numpy as np
            from os.path import join
            from collections import Counter
            _private = object()
            __hidden = open
            for i in range(3):
                pass
            def suggest(trial): return {}
            def simulate(params, ctx): return ctx["math"].sqrt(ctx["np"].float64(16.0))
            def misfit(result): return result
        """
    )
    finish(archive)
    names = ["math", "np", "join", "Counter", "i", "suggest", "simulate", "misfit"]
    assert list(archive.context) == names
    manifest = archive.manifest
    assert manifest is not None
    context = restored().context
    assert context["math"] is sys.modules["math"]
    assert context["Counter"] is __import__("collections").Counter
    assert restored().call("run", {}) == 4.0


def test_OA9_imports_are_recorded_by_name_and_version(
    script: Any,
    archive: OptunaArchive,
    memory: InMemoryStudyStorage,
    artifacts: ArtifactFileSystem,
) -> None:
    script(
        """
        with archive.register():
            import numpy as np
            def suggest(trial): return {}
            def simulate(params): return np.float64(1.0)
            def misfit(result): return float(result)
        """
    )
    finish(archive)
    archived = ArchivedStudy.load("loop", storage=memory, artifacts=artifacts)
    document = archived.capture().document
    assert document["context"]["np"] == {"$import": "numpy"}
    assert document["distributions"] == {"numpy": "numpy"}
    assert archived.environment.distributions["numpy"] == np.__version__


def test_OA9_a_module_of_ones_own_is_archived_as_source(
    script: Any, tmp_path: Path, archive: OptunaArchive, restored: Any
) -> None:
    (tmp_path / "growth.py").write_text("RATE = 0.5\ndef grow(x):\n    return RATE * x\n")
    script(
        """
        with archive.register():
            import growth
            def suggest(trial): return {}
            def simulate(params, ctx): return ctx["growth"].grow(4.0) + growth.grow(2.0)
            def misfit(result): return result
        """
    )
    finish(archive)
    del sys.modules["growth"]
    (tmp_path / "growth.py").unlink()
    assert restored().call("run", {}) == 3.0


def test_OA10_what_was_there_before_is_compared_with_a_copy(archive: OptunaArchive) -> None:
    # On Python 3.13 `f_locals` of a function shows the variables as they are, not as they were.
    frame = inspect.currentframe()
    assert frame is not None
    old = [1]
    live = frame.f_locals
    with archive.register() as registered:
        old = [2]
        new = 3
    assert registered.names == ("old", "new")
    assert live
    assert (old, new) == ([2], 3)


def test_the_scope_of_a_block_is_not_kept_alive(archive: OptunaArchive) -> None:
    class Large:
        """Stands for something that takes memory."""

    def block() -> weakref.ref[Large]:
        _large = Large()
        with archive.register() as registered:
            rate = 1.0
        _kept.append((registered, rate))
        return weakref.ref(_large)

    _kept: list[Any] = []
    reference = block()
    gc.collect()
    assert reference() is None


def test_OA11_lambdas_partials_and_callable_objects_are_archived(
    script: Any, archive: OptunaArchive, restored: Any
) -> None:
    script(
        """
        from functools import partial
        with archive.register():
            double, treble = lambda x: 2 * x, lambda x: 3 * x
            half = partial(lambda x, by: x / by, by=2)
            class Add:
                def __init__(self, what): self.what = what
                def __call__(self, x): return x + self.what
            add = Add(5)
            def suggest(trial): return {}
            def simulate(params, ctx): return treble(ctx["double"](1)), half(3), ctx["add"](1)
            def misfit(result): return result[0]
        """
    )
    finish(archive)
    assert restored().call("run", {}) == (6, 1.5, 6)


def test_OA11_what_has_no_source_is_refused(script: Any, archive: OptunaArchive) -> None:
    with pytest.raises(CaptureError, match="made by exec"):
        script(
            """
            with archive.register():
                exec("def helper(x): return x")
            """
        )
    assert dict(archive.context) == {}


def test_OA11_two_lambdas_on_a_line_are_told_apart_also_as_entry_points(
    script: Any, archive: OptunaArchive, restored: Any
) -> None:
    script(
        """
        with archive.register():
            suggest, simulate, misfit = lambda trial: {}, lambda params: 7, lambda result: result
        """
    )
    finish(archive)
    assert restored().call("run", {}) == 7


def test_OA12_an_edited_file_is_caught_at_the_end_of_the_block(
    script: Any, archive: OptunaArchive
) -> None:
    with pytest.raises(CaptureError, match="does not match the running code"):
        script(
            """
            from pathlib import Path
            with archive.register():
                def simulate(params): return 1
                _text = Path(__file__).read_text()
                _ = Path(__file__).write_text(_text.replace("return 1", "return 2"))
            """
        )
    assert dict(archive.context) == {}


def test_OA15_classes_come_after_their_bases_and_decorators_whatever_the_order_of_names(
    script: Any, archive: OptunaArchive, restored: Any
) -> None:
    script(
        """
        def traced(function):
            def wrapper(*args): return function(*args)
            wrapper.__wrapped__ = function
            return wrapper
        class Base:
            step = 2
        with archive.register():
            class Walker(Base):
                def go(self, x=Base.step): return x + self.step
            @traced
            def simulate(params): return Walker().go()
            def suggest(trial): return {}
            def misfit(result): return later(result)
        def later(result): return result + 1
        """
    )
    finish(archive)
    problem = restored()
    assert problem.call("evaluate", problem.call("run", {})) == 5
