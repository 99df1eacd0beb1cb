"""Scopes from files and from a command line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.tasks.scope import (
    ConfigFileError,
    InvalidParameterError,
    PathNotFoundError,
    UnknownNameError,
    add_scope_arguments,
    param_scope,
    scope_from_arguments,
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: Any) -> str:
    Path(name).write_text(
        content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
    )
    return name


def test_HP59_files_are_merged_in_order_and_assignments_go_last() -> None:
    one = write("one.json", {"model": {"depth": 3, "width": 8}, "seed": 1})
    two = write("two.yaml", "model:\n  depth: 4\nname: two\nrate: 1e-3\n")
    three = write("three.toml", 'name = "three"\n[model]\nunits = [1, 2]\n')
    scope = param_scope.from_files(one, two, three, define=["seed=7", "model.depth=5"])
    assert dict(scope) == {
        "model.depth": "5",
        "model.width": 8,
        "seed": "7",
        "name": "three",
        "rate": "1e-3",
        "model.units": [1, 2],
    }
    assert (scope.seed(0), scope.rate(1.0)) == (7, 0.001)


def test_HP59_a_command_line_makes_a_scope() -> None:
    config = write("study.toml", "seed = 1\n[simulate]\ndt = 0.1\n")
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    add_scope_arguments(parser)
    line = ["data.csv", "-C", config, "-D", "a=1", "simulate.dt=0.2", "--define", "b=x=y"]
    arguments = parser.parse_args(line)
    with scope_from_arguments(arguments):
        assert arguments.data == "data.csv"
        assert param_scope.simulate.dt(1.0) == 0.2
        assert (param_scope.seed(0), param_scope.a(0), param_scope.b("")) == (1, 1, "x=y")
        origin = param_scope.explain("simulate.dt").origin
        assert origin == "the command line (simulate.dt=0.2)"
        assert param_scope.explain("seed").origin == "study.toml"
    with scope_from_arguments(parser.parse_args(["data.csv"])) as nothing:
        assert not nothing


def test_HP61_what_is_no_assignment_is_refused_and_not_swallowed() -> None:
    parser = argparse.ArgumentParser()
    add_scope_arguments(parser)
    with pytest.raises(InvalidSettingError, match="'data' sets no parameter"):
        scope_from_arguments(parser.parse_args(["-D", "a=1", "data"]))


def test_HP63_a_reference_alone_keeps_its_type_and_others_become_text() -> None:
    content = {
        "root": "/data",
        "n": 3,
        "same": "${n}",
        "path": "${root}/${n}.csv",
        "chain": "${same}",
        "list": ["${n}", {"x": "${root}"}],
        "branch": {"a": 1, "b": "${n}"},
        "copy": "${branch}",
        "spaced": "${ n }",
        "cost": "$5 {n}",
    }
    scope = param_scope.from_files(write("c.json", content), define=["later=${n}"])
    assert dict(scope) == {
        "root": "/data",
        "n": 3,
        "same": 3,
        "path": "/data/3.csv",
        "chain": 3,
        "list": [3, {"x": "/data"}],
        "branch.a": 1,
        "branch.b": 3,
        "copy.a": 1,
        "copy.b": 3,
        "spaced": 3,
        "cost": "$5 {n}",
        "later": 3,
    }
    with scope.allow_unread():
        assert param_scope.explain("copy.a").origin == "c.json"


def test_HP63_a_later_file_replaces_a_leaf_by_a_branch_and_the_other_way_round() -> None:
    one = write("one.json", {"a": 1, "b": {"x": 1, "y": 2}, "c": [1, 2]})
    two = write("two.json", {"a": {"x": 1}, "b": 5, "c": [3]})
    assert dict(param_scope.from_files(one, two)) == {"a.x": 1, "b": 5, "c": [3]}


def test_HP63_a_reference_that_leads_nowhere_is_named() -> None:
    config = write("c.json", {"a": {"b": "x${zz.y}"}})
    with pytest.raises(UnknownNameError, match=r"'a\.b' refers to \$\{zz\.y\}"):
        param_scope.from_files(config)


@pytest.mark.parametrize(
    "content",
    [
        {"a": "${a}"},
        {"a": "${b}", "b": "x${c}", "c": "${a}"},
        {"a": "${b}", "b": {"c": "${a}"}},
        {"a": {"b": "${a}"}},
    ],
)
def test_HP63_references_in_a_circle_are_refused(content: Any) -> None:
    with pytest.raises(ConfigFileError, match=r"in a circle: a.* -> "):
        param_scope.from_files(write("c.json", content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.json", "{", r"Expected JSON in the file of parameters c\.json"),
        ("c.yaml", "a: [", r"Expected YAML in the file of parameters c\.yaml"),
        ("c.toml", "a = ", r"Expected TOML in the file of parameters c\.toml"),
        ("c.json", "[1]", r"Expected a mapping .* c\.json, found a list"),
        ("c.ini", "a=1", r"ends in \.json, \.yaml, \.yml or \.toml, found c\.ini"),
    ],
)
def test_HP63_a_file_that_is_malformed_is_named(name: str, content: str, message: str) -> None:
    with pytest.raises(ConfigFileError, match=message) as error:
        param_scope.from_files(write(name, content))
    assert isinstance(error.value, (PrefectOptunaError, ValueError))


def test_HP63_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(PathNotFoundError, match=r"no file of parameters none\.json") as error:
        param_scope.from_files("none.json")
    assert isinstance(error.value, FileNotFoundError)
    Path("folder.json").mkdir()
    with pytest.raises(ConfigFileError, match=r"folder\.json cannot be read"):
        param_scope.from_files("folder.json")


def test_HP63_keys_are_text_and_an_empty_file_sets_nothing() -> None:
    assert not param_scope.from_files(write("c.yaml", ""))
    with pytest.raises(InvalidParameterError, match="found 1 "):
        param_scope.from_files(write("c.yaml", "1: 2"))


def test_files_are_data_and_nothing_else() -> None:
    content = "a: !!python/object/apply:os.system ['touch harm']\n"
    with pytest.raises(ConfigFileError, match="could not determine a constructor"):
        param_scope.from_files(write("c.yaml", content))
    assert not Path("harm").exists()
