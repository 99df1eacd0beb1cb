"""`prefect-optuna rerun` and `--environment`: an exported study on a machine without anything."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import optuna
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from wheels_under_test import install_here, only_these_wheels, record_only

from prefect_optuna.deployments.cli import main
from prefect_optuna.flows import optimize
from prefect_optuna.tasks import ArchivedStudy


def objective(trial: optuna.Trial) -> float:
    import tiny  # pyright: ignore[reportMissingImports]

    gain = float(Path("gain.txt").read_text(encoding="utf-8"))
    return trial.suggest_float("x", 1, 2) * gain * tiny.VALUE


@pytest.fixture(scope="module")
def exported(prefect_server: object, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A folder with a study that ran with tiny 1.0, and the file of it; now tiny 2.0 is here."""
    folder = tmp_path_factory.mktemp("then")
    with pytest.MonkeyPatch.context() as patch:
        wheels = only_these_wheels(folder, patch)
        install_here(wheels, "tiny", "1.0", patch)
        patch.chdir(folder)
        Path("gain.txt").write_text("3\n", encoding="utf-8")
        with pytest.MonkeyPatch.context() as then:
            record_only(then, tiny="1.0")
            optimize(objective, study_name="carried", n_trials=4, seed=1, keep_inputs="1 MB")
        ArchivedStudy.load("carried").export("carried.study.zip")
        shutil.rmtree(folder / "site-packages")
        install_here(wheels, "tiny", "2.0", patch)
        yield folder


@pytest.fixture
def call(exported: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*tokens: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(tokens)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def file(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The exported study, alone in a folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copy(exported / "carried.study.zip", tmp_path)


@pytest.mark.slow
def test_one_file_is_enough_to_run_its_trials_again(call: Any, file: str) -> None:
    before = {*os.listdir(tempfile.gettempdir())}  # noqa: PTH208

    code, out, _ = call("rerun", file, "--best", "3", "--trusted")

    assert (code, out.splitlines()[0]) == (0, "3 of 3 reproduced")
    assert [path.name for path in Path().iterdir()] == ["carried.study.zip"]
    assert not {*os.listdir(tempfile.gettempdir())} - before  # noqa: PTH208


@pytest.mark.slow
def test_with_the_packages_of_today_it_drifts_and_the_exit_code_says_so(
    call: Any, file: str
) -> None:
    code, out, _ = call("rerun", file, "--trusted", "--environment", "here", "--json")
    assert code == 3
    document = json.loads(out)
    [trial] = document["trials"]
    assert trial["values"] == [pytest.approx(2 * trial["archived"])]
    assert "tiny 2.0, was 1.0" in trial["cause"]
    assert document["environment"] == "here"


def test_nothing_runs_before_somebody_trusts_the_file(call: Any, file: str) -> None:
    code, _, err = call("rerun", file)
    assert code == 1
    assert "--trusted" in err
    code, _, err = call("rerun", "nothing.zip", "--trusted")
    assert code == 1
    assert "nothing.zip" in err


def plain(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 1, 2)


@pytest.mark.slow
def test_a_stranger_s_file_has_no_folder_built_trusted_or_not(
    call: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is anything else fetched or built before it is trusted."""
    monkeypatch.chdir(tmp_path)
    environments = tmp_path / "environments"
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_ENVIRONMENTS", str(environments))
    (folder := tmp_path / "evil").mkdir()
    (folder / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    for name in ("tiny", f"evil @ {folder.as_uri()}#"):
        with pytest.MonkeyPatch.context() as there:
            record_only(there, **{name: "1.0"})
            study = f"stranger-{len(name)}"
            optimize(plain, study_name=study, n_trials=1)
            ArchivedStudy.load(study).export(f"{study}.zip")
        code, _, err = call("rerun", f"{study}.zip")
        assert (code, "--trusted" in err) == (1, True)
        assert not environments.exists()
    code, _, err = call("rerun", f"{study}.zip", "--trusted")
    assert (code, "no installer takes it" in err) == (1, True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_study_that_is_here_runs_with_its_recorded_packages(
    call: Any, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported)
    assert call("reevaluate", "carried", "--trusted")[0] == 3
    code, out, _ = call("reevaluate", "carried", "--trusted", "--environment", "recorded")
    assert (code, out.splitlines()[0]) == (0, "1 of 1 reproduced")
    [*_, last] = ArchivedStudy.load("carried").reevaluations()
    assert (last.environment, last.notes) == ("recorded", [])


@pytest.mark.slow
def test_the_cause_is_found_by_putting_back_what_differs(
    call: Any, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the verdict, in the history and on the page in Prefect's UI."""
    monkeypatch.chdir(exported)
    code, out, _ = call("reevaluate", "carried", "--which", "0,1", "--trusted", "--why")
    assert code == 3
    shown = " ".join(out.split())
    assert "packages: tiny 2.0, was 1.0" in shown
    assert "with the packages that were recorded: reproduced" in shown
    assert "with what has helped trial 0: reproduced" in shown
    [*_, last] = ArchivedStudy.load("carried").reevaluations()
    assert {trial.cause for trial in last.trials} == {"packages: tiny 2.0, was 1.0"}
    with get_client(sync_client=True) as client:
        key = ArtifactFilterKey(any_=["reevaluation-carried"])
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    pages = [page.data for page in found]
    assert any("## Cause" in str(data) and "tiny 2.0, was 1.0" in str(data) for data in pages)


@pytest.mark.slow
def test_what_cannot_be_had_is_said_before_anything_runs(
    call: Any, exported: Path, file: str
) -> None:
    """And with `closest`, beside the verdict."""
    wheel = exported / "wheels" / "tiny-1.0-py3-none-any.whl"
    wheel.rename(away := exported / wheel.name)
    shutil.rmtree(exported / "environments", ignore_errors=True)
    try:
        code, _, err = call("rerun", file, "--trusted")
        assert code == 1
        assert "tiny==1.0: tiny==1.4 comes closest" in " ".join(err.split())
        code, out, _ = call("rerun", file, "--trusted", "--environment", "closest")
        assert code == 3
        assert "tiny==1.4 in place of tiny==1.0" in " ".join(out.split())
    finally:
        away.rename(wheel)


@pytest.mark.slow
def test_gc_removes_environments_that_nobody_uses(call: Any, exported: Path, file: str) -> None:
    shutil.rmtree(exported / "environments", ignore_errors=True)
    call("rerun", file, "--trusted")
    [record] = (exported / "environments").glob("*/environment.json")
    os.utime(record, (0, 0))
    _, out, _ = call("gc")
    assert "environment with Python" in out
    assert "--delete" in out
    assert call("gc", "--delete")[0] == 0
    assert not record.exists()
    assert "no garbage" in call("gc")[1]
