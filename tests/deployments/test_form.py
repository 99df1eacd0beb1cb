"""The form of a deployment, for somebody without Python, in both UIs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Locator, Page, Response, expect
from playwright.sync_api import TimeoutError as Late
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from servers import log_of, wait_until

from prefect_optuna.deployments import (
    LocalServer,
    LocalWorker,
    deploy_optimization,
    make_process_pool,
)
from prefect_optuna.deployments.deploy import Deployed, form_of
from prefect_optuna.flows import distribute, optimize, reevaluate
from prefect_optuna.flows.report import report_key

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

POOL = "form-tests"

SCRIPT = '''
from typing import Literal

from prefect_optuna import auto_param


@auto_param("model")
def model(x: float, gain: float = 2.0, kind: Literal["linear", "square"] = "linear") -> float:
    """A model.

    Args:
        gain: how steep it is.
    """
    return gain * (x if kind == "linear" else x * x)


def objective(trial):
    return (model(trial.suggest_float("x", -5, 5)) - 2) ** 2
'''


def test_what_people_choose_comes_first_and_nothing_else_is_lost() -> None:
    given = {"study_name": "fit", "n_trials": 100, "timeout": None, "sampler": None}
    form = form_of(optimize.parameters, given)
    assert list(form.properties)[:3] == ["study_name", "n_trials", "timeout"]
    assert form.properties.keys() == optimize.parameters.properties.keys()
    assert "anyOf" in form.properties["sampler"]  # nothing was given, and stays possible
    assert form.properties["n_trials"]["type"] == "integer"
    assert form_of(optimize.parameters, {"study_name": "fit", "n_trials": None}).properties[
        "n_trials"
    ]["anyOf"]
    options = {"study_name": "fit", "sampler": {"name": "tpe", "options": {}}}
    assert "anyOf" in form_of(distribute.parameters, options).properties["sampler"]
    again = form_of(reevaluate.parameters, {"study_name": "fit", "trials": "best:3"})
    assert again.properties["trials"]["enum"][:3] == ["best:3", "best:1", "best:5"]
    assert again.properties["environment"]["enum"] == ["here", "recorded", "closest", "both"]


@pytest.fixture(scope="module")
def deployed(
    prefect_server: LocalServer, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Deployed]:
    folder = tmp_path_factory.mktemp("form")
    make_process_pool(POOL)
    before = Path.cwd()
    os.chdir(folder)
    (folder / "fit.py").write_text(SCRIPT, encoding="utf-8")
    places: dict[str, Any] = {
        "storage": f"journal:///{folder}/studies.journal",
        "artifacts": f"{folder}/files",
    }
    try:
        made = deploy_optimization("fit.py:objective", study_name="form", pool=POOL, **places)
        worker = LocalWorker(POOL, folder / "worker.log", query=1.0)
        worker.start()  # it may become ready while the form is filled in
        try:
            yield made
        finally:
            worker.stop()
    finally:
        os.chdir(before)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("ui", "trials"), [("", 3), ("/v2", 5)])
def test_sampler_and_scope_are_chosen_from_drop_downs_with_help(
    ui: str,
    trials: int,
    deployed: Deployed,
    prefect_server: LocalServer,
    page: Page,
    tmp_path: Path,
) -> None:
    made = deployed
    page.set_default_timeout(60_000)
    page.set_viewport_size({"width": 1280, "height": 3600})
    page.goto(f"{prefect_server.url}{ui}/deployments/deployment/{made.id}/run")
    page.get_by_text("How parameters are chosen").wait_for()
    for words in ("Study", "Sampler", "Pruner", "model.gain", "model.kind", "how steep it is."):
        expect(page.get_by_text(words).first).to_be_visible()
    page.screenshot(path=tmp_path / "form.png", full_page=True)
    fill(page, ui, trials)
    page.screenshot(path=tmp_path / "filled.png", full_page=True)
    expect(page.get_by_text("square", exact=True).first).to_be_visible()
    run = submit(page, made)
    assert run.parameters["sampler"] == "random"
    assert run.parameters["scope"] == {"model.kind": "square"}
    assert run.parameters["n_trials"] == trials
    with get_client(sync_client=True) as client:
        wait_until(
            lambda: (state := client.read_flow_run(run.id).state) and state.is_final(),
            what="the run of the form ends",
            timeout=240,
            every=1.0,
        )
        state = client.read_flow_run(run.id).state
        assert state is not None
        assert state.is_completed(), (state, log_of(run.id))
        key = ArtifactFilterKey(any_=[report_key("form")])
        (report, *_) = client.read_artifacts(artifact_filter=ArtifactFilter(key=key))
    page.goto(f"{prefect_server.url}{ui}/artifacts/artifact/{report.id}")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.get_by_text("model.kind").first.wait_for()
        page.screenshot(path=tmp_path / f"report-{scheme}.png", full_page=True)


def submit(page: Page, made: Deployed) -> FlowRun:
    """Press the button; a server that is busy is asked again, as a person would.

    Prefect's UI shows what the server refuses and stays on the form, with what was chosen.
    """

    def press() -> Response:
        with page.expect_response(lambda one: "create_flow_run" in one.url) as answer:
            page.get_by_role("button", name="Submit").last.click()
        return answer.value

    answer = press()
    for _ in range(12):
        if answer.status != 503:  # SQLite was locked for too long
            break
        page.wait_for_timeout(5_000)
        answer = press()
    assert answer.ok, (answer.status, answer.text())
    with get_client(sync_client=True) as client:
        return client.read_flow_run(answer.json()["id"])


def fill(page: Page, ui: str, trials: int) -> None:
    """Choose as a person does."""

    def after(words: str, xpath: str) -> Locator:
        label = page.locator(f"xpath=//label[contains(., '{words} (Optional)')]").last
        return label.locator(f"xpath=following::{xpath}")

    after("Trials", "input[1]").fill(str(trials))

    def unfold(words: str) -> None:
        if ui:  # the first button behind a label opens a menu of what to do with the field
            after(words, "button[2]").click()
        else:  # a click of Playwright's also gives it the focus, which opens and closes it at once
            after(words, "*[contains(@class, 'p-select-button')][1]").dispatch_event("click")

    for words, choice in (("Sampler", "random"), ("model.kind", "square")):
        option = page.get_by_role("option", name=choice, exact=True)
        for _ in range(3):  # a form that is drawn anew meanwhile closes what was open
            unfold(words)
            with contextlib.suppress(Late):
                option.click(timeout=10_000)
                break
