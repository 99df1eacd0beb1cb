"""`prefect-optuna` as processes of its own: what starts, serves, and is ended with Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import optuna
import psutil
import pytest
from servers import free_port, wait_until

from prefect_optuna.blocks import as_study_storage

COMMAND = [sys.executable, "-m", "prefect_optuna.deployments.cli"]


def environment() -> dict[str, str]:
    """That of a person who has configured no server."""
    return {name: text for name, text in os.environ.items() if name != "PREFECT_API_URL"}


@contextmanager
def running(folder: Path, *tokens: str) -> Generator[subprocess.Popen[str]]:
    """A command that runs until Ctrl-C, and is ended if the test fails before that."""
    with subprocess.Popen(
        [*COMMAND, *tokens],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def first_json(process: subprocess.Popen[str]) -> dict[str, object]:
    """The document that a command prints once it is ready."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line == "}\n":
            return json.loads("".join(lines))
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_help_version_and_wrong_usage_wait_for_neither_prefect_nor_optuna() -> None:
    script = """
import sys
from prefect_optuna.deployments.cli import main
for tokens in (["--help"], ["deploy", "--help"], ["--version"], ["sho"]):
    main(tokens)
print({"prefect", "optuna", "numpy", "pydantic"} & set(sys.modules), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.endswith("set()\n")


def test_studies_wait_for_neither_prefect_s_engine_nor_its_logging_nor_pictures(
    tmp_path: Path,
) -> None:
    storage = as_study_storage(f"journal:///{tmp_path}/.prefect-optuna/studies.journal")
    storage.create_study("listed").optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=2)
    script = """
import sys
from prefect_optuna.deployments.cli import main
main(["studies"])
heavy = {"prefect.main", "prefect.flow_engine", "prefect.task_engine", "matplotlib", "pandas"}
heavy |= {"pyarrow", "prefect_optuna.blocks.artifacts.registry", "prefect_optuna.flows.plots"}
print(heavy & set(sys.modules), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    assert "listed" in result.stdout, result.stderr
    assert result.stderr.endswith("set()\n")


@pytest.mark.slow
def test_the_dashboard_shows_the_studies_until_ctrl_c(tmp_path: Path) -> None:
    storage = as_study_storage(f"journal:///{tmp_path}/.prefect-optuna/studies.journal")
    study = storage.create_study("shown")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with running(tmp_path, "dashboard", "--port", str(free_port()), "--json") as process:
        url = first_json(process)["url"]
        with urllib.request.urlopen(f"{url}/api/studies") as answer:
            [summary] = json.load(answer)["study_summaries"]
        assert summary["study_name"] == "shown"
        with urllib.request.urlopen(f"{url}/dashboard") as page:
            assert b"Optuna Dashboard" in page.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_ctrl_c_is_code_130_and_no_traceback(tmp_path: Path) -> None:
    # The command waits for somebody to write to this file; to open it is to know that it does.
    os.mkfifo(tmp_path / "pipe.toml")
    with running(tmp_path, "reevaluate", "s", "--trusted", "-C", "pipe.toml") as process:
        with (tmp_path / "pipe.toml").open("w"):
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert process.returncode == 130
        assert errors.splitlines() == ["Interrupted."]


@pytest.mark.slow
def test_serve_then_deploy_and_watch_is_the_whole_way(tmp_path: Path) -> None:
    (tmp_path / "served_parabola.py").write_text(
        "def parabola(trial):\n    return trial.suggest_float('x', -5, 5) ** 2\n"
    )
    serve = ("serve", "--port", str(free_port()), "--json")
    with running(tmp_path, *serve) as process:
        served = first_json(process)
        assert served["pool"] == "lab"
        pids = served["workers"]
        assert isinstance(pids, list)
        deploy = ["deploy", "served_parabola:parabola", "--study", "served", "--trials", "4"]
        deployed = subprocess.run(
            [*COMMAND, *deploy, "--watch", "--json"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=150,
        )
        assert deployed.returncode == 0, deployed.stderr
        url = json.loads(deployed.stdout)["flow_run_url"]
        assert url.startswith(str(served["url"]))
        study = optuna.load_study(
            study_name="served",
            storage=as_study_storage(
                f"journal:///{tmp_path}/.prefect-optuna/studies.journal"
            ).get_storage(),
        )
        assert len(study.trials) == 4
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0
        assert errors.endswith("Stopped.\n")
        assert not [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_up_at_once_are_one_server_that_ends_when_nobody_uses_it(tmp_path: Path) -> None:
    def call(*tokens: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *tokens, "--json"],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(process: subprocess.Popen[str]) -> dict[str, object]:
        said, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
        return json.loads(said)

    first, second = map(answer, [call("up", "--idle", "0.1"), call("up", "--idle", "0.1")])
    assert first == second
    home = tmp_path / ".prefect-optuna" / "prefect"
    assert first["home"] == str(home)
    assert (home / "prefect.db").exists()
    pid = json.loads((home / "server.json").read_text())["pid"]
    holder = psutil.Process(json.loads((home / "background.json").read_text())["pid"])
    wait_until(lambda: not psutil.pid_exists(pid), what="the end of the server")
    psutil.wait_procs([holder], timeout=30)
    assert not holder.is_running()
    answered = answer(call("status"))
    assert (answered["url"], answered["used_api_url"]) == (None, None)
    assert answer(call("down")) == {"url": None, "ended": False}
