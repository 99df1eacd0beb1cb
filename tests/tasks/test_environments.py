"""The packages that trials ran with, once more: from wheels of the tests, without a network."""

from __future__ import annotations

import base64
import functools
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.utils import canonicalize_name
from redis_servers import self_signed_certificate
from servers import wait_until
from wheels_under_test import install_here, only_these_wheels, recorded, wheel

from prefect_optuna.blocks import PrefectOptunaError
from prefect_optuna.errors import EnvironmentUnavailableError
from prefect_optuna.tasks import Problem
from prefect_optuna.tasks.archive import Capture, Environment
from prefect_optuna.tasks.archive.record.environment import FOLDER, sources
from prefect_optuna.tasks.environments import (
    PreparedEnvironment,
    collect_environments,
    needed_here,
    prepare_environment,
)
from prefect_optuna.tasks.reevaluation.rerun import ArchivedTrial, RerunAnswer, RerunRequest, rerun


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return only_these_wheels(tmp_path, monkeypatch)


def value_in(prepared: PreparedEnvironment) -> float:
    command = [str(prepared.python), "-I", "-c", "import tiny; print(tiny.VALUE)"]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.fixture
def tiny_here(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and those it starts, tiny 2.0 is installed."""
    install_here(wheels, "tiny", "2.0", monkeypatch)


def suggest(trial: Any) -> dict[str, float]:
    return {"x": trial.suggest_float("x", -1, 1)}


def times_tiny(params: dict[str, float]) -> float:
    import tiny  # pyright: ignore[reportMissingImports]

    return params["x"] * tiny.VALUE


def rerun_in(environment: Environment, packages: Any, run: Any = times_tiny) -> RerunAnswer:
    capture = Capture.of(Problem(suggest=suggest, run=run))
    trial = ArchivedTrial(0, {"x": 0.5})
    return rerun(RerunRequest(capture, environment, [trial], packages=packages))


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_here")
def test_a_trial_runs_with_the_packages_that_it_had_where_those_of_today_give_another_value() -> (
    None
):
    then = recorded(tiny="1.0")

    here, again = rerun_in(then, "here"), rerun_in(then, "recorded")

    assert here.reruns[0].values == ((1.0,),)
    assert again.reruns[0].values == ((0.5,),)
    assert again.environment.distributions["tiny"] == "1.0"
    assert then.surroundings.diff(again.environment.surroundings).get("distributions.tiny") is None
    assert again.environment.distributions["prefect-optuna"]  # the one that runs here
    assert not again.notes


def test_an_environment_is_built_once_and_says_when_it_was_used(wheels: Path) -> None:
    first = prepare_environment(recorded(tiny="1.0"))
    record = first.folder / "environment.json"
    os.utime(record, (0, 0))

    second = prepare_environment(recorded(tiny="1.0"))

    assert first.built
    assert not second.built
    assert first.folder == second.folder
    assert time.time() - record.stat().st_mtime < 60
    assert value_in(second) == 1.0
    assert prepare_environment(recorded(tiny="2.0")).folder != first.folder


def test_of_two_at_once_one_builds(wheels: Path) -> None:
    found: list[PreparedEnvironment] = []
    threads = [
        threading.Thread(target=lambda: found.append(prepare_environment(recorded(tiny="1.0"))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.built for one in found].count(True) == 1
    assert len({one.folder for one in found}) == 1


BUILD = """
from dataclasses import replace
from prefect_optuna.tasks.archive import Environment
from prefect_optuna.tasks.environments import prepare_environment

then = Environment.capture()
prepare_environment(replace(then, distributions={"rest": "1.0", "tiny": "1.0"}, sources={}))
"""


@pytest.mark.slow
def test_what_a_killed_build_has_left_is_begun_again(tmp_path: Path, wheels: Path) -> None:
    builder = subprocess.Popen([sys.executable, "-c", BUILD])
    root = tmp_path / "environments"
    try:
        wait_until(lambda: list(root.glob("*.part/bin/python")), what="an interpreter")
        children = psutil.Process(builder.pid).children(recursive=True)
    finally:
        builder.send_signal(signal.SIGKILL)
        builder.wait()
    psutil.wait_procs(children, timeout=30)
    [part] = root.glob("*.part")
    (part / "of the killed one").touch()

    prepared = prepare_environment(recorded(tiny="1.0"))

    assert prepared.built
    assert value_in(prepared) == 1.0
    assert not (prepared.folder / "of the killed one").exists()
    assert list(root.glob("*.part")) == []


def test_what_cannot_be_had_is_named_with_what_comes_closest(wheels: Path) -> None:
    then = recorded(tiny="1.5", nowhere="3.0", local="1.0+cu118")
    wheel(wheels, "local", "1.0", {"local.py": ""})

    with pytest.raises(EnvironmentUnavailableError) as caught:
        prepare_environment(then)

    assert caught.value.closest == {"tiny==1.5": "tiny==1.4", "local==1.0+cu118": "local==1.0"}
    text = str(caught.value)
    assert "tiny==1.5: tiny==1.4 comes closest" in text
    assert "nowhere==3.0" in text
    assert "rest" not in text
    with pytest.raises(EnvironmentUnavailableError, match="nowhere"):
        prepare_environment(then, closest=True)


def test_who_allows_it_gets_what_comes_closest_and_a_note(wheels: Path) -> None:
    prepared = prepare_environment(recorded(tiny="1.5"), closest=True)
    assert value_in(prepared) == 1.4
    assert prepared.notes == ("tiny==1.4 in place of tiny==1.5",)
    assert prepare_environment(recorded(tiny="1.5"), closest=True).notes == prepared.notes


def test_a_python_that_this_package_does_not_run_in_is_named_first() -> None:
    with pytest.raises(EnvironmentUnavailableError, match=r"Python 3\.10\.4: .* needs >=3\.11"):
        prepare_environment(Environment("3.10.4", "CPython", "", "", 1))


@pytest.mark.slow
def test_a_python_that_is_not_here_is_named(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    major, minor = sys.version_info[:2]
    then = replace(recorded(tiny="1.0"), python=f"{major}.{minor}.99")
    with pytest.raises(EnvironmentUnavailableError, match=rf"Python {major}\.{minor}\.99"):
        prepare_environment(then)
    [note] = prepare_environment(then, closest=True).notes
    assert f"in place of Python {major}.{minor}.99" in note


def test_a_package_from_a_folder_is_left_out_where_the_code_does_without(wheels: Path) -> None:
    then = replace(recorded(tiny="1.0", mine="1.0"), sources={"mine": "a folder"})
    prepared = prepare_environment(then, needed=["tiny"])
    assert "mine 1.0 is left out" in prepared.notes[0]
    with pytest.raises(EnvironmentUnavailableError, match=r"mine==1\.0: it was installed"):
        prepare_environment(then, needed=["mine"])


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=lab", "-c", "user.email=lab@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True).stdout


@pytest.mark.slow
def test_a_package_from_git_has_its_commit(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2-4f1d")
    monkeypatch.setenv("UV_PUBLISH_TOKEN", "hunter2-4f1e")
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "tiny.py").write_text("VALUE = 7\n")
    (repository / "backend.py").write_text(BACKEND.format(wheels=str(wheels)))
    (repository / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "7.0"\n'
    )
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "seven")
    commit = git(repository, "rev-parse", "HEAD").strip()
    (repository / "tiny.py").write_text("VALUE = 8\n")
    git(repository, "commit", "-qam", "eight")
    source = f"git+file://{repository}@{commit}"

    prepared = prepare_environment(replace(recorded(tiny="7.0"), sources={"tiny": source}))

    assert value_in(prepared) == 7
    assert "hunter2" not in (wheels / "seen.txt").read_text()  # by the code that builds it
    lost = {"tiny": source.replace(commit, "0" * 40)}
    with pytest.raises(EnvironmentUnavailableError, match="tiny @ git"):
        prepare_environment(replace(recorded(tiny="7.0"), sources=lost))


BACKEND = """
import os, pathlib, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    pathlib.Path({wheels!r}, "seen.txt").write_text(repr(dict(os.environ)))
    name = "tiny-7.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as archive:
        archive.write("tiny.py")
        about = "tiny-7.0.dist-info"
        archive.writestr(about + "/METADATA", "Metadata-Version: 2.1\\n"
                         "Name: tiny\\nVersion: 7.0\\n")
        archive.writestr(about + "/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\n"
                         "Root-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(about + "/RECORD", "")
    return name
"""


def test_a_package_in_development_mode_is_recorded_by_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others can get that commit, and it is all that there is."""
    project = tmp_path / "project" / "library"
    project.mkdir(parents=True)
    (project / "mine.py").write_text("")
    git(project.parent, "init", "-q")
    git(project.parent, "add", ".")
    git(project.parent, "commit", "-qm", "one")
    commit = git(project, "rev-parse", "HEAD").strip()
    about = tmp_path / "site-packages" / "mine-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    record = {"url": project.as_uri(), "dir_info": {"editable": True}}
    (about / "direct_url.json").write_text(json.dumps(record))
    monkeypatch.syspath_prepend(str(about.parent))

    assert sources()["mine"] == FOLDER  # nobody else has it
    git(project, "remote", "add", "origin", "git@example.org:lab/project.git")
    address = f"ssh://git@example.org/lab/project.git@{commit}#subdirectory=library"
    assert sources()["mine"] == f"git+{address}"
    git(project, "remote", "set-url", "origin", "https://me:hunter2@example.org/project.git")
    address = f"https://example.org/project.git@{commit}#subdirectory=library"
    assert sources()["mine"] == f"git+{address}"
    (project / "new.py").write_text("")
    assert sources()["mine"] == FOLDER


@pytest.mark.parametrize(
    ("versions", "sources"),
    [
        ({"tiny": "1.0\n--index-url http://127.0.0.1:1"}, {}),
        ({"tiny": "1.0"}, {"tiny": "https://a.example/x.whl\n--pre"}),
        ({"tiny": "1.0"}, {"tiny": "/etc"}),
        ({"-r /etc/passwd": "1.0"}, {}),
        ({"tiny @ file:///etc#": "1.0"}, {}),
        ({"tiny[extra]": "1.0"}, {}),
        ({"tiny": "=1.0"}, {}),
        ({"tiny": "1.0,<2"}, {}),
        ({"tiny": "1.0"}, {"tiny": "file:///etc"}),
        ({"tiny": "1.0"}, {"tiny": "https://a.example/${UV_INDEX_LAB_PASSWORD}/x.whl"}),
        ({"tiny": "1.0"}, {"tiny": "git+https://a.example/x.git"}),
        ({"tiny": "1.0"}, {"tiny": "git+https://a.example/x.git@--upload-pack=touch"}),
        ({"tiny": "1.0"}, {"tiny": f"git+ssh://-oProxyCommand=touch/x@{'0' * 40}"}),
    ],
)
def test_an_archive_gives_uv_requirements_and_no_options(
    versions: dict[str, str], sources: dict[str, str]
) -> None:
    with pytest.raises(EnvironmentUnavailableError, match="no installer takes it"):
        prepare_environment(replace(recorded(**versions), sources=sources))


@pytest.mark.parametrize("kind", ["python", "-python"])
def test_an_archive_names_no_file_as_its_python(kind: str, wheels: Path, tmp_path: Path) -> None:
    here = recorded(tiny="1.0")
    program = tmp_path / f"{kind}@{here.python}"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    kind = str(tmp_path / kind) if kind[0] != "-" else kind
    with pytest.raises(EnvironmentUnavailableError, match="no implementation of Python"):
        prepare_environment(replace(here, implementation=kind))
    assert not (tmp_path / "ran").exists()


def test_a_folder_that_others_may_write_to_has_no_environments(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_environment(recorded(tiny="1.0"))
    os.utime(prepared.folder / "environment.json", (0, 0))
    root = prepared.folder.parent
    (tmp_path / "link").symlink_to(root)  # to a larger disk
    for folder in (root, root.parent):
        mode = folder.stat().st_mode
        folder.chmod(0o777)
        with pytest.raises(EnvironmentUnavailableError, match=f"alone, because of {folder}: some"):
            prepare_environment(recorded(tiny="1.0"))
        assert collect_environments(dry_run=False) == []
        folder.chmod(mode)
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS", str(tmp_path / "link"))
    assert not prepare_environment(recorded(tiny="1.0")).built


def test_a_package_that_runs_whenever_python_starts_is_told_no_secret(
    wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = wheels / "started.txt"
    code = f"import os; open({str(seen)!r}, 'a', encoding='utf-8').write(repr(dict(os.environ)))"
    wheel(wheels, "spy", "1.0", {"spy.pth": f"{code}\n"})
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2-4f1d")
    prepare_environment(recorded(spy="1.0", tiny="1.0"))
    assert "PATH" in seen.read_text(encoding="utf-8")
    assert "hunter2" not in seen.read_text(encoding="utf-8")


def test_no_secret_is_told_or_kept(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the password of an index, and nothing else of this process where packages are built."""
    monkeypatch.delenv("UV_CONFIG_FILE")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_INDEX_URL", "http://lab:hunter2-4f1d@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PREFECT_API_KEY", "hunter2-4f1d")
    with pytest.raises(EnvironmentUnavailableError, match="cannot be fetched") as caught:
        prepare_environment(recorded(nowhere="3.0"))
    assert "hunter2" not in str(caught.value)
    assert "environment='here'" in str(caught.value)
    assert list((tmp_path / "environments").glob("*.part")) == []
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "settings.toml"))
    prepared = prepare_environment(recorded(tiny="1.0"))
    for path in prepared.folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"hunter2" not in path.read_bytes(), path


PASSWORD = "hunter2-4f1d"


class PrivateIndex(SimpleHTTPRequestHandler):
    """Lists what is in a folder, for who knows the password."""

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        if given == f"Basic {base64.b64encode(f'lab:{PASSWORD}'.encode()).decode()}":
            return super().do_GET()
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic")
        return self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def private_index(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The address of an index with a password, which has what the tests have."""
    for path in wheels.glob("*.whl"):
        folder = tmp_path / "index/simple" / path.name.partition("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    monkeypatch.delenv("UV_CONFIG_FILE")
    monkeypatch.setenv("HOME", str(tmp_path))
    handler = functools.partial(PrivateIndex, directory=str(tmp_path / "index"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}/simple"
        server.shutdown()


def _in_the_address(index: str, _: Path) -> dict[str, str]:
    return {"UV_INDEX": f"http://lab:{PASSWORD}@{index}"}


def _in_variables(index: str, _: Path) -> dict[str, str]:
    return {
        "UV_INDEX": f"lab=http://{index}",
        "UV_INDEX_LAB_USERNAME": "lab",
        "UV_INDEX_LAB_PASSWORD": PASSWORD,
    }


def _in_netrc(index: str, home: Path) -> dict[str, str]:
    netrc = home / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login lab password {PASSWORD}\n", encoding="utf-8")
    netrc.chmod(0o600)
    return {"UV_DEFAULT_INDEX": f"http://{index}"}


@pytest.mark.parametrize("where", [_in_the_address, _in_variables, _in_netrc])
def test_an_index_with_a_password_is_used_and_the_password_is_nowhere(
    where: Any, private_index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in where(private_index, tmp_path).items():
        monkeypatch.setenv(name, value)
    prepared = prepare_environment(recorded(tiny="1.0"))
    assert value_in(prepared) == 1.0
    assert PASSWORD not in repr(prepared)
    for path in (tmp_path / "environments").rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_an_index_that_lets_nobody_in_is_told_with_what_to_do(
    private_index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as a package that nobody has, of which another version comes closest."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://lab:wrong-77aa@{private_index}")
    with pytest.raises(EnvironmentUnavailableError, match="401 Unauthorized") as caught:
        prepare_environment(recorded(tiny="1.0"), closest=True)
    assert "UV_INDEX_LAB_PASSWORD" in str(caught.value)
    assert "wrong-77aa" not in str(caught.value)
    assert list((tmp_path / "environments").glob("*.part")) == []


def test_an_index_whose_certificate_nobody_trusts_is_told_with_what_to_do(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed_certificate(tmp_path / "tls"))
    monkeypatch.delenv("UV_CONFIG_FILE")
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # a client that hangs up
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("UV_INDEX_URL", f"https://127.0.0.1:{server.server_port}/simple")
        with pytest.raises(EnvironmentUnavailableError, match="SSL_CERT_FILE names"):
            prepare_environment(recorded(tiny="1.0"))
        server.shutdown()


def test_environments_that_nobody_uses_are_removed(wheels: Path) -> None:
    used, unused = (prepare_environment(recorded(tiny=version)) for version in ("1.0", "2.0"))
    month_ago = time.time() - 31 * 86400
    os.utime(unused.folder / "environment.json", (month_ago, month_ago))

    [found] = collect_environments()
    assert found.folder == unused.folder
    assert "2 packages" in str(found)
    assert unused.folder.exists()

    assert [one.folder for one in collect_environments(dry_run=False)] == [unused.folder]
    assert not unused.folder.exists()
    assert used.folder.exists()
    assert prepare_environment(recorded(tiny="2.0")).built


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    (disk := tmp_path / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_is_said_and_nothing_half_is_left(
    wheels: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(wheels, "large", "1.0", {"large.py": f"TEXT = {'x' * 200_000!r}\n"})
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS", str(small_disk / "e"))
    with pytest.raises(PrefectOptunaError, match=r"[Nn]o space left"):
        prepare_environment(recorded(large="1.0"))
    assert [path.name for path in (small_disk / "e").iterdir() if path.is_dir()] == []


@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_from_the_index_that_everybody_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that this package needs, and another version of one of them."""
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS", str(tmp_path / "environments"))
    monkeypatch.chdir(tmp_path)
    pins = dict(pin.split("==") for pin in needed_here().values())
    then = replace(Environment.capture(), distributions=pins | {"joblib": "1.4.0"}, sources={})

    answer = rerun_in(then, "recorded", run=version_of_joblib)

    assert answer.reruns[0].values == ((1.4,),)
    there = {canonicalize_name(n): v for n, v in answer.environment.distributions.items()}
    assert {name: there.get(name) for name in then.distributions} == then.distributions


def version_of_joblib(params: dict[str, float]) -> float:
    import joblib

    return float(joblib.__version__.removesuffix(".0"))
