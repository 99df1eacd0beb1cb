"""What a study ran in."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
import itertools
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from packaging.requirements import Requirement

from prefect_optuna.blocks import InMemoryStudyStorage
from prefect_optuna.tasks import ArchivedStudy, Environment, OptunaArchive, Problem
from prefect_optuna.tasks.archive import GitState
from prefect_optuna.tasks.archive.record import environment as environment_module
from prefect_optuna.tasks.archive.record.environment import requirements_text, with_options

SOURCES = "PREFECT_INTEGRATIONS_OPTUNA_ARCHIVE_SOURCES"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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
    expected = {canonical(d.metadata["Name"]) for d in importlib.metadata.distributions()}
    assert {canonical(name) for name in Environment.capture().distributions} == expected


def test_it_comes_back_from_json(repository: Path) -> None:
    git(repository, "commit", "-m", "first")
    environment = Environment.capture(repository)
    data = json.loads(json.dumps({**environment.to_json(), "from the future": 1}))
    assert Environment.from_json(data) == environment


def test_neither_other_environment_variables_nor_the_host_s_name_are_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "correct horse battery staple")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    environment = Environment.capture()
    assert environment.variables["PYTHONHASHSEED"] == "7"  # it changes results
    text = json.dumps(environment.to_json())
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


def test_the_changes_that_git_has_not_committed_are_kept(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "commit", "-m", "first")
    (repository / "study.py").write_text("N = 2\n")
    (repository / "secrets.env").write_text("PASSWORD=hunter2\n")
    folder = repository / "below"
    folder.mkdir()
    environment = Environment.capture(folder)
    assert environment.git is not None
    content = environment.files[environment.git.diff]
    assert hashlib.sha256(content).hexdigest() == environment.git.diff
    assert environment.git.diff_bytes == len(content)
    assert b"-N = 1\n+N = 2\n" in content
    assert b"hunter2" not in content  # git does not track it
    git(repository, "checkout", "study.py")
    subprocess.run(["git", "apply"], input=content, cwd=repository, check=True)
    assert (repository / "study.py").read_text() == "N = 2\n"
    monkeypatch.setenv(SOURCES, "false")
    environment = Environment.capture(folder)
    assert environment.git is not None
    assert (environment.git.dirty, environment.git.diff) == (True, "")
    assert not environment.files


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("N = 'canary-5ecre7'", "the value of the environment variable LAB_API_TOKEN"),
        ("--extra-index-url https://oauth2:glpat-1@example.org/simple", "a URL with a password"),
        ("fork @ https://example.org/f.whl?private_token=glpat-1", "a URL with a password"),
        ("blob = 'https://example.org/b?sv=1&sig=abc%3D'", "a URL with a password"),
        ("fork @ git+ssh://git:glpat-1@example.org/f.git", "a URL with a password"),
        ("fork @ https://ghp_0123456789abcdefghij@example.org/f", "a URL with a password"),
        ("url = f'postgresql://me:{password}@host?sig={sig}'", None),
        ("url = 'postgresql://me:%s@host' % password", None),
        ("url = 'https://someone@example.org/f?size=2'", None),
    ],
    ids=itertools.count(),  # pytest puts the names of tests into an environment variable
)
def test_a_script_and_changes_with_a_secret_are_left_out_and_that_is_said(
    repository: Path, monkeypatch: pytest.MonkeyPatch, line: str, why: str | None
) -> None:
    git(repository, "commit", "-m", "first")
    (repository / "study.py").write_text(f"{line}\n")
    monkeypatch.setenv("LAB_API_TOKEN", "canary-5ecre7")
    monkeypatch.setenv("MKL_CBWR", "canary-5ecre7")
    script = str(repository / "study.py")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    environment = Environment.capture(repository)
    assert environment.git is not None
    assert environment.git.dirty
    assert "MKL_CBWR" not in environment.variables
    if why is None:
        assert environment.notes == ()
        assert {environment.git.diff, environment.script_source} == environment.files.keys()
        return
    assert (environment.git.diff, environment.script_source) == ("", "")
    assert not environment.files
    assert len(environment.notes) == 2
    assert all(why in note and "canary" not in note for note in environment.notes)
    study = InMemoryStudyStorage(name=repository.name).create_study("hares")
    archive = OptunaArchive(study, artifacts=repository / "artifacts")
    archive.save_problem(Problem.of("prefect_optuna.flows.examples.lynx_hare:problem"))
    assert any(why in note for note in archive.notes)


def test_changes_that_are_too_large_leave_their_size(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment_module, "MAX_SOURCE_BYTES", 20)
    git(repository, "commit", "-m", "first")
    (repository / "study.py").write_text("N = 2\n")
    state = Environment.capture(repository).git
    assert state is not None
    assert state.diff == ""
    assert state.diff_bytes > 20


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


def test_what_a_former_version_did_not_take_down_is_no_difference() -> None:
    here = Environment.capture()
    data = here.to_json()
    for name in ("cpu", "sources", "variables", "seed", "script_source"):
        del data[name]
    data["git"] = {"commit": "c0ffee", "branch": "main", "dirty": False}
    before = Environment.from_json(data)
    assert before.git == GitState("c0ffee", "main", dirty=False)
    assert not any(name.startswith(("cpu", "git", "seed", "script")) for name in before.diff())


def test_the_seed_of_the_sampler_is_kept() -> None:
    assert Environment.capture(seed=7).seed == 7
    assert Environment.capture(seed=7).diff(Environment.capture(seed=8)) == {"seed": (7, 8)}


def test_sampler_and_pruner_are_kept_with_what_is_not_their_default() -> None:
    tpe = optuna.samplers.TPESampler(n_startup_trials=20, seed=7)
    median = optuna.pruners.MedianPruner(n_warmup_steps=5)
    search = Environment.capture(sampler=tpe, pruner=median)
    assert search.sampler == ("TPESampler(n_startup_trials=20)")
    assert search.pruner == "MedianPruner(n_warmup_steps=5)"
    plain = Environment.capture(
        sampler=optuna.samplers.RandomSampler(), pruner=optuna.pruners.NopPruner()
    )
    assert plain.diff(search) == {
        "sampler": ("RandomSampler()", search.sampler),
        "pruner": ("NopPruner()", search.pruner),
    }
    assert plain.diff() == {}, "of another process, it is no difference"
    assert replace(plain, sampler="", pruner="").diff(search) == {}, "of a former version, likewise"


def of_samplers() -> dict[str, dict[str, Any]]:
    """Options that Optuna's samplers and pruners take, none of them the default."""
    crossover = optuna.samplers.nsgaii.SBXCrossover()
    points = optuna.samplers.TPESampler(n_startup_trials=3)
    genes = {
        "population_size": 20, "mutation_prob": 0.3, "crossover": crossover, "crossover_prob": 0.5,
        "swapping_prob": 0.3, "constraints_func": len,
    }  # fmt: skip
    return {
        "TPESampler": {
            "prior_weight": 0.5, "consider_magic_clip": False, "consider_endpoints": True,
            "n_startup_trials": 20, "n_ei_candidates": 12, "gamma": gamma, "weights": weights,
            "multivariate": False, "group": True, "warn_independent_sampling": True,
            "constant_liar": False, "constraints_func": len,
        },
        "CmaEsSampler": {
            "x0": {"x": 1.0}, "sigma0": 0.3, "n_startup_trials": 5, "independent_sampler": points,
            "warn_independent_sampling": False, "consider_pruned_trials": True,
            "use_separable_cma": True, "with_margin": True, "lr_adapt": True, "popsize": 7,
            "source_trials": [],
        },
        "GPSampler": {
            "independent_sampler": points, "n_startup_trials": 5, "deterministic_objective": True,
            "constraints_func": len, "warn_independent_sampling": False,
        },
        "QMCSampler": {
            "qmc_type": "halton", "scramble": True, "independent_sampler": points,
            "warn_independent_sampling": False,
        },
        "NSGAIISampler": genes,
        "NSGAIIISampler": {
            **genes, "reference_points": np.ones((2, 2)), "dividing_parameter": 4,
        },
        "BruteForceSampler": {"avoid_premature_stop": True},
        "MedianPruner": {"n_startup_trials": 2, "n_warmup_steps": 5, "interval_steps": 2,
                         "n_min_trials": 3},
        "HyperbandPruner": {"min_resource": 2, "max_resource": 90, "reduction_factor": 4},
        "SuccessiveHalvingPruner": {"min_resource": 2, "reduction_factor": 5,
                                    "min_early_stopping_rate": 1},
        "WilcoxonPruner": {"p_threshold": 0.2, "n_startup_steps": 3},
    }  # fmt: skip


def gamma(n: int) -> int:
    return n // 4


def weights(n: int) -> np.ndarray:
    return np.ones(n)


# They take these no more, or they change no trial.
WITHOUT_EFFECT = {
    "consider_prior", "restart_strategy", "inc_popsize", "warn_asynchronous_seeding",
    # Objects of one's own in place of all others; of them there is the type.
    "mutation", "elite_population_selection_strategy", "child_generation_strategy",
    "after_trial_strategy",
    # With a `max_resource` or a `min_resource` that is a number only.
    "bootstrap_count",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_each_option_of_a_sampler_is_seen_wherever_optuna_keeps_it() -> None:
    for name, options in of_samplers().items():
        made = getattr(optuna.samplers if name.endswith("Sampler") else optuna.pruners, name)
        arguments = set(inspect.signature(made).parameters) - {"seed"}
        assert arguments - WITHOUT_EFFECT == set(options), f"{name} takes others now"
        assert with_options(made()) == f"{name}()"
        for option, value in options.items():
            seen = with_options(made(**{option: value}))
            kept = repr(value) if isinstance(value, (bool, int, float)) else None
            assert seen.startswith(f"{name}({option}={kept or ''}"), seen


def test_a_sampler_within_a_sampler_is_kept_with_its_options() -> None:
    points = optuna.samplers.TPESampler(n_startup_trials=3)
    sampler = optuna.samplers.GPSampler(independent_sampler=points)
    assert Environment.capture(sampler=sampler).sampler == (
        "GPSampler(independent_sampler=TPESampler(n_startup_trials=3))"
    )


def test_of_an_option_that_may_be_a_secret_its_type_is_kept_only() -> None:
    class Remote(optuna.samplers.RandomSampler):
        pass

    points = optuna.samplers.CmaEsSampler(independent_sampler=Remote())
    assert Environment.capture(sampler=points).sampler == (
        "CmaEsSampler(independent_sampler=<Remote>)"
    )
    assert Environment.capture(sampler=Remote()).sampler.endswith(".Remote")


# -- requirements --------------------------------------------------------------------------------


def installed(*lines: str, sources: dict[str, str] | None = None) -> Environment:
    distributions = dict(line.split("==") for line in lines)
    return replace(Environment.capture(), distributions=distributions, sources=sources or {})


def test_every_distribution_is_pinned_for_pip() -> None:
    lines = requirements_text(Environment.capture()).splitlines()
    assert lines[0].startswith(f"# Python {platform.python_version()}")
    requirements = [Requirement(line.partition(" # ")[0]) for line in lines if line[0] != "#"]
    pinned = {canonical(one.name): str(one.specifier) for one in requirements if not one.url}
    assert pinned["numpy"] == f"=={importlib.metadata.version('numpy')}"
    assert "pip" not in pinned
    assert len(pinned) > 20


# In a process of its own: pip asks which loader it came from, and libraries change that.
_READ_BY_PIP = """
import json, sys
from pip._internal.network.session import PipSession
from pip._internal.req import parse_requirements
read = parse_requirements(sys.argv[1], session=PipSession())
print(json.dumps([one.requirement for one in read]))
"""


def test_pip_reads_the_file(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    environment = installed(
        "numpy==1.26.4",
        "torch==2.1.0+cu118",
        "mine==1.0",
        "odd==not-a-version",
        "fork==0.1",
        "wheel-of-mine==2.0",
        sources={
            "mine": "a folder",
            "fork": "git+https://example.org/fork.git@c0ffee#subdirectory=python",
            "wheel-of-mine": "https://example.org/wheel_of_mine-2.0.whl#sha256=00",
        },
    )
    file.write_text(requirements_text(environment))
    asked = [sys.executable, "-c", _READ_BY_PIP, str(file)]
    answer = subprocess.run(asked, check=True, capture_output=True, text=True, encoding="utf-8")
    assert json.loads(answer.stdout) == [
        "numpy==1.26.4",
        "torch==2.1.0",
        "fork @ git+https://example.org/fork.git@c0ffee#subdirectory=python",
        "wheel-of-mine @ https://example.org/wheel_of_mine-2.0.whl#sha256=00",
    ]
    text = file.read_text()
    assert "# mine==1.0: it was installed from a folder" in text
    assert "# odd not-a-version" in text
    assert "torch==2.1.0  # it was 2.1.0+cu118" in text


def test_a_stranger_s_archive_gives_pip_requirements_and_no_options() -> None:
    environment = replace(
        Environment.capture(),
        platform="Linux\n--index-url http://127.0.0.1:1",
        distributions={
            "one\n--index-url http://127.0.0.1:1\none": "1.0",
            "two @ file:///etc#": "1.0",
            "-e /etc": "1.0",
            "three": "1.0",
            "four": "1.0",
            "five": "1.0",
        },
        sources={
            "three": "https://a.example/x.whl\n--pre",
            "four": "https://a.example/${TOKEN}/x.whl",
            "five": "file:///etc",
        },
    )
    assert {line[0] for line in requirements_text(environment).splitlines()} == {"#"}


def test_only_what_is_wanted_is_listed() -> None:
    environment = installed("numpy==1.26.4", "PyYAML==6.0", "scipy==1.11.0")
    text = requirements_text(environment, only=["pyyaml", "numpy", "not-there"])
    assert text.splitlines()[1:] == ["numpy==1.26.4", "PyYAML==6.0"]


@pytest.mark.parametrize(
    ("record", "source"),
    [
        ({"url": "file:///home/me/mine", "dir_info": {"editable": True}}, "a folder"),
        (
            {
                "url": "https://me:secret@example.org/fork.git",
                "vcs_info": {"vcs": "git", "commit_id": "c0ffee", "requested_revision": "main"},
                "subdirectory": "python",
            },
            "git+https://example.org/fork.git@c0ffee#subdirectory=python",
        ),
        (
            {
                "url": "ssh://git@example.org/fork.git",
                "vcs_info": {"vcs": "git", "commit_id": "c0ffee"},
            },
            "git+ssh://git@example.org/fork.git@c0ffee",
        ),
        (
            {
                "url": "https://example.org/a.whl",
                "archive_info": {"hashes": {"sha256": "00"}},
            },
            "https://example.org/a.whl#sha256=00",
        ),
        *(
            (
                {"url": url, "vcs_info": {"vcs": "git", "commit_id": "c0ffee"}},
                f"git+{plain}@c0ffee",
            )
            for url, plain in {
                "ssh://git:secret@example.org/f.git": "ssh://git@example.org/f.git",
                "ssh://git:sec/ret@example.org/f.git": "ssh://example.org/f.git",
                "https://oauth2:secret@example.org/f.git": "https://example.org/f.git",
                "https://secret@example.org:8443/f.git": "https://example.org:8443/f.git",
                "https://example.org/f.git?private_token=secret": "https://example.org/f.git",
            }.items()
        ),
        (
            {
                "url": "https://example.org/a.whl?sv=1&sig=secret#egg=a",
                "archive_info": {"hashes": {"sha256": "00"}},
            },
            "https://example.org/a.whl#sha256=00",
        ),
    ],
)
def test_where_a_distribution_came_from_holds_no_secret_and_no_folder(
    record: dict[str, object], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "mine-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (metadata / "direct_url.json").write_text(json.dumps(record))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    environment_module._here.cache_clear()
    try:
        assert Environment.capture().sources["mine"] == source
    finally:
        environment_module._here.cache_clear()


# -- the script ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_script_is_named_without_its_folder(tmp_path: Path) -> None:
    script = tmp_path / "my_study.py"
    script.write_text(
        "from prefect_optuna.tasks import Environment\n"
        "here = Environment.capture()\n"
        "print(here.script, here.files[here.script_source].decode().count('here'))\n"
    )
    output = subprocess.run(
        [sys.executable, str(script)], check=True, capture_output=True, text=True
    ).stdout
    assert output.split() == ["my_study.py", "5"]


def test_an_archive_gives_requirements_diff_and_script_back(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "my_model.py").write_text(
        "import numpy as np\n"
        "def suggest(trial): return {}\n"
        "def run(params): return float(np.sum([1.0]))\n"
    )
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    (repository / "study.py").write_text("N = 2\n")
    monkeypatch.syspath_prepend(str(repository))
    importlib.invalidate_caches()
    model = importlib.import_module("my_model")
    monkeypatch.delitem(sys.modules, "my_model")
    # The processes that run tests side by side are started without a script.
    script = str(repository / "my_model.py")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    storage = InMemoryStudyStorage(name=repository.name)
    study, artifacts = storage.create_study("hares"), f"memory://{repository.name}"
    problem = Problem(suggest=model.suggest, run=model.run)
    OptunaArchive(study, artifacts=artifacts).save_problem(problem, seed=7)
    archived = ArchivedStudy.load("hares", storage=storage, artifacts=artifacts)
    assert archived.environment.seed == 7
    assert archived.environment.diff() == {}
    assert "+N = 2" in archived.git_diff()
    assert archived.script() == (repository / "my_model.py").read_text()
    assert f"numpy=={importlib.metadata.version('numpy')}\n" in archived.requirements()
    needed = archived.requirements(only_needed=True).splitlines()
    names = {re.split("[= ]", line.removeprefix("# "))[0] for line in needed[1:]}
    assert names == {"numpy", "prefect-optuna"}
