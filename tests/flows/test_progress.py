"""The terminal: one line that tells how far a study is, and a table of its best trials."""

from __future__ import annotations

import io
import logging
import re
import threading
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from prefect.logging import get_logger
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

from prefect_optuna.flows.wording import StudyProgress, best_trials_table


def terminal(width: int = 120) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue())


def last_line(console: Console) -> str:
    return re.split(r"[\r\n]+", text_of(console).rstrip())[-1]


def study_of(
    values: Sequence[Any], directions: Sequence[str] = ("minimize",), params: Sequence[str] = ("x",)
) -> optuna.Study:
    study = optuna.create_study(directions=list(directions))
    space = {name: optuna.distributions.FloatDistribution(0, 1) for name in params}
    for value in values:
        trial = study.ask(space)
        if isinstance(value, TrialState):
            study.tell(trial, state=value)
        else:
            study.tell(trial, value)
    return study


MIXED = [3.0, 0.5, TrialState.PRUNED, TrialState.FAIL, 2.0]


def shown(values: Sequence[Any], *, total: int | None = 10, width: int = 120) -> str:
    console = terminal(width)
    with StudyProgress(total, console=console) as progress:
        for trial in study_of(values).trials:
            progress.update(trial)
    return last_line(console)


def test_the_line_tells_done_states_and_best_value() -> None:
    line = shown(MIXED)
    assert "5/10 trials" in line
    assert "3 complete 1 pruned 1 failed" in line
    assert "best 0.5" in line
    assert "left" in line


def test_no_best_value_is_shown_before_there_is_one() -> None:
    assert "best" not in shown([TrialState.FAIL])


def test_states_that_no_trial_is_in_are_left_out() -> None:
    assert "pruned" not in shown([1.0, TrialState.FAIL])


def test_without_a_total_the_line_counts() -> None:
    line = shown([1.0, 2.0], total=None)
    assert "2 trials" in line
    assert "left" not in line


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_the_line_is_one_line_at_any_width(width: int) -> None:
    console = terminal(width)
    with StudyProgress(1000, console=console) as progress:
        for trial in study_of(MIXED).trials:
            progress.update(trial)
    assert "5/1000" in text_of(console)
    assert all(len(line) <= width for line in re.split(r"[\r\n]+", text_of(console)))
    # No second line: the cursor is never moved up.
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[1A" not in console.file.getvalue()


def test_several_directions_count_the_front() -> None:
    console = terminal()
    directions = ("minimize", "maximize")
    with StudyProgress(4, directions, console=console) as progress:
        for trial in study_of([[1.0, 1.0], [2.0, 2.0], [3.0, 0.5]], directions).trials:
            progress.update(trial)
    assert "2 Pareto-best" in last_line(console)


def test_maximizing_shows_the_largest_value() -> None:
    console = terminal()
    with StudyProgress(3, ("maximize",), console=console) as progress:
        for trial in study_of([1.0, 7.0, 3.0], ["maximize"]).trials:
            progress.update(trial)
    assert "best 7" in last_line(console)


def test_a_study_that_goes_on_starts_with_the_trials_it_has() -> None:
    console = terminal()
    with StudyProgress(10, trials=study_of(MIXED).trials, console=console):
        pass
    assert "5/10" in last_line(console)
    assert "best 0.5" in last_line(console)


def test_running_and_lost_trials_do_not_count() -> None:
    study = study_of([1.0, TrialState.FAIL])
    study.ask()
    trials = study.get_trials()
    trials[1].system_attrs = {"prefect_optuna:lost": {"session": "s", "why": "gone"}}
    console = terminal()
    with StudyProgress(10, console=console) as progress:
        for trial in trials:
            progress.update(trial)
    assert "1/10" in last_line(console)
    assert "failed" not in last_line(console)


def test_nothing_is_shown_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO(), width=80)
    with StudyProgress(3, console=console) as progress:
        for trial in study_of([1.0]).trials:
            progress.update(trial)
    assert not progress.enabled
    assert text_of(console) == ""


def test_it_can_be_switched_off_in_a_terminal() -> None:
    console = terminal()
    with StudyProgress(3, console=console, enabled=False) as progress:
        progress.update(study_of([1.0]).trials[0])
    assert text_of(console) == ""


def test_trials_may_end_in_several_threads() -> None:
    trials = study_of([float(i) for i in range(40)]).trials
    console = terminal()
    with StudyProgress(40, console=console) as progress:
        threads = [
            threading.Thread(target=lambda part=part: [progress.update(t) for t in part])
            for part in (trials[:10], trials[10:20], trials[20:30], trials[30:])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert "40/40" in last_line(console)
    assert "best 0" in last_line(console)


def test_lines_of_prefect_s_log_pass_above_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    handler = PrefectConsoleHandler(stream=stream)
    logger = logging.getLogger("prefect")
    monkeypatch.setattr(logger, "handlers", [handler])
    with StudyProgress(3) as progress:
        progress.update(study_of([1.0]).trials[0])
        get_logger("prefect").warning("something happened")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert "something happened" in lines
    assert "1/3" in lines[-1]


def table_text(table: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return text_of(console)


def test_the_table_has_the_best_trials_best_first() -> None:
    study = study_of([float(v) for v in range(9)], ["maximize"])
    text = table_text(best_trials_table(study.trials, ["maximize"], k=3))
    numbers = re.findall(r"^ *(\d+) ", text, re.MULTILINE)
    assert numbers == ["8", "7", "6"]


def test_the_table_of_an_empty_study_is_empty() -> None:
    assert best_trials_table([]).row_count == 0


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_numbers_in_the_table_are_never_cut(width: int) -> None:
    names = [f"parameter_{i}" for i in range(30)]
    study = study_of([0.123456789, 12345.6789], params=names)
    text = table_text(best_trials_table(study.trials, width=width), width)
    assert "0.12346" in text
    assert "12346" in text
    assert "…" not in text
    assert re.search(r"\d+ more parameters", text)
    assert max(map(len, text.splitlines())) <= width


def test_names_that_look_like_markup_are_text() -> None:
    study = optuna.create_study()
    trial = study.ask({"[red]a": optuna.distributions.CategoricalDistribution(["[/b]\n[x"])})
    study.tell(trial, 1.0)
    text = table_text(best_trials_table(study.trials))
    assert "[red]a" in text
    assert "[/b] [x" in text


def test_the_table_of_several_directions_says_how_many_there_are() -> None:
    directions = ["minimize", "maximize"]
    study = study_of([[float(v), float(v)] for v in range(9)], directions)
    text = table_text(best_trials_table(study.trials, directions, k=2))
    assert text.startswith("9 Pareto-best trials, the first 2")
    assert "value 0" in text
    assert "value 1" in text
