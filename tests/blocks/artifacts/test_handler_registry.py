"""Finding handlers: by alias, by value, and those of other packages."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import pytest

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.blocks.artifacts import (
    Artifact,
    JSONArtifact,
    TextArtifact,
    find_handler,
    handler_for,
    handlers,
    register_handler,
    registry,
)
from prefect_optuna.errors import UnknownHandlerError

BUILT_IN = [
    "arrow",
    "csv",
    "html",
    "joblib",
    "json",
    "markdown",
    "npy",
    "npz",
    "parquet",
    "pickle",
    "png",
    "pydantic",
    "svg",
    "text",
    "yaml",
]


class NotesArtifact(TextArtifact):
    __slots__ = ()
    alias: ClassVar[str] = "notes"
    suffix: ClassVar[str] = "notes"

    @classmethod
    def takes(cls, value: Any) -> bool:
        return isinstance(value, Notes)


class Notes(str):
    __slots__ = ()


@pytest.fixture(autouse=True)
def registry_as_it_was() -> Generator[None]:
    own, asked = dict(registry._own), list(registry._asked)
    yield
    registry._own.clear()
    registry._own.update(own)
    registry._asked[:] = asked


def test_LZ6_every_alias_finds_its_class() -> None:
    assert list(handlers()) == BUILT_IN
    for alias in BUILT_IN:
        assert find_handler(alias).alias == alias
        assert find_handler(alias) is handlers()[alias]


def test_LZ6_the_list_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        handlers()["mine"] = NotesArtifact  # type: ignore[index]


@pytest.mark.parametrize("alias", ["zz", "JSON", "", "base", 3])
def test_LZ6_an_unknown_alias_is_an_error_that_lists_the_known_ones(alias: Any) -> None:
    with pytest.raises(UnknownHandlerError, match="There are arrow, csv, html") as caught:
        find_handler(alias)
    assert isinstance(caught.value, ValueError)
    assert repr(alias) in str(caught.value)
    with pytest.raises(UnknownHandlerError, match="did you mean 'parquet'"):
        find_handler("parket")


@pytest.mark.parametrize(
    ("value", "alias"),
    [
        (None, "json"),
        (True, "json"),
        (1.5, "json"),
        (np.float32(1), "json"),
        ([1, (2,)], "json"),
        (datetime(2025, 1, 20, tzinfo=UTC), "json"),
        (b"bytes", "json"),
        ("text", "text"),
        (np.zeros(1), "npy"),
        ({"a": np.zeros(1)}, "npz"),
    ],
)
def test_a_value_finds_its_handler(value: Any, alias: str) -> None:
    assert handler_for(value).alias == alias


@pytest.mark.parametrize("value", [object(), open, np.ma.masked_array([1]), Notes("x")])
def test_a_value_that_nobody_takes_is_an_error_that_names_its_type(value: Any) -> None:
    with pytest.raises(UnknownHandlerError, match=type(value).__name__):
        handler_for(value)


def test_LZ6_a_registered_handler_is_found_whichever_class_it_derives_from() -> None:
    assert register_handler(NotesArtifact) is NotesArtifact
    assert find_handler("notes") is NotesArtifact
    assert handler_for(Notes("x")) is NotesArtifact
    assert list(handlers()) == sorted([*BUILT_IN, "notes"])
    # once more, as a notebook's cell does
    again = type("NotesArtifact", (TextArtifact,), dict(NotesArtifact.__dict__))
    register_handler(again)
    assert find_handler("notes") is again
    assert handler_for(Notes("x")) is again


def test_a_registered_handler_comes_before_the_built_in_ones() -> None:
    class Greedy(NotesArtifact):
        __slots__ = ()
        alias: ClassVar[str] = "greedy"

        @classmethod
        def takes(cls, value: Any) -> bool:
            return value == "mine"

    register_handler(Greedy)
    assert handler_for("mine") is Greedy
    assert handler_for("other") is TextArtifact


class Half(Artifact):
    alias: ClassVar[str] = "half"
    suffix: ClassVar[str] = "half"
    binary: ClassVar[bool] = True

    @classmethod
    def read(cls, buf: IO[bytes], **reader_kwargs: Any) -> Any:
        return None


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (JSONArtifact.construct("a"), "found prefect_optuna.*JSONArtifact"),
        (dict, "found the class dict"),
        (Half, "it lacks write"),
        (type("A", (NotesArtifact,), {"alias": "../a"}), "its alias has to match"),
        (type("A", (NotesArtifact,), {"suffix": "a/b"}), "its suffix has to match"),
        (type("A", (NotesArtifact,), {"binary": None}), "its binary has to be True or False"),
        (type("A", (NotesArtifact,), {"alias": "json"}), "JSONArtifact has the alias 'json'"),
    ],
)
def test_what_is_no_handler_is_not_registered(handler: Any, says: str) -> None:
    with pytest.raises(UnknownHandlerError, match=says) as caught:
        register_handler(handler)
    assert isinstance(caught.value, TypeError)
    assert list(handlers()) == BUILT_IN


def test_LZ6_the_errors_are_the_builtins_that_fit() -> None:
    for kind in (ValueError, TypeError, ImportError, PrefectOptunaError):
        assert issubclass(UnknownHandlerError, kind)


def distribution(folder: Path, name: str, entries: dict[str, str]) -> None:
    """Install a package, as far as Python's metadata is concerned."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{alias} = {path}\n" for alias, path in entries.items())
    (info / "entry_points.txt").write_text(f"[prefect_optuna.artifacts]\n{lines}")


@pytest.mark.slow
def test_LZ6_handlers_of_installed_packages_are_found_once_and_faults_are_explained(
    tmp_path: Path,
) -> None:
    (tmp_path / "onnx_handlers.py").write_text(
        textwrap.dedent("""
        from prefect_optuna.blocks.artifacts import TextArtifact
        print("imported")
        class Onnx(TextArtifact):
            alias = "onnx"
            suffix = "onnx"
            @classmethod
            def takes(cls, value):
                return isinstance(value, complex) or value is ...
        class Twin(TextArtifact):
            alias = "twin"
        """)
    )
    entries = {
        "onnx": "onnx_handlers:Onnx",
        "json": "onnx_handlers:Onnx",
        "gone": "no_such_module:Handler",
        "missing": "onnx_handlers:Missing",
        "notclass": "onnx_handlers:__name__",
        "nohandler": "builtins:dict",
        "renamed": "onnx_handlers:Onnx",
        "twin": "onnx_handlers:Twin",
    }
    distribution(tmp_path, "zz-onnx", entries)
    distribution(tmp_path, "aa-twin", {"twin": "other:Twin", "onnx": "onnx_handlers:Onnx"})
    script = textwrap.dedent("""
        import logging, sys
        import numpy
        from prefect_optuna.blocks.artifacts import find_handler, handler_for, handlers
        find_handler("json"), handler_for(1j), handler_for({"a": numpy.zeros(1)})
        print("nothing imported yet", "onnx_handlers" in sys.modules)
        print(find_handler("onnx").alias, handler_for(...).alias, handler_for(1j).alias)
        print(find_handler("onnx") is find_handler("onnx"), "onnx" in handlers())
        for alias in ("gone", "missing", "notclass", "nohandler", "renamed", "twin", "zz"):
            for _ in range(2):
                try:
                    find_handler(alias)
                except Exception as error:
                    text = f"{alias}: {type(error).__name__}: {error}"
            print(text, alias in handlers())
        try:
            handler_for(object())
        except Exception as error:
            print("value:", error)
        heavy = {"pandas", "polars", "pyarrow", "matplotlib", "plotly", "joblib"}
        print("loaded: ", *sorted(heavy & set(sys.modules)))
    """)
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(tmp_path), "PATH": "", "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    out = run.stdout.splitlines()
    assert out[:4] == ["nothing imported yet False", "imported", "onnx onnx json", "True True"]
    said = dict(line.split(": ", 1) for line in out[4:])
    assert said["gone"] == (
        "UnknownHandlerError: The entry point gone = no_such_module:Handler of zz-onnx cannot be "
        "imported: ModuleNotFoundError: No module named 'no_such_module'. Update or uninstall that "
        "package. False"
    )
    assert "UnknownHandlerError: The entry point missing" in said["missing"]
    assert "UnknownHandlerError: The entry point notclass" in said["notclass"]
    assert "found str" in said["notclass"]
    assert "found the class dict" in said["nohandler"]
    assert "its alias is 'onnx'" in said["renamed"]
    assert said["twin"] == (
        "UnknownHandlerError: Two packages offer an artifact handler 'twin': The entry point "
        "twin = onnx_handlers:Twin of zz-onnx and The entry point twin = other:Twin of aa-twin. "
        "Uninstall one. False"
    )
    assert "No artifact handler has the alias 'zz'" in said["zz"]
    assert "no_such_module" in said["value"]
    assert said["loaded"].strip() == ""
    assert "The entry point json = onnx_handlers:Onnx of zz-onnx is left out" in run.stderr
    assert "built in" in run.stderr
