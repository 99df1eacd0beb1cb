"""`lab`: what compose.yaml and kubernetes/ run once, against real servers."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from servers import free_port

from prefect_optuna.blocks import as_artifact_filesystem, as_study_storage
from prefect_optuna.deployments.lab import main, set_up
from prefect_optuna.errors import InvalidSettingError, PrefectOptunaError


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_blocks_pool_and_deployment_are_there_afterwards_and_twice_is_once(
    redis_server: str, s3_server: str, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("test\n")
    environment = {
        "LAB_NAME": "lab-test",
        "LAB_REDIS_URL": redis_server,
        "LAB_ARTIFACTS_URL": "s3://new-bucket-of-the-lab/studies",
        "LAB_S3_ENDPOINT": s3_server,
        "LAB_S3_KEY_FILE": str(tmp_path / "key"),
        "LAB_S3_SECRET_FILE": str(tmp_path / "key"),
    }
    for _ in range(2):
        assert "work/lab-test" in set_up(environment)
    assert as_study_storage("redis-study-storage/lab-test").study_names() is not None
    artifacts = as_artifact_filesystem("artifact-file-system/lab-test")
    artifacts.write_path("note.txt", b"here")
    assert artifacts.read_path("note.txt") == b"here"
    with get_client(sync_client=True) as client:
        assert client.read_work_pool("lab-test").type == "process"
        deployment = client.read_deployment_by_name("work/lab-test")
    assert deployment.work_pool_name == "lab-test"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "LAB_REDIS_URL is not set"),
        ({"LAB_REDIS_URL": "redis://127.0.0.1"}, "LAB_ARTIFACTS_URL is not set"),
        (
            {"LAB_REDIS_URL": "redis://127.0.0.1", "LAB_REDIS_PASSWORD_FILE": "/none"},
            "LAB_REDIS_PASSWORD_FILE names the file",
        ),
    ],
)
def test_what_is_missing_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidSettingError, match=message):
        set_up(environment)


def test_a_store_that_does_not_answer_leaves_no_block_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("LAB_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("LAB_ARTIFACTS_URL", str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("no folder")
    assert main() == 1
    assert str(tmp_path) in capsys.readouterr().err
    assert issubclass(InvalidSettingError, PrefectOptunaError)
