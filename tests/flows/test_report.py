"""The report: what it says, how it survives hostile names, and how it gets to the server."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from optuna.trial import TrialState
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import temporary_settings
from servers import free_port, wait_until

from prefect_optuna import ArchivedStudy, OptunaArchive, Problem, log_artifact
from prefect_optuna.blocks.artifacts import trial_log
from prefect_optuna.blocks.artifacts.pages import artifact_key
from prefect_optuna.flows.gallery import Gallery, TimeShare
from prefect_optuna.flows.plots import figure_png
from prefect_optuna.flows.report import (
    Report,
    ReportPublisher,
    ReportThread,
    StudyStatus,
    render_report,
    report_key,
)
from prefect_optuna.flows.report_flow import read_status
from prefect_optuna.flows.report_page import render_page
from prefect_optuna.tasks.reevaluation.verdicts import Reevaluation

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Artifact

    from prefect_optuna.deployments import LocalServer


def study_of(
    values: Sequence[Any], directions: Sequence[str] = ("minimize",), n_params: int = 1
) -> optuna.Study:
    study = optuna.create_study(directions=list(directions))
    space = {f"p{i}": optuna.distributions.FloatDistribution(0, 1) for i in range(n_params)}
    for value in values:
        trial = study.ask(space)
        if isinstance(value, TrialState):
            study.tell(trial, state=value)
        else:
            study.tell(trial, value)
    return study


def status_of(study: optuna.Study, **changes: Any) -> StudyStatus:
    status = StudyStatus(
        study_name="lynx-hare",
        directions=tuple(d.name.lower() for d in study.directions),
        trials=study.get_trials(deepcopy=False),
        n_trials=300,
        state="running",
        elapsed=75.0,
        storage="journal:///data/study.log",
        artifacts="/data/artifacts",
    )
    return dataclasses.replace(status, **changes)


def noise(pixels: int) -> bytes:
    """A picture that does not compress."""
    figure = Figure(figsize=(7, 5))
    figure.subplots().imshow(np.random.default_rng(0).random((pixels, pixels)))
    return figure_png(figure, max_bytes=400_000)


def without_pictures(markdown: str) -> str:
    return re.sub(r"\(data:[^)]*\)", "()", markdown)


def test_what_the_best_trial_read_of_its_scope_is_told() -> None:
    study = study_of([2.0])
    trial = study.ask()
    trial.set_user_attr("scope", {"simulate.dt": 0.01, "solver|": "<b>"})
    study.tell(trial, 1.0)
    text = render_report(status_of(study)).markdown
    assert "Scope: simulate.dt\u00a00.01 · solver" in text
    assert "<b>" not in text
    assert "Scope:" not in render_report(status_of(study_of([1.0]))).markdown


def test_the_answer_comes_first() -> None:
    study = study_of([3.0, 0.25, 2.0])
    lines = render_report(status_of(study)).markdown.splitlines()
    assert lines[0] == "# Best value 0.25"
    best = study.best_params["p0"]
    words = "Trial 1 (minimize; none better in 1 trial since)"
    assert lines[2] == f"{words}: p0\u00a0**{best:.5g}**"
    assert lines[4] == "**3 of 300 trials** (3 complete) in 1 min 15 s, **running**"


def test_trials_are_counted_by_state_and_lost_ones_do_not_count() -> None:
    study = study_of([1.0, TrialState.FAIL, TrialState.FAIL, TrialState.PRUNED])
    study.ask()
    trials = study.get_trials()
    trials[2].system_attrs = {"prefect_optuna:lost": {"session": "s", "why": "gone"}}
    markdown = render_report(status_of(study, trials=trials, lost=1)).markdown
    assert (
        "**3 of 300 trials** (1 complete, 1 pruned, 1 failed, 1 running, 1 lost and repeated)"
        in markdown
    )


def test_the_ten_best_trials_are_in_the_table_best_first() -> None:
    study = study_of([float(v) for v in range(20)], ["maximize"])
    markdown = render_report(status_of(study)).markdown
    rows = [line.split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows] == ["trial", "---:", *map(str, range(19, 9, -1))]
    assert rows[2][1] == "**19**"


def test_a_parameter_may_be_called_value() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("value", 2, 3) - 2, n_trials=3)
    markdown = render_report(status_of(study)).markdown
    assert "| trial | value | value | took |" in markdown


def test_parameters_that_do_not_fit_are_counted() -> None:
    markdown = render_report(status_of(study_of([1.0], n_params=100))).markdown
    header = next(line for line in markdown.splitlines() if line.startswith("| trial"))
    shown = header.count("| p")
    assert 3 <= shown <= 12
    assert f"{100 - shown} more parameters did not fit." in markdown
    assert "and 60 more" in markdown


def test_several_directions_show_the_front_that_optuna_finds() -> None:
    study = study_of([[1.0, 1.0], [2.0, 2.0], [3.0, 0.5]], ["minimize", "maximize"])
    markdown = render_report(status_of(study)).markdown
    assert markdown.startswith(f"# {len(study.best_trials)} Pareto-best trials")
    assert "value 0 (minimize): **1** to **2** · value 1 (maximize): **1** to **2**" in markdown
    assert "| trial | value 0 | value 1 |" in markdown


@pytest.mark.parametrize(
    ("values", "state", "headline"),
    [
        ([], "running", "# No complete trial yet"),
        ([TrialState.FAIL], "failed", "# No complete trial"),
        ([math.inf], "running", "# Best value ∞"),
        ([-math.inf], "running", "# Best value -∞"),
    ],
)
def test_studies_without_a_finite_value_have_a_report(
    values: list[Any], state: str, headline: str
) -> None:
    markdown = render_report(status_of(study_of(values), state=state)).markdown
    assert markdown.splitlines()[0] == headline
    assert not re.search(r"\b(nan|inf|infinity)\b", without_pictures(markdown), re.IGNORECASE)


def test_a_study_without_a_target_says_how_many_trials_it_has() -> None:
    for n, words in ((1, "**1 trial** ("), (2, "**2 trials** (")):
        assert words in render_report(status_of(study_of([1.0] * n), n_trials=None)).markdown


def test_notes_are_shown() -> None:
    status = status_of(study_of([1.0]), notes=("the code changed at trial 150",))
    assert "**Note:** the code changed at trial 150" in render_report(status).markdown


def test_the_code_in_the_report_loads_the_study(tmp_path: Any) -> None:
    path = tmp_path / "it's a study.db"
    url = f"sqlite:///{path}"
    optuna.create_study(study_name='the "best" \n one', storage=url).optimize(
        lambda trial: trial.suggest_float("x", 0, 1), n_trials=2
    )
    loaded = optuna.load_study(study_name='the "best" \n one', storage=url)
    markdown = render_report(
        status_of(loaded, study_name=loaded.study_name, storage=url), pictures=False
    ).markdown
    code = re.search(r"```python\n(.*?)\n```", markdown, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert names["study"].study_name == loaded.study_name
    assert len(names["study"].trials) == 2


def test_the_last_day_of_an_older_study_is_told() -> None:
    now = dt.datetime.now()  # noqa: DTZ005 - as Optuna does

    def trial(number: int, value: float, hours: float) -> optuna.trial.FrozenTrial:
        made = optuna.trial.create_trial(value=value)
        made.number, made.datetime_complete = number, now - dt.timedelta(hours=hours)
        return made

    trials = [trial(0, 2.0, 60), trial(1, 3.0, 50)]
    status = status_of(study_of([]), trials=trials)
    assert "24 hours" not in render_report(status, pictures=False).markdown
    worse = dataclasses.replace(status, trials=[*trials, trial(2, 2.5, 3)])
    said = render_report(worse, pictures=False).markdown
    assert "**In the last 24 hours:** 1 trial, none of them the best" in said
    better = dataclasses.replace(status, trials=[*trials, trial(2, 2.5, 3), trial(3, 1.5, 1)])
    said = render_report(better, pictures=False).markdown
    assert "24 hours:** 2 trials, and the best value went from 2 to **1.5**" in said
    page = render_page(better)
    assert "<p>In the last 24 hours: 2 trials, and the best value went from 2 to 1.5</p>" in page
    assert "<p>Trial 3 (minimize)</p>" in page
    young = dataclasses.replace(status, trials=[trial(0, 2.0, 3)])
    assert "24 hours" not in render_report(young, pictures=False).markdown


def test_versions_and_reevaluations_are_listed_with_a_link_to_their_page(tmp_path: Any) -> None:
    def problem(slope: float) -> Problem:
        return Problem(
            suggest=lambda trial: {"x": trial.suggest_float("x", 0, 1)},
            run=lambda params: {"path": [slope * params["x"]]},
            evaluate=lambda result: result["path"][0],
        )

    places: dict[str, Any] = {"storage": f"sqlite:///{tmp_path}/v.db", "artifacts": tmp_path / "a"}
    study = optuna.create_study(study_name="changing", storage=places["storage"])
    for slope in (1.0, 2.0):
        OptunaArchive(study, artifacts=places["artifacts"]).save_problem(problem(slope))
        study.ask()
    verdict = Reevaluation(
        study_name="changing", trials=[], rtol=0.0, atol=0.0, created="2026-11-28T12:00:00"
    )
    ArchivedStudy.load("changing", **places).record_reevaluation(verdict)
    status = read_status("changing", **places)
    with temporary_settings({"ui_url": "http://lab:4200"}):
        said = render_report(status, pictures=False).markdown
    environment = status.versions[0].environment[:12]
    assert re.search(
        rf"## Versions\n\n.*\n.*\n\| 0 \| 0 \|.* `{environment}` \|\n\| 1 \| 1 \|", said
    )
    assert "## Re-evaluations\n\n- `2026-11-28 12:00`: " in said
    assert "(http://lab:4200/artifacts/key/reevaluation-changing)" in said
    assert "(http://lab:4200/artifacts/key/study-changing)" in said


def test_what_the_best_trial_has_logged_is_named_and_loaded_by_the_code(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/logged.db"
    artifacts = str(tmp_path / "artifacts")
    study = optuna.create_study(study_name="logged", storage=url)
    for value in (2.0, 1.0):
        trial = study.ask()
        log_artifact(trial, "curve", {"peak": value}, artifacts=artifacts)
        study.tell(trial, value)
    status = status_of(study, study_name="logged", storage=url, artifacts=artifacts)
    markdown = render_report(status, pictures=False).markdown
    assert "## Logged by trial 1\n\n`curve`" in markdown
    code = re.search(r"```python\n(.*)\n(.*?)\n```", markdown, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    assert eval(code[2], names) == {"peak": 1.0}
    assert "Logged" not in render_report(status_of(study_of([1.0])), pictures=False).markdown


def test_what_was_logged_is_linked_to_where_it_is_shown(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Any, ...]] = []
    monkeypatch.setattr(trial_log, "publish_artifact", lambda *of, **_: shown.append(of))
    study = optuna.create_study(study_name="linked")
    places: dict[str, Any] = {"artifacts": str(tmp_path), "publish": True}
    log_artifact(study, "note", {"by": "me"}, **places)
    trial = study.ask()
    log_artifact(trial, "a curve", {"peak": 1.0}, **places)
    log_artifact(trial, "hidden", 1, artifacts=str(tmp_path))
    trial.set_user_attr("artifact:forged", {"key": "](http://elsewhere)"})
    study.tell(trial, 1.0)
    status = dataclasses.replace(status_of(study, study_name="linked"), user_attrs=study.user_attrs)
    with temporary_settings({"ui_url": "http://lab:4200"}):
        said = render_report(status, pictures=False).markdown
    pages = [f"http://lab:4200/artifacts/key/{artifact_key(*of[:2])}" for of in shown]
    assert f"## Logged by the study\n\n[`note`]({pages[0]})" in said
    assert f"## Logged by trial 0\n\n[`a curve`]({pages[1]}) · `hidden` · `forged`" in said


def test_passwords_in_a_location_are_masked() -> None:
    status = status_of(
        study_of([1.0]),
        storage="postgresql://ann:s3cret@db.example/studies",
        artifacts="s3://key:hidden@bucket/x",
    )
    report = render_report(status)
    assert "s3cret" not in report.markdown + report.description
    assert "hidden" not in report.markdown + report.description
    assert "postgresql://ann:***@db.example/studies" in report.markdown


@pytest.mark.slow
@settings(max_examples=40)
@given(
    st.text(alphabet="ab|`<>*_[]()#\\\n\r\t\x00&!~$:-{}", min_size=1, max_size=30),
    st.text(alphabet="ab|`<>*_[]()#\\\n\r\t\x00&!~$:-{}", min_size=1, max_size=30),
)
def test_names_cannot_break_the_page(name: str, choice: str) -> None:
    study = optuna.create_study()
    for value in (1.0, 2.0):
        trial = study.ask({name: optuna.distributions.CategoricalDistribution([choice])})
        study.tell(trial, value)
    status = status_of(study, study_name=name, storage=name, artifacts=name, notes=(choice,))
    with temporary_settings({"ui_url": "http://lab:4200"}):
        markdown = render_report(status, pictures=False).markdown
    markdown, runs = re.subn(
        r"\[Each run, with its report\]\(http://lab:4200/[\w/-]+\)", "", markdown
    )
    assert runs == 1
    text, _, load = markdown.partition("## Load it")
    # Whatever is special stands behind a backslash, except for the report's own marks.
    own = re.sub(r"\\.", "", text)
    assert "`" not in own
    assert "<" not in own
    table = [line for line in own.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {line.count("|") for line in table} == {5}
    assert len(re.findall(r"^#", own, re.MULTILINE)) == 3
    assert own.count("[") == own.count("]") == 0
    assert len(re.findall(r"^```", load, re.MULTILINE)) == 2


@pytest.mark.slow
def test_a_report_stays_small_with_large_pictures_and_many_trials() -> None:
    study = optuna.create_study()
    rng = np.random.default_rng(0)
    uniform = optuna.distributions.FloatDistribution(0, 1)
    start = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - as Optuna has them
    trials = []
    for number, value in enumerate(rng.normal(size=5000)):
        trial = optuna.trial.create_trial(
            value=float(value),
            params={f"p{i}": rng.random() for i in range(12)},
            distributions={f"p{i}": uniform for i in range(12)},
            system_attrs={"prefect_optuna:session": f"worker {number % 9}"},
        )
        trial.number = number
        trial.datetime_start = start + dt.timedelta(seconds=number + rng.random() * 9)
        trial.datetime_complete = trial.datetime_start + dt.timedelta(seconds=9)
        trials.append(trial)
    picture = noise(400)
    assert len(picture) > 150_000
    status = status_of(study, trials=trials, best_figure=picture, ensemble=noise(100)[:35_000])
    report = render_report(status)
    assert report.markdown.count("data:image/png;base64,") == 6
    assert len(report.markdown) + len(report.description) < 250_000
    assert len(report.description) < 16_000
    for uri in re.findall(r"base64,([^)]*)\)", report.markdown):
        assert len(uri) * 3 / 4 <= 100_000


def test_the_link_to_optuna_dashboard_is_there_where_the_settings_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status = status_of(study_of([1.0]), study_id=7)
    assert "dashboard" not in render_report(status, pictures=False).markdown
    monkeypatch.setenv("PREFECT_INTEGRATIONS_OPTUNA_DASHBOARD_URL", "http://lab:8080/)[x](")
    markdown = render_report(status, pictures=False).markdown
    assert (
        "[Open in optuna-dashboard](http://lab:8080/%29%5Bx%5D%28/dashboard/studies/7)" in markdown
    )


def test_pictures_that_would_hold_up_the_end_are_left_out_and_it_says_who_draws_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prefect_optuna.flows.report._LAST_SECONDS", 0.0)
    collector = Collector()
    study = study_of([1.0 + i for i in range(30)], n_params=3)

    def status() -> StudyStatus:
        return status_of(study, state="completed", study_name="it's short")

    with ReportThread(status, collector):
        pass
    report = collector.reports[-1].markdown
    assert report.count("data:image/png;base64,") == 1
    assert "`prefect-optuna report 'it'\"'\"'s short'`" in report
    assert "prefect-optuna report" not in render_report(status()).markdown


def test_without_pictures_nothing_is_drawn() -> None:
    report = render_report(status_of(study_of([1.0])), pictures=False)
    assert "data:" not in report.markdown + report.description


# Publishing


@pytest.mark.parametrize(
    "name",
    [
        "lynx-hare",
        "Lynx Hare",
        "lynx--hare",
        "-",
        "",
        "Überstudie",
        "模型",
        "a" * 300,
        "../x",
        "a_b",
    ],
)
def test_keys_keep_prefect_s_rule(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{1,100}", report_key(name))


@given(st.lists(st.text(alphabet="aAbé -_.1", max_size=5), unique=True, min_size=2, max_size=8))
def test_different_studies_have_different_keys(names: list[str]) -> None:
    assert len({report_key(name) for name in names}) == len(names)


def test_no_name_can_be_made_to_collide_with_a_hashed_one() -> None:
    key = report_key("Lynx Hare")
    assert report_key(key.removeprefix("study-")) != key


def artifacts_of(key: str) -> list[Artifact]:
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        return client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        )


def in_a_flow(function: Callable[[], Any]) -> Any:
    @flow
    def publishing() -> Any:
        return function(), FlowRunContext.get().flow_run.id  # type: ignore[union-attr]

    from prefect.context import FlowRunContext

    return publishing()


@pytest.mark.usefixtures("prefect_server")
def test_a_report_is_made_once_and_then_updated_in_place() -> None:
    def body() -> None:
        publisher = ReportPublisher("in place")
        assert publisher.publish(Report("one", "first"))
        assert publisher.publish(Report("two", "second"))

    _, flow_run_id = in_a_flow(body)
    (artifact,) = artifacts_of(report_key("in place"))
    assert artifact.data == "two"
    assert artifact.description == "second"
    assert artifact.type == "markdown"
    assert artifact.flow_run_id == flow_run_id


@pytest.mark.usefixtures("prefect_server")
def test_another_attempt_of_a_flow_run_updates_the_report_of_the_first() -> None:
    attempts = []

    @flow(retries=1)
    def publishing() -> None:
        attempts.append(1)
        ReportPublisher("retried").publish(Report(f"attempt {len(attempts)}", ""))
        if len(attempts) == 1:
            raise RuntimeError("the first attempt fails")

    publishing()
    (artifact,) = artifacts_of(report_key("retried"))
    assert artifact.data == "attempt 2"


@pytest.mark.usefixtures("prefect_server")
def test_a_study_that_goes_on_in_another_flow_run_gets_a_new_version() -> None:
    for text in ("one", "two"):
        in_a_flow(lambda text=text: ReportPublisher("in two flow runs").publish(Report(text, "")))
    assert {a.data for a in artifacts_of(report_key("in two flow runs"))} == {"one", "two"}


def test_updates_leave_no_events_behind(prefect_server: LocalServer) -> None:
    def body() -> None:
        publisher = ReportPublisher("quiet")
        for text in ("one", "two", "three"):
            publisher.publish(Report(text, ""))
        ReportPublisher("after quiet").publish(Report("", ""))

    in_a_flow(body)

    def events() -> dict[str, list[str]]:
        query = {"filter": {"event": {"prefix": ["prefect.artifact."]}}, "limit": 50}
        answer = httpx.post(f"{prefect_server.api_url}/events/filter", json=query).json()
        found: dict[str, list[str]] = {}
        for event in answer["events"]:
            found.setdefault(event["resource"]["prefect.resource.id"], []).append(event["event"])
        return found

    def id_of(name: str) -> str:
        return f"prefect.artifact.{artifacts_of(report_key(name))[0].id}"

    # Events arrive in the order in which they were sent.
    wait_until(lambda: id_of("after quiet") in events(), what="the event of the last artifact")
    assert events()[id_of("quiet")] == ["prefect.artifact.created"]


@contextlib.contextmanager
def server_away() -> Iterator[None]:
    with temporary_settings(
        {"api.url": f"http://127.0.0.1:{free_port()}/api", "client.max_retries": 0}
    ):
        yield


@pytest.mark.usefixtures("prefect_server")
def test_a_server_that_is_away_is_reported_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("test.report")
    publisher = ReportPublisher("unreachable", logger)
    with caplog.at_level(logging.INFO, logger="test.report"):
        with server_away():
            assert not publisher.publish(Report("lost", ""))
            assert not publisher.publish(Report("lost", ""))
        assert len(caplog.records) == 1
        assert caplog.records[0].levelname == "WARNING"
        assert "study-unreachable" in caplog.text
        assert publisher.publish(Report("back", ""))
        assert "up to date again" in caplog.records[1].getMessage()
    assert [a.data for a in artifacts_of("study-unreachable")] == ["back"]


@pytest.mark.usefixtures("prefect_server")
def test_the_thread_publishes_at_once_and_at_the_end_in_the_flow_s_run() -> None:
    study = study_of([1.0])
    state = {"now": "running"}

    def body() -> None:
        publisher = ReportPublisher("background")
        with ReportThread(lambda: status_of(study, state=state["now"]), publisher):
            wait_until(lambda: artifacts_of("study-background"), what="the first report")
            state["now"] = "completed"

    _, flow_run_id = in_a_flow(body)
    (artifact,) = artifacts_of("study-background")
    assert artifact.flow_run_id == flow_run_id
    assert "**completed**" in str(artifact.data)
    assert "data:image/png" in str(artifact.data)


class Collector:
    """Keeps the reports that it is given, and when."""

    def __init__(self, accept: bool = True) -> None:
        self.reports: list[Report] = []
        self.times: list[float] = []
        self.accept = accept

    def publish(self, report: Report) -> bool:
        self.reports.append(report)
        self.times.append(time.monotonic())
        return self.accept


def test_the_thread_updates_while_the_study_runs_and_only_when_there_is_news() -> None:
    study = study_of([1.0])
    collector = Collector()
    looks = []

    def status() -> StudyStatus:
        looks.append(threading.current_thread().name)
        return status_of(study)

    with ReportThread(status, collector, interval=0.01, share=1.0):
        wait_until(lambda: len(looks) > 5, what="some looks at the study")
        published = len(collector.reports)
        assert published <= 2  # the first one, and perhaps one more that has pictures
        study.tell(study.ask(), 0.5)
        wait_until(lambda: len(collector.reports) > published, what="the news")
    assert collector.reports[-1].markdown.startswith("# Best value 0.5")
    assert set(looks) == {"prefect-optuna-report"}


def test_while_a_study_runs_it_is_drawn_only_where_the_share_of_the_time_allows_it() -> None:
    collector = Collector()
    counter = iter(range(1_000_000))

    def status() -> StudyStatus:
        return status_of(study_of([1.0, 2.0]), notes=(str(next(counter)),))

    with ReportThread(status, collector, interval=0.0, share=1e-9):
        wait_until(lambda: len(collector.reports) >= 3, what="some reports")
    assert not any("data:image/png" in report.markdown for report in collector.reports[:-1])
    assert "data:image/png" in collector.reports[-1].markdown


def test_the_last_words_do_not_wait_for_pictures_that_are_being_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing, go_on = threading.Event(), threading.Event()

    def draw_slowly(status: StudyStatus, *, seconds: float) -> Gallery:
        drawing.set()
        assert go_on.wait(20)
        return Gallery()

    monkeypatch.setattr("prefect_optuna.flows.report.draw_gallery", draw_slowly)
    monkeypatch.setattr("prefect_optuna.flows.report._LAST_REPORT_SECONDS", 1.0)
    collector, state = Collector(), {"now": "running"}

    def status() -> StudyStatus:
        return status_of(study_of([1.0]), state=state["now"])

    with ReportThread(status, collector, interval=0.01, share=1.0) as thread:
        assert drawing.wait(20)
        state["now"] = "completed"
    assert "**completed**" in collector.reports[-1].markdown
    go_on.set()  # and what it draws is of the end
    assert thread._thread is not None
    thread._thread.join(20)
    assert "**completed**" in collector.reports[-1].markdown


def test_the_last_words_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_optuna.flows.report._LAST_REPORT_SECONDS", 1.0)
    collector, go_on, state = Collector(), threading.Event(), {"now": "running"}

    def status() -> StudyStatus:
        if state["now"] != "running":
            assert go_on.wait(20)  # the best trial's picture is being drawn
        return status_of(study_of([1.0]), state=state["now"])

    def words() -> StudyStatus:
        return status_of(study_of([1.0]), state=state["now"], best_figure=None)

    with ReportThread(status, collector, words=words) as thread:
        wait_until(lambda: bool(collector.reports), what="the first report")
        state["now"] = "completed"
    assert "**completed**" in collector.reports[-1].markdown
    assert len(collector.reports) == 2
    go_on.set()
    assert thread._thread is not None
    thread._thread.join(20)
    assert len(collector.reports) == 3


def test_a_share_of_the_time_is_kept() -> None:
    share = TimeShare(share=0.25, estimate=0.0)
    since = time.monotonic()
    end = time.thread_time() + 0.05
    with share.spend():
        while time.thread_time() < end:
            pass
    wait_until(share.affords, what="time enough")
    # It cost 0.05 s and would again: together a quarter of 0.4 s.
    assert time.monotonic() - since > 0.39


def test_a_report_that_was_not_taken_is_sent_again() -> None:
    collector = Collector(accept=False)
    with ReportThread(lambda: status_of(study_of([1.0])), collector, interval=0.01, share=1.0):
        wait_until(lambda: len(collector.reports) >= 3, what="the same report again")


def test_a_report_that_cannot_be_written_stops_nothing_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failures = []

    def status() -> StudyStatus:
        failures.append(1)
        raise RuntimeError("no storage")

    with ReportThread(status, Collector(), interval=0.01):
        wait_until(lambda: len(failures) > 3, what="some attempts")
    assert [r.getMessage() for r in caplog.records] == ["Cannot write the study's report."]


def test_an_exception_in_the_study_passes_and_the_last_report_is_still_written() -> None:
    collector = Collector()
    state = {"now": "running"}

    def fail() -> None:
        state["now"] = "failed"
        raise RuntimeError("the model")

    with (
        pytest.raises(RuntimeError, match="the model"),
        ReportThread(lambda: status_of(study_of([1.0]), state=state["now"]), collector),
    ):
        fail()
    assert "**failed**" in collector.reports[-1].markdown
