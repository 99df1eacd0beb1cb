"""Notebooks: `optimize` in a running event loop, its progress, and objects that show themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient

from prefect_optuna.blocks import ArtifactFileSystem, JournalStudyStorage

if TYPE_CHECKING:
    from prefect_optuna.deployments import LocalServer


EXAMPLES = sorted((Path(__file__).parents[2] / "flows" / "examples").glob("*.ipynb"))
STUDY = """
import numpy as np
from prefect_optuna import ArchivedStudy, Problem, optimize, reevaluate

SCALE = np.linspace(0, 1, 50)

def suggest(trial):
    return {"x": trial.suggest_float("x", -1, 1)}

def run(params):
    return {"<curve>": params["x"] * SCALE}

def evaluate(result):
    return float(abs(result["<curve>"].sum()))

problem = Problem(suggest=suggest, run=run, evaluate=evaluate)
"""


def executed(server: LocalServer, folder: Path, *cells: str) -> list[list[dict[str, Any]]]:
    """What each cell of a notebook shows, by kinds of data."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in cells])
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute(env={**os.environ, "PREFECT_API_URL": f"{server.url}/api"})
    return [
        [output.get("data", {}) for output in cell.outputs if "data" in output]
        for cell in notebook.cells
    ]


def shown(outputs: list[dict[str, Any]]) -> str:
    """The HTML of a cell's last output, which is its value."""
    return outputs[-1]["text/html"]


@pytest.mark.slow
def test_a_study_runs_and_shows_itself(prefect_server: LocalServer, tmp_path: Path) -> None:
    outputs = executed(
        prefect_server,
        tmp_path,
        STUDY + "Problem(suggest, run, evaluate, context={'password': 's3cret'})",
        "result = optimize(problem, study_name='<b>', n_trials=12, seed=1); result",
        "reevaluate('<b>', trials='best:2', trusted=True)",
        "archived = ArchivedStudy.load('<b>'); archived",
        "archived",
    )
    problem, result, again, archived, _ = map(shown, outputs)
    assert "suggest" in problem
    assert "s3cret" not in problem
    assert "&lt;b&gt;: best value" in result
    assert "data:image/png;base64," in result
    progress = [
        data["text/html"] for data in outputs[1] if "<progress" in data.get("text/html", "")
    ]
    assert len(progress) == 1
    assert "12 of 12 trials" in progress[0]
    assert "2 of 2 reproduced" in again
    assert again.count("<tr>") == 3
    assert "12</td>" in archived
    assert "&lt;curve&gt;" in archived
    assert "<b>" not in result + again + archived


def test_blocks_show_where_they_are_and_no_secret(tmp_path: Path) -> None:
    assert str(tmp_path) in JournalStudyStorage(path=tmp_path / "a.journal")._repr_html_()
    files = ArtifactFileSystem(url="s3://lab/studies", storage_options={"secret": "s3cret"})
    assert "s3://lab/studies" in files._repr_html_()
    assert "s3cret" not in files._repr_html_()


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_notebook_of_the_gallery_runs(
    prefect_server: LocalServer, path: Path, tmp_path: Path
) -> None:
    notebook = tmp_path / path.name
    shutil.copy(path, notebook)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)  # they go stale
    command = [sys.executable, "-m", "pytest", "--nbmake", "--overwrite", "--nbmake-timeout=240"]
    result = subprocess.run(
        [*command, f"--rootdir={tmp_path}", f"--config-file={os.devnull}", str(notebook)],
        cwd=tmp_path,
        env={**os.environ, "PREFECT_API_URL": f"{prefect_server.url}/api"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [one for cell in cells for one in cell.get("outputs", ())]
    assert any("<strong>" in one.get("data", {}).get("text/html", "") for one in outputs)
