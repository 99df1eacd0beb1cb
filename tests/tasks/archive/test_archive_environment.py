"""What a study ran in."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from prefect_optuna.tasks import Environment
from prefect_optuna.tasks.archive import GitState


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--initial-branch=trunk")
    (tmp_path / "study.py").write_text("N = 1\n")
    git(tmp_path, "add", "study.py")
    return tmp_path


def test_python_the_machine_and_the_distributions_are_described() -> None:
    environment = Environment.capture()
    assert environment.python == platform.python_version()
    assert environment.implementation == platform.python_implementation()
    assert environment.machine == platform.machine()
    assert environment.cpu_count == os.cpu_count()
    for name in ("numpy", "optuna", "PyYAML"):
        assert environment.distributions[name] == importlib.metadata.version(name)


def test_every_installed_distribution_is_listed_once() -> None:
    def canonical(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    expected = {canonical(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    assert {canonical(name) for name in Environment.capture().distributions} == expected


def test_it_comes_back_from_json(repository: Path) -> None:
    git(repository, "commit", "-m", "first")
    environment = Environment.capture(repository)
    data = json.loads(json.dumps({**environment.to_json(), "from the future": 1}))
    assert Environment.from_json(data) == environment


def test_neither_environment_variables_nor_the_host_s_name_are_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "correct horse battery staple")
    text = json.dumps(Environment.capture().to_json())
    assert "correct horse" not in text
    assert platform.node() not in text


def test_a_clean_repository(repository: Path) -> None:
    git(repository, "commit", "-m", "first")
    state = Environment.capture(repository).git
    assert state is not None
    assert len(state.commit) == 40
    assert (state.branch, state.dirty) == ("trunk", False)


def test_a_changed_file_makes_it_dirty(repository: Path) -> None:
    git(repository, "commit", "-m", "first")
    (repository / "study.py").write_text("N = 2\n")
    state = Environment.capture(repository).git
    assert state is not None
    assert state.dirty


def test_a_repository_before_its_first_commit(repository: Path) -> None:
    assert Environment.capture(repository).git == GitState(commit="", branch="trunk", dirty=True)


def test_a_detached_head_has_no_branch(repository: Path) -> None:
    git(repository, "commit", "-m", "first")
    git(repository, "checkout", "--detach")
    state = Environment.capture(repository).git
    assert state is not None
    assert state.branch == ""


@pytest.mark.parametrize("folder", [None, "nowhere", "."])
def test_without_a_repository_there_is_no_state(tmp_path: Path, folder: str | None) -> None:
    assert Environment.capture(tmp_path / folder if folder else None).git is None


def test_without_git_there_is_no_state(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Environment.capture(repository).git is None


def test_a_difference_has_a_name_and_both_values() -> None:
    here = Environment.capture()
    there = replace(
        here,
        python="3.9.1",
        distributions={**here.distributions, "numpy": "1.0", "new": "2"},
        git=GitState(commit="c0ffee", branch="main", dirty=False),
    )
    difference = here.diff(there)
    assert difference == {
        "python": (here.python, "3.9.1"),
        "distributions.numpy": (here.distributions["numpy"], "1.0"),
        "distributions.new": (None, "2"),
        "git.commit": (None, "c0ffee"),
        "git.branch": (None, "main"),
        "git.dirty": (None, False),
    }
    assert here.diff() == {}


def test_the_script_is_named_without_its_folder(tmp_path: Path) -> None:
    script = tmp_path / "my_study.py"
    script.write_text(
        "from prefect_optuna.tasks import Environment\nprint(Environment.capture().script)\n"
    )
    output = subprocess.run(
        [sys.executable, str(script)], check=True, capture_output=True, text=True
    ).stdout
    assert output.strip() == "my_study.py"
