"""The report as a file: one page that loads nothing, and the same on paper.

Screenshots are kept in `.cache/screenshots/`: look at them after changing the page.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from axe_playwright_python.sync_playwright import Axe
from studies_under_test import HOSTILE, hostile_study, lynx_hare_study, pareto_study

from prefect_optuna.blocks import as_artifact_filesystem, as_study_storage
from prefect_optuna.errors import InvalidSettingError
from prefect_optuna.flows.examples import lynx_hare
from prefect_optuna.flows.gallery import PICTURES
from prefect_optuna.flows.report_flow import write_report
from prefect_optuna.flows.report_page import render_page, render_pdf
from prefect_optuna.flows.study import StudyStatus
from prefect_optuna.tasks import ArchivedStudy, OptunaArchive
from prefect_optuna.tasks.reevaluation.verdicts import ReevaluatedTrial, Reevaluation

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow  # whole studies, in a browser
SCREENSHOTS = Path(__file__).parents[2] / ".cache" / "screenshots"


def archived_study(folder: Path, name: str = "hares") -> dict[str, Any]:
    """A study with results and a re-evaluation in an archive of its own; where it is."""
    places = {
        "storage": f"journal:///{folder}/studies.journal",
        "artifacts": f"{folder}/artifacts",
    }
    study = optuna.create_study(
        study_name=name,
        storage=as_study_storage(places["storage"]).get_storage(),
        sampler=optuna.samplers.RandomSampler(seed=3),
    )
    archive = OptunaArchive(study, artifacts=places["artifacts"])
    archive.save_problem(lynx_hare.problem)
    for _ in range(12):
        trial = study.ask()
        result = lynx_hare.simulate(lynx_hare.suggest(trial))
        trial.set_user_attr("result", archive.writer().write(trial.number, result))
        study.tell(trial, lynx_hare.misfit(result))
    again = ReevaluatedTrial(
        number=7,
        verdict="drifted",
        archived=0.5,
        values=[0.75],
        difference=0.25,
        params={},
        cause="numpy 2.1 then, 2.3 now",
    )
    archived = ArchivedStudy.of(study, artifacts=places["artifacts"])
    for when in ("2026-11-01", "2026-11-02"):
        archived.record_reevaluation(
            Reevaluation(
                study_name=name,
                trials=[again],
                rtol=0.0,
                atol=0.0,
                created=f"{when}T04:00:00+00:00",
            )
        )
    return places


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of studies, by name."""
    folder = tmp_path_factory.mktemp("pages")
    found = {"archived": folder / "archived.html"}
    write_report("hares", found["archived"], **archived_study(folder))
    statuses = {"lynx": lynx_hare_study(), "pareto": pareto_study(), "hostile": hostile_study()}
    statuses["many"] = many_trials(1_234, 3)
    for name, status in statuses.items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(render_page(status), encoding="utf-8")
    return found


def many_trials(count: int, parameters: int) -> StudyStatus:
    rng = random.Random(1)
    names = [f"p{number}" for number in range(parameters)]
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(0, 1) for name in names
    }
    trials: list[optuna.trial.FrozenTrial] = []
    for number in range(count):
        params = {name: rng.random() for name in names}
        trial = optuna.trial.create_trial(
            params=params,
            distributions=distributions,
            value=sum(params.values()),
            user_attrs={
                "seed": rng.getrandbits(63),
                "result": {"sha256": f"{rng.getrandbits(256):064x}"},
            },
        )
        trial.number = number
        trials.append(trial)
    return StudyStatus("many", ("minimize",), trials, count, "completed", 9.0, "a", "b")


def opened(page: Page, path: Path) -> list[str]:
    """Open a page; what it complains of, and what it asks others for."""
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("th button")
    return wrong + [url for url in asked if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("lynx", "dark"),
        pytest.param("archived", "light", marks=pytest.mark.slow),
        pytest.param("archived", "dark", marks=pytest.mark.slow),
        pytest.param("lynx", "light", marks=pytest.mark.slow),
        pytest.param("pareto", "light", marks=pytest.mark.slow),
        pytest.param("pareto", "dark", marks=pytest.mark.slow),
    ],
)
def test_everybody_can_read_it(page: Page, files: dict[str, Path], name: str, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    for width in (1100, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert opened(page, files[name]) == []
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") == width
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"page-{name}-{scheme}-{width}.png", full_page=True)


def test_what_others_wrote_is_text(page: Page, files: dict[str, Path]) -> None:
    assert opened(page, files["hostile"]) == []
    assert page.title().startswith("browser a|b")
    assert page.locator("img[src=x]").count() == 0
    assert HOSTILE in page.inner_text("body")


def test_trials_are_sorted_and_found_by_keyboard(page: Page, files: dict[str, Path]) -> None:
    opened(page, files["many"])
    status = many_trials(1_234, 3)

    def column(number: int) -> list[str]:
        return page.locator(f"tbody tr td:nth-child({number})").all_inner_texts()

    assert page.inner_text("#found") == "1234 trials"
    assert len(column(1)) == 100
    best = min(status.trials, key=lambda trial: trial.values[0])
    assert column(1)[0] == str(best.number)
    headings = page.locator("th button").all_inner_texts()
    by_p1 = sorted(status.trials, key=lambda trial: trial.params["p1"])
    page.locator("th button", has_text="p1").focus()
    page.keyboard.press("Enter")
    assert column(1) == [str(trial.number) for trial in by_p1[:100]]
    assert page.locator("th[aria-sort=ascending]").inner_text() == "param.p1"
    page.keyboard.press("Enter")
    assert column(1) == [str(trial.number) for trial in by_p1[::-1][:100]]
    page.locator("#after").press("Enter")
    assert column(1) == [str(trial.number) for trial in by_p1[::-1][100:200]]
    page.fill("#search", f"{best.params['p0']:.6g}")
    assert column(1) == [str(best.number)]
    assert page.inner_text("#found") == "1 of 1234 trials"
    shown = page.locator(f"tbody td:nth-child({headings.index('param.p0') + 1})")
    assert float(str(shown.get_attribute("title"))) == best.params["p0"]
    page.fill("#search", "no such trial")
    assert page.inner_text("#found") == "0 of 1234 trials"


def test_without_scripts_it_shows_the_best_trials(files: dict[str, Path]) -> None:
    text = files["archived"].read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td>(\d+)</td><td>complete</td><td>([\d.e+-]+)</td>", text)
    values = [float(value) for _, value in rows]
    assert len(rows) == 12
    assert values == sorted(values)


def test_it_has_what_the_archive_says(files: dict[str, Path]) -> None:
    text = files["archived"].read_text(encoding="utf-8")
    for words in (
        "numpy 2.1 then, 2.3 now",
        "A cross is where a trial was not reproduced.",
        "Not signed",
        "def simulate",
        f"optuna=={optuna.__version__}",
        "Series of trial",
        "SHA-256 of the code",
    ):
        assert words in text


@pytest.mark.slow
def test_ten_thousand_trials_are_two_megabytes_at_most() -> None:
    page = render_page(many_trials(10_000, 30))
    assert len(page.encode()) <= 2_000_000
    assert "rounded to six digits" in page
    assert "did not fit into this page; the best are here" in page


@pytest.mark.parametrize(
    "make", [lynx_hare_study, pytest.param(pareto_study, marks=pytest.mark.slow), hostile_study]
)
def test_it_is_written_on_paper(make: Any) -> None:
    status = make()
    pdf = render_pdf(status)
    assert pdf.startswith(b"%PDF-")
    assert pdf.count(b"/Subtype /Image") >= (3 if make is lynx_hare_study else 1)


def test_a_study_of_nothing_has_a_page() -> None:
    status = StudyStatus("none", ("minimize",), [], None, "interrupted", 0.0, "a", "b")
    assert "No complete trial" in render_page(status)
    assert render_pdf(status).startswith(b"%PDF-")


def test_parameters_that_only_bad_trials_have_are_columns_too(page: Page, tmp_path: Path) -> None:
    status = many_trials(60, 1)
    last = optuna.trial.create_trial(
        params={"late": 0.5},
        distributions={"late": optuna.distributions.FloatDistribution(0, 1)},
        value=99.0,
    )
    last.number = 60
    path = tmp_path / "page.html"
    path.write_text(render_page(replace(status, trials=[*status.trials, last])), encoding="utf-8")
    assert opened(page, path) == []
    assert "param.late" in page.locator("th button").all_inner_texts()
    page.fill("#search", "99")
    assert "0.5" in page.locator("tbody tr", has_text="99").last.inner_text()


def test_every_picture_is_in_the_page_and_named(files: dict[str, Path]) -> None:
    named = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    for name, words in PICTURES.items():
        assert (f'alt="{words}"' in named["lynx"]) == (name != "pareto")
        assert f'alt="{words}"' in named["pareto"]


def test_a_damaged_reevaluation_leaves_the_archive_out(tmp_path: Path) -> None:
    places = archived_study(tmp_path)
    archive = as_artifact_filesystem(places["artifacts"])
    for path in archive.glob("studies/**/reevaluations/*.json"):
        archive.write_path(path, b"damaged")
    text = write_report("hares", tmp_path / "page.html", **places).read_text(encoding="utf-8")
    assert "Its archive is left out" in text
    assert "Best value" in text


def test_a_damaged_archive_is_said_and_left_out(tmp_path: Path) -> None:
    places = archived_study(tmp_path)
    archive = as_artifact_filesystem(places["artifacts"])
    for path in archive.glob("blobs/**"):
        archive.write_path(path, b"damaged")
    text = write_report("hares", tmp_path / "page.html", **places).read_text(encoding="utf-8")
    assert "Its archive is left out" in text
    assert "Best value" in text


@pytest.mark.parametrize("name", ["report.docx", "report"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"\.html, \.pdf or \.md"):
        write_report("none", tmp_path / name, storage="memory://none")
    assert not list(tmp_path.iterdir())


def test_numbers_that_json_does_not_have_come_last() -> None:
    study = optuna.create_study()
    for value in (float("inf"), 1.0, -3.5):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.set_user_attr("odd", {"a": np.inf})
        study.tell(trial, value)
    status = StudyStatus("odd", ("minimize",), study.trials, 3, "completed", 1.0, "a", "b")
    text = render_page(status)
    (packed,) = re.findall(r'id="data">([^<]+)<', text)
    assert "NaN" not in re.sub(r"[\w+/=]{40,}", "", text)  # in base64, any three letters come up

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is not JSON")

    data = json.loads(gzip.decompress(base64.b64decode(packed)), parse_constant=refuse)
    values = dict(zip(data["headings"], data["columns"], strict=True))["value"]
    assert values == [-3.5, 1.0, "inf"]
