"""The report as a person sees it: in Prefect's UI, in a real browser.

Screenshots are kept in `.cache/screenshots/`: look at them after changing the report.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from studies_under_test import HOSTILE, hostile_study, lynx_hare_study, pareto_study

from prefect_optuna.flows.report import ReportPublisher, render_report, report_key

if TYPE_CHECKING:
    from playwright.sync_api import Page, Response

    from prefect_optuna.deployments import LocalServer

SCREENSHOTS = Path(__file__).parents[2] / ".cache" / "screenshots"


@pytest.fixture(scope="module")
def pages(prefect_server: LocalServer) -> dict[str, str]:
    """The addresses of the reports of three studies."""
    statuses = {"lynx": lynx_hare_study(), "pareto": pareto_study(), "hostile": hostile_study()}

    @flow
    def publishing() -> None:
        for status in statuses.values():
            assert ReportPublisher(status.study_name).publish(render_report(status))

    publishing()
    addresses = {}
    with get_client(sync_client=True) as client:
        for name, status in statuses.items():
            key = ArtifactFilterKey(any_=[report_key(status.study_name)])
            (artifact,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
            addresses[name] = f"{prefect_server.url}/v2/artifacts/artifact/{artifact.id}"
    addresses["list"] = f"{prefect_server.url}/v2/artifacts"
    return addresses


class Watcher:
    """Notes what goes wrong on a page, except for what Prefect's UI does on every page."""

    def __init__(self, page: Page, own: str) -> None:
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("response", self._check)
        page.on(
            "console",
            lambda message: (
                self.errors.append(message.text)
                if message.type == "error" and "Failed to load resource" not in message.text
                else None
            ),
        )
        page.on(
            "requestfailed",
            lambda request: self.errors.append(request.url) if own in request.url else None,
        )

    def _check(self, response: Response) -> None:
        if response.status < 400 or "/favicon" in response.url:
            return
        # An artifact of a flow run, and of no task run, makes the UI ask for the task run "".
        body = json.loads(response.request.post_data or "{}")
        if body.get("task_runs", {}).get("id", {}).get("any_") != [""]:
            self.errors.append(f"{response.status} {response.url}")


def open_page(page: Page, address: str) -> Watcher:
    watcher = Watcher(page, own="127.0.0.1")
    page.set_viewport_size({"width": 1280, "height": 3400})
    page.goto(address)
    return watcher


def wait_for_pictures(page: Page, n: int) -> None:
    """Wait until so many pictures are there, and each is loaded and has a size."""
    page.wait_for_function(
        """n => {
            const pictures = [...document.querySelectorAll("img[src]")];
            return pictures.length === n
                && pictures.every(picture => picture.complete && picture.naturalWidth > 0);
        }""",
        arg=n,
    )


def screenshots(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png")


@pytest.mark.parametrize(
    ("name", "headline", "n_pictures"),
    [
        pytest.param("lynx", "Best value 0.", 7, marks=pytest.mark.slow),
        pytest.param("pareto", "Pareto-best trial", 6, marks=pytest.mark.slow),
    ],
)
def test_a_report_shows_its_headline_and_every_picture(
    pages: dict[str, str], page: Page, name: str, headline: str, n_pictures: int
) -> None:
    watcher = open_page(page, pages[name])
    page.locator("h1", has_text=headline).wait_for()
    page.get_by_text("as_study_storage").first.wait_for()
    wait_for_pictures(page, n_pictures)
    assert page.locator("table").locator("tr").count() >= 2
    widths = page.evaluate("[...document.querySelectorAll('img[src]')].map(i => i.clientWidth)")
    assert widths[0] == 280
    # As wide as the page allows, and not wider.
    assert all(400 < width < 1000 for width in widths[1:])
    screenshots(page, f"report-{name}")
    texts = page.evaluate("[...document.querySelectorAll('img[src]')].map(i => i.alt)")
    assert all(texts[1:])  # for those who hear the page
    assert watcher.errors == []


@pytest.mark.slow
def test_a_hostile_name_is_text_and_nothing_else(pages: dict[str, str], page: Page) -> None:
    watcher = open_page(page, pages["hostile"])
    page.locator("h1", has_text="Best value 2").wait_for()
    wait_for_pictures(page, 4)
    assert page.get_by_text(f"Note: {HOSTILE}").is_visible()
    assert page.locator("[href^='javascript']").count() == 0
    assert page.title() != "1"
    screenshots(page, "report-hostile")
    assert watcher.errors == []


@pytest.mark.slow
def test_the_list_of_artifacts_shows_a_card_with_the_answer_and_a_thumbnail(
    pages: dict[str, str], page: Page
) -> None:
    watcher = open_page(page, pages["list"])
    page.get_by_text("study-browser-lynx-hare").first.wait_for()
    page.get_by_text("60 of 60, completed").first.wait_for()
    page.wait_for_function(
        "[...document.querySelectorAll('img[src^=\"data:image/png\"]')].length >= 3"
    )
    screenshots(page, "artifacts")
    assert watcher.errors == []
