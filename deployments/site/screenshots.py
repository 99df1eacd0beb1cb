"""Pictures of what people see, taken from Prefect's UI and from the report as a file.

    python deployments/site/screenshots.py FOLDER

`make docs` calls it, so that the site shows what the code of the same commit does. It runs a study
of its own on a server of its own, and leaves nothing but the pictures.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

STUDY = "lynx-hare"
_RUN = f"""
from prefect_optuna import optimize, reevaluate
from prefect_optuna.flows.examples.lynx_hare import problem
from prefect_optuna.flows.report_flow import write_report

optimize(problem, study_name={STUDY!r}, n_trials=120, seed=2)
reevaluate({STUDY!r}, trials="best:3", trusted=True)
write_report({STUDY!r}, "study.html")
"""


def main(folder: Path) -> None:
    """Put `report`, `artifacts` and `page` into the folder, each `-light.png` and `-dark.png`."""
    from playwright.sync_api import sync_playwright
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    from prefect_optuna.deployments import LocalServer
    from prefect_optuna.flows.report import report_key

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, LocalServer(Path(home) / "prefect") as server:
        environment = {**os.environ, "PREFECT_API_URL": f"{server.url}/api"}
        subprocess.run([sys.executable, "-c", _RUN], cwd=home, env=environment, check=True)  # noqa: S603
        with get_client(sync_client=True) as client:
            key = ArtifactFilterKey(any_=[report_key(STUDY)])
            (artifact,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
        pages = {
            "report": (f"{server.url}/v2/artifacts/artifact/{artifact.id}", 2790),
            "artifacts": (f"{server.url}/v2/artifacts", 800),
            "page": ((Path(home) / "study.html").as_uri(), 1500),
        }
        with (
            sync_playwright() as playwright,
            playwright.chromium.launch(
                executable_path=find_browser(), args=["--no-sandbox"]
            ) as browser,
        ):
            for name, (address, height) in pages.items():
                page = browser.new_page(viewport={"width": 1280, "height": height})
                page.goto(address)
                _wait(page)
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme=scheme)
                    page.screenshot(path=folder / f"{name}-{scheme}.png")


def _wait(page: Page) -> None:
    """Until a page's pictures are there, and the study's name."""
    page.get_by_text(STUDY).first.wait_for()
    page.wait_for_function(
        """() => {
            const pictures = [...document.querySelectorAll("img[src^='data:']")];
            return pictures.length > 0
                && pictures.every(picture => picture.complete && picture.naturalWidth > 0);
        }"""
    )
    page.wait_for_timeout(500)  # for what moves into its place


def find_browser() -> str:
    """Path of Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    sys.exit("The pictures are taken with Chromium, and there is none on the PATH.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
