"""Studies of others, with names that would be markup, commands of a terminal, or another line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, example, given, settings
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from prefect.settings import PREFECT_API_URL, temporary_settings
from texts_under_test import HOSTILE, TEXTS, inline_kinds, unseen

from prefect_optuna.blocks import as_study_storage
from prefect_optuna.deployments.cli import main
from prefect_optuna.flows.reevaluate_flow import render_reevaluation
from prefect_optuna.flows.report import StudyStatus, render_report
from prefect_optuna.flows.report_page import render_page
from prefect_optuna.tasks.archive.comparison import StudyDiff
from prefect_optuna.tasks.archive.record.verification import SignatureCheck
from prefect_optuna.tasks.reevaluation.verdicts import ReevaluatedTrial, Reevaluation

OURS = {"heading", "paragraph", "inline", "text", "text_special", "strong", "code_inline"}
OURS |= {
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "softbreak",
    "bullet_list",
    "list_item",
    "fence",
}
any_text: Callable[[Any], Any] = lambda test: settings(  # noqa: E731 - several decorators in one
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50
)(given(text=TEXTS)(example(text=HOSTILE)(test)))


def kinds(markdown: str) -> set[str]:
    return {kind.removesuffix("_open").removesuffix("_close") for kind in inline_kinds(markdown)}


def hostile_trials(text: str) -> list[optuna.trial.FrozenTrial]:
    name = text or "empty"
    trials = [
        create_trial(
            state=state,
            value=number if state == TrialState.COMPLETE else None,
            params={name: text},
            distributions={name: CategoricalDistribution([text])},
            user_attrs={"error": text, "scope": {name: text}},
            constraints={name: 1.0},
        )
        for number, state in enumerate([TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL])
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    return trials


def reevaluation_of(text: str) -> Reevaluation:
    trial = ReevaluatedTrial(
        number=1,
        verdict="drifted",
        archived=1.0,
        values=[2.0, 3.0],
        constraints={text: 1.0},
        new_constraints=[{text: 2.0}, {text: 3.0}],
        difference=1.0,
        params={text: text},
        cause=text,
        message=text,
    )
    return Reevaluation(
        study_name=text, trials=[trial], repeats=2, rtol=0.0, atol=0.0, scope={text: text}
    )


def test_a_page_shows_any_folder_as_text() -> None:
    folder = "/data/\x1b[2J\x9b2J\u202egnp.exe\u200b"
    status = StudyStatus("none", ("minimize",), [], None, "interrupted", 0.0, folder, folder)
    page = render_page(status)
    assert r"/data/\x1b[2J" in page
    assert not unseen(page)


@pytest.mark.slow
@any_text
def test_a_report_has_no_markup_but_its_own(text: str) -> None:
    status = StudyStatus(
        text,
        ("minimize",),
        hostile_trials(text),
        None,
        "failed",
        3.0,
        text,
        text,
        notes=(text,),
        user_attrs={
            f"artifact:{text}": {"key": f") {text}"},
            "artifact:shown": {"key": "study-a--shown"},
        },
    )
    with temporary_settings({"ui_url": "http://lab:4200"}):
        said = render_report(status, pictures=False).markdown
    assert unseen(said) == set()
    ours = re.compile(
        r"\[(Each run, with its report|`shown`)\]\(http://lab:4200/artifacts/key/[a-z0-9-]+\)"
    )
    said, links = ours.subn("", said)
    assert links == 2
    assert kinds(said) <= OURS


@pytest.mark.slow
@any_text
def test_the_page_of_a_reevaluation_has_no_markup_but_its_own(text: str) -> None:
    page = render_reevaluation(result := reevaluation_of(text), [result, result])
    page, pictures = re.subn(r"!\[[\w ,]+\]\(data:image/png;base64,[\w+/=]+\)", "", page)
    assert pictures <= 1  # the drift
    assert unseen(page) == set()
    assert kinds(page) <= OURS


@any_text
def test_what_is_printed_in_lines_has_no_line_of_somebody_else(text: str) -> None:
    result = reevaluation_of(text)
    assert len(str(result).split("\n")) == 2
    problems = SignatureCheck(keys=("k",), configured=True, problems=(text, text))
    assert len(str(problems).split("\n")) == 3
    difference = StudyDiff(names=(text, text), context={text: (text, text)})
    assert len(str(difference).split("\n")) == 3
    for shown in (str(result), str(problems), str(difference)):
        assert unseen(shown) == set()


@pytest.mark.parametrize("command", ["studies", "show", "trials"])
def test_the_command_line_shows_text_as_text(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    study = as_study_storage().create_study(HOSTILE)
    study.add_trials(hostile_trials(HOSTILE))
    with temporary_settings({PREFECT_API_URL: None}):
        assert main([command, *([HOSTILE] if command != "studies" else [])]) == 0
        shown = capsys.readouterr()
        assert main([command, "--json", *([HOSTILE] if command != "studies" else [])]) == 0
        document = capsys.readouterr()
    assert "<img src=x" in shown.out
    for text in (shown.out, shown.err, document.out, document.err):
        assert unseen(text) == set()
