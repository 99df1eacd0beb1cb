"""`deployments/prefect.yaml`, deployed by Prefect's own command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.types import SecretDict
from pydantic import SecretStr

from prefect_optuna.blocks import ArtifactFileSystem, SQLStudyStorage
from prefect_optuna.deployments import make_process_pool

FILE = Path(__file__).resolve().parents[2] / "deployments" / "prefect.yaml"
PASSWORD = "correct-horse-battery"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def deployed(
    prefect_server: object, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What the server has stored of each deployment, after `prefect deploy --all`, twice."""
    make_process_pool("lab")
    url = f"postgresql://lab:{PASSWORD}@db.example.org/studies"
    SQLStudyStorage(url=SecretStr(url)).save("lab", overwrite=True)
    files = ArtifactFileSystem(
        url="s3://lab/studies",
        options=SecretDict({"secret": PASSWORD}),
    )
    files.save("lab", overwrite=True)
    folder = tmp_path_factory.mktemp("elsewhere")
    before = FILE.read_bytes()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy"]
    result = subprocess.run(
        [*command, "--prefect-file", str(FILE), "--all"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert FILE.read_bytes() == before
    with get_client(sync_client=True) as client:
        found = client.request(
            "POST",
            "/deployments/filter",
            json={
                "deployments": {"work_queue_name": None},
                "work_pools": {"name": {"any_": ["lab"]}},
            },
        ).json()
    return {one["entrypoint"].partition(":")[2]: one for one in found}


def test_all_five_are_deployed_to_the_pool(deployed: dict[str, dict[str, Any]]) -> None:
    assert set(deployed) >= {"optimize", "work", "reevaluate", "report", "gc"}
    assert deployed["work"]["name"] == "lab"


def test_no_secret_and_no_folder_of_the_deployer_is_stored(
    deployed: dict[str, dict[str, Any]],
) -> None:
    for one in deployed.values():
        text = json.dumps(one)
        assert PASSWORD not in text
        assert not one["pull_steps"]
        assert "set_working_directory" not in text
        assert "elsewhere" not in text
        assert one["path"] is None
        if one["name"] != "lab":
            assert one["parameters"]["storage"] == "sql-study-storage/lab"
            assert one["parameters"]["artifacts"] == "artifact-file-system/lab"


def test_the_reevaluation_and_the_garbage_are_on_a_schedule(
    deployed: dict[str, dict[str, Any]],
) -> None:
    crons = {
        name: [schedule["schedule"]["cron"] for schedule in one["schedules"]]
        for name, one in deployed.items()
    }
    assert crons["reevaluate"] == ["0 3 * * *"]
    assert crons["gc"] == ["0 4 * * 0"]
    assert crons["optimize"] == []
